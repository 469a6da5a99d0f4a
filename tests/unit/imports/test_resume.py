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


"""Beginning an import again: Glance's own flow, database and a file store."""

import hashlib
import inspect
import os
import pathlib
import time
from unittest import mock
import uuid

import fixtures
import glance.async_
from glance.async_ import taskflow_executor
from glance.common import exception
import glance_store
from oslo_config import cfg
from oslotest import base
from taskflow import task

from glance_dcn.imports import active_imports
from glance_dcn.imports import distributed_staging
from glance_dcn.imports import heartbeat
from glance_dcn.imports import journal
from glance_dcn.imports import recovery
from glance_dcn.runtime import process
from glance_dcn.upstream import database
from glance_dcn.upstream import plugins
from tests.unit.imports import glance as fixture

CONF = cfg.CONF

_RESERVED = {'os_glance_staging_store': 'file',
             'os_glance_tasks_store': 'file'}


class RerunTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.glance = self.useFixture(fixture.Database())
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.staging, self.store = folder / 'staging', folder / 'store'
        for path in (self.staging, self.store):
            path.mkdir()
        plugins.staging_is_used(CONF)
        # create_multi_stores() adds to them.
        for name in ('location.SCHEME_TO_CLS_BACKEND_MAP',
                     'multi_backend._RESERVED_STORES'):
            self.useFixture(fixtures.MonkeyPatch('glance_store.' + name, {}))
        self.override('image_import_plugins', [plugins.STAGING],
                      'image_import_opts')
        self.override('enabled_backends', {'here': 'file'})
        glance_store.register_store_opts(CONF, reserved_stores=_RESERVED)
        self.override('default_backend', 'here', 'glance_store')
        for group, path in (('here', self.store),
                            ('os_glance_staging_store', self.staging),
                            ('os_glance_tasks_store', folder)):
            self.override('filesystem_store_datadir', str(path), group)
        glance_store.create_multi_stores(CONF, reserved_stores=_RESERVED)
        if glance.async_._THREADPOOL_MODEL is None:
            glance.async_.set_threadpool_model('native')
        self.useFixture(fixture.Watch())
        self.image_id, self.task_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.path = self.staging / self.image_id
        self.addCleanup(active_imports.end, self.task_id)

    def override(self, name, value, group=None):
        CONF.set_override(name, value, group)
        self.addCleanup(CONF.clear_override, name, group)

    def died(self, method, status='processing'):
        self.data = os.urandom(100000)
        self.path.write_bytes(self.data)
        self.glance.add_image(
            self.image_id, 'importing', size=len(self.data),
            disk_format='raw', properties={database.LOCK: self.task_id})
        self.glance.add_task(self.task_id, self.image_id, method, ['here'],
                             status)
        found = journal.Journal(str(self.staging))
        found.begin(journal.Entry(
            self.task_id, self.image_id, method, ['here'], str(self.path),
            journal.STORING, {'disk_format': 'raw'})).release()
        return found

    def test_cannot_be_begun(self):
        found = self.died('glance-direct')
        with fixtures.MonkeyPatch('glance.api.common.get_thread_pool',
                                  mock.Mock(side_effect=RuntimeError)):
            [(_entry, outcome)] = recovery.recover(
                found, recovery.resume_import)
        self.assertIsNone(outcome)
        self.assertIsNone(active_imports.get(self.task_id))
        [(_entry, outcome)] = recovery.recover(found)
        self.assertEqual(recovery.ROLLED_BACK, outcome)

    def test_task_is_deleted_meanwhile(self):
        held = self.died('glance-direct').take(self.task_id)
        self.addCleanup(held.release)
        self.glance.before(lambda: self.glance.delete_task(self.task_id),
                           'UPDATE task_info', 'SELECT')
        self.assertRaises(exception.TaskNotFound,
                          recovery.resume_import, held, ['here'])
        self.assertIsNone(active_imports.get(self.task_id))

    def test_thread_is_seen_to_work_on_it(self):
        seen = []

        def see():
            seen.append(active_imports.of(self.image_id).flowing)
            seen.append(heartbeat.works_on(self.task_id))

        self.useFixture(fixtures.MonkeyPatch(
            'glance.async_.flows.plugins.get_import_plugins',
            lambda **kwargs: [distributed_staging.get_flow(**kwargs).add(
                task.FunctorTask(see))]))
        recovery.recover(self.died('glance-direct'), recovery.resume_import)
        self.assertEqual('success', self.wait()['status'])
        self.assertEqual([True, True], seen)
        deadline = time.monotonic() + 30
        while heartbeat.works_on(self.task_id):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def wait(self):
        """Wait for the end of the task, and return it."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            task = database.task(self.task_id)
            if task['status'] in database.ENDED and database.LOCK not in (
                    database.image(self.image_id)['properties']):
                return task
            time.sleep(.05)
        raise AssertionError(database.task(self.task_id))

    def assertGoesOn(self, method, status='processing'):
        found = self.died(method, status)
        [(_entry, outcome)] = recovery.recover(
            found, recovery.resume_import)
        self.assertEqual(recovery.RESUMED, outcome)
        task = self.wait()
        self.assertEqual('success', task['status'], task['message'])
        self.assertEqual(method, task['input']['import_req']['method'][
            'name'])
        image = database.image(self.image_id)
        self.assertEqual(
            ('active', 'somebody', hashlib.sha512(self.data).hexdigest()),
            (image['status'], image['owner'], image['os_hash_value']))
        self.assertNotIn(database.HOST, image['properties'])
        self.assertEqual(self.data,
                         (self.store / self.image_id).read_bytes())
        self.assertFalse(self.path.exists())
        process.get(heartbeat.Watch).check()
        self.assertEqual([], found.tasks())

    def test_staged_image(self):
        self.assertGoesOn('glance-direct')

    def test_downloaded_image(self):
        self.assertGoesOn('web-download')

    def test_task_that_waited_for_its_turn(self):
        self.assertGoesOn('glance-direct', 'pending')

    def test_it_fails_again(self):
        found = self.died('glance-direct')
        # In the way: the store has no room for another of that name.
        (self.store / self.image_id).write_bytes(b'other')
        recovery.recover(
                found, recovery.resume_import)
        self.assertEqual('failure', self.wait()['status'])
        process.get(heartbeat.Watch).check()
        self.assertEqual([], found.tasks())

    def test_what_is_assumed_of_the_executor(self):
        for name, expected in (('_run', ['self', 'task_id', 'task_type']),
                               ('_get_flow', ['self', 'task'])):
            function = getattr(taskflow_executor.TaskExecutor, name)
            self.assertEqual(
                expected, list(inspect.signature(function).parameters))
