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


"""Reads an image's bytes in order, ahead of their user."""

from __future__ import annotations

import collections

from glance_dcn.engine.backends import base
from glance_dcn.engine import extents
from glance_dcn.engine import intake
from glance_dcn.engine import loop as loops
from glance_dcn.engine import rates
from glance_dcn.engine import transfer
from glance_dcn.runtime import native


AHEAD = 32 << 20

_TICK = 0.25


class Reader:
    """An iterator over byte strings of ``chunk`` bytes; the last is shorter.

    Holes are never asked for. Close it when it is not read to its end. The
    source is opened and closed by the caller.

    :param offset: where to begin, in bytes
    :param length: bytes, or None for all that follows
    :param chunk: bytes of each byte string
    :param ahead: bytes read ahead at most, or what a chunk needs
    :param timeout: seconds without any progress after which the source is
        given up
    :param loop: for tests
    """

    def __init__(self, source: base.Endpoint, offset: int = 0,
                 length: int | None = None, chunk: int = extents.REQUEST,
                 ahead: int = AHEAD, timeout: float = transfer.TIMEOUT,
                 rate: rates.Rate | None = None,
                 loop: loops.Loop | None = None) -> None:
        self._source = source
        self._chunk = chunk
        self._position = min(offset, source.size)
        self._end = source.size
        if length is not None:
            self._end = min(self._end, offset + length)
        # A chunk that straddles requests needs them all at once.
        self._ahead = max(ahead, chunk + 2 * extents.REQUEST)
        self._loop = loop or loops.Loop()
        self._held = 0
        self._next = 0
        # What came before its turn, by its place in the order; then what is
        # to be given out next: (offset, bytes).
        self._early: dict[int, tuple[int, bytes]] = {}
        self._ready: collections.deque[tuple[int, bytes]] = (
            collections.deque())
        self._zeros = bytes(min(chunk, max(0, self._end - self._position)))
        first = self._position // extents.BLOCK * extents.BLOCK
        self._intake = intake.Intake(
            self._loop, source, self._arrived, first, self._end - first,
            timeout, rate)
        self._started = False

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> bytes:
        """Return the next bytes.

        :raises RequestError: the source failed
        """
        if self._position >= self._end:
            self.close()
            raise StopIteration
        if not self._started:
            self._started = True
            self._intake.start()
        stop = min(self._position + self._chunk, self._end)
        while not self._known(stop):
            self._turn(_TICK)
        data = self._take(stop)
        # Keep reading ahead while the caller is busy with this one.
        self._intake.submit(self._room)
        return data

    @property
    def arrived(self) -> int:
        """Offset in bytes below which all is read, or known to be a hole."""
        if self._intake.finished:
            return self._end
        return min(self._intake.below, self._end)

    def close(self) -> None:
        """End the reading. Requests in flight are left alone."""
        self._intake.stop()
        self._position = self._end
        self._early.clear()
        self._ready.clear()
        native.give_back_memory()

    def _turn(self, timeout: float) -> None:
        self._intake.submit(self._room)
        delay = self._intake.rate.delay()
        self._loop.turn(min(timeout, delay) if delay else timeout)
        self._intake.check()

    def _room(self, length: int) -> bool:
        # One read must always be possible, whatever waits for its turn.
        held = self._held + self._intake.reserved
        return not held or held + length <= self._ahead

    def _known(self, stop: int) -> bool:
        """Whether everything below an offset is here, or a hole."""
        return self._intake.finished or self._intake.below >= stop

    def _arrived(self, request: intake.Request, data: bytes) -> None:
        self._held += len(data)
        self._early[request.sequence] = request.offset, data
        while self._next in self._early:
            self._ready.append(self._early.pop(self._next))
            self._next += 1

    def _take(self, stop: int) -> bytes:
        """Put together the bytes from the position to ``stop``."""
        start, self._position = self._position, stop
        parts = []
        at = start
        while self._ready and self._ready[0][0] < stop:
            offset, data = self._ready[0]
            end = min(stop, offset + len(data))
            if offset > at:
                parts.append(self._zeros[:offset - at])
                at = offset
            if at < end:
                parts.append(data[at - offset:end - offset])
                at = end
            if end < offset + len(data):
                break
            self._ready.popleft()
            self._held -= len(data)
        if at < stop:
            parts.append(self._zeros[:stop - at])
        return parts[0] if len(parts) == 1 else b''.join(parts)
