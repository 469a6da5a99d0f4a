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

"""Headers that lie: what is found, and how much work that is."""

import io
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

from oslotest import base

from glance_dcn.images import hazards

from tests.fuzz import made

KiB, MiB = made.KiB, made.MiB


class CountingFile(io.FileIO):
    """A file that counts the bytes that are read."""

    def __init__(self, path):
        super().__init__(path)
        self.count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


class HazardsTestCase(base.BaseTestCase):

    def opened(self, data):
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        self.addCleanup(file.close)
        file.write(data)
        file.flush()
        counting = CountingFile(file.name)
        self.addCleanup(counting.close)
        return counting

    def find(self, data, driver):
        return hazards.find(self.opened(data), driver)

    def missing(self, data, driver='qcow2'):
        file = self.opened(data)
        found = hazards.find(file, driver)
        self.assertEqual([], found)
        found = hazards.find_missing(file, driver)
        # Twice: headers are read for each of the questions.
        self.assertLess(file.count, 2 * len(data) + 4 * KiB)
        return found


class TestVmdk(HazardsTestCase):

    def test_descriptors(self):
        text = made.DESCRIPTOR
        for more in (b'', b'\n\n', b' \t\r\n', b'# createType="x"\n',
                     b'ddb.adapterType = "ide"\n'):
            self.assertEqual([], self.find(made.vmdk(text + more), 'vmdk'))
            self.assertEqual([], self.find(made.vmdk(more + text), 'vmdk'))
        for more, reason in (
                (b' \t RW 1 FLAT "/etc/passwd" 0\n', 'extents are SPARSE, FL'),
                (b'\n\n\r\nRDONLY\n1\nFLAT "x"\n', 'extents are SPARSE, FLAT'),
                (b'\f\vcreateType = "xx"\n', 'type is monolithicSparse, xx')):
            self.assertIn(reason, self.find(made.vmdk(text + more),
                                            'vmdk')[0])
            self.assertIn(reason.partition(' are ')[0].partition(' is ')[0],
                          self.find(made.vmdk(more + text), 'vmdk')[0])

    def test_time_is_linear(self):
        # 1 MiB of each, which would take hours if not. The number of lines is
        # what counted: most of these took the time of its square.
        for line in (b'\n', b' ', b'\t\n', b'\r\n', b'RW\n', b'RW \n',
                     b'RW 1', b'RW 1 ', b'createType', b'createType\n',
                     b'createType =', b'createType="', b'"', b'=', b'1',
                     b'\f', b' RW 1 SPARSE\n', b'\xc2\xa0', b'\xff'):
            text = made.DESCRIPTOR + line * (MiB // len(line))
            self.find(made.vmdk(text), 'vmdk')

    def test_reasons_are_short(self):
        for line in (b'createType="%s"\n' % (b'x' * 5000),
                     b'createType="y"\n' * 5000,
                     b'RW 1 %s\n' % (b'z' * 5000), b'RW 1 FLAT\n' * 5000,
                     b'RW 1 \x1b[2J\x07\n'):
            for reason in self.find(made.vmdk(made.DESCRIPTOR + line),
                                    'vmdk'):
                self.assertLess(len(reason), 200)
                self.assertTrue(reason.isprintable())

    def test_descriptor_behind_the_end(self):
        for sector in (1 << 20, 1 << 54, 1 << 55, (1 << 64) - 1):
            data = bytearray(made.vmdk())
            struct.pack_into('<Q', data, 28, sector)
            self.assertIn('missing', self.find(bytes(data), 'vmdk')[0])

    def test_descriptor_of_any_length(self):
        data = bytearray(made.vmdk())
        struct.pack_into('<Q', data, 36, (1 << 64) - 1)
        self.assertEqual([], self.find(bytes(data), 'vmdk'))


class TestQcow2(HazardsTestCase):

    def test_overlapping_tables(self):
        self.assertEqual(
            ['its L2 tables are not where clusters begin'],
            self.missing(made.qcow2_of_overlapping_tables()))

    def test_one_table_named_again_and_again(self):
        data = made.qcow2(bits=16, l1=[128 * KiB] * 8192)
        self.assertEqual([], self.missing(data.ljust(192 * KiB, b'\0')))

    def test_tables_named_in_turn(self):
        # Work would be 8192 tables, were each read when it is named.
        data = made.qcow2(bits=16, l1=[(2 + number % 16) * 64 * KiB
                                       for number in range(8192)])
        self.assertEqual([], self.missing(data.ljust(18 * 64 * KiB, b'\0')))

    def test_table_behind_the_end(self):
        for offset in (192 * KiB, 1 << 40, (1 << 56) - 64 * KiB):
            data = made.qcow2(bits=16, l1=[offset]).ljust(192 * KiB, b'\0')
            self.assertEqual(['it is truncated'], self.missing(data))

    def test_l1_table_behind_the_end(self):
        for offset in (1 << 20, 1 << 62, (1 << 64) - 512):
            data = bytearray(made.qcow2(l1=[0] * 8))
            struct.pack_into('>Q', data, 40, offset)
            self.assertEqual(['it is truncated'], self.missing(bytes(data)))

    def test_l1_table_too_large(self):
        data = bytearray(made.qcow2())
        struct.pack_into('>I', data, 36, (1 << 32) - 1)
        self.assertIn('32 MiB', self.missing(bytes(data))[0])

    def test_clusters_of_impossible_sizes(self):
        # As a shift, the last would take half a GiB of memory.
        for bits in (0, 8, 22, 63, (1 << 32) - 1):
            data = bytearray(made.qcow2())
            struct.pack_into('>I', data, 20, bits)
            self.assertIn('clusters', self.find(bytes(data), 'qcow2')[0])

    def test_more_clusters_than_can_be_counted(self):
        file = self.opened(made.qcow2(bits=9, l1=[1 << 30]))
        os.truncate(file.name, 1 << 42)
        self.assertEqual(['its clusters are too small for its length'],
                         hazards.find_missing(file, 'qcow2'))

    def test_header_is_short(self):
        data = made.qcow2()
        for length in (0, 3, 4, 71, 72, 75, 103):
            self.assertIn('header', self.find(data[:length], 'qcow2')[0])

    def test_extensions(self):
        # A quarter of a million of them, and one behind those.
        data = made.qcow2(bits=21)[:104]
        many = data + struct.pack('>II', 1, 0) * 262000
        many += struct.pack('>II', 0x44415441, 0)
        self.assertEqual(['it names an external data file'],
                         self.find(many, 'qcow2'))
        self.assertEqual([], self.find(
            data + struct.pack('>II', 1, (1 << 32) - 1), 'qcow2'))

    @unittest.skipUnless(shutil.which('qemu-img'),
                         'qemu-img is not installed')
    def test_whole_files_of_qemu_img(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        raw = os.path.join(folder.name, 'raw')
        with open(raw, 'wb') as file:
            file.write(os.urandom(3 * MiB))
            file.truncate(40 * MiB)
        for options in ((), ('-c',), ('-o', 'cluster_size=512'),
                        ('-o', 'cluster_size=2M'), ('-o', 'compat=0.10'),
                        ('-o', 'extended_l2=on'),
                        ('-o', 'preallocation=metadata')):
            image = os.path.join(folder.name, 'image')
            subprocess.run(['qemu-img', 'convert', '-O', 'qcow2', *options,
                            raw, image], check=True)
            with open(image, 'rb') as file:
                data = file.read()
            self.assertEqual([], self.missing(data))
            self.assertEqual(['it is truncated'], self.missing(
                data[:2 * MiB]), options)


class TestVdi(HazardsTestCase):

    def test_truncated(self):
        data = bytearray(4096)
        struct.pack_into('<I', data, 344, 1024)
        struct.pack_into('<4I', data, 376, 1024, 0, 8, 3)
        self.assertEqual([], self.missing(bytes(data), 'vdi'))
        self.assertEqual(['it is truncated'],
                         self.missing(bytes(data[:3072]), 'vdi'))
        self.assertEqual(['it is truncated'],
                         self.missing(bytes(data[:390]), 'vdi'))
        struct.pack_into('<4I', data, 376, *[(1 << 32) - 1] * 4)
        self.assertEqual(['it is truncated'],
                         self.missing(bytes(data), 'vdi'))


class TestOthers(HazardsTestCase):

    def test_formats(self):
        for driver in ('raw', 'vpc', 'vhdx', 'parallels'):
            self.assertEqual([], self.missing(b'x', driver))
        for driver in ('nbd', 'luks', 'iso', 'vhd', ''):
            self.assertIn('not supported', self.find(b'x', driver)[0])
