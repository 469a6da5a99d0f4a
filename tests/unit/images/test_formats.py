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

"""Which inspectors are used; what they find is tested with the conversion."""

import importlib
import io
import pathlib
import struct
import sys
import types
import unittest
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.images import formats
from glance_dcn.images import inspection

KiB = 1 << 10
QCOW2 = (struct.pack('>4sIQIIQ', b'QFI\xfb', 3, 0, 0, 16, 1 << 20)
         .ljust(72, b'\0') + struct.pack('>QQQII', 0, 0, 0, 4, 104)
         ).ljust(64 * KiB, b'\0')


def changed(data, where, new):
    """Return data with other bytes at a place."""
    return data[:where] + new + data[where + len(new):]


class InspectionTestCase(base.BaseTestCase):

    #: Inspectors, in place of those of this Glance.
    given = types.MappingProxyType({})

    def detect(self, data):
        return self.detect_file(io.BytesIO(data))

    def detect_file(self, file):
        return formats.detect(file, **self.given)

    def refused(self, data, *reasons):
        error = self.assertRaises(formats.Refused, self.detect, data)
        for reason in reasons:
            self.assertIn(reason, str(error))


class SameForAllTest(InspectionTestCase):
    """What the inspectors of every release agree on."""

    def test_formats(self):
        self.assertEqual('raw', self.detect(bytes(300 * KiB)))
        self.assertEqual('raw', self.detect(b''))
        self.assertEqual('qcow2', self.detect(QCOW2))

    def test_unsafe(self):
        self.refused(changed(QCOW2, 8, struct.pack('>QI', 512, 10)),
                     'disallowed configuration', 'backing_file')
        self.refused(changed(QCOW2, 72, struct.pack('>Q', 1 << 2)),
                     'disallowed configuration', 'data_file')
        self.refused(changed(QCOW2, 72, struct.pack('>Q', 1 << 40)),
                     'disallowed configuration', 'unknown_features')
        self.refused(b'QED\0' + bytes(64 * KiB), 'disallowed configuration')

    def test_features_that_are_harmless(self):
        # Dirty, corrupt, compression type, extended L2 entries.
        for bit in (0, 1, 3, 4):
            self.assertEqual('qcow2', self.detect(
                changed(QCOW2, 72, struct.pack('>Q', 1 << bit))), bit)

    def test_features_that_are_not(self):
        extended = 1 << 4
        for bit in (2, 5, 6, 7, 8, 40, 63):
            self.refused(changed(QCOW2, 72, struct.pack(
                '>Q', extended | 1 << bit)), 'disallowed configuration')
        # Beside it, all else is looked at as before.
        self.refused(changed(changed(
            QCOW2, 72, struct.pack('>Q', extended)), 8,
            struct.pack('>QI', 512, 10)), 'disallowed configuration')

    def test_two_formats(self):
        self.refused(changed(QCOW2, 0x40, struct.pack('<I', 0xbeda107f)),
                     'format is not clear')

    def test_leaves_the_file_open(self):
        file = io.BytesIO(QCOW2)
        self.detect_file(file)
        self.assertFalse(file.closed)


@unittest.skipUnless(hasattr(formats.modern and formats.modern.InspectWrapper,
                             'formats'),
                     'this Glance refuses hybrid ISO images itself')
class HybridTest(InspectionTestCase):

    MBR = bytes(446) + struct.pack(
        '<B3sB3sII', 0x80, b'\0\1\0', 0x17, b'\xff' * 3, 0, 4096)

    def iso(self, mbr=MBR):
        """Return what isohybrid makes of an ISO image."""
        data = bytes(32 * KiB) + b'\x01CD001\x01' + bytes(300 * KiB)
        return changed(changed(data, 0, mbr), 510, b'\x55\xaa')

    def test_iso_that_boots_as_a_disk(self):
        self.assertEqual('iso', self.detect(self.iso()))

    def test_whatever_its_first_sector_is(self):
        # It is stored as it is: as Glance's uploads, only the ISO counts.
        self.assertEqual('iso', self.detect(self.iso(b'\x45\x52' * 223)))

    def test_nothing_else_beside(self):
        self.refused(changed(self.iso(), 0x40, struct.pack(
            '<I', 0xbeda107f)), 'format is not clear')
        self.refused(changed(self.iso(), 0, QCOW2[:72]),
                     'format is not clear')


class OthersTest(InspectionTestCase):

    def others(self, data, detected='raw'):
        path = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / 'x'
        path.write_bytes(data)
        with path.open('rb') as file:
            return formats.find_others(file, detected)

    def vhd(self, kind=2, size=64 * KiB):
        footer = struct.pack('>8sIIQIIIIQQII', b'conectix', 2, 0x10000,
                             2 ** 64 - 1, 0, 0, 0, 0, size, size, 0, kind)
        return bytes(64 * KiB) + footer.ljust(512, b'\0')

    def test_fixed_vhd(self):
        self.assertEqual(['vhd'], self.others(self.vhd()))

    def test_no_fixed_vhd(self):
        for data in (b'', b'conectix', bytes(64 * KiB), self.vhd(3),
                     self.vhd(size=64 * KiB + 1), self.vhd() + b'x',
                     self.vhd()[:-1]):
            self.assertEqual([], self.others(data))
        # Something else that has such an end is that.
        self.assertEqual([], self.others(self.vhd(), 'qcow2'))

    def test_ploop(self):
        for magic in (b'WithoutFreeSpace', b'WithouFreSpacExt'):
            self.assertEqual(['ploop'], self.others(magic + bytes(KiB)))
        self.assertEqual([], self.others(b'x' + magic))
        self.assertEqual([], self.others(magic[:15]))


@unittest.skipUnless(formats._glances_own(),
                     'this Glance has no inspectors of its own')
class GlancesOwnTest(SameForAllTest):
    """The same with Glance's own, where oslo.utils has some as well."""

    given = types.MappingProxyType({
        'modern': None, 'legacy': formats._glances_own()})


class NoneTest(InspectionTestCase):
    """A release without the fix of CVE-2024-32498."""

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        # As in Glance 26.0.0, 27.0.0, 28.0.0 and 28.0.1.
        self.unfixed = types.ModuleType('glance.common.format_inspector')
        self.unfixed.FileInspector = type('FileInspector', (), {})
        self.addCleanup(importlib.reload, formats)
        self.reload(self.unfixed)

    def reload(self, own):
        """Load the module with these inspectors of Glance's alone."""
        with mock.patch.dict(sys.modules, {
                'oslo_utils.imageutils': types.ModuleType('imageutils'),
                'glance.common.format_inspector': own}), \
                mock.patch('glance.common.format_inspector', own,
                           create=True):
            importlib.reload(formats)

    def assertNamed(self):
        for release in ('26.1.0', '27.1.0', '28.1.0'):
            self.assertIn(release, self.log.output)

    def test_says_at_load_what_is_needed(self):
        self.assertNamed()

    def test_takes_nothing_for_safe(self):
        self.refused(bytes(KiB), 'cannot inspect images safely')
        self.assertNamed()

    def test_starts_no_program(self):
        self.assertEqual('', formats.INSPECTORS)
        self.assertRaises(formats.Refused, inspection.inspect, '/nowhere')
