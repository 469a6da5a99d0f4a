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
from glance_store import exceptions
from glance_store import multi_backend

from glance_dcn.ceph import connection
from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine.backends import rbd as rbd_backend
from glance_dcn.runtime import process
from tests.functional.store import base

MiB = base.MiB


class ReadingTestCase(base.StoreTestCase):
    """An image at two sites, of which ``here`` is the local one."""

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


class SearchTest(ReadingTestCase):
    """Glance does not know the store; no conf file has an fsid."""

    def conf(self, name, text, keyring):
        path = self.directory / ('%s.conf' % name)
        path.write_text('[global]\n%s\n[client.glance]\nkeyring = %s\n'
                        % (text, keyring))
        return path

    def test_first_site_is_away(self):
        uri = self.use_two()
        keyring = self.far.etc / 'dcn0.client.glance.keyring'
        hosts = next(line for line in self.far.conf.read_text().splitlines()
                     if line.strip().startswith('mon_host'))
        confs = {'away': self.conf('away', 'mon_host = v2:127.0.0.1:9',
                                   keyring),
                 'far': self.conf('far', hosts, keyring)}
        stores = {name: self.site(rbd_store_ceph_conf=path,
                                  rados_connect_timeout=2)
                  for name, path in confs.items()}
        # Each in a process that knows nothing yet.
        self.use_stores(dict.fromkeys(stores, 'dcn'), **stores)
        data, size = multi_backend.get(uri, None)
        self.assertSame(self.data, b''.join(data))
        self.assertEqual(len(self.data), size)
        process.get(connection.Connections).forget('far')
        self.use_stores(dict.fromkeys(stores, 'dcn'), **stores)
        multi_backend.delete(uri, None)
        self.assertAbsent(self.name, self.far)
        # Of the site that is away, or of none: it cannot be told.
        self.assertRaises(exceptions.RemoteServiceUnavailable,
                          multi_backend.get, self.uri(self.name), None)


class DcnReadingTest(ReadingTestCase):
    """What is read from tells a byte that was changed behind RBD's back."""

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

        class Opened(rbd_backend.RBD):

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                opened.append(self)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.site.rbd_backend',
            types.SimpleNamespace(RBD=Opened)))
        self.assertSame(self.data, self.read(uri, 'far'))
        self.assertEqual([None], [one._image for one in opened])
        # It is closed also if nobody reads it.
        data, size = multi_backend.get(uri, 'far')
        self.assertEqual(len(self.data), size)
        self.assertIsNotNone(opened[1].image)
        del data
        self.assertEqual([None, None], [one._image for one in opened])

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


class RemovedTest(ReadingTestCase):
    """An image is removed while it is read, and reads as zeros since."""

    def setUp(self):
        super().setUp()
        self.data = os.urandom(80 * MiB + 5)

    def remove(self, cluster):
        with cluster.pool(base.POOL) as ioctx:
            images.remove(ioctx, self.name,
                          images.read_image_id(ioctx, self.name),
                          images.SNAPSHOT)

    def read_while(self, meanwhile, store, after=8, **kwargs):
        """Read the image, doing something once some chunks have come.

        :returns: what came, and the error that it ended with, or None
        """
        chunks, _size = multi_backend.get(
            self.uri(self.name, {'here': self.here, 'far': self.far}[store]),
            store, **kwargs)
        came = []
        try:
            for chunk in chunks:
                came.append(chunk)
                if len(came) == after:
                    meanwhile()
        except exceptions.NotFound as exc:
            return b''.join(came), exc
        return b''.join(came), None

    def test_nothing_is_given_out_that_is_not_the_image(self):
        self.use_store()
        self.add(self.data, name=self.name)
        for offset in (0, 3 * MiB + 1):
            came, error = self.read_while(
                lambda: self.remove(self.here), 'here', offset=offset)
            self.assertIsInstance(error, exceptions.NotFound)
            self.assertLess(len(came), len(self.data) - offset)
            self.assertSame(self.data[offset:offset + len(came)], came)
            self.add(self.data, name=self.name)

    def test_between_opening_and_reading(self):
        self.use_store()
        uri = self.add(self.data, name=self.name)[0]
        chunks, _size = multi_backend.get(uri, 'here')
        self.remove(self.here)
        self.assertRaises(exceptions.NotFound, next, iter(chunks))

    def test_another_takes_its_place(self):
        self.use_store()
        self.add(self.data, name=self.name)

        def replace():
            self.remove(self.here)
            self.add(self.data, name=self.name)
        _came, error = self.read_while(replace, 'here')
        self.assertIsInstance(error, exceptions.NotFound)

    def test_goes_on_at_another_site(self):
        self.use_two()
        came, error = self.read_while(lambda: self.remove(self.far), 'far')
        self.assertIsNone(error)
        self.assertSame(self.data, came)

    def test_not_where_its_record_is_not_ours(self):
        self.use_two()
        with self.image(self.name, self.here) as image:
            record = records.load(image)
            records.save(image, records.Record(record.size, record.content,
                                               record.hashes))
        came, error = self.read_while(lambda: self.remove(self.far), 'far')
        self.assertIsInstance(error, exceptions.NotFound)
        self.assertSame(self.data[:len(came)], came)
        self.assertLess(len(came), len(self.data))

    def test_holes_too(self):
        # Nothing is read of them, and what is not listed is a hole.
        self.data = os.urandom(MiB) + bytes(78 * MiB) + os.urandom(MiB)
        self.use_store()
        self.add(self.data, name=self.name)
        came, error = self.read_while(lambda: self.remove(self.here), 'here')
        # Holes take no time: all may have been read and proved by then.
        if error is None:
            self.assertEqual(len(self.data), len(came))
        else:
            self.assertIsInstance(error, exceptions.NotFound)
        self.assertSame(self.data[:len(came)], came)
