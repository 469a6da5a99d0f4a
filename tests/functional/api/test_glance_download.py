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

"""Images that are downloaded from another Glance: glance-download."""

import subprocess

from keystoneclient.v3 import client as keystone_client

from lab import process
from tests.functional.api import base
from tests import releases

_REGION = 'download'
_LARGEST = 64 * base.MiB


# Before, there is no such import method that stores know of.
@releases.since(33)
class GlanceDownloadTest(base.OwnGlanceTestCase):
    """Of another region, which is itself: what is known comes over HTTP."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start_own(base.rbd_stores(), overrides={
            'DEFAULT': {
                'enabled_import_methods': '[glance-direct,glance-download]',
                'image_size_cap': _LARGEST},
            'image_import_opts': {
                'image_import_plugins':
                    '[dcn_distributed_staging,dcn_image_conversion]'}})
        base.lab().keystone.register_endpoint(_REGION, cls.own.worker.url)
        cls.addClassCleanup(cls.forget)

    @classmethod
    def forget(cls):
        keystone = keystone_client.Client(session=base.session())
        for endpoint in keystone.endpoints.list(region_id=_REGION):
            keystone.endpoints.delete(endpoint)
        keystone.regions.delete(_REGION)

    def download(self, source, **properties):
        """Begin to download an image into another one; return its ID."""
        image_id = self.new_image(self.api, **properties)
        answer = self.api.request(
            'POST', '/v2/images/%s/import' % image_id, json={
                'method': {
                    'name': 'glance-download', 'glance_image_id': source,
                    'glance_region': _REGION,
                    'glance_service_interface': 'public'},
                'stores': ['central', 'dcn0']})
        self.assertEqual(202, answer.status_code, answer.text)
        return image_id

    def source(self, size):
        """Return an image in format qcow2 of that many bytes of holes."""
        folder = self.make_folder()
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2',
                        folder / 'image', str(size)], check=True)
        image_id = self.new_image(self.api, disk_format='qcow2')
        # Not imported: that would convert it.
        self.api.upload(image_id, (folder / 'image').read_bytes(), 'central')
        return image_id

    def test_converted_and_stored(self):
        image_id = self.download(self.source(8 * base.MiB))
        image = self.api.wait(image_id, 'central', 'dcn0')
        self.assertEqual(('raw', 8 * base.MiB), (
            image['disk_format'], image['size']))
        self.assertEqual(bytes(8 * base.MiB), self.api.download(image_id))

    def test_refused_in_conversion(self):
        given = {'disk_format': 'iso', 'container_format': 'ovf'}
        image_id = self.download(self.source(2 * _LARGEST), **given)
        process.wait_for('the end of the import', lambda: {
            task['status'] for task in self.api.tasks(image_id).values()}
            == {'failure'}, 60)
        process.wait_for('the image to be unlocked', lambda: not self.api
                         .images.get(image_id).get('os_glance_import_task'),
                         60)
        image = self.api.images.get(image_id)
        self.assertEqual('queued', image['status'])
        self.assertEqual(given, {name: image[name] for name in given})
        self.assertEqual('', image.get('os_glance_importing_to_stores', ''))
        self.assertIn('image_size_cap', self.api.messages(image_id)[0])
        self.assertEqual([], self.own.worker.staged())
