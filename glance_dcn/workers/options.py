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

"""Options of workers, in group ``[glance_dcn]``."""

from __future__ import annotations

from oslo_config import cfg

GROUP = 'glance_dcn'

OPTS = [
    cfg.IntOpt('dcn_worker_timeout', default=600, min=10,
               help="""
Seconds for which a Glance worker may be silent, until a peer takes over.

Workers with the same default store tell each other every few seconds that they
live, in the pool of that store. When one has been silent for so long, a peer
takes its locks off images and undoes the imports and copies it was at. A
worker that is restarted earlier sees to them itself, and at once.

Best longer than it takes a host to be rebooted; the same for all workers of a
site.

Possible values:
    * seconds, 10 or more

Related options:
    * [DEFAULT] worker_self_reference_url

"""),
]


def register(conf: cfg.ConfigOpts) -> None:
    """Register the options with an oslo.config object."""
    conf.register_opts(OPTS, group=GROUP)
