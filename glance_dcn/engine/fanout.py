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

"""Shares each chunk of data among its users, and counts their memory.

Users are the writers of the targets, the content digest, and the hashes, which
need every byte in order, zeros too. A chunk's buffer is shared among them
and counted once, until the last of them is done with it.

What bounds a transfer is the memory of its buffers. So a target that trickles
soon has all the memory in its queue, and the others wait for it; and at the
end they wait until it is done, before they can be published. Such a laggard is
let go of only if that has cost the others some time, and if it is much slower
than they are: one that is a little slower would cost the source more, which
has to be read again for it, than it costs the others.

What is much slower is measured by the fastest third of the others, so that a
majority of laggards is let go of as well. Of targets that are all about as
slow none is, nor where fewer than a third are fast: for their sake the source
would be read for most of the targets once more. Where further targets wait
behind those of the transfer, the speeds of earlier ones count among the
others. Both the mean speed of a laggard is low and that while it holds back
others: one that has only begun late, or has had to share a line with those
that wait by now, catches up.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import math
import typing

from glance_dcn.engine.backends import base
from glance_dcn.engine import digests
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import pacing

# Requests in flight to a target: enough for a long line; more only fills the
# OSD's queues.
_REQUESTS = 256
# Bytes in flight to a target: at most, at first and at least. It is four times
# as much after each answer within half of these seconds, and half as much
# after one that takes longer: on a thin link requests are to be answered long
# before they time out, and what is in flight is sent in vain if the target is
# let go of.
WINDOW = 32 << 20
_FIRST, _LEAST = 1 << 20, 256 << 10
_SECONDS = 4
# Bytes in flight to all targets of a transfer together: the client of each has
# a copy of its own.
_TOGETHER = 64 << 20

# Seconds for which a laggard may hold back the others in any case, and the
# part of the time since the transfer began.
_PATIENCE = 0.5
_SHARE = 0.1
# A target is slow that has less than this part of the speed that each of the
# fastest third of the others has.
_SLOW = 0.5


def window_for(targets: int, window: int = WINDOW) -> int:
    """Return the bytes that may be in flight to each of several targets.

    One request at least, however many there are.

    :param window: bytes in flight to one at most
    """
    return max(extents.REQUEST, min(window, _TOGETHER // max(1, targets)))


class Chunk:
    """Data on its way: a run of blocks that are not zero."""

    __slots__ = ('offset', 'data', 'users')

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset = offset
        self.data = data
        self.users = 0


class _Write(typing.NamedTuple):
    """A request: a chunk, or a part of one.

    :ivar offset: where it is written, in bytes
    :ivar sent_at: seconds of the loop's clock
    """

    chunk: Chunk
    offset: int
    size: int
    sent_at: float


class TargetWriter:
    """Writes to one target of a transfer, many requests at a time.

    One that fails is dropped: it keeps its error, gives back the buffers that
    it holds, and takes no more. One that is too slow for the others is let go
    of: it gives back its buffers as well, and remembers from where on its
    target has to be written by another transfer.

    :param release: called with each chunk that is no longer needed
    :param window: bytes in flight at most
    :param timeout: seconds without progress after which it is dropped
    :ivar left_at: where another transfer has to begin, in bytes: everything
        below is written; None if it was not let go of
    :ivar written: bytes of the writes that are done
    :ivar flushed: whether everything is written and flushed
    """

    def __init__(self, loop: pacing.Loop, target: base.Endpoint,
                 release: Callable[[Chunk], object], window: int,
                 timeout: float, rate: pacing.Rate | None = None) -> None:
        self._loop = loop
        self.target = target
        self._release = release
        self._window = window
        self._allowed = min(window, _FIRST)
        self._timeout = timeout
        self.rate = rate or pacing.Rate()
        self.error: Exception | None = None
        self.left_at: int | None = None
        self.written = 0
        # Seconds in which it had something to do, and since when it has.
        self._busy = 0.0
        self._busy_since: float | None = None
        self._queue: collections.deque[Chunk] = collections.deque()
        # Bytes of the first chunk of the queue that are on their way.
        self._begun = 0
        self._in_flight: dict[int, _Write] = {}
        self._bytes = 0
        # Bytes that are not written yet, by offset of the chunk.
        self._left: dict[int, int] = {}
        self._last_progress = loop.clock()
        self._ending = self._flushing = self.flushed = False

    @property
    def finished(self) -> bool:
        """Whether it is dropped, or everything is written and flushed."""
        return not self.live or self.flushed

    @property
    def live(self) -> bool:
        """Whether it is neither dropped nor let go of."""
        return self.error is None and self.left_at is None

    @property
    def idle(self) -> bool:
        """Whether it waits for data."""
        return not self._queue and not self._in_flight

    @property
    def flushing(self) -> float:
        """Seconds for which its target has been flushing; 0 if it is not."""
        if not self._flushing or self.finished:
            return 0
        return self._loop.clock() - self._last_progress

    @property
    def speed(self) -> float:
        """Bytes per second, of the time in which it had something to do."""
        busy = self._busy
        if self._busy_since is not None:
            busy += self._loop.clock() - self._busy_since
        return self.written / busy if busy > 0 else float('inf')

    def put(self, chunk: Chunk) -> None:
        """Take a chunk to be written."""
        if self._busy_since is None:
            self._busy_since = self._loop.clock()
        self._queue.append(chunk)

    def end(self) -> None:
        """Flush when all is written; nothing more will come."""
        self._ending = True

    def submit(self) -> None:
        """Start the writes that window and rate allow."""
        while (self._queue and self._bytes < self._allowed
               and len(self._in_flight) < _REQUESTS
               and not self.rate.delay()):
            self._write_next()
            if self.error is not None:
                return
        if self._ending and self.idle and not self._flushing and self.live:
            self._flushing = True
            self._last_progress = self._loop.clock()
            self.target.flush(self._loop.callback(self._flush_done, None))

    def delay(self) -> float:
        """Return the seconds until the rate lets it go on; 0 for now."""
        return self.rate.delay() if self._queue else 0

    def check(self) -> None:
        """Drop the target when it does not answer."""
        if self.finished:
            return
        now = self._loop.clock()
        if not self._in_flight and not self._flushing:
            self._last_progress = now
        elif now - self._last_progress > self._timeout:
            first = next(iter(self._in_flight.values()), None)
            self.drop(errors.Stalled(
                self.target.name, 'write' if first else 'flush',
                self._timeout, first and first.offset))
        elif now - self._last_progress > errors.QUIET:
            error = self.target.lost()
            if error is not None:
                self.drop(error)

    def drop(self, error: Exception) -> None:
        """Record the error and write no more to the target."""
        if not self.finished:
            self.error = error
            self._release_all()

    def let_go(self, low_watermark: int) -> None:
        """Write no more: the target is to be written by another transfer.

        :param low_watermark: offset in bytes below which nothing is still to
            come
        """
        if not self.finished:
            # What is in flight may fail yet, unheard.
            self.left_at = min([low_watermark, *self._in_flight,
                                *(chunk.offset for chunk in self._queue)])
            self._release_all()

    def _release_all(self) -> None:
        chunks = {chunk.offset: chunk for chunk in (
            *self._queue,
            *(write.chunk for write in self._in_flight.values()))}
        for chunk in chunks.values():
            self._release(chunk)
        self._queue.clear()
        self._in_flight.clear()
        self._left.clear()

    def _write_next(self) -> None:
        """Write as much of the queue's first chunk as is allowed."""
        chunk, at = self._queue[0], self._begun
        room = max(_LEAST, self._allowed - self._bytes)
        size = min(room // extents.BLOCK * extents.BLOCK,
                   len(chunk.data) - at)
        whole = size == len(chunk.data)
        now = self._loop.clock()
        write = _Write(chunk, chunk.offset + at, size, now)
        self._left.setdefault(chunk.offset, len(chunk.data))
        self._begun += size
        if self._begun == len(chunk.data):
            self._queue.popleft()
            self._begun = 0
        if not self._in_flight:
            self._last_progress = now
        self._in_flight[write.offset] = write
        self._bytes += size
        self.rate.charge(size)
        self.target.write(
            write.offset, chunk.data if whole else chunk.data[at:at + size],
            self._loop.callback(self._write_done, write))

    def _write_done(self, write: _Write, result: Exception | None) -> None:
        if not self.live:
            # An answer that comes after it was dropped.
            return
        if isinstance(result, Exception):
            self.drop(result)
            return
        del self._in_flight[write.offset]
        self._last_progress = self._loop.clock()
        if self.idle and self._busy_since is not None:
            self._busy += self._last_progress - self._busy_since
            self._busy_since = None
        self._adapt(self._last_progress - write.sent_at)
        self._bytes -= write.size
        self.written += write.size
        chunk = write.chunk
        self._left[chunk.offset] -= write.size
        if not self._left[chunk.offset]:
            del self._left[chunk.offset]
            self._release(chunk)

    def _adapt(self, seconds: float) -> None:
        """Adapt the bytes in flight to the seconds that a write took."""
        if seconds > _SECONDS:
            self._allowed = max(_LEAST, self._allowed // 2)
        elif seconds < _SECONDS / 2:
            self._allowed = min(self._window, 4 * self._allowed)

    def _flush_done(self, unused: None, result: Exception | None) -> None:
        if isinstance(result, Exception):
            self.drop(result)
        elif self.live:
            self.flushed = True


class Fanout:
    """The receiving side of a transfer.

    :param timeout: seconds without progress after which a target is dropped
    :param limits: bandwidth by target
    :param content: whether the content digest is computed
    :param hashes: hashlib names
    :param window: bytes in flight to each target at most
    :raises ValueError: a hash has no such name
    :ivar held: bytes of the buffers that are still needed
    :ivar data: bytes of all blocks that were not zero
    """

    def __init__(self, loop: pacing.Loop, targets: Sequence[base.Endpoint],
                 timeout: float,
                 limits: Mapping[base.Endpoint, pacing.Rate | None],
                 content: bool, hashes: Iterable[str],
                 window: int = WINDOW) -> None:
        self._loop = loop
        self.held = self.data = 0
        # Items that digests and hashes have not answered yet.
        self._pending = 0
        self._sequence = 0
        self._waiting: dict[int, list[Chunk]] = {}
        self._position = 0
        self.writers = [
            TargetWriter(loop, target, self._release,
                         window_for(len(targets), window), timeout,
                         limits.get(target)) for target in targets]
        self._hashes: list[digests.Hash] = []
        self._digest: digests.ContentDigest | None = None
        self._thread: digests.Thread[tuple[int, bytes, int]] | None = None
        try:
            for name in dict.fromkeys(hashes):
                self._hashes.append(digests.Hash(name))
        except ValueError:
            self.stop()
            raise
        if content:
            self._digest = digests.ContentDigest()
            self._thread = digests.Thread('content-digest', self._update)

    def stop(self) -> None:
        """End the threads."""
        for thread in (self._thread, *self._hashes):
            if thread:
                thread.stop()

    @property
    def live(self) -> list[TargetWriter]:
        """The writers that are neither dropped nor let go of."""
        return [writer for writer in self.writers if writer.live]

    @property
    def finished(self) -> bool:
        """After :meth:`end`: whether all writers and digests are through."""
        return not self._pending and all(writer.finished
                                         for writer in self.writers)

    def put(self, sequence: int, offset: int, data: bytes,
            low_watermark: int) -> int:
        """Distribute the data of one read.

        :param sequence: its place among all that is put, counted from 0
        :param offset: bytes, a block boundary
        :param low_watermark: offset in bytes below which nothing is still to
            come
        :returns: bytes in it that are not zero blocks
        """
        found = [Chunk(*part) for part in extents.trim(data, offset)]
        size = 0
        for chunk in found:
            # What is still to come begins with the other chunks of this.
            self._share(chunk, low_watermark if chunk is found[-1] else 0)
            size += len(chunk.data)
        self.data += size
        if self._hashes:
            self._waiting[sequence] = found
            while self._sequence in self._waiting:
                for chunk in self._waiting.pop(self._sequence):
                    self._hash(chunk)
                self._sequence += 1
        return size

    def end(self, size: int) -> None:
        """End the data; ``size`` is the bytes of the image."""
        self._zeros(size)
        for writer in self.writers:
            writer.end()

    def submit(self) -> None:
        """Start the writes that can be started."""
        for writer in self.writers:
            writer.submit()

    def check(self) -> None:
        """Drop the targets that make no progress."""
        for writer in self.writers:
            writer.check()

    def delays(self) -> list[float]:
        """Return the seconds for which writers wait on their rates."""
        return [writer.delay() for writer in self.live]

    def content(self, size: int) -> str | None:
        """Return the content digest once finished, or None."""
        return self._digest.finish(size) if self._digest else None

    def chunks(self) -> list[tuple[int, bytes]] | None:
        """Return the content digest's chunks, or None."""
        return self._digest.chunks() if self._digest else None

    def hashes(self) -> dict[str, str]:
        """Return the hashes once finished: hex digests by name."""
        return {one.name: one.hexdigest() for one in self._hashes}

    def _share(self, chunk: Chunk, low_watermark: int) -> None:
        writers = self.live
        chunk.users = len(writers) + len(self._hashes) + bool(self._thread)
        if chunk.users:
            self.held += len(chunk.data)
        for writer in writers:
            writer.put(chunk)
        if self._thread:
            self._give(self._thread,
                       (chunk.offset, chunk.data, low_watermark), chunk)

    def _update(self, item: tuple[int, bytes, int]) -> None:
        assert self._digest is not None, 'it is made with the thread'
        offset, data, low_watermark = item
        self._digest.update(offset, data)
        self._digest.fold(low_watermark)

    def _hash(self, chunk: Chunk) -> None:
        self._zeros(chunk.offset)
        self._position += len(chunk.data)
        for one in self._hashes:
            self._give(one, chunk.data, chunk)

    def _zeros(self, end: int) -> None:
        count = end - self._position
        self._position = end
        if count:
            for one in self._hashes:
                self._give(one, count, None)

    def _give(self, thread: digests.Thread[typing.Any],
              item: typing.Any, chunk: Chunk | None) -> None:
        self._pending += 1
        thread.put(item, self._loop.callback(self._given, chunk))

    def _given(self, chunk: Chunk | None, result: Exception | None) -> None:
        if isinstance(result, Exception):
            raise result
        self._pending -= 1
        if chunk:
            self._release(chunk)

    def _release(self, chunk: Chunk) -> None:
        chunk.users -= 1
        if not chunk.users:
            self.held -= len(chunk.data)


class Laggards:
    """Finds the targets of a transfer that hold back others.

    :param behind: speeds (bytes per second) that earlier transfers lead to
        expect, if further targets wait for the end of this one; None if none
        do
    """

    def __init__(self, clock: Callable[[], float],
                 writers: Sequence[TargetWriter],
                 behind: Sequence[float] | None = None) -> None:
        self._clock = clock
        self._writers = writers
        self._behind = behind
        self._began = self._last = clock()
        # Seconds for which others were held back since one was let go of, and
        # bytes that each has written in these, and by the last time.
        self._held = 0.0
        self._moved = dict.fromkeys(writers, 0)
        self._written = dict.fromkeys(writers, 0)

    def find(self, blocked: bool, ended: bool) -> list[TargetWriter]:
        """Return the writers whose targets are to be let go of now.

        :param blocked: whether nothing is read because memory is full
        :param ended: whether everything has been read
        """
        now = self._clock()
        passed, self._last = now - self._last, now
        live = [writer for writer in self._writers if writer.live]
        moved = {writer: writer.written - self._written[writer]
                 for writer in live}
        for writer in live:
            self._written[writer] = writer.written
        if not (blocked or ended) or not (
                any(writer.flushed if ended else writer.idle
                    for writer in live) or self._behind is not None
                and all(self._is_slow(writer, live) for writer in live)):
            return []
        self._held += passed
        for writer in live:
            self._moved[writer] += moved[writer]
        patience = max(_PATIENCE, _SHARE * (now - self._began))
        found = [writer for writer in live if not writer.flushed and (
            writer.flushing > patience if writer.idle else
            self._held > patience and self._is_slow(
                writer, live, self._moved[writer] / self._held))]
        if found:
            self._held = 0.0
            self._moved = dict.fromkeys(self._writers, 0)
        return found

    def _is_slow(self, writer: TargetWriter, live: list[TargetWriter],
                 lately: float = 0) -> bool:
        return max(writer.speed, lately) < _SLOW * self._usual(live, writer)

    def _usual(self, live: list[TargetWriter], writer: TargetWriter) -> float:
        """Return the speed to be expected of a target, in bytes per second.

        One that has none to be compared with is to make way for those that
        wait behind it.
        """
        others = sorted([*(self._behind or ()), *(
            other.speed for other in live if other is not writer)])
        return (others[math.ceil(2 * len(others) / 3) - 1] if others
                else float('inf'))
