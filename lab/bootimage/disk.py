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


"""The guest's disk: an MBR and one FAT partition to boot from."""

import struct

from lab.bootimage import errors
from lab.bootimage import programs

MIB = 1024 * 1024
SECTOR = 512
#: Of the disk, the one that has the stamp.
STAMP_SECTOR = 2
PARTITION_START = MIB
_PARTITION_SLACK = 2 * MIB
_PARTITION_MINIMUM = 16 * MIB
# Of the files in the partition: 2 January 1980, as FAT knows nothing older
# than the first. Seconds since 1970.
FILE_TIME = 315619200
_MBR_CODE = ('/usr/lib/SYSLINUX/mbr.bin',
             '/usr/lib/syslinux/mbr/mbr.bin',
             '/usr/lib/syslinux/bios/mbr.bin')


def check_size(size):
    """Refuse a disk size that no disk can have.

    :param int size: bytes
    :returns int: the size
    """
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise errors.BuildError('the disk size must be a positive number of '
                                'bytes, not %r' % (size,))
    if size % SECTOR:
        raise errors.BuildError('the disk size %d is not a multiple of %d '
                                'bytes' % (size, SECTOR))
    if size // SECTOR > 0xffffffff:
        raise errors.BuildError('the disk size %d is more than an MBR can '
                                'describe' % size)
    return size


def mbr(code, start, length, signature):
    """Make a master boot record with one active FAT partition.

    :param bytes code: boot code, at most 440 bytes
    :param int start: first byte of the partition, a multiple of 512
    :param int length: bytes of the partition, a multiple of 512
    :param int signature: 32 bits that tell this disk from others
    :returns bytes: 512 bytes
    """
    if len(code) > 440:
        raise errors.BuildError('the boot code has %d bytes, more than 440' %
                                len(code))
    if start % SECTOR or length % SECTOR or start <= 0 or length <= 0:
        raise errors.BuildError('partition %d+%d is not made of sectors' % (
            start, length))
    # Cylinders, heads and sectors are at their limits: use the LBA fields.
    limit = b'\xfe\xff\xff'
    entry = struct.pack('<B3sB3sII', 0x80, limit, 0x0e, limit,
                        start // SECTOR, length // SECTOR)
    return b''.join((code.ljust(440, b'\0'),
                     struct.pack('<IH', signature, 0),
                     entry.ljust(64, b'\0'), b'\x55\xaa'))


def write(raw, files, size, stamp, identity):
    """Make the raw disk.

    :param pathlib.Path raw: file to write, sparse
    :param files: the files for the partition (pathlib.Path)
    :param int size: bytes of the disk
    :param str stamp: one line to carry
    :param int identity: 32 bits for the disk's and the volume's number
    """
    length = sum(path.stat().st_size for path in files) + _PARTITION_SLACK
    length = max(_PARTITION_MINIMUM, -(-length // MIB) * MIB)
    if PARTITION_START + length > size:
        raise errors.BuildError('a disk of %d bytes is too small: the boot '
                                'partition needs %d'
                                % (size, PARTITION_START + length))
    code = programs.first_existing(_MBR_CODE, 'syslinux').read_bytes()
    with open(raw, 'wb') as disk:
        disk.truncate(size)
        disk.write(mbr(code, PARTITION_START, length, identity))
        disk.seek(STAMP_SECTOR * SECTOR)
        disk.write((stamp + '\n').encode('ascii').ljust(SECTOR, b'\0'))
    # No settings of the user's, and the times of files as they are given.
    environment = {'TZ': 'UTC', 'MTOOLSRC': '/dev/null',
                   'SOURCE_DATE_EPOCH': str(FILE_TIME)}
    where = '%s@@%d' % (raw, PARTITION_START)
    programs.run(['mformat', '-i', where, '-T', str(length // SECTOR),
                  '-h', '255', '-s', '63',
                  '-H', str(PARTITION_START // SECTOR),
                  '-N', '%08x' % identity, '-v', 'DCNBOOT', '::'],
                 **environment)
    programs.run(['mcopy', '-i', where, '-m'] + [str(path) for path in files] +
                 ['::/'], **environment)
    programs.run(['syslinux', '--install', '--offset', str(PARTITION_START),
                  str(raw)], **environment)
