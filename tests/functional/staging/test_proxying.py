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


"""Stock passes imports and deletions on to the worker that has the data.

That is to go on with the plugin, and with a peer that does not have it.
"""

import pathlib

import fixtures

from lab import process
from tests.functional.api import base
from tests.functional.api import databases

_PLUGIN = {'image_import_opts': {
    'image_import_plugins': '[dcn_distributed_staging]'}}
_NONE = {'image_import_opts': {'image_import_plugins': '[]'}}


class ProxyingTest(base.ApiTestCase):
    """Two workers with one database; the second one has no plugin."""

    def setUp(self):
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        url = self.useFixture(databases.Database(base.lab(), folder)).url
        stores = {'central': base.rbd_stores()['central']}
        self.workers = []
        for number, overrides in enumerate((_PLUGIN, _NONE)):
            own = base.OwnGlance(stores, overrides=overrides, database=url)
            if not number:
                first = own.make_worker(folder / 'sync', url)
                first.sync_database()
            self.workers.append(self.useFixture(own))

    def staged(self, own):
        return [path.name for path in own.worker.staging.iterdir()
                if path.is_file()]

    def test_import_and_deletion_through_the_other(self):
        for here, there in (self.workers, self.workers[::-1]):
            data = base.random_data()
            image_id = self.new_image(here.api)
            here.api.stage(image_id, data)
            self.assertEqual([image_id], self.staged(here))
            there.api.images.image_import(image_id, 'glance-direct')
            image = there.api.wait(image_id, 'central')
            self.assertDescribes(image, data)
            process.wait_for('staged file gone',
                             lambda own=here: not self.staged(own), 10)
            another = self.new_image(here.api)
            here.api.stage(another, data)
            answer = there.api.request('DELETE', '/v2/images/%s' % another)
            self.assertEqual(204, answer.status_code)
            self.assertEqual([], self.staged(here) + self.staged(there))
