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


"""An image in memory, for tests and small images."""

from __future__ import annotations

import errno

from glance_dcn.engine.backends import base
from glance_dcn.engine import extents

_BLOCK = extents.BLOCK


class Memory(base.Endpoint):
    """A sparse image in memory; every request is answered at once.

    :param name: what errors call it
    :param size: bytes
    :param data: first content
    """

    def __init__(self, name: str = 'memory', size: int = 0,
                 data: bytes = b'') -> None:
        super().__init__(name)
        self.size = max(size, len(data))
        self.flushed = 0
        self.blocks: dict[int, bytearray] = {}
        if data:
            self._store(0, data)

    def extents(self, offset: int = 0,
                length: int | None = None) -> base.Extents:
        found = [(n * _BLOCK, _BLOCK) for n in sorted(self.blocks)]
        return extents.cover(found, offset, self._end(offset, length))

    def read(self, offset: int, length: int, done: base.Read) -> None:
        if offset + length > self.size:
            done(self._error('read', errno.EINVAL, offset, length))
            return
        done(self.content(offset, length))

    def write(self, offset: int, data: bytes, done: base.Done) -> None:
        if offset + len(data) > self.size:
            done(self._error('write', errno.EINVAL, offset, len(data)))
            return
        self._store(offset, data)
        done(None)

    def flush(self, done: base.Done) -> None:
        self.flushed += 1
        done(None)

    def resize(self, size: int) -> None:
        if size < self.size:
            tail = self.content(size // _BLOCK * _BLOCK, size % _BLOCK)
            self.blocks = {n: block for n, block in self.blocks.items()
                           if n < size // _BLOCK}
            self._store(size // _BLOCK * _BLOCK, tail)
        self.size = size

    def content(self, offset: int = 0, length: int | None = None) -> bytes:
        """Return bytes of the image."""
        end = self._end(offset, length)
        result = bytearray(max(0, end - offset))
        for number in range(offset // _BLOCK, -(-end // _BLOCK)):
            block = self.blocks.get(number)
            if block:
                start = max(offset, number * _BLOCK)
                stop = min(end, (number + 1) * _BLOCK)
                base_ = number * _BLOCK
                result[start - offset:stop - offset] = (
                    block[start - base_:stop - base_])
        return bytes(result)

    def _store(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            number, start = divmod(offset + at, _BLOCK)
            count = min(_BLOCK - start, len(data) - at)
            block = self.blocks.setdefault(number, bytearray(_BLOCK))
            block[start:start + count] = data[at:at + count]
            at += count
