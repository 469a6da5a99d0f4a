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

"""When a process begins to look at what dead ones have left."""

import os
import pathlib
import time
import types
import uuid

import fixtures
from oslotest import base
from tests.unit.imports import glance

from glance_dcn.imports import journal
from glance_dcn.imports import scan
from glance_dcn.upstream import database
from tests import runtimes


class FakeTime:
    """A clock that goes on while it is slept by."""

    def __init__(self):
        self.now = 100.0
        self.then = lambda: None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.then()


class TestWaiting(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.time = FakeTime()
        self.stores = {'central': 'rbd', 'dcn0': 'dcn', 'web': 'http'}
        self.conf = types.SimpleNamespace(enabled_backends=self.stores)
        self.loaded = True
        self.scanner = scan.Scanner(
            is_loaded=lambda: self.loaded, clock=self.time.monotonic,
            sleep=self.time.sleep)
        self.scanner._since = self.time.now

    def wait(self):
        began = self.time.now
        self.scanner._wait_for_glance(self.conf)
        return self.time.now - began

    def test_for_all_stores(self):
        def set_up():
            if self.time.now > 107:
                self.stores['dcn0'] = 'rbd'
        self.time.then = set_up
        self.assertAlmostEqual(7, self.wait(), delta=1)

    def test_for_a_moment_where_all_are_set_up(self):
        self.stores['dcn0'] = 'rbd'
        self.assertAlmostEqual(1, self.wait(), delta=1)

    def test_not_for_ever(self):
        self.loaded = False
        self.assertAlmostEqual(20, self.wait(), delta=1)


AGE = 3600


class ResidueTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.journal = journal.Journal(str(self.staging))
        self.glance = self.useFixture(glance.Database())
        # The time at which a file's inode changed cannot be set.
        self.now = time.time() + AGE + 60

    def staged(self, status=None, suffix='', lock=None):
        """Make a staged file of an image, and return its name."""
        image_id = str(uuid.uuid4())
        if status:
            self.glance.add_image(image_id, status, properties={
                database.LOCK: lock} if lock else {})
        (self.staging / (image_id + suffix)).write_bytes(b'data')
        return image_id + suffix

    def removed(self):
        return sorted(map(os.path.basename,
                          scan.remove_orphans(self.journal, AGE,
                                              lambda: self.now)))

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

    def test_image_that_another_release_names(self):
        self.useFixture(runtimes.Runtime())
        log = self.useFixture(fixtures.FakeLogger())
        theirs, orphan = self.staged(), self.staged()
        self.journal.begin(journal.Entry(
            'task', theirs, 'copy-image', [], 'path', 'copying')).release()
        path = pathlib.Path(self.journal.folder, 'task.json')
        text = path.read_text()
        path.write_text(text.replace('"version": 2', '"version": 3').replace(
            '"image"', '"of"').replace(theirs, theirs.upper()))
        self.assertEqual([orphan], self.removed())
        self.assertEqual([], self.removed())
        self.assertEqual(1, log.output.count(
            '%s seems to be an orphan, and stays' % (self.staging / theirs)))
        path.unlink()
        self.assertEqual([theirs], self.removed())

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
