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

"""Options of the whole process, in group ``[glance_dcn]``."""

from oslo_config import cfg

GROUP = 'glance_dcn'

OPTS = [
    cfg.BoolOpt('direct_copy', default=True,
                help="""
Copy images between ``dcn`` stores straight from cluster to cluster.

The import method ``copy-image`` then stages nothing: the image is read once,
for all target stores, from the nearest of its stores, only its data is moved,
and every copy is verified. Targets of other store types, and images that lie
in other store types alone, are left to stock Glance.

Possible values:
    * True
    * False: leave all to stock Glance, which stages the whole image

Related options:
    * transfer_memory

"""),
    cfg.IntOpt('transfer_memory', default=128, min=8,
               help="""
MiB of image data that one transfer holds in memory at most.

A slow target holds back the others of the same transfer by no more than
this.

Possible values:
    * MiB, 8 or more

"""),
]


def register(conf):
    """Register the options with an oslo.config object."""
    conf.register_opts(OPTS, group=GROUP)
