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


"""What an image file must not make qemu-img do.

Formats can name other files, which qemu-img would open on this machine. The
header is looked at here before qemu-img sees the file, because even
``qemu-img info`` opens some of them; what it then reports is looked at too.
"""

import array
import os
import re
import struct
import sys

from glance_dcn.engine import errors

# Formats that qemu-img may be told to read.
FORMATS = ('raw', 'qcow2', 'vmdk', 'vdi', 'vpc', 'vhdx', 'parallels')

_QCOW2_MAGIC = b'QFI\xfb'
_QCOW2_DATA_FILE = 1 << 2
_QCOW2_DATA_FILE_NAME = 0x44415441
_QCOW2_EXTENDED = 1 << 4
_QCOW2_OFFSET = (1 << 56) - 512
_QCOW2_COMPRESSED = 1 << 62
# The most that qemu-img takes, in bytes.
_QCOW2_LARGEST_L1 = 32 << 20
_VMDK_MAGIC = b'KDMV'
_VMDK_SAFE = ('monolithicSparse', 'streamOptimized')
_VMDK_EXTENT = re.compile(
    r'^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\S+)', re.MULTILINE)
_VMDK_TYPE = re.compile(r'^\s*createType\s*=\s*"?([^"\r\n]*)"?',
                        re.MULTILINE)
_SECTOR = 512
_LARGEST_DESCRIPTOR = 1 << 20


def check_file(path, driver):
    """Look at an image file's own header.

    :param path: path of the file
    :param driver: the format it is declared to have
    :raises UnsafeImage: it must not be given to qemu-img
    :raises OSError: it cannot be read
    """
    if driver not in FORMATS:
        raise errors.UnsafeImage(path, ['format %r is not supported'
                                        % driver])
    with open(path, 'rb') as file:
        header = file.read(_SECTOR)
        reasons = []
        if driver == 'qcow2':
            reasons = _qcow2(file, header)
        elif driver == 'vmdk':
            reasons = _vmdk(file, header)
    if reasons:
        raise errors.UnsafeImage(path, reasons)


def check_info(path, driver, info):
    """Look at what ``qemu-img info --output=json`` says.

    :param path: path of the file
    :param driver: the format it is declared to have
    :param info: the parsed report
    :raises UnsafeImage: the image must not be used
    """
    reasons = []
    if info.get('format') != driver:
        reasons.append('it is %s, not %s' % (info.get('format'), driver))
    for key in ('backing-filename', 'full-backing-filename'):
        if info.get(key):
            reasons.append('it has the backing file %s' % info[key])
            break
    if info.get('encrypted'):
        reasons.append('it is encrypted')
    specific = (info.get('format-specific') or {}).get('data') or {}
    if specific.get('data-file'):
        reasons.append('it has the data file %s' % specific['data-file'])
    if driver == 'vmdk':
        kind = specific.get('create-type')
        if kind not in _VMDK_SAFE:
            reasons.append('its VMDK type is %s' % kind)
        if len(specific.get('extents', ())) > 1:
            reasons.append('it has more than one extent')
    if reasons:
        raise errors.UnsafeImage(path, reasons)


def check_whole(path, driver):
    """Look whether a safe image file lacks its end.

    What lies behind the end of a file is all zeros to qemu-img. It says so
    of vpc and vhdx files, and ``qemu-img check`` of vmdk files. The last
    cluster may be a short one in whole files, too.

    :param path: path of the file
    :param driver: its format
    :raises UnsafeImage: parts of it are missing
    :raises OSError: it cannot be read
    """
    with open(path, 'rb') as file:
        whole = ((driver != 'qcow2' or _qcow2_is_whole(file))
                 and (driver != 'vdi' or _vdi_is_whole(file)))
    if not whole:
        raise errors.UnsafeImage(path, ['it is truncated'])


def _qcow2_is_whole(file):
    size = os.fstat(file.fileno()).st_size
    header = file.read(104)
    bits, = struct.unpack_from('>I', header, 20)
    entries, first = struct.unpack_from('>IQ', header, 36)
    extended = (header[7] == 3 and struct.unpack_from('>Q', header, 72)[0]
                & _QCOW2_EXTENDED)
    length = 8 * entries
    if length > _QCOW2_LARGEST_L1 or first + length > size:
        return False
    # A table may be named many times; it is read once.
    for offset in {entry & _QCOW2_OFFSET
                   for entry in _numbers(file, first, length)} - {0}:
        if offset + (1 << bits) > size:
            return False
        table = _numbers(file, offset, 1 << bits)[::2 if extended else 1]
        suspects = [entry for entry in table if entry & _QCOW2_COMPRESSED
                    or entry & _QCOW2_OFFSET >= size]
        if any(_qcow2_start(entry, bits) >= size for entry in suspects):
            return False
    return True


def _qcow2_start(entry, bits):
    """Return where the data of a table's entry begins in the file."""
    if entry & _QCOW2_COMPRESSED:
        return entry & ((1 << (70 - bits)) - 1)
    # An entry of zeros (bit 0) may have a place that was never written.
    return 0 if entry & 1 else entry & _QCOW2_OFFSET


def _numbers(file, offset, length):
    """Return big-endian 64-bit numbers from a file."""
    file.seek(offset)
    numbers = array.array('Q', file.read(length))
    if sys.byteorder == 'little':
        numbers.byteswap()
    return numbers


def _vdi_is_whole(file):
    header = file.read(_SECTOR)
    data, = struct.unpack_from('<I', header, 344)
    block, _extra, _blocks, used = struct.unpack_from('<4I', header, 376)
    return not used or (data + (used - 1) * block
                        < os.fstat(file.fileno()).st_size)


def _qcow2(file, header):
    if header[:4] != _QCOW2_MAGIC or len(header) < 72:
        return ['it has no qcow2 header']
    version, backing = struct.unpack_from('>IQ', header, 4)
    if version not in (2, 3):
        return ['its qcow2 version is %d' % version]
    reasons = []
    if backing:
        reasons.append('it has a backing file')
    if version == 3 and len(header) >= 104:
        features, = struct.unpack_from('>Q', header, 72)
        if features & _QCOW2_DATA_FILE:
            reasons.append('it has an external data file')
        if _QCOW2_DATA_FILE_NAME in _qcow2_extensions(file, header):
            reasons.append('it names an external data file')
    if struct.unpack_from('>I', header, 32)[0]:
        reasons.append('it is encrypted')
    return reasons


def _qcow2_extensions(file, header):
    """Yield the types of the header's extensions."""
    bits, = struct.unpack_from('>I', header, 20)
    at, = struct.unpack_from('>I', header, 100)
    # They lie within the first cluster, which is 2 MiB at most.
    end = 1 << min(bits, 21)
    while at + 8 <= end:
        file.seek(at)
        raw = file.read(8)
        if len(raw) < 8:
            return
        kind, length = struct.unpack('>II', raw)
        if not kind:
            return
        yield kind
        at += 8 + (length + 7) // 8 * 8


def _vmdk(file, header):
    if header[:4] != _VMDK_MAGIC or len(header) < _SECTOR:
        # A bare descriptor: all that it does is to name other files.
        return ['it is no sparse VMDK']
    capacity, = struct.unpack_from('<Q', header, 12)
    if not capacity:
        return ['its VMDK header has no capacity']
    start, count = struct.unpack_from('<QQ', header, 28)
    if not start or not count:
        return ['its VMDK header has no descriptor']
    file.seek(start * _SECTOR)
    text = file.read(min(count * _SECTOR, _LARGEST_DESCRIPTOR))
    text = text.split(b'\0', 1)[0].decode('utf-8', 'replace')
    reasons = []
    kinds = _VMDK_TYPE.findall(text)
    if len(kinds) != 1 or kinds[0] not in _VMDK_SAFE:
        reasons.append('its VMDK type is %s' % ', '.join(kinds or ['missing']))
    extents = _VMDK_EXTENT.findall(text)
    if extents != ['SPARSE']:
        reasons.append('its VMDK extents are %s'
                       % ', '.join(extents or ['missing']))
    return reasons
