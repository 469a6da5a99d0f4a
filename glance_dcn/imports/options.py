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

"""Options of imports and workers, in group ``[glance_dcn]``."""

from __future__ import annotations

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
    cfg.IntOpt('copy_targets', default=16, min=1, max=256,
               help="""
Stores to which one direct copy writes at the same time, at most.

A copy to more stores runs in waves of this many, each of which reads the
source once. It is fewer where the process has not enough threads, files or
memory left. A store that trickles is let go of by the others: it is written by
itself, beside the waves that follow, or after all of them.

Possible values:
    * 1 to 256

Related options:
    * transfer_memory

"""),
    cfg.IntOpt('transfer_memory', default=128, min=8,
               help="""
MiB of image data that one wave of a direct copy holds in memory at most.

Each store that was let go of by the others, because it trickles, takes 16 MiB
more. An upload, or an import into a store, holds 128 MiB at most.

Possible values:
    * MiB, 8 or more

Related options:
    * copy_targets

"""),
    cfg.IntOpt('conversion_max_virtual_size', default=1024, min=1,
               help="""
GiB that the disk inside an image may be large, if the import plugin
``dcn_image_conversion`` is to convert it.

A file of a few KiB can claim to be a disk of any size. One that is larger
than this is refused before anything is written.

Possible values:
    * GiB, 1 or more

Related options:
    * conversion_max_output_size
    * [DEFAULT] image_size_cap

"""),
    cfg.IntOpt('conversion_max_output_size', default=1024, min=1,
               help="""
GiB of the staging file system that one converted image may take.

Holes take nothing. What the image will take is measured before anything is
written, and compared with this and with the free space; a conversion that
passes it all the same is ended.

Possible values:
    * GiB, 1 or more

Related options:
    * conversion_max_virtual_size

"""),
    cfg.IntOpt('conversion_measure_timeout', default=600, min=1,
               help="""
Seconds that each ``qemu-img`` may take that reads the tables of an image
before it is converted, to see whether it is whole and how much staging space
it will take. It is limited to as many seconds of CPU time.

How long it takes grows with the virtual size: a VMDK of 2 TiB takes 10 s on an
idle machine.

Possible values:
    * seconds, 1 or more

Related options:
    * conversion_max_virtual_size

"""),
    cfg.IntOpt('conversion_memory_limit', default=2048, min=512,
               help="""
MiB of address space that ``qemu-img`` may use to convert an image.

Possible values:
    * MiB, 512 or more

"""),
    cfg.IntOpt('conversion_cpu_limit', default=3600, min=1,
               help="""
Seconds of CPU time that ``qemu-img`` may use to convert an image.

Possible values:
    * seconds, 1 or more

Related options:
    * conversion_timeout

"""),
    cfg.IntOpt('conversion_timeout', default=21600, min=1,
               help="""
Seconds that it may take ``qemu-img`` to convert an image.

Possible values:
    * seconds, 1 or more

Related options:
    * conversion_cpu_limit

"""),
    cfg.BoolOpt('resume_imports', default=True,
                help="""
Resume imports and copies that were interrupted when a worker ended.

With the import plugin ``dcn_distributed_staging``, the worker that is started
again resumes those whose staged data is complete, under the same task. An
import that is interrupted more than twice is rolled back: it may be what ends
the worker.

Possible values:
    * True
    * False: roll them all back, so that users can repeat them

"""),
    cfg.IntOpt('staging_orphan_age', default=3600, min=60,
               help="""
Seconds after which an orphaned staged file is removed.

The file of an image is an orphan if the image does not exist, or its data is
in its stores or not there at all, and no task has locked it. It must not have
changed for this time.

Possible values:
    * seconds, 60 or more

"""),
    cfg.IntOpt('dcn_worker_timeout', default=600, min=10,
               help="""
Seconds without a heartbeat of a Glance worker until a peer takes over.

Workers with the same default store write heartbeats every few seconds, in the
pool of that store. When there was none of a worker for so long, a peer takes
its locks off images and rolls its imports and copies back. A worker that is
restarted earlier recovers them itself, and at once.

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
