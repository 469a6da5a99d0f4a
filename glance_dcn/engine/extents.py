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


"""Extents of data in an image, and its holes.

The unit of sparseness is a block of 64 KiB: what an endpoint reports as data
is rounded outward to whole blocks to be read, and what was read is trimmed
to the runs of blocks that are not zero::

    reported       --###-----#####--------     (any offsets)
    read          [----|====|====|====|----]   (whole blocks)
    kept          [----|====|----|====|----]   (blocks that are not zero)

The last block of an image ends with the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import typing


BLOCK = 64 << 10
# The largest single request, and the region within which blocks are merged.
REQUEST = 4 << 20

ZEROS = bytes(REQUEST)
_ZERO_BLOCK = bytes(BLOCK)


class Extent(typing.NamedTuple):
    """A part of an image: ``offset`` and ``length`` in bytes.

    ``data`` is False where it certainly reads as zeros.
    """

    offset: int
    length: int
    data: bool


def cover(found: Iterable[tuple[int, int]], offset: int,
          end: int) -> Iterator[Extent]:
    """Fill the gaps between extents of data with holes.

    :param found: (offset, length) of data, in order, not overlapping
    :param offset: where to begin, in bytes
    :param end: where to end, in bytes
    :returns: extents that cover offset to end exactly
    """
    position = offset
    for start, length in found:
        stop = min(start + length, end)
        start = max(start, position)
        if stop <= start:
            continue
        if start > position:
            yield Extent(position, start - position, False)
        yield Extent(start, stop - start, True)
        position = stop
    if position < end:
        yield Extent(position, end - position, False)


def requests(found: Iterable[Extent], size: int,
             limit: int = REQUEST) -> Iterator[tuple[int, int]]:
    """Turn extents into the reads that fetch their data.

    Reads are whole blocks, neighbours are merged, and none crosses a
    multiple of ``limit``, so that each stays within one object.

    :param found: extents in order
    :param size: bytes of the image
    :param limit: bytes, a multiple of the block
    :returns: (offset, length) of each
    """
    start = stop = 0
    for extent in found:
        if not extent.data or not extent.length:
            continue
        first = extent.offset // BLOCK * BLOCK
        end = extent.offset + extent.length
        last = min(-(-end // BLOCK) * BLOCK, size)
        if first > stop:
            yield from _split(start, stop, limit)
            start = first
        elif start == stop:
            start = max(first, stop)
        stop = max(stop, last)
        # Hand out what no later extent can change.
        edge = stop // limit * limit
        if edge > start:
            yield from _split(start, edge, limit)
            start = edge
    yield from _split(start, stop, limit)


def _split(start: int, stop: int, limit: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min(stop, (start // limit + 1) * limit)
        yield start, end - start
        start = end


def is_zero(data: bytes) -> bool:
    """Whether all bytes are zero."""
    if len(data) <= len(ZEROS):
        # startswith() compares in place, many times faster than any().
        return ZEROS.startswith(data)
    return all(data.startswith(ZEROS[:len(data) - at], at)
               for at in range(0, len(data), len(ZEROS)))


def runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Find the runs of blocks that are not zero.

    :param data: bytes that begin at a block boundary of their image
    :returns: (start, stop) of each, relative to the data
    """
    length = len(data)
    start = None
    for at in range(0, length, BLOCK):
        if at + BLOCK <= length:
            zero = data.startswith(_ZERO_BLOCK, at)
        else:
            zero = is_zero(data[at:])
        if zero and start is not None:
            yield start, at
            start = None
        elif not zero and start is None:
            start = at
    if start is not None:
        yield start, length


def trim(data: bytes, offset: int) -> list[tuple[int, bytes]]:
    """Trim data to its blocks that are not zero.

    :param offset: where it is in its image: a block boundary
    :returns: (offset, bytes) of each run, copied unless all is kept
    """
    if data is ZEROS:
        return []
    if type(data) is not bytes:
        data = bytes(data)
    # A slice of all the bytes is the same object, not a copy.
    return [(offset + start, data[start:stop]) for start, stop in runs(data)]


class Cutter:
    """Cuts a stream of byte strings into regions aligned to ``REQUEST``."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0
        self._offset = 0

    def put(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Add the next bytes of the stream.

        :returns: iterator of (offset, bytes) of the regions now complete; it
            must be used up before the next call
        """
        at = 0
        while at < len(data):
            part = data[at:at + REQUEST - self._length]
            self._parts.append(part)
            self._length += len(part)
            at += len(part)
            if self._length == REQUEST:
                yield self._take()

    def rest(self) -> Iterator[tuple[int, bytes]]:
        """End the stream.

        :returns: iterator of at most one (offset, bytes), the last region
        """
        if self._length:
            yield self._take()

    @property
    def position(self) -> int:
        """Bytes of the stream that came so far."""
        return self._offset + self._length

    def _take(self) -> tuple[int, bytes]:
        # Joining a list of one bytes object returns that object.
        region = self._offset, b''.join(self._parts)
        self._offset += self._length
        self._parts = []
        self._length = 0
        return region
