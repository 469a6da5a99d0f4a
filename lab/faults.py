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

"""Faults of a site, caused for real, and taken back.

Every fault is one word of :data:`KINDS`; :func:`heal` takes back whatever was
caused, in one go. Nothing of a fault is kept by the lab: what a site suffers
from is seen by looking, so that a fault outlives whoever caused it.
"""

import contextlib
import json

import rados

from lab import ceph
from lab import process

# Of an OSD that has room, and of one that takes itself for full.
_ROOM, _FULL = .95, .0001
# Below it, somebody has set it.
_SET = .5
_PROBES = 32


def cause(cluster, kind):
    """Cause a fault at a site.

    :param cluster: :class:`lab.ceph.Cluster` of the site
    :param kind: one of :data:`KINDS`
    :raises process.LabError: if it cannot be caused
    """
    KINDS[kind](cluster)


def heal(cluster, timeout=60):
    """Bring a site back, whatever was caused there.

    :param cluster: :class:`lab.ceph.Cluster` of the site
    :param timeout: seconds until the cluster must serve I/O
    :raises process.LabError: if it does not
    """
    if cluster.link:
        cluster.link.heal()
    cluster.thaw()
    cluster.start(timeout)
    _wait_for_io(cluster, timeout)
    if full_ratio(cluster) < _SET:
        unfill(cluster)


def restart(cluster):
    """End the daemons in good order and start them again."""
    cluster.stop()
    cluster.start()


def cut(cluster):
    """Let no packet through to the site, nor from it.

    :raises process.LabError: if the cluster is behind no link
    """
    if not cluster.link:
        raise process.LabError(
            'the cluster of %s is behind no link that could be cut: bring '
            'the lab up with --wan' % cluster.name)
    cluster.link.cut()


def fill(cluster):
    """Have the OSD take itself for full, and wait until it refuses data."""
    _set_ratio(cluster, _FULL)
    _wait_until_full(cluster, True)


def unfill(cluster):
    """End :func:`fill`, and wait until data is taken again."""
    _set_ratio(cluster, _ROOM)
    _wait_until_full(cluster, False)


def full_ratio(cluster):
    """Return the share of an OSD's room that counts as full."""
    with cluster.connect() as client:
        state = json.loads(ceph.command(client, {'prefix': 'osd dump',
                                                 'format': 'json'}))
    return state['full_ratio']


#: The function that causes each kind of fault, given the cluster.
KINDS = {
    'kill': lambda cluster: cluster.kill(),
    'kill-mon': lambda cluster: cluster.kill(cluster.mon),
    'kill-osd': lambda cluster: cluster.kill(cluster.osd),
    'freeze': lambda cluster: cluster.freeze(),
    'freeze-mon': lambda cluster: cluster.freeze(cluster.mon),
    'freeze-osd': lambda cluster: cluster.freeze(cluster.osd),
    'restart': restart,
    'cut': cut,
    'fill': fill,
    'rebuild': lambda cluster: cluster.rebuild(),
}


def _set_ratio(cluster, ratio):
    """Set the ratios, which have to be in this order at every moment."""
    kinds = ['nearfull', 'backfillfull', 'full']
    with cluster.connect() as client:
        # Down from the smallest, up from the largest.
        for kind in kinds if ratio < full_ratio(cluster) else kinds[::-1]:
            ceph.command(client, {
                'prefix': 'osd set-%s-ratio' % kind,
                'ratio': ratio + kinds.index(kind) * .00001})


def _wait_for_io(cluster, timeout):
    """Wait until every placement group answers; it does so late."""
    with cluster.connect() as client, client.open_ioctx('images') as ioctx:
        client.conf_set('rados_osd_op_timeout', str(timeout))
        try:
            for number in range(_PROBES):
                with contextlib.suppress(rados.ObjectNotFound):
                    ioctx.stat(_probe(number))
        except rados.TimedOut as exc:
            raise process.LabError('cluster of %s does not serve I/O: %s'
                                   % (cluster.name, exc))


def _wait_until_full(cluster, full):
    with cluster.pool() as ioctx:
        # Or requests would wait for room instead of being refused.
        ioctx.set_osdmap_full_try()
        process.wait_for(
            'cluster of %s %s' % (cluster.name, 'full' if full else 'with '
                                  'room'),
            lambda: _refuses(ioctx) is full, 60)
        for number in range(_PROBES):
            with contextlib.suppress(rados.ObjectNotFound):
                ioctx.remove_object(_probe(number))


def _refuses(ioctx):
    """Return whether every placement group refuses to grow."""
    for number in range(_PROBES):
        try:
            ioctx.append(_probe(number), b'x')
        except rados.NoSpace:
            continue
        return False
    return True


def _probe(number):
    return 'glance-dcn-lab.probe.%d' % number
