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

import pathlib
import threading
import types
from unittest import mock

import fixtures
from glance.async_ import taskflow_executor
from glance.common import exception
from oslo_config import cfg
from oslotest import base

from glance_dcn.imports import active_imports
from glance_dcn.imports import distributed_staging
from glance_dcn.imports import heartbeat
from glance_dcn.imports import journal
from glance_dcn.imports import recovery
from glance_dcn.upstream import database
from glance_dcn.upstream import plugins
from tests.unit.imports import glance
from tests.unit.imports import test_journal


class HeartbeatTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        self.task = types.SimpleNamespace(status='processing', message='')
        self.repo = mock.Mock(**{'get.return_value': self.task})
        self.wrapper = mock.Mock(unsafe=True)
        self.heartbeat = heartbeat.Heartbeat(self.repo, 'task', self.wrapper,
                                             lambda: self.now)

    def test_is_due_at_once_and_well_within_30_seconds(self):
        due = []
        for _ in range(31):
            if self.heartbeat.due:
                self.heartbeat.save('message')
                due.append(self.now - 1000)
            self.now += 1
        self.assertEqual([0, 10, 20, 30], due)

    def test_saves_the_message(self):
        self.heartbeat.save('Copying')
        self.assertEqual('Copying', self.task.message)
        self.repo.save.assert_called_once_with(self.task)

    def test_ended_by_somebody(self):
        self.task.status = 'failure'
        self.assertRaises(exception.TaskAbortedError, self.heartbeat.save, '')
        self.repo.save.assert_not_called()

    def test_image_taken_over_by_another_task(self):
        self.wrapper.assert_task_lock.side_effect = exception.TaskAbortedError
        self.assertRaises(exception.TaskAbortedError, self.heartbeat.save, '')
        self.repo.save.assert_not_called()

    def test_task_is_gone(self):
        self.repo.get.side_effect = exception.NotFound
        self.assertRaises(exception.NotFound, self.heartbeat.save, '')


class WatchTest(base.BaseTestCase):
    """With a real database."""

    def setUp(self):
        super().setUp()
        self.glance = self.useFixture(glance.Database())
        staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = staging / 'the-image'
        self.path.write_bytes(b'data')
        self.add('processing')
        self.addCleanup(active_imports.end, 'the-task')
        self.going_on = active_imports.begin(
            journal.Journal(str(staging)),
            test_journal.entry(path=str(self.path)))
        self.watch = heartbeat.Watch()

    def add(self, status, lock='the-task'):
        self.glance.add_image('the-image', 'importing',
                              properties={database.LOCK: lock})
        self.glance.add_task('the-task', 'the-image', 'glance-direct', [],
                             status)

    def message(self):
        return database.task('the-task')['message']

    def be_silent(self):
        self.going_on.saved -= heartbeat._SILENCE

    def test_silent_task_is_saved(self):
        before = database.task('the-task')['updated_at']
        self.be_silent()
        self.watch.check()
        self.assertEqual('The image is staged', self.message())
        self.assertEqual('processing', database.task('the-task')['status'])
        self.assertGreater(database.task('the-task')['updated_at'], before)

    def test_nobody_is_talked_over(self):
        self.watch.check()
        self.assertEqual('', self.message())
        self.be_silent()
        self.watch.check()
        database.save_message('the-task', 'Converting: 3 %')
        active_imports.saved('the-task')
        self.watch.check()
        self.assertEqual('Converting: 3 %', self.message())

    def test_it_is_well_within_30_seconds(self):
        self.assertLess(heartbeat._SILENCE + 2 * heartbeat._CHECK, 30)

    def test_task_that_has_lost_the_image_is_not_saved(self):
        database.drop_property('the-image', database.LOCK, 'the-task')
        self.be_silent()
        self.watch.check()
        self.assertEqual('', self.message())

    def test_ended_task_is_closed(self):
        database.drop_property('the-image', database.LOCK, 'the-task')
        database.fail_task('the-task', 'why')
        self.be_silent()
        self.watch.check()
        self.assertIsNone(active_imports.get('the-task'))
        self.assertEqual('why', self.message())
        self.assertTrue(self.path.exists())

    def test_ended_task_that_has_not_been_undone_is_recovered(self):
        # As glance-download leaves it: undoing the task ends with an error.
        self.going_on.held.note(method='glance-download')
        database.update('the-image', 'importing', {}, disk_format='vmdk')
        database.fail_task('the-task', 'why')
        for _ in range(heartbeat._MISSES):
            self.assertIs(self.going_on, active_imports.get('the-task'))
            self.watch.check()
        self.assertIsNone(active_imports.get('the-task'))
        recovery.recover(journal.Journal(str(self.path.parent)))
        image = database.image('the-image')
        self.assertEqual(
            ('queued', 'qcow2', None),
            (image['status'], image['disk_format'],
             image['properties'].get(database.LOCK)))
        self.assertEqual(('failure', 'why'), (
            database.task('the-task')['status'], self.message()))
        # It can be imported again, and nothing is left.
        self.assertFalse(self.path.exists())
        self.assertEqual([], journal.Journal(str(self.path.parent)).tasks())

    def test_reason_of_a_refusal_is_kept(self):
        active_imports.refuse('the-image', 'it is too large')
        database.fail_task('the-task', 'Task failed due to Internal Error')
        self.watch.check()
        self.assertEqual('it is too large', self.message())

    def test_stores_of_a_flow_that_never_ran_are_cleared(self):
        # As where a limit refuses a copy when its flow is made.
        database.update('the-image', 'importing', {
            database.IMPORTING: 'central,elsewhere'})
        database.fail_task('the-task', 'why')
        self.watch.check()
        self.assertEqual('central,elsewhere', self.importing)
        database.drop_property('the-image', database.LOCK, 'the-task')
        self.watch.check()
        self.assertEqual('elsewhere', self.importing)
        self.assertIsNone(active_imports.get('the-task'))

    def test_stores_of_another_task_stay(self):
        database.update('the-image', 'importing', {
            database.IMPORTING: 'central', database.LOCK: 'another'})
        database.fail_task('the-task', 'why')
        self.watch.check()
        self.assertEqual('central', self.importing)
        self.assertIsNone(active_imports.get('the-task'))

    @property
    def importing(self):
        return database.image('the-image')['properties'][database.IMPORTING]

    def test_ended_task_that_somebody_still_works_on_is_kept(self):
        database.fail_task('the-task', 'why')
        watch = heartbeat.Watch(lambda task: True)
        for _ in range(2 * heartbeat._MISSES):
            watch.check()
        self.assertIs(self.going_on, active_imports.get('the-task'))

    def test_staged_file_of_a_deleted_image(self):
        self.glance.delete_image('the-image')
        self.watch.check()
        self.assertTrue(self.path.exists())
        database.fail_task('the-task', 'why')
        self.watch.check()
        self.assertFalse(self.path.exists())

    def test_staged_file_of_an_import_that_a_limit_refused(self):
        # Stock: unlocked and queued, the task has failed, the file stays.
        self.watch.check()
        self.assertTrue(self.path.exists())
        database.drop_property('the-image', database.LOCK, 'the-task')
        database.update('the-image', 'importing', {}, status='queued')
        database.fail_task('the-task',
                           'Resource image_size_total is over limit')
        self.watch.check()
        self.assertFalse(self.path.exists())
        self.assertIsNone(active_imports.get('the-task'))

    def test_staged_file_that_another_task_has_locked(self):
        database.drop_property('the-image', database.LOCK, 'the-task')
        database.update('the-image', 'importing', {database.LOCK: 'another'},
                        status='queued')
        database.fail_task('the-task', 'why')
        self.watch.check()
        self.assertTrue(self.path.exists())

    def test_task_that_nobody_works_on_is_left_to_the_recovery(self):
        # Its thread could not say that it has ended.
        self.going_on.held.note(begun={'central': [7]})
        self.going_on.flowing = True
        found = journal.Journal(str(self.path.parent))
        for _ in range(heartbeat._MISSES):
            self.assertIsNone(found.take('the-task'))
            self.be_silent()
            self.watch.check()
        self.assertIsNone(active_imports.get('the-task'))
        taken = found.take('the-task')
        self.addCleanup(taken.close)
        # Nor are the clients of this process cut off.
        self.assertEqual({}, taken.entry.begun)

    def test_task_that_somebody_works_on_is_kept(self):
        begun, over = threading.Event(), threading.Event()
        executor = taskflow_executor.TaskExecutor(None, None, None, None)

        def get_task(repo, task_id):
            begun.set()
            over.wait(30)

        self.useFixture(fixtures.MonkeyPatch(
            'glance.common.scripts.utils.get_task', get_task))
        thread = threading.Thread(target=executor._run,
                                  args=('the-task', 'api_image_import'))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(over.set)
        begun.wait(30)
        self.assertTrue(heartbeat.works_on('the-task'))
        self.assertFalse(heartbeat.works_on('another'))
        self.going_on.flowing = True
        for _ in range(2 * heartbeat._MISSES):
            self.watch.check()
        self.assertIs(self.going_on, active_imports.get('the-task'))

    def test_task_whose_work_is_not_seen_is_kept(self):
        # Of an executor that is none of Glance's, say, or in a green thread.
        self.useFixture(glance.Watch())
        plugins.staging_is_used(cfg.CONF)
        for name, value, group in (
                ('image_import_plugins', [plugins.STAGING],
                 'image_import_opts'),
                ('node_staging_uri', 'file://%s' % self.path.parent, None)):
            cfg.CONF.set_override(name, value, group)
            self.addCleanup(cfg.CONF.clear_override, name, group)
        going_on = distributed_staging.announce({'task_id': 'the-task'})
        self.assertIs(self.going_on, going_on)
        for _ in range(2 * heartbeat._MISSES):
            self.watch.check()
        self.assertIs(self.going_on, active_imports.get('the-task'))

    def test_task_that_waits_for_its_turn_is_kept(self):
        for _ in range(2 * heartbeat._MISSES):
            self.watch.check()
        self.assertIs(self.going_on, active_imports.get('the-task'))

    def test_database_is_away(self):
        self.be_silent()
        with self.glance.away():
            self.watch.check()
        self.assertEqual('', self.message())
        self.watch.check()
        self.assertEqual('The image is staged', self.message())
