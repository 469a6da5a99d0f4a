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

"""The sound files that mutated ones are made of, one of each kind.

Those that qemu-img can make are of its making, so that two runs differ in the
identifiers that it draws by lot; what is mutated, and how, is the same.
"""

import os
import pathlib
import random
import struct
import subprocess

from tests.fuzz import made

KiB, MiB = made.KiB, made.MiB

# Format of qemu-img and its options, by the name of a kind.
_QEMU_IMG = {
    'qcow2-v2': ('qcow2', 'compat=0.10'),
    'qcow2-v3': ('qcow2', 'compat=1.1'),
    'qcow2-512': ('qcow2', 'cluster_size=512'),
    'qcow2-2M': ('qcow2', 'cluster_size=2M'),
    'qcow2-extended': ('qcow2', 'extended_l2=on'),
    'vmdk-sparse': ('vmdk', 'subformat=monolithicSparse'),
    'vmdk-stream': ('vmdk', 'subformat=streamOptimized'),
    'vdi': ('vdi', 'static=off'),
    'vhd-dynamic': ('vpc', 'subformat=dynamic'),
    'vhd-fixed': ('vpc', 'subformat=fixed'),
    'vhdx': ('vhdx', 'block_size=1M'),
    'parallels': ('parallels', 'cluster_size=64k'),
    'qed': ('qed', 'cluster_size=64k'),
}


def make(folder):
    """Return the sound files, bytes by the name of their kind."""
    folder = pathlib.Path(folder)
    chance = random.Random(0)
    raw = folder / 'raw'
    raw.write_bytes(chance.randbytes(192 * KiB))
    os.truncate(raw, MiB)
    result = {'raw': raw.read_bytes()}
    for name, (driver, options) in _QEMU_IMG.items():
        path = folder / name
        subprocess.run(['qemu-img', 'convert', '-q', '-f', 'raw', '-O',
                        driver, '-o', options, str(raw), str(path)],
                       check=True)
        result[name] = path.read_bytes()
    path = folder / 'compressed'
    subprocess.run(['qemu-img', 'convert', '-q', '-c', '-f', 'raw', '-O',
                    'qcow2', str(raw), str(path)], check=True)
    result['qcow2-compressed'] = path.read_bytes()
    result.update(_others(result))
    return result


def _others(files):
    """Return the files that qemu-img makes none of."""
    entry = struct.pack('<B3sB3sII', 0, b'\0\2\0', 0xee, b'\xff' * 3, 1, 2047)
    gpt = bytearray(files['raw'])
    gpt[446:512] = entry + bytes(48) + b'\x55\xaa'
    iso = bytearray(files['raw'])
    iso[:34 * KiB] = bytes(32 * KiB) + b'\x01CD001\x01'.ljust(2 * KiB, b'\0')
    hybrid = bytearray(iso)
    hybrid[446:512] = entry + bytes(48) + b'\x55\xaa'
    stream = bytearray(files['vmdk-stream'])
    # The footer is the header once more, between two markers.
    header = bytes(stream[:512])
    stream[56:64] = b'\xff' * 8
    stream += struct.pack('<QII', 1, 0, 3).ljust(512, b'\0') + header
    stream += bytes(512)
    return {
        'gpt': bytes(gpt), 'iso': bytes(iso), 'hybrid': bytes(hybrid),
        'vmdk-footer': bytes(stream),
        'vmdk-text': made.DESCRIPTOR,
        'vmdk-lines': made.vmdk_of_empty_lines(),
        'qcow2-overlapping': made.qcow2_of_overlapping_tables(
            tables=2000, length=8 * MiB),
        'luks': (b'LUKS\xba\xbe\0\1' + b'aes'.ljust(32, b'\0')
                 + b'xts-plain64'.ljust(32, b'\0')
                 + b'sha256'.ljust(32, b'\0')).ljust(MiB, b'\0')}
