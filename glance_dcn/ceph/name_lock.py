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

"""The exclusive right to create or to remove the image of a name in a pool.

Between creating an RBD image and opening it for writing there is a moment in
which it looks like one whose writer died: it has no snapshot, and no client
watches it. And librbd removes images by name: a client that was stopped at
that call would remove whatever has the name when it goes on. Each creation
and each removal is therefore made under a lock in RADOS::

    holder                            waiter
    ------                            ------
    lock "name.17" for <image>
    create or remove
    (every 8 s: write a new beat)     lock: busy, held by H, beat B
    ...                               30 s later: held by H, still beat B
    stopped                           blocklist the address of H
                                      break its lock, take it
    goes on: EBLOCKLISTED             create or remove

The lock does not expire. A holder that has not renewed it for half a minute
of the waiter's own monotonic clock is blocklisted before the lock is taken
from it: whatever that client had in flight fails, in whatever process, on
whatever host, and whichever features the image has. A mere expiry would let
both go on.

A lock that has been used stays known to its object, as an attribute. So there
is a fixed number of them, all on one object, and names that share a lock wait
for each other.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterator
import contextlib
import errno
import hashlib
import logging
import time
import uuid

import rados

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers


LOG = logging.getLogger(__name__)

#: Name of the object that the locks are kept with.
OBJECT = 'glance_dcn.names'
#: Kinds of locks: of a name, and of removals from one store, which are held at
#: several sites at a time.
NAME, REMOVAL = 'name', 'removal'

_LOCKS = 256
#: Seconds without a renewal after which the holder of a lock is blocklisted.
EXPIRY = 30
# Seconds between renewals.
_RENEWAL = 8
# Seconds to wait for a holder that renews its lock.
_PATIENCE = 40
# Seconds between two attempts.
_PAUSE = 0.05


class NameLockError(Exception):
    """A name lock could not be taken, or was lost.

    :ivar errno: positive number of the cluster's error, if it was one
    """

    def __init__(self, image: str, reason: str,
                 code: int | None = None) -> None:
        super().__init__('RBD image %s: %s' % (image, reason))
        self.image = image
        self.errno = code


class NotLocked(NameLockError):
    """The lock could not be taken: nothing was created or removed."""


@contextlib.contextmanager
def hold(client: rados.Rados, ioctx: rados.Ioctx, image: str,
         patience: float = _PATIENCE, expiry: float = EXPIRY,
         kind: str = NAME, pause: float = _PAUSE) -> Iterator[None]:
    """Hold the exclusive right to an image's name while the block runs.

    :param client: connected client of the pool's cluster, by which a dead
        holder is blocklisted
    :param ioctx: of the pool, opened by the client that the block works with:
        it is this one that is blocklisted if it stops renewing
    :param patience: seconds to wait for a holder that renews its lock
    :param expiry: seconds without a renewal after which a holder is believed
        dead
    :param kind: NAME or REMOVAL
    :param pause: seconds between two attempts to take it
    :raises NotLocked: if the lock cannot be taken
    :raises NameLockError: at the end of the block, if the lock was taken by
        another client meanwhile
    """
    held = _Held(ioctx, image, kind)
    try:
        _wait(client, held, patience, expiry, pause)
    except BaseException as exc:
        # The cluster may have locked it, and only the answer was lost: the
        # next one to wait for it would blocklist this client.
        with contextlib.suppress(rados.Error):
            held.unlock()
        if isinstance(exc, rados.Error):
            raise _failed(NotLocked, image, exc) from exc
        raise
    # With the end of it, or a renewal under way would lock it again after the
    # unlocking.
    renewals = process.get(schedulers.Scheduler).every(_RENEWAL, held.renew)
    try:
        yield
    except BaseException:
        renewals.stop()
        # What the block failed with is what counts.
        with contextlib.suppress(rados.Error):
            held.unlock()
        raise
    renewals.stop()
    held.release()


def break_lock(client: rados.Rados, ioctx: rados.Ioctx, image: str,
               instances: Collection[int]) -> None:
    """Take the lock of a name from a client that is believed dead.

    It is blocklisted first: its process may only have been stopped, at the
    very call that removes what has the name.

    :param instances: RADOS instance IDs of the clients that are believed
        dead; the lock of another is left alone
    :raises NotLocked: if it cannot be blocklisted; it keeps the lock
    :raises rados.Error: if the cluster refuses
    """
    found = omap.holder(ioctx, OBJECT, _lock(image))
    if found and found.instance in instances:
        _fence(client, image, found, 'is believed dead')
        omap.break_lock(ioctx, OBJECT, _lock(image), found)


def _fence(client: rados.Rados, image: str, holder: omap.Holder,
           why: str) -> None:
    """Blocklist the holder of a lock, or raise NotLocked."""
    if not holder.address or clients.blocklist(client, [holder.address]):
        raise NotLocked(
            image, 'its name lock is held by client %s, which %s and cannot '
            'be blocklisted; the user needs the monitor capability "profile '
            'rbd"' % (holder.address or 'of no known address', why),
            errno.EBUSY)
    LOG.warning('Client %(address)s, which was creating or removing RBD '
                'image %(image)s, %(why)s: it is blocklisted', {
                    'address': holder.address, 'image': image, 'why': why})


def _lock(image: str, kind: str = NAME) -> str:
    return '%s.%d' % (
        kind, hashlib.sha256(image.encode()).digest()[0] % _LOCKS)


class _Held:
    """One client's hold of a lock."""

    def __init__(self, ioctx: rados.Ioctx, image: str,
                 kind: str = NAME) -> None:
        self.ioctx = ioctx
        self.image = image
        self.lock = _lock(image, kind)
        self._cookie = str(uuid.uuid4())
        self._beat = 0

    def take(self, flags: int = omap.MAY_RENEW) -> None:
        """Take the lock, or renew it.

        :raises rados.ObjectBusy: if another client holds it
        :raises rados.ObjectNotFound: if it is to be renewed, and is
            not held
        :raises rados.Error: if the cluster refuses
        """
        self._beat += 1
        # The description is what changes with each renewal.
        self.ioctx.lock_exclusive(
            OBJECT, self.lock, self._cookie,
            'beat %d for %s' % (self._beat, self.image), None, flags)

    def renew(self) -> bool:
        """Renew the lock; return whether it may be held for longer.

        One that was taken away stays so, also if it is free again: the block
        is to end with an error.
        """
        try:
            self.take(omap.MUST_RENEW)
        except rados.Error as exc:
            LOG.debug('The name lock of image %(image)s was not renewed: '
                      '%(error)s', {'image': self.image, 'error': exc})
            return not isinstance(exc, (rados.ObjectBusy,
                                        rados.ObjectNotFound))
        return True

    def unlock(self) -> None:
        """Give the lock back.

        If that is not answered, it is asked for once more: left locked, the
        next client to wait for it would blocklist this one, which lives.
        """
        try:
            self.ioctx.unlock(OBJECT, self.lock, self._cookie)
        except rados.ObjectNotFound:
            raise
        except rados.Error as exc:
            LOG.info('The name lock of image %(image)s is unlocked once more, '
                     'as that was not answered: %(error)s', {
                         'image': self.image, 'error': exc})
            # The first request may have been done.
            with contextlib.suppress(rados.ObjectNotFound):
                self.ioctx.unlock(OBJECT, self.lock, self._cookie)

    def release(self) -> None:
        """Give the lock back at the end of a block.

        :raises NameLockError: if it was lost meanwhile
        """
        try:
            self.unlock()
        except rados.ObjectNotFound as exc:
            raise NameLockError(
                self.image, 'its name lock was taken by another client: this '
                'one did not renew it in time; see that the cluster is '
                'healthy, and try again', errno.ESHUTDOWN) from exc
        except rados.Error as exc:
            raise _failed(NameLockError, self.image, exc) from exc


def _wait(client: rados.Rados, held: _Held, patience: float,
          expiry: float, pause: float) -> None:
    """Take a lock when it is free, or from a holder that is dead.

    :raises NotLocked: if it cannot be taken
    """
    # A dead holder is to be found dead before patience ends.
    deadline = time.monotonic() + max(patience, expiry + 10)
    seen: omap.Holder | None = None
    since = 0.0
    while True:
        try:
            held.take()
            return
        except rados.ObjectBusy as exc:
            if time.monotonic() > deadline:
                raise NotLocked(
                    held.image, 'for %d s other clients have been creating or '
                    'removing it, or an image that shares its lock; see that '
                    'the cluster is healthy, and try again'
                    % patience) from exc
        found = omap.holder(held.ioctx, OBJECT, held.lock)
        now = time.monotonic()
        if found is None or found != seen:
            seen, since = found, now
        elif now - since >= expiry:
            _fence(client, held.image, found,
                   'has not renewed its name lock for %d s' % expiry)
            omap.break_lock(held.ioctx, OBJECT, held.lock, found)
            seen = None
        native.sleep(pause)


def _failed(kind: type[NameLockError], image: str,
            exc: Exception) -> NameLockError:
    return kind(image, 'its name lock failed: %s' % exc,
                errors.code(exc) or None)
