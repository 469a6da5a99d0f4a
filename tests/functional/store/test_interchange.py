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

"""Stock and ours side by side, and each in place of the other."""

import functools
import http.server
import os
import threading

from glance_store import exceptions
from glance_store import multi_backend

from tests.functional.store import base

MiB = base.MiB


class Interchange:
    """An image written by one driver, used by the other.

    :cvar writer: type of the store that writes
    :cvar reader: type of the store that reads and deletes
    """

    def setUp(self):
        super().setUp()
        self.name = self.new_image()
        self.data = os.urandom(2 * MiB) + bytes(MiB) + os.urandom(333)

    def use_both(self):
        self.use_stores({'old': self.writer, 'new': self.reader},
                        old=self.site(), new=self.site())

    def write(self, size):
        uri = self.add(self.data, size, name=self.name, store='old')[0]
        self.assertEqual(self.uri(self.name), uri)
        return uri

    def check(self, uri, store):
        """Read and delete the image."""
        self.assertEqual(len(self.data), self.size(uri, store))
        self.assertSame(self.data, self.read(uri, store))
        self.delete(uri, store)
        self.assertAbsent(self.name)
        self.assertNotFound(uri, store)

    def test_in_one_configuration(self):
        self.use_both()
        for size in (len(self.data), 0):
            self.check(self.write(size), 'new')

    def test_one_word_changed(self):
        # ``central:rbd`` becomes ``central:dcn``, or the other way round;
        # nothing else of the configuration changes.
        self.use_stores({'old': self.writer}, old=self.site())
        uri = self.write(len(self.data))
        self.use_stores({'old': self.reader}, old=self.site())
        self.check(uri, 'old')

    def test_without_store_identifier(self):
        self.use_both()
        uri = self.write(0)
        self.use_stores({'new': self.reader}, new=self.site())
        data, _size = multi_backend.get(uri, None)
        self.assertSame(self.data, b''.join(data))
        multi_backend.delete(uri, None)
        self.assertAbsent(self.name)

    def test_duplicate(self):
        self.use_both()
        uri = self.write(0)
        self.assertRaises(exceptions.Duplicate, self.add, b'other',
                          name=self.name, store='new')
        self.assertPublished(self.name, self.data)
        self.check(uri, 'new')

    def test_in_use(self):
        self.use_both()
        uri = self.write(len(self.data))
        self.clone(self.name, rbd_default_clone_format='1')
        self.assertRaises(exceptions.InUseByStore, self.delete, uri, 'new')
        self.assertSame(self.data, self.read(uri, 'old'))

    def test_one_stream_through_the_other(self):
        # As when an image is copied from store to store.
        edge = self.cluster('dcn0')
        self.use_stores({'old': self.writer, 'new': self.reader},
                        old=self.site(), new=self.site(edge))
        name = self.new_image(self.here, edge)
        uri = self.add(self.data, name=name, store='old')
        chunks, size = multi_backend.get(uri[0], 'old')
        copy = self.add(chunks, size, name=name, store='new')
        self.assertEqual(uri[1:4], copy[1:4])
        self.assertPublished(name, self.data, edge)


class StockToDcnTest(Interchange, base.StoreTestCase):
    writer, reader = 'rbd', 'dcn'


class DcnToStockTest(Interchange, base.StoreTestCase):
    writer, reader = 'dcn', 'rbd'


class BesideOthersTest(base.StoreTestCase):
    """Stores of all kinds in one ``enabled_backends``."""

    driver = 'dcn'

    def setUp(self):
        super().setUp()
        self.edge = self.cluster('dcn0')
        self.files = self.directory / 'files'
        self.files.mkdir()

    def use_all(self, order):
        types = {'central': 'dcn', 'edge': 'dcn', 'stock': 'rbd',
                 'nfs': 'file', 'web': 'http'}
        return self.use_stores(
            {store: types[store] for store in order},
            central=self.site(), edge=self.site(
                self.edge, rbd_store_chunk_size=4,
                rbd_thin_provisioning=False, rados_connect_timeout=7),
            stock=self.site(rbd_store_chunk_size=2),
            nfs={'filesystem_store_datadir': self.files})

    def test_options_stay_apart(self):
        # In either order: both drivers register the same names.
        for order in (('central', 'edge', 'stock', 'nfs', 'web'),
                      ('web', 'nfs', 'stock', 'edge', 'central')):
            conf = self.use_all(order).conf
            stores = {
                store: multi_backend.get_store_from_store_identifier(store)
                for store in order}
            self.assertEqual(
                {'central': (MiB, True, self.prefix(self.here)),
                 'edge': (4 * MiB, False, self.prefix(self.edge)),
                 'stock': (2 * MiB, True, self.prefix(self.here))},
                {store: (stores[store].chunk_size,
                         stores[store].thin_provisioning,
                         stores[store].url_prefix)
                 for store in ('central', 'edge', 'stock')})
            self.assertEqual(7, conf.edge.rados_connect_timeout)
            self.assertNotIn('rbd_store_pool', conf.nfs)
            self.assertNotIn('rbd_store_pool', conf.web)
            self.assertNotIn('filesystem_store_datadir', conf.central)
            self.assertIn('glance_dcn', type(stores['central']).__module__)
            self.assertIn('glance_store', type(stores['stock']).__module__)

    @staticmethod
    def prefix(cluster):
        return 'rbd://%s/%s/' % (cluster.fsid, base.POOL)

    def test_defaults_stay_apart(self):
        # What dcn leaves to its own default does not become stock's.
        for order in (('central', 'stock'), ('stock', 'central')):
            conf = self.use_all(order).conf
            store = multi_backend.get_store_from_store_identifier('stock')
            self.assertEqual(-1, store.store_conf.rados_connect_timeout)
            alone = self.use_stores({'central': 'dcn'}, central=self.site())
            for option in ('rados_connect_timeout', 'dcn_io_timeout'):
                self.assertEqual(self.value(alone.conf, option),
                                 self.value(conf, option), (option, order))

    @staticmethod
    def value(conf, option):
        """Return an option of store central as its driver sees it."""
        value = conf.central[option]
        return conf.backend_defaults[option] if value is None else value

    def test_one_image_in_all(self):
        self.use_all(('central', 'edge', 'stock', 'nfs', 'web'))
        data = os.urandom(MiB) + bytes(MiB) + os.urandom(1)
        uris = {}
        for store, clusters in (('nfs', ()), ('central', (self.here,)),
                                ('edge', (self.edge,))):
            name = self.name_in(clusters)
            uris[store] = self.add(data, name=name, store=store)[0]
        self.assertTrue(uris['nfs'].startswith('file://'))
        # From a foreign store to a site, and from each out again.
        name = self.name_in((self.here,))
        chunks, size = multi_backend.get(uris['nfs'], 'nfs')
        uris['stock'] = self.add(chunks, size, name=name, store='stock')[0]
        for store, uri in uris.items():
            self.assertSame(data, self.read(uri, store))
            self.delete(uri, store)
            self.assertRaises(exceptions.NotFound, self.size, uri, store)
        self.assertEqual([], list(self.files.iterdir()))

    def name_in(self, clusters):
        return self.new_image(*clusters) if clusters else self.image_name()

    def test_from_the_web(self):
        self.use_all(('central', 'web'))
        data = os.urandom(MiB + 5)
        (self.directory / 'image').write_bytes(data)
        server = http.server.ThreadingHTTPServer(
            ('127.0.0.1', 0), functools.partial(
                _Quiet, directory=str(self.directory)))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        name = self.new_image()
        chunks, size = multi_backend.get(
            'http://127.0.0.1:%d/image' % server.server_port, 'web')
        self.add(chunks, int(size), name=name, store='central')
        self.assertPublished(name, data)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
