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

"""Options of staging and recovery, in group ``[glance_dcn]``."""

from __future__ import annotations

from oslo_config import cfg

GROUP = 'glance_dcn'

OPTS = [
    cfg.BoolOpt('resume_imports', default=True,
                help="""
Go on with imports and copies that were broken off when a worker ended.

With the import plugin ``dcn_distributed_staging``, the worker that is started
again begins those anew whose staged data is complete, under the same task. An
import that is broken off more than twice is undone: it may be what ends the
worker.

Possible values:
    * True
    * False: undo them all, so that users can repeat them

"""),
    cfg.IntOpt('staging_residue_age', default=3600, min=60,
               help="""
Seconds after which a staged file that nobody owns is removed.

Nobody owns the file of an image that does not exist, or of one whose data is
in its stores or not there at all, and that no task has locked. It must not
have changed for this time.

Possible values:
    * seconds, 60 or more

"""),
]


def register(conf: cfg.ConfigOpts) -> None:
    """Register the options with an oslo.config object."""
    conf.register_opts(OPTS, group=GROUP)
