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

"""copy-image through real Glance, straight from cluster to cluster."""

import os

import rbd
import requests

from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine import digests
from tests.functional.api import base

MiB = base.MiB


class DirectCopyTest(base.ApiTestCase):
    """Copies between dcn stores."""

    def setUp(self):
        super().setUp()
        self.data = os.urandom(MiB) + bytes(6 * MiB) + os.urandom(MiB + 5)

    def copy(self, image_id, *stores, **body):
        return self.central.request(
            'POST', '/v2/images/%s/import' % image_id,
            json=dict({'method': {'name': 'copy-image'},
                       'stores': list(stores)}, **body))

    def written_by_stock(self):
        """Make an image as stock wrote it: hashes in Glance, no record."""
        image_id = self.uploaded(self.central, self.data, 'central')
        with self.rbd_image('central', image_id) as image:
            image.metadata_remove(records.KEY)
        return image_id

    def record(self, site, image_id):
        with self.rbd_image(site, image_id, read_only=True) as image:
            return records.load(image)

    def test_nothing_is_staged(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        staging = self.lab.glance('central').staging
        before = staging.stat().st_mtime_ns
        self.copy(image_id, 'dcn0', 'dcn1').raise_for_status()
        image = self.central.wait(image_id, *base.SITES)
        # Another test's image may come and go there; this one never does.
        if staging.stat().st_mtime_ns != before:
            self.assertFalse((staging / image_id).exists())
        self.assertStored(image_id, self.data, 'dcn0', 'dcn1')
        self.assertLocated(image, *base.SITES)
        self.assertDescribes(image, self.data)
        message = self.central.messages(image_id)[-1]
        self.assertIn('from central to dcn0, dcn1', message)

    def test_store_that_is_named_twice(self):
        # By an import as well as by a copy.
        image_id = self.uploaded(self.central, self.data, 'central',
                                 'dcn1', 'central')
        self.copy(image_id, 'dcn0', 'dcn0').raise_for_status()
        image = self.central.wait(image_id, *base.SITES)
        self.assertStored(image_id, self.data, *base.SITES)
        self.assertLocated(image, *base.SITES)

    def test_sizes_of_every_kind(self):
        cases = [bytes(5 * MiB), os.urandom(9 * MiB)]
        cases += [os.urandom(size) for size in (
            0, 1, 511, 65535, 65537, 4 * MiB + 1)]
        for data in cases:
            image_id = self.uploaded(self.central, data, 'central')
            self.copy(image_id, 'dcn0', 'dcn1').raise_for_status()
            self.central.wait(image_id, *base.SITES)
            self.assertStored(image_id, data, 'dcn0', 'dcn1')

    def test_image_of_stock_and_its_second_copy(self):
        image_id = self.written_by_stock()
        self.assertIsNone(self.record('central', image_id))
        self.copy(image_id, 'dcn0').raise_for_status()
        self.central.wait(image_id, 'central', 'dcn0')
        recorded = self.record('central', image_id)
        self.assertEqual(base.digest(self.data, 'sha512'),
                         recorded.hashes['sha512'])
        self.copy(image_id, 'dcn1').raise_for_status()
        self.central.wait(image_id, *base.SITES)
        self.assertEqual(recorded, self.record('dcn1', image_id))
        self.assertStored(image_id, self.data, 'dcn0', 'dcn1')

    def test_corrupted_source(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        self.flip(image_id)
        self.copy(image_id, 'dcn0').raise_for_status()
        self.central.wait(image_id, 'central', failed=['dcn0'])
        message = self.central.messages(image_id)[-1]
        self.assertIn('central: images/%s' % image_id, message)
        self.assertIn('content digest', message)
        self.assertNoTrace(image_id, 'dcn0')

    def flip(self, image_id):
        """Change a byte of the image's first object, behind RBD's back."""
        with self.rbd_image('central', image_id, read_only=True) as image:
            name = image.block_name_prefix() + '.' + '0' * 16
        with self.cluster('central').pool() as ioctx:
            byte = ioctx.read(name, 1, 0)[0]
            ioctx.write(name, bytes([byte ^ 0xff]), 0)

    def test_one_target_fails_and_all_must_succeed(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        self.make_published(image_id, b'in the way', 'dcn0')
        self.copy(image_id, 'dcn0', 'dcn1').raise_for_status()
        self.central.wait(image_id, 'central', failed=['dcn0'])
        self.assertNoTrace(image_id, 'dcn1')
        self.assertStored(image_id, b'in the way', 'dcn0')
        self.assertIn('dcn0', self.central.messages(image_id)[-1])

    def test_one_target_fails_and_the_other_goes_on(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        self.make_published(image_id, b'in the way', 'dcn0')
        self.copy(image_id, 'dcn0', 'dcn1',
                  all_stores_must_succeed=False).raise_for_status()
        self.central.wait(image_id, 'central', 'dcn1', failed=['dcn0'])
        self.assertStored(image_id, self.data, 'dcn1')

    def test_all_stores(self):
        image_id = self.uploaded(self.central, self.data, 'dcn0')
        self.central.request(
            'POST', '/v2/images/%s/import' % image_id,
            json={'method': {'name': 'copy-image'}, 'all_stores': True,
                  'all_stores_must_succeed': False}).raise_for_status()
        self.central.wait(image_id, *base.SITES)
        self.assertStored(image_id, self.data, *base.SITES)

    def test_snapshot_that_nova_registered(self):
        image_id = self.new_image(self.dcn0)
        self.make_published(image_id, self.data, 'dcn0')
        self.dcn0.add_location(image_id, self.location('dcn0', image_id),
                               store='dcn0').raise_for_status()
        before = self.central.images.get(image_id)
        self.assertEqual([None] * 4, [before[name] for name in (
            'checksum', 'os_hash_algo', 'os_hash_value', 'virtual_size')])
        self.copy(image_id, 'central', 'dcn1').raise_for_status()
        image = self.central.wait(image_id, *base.SITES)
        self.assertStored(image_id, self.data, *base.SITES)
        # As after stock's copy.
        self.assertDescribes(image, self.data)
        self.assertEqual(len(self.data), image['virtual_size'])

    def test_tampered_snapshot_of_another_site(self):
        # Its site can rewrite the data and the record, but not the code that
        # central's Glance has made of it.
        image_id = self.uploaded(self.central, self.data, 'central')
        self.copy(image_id, 'dcn0').raise_for_status()
        self.central.wait(image_id, 'central', 'dcn0')
        self.central.request(
            'DELETE', '/v2/stores/central/%s' % image_id).raise_for_status()
        tampered = os.urandom(MiB) + self.data[MiB:]
        with self.cluster('dcn0').connect('glance') as client, \
                client.open_ioctx('images') as ioctx, \
                rbd.Image(ioctx, image_id) as image:
            image.unprotect_snap('snap')
            image.remove_snap('snap')
            image.write(tampered[:MiB], 0)
            image.create_snap('snap')
            image.protect_snap('snap')
            record = records.load(image)
            content = digests.ContentDigest()
            content.update(0, tampered)
            records.save(image, records.Record(
                record.size, content.finish(len(tampered)), record.hashes,
                record.macs))
        self.copy(image_id, 'central').raise_for_status()
        self.central.wait(image_id, 'dcn0', failed=['central'])
        self.assertNoTrace(image_id, 'central')
        self.assertIn(base.digest(self.data, 'sha512'),
                      self.central.messages(image_id)[-1])

    def test_removed_while_it_is_downloaded(self):
        data = os.urandom(160 * MiB)
        image_id = self.uploaded(self.central, data, 'central')
        came = []
        with self.central.request('GET', '/v2/images/%s/file' % image_id,
                                  stream=True) as answer:
            try:
                for number, chunk in enumerate(answer.iter_content(MiB)):
                    came.append(chunk)
                    if number == 4:
                        with self.cluster('central').pool() as ioctx:
                            images.remove(
                                ioctx, image_id, images.read_image_id(
                                    ioctx, image_id), 'snap')
            except requests.exceptions.RequestException:
                pass
        came = b''.join(came)
        self.assertLess(len(came), len(data))
        self.assertSame(data[:len(came)], came)

    def test_copy_is_cloned_copy_on_write(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        self.copy(image_id, 'dcn1').raise_for_status()
        self.central.wait(image_id, 'central', 'dcn1')
        self.clone('dcn1', image_id)
        with self.rbd_image('dcn1', '%s_disk' % image_id, 'vms',
                            read_only=True) as disk:
            self.assertEqual(image_id, disk.parent_info()[1])
            self.assertSame(self.data, disk.read(0, disk.size()))


class LeftToStockTest(base.ApiTestCase):
    """Copies that are none of ours."""

    def setUp(self):
        super().setUp()
        self.data = os.urandom(2 * MiB)

    def test_turned_off(self):
        own = self.useFixture(base.OwnGlance(
            base.rbd_stores(), overrides={
                'glance_dcn': {'direct_copy': 'false'}}))
        image_id = self.uploaded(own.api, self.data, 'central')
        own.api.images.image_import(image_id, 'copy-image', stores=['dcn0'])
        own.api.wait(image_id, 'central', 'dcn0')
        self.assertStored(image_id, self.data, 'dcn0')
        # Stock's message, for stock did it.
        self.assertEqual('Copied 2 MiB', own.api.messages(image_id)[-1])

    def test_targets_of_both_kinds_in_one_request(self):
        folder = self.useFixture(base.fixtures.TempDir()).path
        stores = dict(base.rbd_stores(), files=(
            'file', {'filesystem_store_datadir': folder}))
        own = self.useFixture(base.OwnGlance(stores))
        image_id = self.uploaded(own.api, self.data, 'central')
        own.api.images.image_import(image_id, 'copy-image',
                                    stores=['files', 'dcn0'])
        own.api.wait(image_id, 'central', 'files', 'dcn0')
        self.assertStored(image_id, self.data, 'dcn0')
        with open(os.path.join(folder, image_id), 'rb') as f:
            self.assertSame(self.data, f.read())
        self.assertIn('store files are left to stock', own.log)

    def test_stock_target_fails_and_ours_is_undone(self):
        full = self.useFixture(base.fixtures.TempDir()).path
        stores = dict(base.rbd_stores(), files=(
            'file', {'filesystem_store_datadir': full}))
        own = self.useFixture(base.OwnGlance(stores))
        image_id = self.uploaded(own.api, self.data, 'central')
        # Stock's store refuses what is there already.
        with open(os.path.join(full, image_id), 'wb') as f:
            f.write(b'in the way')
        own.api.images.image_import(image_id, 'copy-image',
                                    stores=['files', 'dcn0'],
                                    allow_failure=False)
        own.api.wait(image_id, 'central', failed=['files'])
        self.assertNoTrace(image_id, 'dcn0')

    def test_source_in_stock_store_only(self):
        folder = self.useFixture(base.fixtures.TempDir()).path
        stores = dict(base.rbd_stores(), files=(
            'file', {'filesystem_store_datadir': folder}))
        own = self.useFixture(base.OwnGlance(stores))
        image_id = self.uploaded(own.api, self.data, 'files')
        own.api.images.image_import(image_id, 'copy-image', stores=['dcn1'])
        own.api.wait(image_id, 'files', 'dcn1')
        self.assertStored(image_id, self.data, 'dcn1')
        self.assertIn('copied by stock Glance', own.log)
        with self.cluster('dcn1').pool() as ioctx:
            self.assertIn(image_id, rbd.RBD().list(ioctx))
