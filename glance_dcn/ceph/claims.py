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

"""The right to begin or to remove the image of a name in a pool.

Between creating an RBD image and opening it for writing there is a moment in
which it looks like one whose writer died: it has no snapshot, and nobody
watches it. Whoever creates images, or removes half-written ones, therefore
has a claim on the name meanwhile: a lock in RADOS, held for moments, which
ends of itself when its holder dies. From then on it is the watch that tells
that the image is being written.

A lock that has been used stays known to its object, as an attribute. So there
is a fixed number of them, all on one object, and names that share a lock wait
for each other.
"""

import contextlib
import hashlib
import time
import uuid

import rados

from glance_dcn.ceph import omap

#: Name of the object that the locks are kept with.
OBJECT = 'glance_dcn.claims'

_LOCKS = 256
# Seconds after which the lock of a dead holder ends ...
_DURATION = 30
# ... and for which others wait for it, looking every now and then.
_PATIENCE = 40
_PAUSE = 0.05


class ClaimError(Exception):
    """A claim could not be had, or was lost.

    :ivar image: name of the RBD image
    :ivar errno: positive number of the cluster's error, if it was one
    """

    def __init__(self, image, reason, code=None):
        super().__init__('RBD image %s: %s' % (image, reason))
        self.image = image
        self.errno = code


class NotClaimed(ClaimError):
    """It could not be had: nothing was begun or removed."""


@contextlib.contextmanager
def claim(ioctx, image, duration=_DURATION, patience=_PATIENCE,
          must_last=True):
    """Have the only claim on an image's name while the block runs.

    :param ioctx: rados.Ioctx of the pool
    :param image: name of the RBD image
    :param duration: seconds after which the claim ends in any case
    :param patience: seconds to wait for another's
    :param must_last: whether it matters that it lasts until the block ends.
        A removal may take long; from its beginning on a watch protects it
    :raises NotClaimed: if it cannot be had
    :raises ClaimError: at the end of the block, if it was lost meanwhile: what
        was done in the block may then have been done by another too
    """
    lock = _lock(image)
    cookie = str(uuid.uuid4())
    _acquire(ioctx, image, lock, cookie, duration, patience)
    try:
        yield
    except BaseException:
        # What failed is what counts; a lock that stays ends of itself.
        with contextlib.suppress(rados.Error):
            ioctx.unlock(OBJECT, lock, cookie)
        raise
    try:
        ioctx.unlock(OBJECT, lock, cookie)
    except rados.Error as exc:
        if not must_last:
            return
        if isinstance(exc, rados.ObjectNotFound):
            raise ClaimError(
                image, 'to begin it took so long that somebody else may have '
                'begun it meanwhile; see that the cluster is well, and try '
                'again') from exc
        raise _failed(ClaimError, image, exc) from exc


def break_claim(ioctx, image, instances):
    """Take a claim away from a client that is dead, which would last.

    :param ioctx: rados.Ioctx of the pool
    :param image: name of the RBD image
    :param instances: collection of the RADOS instance IDs of the dead
    :raises rados.Error: if the cluster refuses
    """
    found = omap.holder(ioctx, OBJECT, _lock(image))
    if found and found[0] in instances:
        omap.break_lock(ioctx, OBJECT, _lock(image), found[1])


def _lock(image):
    return 'claim.%d' % (hashlib.sha256(image.encode()).digest()[0] % _LOCKS)


def _acquire(ioctx, image, lock, cookie, duration, patience):
    deadline = time.monotonic() + patience
    while True:
        try:
            ioctx.lock_exclusive(OBJECT, lock, cookie, 'for %s' % image,
                                 duration)
            return
        except rados.ObjectBusy as exc:
            if time.monotonic() > deadline:
                raise NotClaimed(
                    image, 'for %d s others have been beginning or removing '
                    'it, or an image that shares its lock; see that the '
                    'cluster is well, and try again' % patience) from exc
        except rados.Error as exc:
            raise _failed(NotClaimed, image, exc) from exc
        time.sleep(_PAUSE)


def _failed(kind, image, exc):
    return kind(image, 'the claim on it failed: %s' % exc,
                abs(getattr(exc, 'errno', None) or 0) or None)
