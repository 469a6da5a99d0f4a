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

"""An edge may read at central, and no more: what works, and what is refused.

The lab's Glances have the keys that ``glance-dcn`` makes by default.
"""

from tests.functional.api import base

_TOLD = ('store central: the key of this Glance (client.glance-dcn0) may only '
         'read there; ask the Glance of site central for it')


class TrustTest(base.ApiTestCase):

    def setUp(self):
        super().setUp()
        if self.lab.facts['edge_access'] != 'read-only':
            self.skipTest('the edges of this lab may write at central')
        self.data = base.random_data()

    def assertTold(self, text):
        """A text that a user sees says which key, and whom to ask."""
        self.assertIn(_TOLD, text)

    def test_central_fetches_what_an_edge_has_made(self):
        image_id = self.uploaded(self.dcn0, self.data, 'dcn0')
        self.central.images.image_import(image_id, 'copy-image',
                                         stores=['central', 'dcn1'])
        self.central.wait(image_id, 'dcn0', 'central', 'dcn1')
        self.assertStored(image_id, self.data, 'central', 'dcn1')
        self.central.images.delete(image_id)
        self.assertNoTrace(image_id, *base.SITES)

    def test_an_edge_serves_and_copies_what_central_has(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        self.assertSame(self.data, self.dcn0.download(image_id))
        self.dcn0.images.image_import(image_id, 'copy-image',
                                      stores=['dcn0'])
        self.dcn0.wait(image_id, 'central', 'dcn0')
        self.assertStored(image_id, self.data, 'dcn0')

    def test_an_edge_copies_what_has_no_digest_at_central(self):
        image_id = self.new_image(self.central)
        self.make_published(image_id, self.data, 'central')
        self.central.add_location(image_id, self.location(
            'central', image_id), store='central').raise_for_status()
        self.dcn0.images.image_import(image_id, 'copy-image',
                                      stores=['dcn0'])
        self.dcn0.wait(image_id, 'central', 'dcn0')
        self.assertStored(image_id, self.data, 'dcn0')

    def test_copy_to_central_is_refused(self):
        image_id = self.uploaded(self.dcn0, self.data, 'dcn0')
        self.dcn0.images.image_import(image_id, 'copy-image',
                                      stores=['central'])
        self.dcn0.wait(image_id, 'dcn0', failed=['central'])
        self.assertTold(self.dcn0.messages(image_id)[-1])
        self.assertNoTrace(image_id, 'central')
        # Whom the message names does it.
        self.central.images.image_import(image_id, 'copy-image',
                                         stores=['central'])
        self.central.wait(image_id, 'dcn0', 'central')

    def test_import_into_both_is_refused_before_data_moves(self):
        image_id = self.new_image(self.dcn0)
        self.dcn0.stage(image_id, self.data)
        self.dcn0.images.image_import(
            image_id, 'glance-direct', stores=['dcn0', 'central'],
            allow_failure=False)
        self.dcn0.wait(image_id, status='uploading',
                       failed=['dcn0', 'central'])
        [message] = self.dcn0.messages(image_id)
        self.assertTold(message)
        self.assertNoTrace(image_id, 'dcn0', 'central')
        # What is staged is still there.
        self.dcn0.images.image_import(image_id, 'glance-direct',
                                      stores=['dcn0'])
        # Glance forgets a failure when the store has the image.
        self.dcn0.wait(image_id, 'dcn0', failed=['central'])
        self.assertStored(image_id, self.data, 'dcn0')

    def test_import_into_what_can_be_had(self):
        image_id = self.new_image(self.dcn0)
        self.dcn0.stage(image_id, self.data)
        self.dcn0.images.image_import(
            image_id, 'glance-direct', stores=['dcn0', 'central'],
            allow_failure=True)
        self.dcn0.wait(image_id, 'dcn0', failed=['central'])
        self.assertNoTrace(image_id, 'central')

    def test_import_into_central_alone_is_refused(self):
        image_id = self.new_image(self.dcn0)
        self.dcn0.stage(image_id, self.data)
        self.dcn0.images.image_import(image_id, 'glance-direct',
                                      stores=['central'], allow_failure=True)
        self.dcn0.wait(image_id, status='uploading', failed=['central'])
        [message] = self.dcn0.messages(image_id)
        self.assertTold(message)

    def test_upload_is_refused(self):
        image_id = self.new_image(self.dcn0)
        answer = self.dcn0.request(
            'PUT', '/v2/images/%s/file' % image_id, data=self.data,
            headers={'Content-Type': 'application/octet-stream',
                     'X-Image-Meta-Store': 'central'})
        self.assertEqual(503, answer.status_code)
        self.assertTold(answer.text)
        self.assertEqual('queued',
                         self.dcn0.images.get(image_id)['status'])
        self.assertNoTrace(image_id, 'central')

    def test_deletion_removes_nothing_or_all(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn0')
        answer = self.dcn0.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(403, answer.status_code)
        self.assertTold(answer.text)
        self.assertStored(image_id, self.data, 'central', 'dcn0')
        image = self.dcn0.images.get(image_id)
        self.assertEqual('active', image['status'])
        self.assertLocated(image, 'central', 'dcn0')
        self.central.images.delete(image_id)
        self.assertNoTrace(image_id, 'central', 'dcn0')

    def test_deletion_of_what_central_alone_has(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        answer = self.dcn0.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(403, answer.status_code)
        self.assertTold(answer.text)
        self.assertStored(image_id, self.data, 'central')

    def test_deletion_of_what_the_edge_alone_has(self):
        image_id = self.uploaded(self.dcn0, self.data, 'dcn0')
        self.dcn0.images.delete(image_id)
        self.assertNoTrace(image_id, 'dcn0')

    def test_removal_from_one_store(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn0')
        path = '/v2/stores/%s/' + image_id
        answer = self.dcn0.request('DELETE', path % 'central')
        self.assertEqual(409, answer.status_code)
        self.assertTold(answer.text)
        self.assertStored(image_id, self.data, 'central', 'dcn0')
        answer = self.dcn0.request('DELETE', path % 'dcn0')
        self.assertEqual(204, answer.status_code, answer.text)
        self.assertNoTrace(image_id, 'dcn0')
        self.assertLocated(self.dcn0.images.get(image_id), 'central')
