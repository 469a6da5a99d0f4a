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

"""Images deleted while the site they lie at is away; a site of its own."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid

from lab import glance
from lab import process
from tests.functional.api import base

_ROOT = pathlib.Path(__file__).parents[3]
# Seconds to connect, and what is less than them.
_CONNECT, _AT_ONCE = 5, 4
# Each run has another cluster: the central site remembers which one a store
# of a name has.
EDGE = 'edge-%s' % uuid.uuid4().hex[:8]


class OwedTest(base.OwnGlanceTestCase):
    """A Glance with the lab's central site and an edge to be ill-treated."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.edge = cls.start_clusters('edge')['edge']
        cls.stores = dict(
            base.rbd_stores(sites=('central',)),
            **{EDGE: ('dcn', glance.rbd_store(
                cls.edge, rados_connect_timeout=_CONNECT))})
        cls.start_own(cls.stores)

    def setUp(self):
        super().setUp()
        # After all else: what a test leaves must not be taken for the next's.
        self.addCleanup(self.edge.start)

    def cluster(self, site):
        return self.edge if site == EDGE else super().cluster(site)

    def discard(self, api, image_id):
        super().discard(api, image_id)
        base.purge(self.edge, image_id)

    def owed(self, own=None):
        """Return what ``glance-dcn owed`` shows for edge, and its status.

        :param own: the :class:`base.OwnGlance` to ask; None: the class's
        """
        done = subprocess.run(
            [sys.executable, '-c', 'import sys\n'
             'from glance_dcn.cmd import main\n'
             'sys.exit(main.main())', 'owed', '--site', EDGE,
             '--format', 'json'],
            cwd=_ROOT, capture_output=True, text=True, timeout=60,
            env=dict(os.environ, OS_GLANCE_CONFIG_DIR=str(
                (own or self.own).worker.etc)))
        # 3: the default site is away, and what it knows with it.
        self.assertIn(done.returncode, (0, 1, 3), done.stderr)
        return json.loads(done.stdout)['owed'], done.returncode

    def wait_until_settled(self, own=None):
        """Wait until nothing is owed, 60 s at most."""
        process.wait_for('work to be done',
                         lambda: self.owed(own) == ([], 0), 60, interval=1)

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
        records, status = self.owed()
        self.assertEqual(1, status)
        self.assertEqual(
            sorted(('delete', name) for name in (first, second, copied)),
            sorted((record['job'], record['image']) for record in records))
        self.assertEqual({(EDGE, 'central', 'images', self.edge.fsid)}, {
            tuple(record[name] for name in ('store', 'place', 'pool', 'fsid'))
            for record in records})
        self.own.worker.stop()
        self.own.start()
        self.edge.start()
        # What is copied there again is kept, whichever comes first, this or
        # the removal that is owed.
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

    def test_default_site_is_away(self):
        # As at an edge: the other site keeps what is owed.
        own = base.OwnGlance(self.stores, default=EDGE)
        api = self.use_own(self.useFixture(own))
        image_id = self.uploaded(api, base.random_data(), EDGE)
        self.edge.kill()
        answer = api.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(204, answer.status_code, answer.text)
        records, _status = self.owed(own)
        self.assertEqual(
            [('delete', image_id, EDGE, 'central')],
            [tuple(record[name] for name in ('job', 'image', 'store',
                                             'place')) for record in records])
        # Nobody else does the work.
        self.own.worker.stop()
        self.addCleanup(self.own.start)
        self.edge.start()
        self.wait_until_settled(own)
        self.assertNoTrace(image_id, EDGE)

    def test_only_site_is_away(self):
        # Nothing can be recorded: Glance must keep the location.
        own = base.OwnGlance({EDGE: self.stores[EDGE]}, default=EDGE)
        api = self.use_own(self.useFixture(own))
        image_id = self.uploaded(api, base.random_data(), EDGE)
        self.edge.kill()
        answer = api.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(503, answer.status_code, answer.text)
        self.assertIn(EDGE, answer.text)
        self.assertLocated(api.images.get(image_id), EDGE)
        self.edge.start()
        process.wait_for('deletion', lambda: api.request(
            'DELETE', '/v2/images/%s' % image_id).status_code == 204, 30,
            interval=1)
        self.assertNoTrace(image_id, EDGE)
