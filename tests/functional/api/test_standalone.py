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

"""The driver and plugins in glance-api on eventlet, as before release 33.

Green threads share one native thread: whoever waits there, all do.
"""

import concurrent.futures
import threading
import time

import requests

from lab import glance
from tests.functional.api import base
from tests import releases

MiB = base.MiB
OVERRIDES = {
    'image_import_opts': {'image_import_plugins': '[dcn_image_conversion]'}}


@releases.before(33)
class StandaloneTest(base.ApiTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.own = base.OwnGlance(base.rbd_stores(), overrides=OVERRIDES,
                                 kind=glance.OnEventlet)
        cls.own.setUp()
        cls.addClassCleanup(cls.own.cleanUp)

    def setUp(self):
        super().setUp()
        self.api = self.use_own(self.own)

    def test_uploaded_downloaded_deleted(self):
        data = base.random_data(9 * MiB + 512)
        image_id = self.new_image(self.api)
        self.api.upload(image_id, data)
        self.assertDescribes(self.api.images.get(image_id), data)
        self.assertStored(image_id, data, 'central')
        self.assertSame(data, self.api.download(image_id))
        self.api.images.delete(image_id)
        self.assertNoTrace(image_id, *base.SITES)

    def test_converted_and_copied(self):
        data = base.random_data(9 * MiB)
        image_id = self.uploaded(
            self.api, self.converted(data, 'qcow2'), 'central', 'dcn0',
            disk_format='qcow2')
        self.api.images.image_import(image_id, 'copy-image', stores=['dcn1'])
        image = self.api.wait(image_id, *base.SITES)
        self.assertDescribes(image, data)
        self.assertStored(image_id, data, *base.SITES)
        self.assertIn('Copied', self.api.messages(image_id)[-1])
        self.api.images.delete(image_id)
        self.assertNoTrace(image_id, *base.SITES)

    def test_refused_image(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.api.stage(image_id, base.random_data(MiB))
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=['central'])
        self.api.wait(image_id, status='queued', failed=['central'])
        self.assertIn('its content is raw', self.api.messages(image_id)[0])

    def test_others_are_served_meanwhile(self):
        data = base.random_data(192 * MiB)
        ended = threading.Event()

        def longest_wait():
            longest = 0
            while not ended.is_set():
                started = time.monotonic()
                requests.get(self.api.url + '/healthcheck', timeout=60)
                longest = max(longest, time.monotonic() - started)
                time.sleep(0.05)
            return longest
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waits = pool.submit(longest_wait)
            try:
                image_id = self.new_image(self.api)
                self.api.upload(image_id, data)
                self.api.images.image_import(image_id, 'copy-image',
                                             stores=['dcn0', 'dcn1'])
                self.api.wait(image_id, *base.SITES)
                self.assertSame(data, self.api.download(
                    image_id, prefer='dcn1'))
            finally:
                ended.set()
            self.assertLess(waits.result(), 5)
