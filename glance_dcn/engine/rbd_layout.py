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

"""Header and data objects of an RBD image, as far as librbd is not trusted.

The owner of a cluster can write anything into its headers at any time, and
librbd, which runs in this process, believes it: it divides by what it finds,
and takes a file or URL that a migration names, as seen by this host, for the
parent of the image, which it copies up into each object that is written in
part. Metadata in a header turn on a cache as large as they say.

So the header of an image is checked once the image is open (what librbd does
to open it comes before), and data goes where the header said then, without
librbd. See "Data layout" in the documentation of RBD for the names of objects.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import errno
import itertools
import struct
import typing

import rados
import rbd

from glance_dcn.runtime import native

# Of objects, as powers of two: those that "rbd create" takes.
_ORDERS = range(12, 26)
# Stripes that an object set may have, and bytes of an image.
_STRIPES = 1 << 12
# Bytes of a stripe at least.
_LEAST_UNIT = 1 << 12
_LARGEST = 1 << 60


class Unsafe(rbd.InvalidArgument):
    """The header says what librbd cannot bear."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, errno=errno.EINVAL)
        self.reason = reason


def check(image: rbd.Image) -> None:
    """Check the header of an image that was opened, without a round trip.

    :raises Unsafe: if it is not one to work with
    """
    if image.features() & rbd.RBD_FEATURE_MIGRATING:
        raise Unsafe('The image is being migrated: execute or abort that (rbd '
                     'migration), and try again.')
    stat = image.stat()
    if (stat['order'] not in _ORDERS or stat['obj_size'] != 1 << stat['order']
            or stat['size'] > _LARGEST
            or not 0 < image.stripe_count() <= _STRIPES
            or not _LEAST_UNIT <= image.stripe_unit() <= stat['obj_size']
            or stat['obj_size'] % image.stripe_unit()):
        raise Unsafe(
            'The header of the image is damaged (objects of 2^%d bytes, %d '
            'stripes of %d bytes, %d bytes): see who writes to the cluster.'
            % (stat['order'], image.stripe_count(), image.stripe_unit(),
               stat['size']))


class Facts(typing.NamedTuple):
    """What must not change while an image is written.

    :ivar size: bytes
    """

    size: int
    snapshots: tuple[str, ...]
    features: int
    prefix: str
    data_pool: int
    order: int
    stripe_unit: int
    stripe_count: int


def facts(image: rbd.Image) -> Facts:
    """Return the facts of an image, as its client knows them.

    :raises rbd.Error: if that cannot be told
    """
    stat = image.stat()
    return Facts(
        stat['size'], tuple(snap['name'] for snap in image.list_snaps()),
        image.features(), image.block_name_prefix(), image.data_pool_id(),
        stat['order'], image.stripe_unit(), image.stripe_count())


def check_unchanged(image: rbd.Image, before: Facts) -> None:
    """Check that the header of an image has not changed.

    :raises Unsafe: if it has
    :raises rbd.Error: if that cannot be told
    """
    check(image)
    now = facts(image)
    changed = [name for name, one, other in zip(Facts._fields, before, now)
               if one != other]
    if changed:
        raise Unsafe('The header of the image was changed while it was '
                     'written (%s): see who writes to the cluster.'
                     % ', '.join(changed))


def has_parent(image: rbd.Image) -> bool:
    """Return whether an image is a clone.

    :raises rbd.Error: if that cannot be told
    """
    try:
        image.parent_info()
    except rbd.ImageNotFound:
        return False
    return True


#: Features of images that librbd keeps up to date with each write: all those
#: that come with an exclusive lock.
LOCKED = (rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_OBJECT_MAP
          | rbd.RBD_FEATURE_FAST_DIFF | rbd.RBD_FEATURE_JOURNALING)

#: What writing to the objects raises.
Error = rados.Error


class DataObjects:
    """The objects that keep the data of an image.

    :param ioctx: of the image's pool
    :param image: one without snapshots, which no other client reads yet
    :param open_pool: opens a pool by its ID; for those that keep the data of
        images in another pool
    :raises Unsafe: if it is not one to be written to this way
    :raises rbd.Error, Error: if its header cannot be told, or the pool cannot
        be opened
    """

    def __init__(self, ioctx: rados.Ioctx, image: rbd.Image,
                 open_pool: Callable[[int], rados.Ioctx] | None = None
                 ) -> None:
        if (image.features() & LOCKED or any(image.list_snaps())
                or image.stripe_count() != 1):
            raise Unsafe(
                'The image has snapshots, stripes, or a feature (exclusive-'
                'lock, object-map, fast-diff, journaling) that it was not '
                'created with: see who writes to the cluster.')
        pool = image.data_pool_id()
        self._image_ioctx = ioctx
        self._ioctx = (
            open_pool(pool) if open_pool and pool != ioctx.get_pool_id()
            else ioctx.dup())
        if pool != self._ioctx.get_pool_id():
            raise Unsafe('The image keeps its data in pool %d, which was not '
                         'opened.' % pool)
        self._ioctx.set_namespace(ioctx.get_namespace())
        # Answers come in threads of librados, which must not meet a lock of
        # eventlet's (see glance_dcn.runtime.native).
        self._ioctx.lock = native.lock()
        # As librbd does: what a full pool refuses is told at once.
        self._ioctx.set_osdmap_full_try()
        self._prefix = image.block_name_prefix()
        self._object_size = image.stat()['obj_size']
        #: Bytes below which all is that was written.
        self.end = image.size()

    def cut(self, image: rbd.Image, size: int) -> None:
        """Make an image smaller; nothing was written beyond its new size.

        librbd would discard a part of the last object, and copy it up before
        from what the header says is the parent.

        :param size: bytes
        :raises Error: if the cluster refuses
        """
        name = 'rbd_header.' + image.id()
        # set_size of cls_rbd takes the size as Ceph encodes it.
        self._image_ioctx.execute(name, 'rbd', 'set_size',
                                  struct.pack('<Q', size))
        # An empty message is what tells clients of all releases that a header
        # has changed: the open image among them (ImageWatcher of librbd).
        self._image_ioctx.notify(name)

    def write(self, offset: int, data: bytes,
              done: Callable[[int], object]) -> None:
        """Write data, which is durable when that is answered.

        :param offset: bytes
        :param done: called with 0 or a negative error number, in a thread of
            librados
        :raises Error: if it cannot be sent; what was sent before may be
            written
        """
        self.end = max(self.end, offset + len(data))
        parts = list(self._parts(offset, len(data)))
        if not parts:
            done(0)
            return
        answered = itertools.count(1)
        codes: list[int] = []

        def complete(completion: rados.Completion) -> None:
            codes.append(completion.get_return_value())
            # One step of the interpreter: threads take turns around it.
            if next(answered) == len(parts):
                done(min(codes))
        view = memoryview(data)
        for name, start, at, length in parts:
            part = data if len(parts) == 1 else bytes(view[at:at + length])
            if length == self._object_size:
                self._ioctx.aio_write_full(name, part, complete)
            else:
                self._ioctx.aio_write(name, part, start, complete)

    def _parts(self, offset: int, length: int
               ) -> Iterator[tuple[str, int, int, int]]:
        """Give name, offset in the object, offset in the data, and bytes."""
        at = 0
        while at < length:
            number, start = divmod(offset + at, self._object_size)
            some = min(self._object_size - start, length - at)
            yield '%s.%016x' % (self._prefix, number), start, at, some
            at += some

    def close(self) -> None:
        """Wait for what is in flight, and let go of the pool."""
        try:
            self._ioctx.aio_flush()
        finally:
            self._ioctx.close()
