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


"""Imports that do not fit into the staging folder; a real full disk."""

import contextlib
import os
import subprocess

from glance_dcn.imports import folder
from lab import process
from tests.functional.api import base
from tests.kills import server

MiB = 1 << 20


class FullDiskTest(base.ApiTestCase):
    """A staging folder of 24 MiB."""

    def setUp(self):
        super().setUp()
        if os.geteuid():
            self.skipTest('to mount a file system takes the rights of root')
        self.own = self.useFixture(base.OwnGlance(
            {'central': base.rbd_stores()['central']}, overrides={
                'image_import_opts': {
                    'image_import_plugins':
                    '[dcn_distributed_staging,dcn_image_conversion]'}}))
        self.staging = self.own.worker.staging
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs',
                        self.staging], check=True)
        # The worker has files open there.
        self.addCleanup(subprocess.run, ['umount', '-l', self.staging],
                        check=True)
        self.api = self.use_own(self.own)

    def message(self, image_id):
        """Wait for the end of the only task, and return its message."""
        def ended():
            [task] = self.api.tasks(image_id).values()
            return task['status'] == 'failure' and task['message']
        return process.wait_for('failure', ended, 30)

    def files(self):
        return [path.name for path in self.staging.iterdir()
                if path.name != folder.FOLDER]

    def assertFree(self, image_id, status):
        image = self.api.images.get(image_id)
        self.assertNotIn('os_glance_import_task', image)
        self.assertEqual(status, image['status'])
        self.assertEqual('central', image['os_glance_failed_import'])

    def test_download_does_not_fit(self):
        url = self.useFixture(server.SlowServer(bytes(30 * MiB), 0)).url
        image_id = self.new_image(self.api)
        self.api.images.image_import(image_id, 'web-download', uri=url)
        message = self.message(image_id)
        self.assertIn('30 MiB for its download', message)
        self.assertIn('bytes are missing', message)
        self.assertFree(image_id, 'queued')
        self.assertEqual([], self.files())

    def test_conversion_does_not_fit(self):
        data = self.converted(os.urandom(15 * MiB), 'qcow2')
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.api.stage(image_id, data)
        self.api.images.image_import(image_id, 'glance-direct')
        self.assertIn('for its conversion', self.message(image_id))
        # What was uploaded is not uploaded again.
        self.assertFree(image_id, 'uploading')
        self.assertEqual([image_id], self.files())
        subprocess.run(['mount', '-o', 'remount,size=64m', self.staging],
                       check=True)
        self.api.images.image_import(image_id, 'glance-direct')
        process.wait_for('active', lambda: self.api.images.get(
            image_id)['status'] == 'active', 30)

    def test_fits(self):
        data = base.random_data(4 * MiB)
        image_id = self.new_image(self.api)
        self.api.images.image_import(image_id, 'web-download',
                                     uri=self.served(data))
        image = self.api.wait(image_id, 'central')
        self.assertDescribes(image, data)
        with contextlib.suppress(process.LabError):
            process.wait_for('journal closed', lambda: not list(
                (self.staging / folder.FOLDER).glob('*.json')), 10)
        self.assertEqual([], list(
            (self.staging / folder.FOLDER).glob('*.json')))
