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

"""What is believed of records: nothing that could not have been written."""

import dataclasses
import json
import string
import time

import fixtures
import hypothesis
from hypothesis import strategies as st
from oslotest import base

from glance_dcn.ceph import definitions
from glance_dcn.ceph import record_format
from glance_dcn.sites import cluster_identity
from glance_dcn.tasks import leases
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import registry
from tests.unit.tasks import fakes

_OURS = 'ours'
# Text without control characters and halves of surrogate pairs.
_TEXT = st.text(st.characters(exclude_categories=('Cc', 'Cs')), max_size=40)
_SECONDS = st.floats(0, 1e12)
_COUNT = st.integers(0, (1 << 63) - 1)
_MAYBE = st.none() | _TEXT
_VALID = {
    tasks.Task: st.builds(
        tasks.Task, st.sampled_from(tasks.Action), _TEXT, _TEXT, _TEXT,
        _MAYBE, _MAYBE, _MAYBE, st.lists(_TEXT).map(tuple), _TEXT, _SECONDS,
        _TEXT, _COUNT, _TEXT),
    tasks.Intent: st.builds(
        tasks.Intent, _TEXT, _TEXT, _TEXT, _MAYBE, _TEXT, _TEXT, _MAYBE,
        st.sampled_from(tasks.State), _TEXT, _SECONDS, _TEXT),
    leases.Lease: st.builds(leases.Lease, _TEXT, _COUNT, _TEXT),
    registry.Worker: st.builds(
        registry.Worker, st.text(string.ascii_letters, min_size=1), _TEXT,
        _MAYBE, _TEXT, _TEXT, _TEXT, _TEXT, _COUNT, _SECONDS, _SECONDS, _TEXT,
        st.lists(_TEXT).map(tuple), _MAYBE),
    cluster_identity.ClusterIdentity: st.builds(
        cluster_identity.ClusterIdentity, _TEXT, _SECONDS,
        st.lists(_TEXT).map(tuple)),
    definitions._Options: st.builds(
        definitions._Options, st.dictionaries(_TEXT, _TEXT, max_size=5)),
    definitions._Holder: st.builds(definitions._Holder, _SECONDS),
}
_KINDS = sorted(_VALID, key=lambda kind: kind.__name__)
_RECORDS = st.sampled_from(_KINDS).flatmap(_VALID.get)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(), inner, max_size=4), max_leaves=10)
# What a mutation puts somewhere in a text.
_PIECES = st.text(max_size=4) | st.sampled_from([
    '{', '}', '[', ']', '"', ',', ':', '\\', 'NaN', '-Infinity', '1e999',
    '\\ud800', '\\u0000', 'null', 'true', '-1', '9' * 5000, '[' * 3000])
# A machine may be slow.
_patiently = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])


def fields_of(record):
    """Return a record as the object that its text stands for."""
    return json.loads(record_format.dump(record, _OURS))


def a_task(**fields):
    return tasks.Task(tasks.Action.DELETE, 'edge', 'image', 'images',
                      **fields)


class RecordFormatTest(base.BaseTestCase):

    def refused(self, text, kind=tasks.Task, words=''):
        began = time.process_time()
        exc = self.assertRaises(record_format.RecordError,
                                record_format.load, kind, text, _OURS)
        # Of the thread's own time: milliseconds, in which minutes are a flaw.
        self.assertLess(time.process_time() - began, 5)
        self.assertIn(words, str(exc))
        return exc

    def load_or_refuse(self, kind, text):
        """Load a record: it is understood for certain, or refused."""
        try:
            record = record_format.load(kind, text, _OURS)
        except record_format.RecordError:
            return None
        self.assertEqual(record, record_format.load(
            kind, record_format.dump(record, _OURS), _OURS))
        if kind in (tasks.Task, tasks.Intent):
            record.key.encode()
        return record

    @_patiently
    @hypothesis.given(_RECORDS)
    def test_valid_records_come_back(self, record):
        text = record_format.dump(record, _OURS)
        # The comparison on the cluster takes text alone.
        self.assertTrue(text.isascii())
        hypothesis.assume(len(text) <= record_format.LARGEST)
        self.assertEqual(record, record_format.load(type(record), text,
                                                    _OURS))

    @_patiently
    @hypothesis.given(_RECORDS, _TEXT)
    def test_those_of_others_are_foreign(self, record, deployment):
        hypothesis.assume(deployment != _OURS)
        exc = self.refused(record_format.dump(record, deployment),
                           type(record))
        self.assertIsInstance(exc, record_format.ForeignRecord)

    @_patiently
    @hypothesis.given(st.sampled_from(_KINDS), st.text())
    def test_any_text(self, kind, text):
        self.refused(text, kind)

    @_patiently
    @hypothesis.given(st.sampled_from(_KINDS), _JSON)
    def test_any_json(self, kind, value):
        self.refused(json.dumps(value), kind)

    @_patiently
    @hypothesis.given(_RECORDS, st.data())
    def test_any_value_in_any_field(self, record, data):
        fields = fields_of(record)
        name = data.draw(st.sampled_from(sorted(fields)))
        fields[name] = data.draw(_JSON)
        self.load_or_refuse(type(record), json.dumps(fields))

    @_patiently
    @hypothesis.given(_RECORDS, st.data())
    def test_any_change_of_the_text(self, record, data):
        text = record_format.dump(record, _OURS)
        for _change in range(data.draw(st.integers(1, 3))):
            begin = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(begin, min(len(text), begin + 9)))
            text = text[:begin] + data.draw(_PIECES) + text[end:]
        self.load_or_refuse(type(record), text)

    def test_nested_deeply(self):
        fields = fields_of(a_task())
        for depth in (100, 900, 1500, 8000, 10 ** 5):
            for opening, closing in (('[', ']'), ('{"a":', '}')):
                nested = opening * depth + '0' + closing * depth
                self.refused(nested)
                # Its repr(), for a message, would nest as deeply.
                for name, value in fields.items():
                    text = json.dumps(fields).replace(
                        '"%s": %s' % (name, json.dumps(value)),
                        '"%s": %s' % (name, nested))
                    self.assertIn(nested, text)
                    self.refused(text)

    def test_long_numbers(self):
        for number in ('9' * 4000, '9' * 16000, '9' * 10 ** 6, '-1', '1e400',
                       '1' + '0' * 19, 'NaN', 'Infinity', '-Infinity',
                       '9' * 4000 + '.5', '1e-400000000000'):
            fields = fields_of(a_task(retry_attempts=77777))
            self.refused(json.dumps(fields).replace('77777', number))
        fields['created_at'] = 77777
        for number in ('9' * 4000, 'NaN', '-0.5', '1e400', '-Infinity',
                       'true', '"7"'):
            self.refused(json.dumps(fields).replace('77777', number))

    def test_too_long(self):
        self.refused(record_format.dump(a_task(message='x' * 20000), _OURS),
                     words='longer than')
        self.refused(record_format.dump(a_task(message='x' * 5000), _OURS),
                     words='message')

    def test_field_twice(self):
        text = record_format.dump(a_task(), _OURS)
        for twice in (', "image": "another"}', ', "version": 2}'):
            self.refused(text[:-1] + twice, words='twice')
        # Also within a field.
        text = record_format.dump(definitions._Options({'a': 'b'}), _OURS)
        self.refused(text.replace('"a": "b"', '"a": "b", "a": "c"'),
                     definitions._Options, 'twice')

    def test_wrong_fields(self):
        fields = fields_of(a_task())
        for name in fields:
            self.refused(json.dumps({
                key: value for key, value in fields.items()
                if key != name}))
        self.refused(json.dumps(dict(fields, more=1)), words='fields')
        for version in (0, -1, 2.0, True, 1 << 40, '2', None):
            exc = self.refused(json.dumps(dict(fields, version=version)),
                               words='does not say of which version')
            self.assertNotIsInstance(exc, record_format.OtherRelease)
        for name in ('image', 'addresses', 'action'):
            for value in (7, None, True, 1.5, {}, ['a', 7], [['a']]):
                self.refused(json.dumps(dict(fields, **{name: value})),
                             words=name)
        self.refused(json.dumps(dict(fields, action='format')),
                     words='action')

    def test_of_another_release(self):
        fields = fields_of(a_task())
        for version, words in ((1, 'an earlier release has to act upon it'),
                               (3, 'a later release has to act upon it')):
            # Whatever else is in it.
            for others in (fields, {'deployment': _OURS}, {'more': [{}]}):
                exc = self.refused(json.dumps(dict(others, version=version)),
                                   words=words)
                self.assertIsInstance(exc, record_format.OtherRelease)
                self.assertEqual(version, exc.version)
        exc = self.refused(json.dumps({'version': 3, 'deployment': 'theirs'}))
        self.assertIsInstance(exc, record_format.ForeignRecord)

    def test_deployment_that_is_not_told(self):
        fields = fields_of(a_task())
        for deployment in (None, 7, [_OURS], {}, True):
            exc = self.refused(json.dumps(dict(
                fields, deployment=deployment)))
            self.assertNotIsInstance(exc, record_format.ForeignRecord)

    def test_characters_that_no_writer_uses(self):
        for text in ('a\nb', '\0', '\x7f', '\x1b[2J', '\ud800', 'a\udfff'):
            for changes in ({'image': text}, {'addresses': (text,)},
                            {'snapshot': text}):
                self.refused(record_format.dump(
                    dataclasses.replace(a_task(), **changes), _OURS),
                    words=next(iter(changes)))

    @_patiently
    @hypothesis.given(st.text() | _PIECES)
    def test_any_message_can_be_made_fit(self, text):
        message = record_format.printable(ValueError(text * 100))
        task = a_task(message=message)
        self.assertEqual(task, record_format.load(
            tasks.Task, record_format.dump(task, _OURS), _OURS))
        self.assertLessEqual(len(message), 500)


def later(text):
    """Return what a release with the next version would have recorded."""
    fields = json.loads(text)
    return json.dumps(dict(fields, version=fields['version'] + 1, more=1))


class DefinitionsTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.useFixture(fakes.MemoryCluster())

    @_patiently
    @hypothesis.given(st.dictionaries(
        st.sampled_from(['site/a', 'holder/a/host', 'holder/a', 'holder/',
                         'site/', 'x', '']) | st.text(),
        _JSON.map(json.dumps) | st.text()
        | _RECORDS.map(lambda record: record_format.dump(record, _OURS))))
    def test_any_records(self, kept):
        # Sites are made out of these.
        for definition in self.load(kept).sites.values():
            self.assertTrue(all(
                type(item) is str for pair in definition.options.items()
                for item in pair))

    def load(self, kept):
        """Return what is read of a record of sites."""
        site = fakes.Site('home')
        ioctx = fakes.Ioctx(site, 'images')
        ioctx.omap(definitions.OBJECT).update(kept)
        return definitions.Definitions('home', ioctx, _OURS, site.call).load()

    def test_of_another_release(self):
        kept = {
            'site/a': later(record_format.dump(
                definitions._Options({'x': '"1"'}), _OURS)),
            'site/b': record_format.dump(
                definitions._Options({'x': '"1"'}), _OURS),
            'holder/b/host': later(record_format.dump(
                definitions._Holder(5.0), _OURS)),
            'site/c': later(record_format.dump(
                definitions._Options({}), 'theirs')),
            'holder/c/host': '{}'}
        found = self.load(kept)
        self.assertEqual({'b': definitions.Definition({'x': '1'})},
                         found.sites)
        self.assertEqual(['a', 'b'], sorted(found.of_other_release))
        self.assertIn('version 3', found.of_other_release['a'])
