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


"""Digests of the data of a transfer.

The content digest, version ``dcn1``, stands for the virtual content of an
image at the cost of its data alone:

- a block is 64 KiB at a multiple of 64 KiB; the last one of an image is
  filled up with zeros; blocks of zeros do not take part;
- a chunk is 4 MiB, 64 blocks; its digest is SHA-256 over, for each of its
  blocks in order, the block's number in the image (8 bytes, big-endian) and
  the SHA-256 of the block; chunks without blocks do not take part;
- the digest is SHA-256 over ``dcn1:sha256:65536:``, the size of the image in
  bytes, and, for each chunk in order, its number and its digest (numbers are
  8 bytes, big-endian).

Blocks may come in any order and holes cost nothing. The chunks' digests are
a block list that can be stored: two images differ only in chunks whose
digests differ.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import typing

from glance_dcn.engine import extents
from glance_dcn.runtime import native

if typing.TYPE_CHECKING:
    Done = Callable[[Exception | None], object]

_Item = typing.TypeVar('_Item')

CHUNK = 4 << 20
_FORMAT = 'dcn1:sha256:%d:' % extents.BLOCK
_ZEROS = memoryview(extents.ZEROS)[:1 << 20]


def _number(value: int) -> bytes:
    return value.to_bytes(8, 'big')


class ContentDigest:
    """Computes the content digest of one image. Not thread-safe."""

    def __init__(self) -> None:
        self._open: dict[int, dict[int, bytes]] = {}
        self._chunks: dict[int, bytes] = {}
        self._folded = 0

    def update(self, offset: int, data: bytes) -> None:
        """Add blocks; those of zeros are skipped.

        :param offset: bytes, a multiple of the block
        :param data: shorter than whole blocks only at the image's end
        :raises ValueError: not at a block boundary, or in a chunk that was
            folded before
        """
        if offset % extents.BLOCK or offset < self._folded * CHUNK:
            raise ValueError('block at offset %d is not at a block boundary '
                             'or comes too late' % offset)
        view = memoryview(data)
        for start, stop in extents.runs(data):
            for at in range(start, stop, extents.BLOCK):
                self._add(offset + at,
                          view[at:min(at + extents.BLOCK, stop)])

    def _add(self, offset: int, block: memoryview) -> None:
        digest = hashlib.sha256(block)
        if len(block) < extents.BLOCK:
            digest.update(_ZEROS[:extents.BLOCK - len(block)])
        blocks = self._open.setdefault(offset // CHUNK, {})
        blocks[offset // extents.BLOCK] = digest.digest()
        if len(blocks) == CHUNK // extents.BLOCK:
            self._fold(offset // CHUNK)

    def fold(self, before: int) -> None:
        """Say that no block below an offset is still to come.

        It keeps memory small; the digest is the same without it.
        """
        self._folded = max(self._folded, before // CHUNK)
        for number in [n for n in self._open if n < self._folded]:
            self._fold(number)

    def _fold(self, number: int) -> None:
        digest = hashlib.sha256()
        for block, value in sorted(self._open.pop(number).items()):
            digest.update(_number(block) + value)
        self._chunks[number] = digest.digest()

    def chunks(self) -> list[tuple[int, bytes]]:
        """Return (chunk number, digest) of each chunk, in order."""
        for number in list(self._open):
            self._fold(number)
        return sorted(self._chunks.items())

    def finish(self, size: int) -> str:
        """Return the digest, as in ``dcn1:sha256:65536:<hex>``.

        :param size: bytes of the image
        """
        digest = hashlib.sha256(_FORMAT.encode() + _number(size))
        for number, value in self.chunks():
            digest.update(_number(number) + value)
        return _FORMAT + digest.hexdigest()


class Thread(typing.Generic[_Item]):
    """A thread that works through what it is given, in order.

    :param function: called with each item in that thread
    """

    def __init__(self, name: str,
                 function: Callable[[_Item], object]) -> None:
        self._queue: native.Queue[tuple[_Item, Done] | None] = native.Queue()
        self._function = function
        self.stopped = False
        native.start(name, self._run)

    def put(self, item: _Item, done: Done) -> None:
        """Queue an item; ``done`` gets None afterwards, or the exception."""
        self._queue.put((item, done))

    def stop(self) -> None:
        """End the thread and drop its queue."""
        self.stopped = True
        self._queue.put(None)

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            if job is None or self.stopped:
                return
            item, done = job
            result = None
            try:
                self._function(item)
            except Exception as error:
                result = error
            done(result)
            # Do not keep the buffer while waiting for the next one.
            del job, item, done, result


class Hash(Thread['bytes | int']):
    """A hash over all bytes of an image in order, in a thread of its own.

    It is given bytes, or zeros by their number.

    :param name: hashlib name
    :raises ValueError: there is no such hash here
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # Glance's checksum is md5 also where FIPS forbids it for security.
        self._hash = hashlib.new(name, usedforsecurity=False)
        super().__init__('hash-%s' % name, self._update)

    def hexdigest(self) -> str:
        """Return the digest, once all that was put is done."""
        return self._hash.hexdigest()

    def _update(self, item: bytes | int) -> None:
        if isinstance(item, bytes):
            self._hash.update(item)
            return
        # Stopped amid a long run of zeros, it ends at once.
        while item and not self.stopped:
            count = min(item, len(_ZEROS))
            self._hash.update(_ZEROS[:count])
            item -= count
