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

"""A raw image in a local file or on a block device, whole or growing."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import typing

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.runtime import native

if typing.TYPE_CHECKING:
    # A function, its arguments, who gets the result, and the request's token.
    _Job = tuple[Callable[..., typing.Any], int | None, typing.Any,
                 Callable[[typing.Any], object], int]

# Enough to keep a disk busy; the page cache needs no more either.
_THREADS = 4
# Bytes before the end of a growing file that may still be on their way.
_MARGIN = 2 * extents.REQUEST
# Seconds between polls of a file that does not grow.
_PAUSE = 0.05


class File(base.Endpoint):
    """A local file, whose requests are served by a few threads.

    :param writable: open for writing too
    :param create: make the file first; it must not exist
    :param name: what errors call it; by default the path
    :raises RequestError: when it cannot be opened
    """

    def __init__(self, path: str | pathlib.Path, writable: bool = False,
                 create: bool = False, name: str | None = None) -> None:
        super().__init__(name or str(path))
        flags = os.O_RDWR if writable or create else os.O_RDONLY
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise self._error('open', error.errno)
        self._queue: native.Queue[_Job | None] = native.Queue()
        self._closed = False
        self._threads = [native.start('file-io', self._serve)
                         for _ in range(_THREADS)]

    def extents(self, offset: int = 0,
                length: int | None = None) -> base.Extents:
        end = self._end(offset, length)
        return extents.cover(self._data(offset, end), offset, end)

    def _data(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        # A descriptor of its own: the position belongs to the descriptor.
        with open('/proc/self/fd/%d' % self._fd, 'rb', buffering=0) as file:
            while offset < end:
                try:
                    start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
                    stop = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        # No data from here on.
                        return
                    # A file system or device that cannot tell.
                    start, stop = offset, end
                yield start, stop - start
                offset = stop

    def read(self, offset: int, length: int, done: base.Read) -> None:
        self._submit(self._read, offset, length, done)

    def write(self, offset: int, data: bytes, done: base.Done) -> None:
        self._submit(self._write, offset, data, done)

    def flush(self, done: base.Done) -> None:
        self._submit(self._flush, None, None, done)

    def resize(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise self._error('resize', error.errno, length=size)
        self.size = size

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # The last thread to leave closes the descriptor.
            self._queue.put(None)

    def _submit(self, function: Callable[..., typing.Any],
                offset: int | None, argument: typing.Any,
                done: Callable[[typing.Any], object]) -> None:
        self._queue.put((function, offset, argument, done, self._begin()))

    def _serve(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                break
            function, offset, argument, done, token = job
            try:
                result = function(offset, argument)
            except OSError as error:
                length = (len(argument) if isinstance(argument, bytes)
                          else argument)
                result = self._error(function.__name__[1:], error.errno,
                                     offset, length)
            except errors.EngineError as error:
                result = error
            self._in_flight.discard(token)
            done(result)
            # Do not keep the buffer while waiting for the next request.
            del job, argument, done, result
        self._threads.pop()
        if self._threads:
            self._queue.put(None)
        else:
            os.close(self._fd)

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise errors.ShortRead(
                    self.name, 'read', None, offset, length,
                    hint='The file is shorter than it was when it was '
                         'opened.')
            data += more
        return data

    def _write(self, offset: int, data: bytes) -> None:
        if offset + len(data) > self.size:
            raise self._error('write', errno.EINVAL, offset, len(data))
        written = os.pwrite(self._fd, data, offset)
        view = memoryview(data)
        while written < len(data):
            written += os.pwrite(self._fd, view[written:], offset + written)

    def _flush(self, *unused: None) -> None:
        os.fdatasync(self._fd)


class Growing(File):
    """A file that is written from its beginning to its end, read meanwhile.

    Data says that everything before it is final, holes too::

        -----####---####????.........................
                        |margin|   not written yet

    A writer that goes back makes what is read worthless: prove it against
    what the file has in the end.

    :param size: bytes that it will have
    :raises RequestError: when it cannot be opened
    """

    def __init__(self, path: str | pathlib.Path, size: int) -> None:
        super().__init__(path)
        self.size = size
        self._complete = False
        self._changed: native.Queue[None] = native.Queue()

    def complete(self) -> None:
        """Tell that all of it is there. Any thread may call it."""
        self._complete = True
        self._changed.put(None)

    def close(self) -> None:
        """Close it; who waits for its extents waits no longer."""
        super().close()
        self._changed.put(None)

    def extents(self, offset: int = 0,
                length: int | None = None) -> base.Extents:
        position, end = offset, self._end(offset, length)
        while position < end and not self._closed:
            # To be asked before looking.
            complete = self._complete
            found = list(self._data(position, end))
            final = end if complete else self._final(found)
            if final > position:
                yield from extents.cover(found, position, final)
                position = final
            else:
                self._wait()

    def _final(self, found: list[tuple[int, int]]) -> int:
        """Return where that which is final ends."""
        if not found:
            return 0
        start, length = found[-1]
        return max(0, start + length - _MARGIN) // extents.BLOCK \
            * extents.BLOCK

    def _wait(self) -> None:
        with contextlib.suppress(native.Empty):
            self._changed.get(timeout=_PAUSE)
