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

"""What is asked of Glance's database, and what is made of it."""

from oslotest import base

from glance_dcn.status import inventory
from glance_dcn.status import snapshot
from tests.unit.status import test_inventory


class TestInventory(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.image = self.useFixture(test_inventory.Database()).add('central')

    def find(self, **wanted):
        """Return the number of images that are meant, and exists."""
        found = snapshot._inventory(inventory.Filter(**wanted), 10)
        return found[2], found[4]

    def test_image_that_is_not_meant(self):
        self.assertEqual((1, True), self.find(image=self.image))
        for more in ({'missing': 'central'}, {'site': 'edge'},
                     {'owner': 'me'}, {'status': 'queued'}, {'name': 'x'}):
            self.assertEqual((0, True), self.find(image=self.image, **more))
            self.assertEqual(True, self.find(**more)[1])

    def test_image_that_is_none(self):
        other = '0a1b2c3d-0000-4000-8000-112233445566'
        self.assertEqual((0, False), self.find(image=other))
        self.assertEqual((0, False), self.find(image=other, site='edge'))
