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
      the conf file; for its capabilities see the page "Trust and rights" of
      the guide
    * Not set: librados decides

Related options:
    * rbd_store_ceph_conf

"""),
    cfg.StrOpt('dcn_access', choices=('owner', 'read-write', 'read-only'),
               help="""
What the user of this Glance should be able to do at the site.

It changes nothing of what it can do, which the capabilities of the user
decide; ``glance-dcn check`` compares the two. While the site is away and has
not been asked yet, ``read-only`` refuses what would write there.

Possible values:
    * owner: everything in the pool, with the records of the site
    * read-write: read, write and remove images, and not reach the records
    * read-only: read images, and change nothing
    * Not set: owner for the default store, read-write for others

Related options:
    * rbd_store_user

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
    * Seconds, 1 to 14
    * 0, and more than 14: 14 seconds, so that nothing waits longer than 15
      seconds for a site that is gone
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
at all, not on a whole transfer, however slow. A site that is gone is not
waited for as long: after 3 seconds without an answer a probe asks it on a
connection of its own, and if that is not answered either the request has
failed, within 15 seconds.

Possible values:
    * Seconds
    * 0: wait without end, while the probe is answered

Related options:
    * rados_connect_timeout

"""),
    cfg.IntOpt('dcn_max_transfers', default=0, min=0, mutable=True,
               help="""
Transfers to and from the site that one Glance process runs at the same time.

Uploads, copies and downloads count. The others wait their turn, in order.
May be changed while Glance runs, in glance-api.conf or in the site's file in
``sites_dir``: processes take over a new value within 10 seconds.

Possible values:
    * Number of transfers
    * 0: no limit

Related options:
    * dcn_bandwidth_limit

"""),
    cfg.FloatOpt('dcn_bandwidth_limit', default=0, min=0, mutable=True,
                 help="""
MiB per second that one Glance process sends to the site at most, and reads
from it at most, with all transfers together.

Each direction has this limit. May be changed while Glance runs, in
glance-api.conf or in the site's file in ``sites_dir``: processes take over a
new value within 10 seconds, also for transfers that are running.

Possible values:
    * MiB per second
    * 0: no limit

Related options:
    * dcn_max_transfers

"""),
]

#: Those that stock ``rbd`` does not have.
DCN_STORE_OPTS = [opt for opt in STORE_OPTS if opt.name.startswith('dcn_')]

GROUP = 'glance_dcn'

#: Options of the whole process.
PROCESS_OPTS = [
    cfg.StrOpt('sites_dir',
               help="""
Folder of site files: stores that are added and taken away while Glance runs.

A file ``dcn7.conf`` in it, with one section ``[dcn7]`` that has the options
of a ``dcn`` store, becomes the store ``dcn7`` of all processes within 10
seconds; when the file is changed, so is the store. When it is taken away, the
store takes no more images, is shown as read-only, and serves what it holds
until it is empty. ``dcn7`` must not be in ``enabled_backends``, where at least
one store must be of type ``dcn``.

The folder and its files must belong to root or to the user that Glance runs
as, and must not be writable by others.

Possible values:
    * Path of a folder
    * Not set: the stores are those of ``enabled_backends``

"""),
    cfg.StrOpt('home_store',
               help="""
Identifier of the store that keeps the records.

Tasks that wait, the key of the deployment and what else must outlive a
process lie in the pool of one store of type ``dcn``, in the RADOS namespace
``glance-dcn``. A client that may write to that namespace can have images
removed from any site: give users of other sites no right to it. Set this only
if the default store is of another type, and there are several of type ``dcn``.

Possible values:
    * Identifier of a store of type ``dcn`` in ``enabled_backends``
    * Not set: the default store, or the only one of type ``dcn``

Related options:
    * ``default_backend`` in ``[glance_store]``

"""),
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
