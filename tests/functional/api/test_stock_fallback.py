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

"""The way back: the package removed, ``dcn`` changed to ``rbd``.

And the way there: images of stock ``rbd`` in the hands of ``dcn``. Both
Glances have the same database and the same pools.
"""

import importlib.metadata

from tests.functional.api import base
from tests.functional.api import stock


class StockFallbackTest(base.OwnGlanceTestCase):
    """A stock Glance beside the lab's own, on the same database and pools."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.own = cls.use_for_class(stock.StockGlance(
            stock.stores(), database=base.lab().database.url('glance')))

    def setUp(self):
        super().setUp()
        self.stock = self.api
        self.data = base.random_data()

    def edge_snapshot(self):
        """Register an image at dcn0 as Nova does, with dcn's Glance."""
        image_id = self.new_image(self.dcn0)
        self.make_published(image_id, self.data, 'dcn0')
        answer = self.dcn0.add_location(
            image_id, self.location('dcn0', image_id), store='dcn0')
        self.assertEqual(200, answer.status_code, answer.text)
        return image_id

    def test_the_package_is_not_there(self):
        installed = self.own.installed()
        self.assertEqual((False, []),
                         (installed['findable'], installed['loaded']))
        self.assertNotIn('dcn', installed['drivers'])
        self.assertNotIn('glance-dcn', installed['distributions'])
        self.assertIn('rbd', installed['drivers'])
        # It is not that the environment holds nothing at all: less ours it
        # has what this process has.
        self.assertEqual(
            {point.name for point in importlib.metadata.entry_points(
                group='glance_store.drivers')} - {'dcn'},
            set(installed['drivers']))
        self.assertIn('dcn', {
            point.name for point in importlib.metadata.entry_points(
                group='glance_store.drivers')})

    def test_same_stores(self):
        self.assertEqual(self.central.stores(), self.stock.stores())
        self.assertEqual(self.central.stores(detail=True),
                         self.stock.stores(detail=True))

    def test_same_images(self):
        image_id = self.uploaded(self.central, self.data, *base.SITES)
        self.assertEqual(*(
            self.in_any_order(dict(api.images.get(image_id)))
            for api in (self.central, self.stock)))
        self.assertIn(image_id, {image['id']
                                 for image in self.stock.images.list()})

    def in_any_order(self, image):
        """Return an image's properties; ours puts the nearest store first."""
        image['stores'] = sorted(image['stores'].split(','))
        image['locations'].sort(key=lambda one: one['url'])
        return image

    def test_imported_by_dcn_read_and_deleted_by_stock(self):
        image_id = self.uploaded(self.central, self.data, *base.SITES)
        for site in base.SITES:
            self.assertSame(self.data,
                            self.stock.download(image_id, prefer=site))
        self.stock.images.delete(image_id)
        self.assertNoTrace(image_id, *base.SITES)

    def test_copied_by_dcn_read_and_deleted_by_stock(self):
        image_id = self.edge_snapshot()
        self.central.images.image_import(image_id, 'copy-image',
                                         stores=['central'])
        self.central.wait(image_id, 'dcn0', 'central')
        self.central.images.image_import(image_id, 'copy-image',
                                         stores=['dcn1'])
        self.central.wait(image_id, *base.SITES)
        for site in base.SITES:
            self.assertSame(self.data,
                            self.stock.download(image_id, prefer=site))
        self.stock.images.delete_from_store('dcn1', image_id)
        self.assertNoTrace(image_id, 'dcn1')
        self.stock.images.delete(image_id)
        self.assertNoTrace(image_id, *base.SITES)

    def test_imported_by_dcn_copied_by_stock(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        before = self.central.images.get(image_id)
        self.stock.images.image_import(image_id, 'copy-image',
                                       stores=['dcn1'])
        image = self.stock.wait(image_id, 'central', 'dcn1')
        self.assertEqual(before['os_hash_value'], image['os_hash_value'])
        self.assertStored(image_id, self.data, 'central', 'dcn1')

    def test_in_use_refused_by_stock(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        self.clone('central', image_id, clone_format=1)
        answer = self.stock.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(409, answer.status_code, answer.text)
        self.assertSame(self.data, self.stock.download(image_id))

    def test_imported_by_stock_read_and_deleted_by_dcn(self):
        image_id = self.uploaded(self.stock, self.data, 'central', 'dcn0')
        self.assertDescribes(self.central.images.get(image_id), self.data)
        for site in ('central', 'dcn0'):
            self.assertSame(self.data,
                            self.central.download(image_id, prefer=site))
        self.assertSame(self.data, self.dcn1.download(image_id))
        self.central.images.delete(image_id)
        self.assertNoTrace(image_id, *base.SITES)

    def test_imported_by_stock_copied_by_dcn(self):
        image_id = self.uploaded(self.stock, self.data, 'central')
        before = self.stock.images.get(image_id)
        self.central.images.image_import(image_id, 'copy-image',
                                         stores=['dcn0', 'dcn1'])
        image = self.central.wait(image_id, *base.SITES)
        for key in ('size', 'checksum', 'os_hash_value', 'virtual_size'):
            self.assertEqual(before[key], image[key], key)
        self.assertLocated(image, *base.SITES)
        self.assertStored(image_id, self.data, *base.SITES)
        # And stock goes on with it.
        self.assertSame(self.data,
                        self.stock.download(image_id, prefer='dcn1'))
        self.stock.images.delete_from_store('central', image_id)
        self.stock.wait(image_id, 'dcn0', 'dcn1')
        self.assertNoTrace(image_id, 'central')

    def test_converted_by_stock_as_by_dcn(self):
        url = self.served(self.converted(self.data, 'qcow2'))
        images = []
        for api in (self.stock, self.central):
            image_id = self.new_image(api, disk_format='qcow2')
            api.images.image_import(image_id, 'web-download',
                                    stores=['central', 'dcn0'], uri=url)
            images.append(api.wait(image_id, 'central', 'dcn0'))
            self.assertStored(image_id, self.data, 'central', 'dcn0')
        for key in ('size', 'virtual_size', 'disk_format', 'checksum',
                    'os_hash_algo', 'os_hash_value'):
            self.assertEqual(images[0][key], images[1][key], key)
