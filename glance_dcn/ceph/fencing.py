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

"""Cutting off clients whose work is not to go on.

For one that is dead, so that nobody has to wait for it:

A cluster takes half a minute to find out that a client which had an image
open has died; until then nobody can remove the image. Who knows better, for
the process was on this host, has the client blocklisted: whatever of it is
still under way fails, and its watches end at once. ``profile rbd`` of the
monitors' capabilities allows it.
"""

import logging
import time

import rados
import rbd

LOG = logging.getLogger(__name__)

# Seconds for which a client stays cut off: no request of it lives longer.
_DURATION = 3600
# Seconds that the cluster has for letting its watches end.
_PATIENCE = 10
_PAUSE = 0.1


def forbid(client, addresses):
    """Cut off clients of this process that were given up.

    What they have in flight is carried out before anything that the client
    asks for from now on, or not at all.

    :param client: rados.Rados
    :param addresses: collection of their addresses
    :returns: set of those that could not be cut off
    """
    left = set()
    for address in addresses:
        try:
            client.blocklist_add(address, _DURATION)
        except rados.Error as exc:
            LOG.warning('Client %(address)s, which was given up, cannot be '
                        'cut off (%(error)s): what it has in flight may '
                        'still be written', {'address': address,
                                             'error': exc})
            left.add(address)
    return left


def cut_off(client, ioctx, image, instances):
    """Cut off dead clients that have an image open.

    :param client: rados.Rados
    :param ioctx: rados.Ioctx of the image's pool
    :param image: name of the RBD image
    :param instances: collection of the RADOS instance IDs of the dead
    :returns: whether none of them has it open any more
    :raises rbd.Error: if the image cannot be looked at
    """
    done = set()
    deadline = time.monotonic() + _PATIENCE
    while True:
        watching = _watching(ioctx, image, instances)
        if not watching:
            return True
        try:
            for address in watching - done:
                client.blocklist_add(address, _DURATION)
                LOG.info('Client %(address)s, which was writing RBD image '
                         '%(image)s, is dead: it was cut off', {
                             'address': address, 'image': image})
                done.add(address)
        except rados.Error as exc:
            LOG.warning('Dead client %(address)s cannot be cut off '
                        '(%(error)s): the cluster forgets it within half a '
                        'minute', {'address': address, 'error': exc})
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)


def _watching(ioctx, image, instances):
    """Return the addresses of those that have the image open."""
    try:
        with rbd.Image(ioctx, image, read_only=True) as opened:
            return {watcher['addr'] for watcher in opened.watchers_list()
                    if watcher['id'] in instances}
    except rbd.ImageNotFound:
        return set()
