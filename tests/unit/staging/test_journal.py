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

import fixtures
from oslotest import base

from glance_dcn.staging import journal

_HOLDER = """
import sys, time
from glance_dcn.staging import journal
found = journal.Journal(sys.argv[1])
held = found.begin(journal.parse(sys.argv[2]))
held.note(phase=journal.STORING)
print('held', flush=True)
time.sleep(60)
"""


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
        for text in ('', '{}', '[]', '{"version": 1, "task": "x"}'):
            (self.folder / 'the-task.json').write_text(text)
            self.assertIsNone(self.journal.take('the-task'))
            self.assertEqual(['the-task.json.bad'], self.names())

    def test_one_that_holds_what_it_may_not(self):
        fields = json.loads(entry().text())
        for changes in (
                {'image': '../../etc/shadow'}, {'image': ''}, {'task': 'a/b'},
                {'stores': 'central'}, {'stores': [1]}, {'begun': ['x']},
                {'begun': {'central': ['x']}}, {'formats': {'owner': 'me'}},
                {'formats': {'disk_format': 1}}, {'size': 'large'},
                {'attempts': None}, {'taken': 'yes'}, {'phase': []}):
            text = json.dumps(dict(fields, **changes))
            self.assertRaises(ValueError, journal.parse, text)
        self.assertRaises(ValueError, journal.parse, '[' * 100000)

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
        held.note(phase=journal.STORING)
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
