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

"""What one process of Glance may hold of all clusters together."""

from __future__ import annotations

import logging
import sys

from oslo_config import cfg

from glance_dcn.ceph import client_cache

LOG = logging.getLogger(__name__)

GROUP = 'glance_dcn'

OPTS = [
    cfg.IntOpt('dcn_client_idle_timeout', default=60, min=1,
               help="""
Seconds without any use after which a connection to a site's cluster is closed.

A process connects to a cluster when it needs it, which costs a few round
trips. A connection has 13 threads, 2 MiB of memory, 4 open files and one for
each OSD that it has talked to.

Possible values:
    * Seconds, 1 or more

Related options:
    * dcn_max_clients

"""),
    cfg.IntOpt('dcn_max_clients', default=32, min=4,
               help="""
Connections to clusters that one Glance process should have at most.

Where there would be more, the one that was not used for longest is closed
first. One that is in use is never closed: where all are, there are more for
that time. A copy writes so many targets at a time, less two, at most.

Where the limits of the system (open files, threads, memory) have no room for
so many, fewer are used, and a warning says which limit is too low when Glance
starts.

Possible values:
    * Number of connections, 4 or more

Related options:
    * dcn_client_idle_timeout

"""),
]


def configure(conf: cfg.ConfigOpts, warn: bool) -> None:
    """Take over the options; compare them with the limits of the system.

    Called as each store is set up; the same options have an effect once.
    """
    conf.register_opts(OPTS, group=GROUP)
    options = conf[GROUP]
    shortages = client_cache.PROCESS.configure(
        options.dcn_client_idle_timeout, options.dcn_max_clients,
        process_count(conf))
    for shortage in shortages if warn else ():
        LOG.warning('%s', shortage)


def process_count(conf: cfg.ConfigOpts) -> int:
    """Return how many processes there are of this Glance."""
    # That of glance_dcn.runtime.periodic.
    uwsgi = sys.modules.get('uwsgi')
    if uwsgi is not None:
        return max(1, getattr(uwsgi, 'numproc', 1))
    try:
        # Of the standalone glance-api, which registers the option.
        return max(1, conf.workers or 1)
    except cfg.NoSuchOptError:
        return 1
