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

"""Stores of several types in one Glance: dcn beside stock ones."""


from tests.functional.api import base
from tests import releases


class MixedStoresTest(base.OwnGlanceTestCase):
    """``enabled_backends = central:dcn,dcn0:dcn,nfs:file,web:http``."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.nfs = cls.make_folder()
        cls.start_own(dict(
            base.rbd_stores(sites=('central', 'dcn0')),
            nfs=('file', {'filesystem_store_datadir': cls.nfs,
                          'store_description': 'a shared folder',
                          'weight': 7}),
            web=('http', {})))

    def setUp(self):
        super().setUp()
        self.data = base.random_data()

    def assertInFile(self, image_id):
        self.assertSame(self.data, (self.nfs / image_id).read_bytes())

    def assertNoFile(self, image_id):
        self.assertFalse((self.nfs / image_id).exists())

    def copy(self, image_id, target):
        self.api.images.image_import(image_id, 'copy-image', stores=[target])

    def test_listed(self):
        self.assertEqual(
            {'central': {'id': 'central', 'default': 'true',
                         'description': 'central RBD store'},
             'dcn0': {'id': 'dcn0', 'description': 'dcn0 RBD store'},
             'nfs': {'id': 'nfs', 'description': 'a shared folder'},
             'web': {'id': 'web', 'read-only': 'true'}},
            self.api.stores())

    @releases.since(30)
    def test_listed_in_detail(self):
        details = self.api.stores(detail=True)
        self.assertEqual(
            {'central': ('rbd', 0), 'dcn0': ('rbd', 0), 'nfs': ('file', 7),
             'web': ('http', 0)},
            {name: (store['type'], store['weight'])
             for name, store in details.items()})
        for site in ('central', 'dcn0'):
            self.assertEqual(self.cluster(site).fsid,
                             details[site]['properties']['fsid'])
        self.assertEqual(str(self.nfs),
                         details['nfs']['properties']['data_dir'])

    def test_imported_into_all_three(self):
        image_id = self.uploaded(self.api, self.data, 'central', 'dcn0',
                                 'nfs')
        self.assertDescribes(self.api.images.get(image_id), self.data)
        self.assertStored(image_id, self.data, 'central', 'dcn0')
        self.assertInFile(image_id)
        for store in ('central', 'dcn0', 'nfs'):
            self.assertSame(self.data,
                            self.api.download(image_id, prefer=store))
        self.api.images.delete(image_id)
        self.assertNoTrace(image_id, 'central', 'dcn0')
        self.assertNoFile(image_id)

    def test_each_store_alone_serves_it(self):
        image_id = self.uploaded(self.api, self.data, 'central', 'dcn0',
                                 'nfs')
        for gone, left in (('central', {'dcn0', 'nfs'}), ('nfs', {'dcn0'})):
            self.api.images.delete_from_store(gone, image_id)
            self.api.wait(image_id, *left)
            self.assertSame(self.data, self.api.download(image_id))
        self.assertNoTrace(image_id, 'central')
        self.assertNoFile(image_id)

    def test_converted_into_all_three(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.api.images.image_import(
            image_id, 'web-download', stores=['nfs', 'dcn0', 'central'],
            uri=self.served(self.converted(self.data, 'qcow2')))
        image = self.api.wait(image_id, 'nfs', 'dcn0', 'central')
        self.assertDescribes(image, self.data)
        self.assertStored(image_id, self.data, 'central', 'dcn0')
        self.assertInFile(image_id)

    def test_copied_from_nfs_to_a_site(self):
        image_id = self.uploaded(self.api, self.data, 'nfs')
        self.copy(image_id, 'dcn0')
        self.assertDescribes(self.api.wait(image_id, 'nfs', 'dcn0'),
                             self.data)
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertNoTrace(image_id, 'central')
        self.assertSame(self.data,
                        self.api.download(image_id, prefer='dcn0'))

    def test_copied_from_a_site_to_nfs(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0')
        self.copy(image_id, 'nfs')
        self.api.wait(image_id, 'dcn0', 'nfs')
        self.assertInFile(image_id)

    def test_copied_from_a_site_to_all_others(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0')
        self.api.images.image_import(image_id, 'copy-image',
                                     stores=['nfs', 'central'])
        self.api.wait(image_id, 'dcn0', 'nfs', 'central')
        self.assertInFile(image_id)
        self.assertStored(image_id, self.data, 'dcn0', 'central')

    def test_a_part_from_each(self):
        image_id = self.uploaded(self.api, self.data, 'nfs', 'dcn0')
        for store in ('nfs', 'dcn0'):
            answer = self.api.request(
                'GET', '/v2/images/%s/file' % image_id,
                params={'prefer': store},
                headers={'Range': 'bytes=1000-70000'})
            self.assertEqual(206, answer.status_code)
            self.assertSame(self.data[1000:70001], answer.content)

    def test_a_copy_to_a_store_that_cannot_be_written(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0')
        answer = self.api.request(
            'POST', '/v2/images/%s/import' % image_id,
            json={'method': {'name': 'copy-image'}, 'stores': ['web']})
        if answer.status_code == 202:
            self.api.wait(image_id, 'dcn0', failed=['web'])
        else:
            self.assertEqual(400, answer.status_code, answer.text)
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertSame(self.data, self.api.download(image_id))
