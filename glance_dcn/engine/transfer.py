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


r"""One source, read once, to any number of targets at the same time.

::

    lister -> SourceReader --reads--> Fanout -> TargetWriter --writes--> target
    (thread)                            | \-> TargetWriter --writes--> target
                                        |---> content digest (thread)
                                        \---> md5, sha512, ... (one each)

All of it is driven by the caller's thread (see :mod:`.pacing`). What bounds it
is the memory of the buffers: a read starts only when there is room for what
it will bring, and room comes back when the last user of a buffer is done.
So a slow target holds back a fast one by no more than that memory, unless it
is let go of (see :mod:`.fanout`): its target is then written to the end by
a transfer of its own, which begins where the shared one has left it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import fanout
from glance_dcn.engine import pacing
from glance_dcn.engine import source_reader
from glance_dcn.runtime import native


MEMORY = 128 << 20
TIMEOUT = 60


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a transfer; all numbers are bytes.

    :ivar bytes_read: extents of the source read so far
    :ivar planned: extents of the source known so far
    :ivar listed: whether ``planned`` is all there is
    :ivar position: everything below it is read
    :ivar size: size of the source
    :ivar data: blocks that were not zero, read so far
    :ivar written: of these, what is written, by target name
    """

    bytes_read: int
    planned: int
    listed: bool
    position: int
    size: int
    data: int
    written: dict[str, int]

    @property
    def fraction(self) -> float:
        """Part of the source that is read, 0 to 1."""
        if self.listed:
            return self.bytes_read / self.planned if self.planned else 1.0
        return self.position / self.size


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one target.

    :ivar left_at: where another transfer has to begin, in bytes, if it was
        let go of: everything below is written; None if it was not
    :ivar speed: bytes per second; infinite if it had nothing to do
    """

    target: base.Endpoint
    written: int
    error: Exception | None
    left_at: int | None = None
    speed: float = float('inf')


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a transfer.

    :ivar data: bytes of its blocks that are not zero
    :ivar chunks: (number, digest) of the content digest's chunks that were
        read
    :ivar hashes: hex digests by hashlib name
    :ivar outcomes: one for each target, in their order
    """

    size: int
    data: int
    content: str | None
    chunks: list[tuple[int, bytes]] | None
    hashes: dict[str, str]
    outcomes: list[Outcome]


class Transfer:
    """A copy from one source to targets, or only a reading of the source.

    The targets must read as zeros and have the source's size. Endpoints are
    opened and closed by the caller. One that begins in the midst of the image
    proves what it reads by the chunks of the content digest, and knows no
    digest or hash of all of it.

    :param targets: with none, only digests are computed
    :param hashes: hashlib names of hashes over all bytes
    :param expected: content digest that the source must turn out to have
    :param memory: bytes of buffers held at most, at least 8 MiB
    :param window: bytes in flight to each target at most; less with many,
        see :func:`glance_dcn.engine.fanout.window_for`
    :param timeout: seconds without any progress after which an endpoint is
        given up
    :param progress: called now and then, and at the end
    :param interval: seconds between calls of ``progress``
    :param next_source: called with the error when the source fails;
        returns another endpoint of the same content to go on with, or None
    :param lets_go: whether targets that hold back others are let go of. When
        none is left, it goes on without any, unless the content is known
    :param behind: see :class:`glance_dcn.engine.fanout.Laggards`
    :param offset: where to begin, in bytes, a multiple of
        :data:`glance_dcn.engine.digests.CHUNK`
    :param chunks: (number, digest) of the content digest's chunks that the
        source must turn out to have from there on
    :param loop: for tests
    :raises ValueError: too little memory, or no such hash
    """

    def __init__(self, source: base.Endpoint,
                 targets: Sequence[base.Endpoint] = (), content: bool = True,
                 hashes: Iterable[str] = (), expected: str | None = None,
                 memory: int = MEMORY, window: int = fanout.WINDOW,
                 timeout: float = TIMEOUT,
                 limits: Mapping[base.Endpoint, pacing.Rate] | None = None,
                 progress: Callable[[Progress], object] | None = None,
                 interval: float = 1,
                 next_source: Callable[[errors.EngineError],
                                       base.Endpoint | None] | None = None,
                 lets_go: bool = False,
                 behind: Sequence[float] | None = None, offset: int = 0,
                 chunks: list[tuple[int, bytes]] | None = None,
                 loop: pacing.Loop | None = None) -> None:
        if memory < 2 * extents.REQUEST:
            raise ValueError('memory must be at least %d bytes'
                             % (2 * extents.REQUEST))
        limits = limits or {}
        self._source = source
        self._size = source.size
        self._memory = memory
        self._expected = expected
        self._chunks = chunks
        self._offset = offset
        self._progress = progress
        self._interval = interval
        self._next_source = next_source
        self._loop = loop or pacing.Loop()
        self._reported = self._loop.clock()
        self._reader = source_reader.SourceReader(
            self._loop, source, self._arrived, offset, timeout=timeout,
            rate=limits.get(source))
        self._fanout = fanout.Fanout(
            self._loop, targets, timeout, limits,
            content or expected is not None or chunks is not None, hashes,
            window)
        self._laggards = fanout.Laggards(
            self._loop.clock, self._fanout.writers, behind
        ) if lets_go else None

    def cancel(self) -> None:
        """Make :meth:`run` raise at once. Any thread may call it."""
        self._loop.cancel()

    def run(self) -> Result:
        """Run the transfer, in the caller's thread.

        A target that fails is given up, and the others go on; when none is
        left, it ends.

        :returns: what was done; look at the error of each outcome
        :raises RequestError: the source failed
        :raises SizeMismatch: the source changed meanwhile
        :raises DigestMismatch: the source is not what was expected
        :raises Cancelled: after :meth:`cancel`; requests may then still be
            in flight, which closing the endpoints takes care of
        """
        try:
            self._check_sizes()
            self._reader.start()
            while not self._reader.finished and self._wanted():
                self._run_once()
            if self._wanted():
                self._fanout.end(self._size)
            while not self._fanout.finished and self._wanted():
                self._run_once()
            return self._result()
        finally:
            self._reader.stop()
            self._fanout.stop()
            native.give_back_memory()

    def _wanted(self) -> bool:
        return (bool(self._fanout.live) or not self._fanout.writers
                or self._expected is None and any(
                    one.left_at is not None for one in self._fanout.writers))

    def _run_once(self) -> None:
        self._reader.submit(self._room)
        self._fanout.submit()
        if not self._reader.finished or not self._fanout.finished:
            self._loop.run_once(delays=[*self._fanout.delays(),
                                        self._reader.rate.delay()])
        try:
            self._reader.check()
        except errors.EngineError as error:
            self._replace_source(error)
            # That took its time: see first what the targets have answered.
            return
        self._fanout.check()
        if self._laggards:
            self._let_laggards_go(self._laggards)
        if self._loop.clock() - self._reported >= self._interval:
            self._report()

    def _let_laggards_go(self, finder: fanout.Laggards) -> None:
        ended = self._reader.finished
        blocked = not ended and self._reader.is_blocked(self._room)
        for one in finder.find(blocked, ended):
            one.let_go(self._reader.low_watermark)

    def _replace_source(self, error: errors.EngineError) -> None:
        """Continue with another source, or raise the error of this one."""
        source = (self._next_source(error) if self._next_source
                  else None)
        if source is None:
            raise error
        if source.size != self._size:
            raise errors.SizeMismatch(source.name, self._size, source.size)
        self._source = source
        self._reader.replace(source)

    def _room(self, length: int) -> bool:
        return (self._fanout.held + self._reader.reserved + length
                <= self._memory)

    def _arrived(self, request: source_reader.Request, data: bytes) -> None:
        found = self._fanout.put(request.sequence, request.offset, data,
                                 self._reader.low_watermark)
        self._reader.rate.charge(found - request.length)

    def _report(self) -> None:
        self._reported = self._loop.clock()
        if not self._progress:
            return
        self._progress(Progress(
            self._reader.bytes_read, self._reader.planned, self._reader.listed,
            self._reader.low_watermark, self._size, self._fanout.data,
            {one.target.name: one.written for one in self._fanout.writers}))

    def _check_sizes(self) -> None:
        for one in self._fanout.writers:
            if one.target.size != self._size:
                one.drop(errors.SizeMismatch(
                    one.target.name, self._size, one.target.size))

    def _check_totals(self) -> None:
        """Count once more at the end: nothing may be missing anywhere."""
        if self._source.size != self._size:
            raise errors.SizeMismatch(self._source.name, self._size,
                                      self._source.size)
        if self._reader.bytes_read != self._reader.planned:
            raise errors.SizeMismatch(
                self._source.name, self._reader.planned,
                self._reader.bytes_read, 'data read')
        for one in self._fanout.live:
            if one.written != self._fanout.data:
                one.error = errors.SizeMismatch(
                    one.target.name, self._fanout.data, one.written,
                    'data written')

    def _result(self) -> Result:
        content = chunks = None
        hashes: dict[str, str] = {}
        if self._wanted():
            self._check_totals()
            if not self._offset:
                content = self._fanout.content(self._size)
            chunks = self._fanout.chunks()
            hashes = self._fanout.hashes()
            if self._expected not in (None, content):
                raise errors.DigestMismatch(self._source.name,
                                            self._expected, content)
            self._check_chunks(chunks)
        self._report()
        return Result(self._size, self._fanout.data, content, chunks, hashes,
                      [Outcome(one.target, one.written, one.error,
                               one.left_at, one.speed)
                       for one in self._fanout.writers])

    def _check_chunks(self, found: list[tuple[int, bytes]] | None) -> None:
        """Compare the chunks of what was read with those that it must have.

        :raises DigestMismatch: if one differs; it names the first of them
        """
        if self._chunks is None or found == self._chunks:
            return
        expected, actual = dict(self._chunks), dict(found or ())
        number = min(number for number in {*expected, *actual}
                     if expected.get(number) != actual.get(number))
        raise errors.DigestMismatch(self._source.name, *(
            'chunk %d: %s' % (number, one[number].hex() if number in one
                              else 'zeros') for one in (expected, actual)))
