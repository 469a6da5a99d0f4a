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

"""Changes to files that make those who read them stumble, or work hard."""

import dataclasses
import random
import struct

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

# What fields of headers are overwritten by, of any length.
_NUMBERS = [0, 1, 2, 3, 4, 7, 8, 9, 16, 21, 22, 31, 32, 63, 64, 65, 104, 255,
            511, 512, 513, 4095, 4096, 65535, 65536, MiB - 1, MiB, 32 * MiB,
            (1 << 31) - 1, 1 << 31, (1 << 32) - 512, (1 << 32) - 1, 1 << 40,
            (1 << 55) - 1, 1 << 55, (1 << 56) - 512, 1 << 62, (1 << 63) - 512,
            (1 << 63) - 1, 1 << 63, (1 << 64) - 512, (1 << 64) - 1]
# What parts of files are filled with.
_TOKENS = [b'\0', b'\xff', b'\n', b' ', b'\t\n', b'\r\n', b'\r', b'"', b'=',
           b'#', b'RW', b'RW \n', b'RW 1 ', b'RW 1 SPARSE "x"\n',
           b'RW 1 FLAT "/etc/passwd"\n', b'createType', b'createType=\n',
           b'createType="monolithicSparse"\n', b'ddb.x = "y"\n', b'a=b\n',
           b'parentFileNameHint="/etc/passwd"\n', b'\xc3\xa9', b'\x80',
           b'KDMV', b'QFI\xfb', b'conectix', b'vhdxfile', b'metadata',
           b'regi\0\0\0\0\xff\x07\0\0\0\0\0\0',
           struct.pack('>II', 0x44415441, 0), struct.pack('>II', 1, 0),
           struct.pack('>Q', 1 << 63 | 64 * KiB),
           struct.pack('>Q', 1 << 62 | 1)]
# Bytes at the beginning that are more likely to be changed than others.
_HEADER = 4 * KiB
# Where formats have what matters, besides.
_PLACES = [0, 8, 20, 36, 40, 48, 56, 64, 72, 100, 104, 344, 376, 446, 512,
           1024, 32 * KiB, 64 * KiB, 128 * KiB, 192 * KiB, 256 * KiB, MiB,
           2 * MiB]


@dataclasses.dataclass
class File:
    """A file that is being changed.

    :ivar data: its content
    :ivar length: bytes it is long; what is behind the content is a hole
    """

    data: bytearray
    length: int

    def write(self, path):
        """Write the file, with holes where it is all zeros."""
        view = memoryview(self.data)
        with open(path, 'wb') as file:
            for start in range(0, len(view), 64 * KiB):
                piece = view[start:start + 64 * KiB]
                if any(piece):
                    file.seek(start)
                    file.write(piece)
            file.truncate(self.length)


def make(files, seed, number):
    """Return a changed file.

    :param files: the sound files, bytes by the name of their kind
    :param seed: of the run
    :param number: of the file
    :returns: tuple of the name of the kind, and a :class:`File`
    """
    chance = random.Random('%d/%d' % (seed, number))
    # Each kind as often as each other.
    name = sorted(files)[number % len(files)]
    data = files[name]
    file = File(bytearray(data), len(data))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        chance.choice(_CHANGES)(file, chance, files)
    file.length = max(file.length, len(file.data))
    return name, file


def _place(file, chance):
    kind = chance.random()
    if kind < .4:
        return chance.randrange(_HEADER)
    if kind < .8:
        return chance.choice(_PLACES) + 4 * chance.randrange(8)
    return chance.randrange(len(file.data) + 1)


def _put(file, start, data):
    """Overwrite what is there, at most up to 8 MiB."""
    end = min(start + len(data), 8 * MiB)
    if end > len(file.data):
        file.data.extend(bytes(end - len(file.data)))
    file.data[start:end] = data[:end - start]
    file.length = max(file.length, len(file.data))


def _flip(file, chance, _files):
    for _ in range(chance.choice((1, 4, 64))):
        if file.data:
            start = min(_place(file, chance), len(file.data) - 1)
            file.data[start] ^= 1 << chance.randrange(8)


def _number(file, chance, _files):
    size = chance.choice((1, 2, 4, 4, 8, 8, 8))
    value = chance.choice(_NUMBERS) + chance.choice((0, 0, 0, -1, 1))
    value %= 1 << 8 * size
    _put(file, _place(file, chance), value.to_bytes(
        size, chance.choice(('little', 'big'))))


def _fill(file, chance, _files):
    token = chance.choice(_TOKENS)
    length = chance.choice((8, 512, 4 * KiB, 64 * KiB, 98 * KiB, MiB))
    _put(file, _place(file, chance), token * (length // len(token)))


def _random(file, chance, _files):
    _put(file, _place(file, chance), chance.randbytes(
        chance.choice((1, 8, 512, 64 * KiB))))


def _truncate(file, chance, _files):
    length = min(_place(file, chance), len(file.data))
    del file.data[length:]
    file.length = len(file.data)


def _extend(file, chance, _files):
    file.length = max(file.length, chance.choice(
        (1, 511, 512, 64 * KiB, MiB, 16 * MiB, GiB // 2)) + len(file.data))


def _copy(file, chance, _files):
    start, length = _place(file, chance), chance.choice((8, 512, 64 * KiB))
    _put(file, _place(file, chance), bytes(file.data[start:start + length]))


def _splice(file, chance, files):
    """Put a part of a file of any kind into it, at the same place or not."""
    other = files[chance.choice(sorted(files))]
    start, length = _place(file, chance), chance.choice((64, 512, 4 * KiB,
                                                         256 * KiB))
    _put(file, chance.choice((start, _place(file, chance))),
         other[start:start + length])


def _table(file, chance, _files):
    """Put a table of offsets into it, such as overlap or lead nowhere."""
    step = chance.choice((0, 1, 8, 512, 4 * KiB, 64 * KiB, 2 * MiB))
    first = chance.choice(_NUMBERS)
    order = chance.choice('<>') + 'Q'
    _put(file, _place(file, chance), b''.join(
        struct.pack(order, (first + step * number) % (1 << 64))
        for number in range(chance.choice((64, 8192)))))


_CHANGES = (_flip, _number, _number, _number, _fill, _fill, _random,
            _truncate, _extend, _copy, _splice, _splice, _table)
