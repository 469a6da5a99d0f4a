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


"""What a process says of its imports."""

import os
import pathlib

import fixtures
from oslotest import base

from glance_dcn.staging import journal
from glance_dcn.staging import running
from tests.unit.staging import test_journal


class RunningTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.journal = journal.Journal(str(self.staging))

    def begin(self, **changes):
        changes.setdefault('path', str(self.staging / 'the-image'))
        self.addCleanup(running.end, 'the-task')
        return running.begin(self.journal, test_journal.entry(**changes))

    def written(self):
        [entry] = self.journal.entries()
        return entry

    def test_twice_is_once(self):
        self.assertIs(self.begin(), self.begin())

    def test_end(self):
        self.begin()
        running.end('the-task')
        self.assertIsNone(running.get('the-task'))
        self.assertIsNone(running.of('the-image'))
        self.assertEqual([], self.journal.entries())

    def test_phase_is_on_the_disk(self):
        self.begin()
        running.enter('the-image', journal.CONVERTING)
        self.assertEqual(journal.CONVERTING, self.written().phase)

    def test_image_that_nobody_announced(self):
        running.enter('another', journal.CONVERTING)
        running.writes('another', 'dcn0', 1)
        self.assertIsNone(running.meter('another', 'dcn0', 1))
        self.assertFalse((self.staging / journal.FOLDER).exists())

    def test_writers(self):
        self.begin()
        running.writes('the-image', 'dcn0', 2)
        running.writes('the-image', 'dcn0', 1)
        running.writes('the-image', 'central', 3)
        self.assertEqual((journal.STORING, {'dcn0': [1, 2], 'central': [3]}),
                         (self.written().phase, self.written().begun))

    def test_a_copy_stays_a_copy(self):
        self.begin(phase=journal.COPYING, method='copy-image')
        running.writes('the-image', 'dcn0', 1)
        self.assertEqual((journal.COPYING, {'dcn0': [1]}),
                         (self.written().phase, self.written().begun))

    def test_message_of_a_download(self):
        going_on = self.begin(phase=journal.DOWNLOADING, size=400)
        self.assertEqual('Staging the image', going_on.message())
        (self.staging / 'the-image').write_bytes(bytes(100))
        self.assertEqual('Staging the image: 25 %', going_on.message())
        going_on.held.note(size=None)
        self.assertEqual('Staging the image: 0 MiB', going_on.message())

    def test_message_of_storing(self):
        going_on = self.begin()
        running.writes('the-image', 'dcn0', 1)
        self.assertEqual('Storing the image', going_on.message())
        tap = running.meter('the-image', 'dcn0', 1000)
        tap(bytes(100))
        tap(bytes(150))
        self.assertEqual('Storing the image: dcn0: 25 %', going_on.message())

    def test_size_that_is_not_known(self):
        self.begin()
        self.assertIsNone(running.meter('the-image', 'dcn0', 0))

    def test_folder_that_cannot_be_written(self):
        (self.staging / journal.FOLDER).write_text('in the way')
        self.assertIsNone(self.begin())
        running.enter('the-image', journal.CONVERTING)

    def test_children_are_not_at_it(self):
        self.begin()
        pid = os.fork()
        if not pid:
            os._exit(0 if running.of('the-image') is None else 1)
        self.assertEqual(0, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
