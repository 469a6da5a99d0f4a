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

import collections

from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import rates

# Enough for a long line; more only fills the OSD's queues.
_REQUESTS = 256
# Bytes in flight to all targets of a transfer together: the client of each has
# a copy of its own.
_TOGETHER = 64 << 20


def share(window: int, targets: int) -> int:
    """Return the bytes that may be in flight to each of several targets.

    One request at least, however many there are.

    :param window: bytes in flight to one at most
    :param targets: how many there are
    """
    return max(extents.REQUEST, min(window, _TOGETHER // max(1, targets)))


class Lane:
    """The side of a transfer that belongs to one target.

    A lane that fails is dropped: it keeps its error, gives back the buffers
    that it holds, and takes no more. One that is too slow for the others is
    let go of: it gives back its buffers as well, and remembers from where on
    its target has to be written by another transfer.

    :param loop: :class:`~glance_dcn.engine.loop.Loop`
    :param target: endpoint
    :param release: called with each piece that is no longer needed
    :param window: bytes in flight at most
    :param timeout: seconds without progress after which it is given up
    :param rate: :class:`~glance_dcn.engine.rates.Rate`, or None
    :ivar error: why it was dropped, or None
    :ivar left_at: where another transfer has to begin, in bytes: everything
        below is written; None if it was not let go of
    :ivar written: bytes of the writes that are done
    """

    def __init__(self, loop, target, release, window, timeout, rate=None):
        self._loop = loop
        self.target = target
        self._release = release
        self._window = window
        self._timeout = timeout
        self.rate = rate or rates.Rate()
        self.error = None
        self.left_at = None
        self.written = 0
        # Seconds in which it had something to do, and since when it has.
        self._busy = 0.0
        self._busy_since = None
        self._queue = collections.deque()
        self._flying = {}
        self._bytes = 0
        self._moved = loop.clock()
        self._ending = self._flushing = self._flushed = False

    @property
    def finished(self):
        """Whether it is dropped, or everything is written and flushed."""
        return not self.live or self._flushed

    @property
    def live(self):
        """Whether it is neither dropped nor let go of."""
        return self.error is None and self.left_at is None

    @property
    def flushed(self):
        """Whether everything is written and flushed."""
        return self._flushed

    @property
    def idle(self):
        """Whether it waits for data."""
        return not self._queue and not self._flying

    @property
    def flushing(self):
        """Seconds for which its target has been flushing; 0 if it is not."""
        if not self._flushing or self.finished:
            return 0
        return self._loop.clock() - self._moved

    @property
    def backlog(self):
        """Bytes that it was given and that are not written yet."""
        return self._bytes + sum(len(piece.data) for piece in self._queue)

    @property
    def speed(self):
        """Bytes per second, of the time in which it had something to do."""
        busy = self._busy
        if self._busy_since is not None:
            busy += self._loop.clock() - self._busy_since
        return self.written / busy if busy > 0 else float('inf')

    def put(self, piece):
        """Take a piece to be written."""
        if self._busy_since is None:
            self._busy_since = self._loop.clock()
        self._queue.append(piece)

    def end(self):
        """Nothing more will come: flush when all is written."""
        self._ending = True

    def submit(self):
        """Start what the window and the rate let."""
        while (self._queue and self._bytes < self._window
               and len(self._flying) < _REQUESTS and not self.rate.delay()):
            self._write(self._queue.popleft())
            if self.error is not None:
                return
        if (self._ending and self.idle and not self._flushing and self.live):
            self._flushing = True
            self._moved = self._loop.clock()
            self.target.flush(self._loop.reply(self._flush_done, None))

    def delay(self):
        """Return the seconds until the rate lets it go on; 0 for now."""
        return self.rate.delay() if self._queue else 0

    def check(self):
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

    def drop(self, error):
        """Give the target up.

        :param error: the reason, an exception
        """
        if self.finished:
            return
        self.error = error
        self._give_back()

    def let_go(self, below):
        """Write no more: the target is to be written by another transfer.

        :param below: offset in bytes below which nothing is still to come
        """
        if self.finished:
            return
        # What is in flight may fail yet, unheard.
        self.left_at = min([below, *(piece.offset for piece in (
            *self._queue, *self._flying.values()))])
        self._give_back()

    def _give_back(self):
        for piece in (*self._queue, *self._flying.values()):
            self._release(piece)
        self._queue.clear()
        self._flying.clear()

    def _write(self, piece):
        size = len(piece.data)
        if not self._flying:
            self._moved = self._loop.clock()
        self._flying[piece.offset] = piece
        self._bytes += size
        self.rate.charge(size)
        self.target.write(piece.offset, piece.data,
                          self._loop.reply(self._write_done, piece))

    def _write_done(self, piece, result):
        if not self.live:
            # An answer that comes after it was dropped.
            return
        if isinstance(result, Exception):
            self.drop(result)
            return
        del self._flying[piece.offset]
        self._moved = self._loop.clock()
        if self.idle:
            self._busy += self._moved - self._busy_since
            self._busy_since = None
        self._bytes -= len(piece.data)
        self.written += len(piece.data)
        self._release(piece)

    def _flush_done(self, unused, result):
        if isinstance(result, Exception):
            self.drop(result)
        elif self.live:
            self._flushed = True
