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

    def detect(self, data):
        return formats.detect(io.BytesIO(data))

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

    def test_two_formats(self):
        self.refused(changed(QCOW2, 0x40, struct.pack('<I', 0xbeda107f)),
                     'format is not clear')

    def test_leaves_the_file_open(self):
        file = io.BytesIO(QCOW2)
        formats.detect(file)
        self.assertFalse(file.closed)


@unittest.skipUnless(formats._glances_own(),
                     'this Glance has no inspectors of its own')
class GlancesOwnTest(SameForAllTest):
    """The same with Glance's own, where oslo.utils has some as well."""

    def setUp(self):
        super().setUp()
        for name, value in (('modern', None),
                            ('legacy', formats._glances_own())):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.images.formats.' + name, value))


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
