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

"""Makes the reading of a staged image skip its holes.

During an import Glance hands a store's ``add()`` the staged file inside
several readers of its own, which limit, count and inspect what passes. To
read a hole through the page cache costs as much as to read data, so the
innermost of these, which does nothing but read the file, is given a ``read``
that knows holes and answers them from a buffer of zeros. All the others see
every byte as before.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import typing

from glance_dcn.engine import extents

if typing.TYPE_CHECKING:
    from collections.abc import Callable

# What Glance's readers call the reader they wrap: _source in
# glance.common.scripts.utils.CallbackIterator and in oslo.utils's
# InspectWrapper; data and fd in glance.common.utils.LimitingReader and
# CooperativeReader.
_INNER = ('_source', 'data', 'fd')
_DEEPEST = 16


def skip_holes(data: typing.Any) -> bool:
    """Make the reader of a staged file skip holes; return if it is one."""
    reader = data
    for _ in range(_DEEPEST):
        inner = _inner(reader)
        if inner is None:
            return False
        if _is_file(inner):
            sparse = SparseReader(inner)
            # Glance's CooperativeReader (33) has its read as an attribute of
            # the object: it is one that may be set. Others, before, have but
            # the file.
            if 'read' in vars(reader):
                reader.read = sparse.read
            else:
                _put_inside(reader, sparse)
            return True
        reader = inner
    return False


def report_waiting(data: typing.Any) -> Callable[[list[str]], object] | None:
    """Return what keeps the task of an import alive while it waits.

    :returns: function of one argument, which it ignores: it saves the task,
        so that its lock stays fresh, and raises what Glance raises when
        somebody else has ended it; None where no task is behind the data
    """
    reader = data
    for _ in range(_DEEPEST):
        # glance.common.scripts.utils.CallbackIterator
        callback = getattr(reader, '_callback', None)
        if callable(callback):
            return lambda unused: callback(0, 0)
        reader = _inner(reader)
        if reader is None:
            break
    return None


def _is_file(reader: typing.Any) -> bool:
    """Return whether it reads a file: uploads may come from a socket."""
    if not isinstance(reader, io.BufferedReader):
        return False
    try:
        return stat.S_ISREG(os.fstat(reader.fileno()).st_mode)
    except OSError:
        return False


def _inner(reader: typing.Any) -> typing.Any:
    for name in _INNER:
        inner = getattr(reader, name, None)
        if hasattr(inner, 'read') or hasattr(inner, '__next__'):
            return inner
    return None


def _put_inside(reader: typing.Any, inner: SparseReader) -> None:
    """Let a reader read from something else than it was made with."""
    name = next(name for name in _INNER if hasattr(reader, name))
    setattr(reader, name, inner)


class SparseReader:
    """Reads a file in order, and its holes without touching the file.

    What it returns ends at the multiples of the engine's largest request at
    the latest, and a hole from one to the next is ``extents.ZEROS`` itself,
    which the engine need not look at to know what it is.

    :param file: it is read from its current position
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._fd = file.fileno()
        self._position = file.tell()
        self._data = self._hole = self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        if size is None or size < 0:
            size = max(0, os.fstat(self._fd).st_size - self._position)
        size = min(size, extents.REQUEST - self._position % extents.REQUEST)
        if self._position >= self._hole:
            self._look()
        if self._position < self._data:
            count = min(size, self._data - self._position)
            self._position += count
            # All of it is the same object, not a copy.
            return extents.ZEROS[:count]
        data = os.pread(self._fd, min(size, self._hole - self._position),
                        self._position)
        self._position += len(data)
        return data

    def __iter__(self) -> SparseReader:
        return self

    def __next__(self) -> bytes:
        data = self.read(extents.REQUEST)
        if not data:
            raise StopIteration
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _look(self) -> None:
        """Find the next data, and where it ends."""
        end = os.fstat(self._fd).st_size
        if self._position >= end:
            self._data = self._hole = self._position
            return
        try:
            self._data = os.lseek(self._fd, self._position, os.SEEK_DATA)
            self._hole = os.lseek(self._fd, self._data, os.SEEK_HOLE)
        except OSError as exc:
            # No data follows (ENXIO), or the file system cannot tell.
            self._data = end if exc.errno == errno.ENXIO else self._position
            self._hole = end
