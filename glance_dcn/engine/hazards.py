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

import re
import struct

from glance_dcn.engine import errors

# Formats that qemu-img may be told to read.
FORMATS = ('raw', 'qcow2', 'vmdk', 'vdi', 'vpc', 'vhdx', 'parallels')

_QCOW2_MAGIC = b'QFI\xfb'
_QCOW2_DATA_FILE = 1 << 2
_QCOW2_DATA_FILE_NAME = 0x44415441
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
