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

"""Images deleted while a site is away, or the one that has the records."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid

from glance_dcn.imports import folder
from glance_dcn.tasks import spool
from lab import glance
from lab import process
from tests.functional.api import base
from tests import releases

_ROOT = pathlib.Path(__file__).parents[3]
# Seconds to connect, and what is less than them.
_CONNECT, _AT_ONCE = 5, 4
# Each run has another cluster: the central site remembers which one a store
# of a name has.
EDGE = 'edge-%s' % uuid.uuid4().hex[:8]


class TasksTest(base.OwnGlanceTestCase):
    """A Glance with the lab's central site and an edge to be ill-treated."""

    program = glance.Glance

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.edge = cls.start_clusters('edge')['edge']
        cls.stores = dict(
            base.rbd_stores(sites=('central',)),
            **{EDGE: ('dcn', glance.rbd_store(
                cls.edge, rados_connect_timeout=_CONNECT))})
        cls.start_own(cls.stores, kind=cls.program)

    def setUp(self):
        super().setUp()
        # After all else: what a test leaves must not be taken for the next's.
        self.addCleanup(self.edge.start)

    def cluster(self, site):
        return self.edge if site == EDGE else super().cluster(site)

    def discard(self, api, image_id):
        super().discard(api, image_id)
        base.purge(self.edge, image_id)

    def tasks(self, own=None):
        """Return what ``glance-dcn task list`` shows for edge, and its status.

        :param own: the :class:`base.OwnGlance` to ask; None: the class's
        """
        done = subprocess.run(
            [sys.executable, '-c', 'import sys\n'
             'from glance_dcn.cmd import main\n'
             'sys.exit(main.main())', 'task', 'list', '--site', EDGE,
             '--format', 'json'],
            cwd=_ROOT, capture_output=True, text=True, timeout=60,
            env=dict(os.environ, OS_GLANCE_CONFIG_DIR=str(
                (own or self.own).worker.etc)))
        # 3: the default site is away, and with it the records.
        self.assertIn(done.returncode, (0, 1, 3), done.stderr)
        if done.returncode == 3:
            return [], 3
        found = json.loads(done.stdout)
        self.assertEqual([], found['unreadable'])
        return found['tasks'], done.returncode

    def wait_until_settled(self, own=None):
        """Wait until there are no tasks, 60 s at most."""
        process.wait_for('tasks to be done',
                         lambda: self.tasks(own) == ([], 0), 60, interval=1)

    def delete(self, path):
        """Delete something, and return how many seconds it took."""
        began = time.monotonic()
        answer = self.api.request('DELETE', path)
        self.assertEqual(204, answer.status_code, answer.text)
        return time.monotonic() - began

    def test_delete_while_the_site_is_away(self):
        data = base.random_data()
        first, second, copied = (
            self.uploaded(self.api, data, 'central', EDGE)
            for _ in range(3))
        self.edge.kill()
        # The first one finds out that the site is away.
        self.assertLess(self.delete('/v2/images/%s' % first), 30)
        self.assertLess(self.delete('/v2/images/%s' % second), _AT_ONCE)
        self.assertLess(self.delete('/v2/stores/%s/%s' % (EDGE, copied)),
                        _AT_ONCE)
        for name in (first, second):
            self.assertNoTrace(name, 'central')
        self.assertLocated(self.api.images.get(copied), 'central')
        found, status = self.tasks()
        self.assertEqual(1, status)
        self.assertEqual(
            sorted(('delete', name) for name in (first, second, copied)),
            sorted((task['action'], task['image']) for task in found))
        self.assertEqual({(EDGE, 'images')}, {
            (task['store'], task['pool']) for task in found})
        self.own.worker.stop()
        self.own.start()
        self.edge.start()
        # What is copied there again is kept, whichever comes first, this or
        # the deferred removal.
        self.copy(copied)
        self.wait_until_settled()
        for name in (first, second):
            self.assertNoTrace(name, EDGE)
        self.assertStored(copied, data, 'central', EDGE)

    def copy(self, image_id):
        """Copy an image to edge, as soon as it is back."""
        def copied():
            self.api.images.image_import(image_id, 'copy-image',
                                         stores=[EDGE])
            with contextlib.suppress(AssertionError):
                return self.api.wait(image_id, 'central', EDGE)
        process.wait_for('copy', copied, 60, interval=1)

    def test_home_is_away(self):
        # As at an edge. The records go to the local disk until it is back.
        own = base.OwnGlance(self.stores, default=EDGE, kind=self.program)
        api = self.use_own(self.useFixture(own))
        image_id, other = (
            self.uploaded(api, base.random_data(), EDGE, 'central')
            for _ in range(2))
        self.edge.kill()
        self.assertDeleted(api, image_id)
        # What can be done at once is.
        self.assertNoTrace(image_id, 'central')
        self.assertEqual(([], 3), self.tasks(own))
        self.assertIn(image_id, self.spooled(own))
        # Nothing is kept elsewhere.
        self.assertNotIn(image_id, [task['image']
                                    for task in self.tasks()[0]])
        # Another process than the one that took the request does it.
        own.worker.stop()
        own.start()
        self.assertDeleted(api, other)
        self.assertIn(other, self.spooled(own))
        self.edge.start()
        self.wait_until_done(image_id, other)
        self.wait_until_settled(own)
        self.assertEqual('', self.spooled(own))

    def assertDeleted(self, api, image_id):
        answer = api.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(204, answer.status_code, answer.text)

    def spooled(self, own):
        """Return what is on the local disk, as text."""
        return ''.join(path.read_text() for path in
                       self.records(own).glob('*.json'))

    def records(self, own):
        """Return the folder of the records on the local disk."""
        return own.worker.staging / folder.FOLDER / spool.FOLDER

    def wait_until_done(self, *images):
        """Wait until edge has nothing of some images, 60 s at most."""
        process.wait_for(
            'tasks to be done', lambda: not set(images).intersection(
                [*self.edge.images(), *self.edge.trash()]), 60, interval=1)

    def test_nothing_can_be_recorded(self):
        # Neither at home nor on the local disk: Glance keeps the location.
        own = base.OwnGlance({EDGE: self.stores[EDGE]}, default=EDGE,
                             kind=self.program)
        api = self.use_own(self.useFixture(own))
        image_id = self.uploaded(api, base.random_data(), EDGE)
        self.edge.kill()
        self.records(own).parent.mkdir(exist_ok=True)
        self.records(own).write_text('no folder')
        answer = api.request('DELETE', '/v2/images/%s' % image_id)
        if releases.GLANCE >= 33:
            self.assertEqual(503, answer.status_code, answer.text)
            self.assertIn(EDGE, answer.text)
        else:
            self.assertEqual(500, answer.status_code, answer.text)
        self.assertLocated(api.images.get(image_id), EDGE)
        self.edge.start()
        process.wait_for('deletion', lambda: api.request(
            'DELETE', '/v2/images/%s' % image_id).status_code == 204, 30,
            interval=1)
        self.assertNoTrace(image_id, EDGE)
