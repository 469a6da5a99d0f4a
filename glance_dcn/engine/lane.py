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


"""Writes to one target, many requests at a time."""

from __future__ import annotations

import collections
from collections.abc import Callable
import typing

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import loop as loops
from glance_dcn.engine import rates

if typing.TYPE_CHECKING:
    from glance_dcn.engine import fanout

# Enough for a long line; more only fills the OSD's queues.
_REQUESTS = 256
# Bytes in flight at first and at least. It is four times as much after each
# answer within half of these seconds, and half as much after one that takes
# longer: on a thin link requests are to be answered long before they time out,
# and what is in flight is sent in vain if the target is let go of.
_FIRST, _LEAST = 1 << 20, 256 << 10
_SECONDS = 4
# Bytes in flight to all targets of a transfer together: the client of each has
# a copy of its own.
_TOGETHER = 64 << 20


def share(window: int, targets: int) -> int:
    """Return the bytes that may be in flight to each of several targets.

    One request at least, however many there are.

    :param window: bytes in flight to one at most
    """
    return max(extents.REQUEST, min(window, _TOGETHER // max(1, targets)))


class _Write(typing.NamedTuple):
    """A request: a piece, or a part of one.

    :ivar offset: where it is written, in bytes
    :ivar since: when it was sent, in seconds of the loop's clock
    """

    piece: fanout.Piece
    offset: int
    size: int
    since: float


class Lane:
    """The side of a transfer that belongs to one target.

    A lane that fails is dropped: it keeps its error, gives back the buffers
    that it holds, and takes no more. One that is too slow for the others is
    let go of: it gives back its buffers as well, and remembers from where on
    its target has to be written by another transfer.

    :param release: called with each piece that is no longer needed
    :param window: bytes in flight at most
    :param timeout: seconds without progress after which it is given up
    :ivar left_at: where another transfer has to begin, in bytes: everything
        below is written; None if it was not let go of
    :ivar written: bytes of the writes that are done
    """

    def __init__(self, loop: loops.Loop, target: base.Endpoint,
                 release: Callable[[fanout.Piece], object], window: int,
                 timeout: float, rate: rates.Rate | None = None) -> None:
        self._loop = loop
        self.target = target
        self._release = release
        self._window = window
        self._allowed = min(window, _FIRST)
        self._timeout = timeout
        self.rate = rate or rates.Rate()
        self.error: Exception | None = None
        self.left_at: int | None = None
        self.written = 0
        # Seconds in which it had something to do, and since when it has.
        self._busy = 0.0
        self._busy_since: float | None = None
        self._queue: collections.deque[fanout.Piece] = collections.deque()
        # Bytes of the first piece of the queue that are on their way.
        self._begun = 0
        self._flying: dict[int, _Write] = {}
        self._bytes = 0
        # Bytes that are not written yet, by offset of the piece.
        self._left: dict[int, int] = {}
        self._moved = loop.clock()
        self._ending = self._flushing = self._flushed = False

    @property
    def finished(self) -> bool:
        """Whether it is dropped, or everything is written and flushed."""
        return not self.live or self._flushed

    @property
    def live(self) -> bool:
        """Whether it is neither dropped nor let go of."""
        return self.error is None and self.left_at is None

    @property
    def flushed(self) -> bool:
        """Whether everything is written and flushed."""
        return self._flushed

    @property
    def idle(self) -> bool:
        """Whether it waits for data."""
        return not self._queue and not self._flying

    @property
    def flushing(self) -> float:
        """Seconds for which its target has been flushing; 0 if it is not."""
        if not self._flushing or self.finished:
            return 0
        return self._loop.clock() - self._moved

    @property
    def backlog(self) -> int:
        """Bytes that it was given and that are not written yet."""
        return self._bytes - self._begun + sum(
            len(piece.data) for piece in self._queue)

    @property
    def speed(self) -> float:
        """Bytes per second, of the time in which it had something to do."""
        busy = self._busy
        if self._busy_since is not None:
            busy += self._loop.clock() - self._busy_since
        return self.written / busy if busy > 0 else float('inf')

    def put(self, piece: fanout.Piece) -> None:
        """Take a piece to be written."""
        if self._busy_since is None:
            self._busy_since = self._loop.clock()
        self._queue.append(piece)

    def end(self) -> None:
        """Nothing more will come: flush when all is written."""
        self._ending = True

    def submit(self) -> None:
        """Start what the window and the rate let."""
        while (self._queue and self._bytes < self._allowed
               and len(self._flying) < _REQUESTS and not self.rate.delay()):
            self._write_next()
            if self.error is not None:
                return
        if (self._ending and self.idle and not self._flushing and self.live):
            self._flushing = True
            self._moved = self._loop.clock()
            self.target.flush(self._loop.reply(self._flush_done, None))

    def delay(self) -> float:
        """Return the seconds until the rate lets it go on; 0 for now."""
        return self.rate.delay() if self._queue else 0

    def check(self) -> None:
        """Drop it when the target owes answers and gives none."""
        if self.finished:
            return
        now = self._loop.clock()
        if not self._flying and not self._flushing:
            self._moved = now
        elif now - self._moved > self._timeout:
            first = next(iter(self._flying.values()), None)
            self.drop(errors.Stalled(
                self.target.name, 'write' if first else 'flush',
                self._timeout, first and first.offset))
        elif now - self._moved > errors.QUIET:
            error = self.target.lost()
            if error is not None:
                self.drop(error)

    def drop(self, error: Exception) -> None:
        """Record the error and write no more to the target."""
        if self.finished:
            return
        self.error = error
        self._give_back()

    def let_go(self, below: int) -> None:
        """Write no more: the target is to be written by another transfer.

        :param below: offset in bytes below which nothing is still to come
        """
        if self.finished:
            return
        # What is in flight may fail yet, unheard.
        self.left_at = min([below, *self._flying,
                            *(piece.offset for piece in self._queue)])
        self._give_back()

    def _give_back(self) -> None:
        pieces = {piece.offset: piece for piece in (
            *self._queue, *(write.piece for write in self._flying.values()))}
        for piece in pieces.values():
            self._release(piece)
        self._queue.clear()
        self._flying.clear()
        self._left.clear()

    def _write_next(self) -> None:
        """Write what is allowed of the first piece of the queue."""
        piece, at = self._queue[0], self._begun
        room = max(_LEAST, self._allowed - self._bytes)
        size = min(room // extents.BLOCK * extents.BLOCK,
                   len(piece.data) - at)
        whole = size == len(piece.data)
        now = self._loop.clock()
        write = _Write(piece, piece.offset + at, size, now)
        self._left.setdefault(piece.offset, len(piece.data))
        self._begun += size
        if self._begun == len(piece.data):
            self._queue.popleft()
            self._begun = 0
        if not self._flying:
            self._moved = now
        self._flying[write.offset] = write
        self._bytes += size
        self.rate.charge(size)
        self.target.write(
            write.offset, piece.data if whole else piece.data[at:at + size],
            self._loop.reply(self._write_done, write))

    def _write_done(self, write: _Write, result: Exception | None) -> None:
        if not self.live:
            # An answer that comes after it was dropped.
            return
        if isinstance(result, Exception):
            self.drop(result)
            return
        del self._flying[write.offset]
        self._moved = self._loop.clock()
        if self.idle and self._busy_since is not None:
            self._busy += self._moved - self._busy_since
            self._busy_since = None
        self._adapt(self._moved - write.since)
        self._bytes -= write.size
        self.written += write.size
        piece = write.piece
        self._left[piece.offset] -= write.size
        if not self._left[piece.offset]:
            del self._left[piece.offset]
            self._release(piece)

    def _adapt(self, seconds: float) -> None:
        """Have more or less in flight, as a write has taken so long."""
        if seconds > _SECONDS:
            self._allowed = max(_LEAST, self._allowed // 2)
        elif seconds < _SECONDS / 2:
            self._allowed = min(self._window, 4 * self._allowed)

    def _flush_done(self, unused: None, result: Exception | None) -> None:
        if isinstance(result, Exception):
            self.drop(result)
        elif self.live:
            self._flushed = True
