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


"""Writes a stream of bytes to one target, without its zeros."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import typing

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import fanout
from glance_dcn.engine import lane
from glance_dcn.engine import loop as loops
from glance_dcn.engine import rates
from glance_dcn.engine import transfer
from glance_dcn.runtime import native


# The steps by which a target of unknown final size grows.
_LEAST_STEP = 256 << 20
_LARGEST_STEP = 8 << 30

_TICK = 0.25


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
    :param window: bytes in flight at most
    :param timeout: seconds without any progress after which the target is
        given up
    :param loop: for tests
    :raises ValueError: no such hash
    """

    def __init__(self, target: base.Endpoint, size: int | None = None,
                 content: bool = True, hashes: Iterable[str] = (),
                 tap: Callable[[bytes], object] | None = None,
                 memory: int = transfer.MEMORY, window: int = transfer.WINDOW,
                 timeout: float = transfer.TIMEOUT,
                 rate: rates.Rate | None = None,
                 loop: loops.Loop | None = None) -> None:
        self._target = target
        self._size = size
        self._tap = tap
        self._memory = max(memory, 2 * extents.REQUEST)
        self._loop = loop or loops.Loop()
        self._cutter = extents.Cutter()
        self._sequence = 0
        self._fanout = fanout.Fanout(
            self._loop, [target], lambda target, release: lane.Lane(
                self._loop, target, release, window, timeout, rate),
            content, hashes)

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

        :param source: has ``read(count)``, or yields bytes
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
            self._turn(_TICK)
        self._turn(0)
        if self._target.size != size:
            self._target.resize(size)
        one = self._fanout.lanes[0]
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
        self._turn(0)
        while self._fanout.held + extents.REQUEST > self._memory:
            self._turn(_TICK)

    def _turn(self, timeout: float) -> None:
        self._fanout.submit()
        if not self._fanout.finished:
            self._loop.turn(
                min([timeout, *filter(None, self._fanout.delays())]))
        self._fanout.check()
        error = self._fanout.lanes[0].error
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
