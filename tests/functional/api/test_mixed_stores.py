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

"""Stores of several types in one Glance: ours beside stock ones."""


from tests.functional.api import base
from tests.functional.api import mixed
from tests import releases


class FolderTest(mixed.MixedStoresTests, base.OwnGlanceTestCase):
    """``central:dcn,dcn0:dcn,away:dcn,nfs:file,web:http``."""

    stock = 'nfs'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.nfs = cls.make_folder()
        cls.start_own(mixed.stores(
            cls.make_folder(),
            nfs=('file', {'filesystem_store_datadir': cls.nfs,
                          'store_description': 'a shared folder',
                          'weight': 7}),
            web=('http', {})), overrides=mixed.OVERRIDES)

    def held(self, image_id):
        path = self.nfs / image_id
        return path.read_bytes() if path.exists() else None

    def test_listed(self):
        self.assertEqual(
            {'central': {'id': 'central', 'default': 'true',
                         'description': 'central RBD store'},
             'dcn0': {'id': 'dcn0', 'description': 'dcn0 RBD store'},
             'away': {'id': 'away', 'description': 'a site that is away'},
             'nfs': {'id': 'nfs', 'description': 'a shared folder'},
             'web': {'id': 'web', 'read-only': 'true'}},
            self.api.stores())

    @releases.since(30)
    def test_listed_in_detail(self):
        details = self.api.stores(detail=True)
        self.assertEqual(
            {'central': ('rbd', 0), 'dcn0': ('rbd', 0), 'away': ('rbd', 0),
             'nfs': ('file', 7), 'web': ('http', 0)},
            {name: (store['type'], store['weight'])
             for name, store in details.items()})
        for site in mixed.SITES:
            self.assertEqual(self.cluster(site).fsid,
                             details[site]['properties']['fsid'])
        self.assertEqual(str(self.nfs),
                         details['nfs']['properties']['data_dir'])

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
