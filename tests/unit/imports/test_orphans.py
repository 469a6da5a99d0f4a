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


"""Staged data that nobody owns."""

import os
import pathlib
import time
import uuid

import fixtures
from oslotest import base

from glance_dcn.imports import journal
from glance_dcn.imports import orphans
from glance_dcn.upstream import database
from tests.unit.imports import glance

AGE = 3600


class ResidueTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.journal = journal.Journal(str(self.staging))
        self.glance = self.useFixture(glance.Database())
        # The time at which a file's inode changed cannot be set.
        self.now = time.time() + AGE + 60
        self.useFixture(fixtures.MonkeyPatch('time.time', lambda: self.now))

    def staged(self, status=None, suffix='', lock=None):
        """Make a staged file of an image, and return its name."""
        image_id = str(uuid.uuid4())
        if status:
            self.glance.add_image(image_id, status, properties={
                database.LOCK: lock} if lock else {})
        (self.staging / (image_id + suffix)).write_bytes(b'data')
        return image_id + suffix

    def removed(self):
        return sorted(map(os.path.basename, orphans.remove(self.journal, AGE)))

    def test_of_no_image(self):
        names = [self.staged(), self.staged(suffix='.raw')]
        self.assertEqual(sorted(names), self.removed())
        self.assertEqual([], os.listdir(self.staging))

    def test_only_copy_stays(self):
        for status in ('uploading', 'importing', 'saving'):
            self.staged(status)
        self.assertEqual([], self.removed())

    def test_data_that_is_elsewhere(self):
        names = [self.staged(status)
                 for status in ('active', 'deactivated', 'queued')]
        self.assertEqual(sorted(names), self.removed())

    def test_locked_image(self):
        self.staged('active', lock='a-task')
        self.assertEqual([], self.removed())

    def test_half_conversion(self):
        name = self.staged('uploading')
        half = self.staging / (name + '.raw')
        half.touch()
        self.assertEqual([half.name], self.removed())
        lone = self.staged('uploading', suffix='.raw')
        self.assertEqual([], self.removed())
        self.assertTrue((self.staging / lone).exists())

    def test_fresh_file(self):
        name = self.staged()
        self.now = os.stat(self.staging / name).st_ctime + AGE - 1
        self.assertEqual([], self.removed())

    def test_image_of_the_journal(self):
        name = self.staged('active')
        self.journal.begin(journal.Entry(
            'task', name, 'copy-image', [], 'path', 'copying')).release()
        self.assertEqual([], self.removed())

    def test_image_with_an_id_in_capitals(self):
        name = str(uuid.uuid4()).upper()
        (self.staging / name).touch()
        self.assertEqual([name], self.removed())

    def test_one_that_cannot_be_removed(self):
        (self.staging / ('0' + str(uuid.uuid4())[1:])).mkdir()
        name = 'f' + self.staged()[1:]
        (self.staging / name).touch()
        self.assertIn(name, self.removed())

    def test_other_names(self):
        for name in ('notes.txt', 'x' + str(uuid.uuid4()),
                     str(uuid.uuid4()) + 'x'):
            (self.staging / name).touch()
        self.assertEqual([], self.removed())
