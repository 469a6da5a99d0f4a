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

"""Which of several sites an image is read from."""

import os
import types

import fixtures
from glance_store import multi_backend

from glance_dcn.ceph import records
from glance_dcn.engine.backends import rbd as rbd_backend
from tests.functional.store import base

MiB = base.MiB


class DcnReadingTest(base.StoreTestCase):
    """An image at two sites, of which ``here`` is the local one.

    What is read from tells a byte that was changed behind RBD's back.
    """

    driver = 'dcn'

    def setUp(self):
        super().setUp()
        self.far = self.cluster('dcn0')
        self.name = self.new_image(self.here, self.far)
        self.data = os.urandom(2 * MiB + 5)

    def use_two(self, here=None, far=None):
        self.use_stores({'here': 'dcn', 'far': 'dcn'},
                        here=self.site(**here or {}),
                        far=self.site(self.far, **far or {}))
        self.add(self.data, name=self.name, store='here')
        return self.add(self.data, name=self.name, store='far')[0]

    def mark(self, cluster):
        """Change the image's first byte at a site; return what it is then."""
        with self.image(self.name, cluster, read_only=True) as image:
            key = image.block_name_prefix() + '.' + '0' * 16
        with cluster.pool(base.POOL) as ioctx:
            byte = bytes([ioctx.read(key, 1, 0)[0] ^ 0xff])
            ioctx.write(key, byte, 0)
        return byte + self.data[1:]

    def test_location_is_read(self):
        # Which one is tried first is Glance's choice, and the user's.
        uri = self.use_two()
        marked = self.mark(self.here)
        self.assertSame(self.data, self.read(uri, 'far'))
        self.assertSame(marked, self.read(self.uri(self.name), 'here'))

    def test_opened_once(self):
        uri = self.use_two()
        opened = []

        def open_image(*args, **kwargs):
            opened.append(rbd_backend.RBD(*args, **kwargs))
            return opened[-1]
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.site.rbd_backend',
            types.SimpleNamespace(RBD=open_image)))
        self.assertSame(self.data, self.read(uri, 'far'))
        self.assertEqual([None], [one.image for one in opened])
        # It is closed also if nobody reads it.
        data, size = multi_backend.get(uri, 'far')
        self.assertEqual(len(self.data), size)
        self.assertIsNotNone(opened[1].image)
        del data
        self.assertEqual([None, None], [one.image for one in opened])

    def test_local_first_of_equal_weight(self):
        self.use_two()
        self.assertGreater(multi_backend.get_store_weight('here'),
                           multi_backend.get_store_weight('far'))

    def test_weights_say_otherwise(self):
        self.use_two(far={'weight': 1})
        self.assertGreater(multi_backend.get_store_weight('far'),
                           multi_backend.get_store_weight('here'))

    def test_record_is_missing(self):
        uri = self.use_two()
        self.mark(self.here)
        for cluster in (self.here, self.far):
            with self.image(self.name, cluster) as image:
                record = records.load(image)
                image.metadata_remove(records.KEY)
            self.assertSame(self.data, self.read(uri, 'far'))
            with self.image(self.name, cluster) as image:
                records.save(image, record)

    def test_location_of_another_pool_or_snapshot(self):
        # Then the name says nothing.
        self.use_two()
        self.mark(self.here)
        with self.image(self.name, self.far) as image:
            image.create_snap('other')
        uri = self.uri(self.name, self.far, snapshot='other')
        self.assertSame(self.data, self.read(uri, 'far'))

    def test_local_site_is_away(self):
        path = self.directory / 'away.conf'
        path.write_text('[global]\nfsid = %s\nmon_host = v2:127.0.0.1:9\n'
                        '[client.glance]\nkeyring = %s\n'
                        % (self.here.fsid, self.here.keyring('glance')))
        uri = self.use_two()
        self.use_stores({'here': 'dcn', 'far': 'dcn'},
                        here=self.site(rbd_store_ceph_conf=path,
                                       rados_connect_timeout=1),
                        far=self.site(self.far))
        self.assertSame(self.data, self.read(uri, 'far'))
