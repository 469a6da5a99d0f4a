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
import threading
import types
import uuid

import fixtures
from oslotest import base
from tests import runtimes
from tests.unit.imports import glance
from tests.unit.imports import test_durable
from tests.unit.imports import test_journal

from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.runtime import process
from glance_dcn.upstream import database


class RunningTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(runtimes.Runtime())
        process.put(active_imports.Imports(delay=0))
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.journal = journal.Journal(str(self.staging))

    def begin(self, **changes):
        changes.setdefault('path', str(self.staging / 'the-image'))
        self.addCleanup(active_imports.end, 'the-task')
        return active_imports.begin(self.journal,
                                    test_journal.entry(**changes))

    def written(self):
        [entry] = self.journal.entries()
        return entry

    def test_twice_is_once(self):
        self.assertIs(self.begin(), self.begin())

    def test_end(self):
        self.begin()
        active_imports.end('the-task')
        self.assertIsNone(active_imports.get('the-task'))
        self.assertIsNone(active_imports.of('the-image'))
        self.assertEqual([], self.journal.entries())

    def test_the_last_one_of_an_image(self):
        # The copy after an import that is not closed yet.
        self.begin()
        self.addCleanup(active_imports.end, 'the-copy')
        copy = active_imports.begin(self.journal, test_journal.entry(
            task='the-copy', path=str(self.staging / 'the-image')))
        self.assertIs(copy, active_imports.of('the-image'))

    def test_phase_is_on_the_disk(self):
        self.begin()
        active_imports.enter('the-image', journal.CONVERTING)
        self.assertEqual(journal.CONVERTING, self.written().phase)

    def test_image_that_nobody_announced(self):
        active_imports.enter('another', journal.CONVERTING)
        active_imports.writes('another', 'dcn0', 1)
        self.assertIsNone(
            active_imports.progress_callback('another', 'dcn0', 1))
        self.assertFalse((self.staging / folder.FOLDER).exists())

    def test_writers(self):
        self.begin()
        active_imports.writes('the-image', 'dcn0', 2)
        active_imports.writes('the-image', 'dcn0', 1)
        active_imports.writes('the-image', 'central', 3)
        self.assertEqual((journal.STORING, {'dcn0': [1, 2], 'central': [3]}),
                         (self.written().phase, self.written().begun))

    def test_a_copy_stays_a_copy(self):
        self.begin(phase=journal.COPYING, method='copy-image')
        active_imports.writes('the-image', 'dcn0', 1)
        self.assertEqual((journal.COPYING, {'dcn0': [1]}),
                         (self.written().phase, self.written().begun))

    def vouch(self, data=b'data', phase=journal.STAGED):
        """Vouch for staged data; return an event that it is over."""
        over = threading.Event()
        (self.staging / 'the-image').write_bytes(data)
        active_imports.vouch(
            'the-image', phase, str(self.staging / 'the-image'), 'qcow2',
            over.set)
        return over

    def stuck(self):
        """Let the disk be slow until the end of the test."""
        going = threading.Event()
        self.addCleanup(going.set)
        fdatasync = os.fdatasync

        def slow(fd):
            if 'the-image' in os.readlink('/proc/self/fd/%d' % fd):
                going.wait(60)
            fdatasync(fd)
        self.useFixture(fixtures.MonkeyPatch('os.fdatasync', slow))

    def test_staged_data_is_vouched_for(self):
        self.begin(phase=journal.DOWNLOADING)
        self.assertTrue(self.vouch().wait(60))
        self.assertEqual(
            (journal.STAGED, {'qcow2': journal.Proof(
                4, test_durable.content_digest(b'data'))}),
            (self.written().phase, self.written().proofs))

    def test_length_of_staged_data_is_known_at_once(self):
        self.begin(phase=journal.DOWNLOADING)
        self.stuck()
        over = self.vouch()
        self.assertEqual((journal.STAGED, {'qcow2': journal.Proof(4)}),
                         (self.written().phase, self.written().proofs))
        self.assertFalse(over.is_set())

    def test_import_ends_before_the_disk_has_it(self):
        self.begin()
        self.stuck()
        over = self.vouch()
        active_imports.end('the-task')
        self.assertTrue(over.is_set())
        self.assertEqual([], self.journal.entries())

    def test_import_is_given_up_before_the_disk_has_it(self):
        self.begin()
        self.stuck()
        over = self.vouch()
        active_imports.give_up('the-task')
        self.assertFalse(over.is_set())
        self.assertEqual({'qcow2': journal.Proof(4)}, self.written().proofs)

    def test_what_was_proved_is_not_proved_once_more(self):
        proof = journal.Proof(4, test_journal.DIGEST)
        self.begin(proofs={'qcow2': proof}, attempts=1)
        self.assertTrue(self.vouch().is_set())
        self.assertEqual({'qcow2': proof}, self.written().proofs)

    def test_what_is_being_proved_is_not_proved_once_more(self):
        self.begin(phase=journal.ACCEPTED)
        self.stuck()
        first = self.vouch(phase=journal.ACCEPTED)
        self.assertTrue(self.vouch().is_set())
        self.assertFalse(first.is_set())
        self.assertEqual(journal.STAGED, self.written().phase)

    def test_what_is_made_anew_is_proved_anew(self):
        self.begin(attempts=1,
                   proofs={'qcow2': journal.Proof(4, test_journal.DIGEST)})
        self.assertTrue(self.vouch(phase=journal.CONVERTED).wait(60))
        self.assertEqual(test_durable.content_digest(b'data'),
                         self.written().proofs['qcow2'].digest)

    def test_nothing_vouches_for_what_has_no_journal(self):
        self.assertTrue(self.vouch().is_set())

    def test_message_of_a_download(self):
        going_on = self.begin(phase=journal.DOWNLOADING, size=400)
        self.assertEqual('Staging the image', going_on.message())
        (self.staging / 'the-image').write_bytes(bytes(100))
        self.assertEqual('Staging the image: 25 %', going_on.message())
        going_on.held.note(size=None)
        self.assertEqual('Staging the image: 0 MiB', going_on.message())

    def test_message_of_storing(self):
        going_on = self.begin()
        active_imports.writes('the-image', 'dcn0', 1)
        self.assertEqual('Storing the image', going_on.message())
        tap = active_imports.progress_callback('the-image', 'dcn0', 1000)
        tap(bytes(100))
        tap(bytes(150))
        self.assertEqual('Storing the image: dcn0: 25 %', going_on.message())

    def test_size_that_is_not_known(self):
        self.begin()
        self.assertIsNone(
            active_imports.progress_callback('the-image', 'dcn0', 0))

    def test_folder_that_cannot_be_written(self):
        (self.staging / folder.FOLDER).write_text('in the way')
        self.assertIsNone(self.begin())
        active_imports.enter('the-image', journal.CONVERTING)

    def test_children_are_not_at_it(self):
        self.begin()
        pid = os.fork()
        if not pid:
            os._exit(0 if active_imports.of('the-image') is None else 1)
        self.assertEqual(0, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


class AcceptedTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.glance = self.useFixture(glance.Database())
        self.useFixture(runtimes.Runtime())
        self.task_id, self.image_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.addCleanup(active_imports.end, self.task_id)

    def listen(self):
        active_imports.listen(types.SimpleNamespace(
            enabled_backends={'central': 'dcn'},
            os_glance_staging_store=types.SimpleNamespace(
                filesystem_store_datadir=str(self.staging))))

    def add(self, method='web-download'):
        self.glance.add_task(self.task_id, self.image_id, method,
                             ['central'], 'pending')

    def test_import_has_a_journal(self):
        self.listen()
        self.add()
        entry = active_imports.of(self.image_id).entry
        self.assertEqual(
            (self.task_id, 'web-download', ['central'], journal.ACCEPTED,
             str(self.staging / self.image_id)),
            (entry.task, entry.method, entry.stores, entry.phase, entry.path))
        self.assertEqual([entry], journal.Journal(
            str(self.staging)).entries())

    def test_staged_data_is_vouched_for(self):
        # The import may wait for long.
        (self.staging / self.image_id).write_bytes(b'data')
        self.listen()
        self.add('glance-direct')
        entry = active_imports.of(self.image_id).entry
        self.assertEqual(journal.ACCEPTED, entry.phase)
        self.assertEqual(4, entry.proofs[journal.AS_STAGED].size)

    def test_twice_is_once(self):
        self.listen()
        self.listen()
        self.add()
        self.assertIsNotNone(active_imports.get(self.task_id))

    def test_nobody_listens(self):
        self.add()
        self.assertIsNone(active_imports.get(self.task_id))

    def test_task_is_written_whatever_happens(self):
        self.listen()
        (self.staging / folder.FOLDER).write_text('in the way')
        self.add()
        self.assertIsNotNone(database.task(self.task_id))
        (self.staging / folder.FOLDER).unlink()
        self.task_id = str(uuid.uuid4())
        self.addCleanup(active_imports.end, self.task_id)
        active_imports.on_begin(lambda entry: 1 / 0)
        self.add()
        self.assertIsNotNone(database.task(self.task_id))
