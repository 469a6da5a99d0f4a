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

"""The main job of a DCN deployment: one image, three sites, one UUID."""

import uuid

from glanceclient import exc as client_exc

from lab import deployment
from tests.functional.api import base
from tests import releases

MiB = base.MiB


class StoresTest(base.ApiTestCase):
    """What each site's Glance shows of the stores."""

    def listing(self, *sites):
        return {site: {'id': site, 'description': '%s RBD store' % site}
                for site in sites}

    def test_central_has_every_store(self):
        expected = self.listing(*base.SITES)
        expected['central']['default'] = 'true'
        self.assertEqual(expected, self.central.stores())

    def test_an_edge_has_its_own_and_central(self):
        for site, api in (('dcn0', self.dcn0), ('dcn1', self.dcn1)):
            expected = self.listing(site, deployment.CENTRAL)
            expected[site]['default'] = 'true'
            self.assertEqual(expected, api.stores())

    def test_details_through_each_glance(self):
        for api, default in ((self.central, 'central'), (self.dcn0, 'dcn0'),
                             (self.dcn1, 'dcn1')):
            details = api.stores(detail=True)
            self.assertEqual(set(api.stores()), set(details))
            for site, store in details.items():
                expected = {'pool': 'images', 'chunk_size': 8 * MiB,
                            'thin_provisioning': True}
                if releases.GLANCE >= 30:
                    expected['fsid'] = self.cluster(site).fsid
                self.assertEqual(expected, store['properties'])
                self.assertEqual(
                    ('rbd', 0, '%s RBD store' % site),
                    (store['type'], store.get('weight', 0),
                     store['description']))
                self.assertEqual('true' if site == default else None,
                                 store.get('default'))


class ImportTest(base.ApiTestCase):
    """From the outside into stores."""

    def test_web_download_converted_into_two_stores(self):
        data = base.random_data(3 * MiB)
        image_id = self.new_image(self.central, disk_format='qcow2')
        self.central.images.image_import(
            image_id, 'web-download', stores=['central', 'dcn0'],
            uri=self.served(self.converted(data, 'qcow2')))
        image = self.central.wait(image_id, 'central', 'dcn0')
        self.assertEqual('raw', image['disk_format'])
        self.assertDescribes(image, data)
        self.assertLocated(image, 'central', 'dcn0')
        self.assertStored(image_id, data, 'central', 'dcn0')
        self.assertNoTrace(image_id, 'dcn1')

    def test_staged_into_all_stores(self):
        data = base.random_data()
        image_id = self.new_image(self.central)
        self.central.stage(image_id, data)
        self.assertEqual('uploading',
                         self.central.images.get(image_id)['status'])
        self.central.images.image_import(image_id, 'glance-direct',
                                         all_stores=True)
        image = self.central.wait(image_id, *base.SITES)
        self.assertDescribes(image, data)
        self.assertLocated(image, *base.SITES)
        self.assertStored(image_id, data, *base.SITES)
        staging = self.lab.glance('central').staging
        self.assertFalse((staging / image_id).exists())

    def test_uploaded_to_the_default_store_of_an_edge(self):
        data = base.random_data()
        image_id = self.new_image(self.dcn0)
        self.dcn0.upload(image_id, data)
        image = self.dcn0.images.get(image_id)
        self.assertEqual('active', image['status'])
        self.assertDescribes(image, data)
        self.assertLocated(image, 'dcn0')
        self.assertStored(image_id, data, 'dcn0')

    def test_uploaded_to_a_named_store(self):
        data = base.random_data()
        image_id = self.new_image(self.central)
        self.central.upload(image_id, data, store='dcn1')
        self.assertLocated(self.central.images.get(image_id), 'dcn1')
        self.assertStored(image_id, data, 'dcn1')
        self.assertNoTrace(image_id, 'central', 'dcn0')

    def test_unaligned_and_small_sizes(self):
        for size in (1, 511, 65537):
            data = base.random_data(size)
            image_id = self.uploaded(self.central, data, 'central', 'dcn0')
            self.assertDescribes(self.central.images.get(image_id), data)
            self.assertStored(image_id, data, 'central', 'dcn0')
            self.assertSame(data, self.central.download(image_id))

    def test_copied_to_a_third_store(self):
        data = base.random_data()
        image_id = self.uploaded(self.central, data, 'central', 'dcn0')
        before = self.central.images.get(image_id)
        self.central.images.image_import(image_id, 'copy-image',
                                         stores=['dcn1'])
        image = self.central.wait(image_id, *base.SITES)
        for key in ('checksum', 'os_hash_value', 'size', 'status'):
            self.assertEqual(before[key], image[key])
        self.assertLocated(image, *base.SITES)
        self.assertStored(image_id, data, *base.SITES)

    @releases.since(31)
    def test_an_announced_size_that_is_wrong(self):
        data = base.random_data()
        for wrong in (len(data) - 1, len(data) + 1):
            image_id = self.new_image(self.central)
            answer = self.central.request(
                'PUT', '/v2/images/%s/file' % image_id, data=data,
                headers={'Content-Type': 'application/octet-stream',
                         'x-openstack-image-size': str(wrong)})
            self.assertEqual(400, answer.status_code, answer.text)
            self.assertEqual('queued',
                             self.central.images.get(image_id)['status'])
            self.assertNoTrace(image_id, *base.SITES)
            # It can be uploaded again, and rightly.
            self.central.upload(image_id, data)
            self.assertStored(image_id, data, 'central')

    def test_a_duplicate(self):
        # Left behind by somebody: whose it is nobody knows, so it stays.
        old = base.random_data()
        image_id = self.uploaded(self.central, old, 'dcn0')
        # Another deployment on the same pools knows nothing of the image.
        other = self.useFixture(base.OwnGlance(base.rbd_stores()))
        self.new_image(other.api, id=image_id)
        # 500 in Glance 33, which does not expect a store to say Duplicate.
        self.assertRaises(client_exc.HTTPException, other.api.upload,
                          image_id, base.random_data(), store='dcn0')
        self.assertEqual('queued', other.api.images.get(image_id)['status'])
        self.assertIn('Store dcn0: RBD image %s exists already: its content '
                      'is another one' % image_id, other.log)
        self.assertStored(image_id, old, 'dcn0')
        self.assertSame(old, self.central.download(image_id))


class EdgeSnapshotTest(base.ApiTestCase):
    """A snapshot that Nova made at an edge goes home, and on."""

    def snapshotted(self, data):
        """Do what nova's Rbd.direct_snapshot() leaves at dcn0."""
        image_id = self.new_image(self.dcn0)
        self.make_published(image_id, data, 'dcn0')
        answer = self.dcn0.add_location(
            image_id, self.location('dcn0', image_id), store='dcn0')
        self.assertEqual(200, answer.status_code, answer.text)
        return image_id

    def test_registered_and_copied_to_all_sites(self):
        data = base.random_data()
        image_id = self.snapshotted(data)
        image = self.dcn0.wait(image_id, 'dcn0')
        self.assertEqual(len(data), image['size'])
        self.assertSame(data, self.dcn0.download(image_id))
        # Home, and on to the other edge: the edge may not write there.
        for target, stores in (('central', {'dcn0', 'central'}),
                               ('dcn1', set(base.SITES))):
            self.central.images.image_import(image_id, 'copy-image',
                                             stores=[target])
            self.central.wait(image_id, *stores)
        self.assertLocated(self.central.images.get(image_id), *base.SITES)
        self.assertStored(image_id, data, *base.SITES)

    def test_location_without_metadata_is_given_its_store(self):
        data = base.random_data()
        image_id = self.new_image(self.central)
        self.make_published(image_id, data, 'dcn1')
        answer = self.central.add_location(image_id,
                                           self.location('dcn1', image_id))
        self.assertEqual(200, answer.status_code, answer.text)
        self.assertLocated(self.central.images.get(image_id), 'dcn1')
        self.assertSame(data, self.central.download(image_id))

    def test_refused_locations(self):
        image_id = self.new_image(self.central)
        self.make_published(image_id, base.random_data(), 'central')
        fsid = self.cluster('central').fsid
        for uri in (
                'rbd://%s/images/%s/snap' % (uuid.uuid4(), image_id),
                'rbd://%s/images/%s/snap' % (self.cluster('dcn0').fsid,
                                             image_id),
                'swift://%s/images/%s/snap' % (fsid, image_id),
                'dcn://%s/images/%s/snap' % (fsid, image_id),
                'file:///etc/passwd',
                'rbd://%s/images/%s' % (fsid, image_id),
                'rbd://%s/images/%s/snap/more' % (fsid, image_id),
                'rbd://%s//%s/snap' % (fsid, image_id),
                'rbd://%s/images//snap' % fsid,
                'rbd://', ''):
            answer = self.central.add_location(image_id, uri,
                                               store='central')
            self.assertIn(answer.status_code, range(400, 500),
                          '%s: %s' % (uri, answer.text))
            image = self.central.images.get(image_id)
            self.assertEqual(('queued', [], None),
                             (image['status'], image['locations'],
                              image['size']), uri)
        # The one that is right is taken.
        answer = self.central.add_location(
            image_id, self.location('central', image_id), store='central')
        self.assertEqual(200, answer.status_code, answer.text)

    def test_location_of_an_image_that_is_not_there(self):
        image_id = self.new_image(self.central)
        answer = self.central.add_location(
            image_id, self.location('central', image_id), store='central')
        self.assertIn(answer.status_code, range(400, 500), answer.text)
        self.assertEqual([], self.central.images.get(image_id)['locations'])
