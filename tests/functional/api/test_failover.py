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

"""Sites that die while Glance reads from them or writes to them."""

import hashlib
import os
import time

import rbd

from lab import glance
from lab import process
from tests.functional.api import base
from tests.functional.api import databases
from tests import releases

MiB = base.MiB

# Seconds: that an OSD has to answer, and a monitor, and less than it would
# take without the circuit breaker.
_TIMEOUT = 4
_CONNECT, _AT_ONCE = 4, 3.5
# What a deletion that no site can decide is answered with.
_UNDECIDED = 503 if releases.GLANCE >= 33 else 500


class FailoverTest(base.OwnGlanceTestCase):
    """A Glance with two stores: ``near``, to be killed, and ``far``.

    The clusters are of its own; ``near`` is the local one.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.clusters = cls.start_clusters('near', 'far')
        cls.start_own(
            {name: ('dcn', glance.rbd_store(
                cluster, dcn_io_timeout=_TIMEOUT,
                rados_connect_timeout=_CONNECT))
             for name, cluster in cls.clusters.items()}, default='near',
            overrides={'image_import_opts': {
                'image_import_plugins': '[dcn_distributed_staging]'}})

    def setUp(self):
        super().setUp()
        self.near = self.clusters['near']

    def discard(self, api, image_id):
        """Delete an image; the clusters go with the class."""
        api.request('DELETE', '/v2/images/%s' % image_id)

    def wait_until_back(self, image_id):
        """Wait until Glance uses the near site again."""
        def is_back():
            return self.api.request(
                'GET', '/v2/images/%s/file' % image_id,
                headers={'Range': 'bytes=0-9'}).status_code == 206
        process.wait_for('the site to be back', is_back, 40)

    def download(self, image_id, meanwhile, hang_on=0):
        """Download an image, doing something once a part has come.

        :returns: its sha512
        """
        digest = hashlib.sha512()
        with self.api.request('GET', '/v2/images/%s/file' % image_id,
                              stream=True) as answer:
            answer.raise_for_status()
            for number, chunk in enumerate(answer.iter_content(MiB)):
                digest.update(chunk)
                if number == 4:
                    meanwhile()
        return digest.hexdigest()

    def test_site_is_killed(self):
        data = os.urandom(160 * MiB)
        both = self.uploaded(self.api, data, 'near', 'far')
        one = self.uploaded(self.api, data[:MiB], 'near')
        # In the midst of a download, which goes on.
        self.assertEqual(base.digest(data, 'sha512'),
                         self.download(both, self.near.kill))
        self.assertIn('goes on from store far', self.own.log)
        # From the beginning: nobody waits for it any more.
        began = time.monotonic()
        answer = self.api.request('GET', '/v2/images/%s/file' % both,
                                  headers={'Range': 'bytes=7-1006'})
        self.assertEqual(data[7:1007], answer.content)
        self.assertLess(time.monotonic() - began, _AT_ONCE)
        # Of an image that is nowhere else it is said at once.
        began = time.monotonic()
        answer = self.api.request('GET', '/v2/images/%s/file' % one)
        self.assertEqual(503, answer.status_code)
        self.assertIn('near', answer.text)
        self.assertLess(time.monotonic() - began, _AT_ONCE)
        self.check_imports(data[:2 * MiB])
        # The copy that can be read stays, the other one need not.
        answer = self.api.request('DELETE', '/v2/stores/far/%s' % both)
        self.assertEqual(409, answer.status_code)
        self.assertIn('no other store is seen to have it', answer.text)
        self.api.images.delete_from_store('near', both)
        self.assertEqual('far', self.api.images.get(both).stores)
        self.near.start()
        self.wait_until_back(one)
        self.assertSame(data[:MiB], self.api.download(one))

    def test_location_that_names_neither_store_nor_cluster(self):
        far = self.uploaded(self.api, b'far', 'far')
        near = self.uploaded(self.api, b'near', 'near')
        for image_id in far, near:
            databases.Database.forget_stores(self.own.database_url, image_id)
        self.assertEqual([b'far', b'near'], [
            self.api.download(image_id) for image_id in (far, near)])
        self.near.kill()
        # The store that is asked first does not answer.
        self.assertEqual(b'far', self.api.download(far))
        self.assertEqual(503, self.api.request(
            'GET', '/v2/images/%s/file' % near).status_code)
        self.assertEqual(204, self.delete(far).status_code)
        self.assertNotIn(far, self.clusters['far'].images())
        # In which store it is cannot be told.
        answer = self.delete(near)
        self.assertEqual(_UNDECIDED, answer.status_code)
        if _UNDECIDED == 503:
            self.assertIn('names none; store near', answer.text)
        # Nor is it what a copy has left that was broken off.
        with self.clusters['far'].pool('images') as ioctx:
            rbd.RBD().create(ioctx, near, MiB, old_format=False)
        self.assertEqual(_UNDECIDED, self.delete(near).status_code)
        self.assertEqual(503, self.api.request(
            'GET', '/v2/images/%s/file' % near).status_code)
        self.near.start()
        self.wait_until_back(near)
        self.assertEqual(b'near', self.api.download(near))
        self.assertEqual(204, self.delete(near).status_code)
        self.assertNotIn(near, self.near.images())
        self.assertIn(near, self.clusters['far'].images())

    def delete(self, image_id):
        return self.api.request('DELETE', '/v2/images/%s' % image_id)

    def check_imports(self, data):
        """While near is away, importing to both is as with stock."""
        image_id = self.new_image(self.api)
        self.api.stage(image_id, data)
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=['near', 'far'],
                                     allow_failure=True)
        self.api.wait(image_id, 'far', failed=['near'])
        self.assertSame(data, self.api.download(image_id))
        # A copy there, too, fails alone.
        self.api.images.image_import(image_id, 'copy-image',
                                     stores=['near'])
        self.api.wait(image_id, 'far', failed=['near'])
        image_id = self.new_image(self.api)
        self.api.stage(image_id, data)
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=['far', 'near'],
                                     allow_failure=False)
        process.wait_for('import to have failed', lambda: self.api.images.get(
            image_id)['status'] == 'uploading', 30)
        process.wait_for(
            'RBD image gone',
            lambda: image_id not in self.clusters['far'].images(), 10)
        # Glance alone would tell of an internal error.
        process.wait_for('reason to be told', lambda: any(
            'store near' in (message or '').lower()
            for message in self.api.messages(image_id)), 30)
