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

"""Trying out what a user may do in a pool, and how fast the pool is.

A question about a right is a request that cannot succeed, whatever the rights
of the user: whether it fails for lack of them, or later, is the answer. What
is done is done to scratch images and objects whose names begin with
:data:`PREFIX`, which cannot be taken for an image of Glance's. They are
removed at once, or by the next trial if a process was killed before it could.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import datetime
import errno
import json
import logging
import math
import os
import socket
import time
import typing
import uuid

import rados
import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import omap

LOG = logging.getLogger(__name__)

#: What every function of this module raises when the cluster refuses.
Error = (rados.Error, rbd.Error)
#: What names of scratch images and objects begin with.
PREFIX = 'glance-dcn-scratch-'

# No client has it: the monitors refuse it as an address, after they have
# looked at the rights of who asks.
_NO_ADDRESS = 'glance-dcn/0'
_SIZE = 4 << 20
_BLOCK = b'glance-dcn' * 409 + b'glance'
# Seconds after which a scratch image is that of a process that was killed.
_OLD = 900
# Sizes of what is written and read to see how fast that goes; each follows
# while those before it took less than a second together.
_SAMPLES = (256 << 10, 1 << 20, 4 << 20, 4 << 20)
_ENOUGH = 1.0
_STATS = 5
# No client has it: the monitors refuse it as an address, after they have
# looked at the rights of who asks.
_NO_ADDRESS = 'glance-dcn/0'


class Refused(Exception):
    """The user may not do something.

    :ivar right: what, as a verb
    :ivar error: what the cluster said
    """

    def __init__(self, right: str, error: Exception) -> None:
        super().__init__('%s: %s' % (right, error))
        self.right = right
        self.error = error


def rights(ioctx: rados.Ioctx,
           going_on: Callable[[], bool] = lambda: True) -> list[str]:
    """Do to a scratch image all that Glance does to images.

    :returns: what was done, as verbs
    :raises Refused: at the first that the cluster refuses
    """
    name = '%s%s' % (PREFIX, uuid.uuid4().hex)
    done: list[str] = []

    def do(right: str, function: Callable[..., object],
           *args: typing.Any) -> None:
        if not going_on():
            raise InterruptedError('told to end')
        try:
            function(*args)
        except Error as exc:
            raise Refused(right, exc) from exc
        if right not in done:
            done.append(right)

    try:
        _try_image(ioctx, name, do)
        _try_clone(ioctx, name, do)
    finally:
        remove(ioctx, name)
    # It is told of nothing that could not be removed.
    do('remove', _expect_gone, ioctx, name)
    return done


def names(ioctx: rados.Ioctx) -> set[str]:
    """Return the names of the RBD images in a pool."""
    return set(rbd.RBD().list(ioctx))


def reading(ioctx: rados.Ioctx) -> list[str]:
    """Read images as a Glance does that may do nothing else.

    :returns: what was done, as verbs
    :raises Refused: at the first that the cluster refuses
    """
    try:
        names = rbd.RBD().list(ioctx)
    except Error as exc:
        raise Refused('list', exc) from exc
    for name in names:
        try:
            with rbd.Image(ioctx, name, read_only=True) as image:
                image.read(0, min(image.size(), len(_BLOCK)))
            return ['list', 'read']
        except rbd.ImageNotFound:
            # It was removed since, or its maker died while creating it.
            continue
        except Error as exc:
            raise Refused('read', exc) from exc
    return ['list']


def _try_image(ioctx: rados.Ioctx, name: str, do: Callable[..., None]) -> None:
    do('create', images.create, ioctx, name, _SIZE, 22,
       rbd.RBD_FEATURE_LAYERING)
    with contextlib.ExitStack() as stack:
        do('write', lambda: stack.enter_context(
            rbd.Image(ioctx, name)).write(_BLOCK, 0))
        do('read', _read, ioctx, name)
    with rbd.Image(ioctx, name) as image:
        do('snapshot', image.create_snap, images.SNAPSHOT)
        do('protect', image.protect_snap, images.SNAPSHOT)


def _read(ioctx: rados.Ioctx, name: str) -> None:
    with rbd.Image(ioctx, name, read_only=True) as image:
        if image.read(0, len(_BLOCK)) != _BLOCK:
            raise rbd.OSError('what is read is not what was written',
                              errno=errno.EIO)


def _try_clone(ioctx: rados.Ioctx, name: str, do: Callable[..., None]) -> None:
    clone = name + '-clone'
    do('clone', rbd.RBD().clone, ioctx, name, images.SNAPSHOT, ioctx, clone)
    identity = images.read_image_id(ioctx, clone)
    do('trash', rbd.RBD().trash_move, ioctx, clone)
    do('trash', rbd.RBD().trash_remove, ioctx, identity)
    with rbd.Image(ioctx, name) as image:
        do('unprotect', image.unprotect_snap, images.SNAPSHOT)
        do('unprotect', image.remove_snap, images.SNAPSHOT)
    do('remove', rbd.RBD().remove, ioctx, name)


def _expect_gone(ioctx: rados.Ioctx, name: str) -> None:
    with contextlib.suppress(rbd.ImageNotFound), \
            rbd.Image(ioctx, name, read_only=True):
        raise rbd.OSError('it is still there', errno=errno.EBUSY)


def remove(ioctx: rados.Ioctx, name: str) -> None:
    """Remove a scratch image and its clone; nothing is raised."""
    for entry in _trashed(ioctx):
        if entry.name.startswith(name):
            with contextlib.suppress(*Error):
                rbd.RBD().trash_remove(ioctx, entry.image_id, force=True)
    for each in (name + '-clone', name):
        try:
            images.remove(ioctx, each, images.read_image_id(ioctx, each),
                          images.SNAPSHOT)
        except rbd.ImageNotFound:
            pass
        except (images.InUse, *Error) as exc:
            LOG.debug('Scratch image %s cannot be removed: %s', each, exc)


def sweep(ioctx: rados.Ioctx) -> None:
    """Remove what earlier trials had to leave; nothing is raised."""
    with contextlib.suppress(*Error):
        for name in rbd.RBD().list(ioctx):
            if name.startswith(PREFIX) and _is_old(ioctx, name):
                remove(ioctx, name.removesuffix('-clone'))
        now = _now()
        for entry in _trashed(ioctx):
            if (entry.name.startswith(PREFIX) and (
                    now - entry.deleted_at).total_seconds() > _OLD):
                rbd.RBD().trash_remove(ioctx, entry.image_id, force=True)


def _trashed(ioctx: rados.Ioctx) -> list[images.TrashEntry]:
    try:
        return list(images.trash_entries(ioctx))
    except Error:
        return []


def _now() -> datetime.datetime:
    """Return the time in UTC, naive as librbd gives it."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


def _is_old(ioctx: rados.Ioctx, name: str) -> bool:
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            age = _now() - image.create_timestamp()
            return age.total_seconds() > _OLD
    except rbd.ImageNotFound:
        # One whose maker died while creating it cannot be opened.
        return True


def may_write(ioctx: rados.Ioctx, timeout: float = omap.TIMEOUT) -> bool:
    """Return whether the user may write in the namespace of an Ioctx.

    Like :func:`may_read` and :func:`may_blocklist` it changes nothing: it
    asks for what cannot succeed, whatever the rights of the user. Whether that
    fails for lack of them, or later, is the answer.
    """
    return omap.may_write(ioctx, _absent(), timeout)


def may_read(ioctx: rados.Ioctx) -> bool:
    """Return whether the user may read in the namespace of an Ioctx."""
    try:
        ioctx.stat(_absent())
    except rados.ObjectNotFound:
        pass
    except rados.Error as exc:
        if errors.is_denied(exc):
            return False
        raise
    return True


def may_blocklist(client: rados.Rados) -> bool:
    """Return whether the user may cut off other clients of the cluster."""
    code, _output, status = client.mon_command(json.dumps({
        'prefix': 'osd blocklist', 'blocklistop': 'add',
        'addr': _NO_ADDRESS}), b'')
    if -code in errors.DENIED:
        return False
    if code in (0, -errno.EINVAL):
        return True
    raise rados.OSError('osd blocklist: %s' % status, errno=-code)


def _absent() -> str:
    return 'glance_dcn.permission.%s' % uuid.uuid4()


def round_trip(ioctx: rados.Ioctx) -> float:
    """Return the seconds that the smallest question to an OSD takes."""
    best = math.inf
    for _attempt in range(_STATS):
        began = time.monotonic()
        with contextlib.suppress(rados.ObjectNotFound):
            ioctx.stat(PREFIX + 'none')
        best = min(best, time.monotonic() - began)
    return best


def throughput(ioctx: rados.Ioctx) -> tuple[float, float]:
    """Return the bytes per second of writing and reading, one at a time.

    It takes a few seconds at most where the pool writes 256 KiB in one.
    """
    name = '%s%s' % (PREFIX, uuid.uuid4().hex)
    try:
        written = _rate(lambda data: ioctx.write_full(name, data))
        length, _mtime = ioctx.stat(name)
        read = _rate(lambda data: ioctx.read(name, min(len(data), length)),
                     length)
    finally:
        with contextlib.suppress(rados.Error):
            ioctx.remove_object(name)
    return written, read


def _rate(move: Callable[[bytes], object], most: int = _SAMPLES[-1]) -> float:
    best = spent = 0.0
    for size in _SAMPLES:
        size = min(size, most)
        data = os.urandom(size)
        began = time.monotonic()
        move(data)
        seconds = max(time.monotonic() - began, 1e-6)
        best = max(best, size / seconds)
        spent += seconds
        if spent > _ENOUGH:
            break
    return best


def room(client: rados.Rados) -> tuple[int, int] | tuple[None, None]:
    """Return the bytes that a cluster has and that are free.

    :returns: (None, None) of a cluster that does not count, as its managers
        are away
    """
    stats = client.get_cluster_stats()
    if not stats['kb']:
        return None, None
    return stats['kb'] << 10, stats['kb_avail'] << 10


def monitors(client: rados.Rados) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return name and addresses of each monitor of a cluster."""
    code, text, error = client.mon_command(
        json.dumps({'prefix': 'mon dump', 'format': 'json'}), b'')
    if code:
        raise rados.OSError('mon dump: %s' % error, errno=-code)
    found = []
    for entry in json.loads(text)['mons']:
        places = [place['addr'].rpartition(':') for place in
                  entry['public_addrs']['addrvec']]
        found.append((entry['name'], [
            (host.strip('[]'), int(port)) for host, _, port in places]))
    return found


def answers(host: str, port: int, timeout: float) -> str | None:
    """Return why nothing listens there (asked for some seconds), or None."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return None
