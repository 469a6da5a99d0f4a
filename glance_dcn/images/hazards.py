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

"""Hazards of image files to qemu-img, and files without their end.

Formats can name other files, which qemu-img would open on this machine. The
header is examined here before qemu-img sees the file, because even
``qemu-img info`` opens some of them; what it then reports is examined too.

Headers lie. What is read here is bounded by the length of the file, whatever
they say, each byte of it is read a fixed number of times at most, and the
time that takes is linear in what is read. The patterns of regular expressions
in this module can fail in one way only at each character. All the same this
belongs into a limited process, see :mod:`.inspection`.
"""

from __future__ import annotations

import array
import collections.abc
import os
import re
import struct
import sys
import typing

#: Formats that qemu-img may be told to read.
FORMATS = ('raw', 'qcow2', 'vmdk', 'vdi', 'vpc', 'vhdx', 'parallels')
#: What qemu-img calls a format, where Glance calls it by another name.
DRIVERS = {'vhd': 'vpc', 'ploop': 'parallels'}

_QCOW2_MAGIC = b'QFI\xfb'
_QCOW2_DATA_FILE = 1 << 2
_QCOW2_DATA_FILE_NAME = 0x44415441
_QCOW2_EXTENDED = 1 << 4
_QCOW2_OFFSET = (1 << 56) - 512
_QCOW2_COMPRESSED = 1 << 62
# An entry of zeros may have a place that was never written.
_QCOW2_ZERO = 1
# The most that qemu-img takes: bytes, and exponents of two.
_QCOW2_LARGEST_L1 = 32 << 20
_QCOW2_CLUSTER_BITS = range(9, 22)
# What is kept of each is a bit, of all 64 MiB. The largest disk of clusters of
# 512 bytes has half as many.
_QCOW2_MOST_CLUSTERS = 1 << 29
_VMDK_MAGIC = b'KDMV'
_VMDK_SAFE = ('monolithicSparse', 'streamOptimized')
# At the beginning of a line: not \s, which also goes on to the next lines, so
# that each of many empty lines would be gone over from each before it.
_VMDK_EXTENT = re.compile(
    r'^[^\S\n]*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\S+)', re.MULTILINE)
_VMDK_TYPE = re.compile(r'^[^\S\n]*createType\s*=\s*"?([^"\r\n]*)"?',
                        re.MULTILINE)
_SECTOR = 512
_LARGEST_DESCRIPTOR = 1 << 20
# Characters of a file's own words that are shown, and how many such words.
_SHOWN = 40
_WORDS = 3


def find(file: typing.BinaryIO, driver: str) -> list[str]:
    """Return why an image file must not be given to qemu-img.

    :param driver: what qemu-img calls its format
    :returns: reasons, for users; none if it may be
    :raises OSError: it cannot be read
    """
    if driver not in FORMATS:
        return ['format %r is not supported' % driver]
    if driver == 'qcow2':
        return _qcow2(file)
    if driver == 'vmdk':
        return _vmdk(file)
    return []


def find_in_report(driver: str,
                   report: collections.abc.Mapping[str, typing.Any]
                   ) -> list[str]:
    """Return what of ``qemu-img info --output=json`` forbids to use an image.

    :param driver: what qemu-img calls the format it is declared to have
    :param report: the parsed report
    :returns: reasons, for users; none if it may be used
    """
    reasons = []
    if report.get('format') != driver:
        reasons.append('it is %s, not %s' % (report.get('format'), driver))
    for key in ('backing-filename', 'full-backing-filename'):
        if report.get(key):
            reasons.append('it has the backing file %s' % _shown(report[key]))
            break
    if report.get('encrypted'):
        reasons.append('it is encrypted')
    specific = (report.get('format-specific') or {}).get('data') or {}
    if specific.get('data-file'):
        reasons.append('it has the data file %s'
                       % _shown(specific['data-file']))
    if driver == 'vmdk':
        kind = specific.get('create-type')
        if kind not in _VMDK_SAFE:
            reasons.append('its VMDK type is %s' % _shown(kind))
        if len(specific.get('extents', ())) > 1:
            reasons.append('it has more than one extent')
    return reasons


def find_missing(file: typing.BinaryIO, driver: str) -> list[str]:
    """Return what a safe image file lacks or has in the wrong place.

    What lies behind the end of a file is all zeros to qemu-img. It says so
    of vpc and vhdx files, and ``qemu-img check`` of vmdk and parallels files.
    The last cluster may be a short one in whole files, too.

    :param file: the file, in which :func:`find` has found nothing
    :param driver: what qemu-img calls its format
    :returns: reasons, for users; none if it is whole
    :raises OSError: it cannot be read
    """
    if driver == 'qcow2':
        return _qcow2_missing(file)
    if driver == 'vdi':
        return _vdi_missing(file)
    return []


def _read(file: typing.BinaryIO, offset: int, length: int) -> bytes:
    """Return bytes of a file, fewer where it has no more."""
    size = os.fstat(file.fileno()).st_size
    # Offsets may be larger than any that the system knows.
    if not 0 <= offset < size:
        return b''
    file.seek(offset)
    return file.read(min(length, size - offset))


def _shown(word: object) -> str:
    """Return a word that the file says, as users may be shown it."""
    text = str(word)
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + '...'
    return ''.join(char if char.isprintable() else '?' for char in text)


def _listed(words: collections.abc.Sequence[str]) -> str:
    shown = [_shown(word) for word in words[:_WORDS]]
    return ', '.join(shown + ['...'] * (len(words) > _WORDS)) or 'missing'


def _qcow2(file: typing.BinaryIO) -> list[str]:
    header = _read(file, 0, _SECTOR)
    if header[:4] != _QCOW2_MAGIC or len(header) < 72:
        return ['it has no qcow2 header']
    version, backing = struct.unpack_from('>IQ', header, 4)
    if version not in (2, 3):
        return ['its qcow2 version is %d' % version]
    if version == 3 and len(header) < 104:
        return ['its qcow2 header is too short']
    bits, = struct.unpack_from('>I', header, 20)
    if bits not in _QCOW2_CLUSTER_BITS:
        return ['its qcow2 clusters are not of 512 bytes to 2 MiB']
    reasons = []
    if backing:
        reasons.append('it has a backing file')
    if version == 3:
        features, = struct.unpack_from('>Q', header, 72)
        if features & _QCOW2_DATA_FILE:
            reasons.append('it has an external data file')
        if _QCOW2_DATA_FILE_NAME in _qcow2_extensions(file, header, bits):
            reasons.append('it names an external data file')
    if struct.unpack_from('>I', header, 32)[0]:
        reasons.append('it is encrypted')
    return reasons


def _qcow2_extensions(file: typing.BinaryIO, header: bytes, bits: int
                      ) -> collections.abc.Iterator[int]:
    """Yield the types of the header's extensions."""
    at, = struct.unpack_from('>I', header, 100)
    # They lie within the first cluster.
    cluster = _read(file, 0, 1 << bits)
    while at + 8 <= len(cluster):
        kind, length = struct.unpack_from('>II', cluster, at)
        if not kind:
            return
        yield kind
        at += 8 + (length + 7) // 8 * 8


def _qcow2_missing(file: typing.BinaryIO) -> list[str]:
    size = os.fstat(file.fileno()).st_size
    header = _read(file, 0, 104)
    bits, = struct.unpack_from('>I', header, 20)
    entries, first = struct.unpack_from('>IQ', header, 36)
    extended = (header[7] == 3 and struct.unpack_from('>Q', header, 72)[0]
                & _QCOW2_EXTENDED)
    if 8 * entries > _QCOW2_LARGEST_L1:
        return ['its L1 table is larger than 32 MiB']
    if first + 8 * entries > size:
        return ['it is truncated']
    if size >> bits > _QCOW2_MOST_CLUSTERS:
        return ['its clusters are too small for its length']
    # A table may be named many times, and is read once. As tables begin where
    # clusters do, they cannot overlap: all of them are no longer than the
    # file.
    seen = bytearray((size >> bits) // 8 + 1)
    for entry in _numbers(file, first, 8 * entries):
        offset = entry & _QCOW2_OFFSET
        if not offset:
            continue
        if offset + (1 << bits) > size:
            return ['it is truncated']
        cluster, beside = divmod(offset, 1 << bits)
        if beside:
            return ['its L2 tables are not where clusters begin']
        if seen[cluster // 8] & 1 << cluster % 8:
            continue
        seen[cluster // 8] |= 1 << cluster % 8
        table = _numbers(file, offset, 1 << bits)
        if _qcow2_exceeds(table[::2] if extended else table, bits, size):
            return ['it is truncated']
    return []


def _qcow2_exceeds(table: collections.abc.Sequence[int], bits: int,
                   size: int) -> bool:
    """Return whether data that an L2 table names begins behind the end."""
    compressed = (1 << (70 - bits)) - 1
    return (any(entry & _QCOW2_OFFSET >= size for entry in table
                if not entry & (_QCOW2_COMPRESSED | _QCOW2_ZERO))
            or any(entry & compressed >= size for entry in table
                   if entry & _QCOW2_COMPRESSED))


def _numbers(file: typing.BinaryIO, offset: int, length: int
             ) -> array.array[int]:
    """Return big-endian 64-bit numbers from a file."""
    data = _read(file, offset, length)
    numbers = array.array('Q', data[:len(data) // 8 * 8])
    if sys.byteorder == 'little':
        numbers.byteswap()
    return numbers


def _vdi_missing(file: typing.BinaryIO) -> list[str]:
    header = _read(file, 0, _SECTOR)
    if len(header) < _SECTOR:
        return ['it is truncated']
    data, = struct.unpack_from('<I', header, 344)
    block, _extra, _blocks, used = struct.unpack_from('<4I', header, 376)
    size = os.fstat(file.fileno()).st_size
    return ['it is truncated'] * (used > 0
                                  and data + (used - 1) * block >= size)


def _vmdk(file: typing.BinaryIO) -> list[str]:
    header = _read(file, 0, _SECTOR)
    if header[:4] != _VMDK_MAGIC or len(header) < _SECTOR:
        # A bare descriptor: all that it does is to name other files.
        return ['it is no sparse VMDK']
    capacity, = struct.unpack_from('<Q', header, 12)
    if not capacity:
        return ['its VMDK header has no capacity']
    start, count = struct.unpack_from('<QQ', header, 28)
    if not start or not count:
        return ['its VMDK header has no descriptor']
    data = _read(file, start * _SECTOR,
                 min(count * _SECTOR, _LARGEST_DESCRIPTOR))
    text = data.split(b'\0', 1)[0].decode('utf-8', 'replace')
    reasons = []
    kinds = _VMDK_TYPE.findall(text)
    if len(kinds) != 1 or kinds[0] not in _VMDK_SAFE:
        reasons.append('its VMDK type is %s' % _listed(kinds))
    extents = _VMDK_EXTENT.findall(text)
    if extents != ['SPARSE']:
        reasons.append('its VMDK extents are %s' % _listed(extents))
    return reasons
