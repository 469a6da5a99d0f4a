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


"""The power is cut: nothing is believed that is not on the disk.

The file system of the staging folder loses for real what was not synced; that
the host was restarted is told by another boot ID in the journal.
"""

import json
import os
import pathlib
import subprocess
import threading
import time

import fixtures
from oslotest import base as oslotest

from glance_dcn.imports import folder
from glance_dcn.imports import journal
from lab import process
from tests.functional.api import base
from tests.functional.staging import power
from tests.kills import run
from tests.kills import scene as scenes

MiB = 1 << 20
_LIMIT = 90
_BEFORE = '1b4e28ba-2fa1-11d2-883f-0016d3cca427'


class DiskTest(oslotest.BaseTestCase):
    """What is synced, and what is noted, on a disk of its own."""

    def setUp(self):
        super().setUp()
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.disk = self.useFixture(power.Disk(self.staging))
        self.journal = journal.Journal(str(self.staging))
        self.path = self.staging / 'the-image'

    def begin(self):
        held = self.journal.begin(journal.Entry(
            'the-task', 'the-image', 'glance-direct', ['dcn0'],
            str(self.path), journal.STAGED))
        self.addCleanup(held.release)
        return held

    def stage(self):
        """Write a file as Glance does; return its digest."""
        with open(self.path, 'wb') as file:
            file.write(os.urandom(4 * MiB))
            file.flush()
            os.truncate(file.fileno(), 8 * MiB)
        return folder.digest(str(self.path))

    def cut(self, held):
        held.release()
        self.disk.cut()
        [entry] = self.journal.entries()
        return entry

    def test_length_is_there_and_the_data_is_not(self):
        # This is what it is all about: the journal that is written next
        # brings the length to the disk, and not the data.
        staged = self.stage()
        held = self.begin()
        held.note(phase=journal.STORING)
        self.cut(held)
        self.assertEqual(8 * MiB, self.path.stat().st_size)
        self.assertNotEqual(staged, folder.digest(str(self.path)))

    def test_disk_that_another_mount_namespace_has(self):
        other = subprocess.Popen(
            ['unshare', '--mount', 'sh', '-c', 'echo; exec sleep 600'],
            stdout=subprocess.PIPE)
        self.addCleanup(other.communicate)
        self.addCleanup(other.kill)
        self.assertEqual(b'\n', other.stdout.readline())
        self.cut(self.begin())
        self.assertFalse(self.path.exists())
        self.stage()

    def test_what_the_journal_vouches_for_is_there(self):
        staged = self.stage()
        held = self.begin()
        over = threading.Event()
        folder.Vouching(
            str(self.path), lambda size, digest: held.note(
                proofs={'raw': journal.Proof(size, digest)}),
            over.set).start()
        self.assertTrue(over.wait(60))
        entry = self.cut(held)
        self.assertEqual({'raw': journal.Proof(8 * MiB, staged)},
                         entry.proofs)
        self.assertEqual(staged, folder.digest(str(self.path)))


class PowerCutTest(base.ApiTestCase):
    """A worker and its host die in the midst of an import."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.scene = scenes.Scene(rate=2 * MiB, program=power.PromptGlance)
        cls.scene.setUp()
        cls.addClassCleanup(cls.scene.cleanUp)
        cls.scene.own.worker.stop()
        cls.disk = power.Disk(cls.scene.staging)
        cls.disk.setUp()
        cls.addClassCleanup(cls.disk.cleanUp)
        cls.addClassCleanup(cls.scene.own.worker.stop)

    def setUp(self):
        super().setUp()
        self.scene.own.start()
        self.use_own(self.scene.own)

    def cut(self, method, moment, outcome=None, damage=None):
        """Cut the power at a moment of an import, and start it all again.

        :param moment: see :func:`tests.kills.run.one`
        :param damage: called then with the job
        :param outcome: what is to become of the import, if that is known
        """
        def meanwhile(job):
            self.restart_host(job)
            if damage:
                damage(job)
        found = run.one(self.scene, method, moment, limit=_LIMIT,
                        meanwhile=meanwhile)
        self.assertEqual([], found.wrong)
        self.assertIn(found.outcome,
                      [outcome] if outcome else ['resumed', 'put back'])

    def restart_host(self, job):
        """Cut the power while the worker is dead, and restart its host."""
        # What the host was doing ends with it.
        folder.end_orphans(str(self.scene.staging / job.image_id))
        self.disk.cut()
        [path] = self.scene.staging.glob('.glance-dcn/*.json')
        fields = json.loads(path.read_text())
        path.write_text(json.dumps(dict(fields, boot=_BEFORE)))

    def vouches(self, kind):
        """Return a moment: when the journal vouches for the data."""
        def moment(job):
            process.wait_for('a digest', lambda: self.proof(
                job, kind), 60, .001)
            # It is seen from the renaming on, which the worker syncs next;
            # the power is not to be cut between the two. That it does sync is
            # shown by DiskTest.
            folder.sync_folder(self.scene.staging / '.glance-dcn')
        return moment

    def proof(self, job, kind):
        """Return the digest that the journal has of staged data, or None."""
        for entry in journal.Journal(str(self.scene.staging)).entries():
            if entry.image == job.image_id and kind in entry.proofs:
                return entry.proofs[kind].digest
        return None

    def lose(self, job):
        """Let a converted image keep its length and lose its data."""
        path = self.scene.staging / job.image_id
        folder.discard(folder.aside(str(path)))
        path = pathlib.Path('%s.raw' % path)
        size = path.stat().st_size
        os.truncate(path, 0)
        os.truncate(path, size)

    def test_staged_data_that_is_there(self):
        self.cut('glance-direct', self.vouches(journal.AS_STAGED), 'resumed')

    def test_conversion_that_is_there(self):
        self.cut('glance-direct', self.vouches('raw'), 'resumed')

    def test_download_that_is_there(self):
        self.cut('web-download', self.vouches('raw'), 'resumed')

    def test_download_that_is_lost(self):
        self.cut('web-download', self.vouches('raw'), 'put back', self.lose)

    def test_any_moment(self):
        # Whether the disk was fast enough is not known, and all is well.
        for phase in (journal.CONVERTING, journal.STORING):
            self.cut('web-download', run.reaches(phase))

    def test_staged_data_that_is_lost(self):
        job = scenes.Job(self.scene, 'glance-direct')
        job.begin()
        self.vouches('raw')(job)
        self.scene.kill()
        self.restart_host(job)
        self.lose(job)
        self.scene.restart()
        # It has to be staged again, and can be.
        message = self.failure(job)
        self.assertIn('stage the image again', message)
        self.assertIn('its content changed', message)
        self.stage_again(job)

    def failure(self, job):
        """Wait until an import has failed, and return its message."""
        process.wait_for('the task to fail', lambda: [
            task['status'] for task in self.scene.api.tasks(
                job.image_id).values()] == ['failure'], _LIMIT)
        [message] = self.scene.api.messages(job.image_id)
        return message

    def stage_again(self, job):
        """Stage the data of an import that failed, and import that."""
        self.assertEqual('queued', job.image()['status'])
        self.assertEqual([], self.scene.staged())
        self.scene.api.stage(job.image_id, self.scene.qcow2)
        job.begin()
        self.assertEqual('active', job.usable(_LIMIT))
        self.assertEqual([], job.wrong())
        self.assertEqual([], job.remove())

    def test_uploaded_before_and_imported_after(self):
        job = scenes.Job(self.scene, 'glance-direct')
        # No import has begun that could have vouched for it; and the clock
        # was set back since.
        future = time.time() + 3600
        os.utime(self.scene.staging / job.image_id, (future, future))
        self.scene.kill()
        (self.scene.staging / '.glance-dcn/boots').write_text(_BEFORE)
        self.scene.restart()
        job.begin()
        self.assertIn('Stage the image again', self.failure(job))
        self.stage_again(job)
