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

"""Records: what is taken for one, and what its codes prove."""

import dataclasses
import json

import fixtures
import hypothesis
from hypothesis import strategies
from oslotest import base

from glance_dcn.ceph import records

KEY, OTHER = bytes(32), bytes(range(32))
NAME, ID = 'an-image', 'abc123'
CONTENT = 'dcn1:sha256:65536:' + 'a' * 64
HASHES = {'md5': 'b' * 32, 'sha512': 'c' * 128}

# Not one that depends on how busy the machine is.
_SETTINGS = hypothesis.settings(
    deadline=None, database=None,
    suppress_health_check=list(hypothesis.HealthCheck))

_hex = strategies.text('0123456789abcdef', min_size=1, max_size=16)
_records = strategies.builds(
    records.Record, strategies.integers(0, (1 << 63) - 1),
    strategies.text('0123456789abcdefghz:', min_size=1, max_size=24),
    strategies.dictionaries(
        strategies.sampled_from(['md5', 'sha512', 'SHA-1', 'sha3_512',
                                 'blake2b', 'sha512_256']), _hex),
    strategies.dictionaries(
        strategies.binary(min_size=8, max_size=8).map(bytes.hex),
        strategies.binary(min_size=32, max_size=32).map(bytes.hex),
        max_size=3))
_json = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers()
    | strategies.floats() | strategies.text(max_size=20)
    | strategies.sampled_from([ID, CONTENT, 1, -1, 1 << 63]),
    lambda inner: strategies.lists(inner, max_size=4)
    | strategies.dictionaries(strategies.text(max_size=8)
                              | strategies.sampled_from([*HASHES]), inner,
                              max_size=4), max_leaves=8)


def parsed(text):
    """Return the record of a text, or None, also if it is no record."""
    try:
        return records.parse(text, ID)
    except ValueError:
        return None


class FakeImage:
    """An RBD image with metadata."""

    def __init__(self, text=None):
        self.text = text

    def id(self):
        return ID

    def get_name(self):
        return NAME

    def metadata_get(self, key):
        if self.text is None:
            raise KeyError(key)
        return self.text

    def metadata_set(self, key, text):
        self.text = text


class ParserTest(base.BaseTestCase):
    """A record is read as it was written; nothing else is taken for one."""

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())

    @_SETTINGS
    @hypothesis.given(_records)
    def test_round_trip(self, record):
        found = records.parse(records.compose(record, ID), ID)
        self.assertEqual((record, record.macs), (found, found.macs))
        self.assertIsNone(records.parse(records.compose(record, 'other'),
                                        ID))

    @_SETTINGS
    @hypothesis.given(strategies.text())
    def test_any_text(self, text):
        self.assertIsNone(parsed(text))

    @_SETTINGS
    @hypothesis.given(_records, strategies.sampled_from(
        ['size', 'content', 'hashes', 'macs', 'version', 'image']), _json)
    def test_any_value_of_any_field(self, record, field, value):
        fields = json.loads(records.compose(record, ID))
        fields[field] = value
        found = parsed(json.dumps(fields))
        if found is not None:
            self.check_sound(found)

    @_SETTINGS
    @hypothesis.given(_records, strategies.integers(0), strategies.text(
        max_size=3), strategies.integers(0, 4))
    def test_any_change_of_its_text(self, record, at, text, cut):
        good = records.compose(record, ID)
        at %= len(good)
        found = parsed(good[:at] + text + good[at + cut:])
        if found is not None:
            self.check_sound(found)

    def check_sound(self, record):
        """All fields have their types and bounds."""
        self.assertIs(int, type(record.size))
        self.assertTrue(0 <= record.size < 1 << 63)
        self.assertIs(str, type(record.content))
        for table in (record.hashes, record.macs):
            self.assertIs(dict, type(table))
            self.assertLessEqual(len(table), 16)
            for name, value in table.items():
                self.assertEqual((str, str), (type(name), type(value)))
        # What is read can be written, and signed.
        text = records.compose(records.sign(record, NAME, KEY), ID)
        self.assertEqual(record, records.parse(text, ID))

    def test_hostile(self):
        for text in ('[' * 100000, '[' * 16000, '{"a":' * 3000, '9' * 16000,
                     '{"version": 1, "image": "%s", "size": 1%s}'
                     % (ID, '0' * 10000), ' ' * 20000, '"\\ud800"', 'NaN'):
            self.assertIsNone(parsed(text))
            self.assertIsNone(records.load(FakeImage(text)))
        self.assertIn(NAME, self.log.output)

    def test_no_record(self):
        self.assertIsNone(records.load(FakeImage()))
        self.assertEqual('', self.log.output)

    def test_of_earlier_versions(self):
        # They had no codes.
        fields = {'version': 1, 'image': ID, 'size': 5, 'content': CONTENT,
                  'hashes': HASHES}
        self.assertEqual(records.Record(5, CONTENT, HASHES),
                         records.parse(json.dumps(fields), ID))

    def test_save(self):
        image, record = FakeImage(), records.Record(5, CONTENT, HASHES)
        records.save(image, record)
        self.assertEqual(record, records.load(image))


class CodeTest(base.BaseTestCase):
    """A code proves each field, for one image and one deployment."""

    @_SETTINGS
    @hypothesis.given(_records)
    def test_own(self, record):
        signed = records.sign(record, NAME, KEY)
        self.assertEqual(record, signed)
        self.assertTrue(records.is_authentic(signed, NAME, KEY))
        self.assertFalse(records.is_authentic(record, NAME, KEY))
        self.assertFalse(records.is_authentic(signed, NAME, OTHER))
        self.assertFalse(records.is_authentic(signed, NAME + 'x', KEY))
        self.assertLessEqual(len(signed.macs), 16)
        found = records.parse(records.compose(signed, ID), ID)
        self.assertTrue(records.is_authentic(found, NAME, KEY))

    @_SETTINGS
    @hypothesis.given(_records, _records)
    def test_of_another_content(self, record, other):
        hypothesis.assume(record != other)
        moved = dataclasses.replace(
            other, macs=records.sign(record, NAME, KEY).macs)
        self.assertFalse(records.is_authentic(moved, NAME, KEY))

    def test_fields_cannot_be_shifted(self):
        signed = records.sign(records.Record(1, '2', {'3': '4'}), '5', KEY)
        for name, record in (
                ('51', records.Record(1, '2', {'3': '4'})),
                ('5', records.Record(12, '', {'3': '4'})),
                ('5', records.Record(1, '23', {'': '4'})),
                ('5', records.Record(1, '2', {'34': ''})),
                ('5', records.Record(1, '2', {}))):
            self.assertFalse(records.is_authentic(dataclasses.replace(
                record, macs=signed.macs), name, KEY))

    def test_of_two_deployments(self):
        record = records.sign(records.sign(
            records.Record(5, CONTENT, HASHES), NAME, KEY), NAME, OTHER)
        for key in (KEY, OTHER):
            self.assertTrue(records.is_authentic(record, NAME, key))
        self.assertEqual(record.macs,
                         records.sign(record, NAME, KEY).macs)

    def test_no_more_than_can_be_read(self):
        record = records.Record(5, CONTENT, HASHES)
        for number in range(40):
            record = records.sign(record, NAME, bytes([number] * 32))
            self.assertEqual(record, records.parse(
                records.compose(record, ID), ID))
        self.assertTrue(records.is_authentic(record, NAME, bytes([39] * 32)))
