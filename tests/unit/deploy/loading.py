# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""Loading configuration as Glance does."""

import glance.opts
import glance_store
from glance_store import driver
from oslo_config import cfg

from glance_dcn.store import options

RESERVED = {'os_glance_staging_store': 'file',
            'os_glance_tasks_store': 'file'}


def conf_of(*paths):
    """Return oslo.config with files, and the options of Glance and stores.

    :param paths: of the files, the last one counts
    """
    conf = cfg.ConfigOpts()
    for group, known in (*glance.opts.list_api_opts(),
                         *glance.opts.list_image_import_opts()):
        conf.register_opts(known, group=group)
    conf([], project='glance', prog='glance-api',
         default_config_files=[str(path) for path in paths])
    # It adds the reserved stores to what it is given.
    glance_store.register_store_opts(conf, reserved_stores=dict(RESERVED))
    for store, kind in conf.enabled_backends.items():
        # As a driver does when it is made.
        conf.register_opts(driver._MULTI_BACKEND_OPTS, group=store)
        if kind == 'dcn':
            conf.register_opts(options.STORE_OPTS, group=store)
    return conf
