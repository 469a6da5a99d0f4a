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

"""One suite for two drivers: whoever uses stock rbd can use dcn instead.

Every test of :class:`Conformance` runs against both, with the same asserted
outcome, through the API that Glance uses.
"""

import concurrent.futures
import hashlib
import os
import unittest

from glance_store import driver
from glance_store import exceptions
from glance_store import multi_backend
import rados
import rbd

from tests.functional.store import base
from tests import releases

MiB = base.MiB


class Conformance:
    """What both drivers do."""

    # add

    def test_add(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(2 * MiB + 512)
        result = self.add(data, name=name)
        self.assertEqual(
            (self.uri(name), len(data), base.digest(data, 'md5'),
             base.digest(data, 'sha512'), {'store': self.store}), result)
        self.assertPublished(name, data)

    def test_add_to_the_default_store(self):
        self.use_store()
        name = self.new_image()
        result = multi_backend.add_with_multihash(
            multi_backend.CONF, name, base.ShortReader(b'x' * 1000), 1000,
            None, 'sha256')
        self.assertEqual(base.digest(b'x' * 1000), result[3])
        self.assertEqual({'store': self.store}, result[4])

    def test_add_without_multihash(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(5000)
        result = multi_backend.add(multi_backend.CONF, name,
                                   base.ShortReader(data), len(data),
                                   self.store)
        self.assertEqual((self.uri(name), len(data),
                          hashlib.md5(data).hexdigest(),
                          {'store': self.store}), result)

    def test_unknown_hash_leaves_nothing(self):
        self.use_store()
        name = self.new_image()
        self.assertRaises(exceptions.UnknownHashingAlgo, self.add, b'x' * 10,
                          name=name, algorithm='no-such')
        self.assertAbsent(name)

    def test_sizes_known_and_unknown(self):
        # Neither sectors, nor objects, nor the growth of an image of unknown
        # size may show in what is stored.
        self.use_store()
        cases = [(os.urandom(size), announced)
                 for size in (1, 511, 513, MiB - 1, MiB, 3 * MiB + 17)
                 for announced in (size, 0)]
        self.check_side_by_side(cases)

    def test_zero_length(self):
        self.use_store()
        name = self.new_image()
        uri, written, checksum, _multihash, _metadata = self.add(b'',
                                                                 name=name)
        self.assertEqual((0, base.digest(b'', 'md5')), (written, checksum))
        self.assertPublished(name, b'')
        self.assertEqual(0, self.size(uri))
        self.assertEqual(b'', self.read(uri))
        self.delete(uri)
        self.assertAbsent(name)

    def test_short_reads(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(2 * MiB + 3)
        for size in (len(data), 0):
            uri = self.add(base.ShortReader(data), size, name=name)[0]
            self.assertPublished(name, data)
            self.delete(uri)

    def test_iterable_of_chunks(self):
        self.use_store()
        name = self.new_image()
        chunks = [os.urandom(size) for size in (1000, 1, MiB + 5, 70000)]
        data = b''.join(chunks)
        for size in (len(data), 0):
            result = self.add(iter(chunks), size, name=name)
            self.assertEqual(base.digest(data, 'sha512'), result[3])
            self.assertPublished(name, data)
            self.delete(result[0])

    def test_verifier_gets_every_byte(self):
        # Also the zeros that thin provisioning does not write.
        self.use_store()
        data = os.urandom(MiB) + bytes(2 * MiB) + os.urandom(99)
        verifier = base.Verifier()
        self.add(data, verifier=verifier)
        self.assertSame(data, verifier.data)

    def test_side_by_side(self):
        self.use_store(rbd_thin_provisioning=False)
        self.check_side_by_side([(os.urandom(2 * MiB + size), size % 2 * (
            2 * MiB + size)) for size in range(6)])

    def check_side_by_side(self, cases):
        """Add images in threads, each (data, announced size); look at all."""
        names = [self.new_image() for _case in cases]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = list(pool.map(
                lambda case, name: self.add(case[0], case[1], name=name),
                cases, names))
        for (data, _announced), name, result in zip(cases, names, results):
            self.assertEqual(
                (self.uri(name), len(data), base.digest(data, 'md5'),
                 base.digest(data, 'sha512')), result[:4])
            self.assertPublished(name, data)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            copies = list(pool.map(lambda result: self.read(result[0]),
                                   results))
            list(pool.map(lambda result: self.delete(result[0]), results))
        for (data, _announced), name, copy in zip(cases, names, copies):
            self.assertSame(data, copy)
            self.assertAbsent(name)

    # The image that add makes

    def test_objects_have_the_chunk_size(self):
        for chunk, order in ((1, 20), (3, 21), (8, 23)):
            self.use_store(rbd_store_chunk_size=chunk)
            name = self.new_image()
            self.add(os.urandom(1000), name=name)
            with self.image(name, read_only=True) as image:
                self.assertEqual(order, image.stat()['order'])

    def test_default_features_of_the_cluster(self):
        self.use_store()
        name = self.new_image()
        self.add(b'x', name=name)
        with self.here.connect('glance') as client:
            expected = int(client.conf_get('rbd_default_features'))
        self.assertTrue(expected & rbd.RBD_FEATURE_EXCLUSIVE_LOCK)
        self.assertEqual(expected & ~self.left_out, self.features(name))

    def test_features_of_the_conf_file(self):
        features = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
        self.use_store(rbd_store_ceph_conf=self.conf_file(
            rbd_default_features=features))
        name = self.new_image()
        self.add(b'x', name=name)
        self.assertEqual(features & ~self.left_out, self.features(name))

    def test_no_features_in_the_conf_file(self):
        # Images must be clonable even so.
        self.use_store(rbd_store_ceph_conf=self.conf_file(
            rbd_default_features=0))
        name = self.new_image()
        self.add(b'x', name=name)
        self.assertEqual(rbd.RBD_FEATURE_LAYERING, self.features(name))

    def features(self, name):
        with self.image(name, read_only=True) as image:
            return image.features()

    def conf_file(self, **options):
        """Return a conf file of the cluster with more global options."""
        path = self.directory / 'ceph.conf'
        path.write_text(self.here.conf.read_text() + '\n[global]\n' + ''.join(
            '%s = %s\n' % item for item in options.items()))
        return path

    def test_thin_provisioning(self):
        data = os.urandom(MiB) + bytes(MiB) + os.urandom(MiB) + bytes(MiB)
        for thin in (True, False):
            # A dcn store leaves holes whatever the option says.
            objects = ([0, 2] if thin or self.driver == 'dcn'
                       else [0, 1, 2, 3])
            self.use_store(rbd_thin_provisioning=thin)
            for size in (len(data), 0):
                name = self.new_image()
                uri, written = self.add(data, size, name=name)[:2]
                self.assertEqual(len(data), written)
                self.assertPublished(name, data)
                self.assertSame(data, self.read(uri))
                self.assertEqual(objects, self.objects(name), (thin, size))

    def objects(self, name):
        """Return the numbers of the RADOS objects an image has."""
        with self.image(name, read_only=True) as image:
            prefix = image.block_name_prefix() + '.'
        with self.here.pool(base.POOL) as ioctx:
            return sorted(int(entry.key[len(prefix):], 16)
                          for entry in ioctx.list_objects()
                          if entry.key.startswith(prefix))

    # add that fails

    def test_less_data_than_announced(self):
        self.use_store()
        for size in (MiB + 1, 5 * MiB):
            name = self.new_image()
            self.assertRaises(exceptions.Invalid, self.add, os.urandom(MiB),
                              size, name=name)
            self.assertAbsent(name)

    def test_more_data_than_announced(self):
        self.use_store()
        for size in (1, MiB, 2 * MiB - 1):
            name = self.new_image()
            self.assertRaises(exceptions.Invalid, self.add,
                              os.urandom(2 * MiB), size, name=name)
            self.assertAbsent(name)

    def test_nothing_though_announced(self):
        self.use_store()
        name = self.new_image()
        self.assertRaises(exceptions.Invalid, self.add, b'', 1, name=name)
        self.assertAbsent(name)

    def test_duplicate(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(MiB + 1)
        uri = self.add(data, name=name)[0]
        other = os.urandom(MiB + 1)
        for size in (len(other), 0):
            self.assertRaises(exceptions.Duplicate, self.add, other, size,
                              name=name)
            self.assertPublished(name, data)
            self.assertSame(data, self.read(uri))

    def test_reader_fails(self):
        self.use_store()

        class Gone(Exception):
            pass

        for size in (3 * MiB, 0):
            for sent in (0, 2 * MiB):
                name, error = self.new_image(), Gone()
                self.assertIs(error, self.assertRaises(
                    Gone, self.add,
                    base.FailingReader(os.urandom(sent), error), size,
                    name=name))
                self.assertAbsent(name)

    def test_verifier_fails(self):
        self.use_store()

        class Broken:
            def update(self, data):
                raise ZeroDivisionError

        name = self.new_image()
        self.assertRaises(ZeroDivisionError, self.add, b'x' * 10, name=name,
                          verifier=Broken())
        self.assertAbsent(name)

    def test_add_again_after_a_failure(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(1000)
        self.assertRaises(exceptions.Invalid, self.add, data, 999, name=name)
        self.add(data, name=name)
        self.assertPublished(name, data)

    # get and get_size

    def test_get(self):
        self.use_store()
        data = os.urandom(2 * MiB + 777)
        uri = self.add(data)[0]
        chunks, size = multi_backend.get(uri, self.store)
        chunks = list(chunks)
        self.assertEqual(len(data), size)
        self.assertSame(data, b''.join(chunks))
        self.assertGreater(len(chunks), 1)
        self.assertEqual(len(data), self.size(uri))

    def test_get_twice_at_once(self):
        self.use_store()
        data = os.urandom(2 * MiB)
        uri = self.add(data)[0]
        both = [multi_backend.get(uri, self.store)[0] for _i in range(2)]
        pairs = list(zip(*both))
        for i in range(2):
            self.assertSame(data, b''.join(pair[i] for pair in pairs))

    def test_get_reads_the_snapshot(self):
        # What is written to the image later is no part of it.
        self.use_store()
        name, data = self.new_image(), os.urandom(MiB)
        uri = self.add(data, name=name)[0]
        with self.image(name) as image:
            image.write(b'changed', 0)
            image.resize(2 * MiB)
        self.assertSame(data, self.read(uri))
        self.assertEqual(MiB, self.size(uri))

    def test_get_without_store_identifier(self):
        # Of images from before there were several stores.
        self.use_store()
        name, data = self.new_image(), os.urandom(1000)
        uri = self.add(data, name=name)[0]
        chunks, size = multi_backend.get(uri, None)
        self.assertSame(data, b''.join(chunks))
        self.assertEqual(len(data), size)
        multi_backend.delete(uri, None)
        self.assertAbsent(name)

    def test_not_found(self):
        self.use_store()
        name = self.new_image()
        self.assertNotFound(self.uri(name))
        self.assertNotFound('rbd://%s' % name)

    def test_get_without_snapshot_is_not_found(self):
        # It is half an image: one whose upload has not come to its end.
        self.use_store()
        name = self.new_image()
        self.make_unpublished(name)
        for operation in (self.read, self.size):
            self.assertRaises(exceptions.NotFound, operation, self.uri(name))

    def test_image_gone_before_it_is_read(self):
        self.use_store()
        uri = self.add(os.urandom(1000))[0]
        chunks, _size = multi_backend.get(uri, self.store)
        self.delete(uri)
        self.assertRaises(exceptions.NotFound, list, chunks)

    # delete

    def test_delete(self):
        self.use_store()
        name = self.new_image()
        uri = self.add(os.urandom(MiB + 1), name=name)[0]
        self.delete(uri)
        self.assertAbsent(name)
        self.assertNotFound(uri)

    def test_delete_with_clone(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(MiB)
        uri = self.add(data, name=name)[0]
        child = self.clone(name, rbd_default_clone_format='1')
        self.assertRaises(exceptions.InUseByStore, self.delete, uri)
        self.assertPublished(name, data)
        self.assertSame(data, self.read(uri))
        base.purge(self.here, child, 'vms')
        self.delete(uri)
        self.assertAbsent(name)

    def test_delete_with_clone_of_the_second_format(self):
        # Such a clone does not hold the image: it goes to the trash, where
        # the clone still finds it.
        self.use_store()
        name, data = self.new_image(), os.urandom(MiB)
        uri = self.add(data, name=name)[0]
        child = self.clone(name, rbd_default_clone_format='2')
        self.delete(uri)
        self.assertNotIn(name, self.here.images())
        self.assertIn(name, self.here.trash())
        self.assertNotFound(uri)
        with self.here.pool('vms') as ioctx:
            with rbd.Image(ioctx, child, read_only=True) as image:
                self.assertSame(data, image.read(0, len(data)))

    def test_delete_with_other_snapshot(self):
        self.use_store()
        name = self.new_image()
        uri = self.add(os.urandom(MiB), name=name)[0]
        with self.image(name) as image:
            image.create_snap('mirror')
        self.delete(uri)
        self.assertNotIn(name, self.here.images())
        self.assertIn(name, self.here.trash())
        self.assertNotFound(uri)

    def test_delete_open_elsewhere(self):
        self.use_store()
        name = self.new_image()
        uri = self.add(os.urandom(MiB), name=name)[0]
        with self.image(name):
            self.assertRaises(exceptions.InUseByStore, self.delete, uri)
            self.assertIn(name, self.here.images())
        self.delete(uri)
        self.assertAbsent(name)

    def test_delete_with_unprotected_snapshot(self):
        self.use_store()
        name = self.new_image()
        uri = self.add(os.urandom(MiB), name=name)[0]
        with self.image(name) as image:
            image.unprotect_snap(base.SNAPSHOT)
        self.delete(uri)
        self.assertAbsent(name)

    def test_delete_without_snapshot(self):
        # Removes what an interrupted upload left.
        self.use_store()
        for uri in (self.uri, 'rbd://{}'.format):
            name = self.new_image()
            self.make_unpublished(name)
            self.delete(uri(name))
            self.assertAbsent(name)

    def make_unpublished(self, name):
        with self.here.pool(base.POOL) as ioctx:
            rbd.RBD().create(ioctx, name, MiB, old_format=False)

    # Locations

    def test_location_of_one_part(self):
        # The oldest form. It names no snapshot: the image itself is read, and
        # the snapshot that remains sends it to the trash.
        self.use_store()
        name, data = self.new_image(), os.urandom(1000)
        self.add(data, name=name)
        uri = 'rbd://%s' % name
        self.assertEqual(1000, self.size(uri))
        self.assertSame(data, self.read(uri))
        self.delete(uri)
        self.assertNotIn(name, self.here.images())
        self.assertIn(name, self.here.trash())

    def test_location_with_other_snapshot(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(MiB)
        self.add(data, name=name)
        with self.image(name) as image:
            image.write(b'other', 0)
            image.create_snap('other')
        uri = self.uri(name, snapshot='other')
        self.assertSame(b'other' + data[5:], self.read(uri))
        self.assertRaises(exceptions.NotFound, self.size,
                          self.uri(name, snapshot='third'))

    def test_location_with_escapes(self):
        self.use_store()
        name, data = self.new_image(), os.urandom(1000)
        self.add(data, name=name)
        uri = 'rbd://%s/%s/%s/%s' % (
            self.here.fsid.replace('-', '%2D'), '%69mages',
            name.replace('-', '%2d'), 'sn%61p')
        self.assertSame(data, self.read(uri))
        self.delete(uri)
        self.assertAbsent(name)

    def test_location_malformed(self):
        self.use_store()
        name = self.new_image()
        self.add(b'x', name=name)
        fsid = self.here.fsid
        for uri in ('rbd://', 'rbd:/%s' % name, 'rbd:%s' % name,
                    'RBD://%s' % name, 'rbd://%s/%s' % (base.POOL, name),
                    'rbd://%s/%s/%s' % (fsid, base.POOL, name),
                    'rbd:///%s/%s/snap' % (base.POOL, name),
                    'rbd://%s//%s/snap' % (fsid, name),
                    'rbd://%s/%s//snap' % (fsid, base.POOL),
                    'rbd://%s/%s/%s/' % (fsid, base.POOL, name),
                    self.uri(name) + '/more', self.uri(name) + '/'):
            self.assertRefused(exceptions.BadStoreUri, uri)
        self.assertPublished(name, b'x')

    def test_location_of_foreign_scheme(self):
        self.use_store()
        name = self.new_image()
        for uri in (name, '', 'http://localhost/%s' % name,
                    'file:///images/%s' % name, 'cinder://%s' % name,
                    'ceph' + self.uri(name)):
            self.assertRefused(exceptions.UnknownScheme, uri)

    def test_location_of_the_scheme_of_another_store(self):
        self.use_stores(
            {self.store: self.driver, 'files': 'file'},
            **{self.store: self.site(),
               'files': {'filesystem_store_datadir': self.directory}})
        name = self.new_image()
        self.assertRefused(exceptions.UnknownScheme, 'file:///' + name)

    def test_unknown_store(self):
        self.use_store()
        self.assertRefused(exceptions.UnknownScheme,
                           self.uri(self.new_image()), 'nowhere')
        self.assertRaises(exceptions.UnknownScheme,
                          multi_backend.get_store_from_store_identifier,
                          'nowhere')

    def assertRefused(self, error, uri, store=None):
        for operation in (self.read, self.size, self.delete):
            self.assertRaises(error, operation, uri, store)

    # What glance_store and Glance ask of a store

    def test_store(self):
        fixture = self.use_store(store_description='at the edge')
        store = multi_backend.get_store_from_store_identifier(self.store)
        self.assertEqual('rbd://%s/%s/' % (self.here.fsid, base.POOL),
                         store.url_prefix)
        self.assertEqual(MiB, store.chunk_size)
        self.assertEqual(base.POOL, store.pool)
        self.assertIs(True, store.thin_provisioning)
        self.assertEqual('at the edge',
                         fixture.conf[self.store].store_description)
        self.assertIn('rbd', store.get_schemes())
        self.assertGreaterEqual(fixture.count, 1)
        multi_backend.verify_store()

    @releases.with_weights
    def test_weight(self):
        self.use_store(weight=7)
        # dcn adds a fraction, see Store.weight.
        self.assertEqual(7, int(multi_backend.get_store_weight(self.store)))

    def test_options_have_the_defaults_of_stock(self):
        self.use_stores({self.store: self.driver}, **{self.store: {
            'rbd_store_ceph_conf': self.here.conf,
            'rbd_store_user': 'glance'}})
        store = multi_backend.get_store_from_store_identifier(self.store)
        self.assertEqual(('images', 8 * MiB, False),
                         (store.pool, store.chunk_size,
                          store.thin_provisioning))

    @unittest.skipUnless(hasattr(driver, 'SHARED_CONF_GROUP'),
                         'glance_store 5.0 and later have [backend_defaults]')
    def test_shared_options(self):
        # They fill in what a store's own group leaves out.
        options = {'rbd_store_ceph_conf': self.here.conf,
                   'rbd_store_user': 'glance'}
        self.use_stores(
            {'one': self.driver, 'two': self.driver}, one=options,
            two=dict(options, rbd_store_chunk_size=1),
            backend_defaults={'rbd_store_chunk_size': 2,
                              'rbd_thin_provisioning': True})
        one, two = map(multi_backend.get_store_from_store_identifier,
                       ('one', 'two'))
        self.assertEqual([(2 * MiB, True), (MiB, True)],
                         [(store.chunk_size, store.thin_provisioning)
                          for store in (one, two)])

    def test_several_sites(self):
        edge = self.cluster('dcn0')
        self.use_stores({'one': self.driver, 'two': self.driver},
                        one=self.site(), two=self.site(edge))
        name, data = self.new_image(self.here, edge), os.urandom(MiB + 9)
        one = self.add(data, name=name, store='one')
        two = self.add(data, name=name, store='two')
        self.assertEqual(self.uri(name, self.here), one[0])
        self.assertEqual(self.uri(name, edge), two[0])
        self.assertEqual([{'store': 'one'}, {'store': 'two'}],
                         [one[4], two[4]])
        self.assertPublished(name, data, self.here)
        self.assertPublished(name, data, edge)
        self.delete(one[0], 'one')
        self.assertAbsent(name, self.here)
        self.assertSame(data, self.read(two[0], 'two'))
        self.delete(two[0], 'two')
        self.assertAbsent(name, edge)


class RbdTest(Conformance, base.StoreTestCase):
    """Stock rbd: what the suite asks for is what stock does."""

    driver = 'rbd'
    # Features that images have not, though the conf file names them.
    left_out = 0

    # The glance_store of older releases does not compare the sizes.

    @releases.since(31)
    def test_less_data_than_announced(self):
        super().test_less_data_than_announced()

    @releases.since(31)
    def test_more_data_than_announced(self):
        super().test_more_data_than_announced()

    @releases.since(31)
    def test_nothing_though_announced(self):
        super().test_nothing_though_announced()

    @releases.since(31)
    def test_add_again_after_a_failure(self):
        super().test_add_again_after_a_failure()


class DcnTest(Conformance, base.StoreTestCase):
    """Ours, and what it does beyond stock."""

    driver = 'dcn'
    # Those by which others could ask the writer for changes.
    left_out = (rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_OBJECT_MAP
                | rbd.RBD_FEATURE_FAST_DIFF | rbd.RBD_FEATURE_JOURNALING)

    def test_partial_get(self):
        # As Glance asks for HTTP ranges: chunk_size is a number of bytes in
        # all. Stock refuses.
        self.use_store()
        data = os.urandom(2 * MiB + 100)
        uri = self.add(data)[0]
        for offset, length in ((0, 1), (1, None), (MiB - 1, 2), (5, MiB),
                               (MiB, MiB + 100), (len(data) - 1, 1),
                               (0, len(data)), (17, len(data)),
                               (len(data), None)):
            end = None if length is None else offset + length
            self.assertSame(data[offset:end],
                            self.read(uri, offset=offset, chunk_size=length))

    def test_store_is_built_once(self):
        self.use_store()
        get = multi_backend.get_store_from_store_identifier
        self.assertIs(get(self.store), get(self.store))

    def test_location_names_a_pool_that_is_not_there(self):
        self.use_store()
        name = self.new_image()
        self.add(b'x', name=name)
        uri = self.uri(name, pool='no-such-pool')
        for operation in (self.read, self.size, self.delete):
            error = self.assertRaises(exceptions.GlanceStoreException,
                                      operation, uri)
            self.assertIn('no-such-pool', str(error))
        self.assertPublished(name, b'x')


class StockTest(base.StoreTestCase):
    """Where stock differs, kept here to see it when stock changes."""

    driver = 'rbd'

    def test_partial_get_is_refused(self):
        self.use_store()
        uri = self.add(b'x' * 10)[0]
        for kwargs in ({'offset': 1}, {'chunk_size': 1}):
            self.assertRaises(exceptions.StoreRandomGetNotSupported,
                              self.read, uri, **kwargs)

    def test_equal_image_is_refused(self):
        # See test_leftovers for what ours does.
        self.use_store()
        name = self.new_image()
        self.add(b'x' * 10, name=name)
        self.assertRaises(exceptions.Duplicate, self.add, b'x' * 10,
                          name=name)

    def test_error_of_rados_for_a_pool_that_is_not_there(self):
        self.use_store()
        uri = self.uri(self.image_name(), pool='no-such-pool')
        self.assertRaises(rados.ObjectNotFound, self.size, uri)
