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

"""Upstream's own tests of images, those of tempest, against the dcn stores.

Some of them; ``tools/run-tempest.sh`` runs all, beside stock.
"""

from lab import process
from tests.functional.api import base
from tests import releases
from tests.tempest import scene as scenes

# Of tempest.api.image.v2. These make images in several stores, read where they
# are, and what depends on the order in which that is shown; add locations of
# the http store; import at another worker than the data was staged at; and
# fill the cache. All of tempest's take some minutes.
_TESTS = (
    'test_images.ImportImagesTest.test_image_glance_direct_import',
    'test_images.ImportImagesTest.test_remote_import',
    'test_images.MultiStoresImportImagesTest',
    'test_images.ImageLocationsTest.test_replace_location',
    'test_images.StoreWeightTest',
    'admin.test_images.MultiStoresImagesTest',
    'admin.test_image_caching.ImageCachingTest.test_image_caching_cycle',
)
# How many tests these are; a later tempest may have more.
_COUNT = 8


# Where lab/requirements.txt is installed.
@releases.since(33)
class TempestTest(base.OwnGlanceTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.scene = cls.use_for_class(scenes.Scene(short=True))
        cls.own = cls.scene.own

    def test_images(self):
        outcomes, said = self.scene.run(
            ['tempest.api.image.v2.%s' % name for name in _TESTS],
            timeout=300)
        self.assertEqual({'ok'}, set(outcomes.values()), said[-20000:])
        self.assertGreaterEqual(len(outcomes), _COUNT)

    def test_image_of_another_store_is_cached(self):
        # All stores are asked for it, and the first one has it not.
        image_id = self.uploaded(self.api, base.random_data(), 'dcn1')
        answer = self.api.request('PUT', '/v2/cache/%s' % image_id)
        self.assertEqual(202, answer.status_code, answer.text)
        process.wait_for('the cache', lambda: image_id in [
            entry['image_id'] for entry in self.api.request(
                'GET', '/v2/cache').json()['cached_images']], 30)
