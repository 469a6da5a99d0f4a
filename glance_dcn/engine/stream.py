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

"""The bytes of an image in order: written to one target, or read ahead."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterable
import typing

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import fanout
from glance_dcn.engine import pacing
from glance_dcn.engine import source_reader
from glance_dcn.engine import transfer
from glance_dcn.runtime import native

# The steps by which a target of unknown final size grows.
_LEAST_STEP = 256 << 20
_LARGEST_STEP = 8 << 30


class Sink:
    """Takes the bytes of an image in order; use it as a context manager.

    Writing goes on while the caller fetches the next bytes, and so do the
    digests, each in a thread of its own. Zero blocks are not written, so the
    target must read as zeros.

    :param target: it is opened and closed by the caller
    :param size: bytes that will come, or None when that is not known; then the
        target is grown on the way and cut to size at the end
    :param hashes: hashlib names of hashes over all bytes
    :param tap: called with each byte string given to :meth:`write`, zeros
        too, in the caller's thread; such as ``verifier.update``
    :param memory: bytes of buffers held at most
    :param timeout: seconds without any progress after which the target is
        given up
    :param loop: for tests
    :raises ValueError: no such hash
    """

    def __init__(self, target: base.Endpoint, size: int | None = None,
                 content: bool = True, hashes: Iterable[str] = (),
                 tap: Callable[[bytes], object] | None = None,
                 memory: int = transfer.MEMORY,
                 timeout: float = transfer.TIMEOUT,
                 rate: pacing.Rate | None = None,
                 loop: pacing.Loop | None = None) -> None:
        self._target = target
        self._size = size
        self._tap = tap
        self._memory = max(memory, 2 * extents.REQUEST)
        self._loop = loop or pacing.Loop()
        self._cutter = extents.Cutter()
        self._sequence = 0
        self._fanout = fanout.Fanout(
            self._loop, [target], timeout, {target: rate}, content, hashes)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    @property
    def position(self) -> int:
        """Bytes that were taken so far."""
        return self._cutter.position

    def write(self, data: bytes) -> int:
        """Take the next bytes; waits only while the memory is used up.

        :returns: their number
        :raises RequestError: the target failed
        :raises SizeMismatch: more bytes than were promised
        """
        found = self.position + len(data)
        if self._size is not None and found > self._size:
            raise self._mismatch(found)
        if self._tap:
            self._tap(data)
        for offset, region in self._cutter.put(data):
            self._put(offset, region)
        return len(data)

    def write_from(self, source: typing.Any,
                   chunk: int = extents.REQUEST) -> None:
        """Take all bytes of a file-like object, or of an iterable of bytes.

        :param chunk: bytes to ask for at a time
        :raises: as :meth:`write`, and whatever the source raises
        """
        if not hasattr(source, 'read'):
            for data in source:
                self.write(data)
            return
        while True:
            data = source.read(chunk)
            if not data:
                return
            self.write(data)

    def finish(self) -> transfer.Result:
        """Write what is left, flush, and set the target's size.

        :raises RequestError: the target failed
        :raises SizeMismatch: not as many bytes as were promised
        """
        for offset, region in self._cutter.rest():
            self._put(offset, region)
        size = self.position
        if self._size not in (None, size):
            raise self._mismatch(size)
        self._fanout.end(size)
        while not self._fanout.finished:
            self._run_once(pacing.TICK)
        self._run_once(0)
        if self._target.size != size:
            self._target.resize(size)
        one = self._fanout.writers[0]
        if one.written != self._fanout.data:
            raise errors.SizeMismatch(self._target.name, self._fanout.data,
                                      one.written, 'data written')
        return transfer.Result(
            size, self._fanout.data, self._fanout.content(size),
            self._fanout.chunks(), self._fanout.hashes(),
            [transfer.Outcome(self._target, one.written, None)])

    def close(self) -> None:
        """End the threads. Requests in flight are left alone."""
        self._fanout.stop()
        native.give_back_memory()

    def _put(self, offset: int, region: bytes) -> None:
        end = offset + len(region)
        if not extents.is_zero(region) and end > self._target.size:
            self._grow(end)
        self._fanout.put(self._sequence, offset, region, end)
        self._sequence += 1
        self._run_once(0)
        while self._fanout.held + extents.REQUEST > self._memory:
            self._run_once(pacing.TICK)

    def _run_once(self, timeout: float) -> None:
        self._fanout.submit()
        if not self._fanout.finished:
            self._loop.run_once(timeout, self._fanout.delays())
        self._fanout.check()
        error = self._fanout.writers[0].error
        if error is not None:
            raise error

    def _grow(self, least: int) -> None:
        if self._size is not None:
            self._target.resize(self._size)
            return
        step = min(max(least, _LEAST_STEP), _LARGEST_STEP)
        self._target.resize(least + step)

    def _mismatch(self, found: int) -> errors.SizeMismatch:
        return errors.SizeMismatch(self._target.name, self._size, found,
                                   'stream')


AHEAD = 32 << 20


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
                 rate: pacing.Rate | None = None,
                 loop: pacing.Loop | None = None) -> None:
        self._source = source
        self._chunk = chunk
        self._position = min(offset, source.size)
        self._end = source.size
        if length is not None:
            self._end = min(self._end, offset + length)
        # A chunk that straddles requests needs them all at once.
        self._ahead = max(ahead, chunk + 2 * extents.REQUEST)
        self._loop = loop or pacing.Loop()
        self._held = 0
        self._next = 0
        # What came before its turn, by its place in the order; then what is
        # to be given out next: (offset, bytes).
        self._early: dict[int, tuple[int, bytes]] = {}
        self._ready: collections.deque[tuple[int, bytes]] = (
            collections.deque())
        self._zeros = bytes(min(chunk, max(0, self._end - self._position)))
        first = self._position // extents.BLOCK * extents.BLOCK
        self._reader = source_reader.SourceReader(
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
            self._reader.start()
        stop = min(self._position + self._chunk, self._end)
        while not self._known(stop):
            self._run_once()
        data = self._take(stop)
        # Keep reading ahead while the caller is busy with this one.
        self._reader.submit(self._room)
        return data

    @property
    def arrived(self) -> int:
        """Offset in bytes below which all is read, or known to be a hole."""
        if self._reader.finished:
            return self._end
        return min(self._reader.low_watermark, self._end)

    def close(self) -> None:
        """End the reading. Requests in flight are left alone."""
        self._reader.stop()
        self._position = self._end
        self._early.clear()
        self._ready.clear()
        native.give_back_memory()

    def _run_once(self) -> None:
        self._reader.submit(self._room)
        self._loop.run_once(delays=[self._reader.rate.delay()])
        self._reader.check()

    def _room(self, length: int) -> bool:
        # One read must always be possible, whatever waits for its turn.
        held = self._held + self._reader.reserved
        return not held or held + length <= self._ahead

    def _known(self, stop: int) -> bool:
        """Whether everything below an offset is here, or a hole."""
        return self._reader.finished or self._reader.low_watermark >= stop

    def _arrived(self, request: source_reader.Request, data: bytes) -> None:
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
