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


"""An image in Ceph, through one open ``rbd.Image``.

A read of a whole object brings only the data that the object has: librbd
asks the OSD for a sparse read. So nothing finer than "which objects are
there" need be known beforehand, and with a valid object map that question
costs no request at all.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import os
import time
import typing
import weakref

import rbd

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import rbd_layout
from glance_dcn.runtime import native
from glance_dcn.runtime import process

if typing.TYPE_CHECKING:
    import rados

_T = typing.TypeVar('_T')

# Objects whose extents are asked for in one go. Few enough to begin reading
# soon; the next lot is asked for while these are read.
_LOT = 256
# With the object map it is a look into memory.
_MAPPED_LOT = 16 << 10
# Seconds for which the closing of an image that was written is waited for: a
# dozen round trips, or, without an answer, several times what one request
# may take.
_CLOSING = 5
# Seconds that requests in flight have at the end of the process.
_ANSWER_TIMEOUT = 10
_PAUSE = 0.05


class _Endpoints:
    """The endpoints of this process.

    The interpreter ends its threads when it ends, those of librbd as well that
    come with an answer; C++ then aborts the process. So no answer may be
    outstanding by then, and no way but this one leads to all of them.

    :ivar has_ended: set when the process ends
    """

    def __init__(self) -> None:
        self.open: weakref.WeakSet[RBD] = weakref.WeakSet()
        self.has_ended = False
        atexit.register(self.wait_for_answers)

    def wait_for_answers(self) -> None:
        """Begin no more requests, and wait for those that are in flight."""
        self.has_ended = True
        deadline = time.monotonic() + _ANSWER_TIMEOUT
        ours = [endpoint for endpoint in list(self.open)
                if endpoint.pid == os.getpid()]
        quiet = 0
        # Twice: a thread may have looked just before whether it may begin, and
        # those that came with the last answers have to leave Python yet.
        while ours and quiet < 2 and time.monotonic() < deadline:
            busy = any(endpoint.in_flight for endpoint in ours)
            quiet = 0 if busy else quiet + 1
            time.sleep(_PAUSE)


class Cluster(typing.Protocol):
    """What is known of an image's cluster beyond the image."""

    def call(self, function: Callable[..., _T], *args: typing.Any,
             fence: bool = True) -> _T:
        """Call what waits for the cluster, see :meth:`RBD.call`."""

    def lost(self) -> Exception | None:
        """Return why no answer is to be waited for, or None."""


class Meter(typing.Protocol):
    """What counts the bytes that are moved; any thread may call it."""

    def moved(self, read: int = 0, written: int = 0) -> None:
        """Count bytes of a request that was answered."""


class RBD(base.Endpoint):
    """An RBD image or one of its snapshots.

    :param ioctx: of the image's pool; it must stay open as long as this
    :param writable: open for writing too, as an image that is written for
        the first time, see :mod:`glance_dcn.engine.rbd_layout`
    :param open_pool: opens a pool by its ID, where the data of images may be
        in another one
    :param name: what errors call it; by default the image's name
    :param hold: called before it is opened; what it returns is called when it
        is closed, which may be long after :meth:`close` has returned
    :param cluster: None: everything is waited for
    :param meter: is told of each answer
    :raises RequestError: when it cannot be opened
    """

    def __init__(self, ioctx: rados.Ioctx, image: str,
                 snapshot: str | None = None, writable: bool = False,
                 name: str | None = None,
                 hold: Callable[[], Callable[[], object]] | None = None,
                 cluster: Cluster | None = None,
                 open_pool: Callable[[int], rados.Ioctx] | None = None,
                 meter: Meter | None = None) -> None:
        super().__init__(name or image)
        self._meter = meter
        self._image: rbd.Image | None = None
        self._objects: rbd_layout.DataObjects | None = None
        self._facts: rbd_layout.Facts | None = None
        self._let_go = hold() if hold else lambda: None
        self._shared = native.Shared(self._close)
        self._is_open = True
        # What is told when it is closed by a thread of its own.
        self._closed: native.Queue[bool] | None = None
        self._writable = writable
        self._cluster = cluster
        #: Process that opened it: in a child of a fork no answer comes.
        self.pid = os.getpid()
        self._all = process.get(_Endpoints)
        self._all.open.add(self)
        try:
            self._image = rbd.Image(ioctx, image, read_only=not writable)
            if snapshot is not None:
                # Not by rbd.Image(snapshot=): in Ceph 16 a close soon after
                # races with the end of such an open and aborts the process.
                self._image.set_snap(snapshot)
            self._inspect(self._image)
            if writable:
                self._objects = rbd_layout.DataObjects(
                    ioctx, self._image, open_pool)
                self._facts = rbd_layout.facts(self._image)
        except rbd_layout.Unsafe as error:
            self.close()
            raise errors.RequestError(self.name, 'open', hint=error.reason)
        except (rbd.Error, rbd_layout.Error) as error:
            self.close()
            raise self._translated(error, 'open')

    @property
    def image(self) -> rbd.Image:
        """The open image, for what is outside the engine.

        To open an image once more takes a dozen round trips.
        """
        assert self._image is not None, 'the image is closed'
        return self._image

    def _inspect(self, image: rbd.Image) -> None:
        rbd_layout.check(image)
        self._is_clone = rbd_layout.has_parent(image)
        stat = image.stat()
        self.size = stat['size']
        self.object_size = stat['obj_size']
        self.limit = max(extents.BLOCK,
                         min(self.object_size, extents.REQUEST))

    def extents(self, offset: int = 0,
                length: int | None = None) -> base.Extents:
        end = self._end(offset, length)
        return extents.cover(self._data(offset, end), offset, end)

    def _data(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        try:
            with self._kept_open('list extents', offset):
                mapped, unit = self._geometry()
            while offset < end:
                lot = unit * (_MAPPED_LOT if mapped else _LOT)
                stop = min(end, (offset // lot + 1) * lot)
                yield from self._diff(offset, stop, mapped)
                offset = stop
        except rbd.Error as error:
            raise self._translated(error, 'list extents', offset)

    def _diff(self, offset: int, stop: int,
              mapped: bool) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []

        # It runs in a thread of librbd and must only take note.
        def note(start: int, length: int, exists: bool) -> None:
            if exists:
                found.append((start, length))

        with self._kept_open('list extents', offset):
            self.image.diff_iterate(offset, stop - offset, None, note,
                                    include_parent=self._is_clone,
                                    whole_object=mapped)
        found.sort()
        return found

    @contextlib.contextmanager
    def _kept_open(self, what: str, offset: int) -> Iterator[None]:
        """Keep the image open, which another thread may close meanwhile."""
        if not self._shared.acquire():
            raise self._error(what, errno.ECANCELED, offset)
        try:
            yield
        finally:
            self._shared.release()

    def _geometry(self) -> tuple[bool, int]:
        """Return whether an object map helps, and the bytes of a stripe."""
        count = self.image.stripe_count()
        fast = (self.image.features() & rbd.RBD_FEATURE_FAST_DIFF
                and not self.image.flags() & rbd.RBD_FLAG_FAST_DIFF_INVALID)
        # With fancy striping fast-diff reports wrong offsets (Ceph tracker
        # 53784).
        return bool(fast and count == 1), self.object_size * count

    def read(self, offset: int, length: int, done: base.Read) -> None:
        if self._all.has_ended:
            done(self._error('read', errno.ECANCELED, offset, length))
            return
        token = self._begin()

        def complete(completion: rbd.Completion, data: typing.Any) -> None:
            self._in_flight.discard(token)
            count = completion.get_return_value()
            if count == length:
                if self._meter:
                    self._meter.moved(read=count)
                done(data)
            elif count < 0:
                done(self._error('read', -count, offset, length))
            else:
                done(errors.ShortRead(
                    self.name, 'read', None, offset, length,
                    hint='The image is shorter than it was when it was '
                         'opened.'))

        try:
            self.image.aio_read(offset, length, complete)
        except rbd.Error as error:
            self._in_flight.discard(token)
            done(self._translated(error, 'read', offset, length))

    def write(self, offset: int, data: bytes, done: base.Done) -> None:
        length = len(data)
        if self._objects is None:
            done(self._error('write', errno.EROFS, offset, length))
            return
        if offset + length > self.size:
            done(self._error('write', errno.EINVAL, offset, length))
            return
        if self._all.has_ended:
            done(self._error('write', errno.ECANCELED, offset, length))
            return
        token = self._begin()

        def complete(code: int) -> None:
            self._in_flight.discard(token)
            if self._meter and code >= 0:
                self._meter.moved(written=length)
            done(self._error('write', -code, offset, length)
                 if code < 0 else None)

        try:
            self._objects.write(offset, data, complete)
        except Exception as error:
            # Whatever it is: other targets of the transfer must go on.
            self._in_flight.discard(token)
            done(self._translated(error, 'write', offset, length))

    def flush(self, done: base.Done) -> None:
        # OSDs answer a write when it is durable, and nothing is cached here.
        done(None)

    def lost(self) -> errors.Lost | None:
        reason = self._cluster.lost() if self._cluster else None
        return errors.Lost(self.name, reason) if reason else None

    def call(self, function: Callable[..., _T], *args: typing.Any,
             fence: bool = True) -> _T:
        """Call a function with the open image, and arguments.

        If no answer is to be waited for any more it is left, and the image is
        closed after it has ended.

        :param fence: whether what it has sent must not be carried out once it
            was left
        :raises Exception: what it raises, or why it was left
        """
        if self._cluster is None:
            return function(self.image, *args)
        if not self._shared.acquire():
            raise self._error('call', errno.ECANCELED)
        result: _T = self._cluster.call(self._called, function, self.image,
                                        *args, fence=fence)
        return result

    def _called(self, function: Callable[..., _T], *args: typing.Any) -> _T:
        try:
            return function(*args)
        finally:
            self._shared.release()

    def resize(self, size: int) -> None:
        try:
            if (self._objects is not None
                    and self._objects.end <= size < self.size):
                self.call(self._objects.cut, size)
            else:
                self.call(rbd.Image.resize, size)
        except (rbd.Error, rbd_layout.Error) as error:
            raise self._translated(error, 'resize', length=size)
        self.size = size

    def facts(self) -> rbd_layout.Facts:
        """Return what the header of a new image is to be like."""
        assert self._facts is not None, 'the image is not writable'
        return self._facts._replace(size=self.size)

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if (self._shared.release() and self._closed is not None
                and not self.in_flight):
            with contextlib.suppress(native.Empty):
                native.get(self._closed, _CLOSING)

    def _close(self) -> None:
        image, self._image = self._image, None
        written, self._objects = self._objects, None
        if image is None:
            self._let_go()
            return
        if not self.in_flight and not self._writable:
            _close(image, None, self._let_go)
            return
        # librbd waits for answers, to requests that are in flight and to what
        # it asks the cluster for now; they may never come.
        self._closed = native.Queue()
        native.start('rbd-close', _close, image, written, self._let_go,
                     self._closed)

    def _translated(self, error: Exception, operation: str,
                    offset: int | None = None,
                    length: int | None = None) -> errors.RequestError:
        number = getattr(error, 'errno', None) or errno.EIO
        return self._error(operation, abs(number), offset, length)


def _close(image: rbd.Image, written: rbd_layout.DataObjects | None,
           let_go: Callable[[], object],
           closed: native.Queue[bool] | None = None) -> None:
    # What was written was answered before, or has failed.
    if written:
        with contextlib.suppress(rbd_layout.Error):
            written.close()
    with contextlib.suppress(rbd.Error):
        image.close()
    let_go()
    if closed is not None:
        closed.put(True)
