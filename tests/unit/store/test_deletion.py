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

"""What an image's other locations have to do with its deletion."""

import types

import fixtures
from glance import location as glance_location
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn import glance_db
from glance_dcn.store import deletion
from glance_dcn.store import failures
from glance_dcn.store import replicas

IMAGE = '0d4cd62b-9e7b-4f4a-9d7a-b3bb39d9e6c5'


class TestOtherStores(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.refusals = {'dcn0': None, 'central': errors.ReadOnly(
            'central', 'glance-dcn0')}
        stores = {name: types.SimpleNamespace(
            url_prefix='rbd://%s/images/' % name,
            site=types.SimpleNamespace(access=types.SimpleNamespace(
                refusal=lambda name=name: self.refusals[name])))
            for name in self.refusals}
        self.useFixture(fixtures.MockPatchObject(
            replicas, 'stores_of', return_value=stores))
        self.located = ['dcn0', 'central']
        self.useFixture(fixtures.MockPatchObject(
            glance_db, 'of', lambda conf: types.SimpleNamespace(
                locations=lambda image: {
                    'rbd://%s/images/%s/snap' % (name, image)
                    for name in self.located})))
        self.store = stores['dcn0']
        self.store.conf = None
        self.loc = types.SimpleNamespace(image=IMAGE)

    def check(self, *unused, **also_unused):
        deletion.check_other_stores(self.store, self.loc)

    def test_of_a_store_that_may_only_be_read(self):
        exc = self.assertRaises(failures.DeleteDenied, self.check)
        self.assertIn('ask the Glance of site central for it', exc.msg)

    def test_of_a_store_that_it_is_not_in(self):
        self.located = ['dcn0', 'dcn9']
        self.check()

    def test_of_a_store_that_may_be_written(self):
        self.refusals['central'] = None
        self.check()

    def image(self):
        """Return Glance's image, with the check in place of its stores."""
        locations = [{'url': 'rbd://%s/images/%s/snap' % (name, IMAGE),
                      'metadata': {'store': name}, 'status': 'active'}
                     for name in self.located]
        return glance_location.ImageProxy(types.SimpleNamespace(
            image_id=IMAGE, locations=locations, delete=lambda: None), None,
            None, types.SimpleNamespace(
                delete_image_location_from_backend=self.check))

    def test_glance_deletes_the_image(self):
        self.assertRaises(failures.DeleteDenied, self.image().delete)

    def test_glance_removes_it_from_one_store(self):
        image = self.image()
        locations = glance_location.StoreLocations(image, image.locations)
        locations.pop(0)
        self.assertEqual(1, len(locations))
