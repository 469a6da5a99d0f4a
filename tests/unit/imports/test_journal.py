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


"""The journal: real files, real locks, and a process that is killed."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import fixtures
import hypothesis
from hypothesis import strategies
from oslotest import base

from glance_dcn.imports import journal
from tests import runtimes
from tests.unit.imports import test_durable

_HOLDER = """
import sys, time
from glance_dcn.imports import journal
found = journal.Journal(sys.argv[1])
held = found.begin(journal.parse(sys.argv[2]))
held.note(phase=journal.STORING)
print('held', flush=True)
time.sleep(60)
"""


DIGEST = 'dcn1:sha256:65536:' + 64 * 'a'


def entry(**changes):
    return dataclasses.replace(journal.Entry(
        task='the-task', image='the-image', method='glance-direct',
        stores=['central', 'dcn0'], path='/staging/the-image',
        phase=journal.STAGED, formats={'disk_format': 'qcow2'}), **changes)


class JournalTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = self.useFixture(fixtures.TempDir()).path
        self.journal = journal.Journal(self.staging)
        self.folder = pathlib.Path(self.journal.folder)

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())

    def test_what_is_noted_is_read(self):
        held = self.journal.begin(entry())
        self.addCleanup(held.close)
        held.note(phase=journal.STORING, begun={'dcn0': [4711]})
        self.assertEqual(
            [dataclasses.replace(held.entry, phase=journal.STORING,
                                 begun={'dcn0': [4711]})],
            self.journal.entries())

    def test_what_it_vouches_for_is_read(self):
        held = self.journal.begin(entry())
        self.addCleanup(held.close)
        proofs = {'qcow2': journal.Proof(4711, DIGEST),
                  'raw': journal.Proof(10000)}
        self.assertTrue(held.note(proofs=proofs))
        self.assertEqual([dataclasses.replace(held.entry, proofs=proofs)],
                         self.journal.entries())

    def test_what_it_vouches_for_is_on_the_disk(self):
        syncs = self.useFixture(test_durable.Syncs())
        record = str(self.folder / 'the-task.json')
        held = self.journal.begin(entry())
        self.addCleanup(held.close)
        self.assertEqual([record + '.new', str(self.folder)], syncs.paths)
        held.note(phase=journal.CONVERTING)
        self.assertEqual([record + '.new'], syncs.paths[2:])
        held.note(proofs={'qcow2': journal.Proof(4711, DIGEST)})
        self.assertEqual([record + '.new', str(self.folder)],
                         syncs.paths[3:])

    def test_boot_id_is_kept(self):
        held = self.journal.begin(entry())
        self.addCleanup(held.close)
        self.assertEqual(
            [pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
             .strip()], [one.boot for one in self.journal.entries()])

    def test_closing_leaves_nothing(self):
        self.journal.begin(entry()).close()
        self.assertEqual([], self.names())
        self.assertEqual([], self.journal.tasks())

    def test_is_private(self):
        held = self.journal.begin(entry())
        self.addCleanup(held.close)
        self.assertEqual(0o700, self.folder.stat().st_mode & 0o777)
        for path in self.folder.iterdir():
            self.assertEqual(0o600, path.stat().st_mode & 0o777)

    def test_one_that_is_held_is_not_taken(self):
        held = self.journal.begin(entry())
        self.addCleanup(held.close)
        self.assertIsNone(self.journal.take('the-task'))
        self.assertRaises(journal.Busy, self.journal._lock, 'the-task')

    def test_one_that_was_released_is_taken(self):
        held = self.journal.begin(entry())
        held.release()
        taken = self.journal.take('the-task')
        self.addCleanup(taken.close)
        self.assertEqual(held.entry, taken.entry)

    def test_nothing_is_noted_after_the_end(self):
        held = self.journal.begin(entry())
        held.close()
        held.note(phase=journal.STORING)
        held.close()
        self.assertEqual([], self.names())

    def test_lock_without_entry_is_removed(self):
        self.folder.mkdir()
        (self.folder / 'the-task.lock').touch()
        self.assertIsNone(self.journal.take('the-task'))
        self.assertEqual([], self.names())

    def test_one_that_cannot_be_understood(self):
        self.folder.mkdir()
        for text in ('', '{}', '[]', '{"version": "1", "task": "x"}',
                     '{"version": 2, "task": "x"}', json.dumps(dict(
                         json.loads(entry().text()), version=True))):
            (self.folder / 'the-task.json').write_text(text)
            self.assertIsNone(self.journal.take('the-task'))
            self.assertEqual(['the-task.json.bad'], self.names())

    def test_one_of_another_release_stays(self):
        self.useFixture(runtimes.Runtime())
        log = self.useFixture(fixtures.FakeLogger())
        self.folder.mkdir()
        path = self.folder / 'the-task.json'
        # The first release wrote entries of version 1.
        for version in (1, 3):
            text = json.dumps(dict(json.loads(entry().text()),
                                   version=version, more=1))
            path.write_text(text)
            for _ in range(2):
                self.assertIsNone(self.journal.take('the-task'))
                self.assertIsNone(self.journal.read('the-task'))
                self.assertEqual([], self.journal.entries())
            self.assertEqual(text, path.read_text())
            reason = self.journal.of_other_release()[str(path)].reason
            self.assertIn('version %d' % version, reason)
        # Once for each process.
        self.assertEqual(1, log.output.count('its import is not recovered'))
        # A release that understands it takes it.
        path.write_text(entry().text())
        held = self.journal.take('the-task')
        self.addCleanup(held.close)
        self.assertEqual({}, self.journal.of_other_release())

    def test_one_that_holds_what_it_may_not(self):
        fields = json.loads(entry().text())
        for changes in (
                {'image': '../../etc/shadow'}, {'image': ''}, {'task': 'a/b'},
                {'stores': 'central'}, {'stores': [1]}, {'begun': ['x']},
                {'begun': {'central': ['x']}}, {'formats': {'owner': 'me'}},
                {'formats': {'disk_format': 1}}, {'size': 'large'},
                {'attempts': None}, {'taken': 'yes'}, {'phase': []},
                {'phase': 'asleep'}, {'size': -1}, {'size': True},
                {'size': 1 << 64}, {'size': 10 ** 19 * 100},
                {'attempts': 1.5}, {'since': float('nan')},
                {'since': float('inf')}, {'since': 10 ** 400},
                {'since': -1}, {'path': '/x\0y'}, {'path': 'x' * 5000},
                {'stores': ['x'] * 20000}, {'begun': {'central': [-1]}},
                {'boot': 1}, {'boot': '../x'}, {'boot': 'a' * 40},
                {'proofs': None}, {'proofs': []}, {'proofs': {'raw': 1}},
                {'proofs': {'raw': {}}}, {'proofs': {'raw': {'size': -1}}},
                {'proofs': {'raw': {'size': '1', 'digest': None}}},
                {'proofs': {'raw': {'size': 1, 'digest': 'x'}}},
                {'proofs': {'raw': {'size': 1, 'digest': DIGEST + '\n'}}},
                {'proofs': {'raw': {'size': 1, 'more': 1}}},
                {'proofs': {str(n): {'size': 1, 'digest': None}
                            for n in range(100)}}, {'more': 1}):
            text = json.dumps(dict(fields, **changes))
            self.assertRaises(ValueError, journal.parse, text)
        for name in fields:
            self.assertRaises(ValueError, journal.parse, json.dumps(
                {other: value for other, value in fields.items()
                 if other != name}))
        for text in ('[' * 100000, '{"a":' * 100000, '9' * 1000000,
                     '{"version": %s}' % ('9' * 1000000)):
            self.assertRaises(ValueError, journal.parse, text)

    def test_one_that_is_no_small_file(self):
        self.folder.mkdir()
        path = self.folder / 'the-task.json'
        elsewhere = pathlib.Path(self.staging) / 'elsewhere'
        elsewhere.write_text(entry().text())
        for make in (lambda: os.mkfifo(path), path.mkdir,
                     lambda: path.symlink_to(elsewhere),
                     lambda: path.write_text(
                         entry().text() + ' ' * (1 << 20)),
                     lambda: path.write_text(entry(task='other').text())):
            make()
            self.assertEqual([], self.journal.entries())
            self.assertEqual(['the-task.json.bad'], self.names())
            bad = self.folder / 'the-task.json.bad'
            bad.rmdir() if bad.is_dir() and not bad.is_symlink() else (
                bad.unlink())

    def test_folder_that_others_may_write_to(self):
        self.journal.begin(entry()).release()
        self.folder.chmod(0o777)
        self.assertEqual([], self.journal.tasks())
        self.assertRaises(OSError, self.journal.begin, entry())
        self.folder.chmod(0o770)
        self.assertEqual(['the-task'], self.journal.tasks())

    def test_folder_that_leads_elsewhere(self):
        elsewhere = self.useFixture(fixtures.TempDir()).path
        self.folder.symlink_to(elsewhere)
        self.assertRaises(OSError, self.journal.begin, entry())
        self.assertEqual([], os.listdir(elsewhere))

    def test_full_disk_does_not_end_an_import(self):
        held = self.journal.begin(entry())
        self.addCleanup(held.close)
        self.useFixture(fixtures.MonkeyPatch(
            'os.fdatasync', self._raise(OSError(28, 'No space left'))))
        self.assertFalse(held.note(phase=journal.STORING))
        self.assertEqual([journal.STAGED],
                         [one.phase for one in self.journal.entries()])

    def _raise(self, exc):
        def function(*unused):
            raise exc
        return function

    def test_holder_is_killed(self):
        process = subprocess.Popen(
            [sys.executable, '-c', _HOLDER, self.staging, entry().text()],
            stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(b'held\n', process.stdout.readline())
        self.assertIsNone(self.journal.take('the-task'))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        taken = self.journal.take('the-task')
        self.addCleanup(taken.close)
        self.assertEqual(journal.STORING, taken.entry.phase)


_JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.text(max_size=20)
    | strategies.integers() | strategies.floats()
    | strategies.sampled_from((DIGEST, 'raw', 'size', 'staged', 1 << 64)),
    lambda inner: strategies.lists(inner, max_size=5)
    | strategies.dictionaries(strategies.text(max_size=10), inner,
                              max_size=5), max_leaves=20)
_TEXT = strategies.text(max_size=50).map(lambda text: text.replace('\0', ''))
_NUMBER = strategies.integers(0, (1 << 64) - 1)
_ENTRIES = strategies.builds(
    journal.Entry,
    task=strategies.from_regex(r'[A-Za-z0-9_-]{1,100}', fullmatch=True),
    image=strategies.from_regex(r'[A-Za-z0-9_-]{1,100}', fullmatch=True),
    method=strategies.from_regex(r'[a-z-]{1,100}', fullmatch=True),
    stores=strategies.lists(strategies.none() | _TEXT, max_size=5),
    path=_TEXT, phase=strategies.sampled_from(journal._PHASES),
    formats=strategies.dictionaries(
        strategies.sampled_from(journal._FORMATS),
        strategies.none() | _TEXT),
    begun=strategies.dictionaries(
        _TEXT, strategies.lists(_NUMBER, max_size=5), max_size=5),
    size=strategies.none() | _NUMBER, attempts=_NUMBER,
    taken=strategies.booleans(), by=_TEXT,
    since=strategies.floats(0, 1e10) | _NUMBER,
    boot=strategies.uuids().map(str) | strategies.just(''),
    proofs=strategies.dictionaries(
        _TEXT, strategies.builds(
            journal.Proof, _NUMBER, strategies.none()
            | strategies.just(DIGEST)), max_size=8))


def _settings(**changes):
    """Return settings with which nothing hangs on the speed of the machine."""
    return hypothesis.settings(
        deadline=None, suppress_health_check=[
            hypothesis.HealthCheck.too_slow], **changes)


class ParseTest(base.BaseTestCase):
    """Whatever is in an entry: it is read as it was written, or refused."""

    def assertReadOrRefused(self, text):
        try:
            found = journal.parse(text)
        except ValueError:
            return
        self.assertEqual(found, journal.parse(found.text()))

    @_settings()
    @hypothesis.given(_ENTRIES)
    def test_entries_are_read_as_they_were_written(self, entry):
        self.assertEqual(entry, journal.parse(entry.text()))

    @_settings()
    @hypothesis.given(strategies.text(max_size=2000))
    def test_text(self, text):
        self.assertReadOrRefused(text)

    @_settings()
    @hypothesis.given(_JSON)
    def test_json(self, value):
        self.assertReadOrRefused(json.dumps(value))

    @_settings(max_examples=200)
    @hypothesis.given(_ENTRIES, strategies.data())
    def test_entry_with_a_field_of_anything(self, entry, data):
        fields = json.loads(entry.text())
        name = data.draw(strategies.sampled_from(sorted(fields)))
        fields[name] = data.draw(_JSON)
        self.assertReadOrRefused(json.dumps(fields))

    @_settings(max_examples=200)
    @hypothesis.given(_ENTRIES, strategies.data())
    def test_entry_that_was_damaged(self, entry, data):
        text = entry.text()
        at = data.draw(strategies.integers(0, len(text)))
        length = data.draw(strategies.integers(0, 20))
        self.assertReadOrRefused(
            text[:at] + data.draw(strategies.text(max_size=20))
            + text[at + length:])

    def test_the_largest_text_takes_no_time(self):
        # Such as would be quadratic in its length, or recurse.
        largest = 1 << 20
        for start, unit, end in (
                ('', '[', ''), ('', '{"a":', ''), ('', '9', ''),
                ('-', '9', ''), ('0.', '9', ''), ('1e', '9', ''),
                ('"', '\\u0000', '"'), ('', ' ', ''), ('[', '1e9,', '1]'),
                ('{"version": 2, "stores": [', 'null,', 'null]}'),
                ('{"version": 2, "since": ', '9', '}'),
                ('{', '"version": 2, ', '"task": 1}')):
            text = start + unit * (largest // len(unit) - 10) + end
            started = time.process_time()
            self.assertRaises(ValueError, journal.parse, text)
            self.assertLess(time.process_time() - started, 5, unit)
