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
from glance_dcn.engine import rates

# Enough for a long line; more only fills the OSD's queues.
_REQUESTS = 256


class Lane:
    """The side of a transfer that belongs to one target.

    A lane that fails is dropped: it keeps its error, gives back the buffers
    that it holds, and takes no more.

    :param loop: :class:`~glance_dcn.engine.loop.Loop`
    :param target: endpoint
    :param release: called with each piece that is no longer needed
    :param window: bytes in flight at most
    :param timeout: seconds without progress after which it is given up
    :param rate: :class:`~glance_dcn.engine.rates.Rate`, or None
    :ivar error: why it was dropped, or None
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
        self.written = 0
        self._queue = collections.deque()
        self._flying = {}
        self._bytes = 0
        self._moved = loop.clock()
        self._ending = self._flushing = self._flushed = False

    @property
    def finished(self):
        """Whether it is dropped, or everything is written and flushed."""
        return self.error is not None or self._flushed

    def put(self, piece):
        """Take a piece to be written."""
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
        if (self._ending and not self._queue and not self._flying
                and not self._flushing and self.error is None):
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
        if self.error is not None:
            # An answer that comes after it was dropped.
            return
        if isinstance(result, Exception):
            self.drop(result)
            return
        del self._flying[piece.offset]
        self._moved = self._loop.clock()
        self._bytes -= len(piece.data)
        self.written += len(piece.data)
        self._release(piece)

    def _flush_done(self, unused, result):
        if isinstance(result, Exception):
            self.drop(result)
        elif self.error is None:
            self._flushed = True
