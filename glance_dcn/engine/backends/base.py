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


"""The contract between the engine and a place where an image is kept.

Requests are asynchronous. ``read``, ``write`` and ``flush`` return at once
and later call ``done(result)`` exactly once, from any thread, maybe from
within the call itself. The result is the bytes read, or None, or an
:class:`~glance_dcn.engine.errors.EngineError`; they raise nothing. ``done``
takes no time and no lock.

Any number of requests may be in flight. There is no order among them.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import itertools
import typing

from glance_dcn.engine import errors
from glance_dcn.engine import extents

if typing.TYPE_CHECKING:
    Extents = Iterator[extents.Extent]
    # What is called with the result of a reading, and of all else.
    Read = Callable[[bytes | errors.EngineError], object]
    Done = Callable[[errors.EngineError | None], object]

_Self = typing.TypeVar('_Self', bound='Endpoint')


class Endpoint:
    """One image, open.

    :ivar name: what errors and progress call it, such as 'dcn0: images/ID'
    :ivar size: bytes
    :ivar limit: bytes; requests crossing a multiple of it cost more
    """

    limit = extents.REQUEST

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self._tokens = itertools.count()
        # Adding to and discarding from a set are atomic.
        self._in_flight: set[int] = set()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    @property
    def in_flight(self) -> int:
        """Number of requests that are not answered yet."""
        return len(self._in_flight)

    def extents(self, offset: int = 0, length: int | None = None) -> Extents:
        """Iterate over the extents of data, and of holes.

        They are in order and cover offset to offset + length exactly. It may
        block and is used from a thread of its own, while requests go on.

        :param offset: bytes
        :param length: bytes, or None for all that follows
        :raises RequestError: when they cannot be told
        """
        raise NotImplementedError

    def read(self, offset: int, length: int, done: Read) -> None:
        """Read; the result is exactly ``length`` bytes."""
        raise NotImplementedError

    def write(self, offset: int, data: bytes, done: Done) -> None:
        """Write bytes, which must lie within the size."""
        raise NotImplementedError

    def flush(self, done: Done) -> None:
        """Make durable all writes that were answered before."""
        raise NotImplementedError

    def lost(self) -> errors.RequestError | None:
        """Return an error if no answer is to be waited for any more, or None.

        It is asked now and then while there is none, and takes no time.
        """
        return None

    def resize(self, size: int) -> None:
        """Set the size, in bytes, and wait until it is done.

        :raises RequestError: when it fails
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close without waiting for requests that are not answered."""

    def _begin(self) -> int:
        token = next(self._tokens)
        self._in_flight.add(token)
        return token

    def _error(self, operation: str, errno: int | None,
               offset: int | None = None,
               length: int | None = None) -> errors.RequestError:
        return errors.RequestError(self.name, operation, errno, offset,
                                   length)

    def _end(self, offset: int, length: int | None) -> int:
        """The end of a range given to extents()."""
        if length is None:
            return self.size
        return min(self.size, offset + length)


class Null(Endpoint):
    """A target that forgets what is written to it, to have it digested."""

    def write(self, offset: int, data: bytes, done: Done) -> None:
        done(None)

    def flush(self, done: Done) -> None:
        done(None)

    def resize(self, size: int) -> None:
        self.size = size
