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

"""Blocklisting clients whose work must not continue.

For one that is dead, so that its image can be removed at once: a cluster
takes half a minute to find out that a client which had an image open has
died. For one that was retired, or that has not renewed its lease, so that
what it has in flight is not written after the image was removed. Whatever a
blocklisted client sends fails, and its watches end at once. ``profile rbd``
of the monitors' capabilities allows it.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
import logging
import time

import rados
import rbd


LOG = logging.getLogger(__name__)

# Seconds for which a client stays blocklisted. Its process may have been
# stopped with a virtual machine that is suspended over weeks: when it goes on,
# the request that it was about to send is to fail. An entry of the OSDs' map
# has some 50 bytes; Ceph's own default is an hour.
_DURATION = 90 * 24 * 3600
# Seconds that the cluster has for letting its watches end.
_PATIENCE = 10
_PAUSE = 0.1


def blocklist(client: rados.Rados, addresses: Iterable[str]) -> set[str]:
    """Blocklist clients by their addresses.

    What they have in flight is carried out before anything that this client
    asks for from now on, or not at all: librados waits for the map of OSDs
    that has the blocklist, and each OSD takes that map from the next request.

    :param addresses: as rados.Rados.get_addrs() returns them
    :returns: those that could not be blocklisted
    """
    left = set()
    for address in addresses:
        try:
            client.blocklist_add(address, _DURATION)
        except rados.Error as exc:
            LOG.warning('Client %(address)s, which was retired, cannot be '
                        'blocklisted (%(error)s): what it has in flight may '
                        'still be written', {'address': address,
                                             'error': exc})
            left.add(address)
    return left


def blocklist_watchers(client: rados.Rados, ioctx: rados.Ioctx, image: str,
                       instances: Collection[int]) -> bool:
    """Blocklist dead clients that have an image open.

    :param instances: RADOS instance IDs of the dead
    :returns: whether none of them has it open any more
    :raises rbd.Error: if the image cannot be opened
    """
    done: set[str] = set()
    deadline = time.monotonic() + _PATIENCE
    while True:
        watching = _watching(ioctx, image, instances)
        if not watching:
            return True
        left = blocklist(client, watching - done)
        if left:
            return False
        for address in watching - done:
            LOG.info('Client %(address)s, which was writing RBD image '
                     '%(image)s, is dead: it is blocklisted', {
                         'address': address, 'image': image})
        done |= watching
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)


def _watching(ioctx: rados.Ioctx, image: str,
              instances: Collection[int]) -> set[str]:
    """Return the addresses of those that have the image open."""
    try:
        with rbd.Image(ioctx, image, read_only=True) as opened:
            return {watcher['addr'] for watcher in opened.watchers_list()
                    if watcher['id'] in instances}
    except rbd.ImageNotFound:
        return set()
