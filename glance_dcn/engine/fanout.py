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


"""Gives each piece of data to all who need it, and counts what they hold.

Those are the lanes of the targets, the content digest, and the hashes, which
need every byte in order, zeros too. A piece's buffer is shared among them
and counted once, until the last of them is done with it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import typing

from glance_dcn.engine.backends import base
from glance_dcn.engine import digests
from glance_dcn.engine import extents
from glance_dcn.engine import lane as lanes
from glance_dcn.engine import loop as loops


class Piece:
    """Data on its way: a run of blocks that are not zero."""

    __slots__ = ('offset', 'data', 'users')

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset = offset
        self.data = data
        self.users = 0


class Fanout:
    """The receiving side of a transfer.

    :param make_lane: called with a target and a release function
    :param hashes: hashlib names
    :raises ValueError: a hash has no such name
    :ivar held: bytes of the buffers that are still needed
    :ivar data: bytes of all blocks that were not zero
    """

    def __init__(self, loop: loops.Loop, targets: Iterable[base.Endpoint],
                 make_lane: Callable[[base.Endpoint, Callable[[Piece], None]],
                                     lanes.Lane],
                 content: bool, hashes: Iterable[str]) -> None:
        self._loop = loop
        self.held = self.data = 0
        self._owed = 0
        self._sequence = 0
        self._waiting: dict[int, list[Piece]] = {}
        self._position = 0
        self.lanes = [make_lane(target, self._release) for target in targets]
        self._hashes: list[digests.Hash] = []
        self._digest: digests.ContentDigest | None = None
        self._worker: digests.Worker[tuple[int, bytes, int]] | None = None
        try:
            for name in dict.fromkeys(hashes):
                self._hashes.append(digests.Hash(name))
        except ValueError:
            self.stop()
            raise
        if content:
            self._digest = digests.ContentDigest()
            self._worker = digests.Worker('content-digest', self._digested)

    def stop(self) -> None:
        """End the threads."""
        for thread in (self._worker, *self._hashes):
            if thread:
                thread.stop()

    @property
    def live(self) -> list[lanes.Lane]:
        """The lanes that are neither dropped nor let go of."""
        return [lane for lane in self.lanes if lane.live]

    @property
    def finished(self) -> bool:
        """After :meth:`end`: whether all lanes and digests are through."""
        return not self._owed and all(lane.finished for lane in self.lanes)

    def put(self, sequence: int, offset: int, data: bytes,
            below: int) -> int:
        """Take what was read.

        :param sequence: its place among all that is put, counted from 0
        :param offset: bytes, a block boundary
        :param below: offset in bytes below which nothing is still to come
        :returns: bytes in it that are not zero blocks
        """
        found = [Piece(*part) for part in extents.pieces(data, offset)]
        size = 0
        for piece in found:
            # What is still to come begins with the other pieces of this.
            self._share(piece, below if piece is found[-1] else 0)
            size += len(piece.data)
        self.data += size
        if self._hashes:
            self._waiting[sequence] = found
            while self._sequence in self._waiting:
                for piece in self._waiting.pop(self._sequence):
                    self._hash(piece)
                self._sequence += 1
        return size

    def end(self, size: int) -> None:
        """Nothing more will come.

        :param size: bytes of the image
        """
        self._zeros(size)
        for lane in self.lanes:
            lane.end()

    def submit(self) -> None:
        """Start the writes that can be started."""
        for lane in self.lanes:
            lane.submit()

    def check(self) -> None:
        """Drop the lanes that do not move."""
        for lane in self.lanes:
            lane.check()

    def delays(self) -> list[float]:
        """Return the seconds for which lanes wait on their rates."""
        return [lane.delay() for lane in self.live]

    def content(self, size: int) -> str | None:
        """Return the content digest once finished, or None."""
        return self._digest.finish(size) if self._digest else None

    def chunks(self) -> list[tuple[int, bytes]] | None:
        """Return the content digest's chunks, or None."""
        return self._digest.chunks() if self._digest else None

    def hashes(self) -> dict[str, str]:
        """Return the hashes once finished: hex digests by name."""
        return {one.name: one.hexdigest() for one in self._hashes}

    def _share(self, piece: Piece, below: int) -> None:
        lanes = self.live
        piece.users = len(lanes) + len(self._hashes) + bool(self._worker)
        if piece.users:
            self.held += len(piece.data)
        for lane in lanes:
            lane.put(piece)
        if self._worker:
            self._give(self._worker, (piece.offset, piece.data, below), piece)

    def _digested(self, item: tuple[int, bytes, int]) -> None:
        assert self._digest is not None, 'it is made with the worker'
        offset, data, below = item
        self._digest.update(offset, data)
        self._digest.fold(below)

    def _hash(self, piece: Piece) -> None:
        self._zeros(piece.offset)
        self._position += len(piece.data)
        for one in self._hashes:
            self._give(one, piece.data, piece)

    def _zeros(self, end: int) -> None:
        count = end - self._position
        self._position = end
        if count:
            for one in self._hashes:
                self._give(one, count, None)

    def _give(self, thread: digests.Worker[typing.Any] | digests.Hash,
              item: typing.Any, piece: Piece | None) -> None:
        self._owed += 1
        thread.put(item, self._loop.reply(self._given, piece))

    def _given(self, piece: Piece | None, result: Exception | None) -> None:
        if isinstance(result, Exception):
            raise result
        self._owed -= 1
        if piece:
            self._release(piece)

    def _release(self, piece: Piece) -> None:
        piece.users -= 1
        if not piece.users:
            self.held -= len(piece.data)
