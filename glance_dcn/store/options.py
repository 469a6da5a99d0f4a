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

"""Options of a ``dcn`` store, in the group named after the store.

They have the names of stock ``rbd``'s, so that a store is moved from ``rbd``
to ``dcn`` and back by changing one word in ``enabled_backends``; what stock
does not have begins with ``dcn_``.
"""

from oslo_config import cfg

STORE_OPTS = [
    cfg.IntOpt('rbd_store_chunk_size', default=8, min=1,
               help="""
Size of the RADOS objects an image is cut into, in MiB.

Possible values:
    * A power of two; other values are rounded down to one

"""),
    cfg.StrOpt('rbd_store_pool', default='images',
               help="""
Pool of the site's cluster in which images are stored.

Possible values:
    * Name of a pool that exists

"""),
    cfg.StrOpt('rbd_store_user',
               help="""
Cephx user to connect as, without ``client.``.

Possible values:
    * Name of a user whose keyring is named in section ``[client.<user>]`` of
      the conf file; it needs ``mon 'profile rbd'`` and ``osd 'profile rbd
      pool=<rbd_store_pool>'``
    * Not set: librados decides

Related options:
    * rbd_store_ceph_conf

"""),
    cfg.StrOpt('rbd_store_ceph_conf', default='',
               help="""
Path of the Ceph conf file of the site's cluster.

It must name ``fsid`` and ``mon_host``, and for ``rbd_store_user`` a
``keyring`` that the Glance process can read.

Possible values:
    * Path of a file
    * Empty: librados looks in its usual places, which fits one store at most

Related options:
    * rbd_store_user

"""),
    cfg.IntOpt('rados_connect_timeout', default=-1,
               help="""
Seconds to wait for the monitors of the site when connecting.

It bounds the connecting alone; requests to OSDs have ``dcn_io_timeout``.
(For stock ``rbd`` it bounds both, and its default is librados's 300 s.)

Possible values:
    * Seconds, 1 or more; 0: no limit
    * Negative: 5 seconds

Related options:
    * dcn_io_timeout

"""),
    cfg.BoolOpt('rbd_thin_provisioning', default=False,
                help="""
Kept for stock ``rbd``, should the store be moved back to it.

A ``dcn`` store never writes blocks of zeros, whatever this says: they are
left as holes, which read as zeros.

"""),
    cfg.IntOpt('dcn_io_timeout', default=60, min=0,
               help="""
Seconds one request to an OSD of the site may take before it has failed.

A request carries a few MiB at most, so that this is a limit on no progress
at all, not on a whole transfer, however slow.

Possible values:
    * Seconds
    * 0: wait without end

Related options:
    * rados_connect_timeout

"""),
]
