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

"""Image files made to order, honest and hostile ones."""

import pathlib
import struct

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

#: A descriptor that nothing is wrong with.
DESCRIPTOR = (b'# Disk DescriptorFile\nversion=1\nCID=1\n'
              b'createType="monolithicSparse"\n'
              b'RW 2048 SPARSE "image.vmdk"\n')


def vmdk(descriptor=DESCRIPTOR, footer=False):
    """Return a sparse VMDK of a descriptor, and of no data."""
    sectors = -(-len(descriptor) // 512)
    return (struct.pack('<4sIIQQQQIQQ', b'KDMV', 1, 3, 2048, 128, 1, sectors,
                        512, 0, (1 << 64) - 1 if footer else 0)
            .ljust(512, b'\0') + descriptor.ljust(512 * sectors, b'\0'))


def vmdk_of_empty_lines(length=98 * KiB):
    """Return a VMDK whose descriptor is sound, and mostly empty lines."""
    return vmdk(DESCRIPTOR + b'\n' * length)


def qcow2(bits=16, size=MiB, version=3, l1=(), features=0):
    """Return a qcow2 file of a header and an L1 table.

    :param bits: the logarithm of the size of clusters
    :param size: bytes of the disk
    :param l1: entries of the L1 table
    """
    cluster = 1 << bits
    head = struct.pack('>4sIQIIQIIQQIIQ', b'QFI\xfb', version, 0, 0, bits,
                       size, 0, len(l1), cluster, 0, 0, 0, 0)
    if version == 3:
        head += struct.pack('>QQQII', features, 0, 0, 4, 104)
    return head.ljust(cluster, b'\0') + struct.pack('>%dQ' % len(l1), *l1)


def qcow2_of_overlapping_tables(tables=10 ** 5, length=64 * MiB):
    """Return a qcow2 file that names more L2 tables than it has room for.

    Each is of 2 MiB and begins 512 bytes behind the one before it.
    """
    first = 4 * MiB
    return qcow2(bits=21, size=1 << 40, l1=[
        first + 512 * number for number in range(tables)]).ljust(
            length, b'\0')


def endless(path, length=2 * GiB):
    """Write a file that inspectors are slow with: milliseconds for a chunk.

    It has the footer of a VMDK at its end, up to which it is read, and the
    regions of a VHDX, none of which is the one that is looked for.
    """
    with open(path, 'wb') as file:
        file.write(vmdk(footer=True))
        file.seek(192 * KiB)
        file.write(struct.pack('<IIII', 0x69676572, 0, 2047, 0)
                   + b'\1' * 32 * 2047)
        file.truncate(length)
    return pathlib.Path(path)
