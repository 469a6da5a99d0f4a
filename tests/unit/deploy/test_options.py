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


import importlib.metadata

from oslo_config import cfg
from oslotest import base

from glance_dcn.deploy import options

# What may stand in glance-api.conf.
_LISTS = ('glance.api', 'glance.cache', 'keystonemiddleware.auth_token',
          'oslo.concurrency', 'oslo.db', 'oslo.limit', 'oslo.log',
          'oslo.messaging', 'oslo.middleware', 'oslo.policy', 'oslo.reports',
          'castellan.config')


class TestReserved(base.BaseTestCase):

    def test_all_of_the_glance_that_is_here(self):
        lists = {point.name: point for point in
                 importlib.metadata.entry_points(group='oslo.config.opts')}
        for name in _LISTS:
            for group, known in lists[name].load()():
                group = getattr(group, 'name', group)
                if group not in (None, 'DEFAULT'):
                    self.assertIsNotNone(options.reserved_for(group), group)
                    continue
                for option in known:
                    self.assertIsNotNone(options.reserved_for(option.dest),
                                         option.dest)

    def test_all_of_oslo_config(self):
        for name in dir(cfg.ConfigOpts):
            if not name.startswith('_'):
                self.assertIsNotNone(options.reserved_for(name), name)

    def test_names_of_stores(self):
        for name in ('central', 'dcn0', 'default_backend', 'ceph', 'rbd',
                     'nfs', 'glance', 'az-1'):
            self.assertIsNone(options.reserved_for(name), name)
