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


"""A worker is killed in each phase of what it does, and started again."""

import pathlib
import subprocess
import sys

import fixtures
from testtools import content

from glance_dcn.imports import journal
from lab import glance
from tests.functional.api import base
from tests.functional import base as functional
from tests.kills import run
from tests.kills import scene as scenes

_ROOT = pathlib.Path(__file__).parents[3]
# Seconds until an image must be usable, on a machine with other tests.
_LIMIT = 90


class KillTest(base.ApiTestCase):

    program = glance.Glance

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.scene = scenes.Scene(program=cls.program)
        cls.scene.setUp()
        cls.addClassCleanup(cls.scene.cleanUp)

    def setUp(self):
        super().setUp()
        self.scene.own.start()
        self.use_own(self.scene.own)

    def kill(self, method, phase, outcome, whole=True):
        found = run.one(self.scene, method, run.reaches(phase), whole,
                        limit=_LIMIT)
        self.assertEqual([], found.wrong)
        self.assertEqual(outcome, found.outcome)
        return found

    def test_converting_what_was_staged(self):
        self.kill('glance-direct', journal.CONVERTING, 'resumed')

    def test_storing_what_was_staged(self):
        self.kill('glance-direct', journal.STORING, 'resumed')

    def test_downloading(self):
        self.kill('web-download', journal.DOWNLOADING, 'put back')

    def test_converting_what_was_downloaded(self):
        self.kill('web-download', journal.CONVERTING, 'resumed')

    def test_storing_what_was_downloaded(self):
        self.kill('web-download', journal.STORING, 'resumed', whole=False)

    def test_copying(self):
        self.kill('copy-image', journal.COPYING, 'resumed')

    def test_process_of_a_master_that_lives(self):
        self.kill('copy-image', journal.COPYING, 'resumed', whole=False)

    def test_the_command_undoes_it(self):
        job = scenes.Job(self.scene, 'glance-direct')
        self.addCleanup(job.remove)
        job.begin()
        run.reaches(journal.STORING)(job)
        self.scene.kill()
        printed = subprocess.run(
            [pathlib.Path(sys.executable).parent / 'glance-dcn',
             '--config-dir', self.scene.own.worker.etc, 'worker', 'recover'],
            capture_output=True, text=True, timeout=60, check=True).stdout
        self.assertEqual('%s  glance-direct (storing): rolled back\n'
                         % job.image_id, printed)
        self.scene.restart()
        self.assertEqual('importable', job.usable(30))
        [message] = self.scene.api.messages(job.image_id)
        self.assertIn('repeat the import', message)
        job.begin()
        self.assertEqual('active', job.usable(60))
        self.assertEqual([], job.wrong())
        self.assertEqual([], job.remove())

    def test_image_is_deleted_while_the_worker_is_dead(self):
        job = scenes.Job(self.scene, 'glance-direct')
        job.begin()
        run.reaches(journal.STORING)(job)
        self.scene.kill()
        # As through another worker, which has the same database.
        subprocess.run(
            [sys.executable, '-c', _DELETE, self.scene.own.worker.etc
             / 'glance-api.conf', job.image_id],
            check=True, capture_output=True, timeout=60)
        self.scene.restart()
        self.assertEqual([], job.remove())


_DELETE = """
import sys
from glance import context, db
from glance.common import config
config.parse_args(args=['--config-file', sys.argv[1]])
db.get_api().image_destroy(context.get_admin_context(), sys.argv[2])
"""


class ShortRunTest(functional.CephTestCase):
    """Some kills at random moments."""

    def test_nothing_is_left_behind(self):
        log = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / 'log'
        with log.open('w') as file:
            done = subprocess.run(
                [sys.executable, '-m', 'tests.kills', '--seed', '5',
                 '--kills', '2', '--limit', str(_LIMIT), '--lender',
                 functional.lab_state()],
                cwd=_ROOT, stdout=file, stderr=subprocess.STDOUT,
                timeout=420)
        self.addDetail('kills.log', content.text_content(log.read_text()))
        self.assertEqual(0, done.returncode)
