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

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys
import types

import glanceclient.exc

from lab import faults
from lab import glance
from lab import process
from lab import wan
from lab import wsgi
from tests.chaos import __main__ as chaos
from tests.chaos import check
from tests.functional.api import base

_ROOT = pathlib.Path(__file__).parents[3]
MiB = base.MiB
SITES = ('central', 'other', 'far')
#: Bytes of an image that takes half a minute to be sent to ``far``.
LARGE = 64 * MiB
# MiB per second that Glance sends to ``far``, and reads from it, at most.
_LIMIT = 2
# Seconds a site has to answer.
_CONNECT, _IO = 2, 5
# Seconds until all is settled, on a machine with other tests.
_GRACE = 150
# A link on which each step of creating, publishing or removing an image takes
# long enough to be stopped at.
SLOW = wan.Quality(delay=50)


class FaultsTestCase(base.OwnGlanceTestCase):
    """A Glance with sites of its own: ``central``, ``other`` and ``far``.

    Glance is at ``central``; ``far`` is behind a link, and is preferred to
    ``other`` when images are read. After each test all sites are brought
    back, and nothing may be lost or left behind.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not chaos.can_cut():
            raise cls.skipException('a link cannot be cut here')
        link = wan.Link(cls.make_folder())
        cls.addClassCleanup(link.stop)
        link.start()
        cls.clusters = cls.start_clusters(*SITES, links={'far': link})
        stores = {name: ('dcn', cls.options(name)) for name in SITES}
        stores['far'][1].update(weight=1, dcn_bandwidth_limit=_LIMIT)
        cls.start_own(stores)

    @classmethod
    def options(cls, name):
        """Return the options of a store."""
        return glance.rbd_store(
            cls.clusters[name], rbd_store_chunk_size=1, dcn_io_timeout=_IO,
            rados_connect_timeout=_CONNECT)

    def setUp(self):
        super().setUp()
        self.far, self.other = self.cluster('far'), self.cluster('other')
        self.threads = concurrent.futures.ThreadPoolExecutor()
        self.addCleanup(self.threads.shutdown)
        # Before what waits for a site is waited for.
        self.addCleanup(self.recover)
        self.wait_until_used(*SITES)

    def cluster(self, site):
        return self.clusters[site]

    def discard(self, api, image_id):
        """Nothing: :meth:`recover` deletes all images."""

    @property
    def checker(self):
        """The checks of the randomised run, for these sites."""
        lab = types.SimpleNamespace(
            sites=SITES, cluster=self.cluster,
            glance=lambda site: self.own.worker)
        return check.Checker(
            types.SimpleNamespace(lab=lab, api=lambda site: self.api,
                                  database_url=self.own.database_url), {},
            lambda line: None)

    def heal(self):
        """Bring all sites back."""
        self.far.link.set(wan.Quality())
        for cluster in self.clusters.values():
            faults.heal(cluster)

    def recover(self):
        """Bring all sites back: nothing is lost, and nothing stays behind."""
        self.heal()
        # What is held for a minute is over when the images are deleted, and
        # the randomised run waits for it.
        found, _seconds = self.checker.settle(_GRACE, held=False)
        self.assertEqual([], list(map(str, found)))
        self.assertEqual([], list(map(str, self.checker.contents())))
        # What that leaves behind is found after the next test.
        for image in list(self.api.images.list()):
            self.delete(image['id'])

    def wait_until_used(self, *sites):
        """Wait until Glance uses sites again."""
        def used(site):
            image_id = self.new_image(self.api)
            try:
                self.api.upload(image_id, b'data', site)
            except glanceclient.exc.HTTPException:
                return False
            finally:
                self.delete(image_id)
            return True
        for site in sites:
            process.wait_for('%s to be used' % site,
                             lambda site=site: used(site), 30, interval=.5)

    def image_of(self, data, *sites):
        """Make an image of some data at sites; return its ID."""
        return self.uploaded(self.api, data, *sites)

    def staged(self, data):
        """Make an image of some data that can be imported; return its ID."""
        image_id = self.new_image(self.api)
        self.api.stage(image_id, data)
        return image_id

    def bring(self, image_id, sites, method='glance-direct', every=True):
        """Begin to import an image into sites, or to copy it there.

        :param every: whether all must succeed
        """
        self.api.request(
            'POST', '/v2/images/%s/import' % image_id,
            json={'method': {'name': method}, 'stores': list(sites),
                  'all_stores_must_succeed': every}).raise_for_status()

    def copy(self, image_id, *sites, every=True):
        """Begin to copy an image."""
        self.bring(image_id, sites, 'copy-image', every)

    def download(self, image_id, meanwhile=None):
        """Download an image.

        :param meanwhile: called once, when a part has come
        :returns: sha256 of what came, or the answer that says why it does not
        """
        digest = hashlib.sha256()
        with self.api.request('GET', '/v2/images/%s/file' % image_id,
                              stream=True) as answer:
            if answer.status_code != 200:
                return '%d %s' % (answer.status_code, answer.text)
            for chunk in answer.iter_content(MiB):
                digest.update(chunk)
                if meanwhile:
                    meanwhile()
                    meanwhile = None
        return digest.hexdigest()

    def delete(self, image_id):
        """Delete an image, which must be accepted."""
        answer = self.api.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(204, answer.status_code, answer.text)

    def run_command(self, *args):
        """Run the command ``glance-dcn``."""
        process.run([wsgi.BIN / 'glance-dcn', '--config-dir',
                     self.own.worker.etc, *args])

    @contextlib.contextmanager
    def until(self, point, image_id, site='far'):
        """Wait at the end of the block until an image has come to a point.

        :param point: one of :data:`tests.functional.faults.eye.POINTS`
        """
        cluster = self.cluster(site)
        argv = [sys.executable, '-m', 'tests.functional.faults.eye',
                cluster.conf, cluster.keyring('openstack'), image_id, point]
        if cluster.link:
            argv = cluster.link.command(argv)
        with subprocess.Popen(
                argv, cwd=_ROOT, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE) as looker:
            try:
                self.assertEqual('looking\n', looker.stdout.readline())
                yield
                end = self.threads.submit(looker.stdout.readline)
                self.assertEqual(point + '\n', end.result(timeout=90))
            finally:
                looker.kill()

    def assertFailedAt(self, image_id, *sites):
        """The last task of an image says which sites it failed for."""
        said = self.api.messages(image_id)[-1]
        for site in sites:
            self.assertIn(site, said)

    def assertNotImported(self, image_id, why='far'):
        """An import that had to succeed everywhere left no location.

        :param why: the site that it failed for
        """
        def failed():
            states = [task['status']
                      for task in self.api.tasks(image_id).values()]
            return 'failure' in states
        process.wait_for('import to have failed', failed, 60)
        # The data goes last.
        process.wait_for(
            'locations to be gone',
            lambda: not self.api.images.get(image_id)['locations'], 20)
        image = self.api.images.get(image_id)
        self.assertIn(image['status'], ('uploading', 'queued'))
        # Where it is undone it has failed as well, for stock.
        self.assertIn(why, image['os_glance_failed_import'])


def digest(data):
    """Return the digest of data, as :meth:`FaultsTestCase.download` does."""
    return hashlib.sha256(data).hexdigest()


def random_data(size=2 * MiB):
    """Return data without a hole."""
    return os.urandom(size)
