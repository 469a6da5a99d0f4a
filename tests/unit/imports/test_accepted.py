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


"""Taking note of imports when Glance writes them down; a real database."""

import pathlib
import types
import uuid

import fixtures
from oslotest import base

from glance_dcn.imports import accepted
from glance_dcn.imports import active_imports
from glance_dcn.imports import journal
from tests.unit.imports import glance


class AcceptedTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.glance = self.useFixture(glance.Database())
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.imports.accepted._conf', None))
        self.task_id, self.image_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.addCleanup(active_imports.end, self.task_id)

    def listen(self):
        accepted.listen(types.SimpleNamespace(
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
        (self.staging / journal.FOLDER).write_text('in the way')
        self.add()
        self.staging = pathlib.Path('/none/there')
        self.task_id = str(uuid.uuid4())
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.imports.active_imports.begin', None))
        self.add()
