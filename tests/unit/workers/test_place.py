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

"""What a worker keeps with what it has staged."""

import os
import pathlib
import queue
import threading

import fixtures
from oslotest import base

from glance_dcn.workers import answer
from glance_dcn.workers import place


class TestPlace(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = self.useFixture(fixtures.TempDir()).path
        self.place = place.Place(self.staging)

    def test_identity_is_made_once(self):
        identity = self.place.identity()
        self.assertEqual(identity, place.Place(self.staging + '/').identity())
        other = self.useFixture(fixtures.TempDir()).path
        self.assertNotEqual(identity, place.Place(other).identity())
        # Nothing else is left behind.
        self.assertEqual(['identity'], os.listdir(self.place.folder))

    def test_pipe_is_not_waited_for(self):
        os.mkdir(self.place.folder)
        for name in ('challenge', 'identity'):
            os.mkfifo(os.path.join(self.place.folder, name))
        answers = queue.Queue()
        threading.Thread(target=lambda: answers.put(self.place.challenged()),
                         daemon=True).start()
        # Or a healthcheck would hang.
        self.assertFalse(answers.get(timeout=5))
        self.assertRaises(ValueError, self.place.identity)

    def test_staging_folder_is_not_made(self):
        missing = place.Place(os.path.join(self.staging, 'missing'))
        self.assertRaises(FileNotFoundError, missing.identity)
        self.assertEqual([], os.listdir(self.staging))

    def test_identity_is_of_the_first_of_several(self):
        link, first = os.link, []

        def late(*args):
            if not first:
                first.append(None)
                first.append(place.Place(self.staging).identity())
            link(*args)
        self.useFixture(fixtures.MonkeyPatch('os.link', late))
        self.assertEqual([None, self.place.identity()], first)

    def test_identity_that_is_none(self):
        os.makedirs(self.place.folder)
        pathlib.Path(self.place.folder, 'identity').write_text('../../etc\n')
        exc = self.assertRaises(ValueError, self.place.identity)
        self.assertIn('remove it', str(exc))

    def test_challenge(self):
        self.assertIsNone(self.place.challenged())
        with self.place.challenge() as secret:
            self.assertEqual(secret,
                             place.Place(self.staging).challenged())
            with self.place.challenge() as another:
                self.assertNotEqual(secret, another)
        self.assertIsNone(self.place.challenged())

    def test_challenge_of_one_who_died(self):
        with self.place.challenge():
            path = os.path.join(self.place.folder, 'challenge')
            os.utime(path, (1, 1))
            self.assertIsNone(self.place.challenged())


class TestAnswer(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.place = place.Place(self.useFixture(fixtures.TempDir()).path)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.workers.answer._place', None))
        self.disabling = os.path.join(self.place.staging, 'disabling')

    def app(self):
        """Return the healthcheck as Glance's paste configuration has it."""
        from oslo_middleware import healthcheck
        return healthcheck.Healthcheck.app_factory(
            {}, backends='disable_by_file',
            disable_by_file_path=self.disabling)

    def get(self, app, status=200):
        import webob
        response = webob.Request.blank(
            '/', headers={'Accept': 'text/plain'}).get_response(app)
        self.assertEqual(status, response.status_int)
        return response.text

    def test_has_the_secret_of_the_moment(self):
        before = self.get(self.app())
        self.assertIn('OK', before)
        answer.begin(self.place)
        app = self.app()
        self.assertTrue(answer.loaded())
        self.assertEqual(before.split(), self.get(app).split())
        with self.place.challenge() as secret:
            self.assertIn(answer.mark(secret), self.get(app))
        self.assertEqual(before.split(), self.get(app).split())

    def test_leaves_the_answer_to_the_plugin(self):
        answer.begin(self.place)
        answer.begin(self.place)
        pathlib.Path(self.disabling).touch()
        with self.place.challenge() as secret:
            text = self.get(self.app(), 503)
        self.assertEqual(['DISABLED', 'BY', 'FILE', 'glance-dcn', secret],
                         text.split())
