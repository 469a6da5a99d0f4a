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

"""Hashes computed once an image, for stores one by one or at the same time."""

import os

from glance_dcn.ceph import records
from tests.functional.api import base

MiB = base.MiB
_AGAIN = 'reading it once more'


class SharedHashesTest(base.ApiTestCase):

    def setUp(self):
        super().setUp()
        self.data = (os.urandom(2 * MiB) + bytes(9 * MiB) + os.urandom(MiB)
                     + bytes(MiB + 3))

    def own_glance(self, parallel):
        return self.useFixture(base.OwnGlance(
            base.rbd_stores(), overrides={'image_import_opts': {
                'image_import_plugins': '[]',
                'max_parallel_stores': parallel}}))

    def check(self, own):
        image_id = self.uploaded(own.api, self.data, *base.SITES)
        image = own.api.images.get(image_id)
        self.assertDescribes(image, self.data)
        self.assertStored(image_id, self.data, *base.SITES)
        expected = {'md5': image['checksum'],
                    'sha512': image['os_hash_value']}
        for site in base.SITES:
            with self.rbd_image(site, image_id, read_only=True) as opened:
                self.assertEqual(expected, records.load(opened).hashes)
        # Nobody had to compute them a second time.
        self.assertNotIn(_AGAIN, own.log)

    def test_one_store_after_the_other(self):
        self.check(self.own_glance(parallel=1))

    def test_all_stores_at_once(self):
        self.check(self.own_glance(parallel=3))
