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

import atexit
import contextlib
import errno
import os
import time
import weakref

import rbd

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import header
from glance_dcn.engine import native
from glance_dcn.engine import objects
from glance_dcn.engine import shared

# Objects whose extents are asked for in one go. Few enough to begin reading
# soon; the next lot is asked for while these are read.
_LOT = 256
# With the object map it is a look into memory.
_MAPPED_LOT = 16 << 10
# Seconds for which the closing of an image that was written is waited for: a
# dozen round trips, or, where nobody answers, several times what one request
# may take.
_CLOSING = 5
# Seconds that requests in flight have at the end of the process.
_LANDING = 10
_PAUSE = 0.05

# The interpreter ends its threads when it ends, those of librbd as well that
# come with an answer; C++ then aborts the process. So no answer may be
# outstanding by then, and no way but this one leads to all of them.
_open = weakref.WeakSet()
_ended = native.Queue()


def _land():
    """Begin no more requests, and wait for those that are in flight."""
    _ended.put(True)
    deadline = time.monotonic() + _LANDING
    while time.monotonic() < deadline and any(
            endpoint.in_flight for endpoint in list(_open)
            if endpoint.pid == os.getpid()):
        time.sleep(_PAUSE)


atexit.register(_land)


class RBD(base.Endpoint):
    """An RBD image or one of its snapshots.

    :param ioctx: open ``rados.Ioctx`` of the image's pool; it must stay open
        as long as this
    :param image: name of the image
    :param snapshot: name of a snapshot, or None
    :param writable: open for writing too, as an image that is written for
        the first time, see :mod:`glance_dcn.engine.objects`
    :param open_pool: returns a ``rados.Ioctx`` by the ID of a pool, where the
        data of images may be in another one
    :param name: what errors call it; by default the image's name
    :param hold: called before it is opened; what it returns is called when it
        is closed, which may be long after :meth:`close` has returned
    :param cluster: whose ``call(function, *args, fence=True)`` calls what
        waits for the cluster, and whose ``lost()`` returns why no answer is
        to be waited for, or None; None: everything is waited for
    :raises RequestError: when it cannot be opened
    """

    def __init__(self, ioctx, image, snapshot=None, writable=False,
                 name=None, hold=None, cluster=None, open_pool=None):
        super().__init__(name or image)
        self._image = self._objects = self._facts = None
        self._let_go = hold() if hold else _nothing
        self._shared = shared.Shared(self._close)
        self._is_open = True
        # What is told when it is closed by a thread of its own.
        self._closed = None
        self._writable = writable
        self._cluster = cluster
        #: Process that opened it: in a child of a fork no answer comes.
        self.pid = os.getpid()
        _open.add(self)
        try:
            self._image = rbd.Image(ioctx, image, read_only=not writable)
            if snapshot is not None:
                # Not by rbd.Image(snapshot=): in Ceph 16 a close soon after
                # races with the end of such an open and aborts the process.
                self._image.set_snap(snapshot)
            self._look()
            if writable:
                self._objects = objects.DataObjects(ioctx, self._image,
                                                    open_pool)
                self._facts = header.facts(self._image)
        except header.Unsafe as error:
            self.close()
            raise errors.RequestError(self.name, 'open', hint=error.reason)
        except (rbd.Error, objects.Error) as error:
            self.close()
            raise self._translated(error, 'open')

    @property
    def image(self):
        """The open ``rbd.Image``, for what is none of the engine's business.

        To open an image anew takes a dozen round trips, which count where the
        cluster is far away.
        """
        return self._image

    def _look(self):
        header.check(self._image)
        self._is_clone = header.has_parent(self._image)
        stat = self._image.stat()
        self.size = stat['size']
        self.object_size = stat['obj_size']
        self.limit = max(extents.BLOCK,
                         min(self.object_size, extents.REQUEST))

    def extents(self, offset=0, length=None):
        end = self._end(offset, length)
        return extents.cover(self._data(offset, end), offset, end)

    def _data(self, offset, end):
        try:
            mapped, unit = self._geometry()
            while offset < end:
                lot = unit * (_MAPPED_LOT if mapped else _LOT)
                stop = min(end, (offset // lot + 1) * lot)
                yield from self._diff(offset, stop, mapped)
                offset = stop
        except rbd.Error as error:
            raise self._translated(error, 'list extents', offset)

    def _diff(self, offset, stop, mapped):
        found = []

        # It runs in a thread of librbd and must only take note.
        def note(start, length, exists):
            if exists:
                found.append((start, length))

        self._image.diff_iterate(offset, stop - offset, None, note,
                                 include_parent=self._is_clone,
                                 whole_object=mapped)
        found.sort()
        return found

    def _geometry(self):
        """Return whether an object map helps, and the bytes of a stripe."""
        count = self._image.stripe_count()
        fast = (self._image.features() & rbd.RBD_FEATURE_FAST_DIFF
                and not self._image.flags() & rbd.RBD_FLAG_FAST_DIFF_INVALID)
        # With fancy striping fast-diff reports wrong offsets (Ceph tracker
        # 53784).
        return bool(fast and count == 1), self.object_size * count

    def read(self, offset, length, done):
        if not _ended.empty():
            done(self._error('read', errno.ECANCELED, offset, length))
            return
        token = self._begin()

        def complete(completion, data):
            self._flying.discard(token)
            count = completion.get_return_value()
            if count == length:
                done(data)
            elif count < 0:
                done(self._error('read', -count, offset, length))
            else:
                done(errors.ShortRead(
                    self.name, 'read', None, offset, length,
                    hint='The image is shorter than it was when it was '
                         'opened.'))

        try:
            self._image.aio_read(offset, length, complete)
        except rbd.Error as error:
            self._flying.discard(token)
            done(self._translated(error, 'read', offset, length))

    def write(self, offset, data, done):
        length = len(data)
        if self._objects is None:
            done(self._error('write', errno.EROFS, offset, length))
            return
        if offset + length > self.size:
            done(self._error('write', errno.EINVAL, offset, length))
            return
        if not _ended.empty():
            done(self._error('write', errno.ECANCELED, offset, length))
            return
        token = self._begin()

        def complete(code):
            self._flying.discard(token)
            done(self._error('write', -code, offset, length)
                 if code < 0 else None)

        try:
            self._objects.write(offset, data, complete)
        except Exception as error:
            # Whatever it is: other targets of the transfer must go on.
            self._flying.discard(token)
            done(self._translated(error, 'write', offset, length))

    def flush(self, done):
        # OSDs answer a write when it is durable, and nothing is cached here.
        done(None)

    def lost(self):
        reason = self._cluster and self._cluster.lost()
        return reason and errors.Lost(self.name, reason)

    def call(self, function, *args, fence=True):
        """Call a function with the open ``rbd.Image``, and arguments.

        If no answer is to be waited for any more it is left, and the image is
        closed after it has ended.

        :param fence: whether what it has sent must not be carried out once it
            was left
        :returns: what it returns
        :raises Exception: what it raises, or why it was left
        """
        if self._cluster is None:
            return function(self._image, *args)
        self._shared.acquire()
        return self._cluster.call(self._called, function, self._image, *args,
                                  fence=fence)

    def _called(self, function, *args):
        try:
            return function(*args)
        finally:
            self._shared.release()

    def resize(self, size):
        try:
            if (self._objects is not None
                    and self._objects.end <= size < self.size):
                self.call(self._objects.cut, size)
            else:
                self.call(rbd.Image.resize, size)
        except (rbd.Error, objects.Error) as error:
            raise self._translated(error, 'resize', length=size)
        self.size = size

    def facts(self):
        """Return what the header of a new image is to be like.

        :returns: :class:`glance_dcn.engine.header.Facts`
        """
        return self._facts._replace(size=self.size)

    def close(self):
        if not self._is_open:
            return
        self._is_open = False
        if (self._shared.release() and self._closed is not None
                and not self.in_flight):
            with contextlib.suppress(native.Empty):
                native.get(self._closed, _CLOSING)

    def _close(self):
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

    def _translated(self, error, operation, offset=None, length=None):
        number = getattr(error, 'errno', None) or errno.EIO
        return self._error(operation, abs(number), offset, length)


def _nothing():
    pass


def _close(image, written, let_go, closed=None):
    # What was written was answered before, or has failed.
    if written:
        with contextlib.suppress(objects.Error):
            written.close()
    with contextlib.suppress(rbd.Error):
        image.close()
    let_go()
    if closed is not None:
        closed.put(True)
