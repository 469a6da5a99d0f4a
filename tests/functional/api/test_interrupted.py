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

"""Uploads and imports that do not get to their end."""

import contextlib
import json
import os
import signal
import socket

import rbd

from lab import glance
from lab import process
from tests.functional.api import base

MiB = base.MiB


class InterruptedTest(base.OwnGlanceTestCase):
    """A Glance whose one store takes a second for each MiB."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        store = glance.rbd_store(base.lab().cluster('central'),
                                 dcn_bandwidth_limit=1,
                                 rbd_store_chunk_size=1)
        cls.start_own({'central': ('dcn', store)})

    def setUp(self):
        super().setUp()
        self.own.start()
        self.image_id = self.new_image(self.api)
        self.addCleanup(self.blocklist_the_dead)

    def blocklist_the_dead(self):
        """Let the cluster forget who had the image open, at once.

        It would wait for half a minute before anybody could remove it.
        """
        cluster = self.cluster('central')
        if self.image_id not in cluster.images():
            return
        with self.rbd_image('central', self.image_id,
                            read_only=True) as image:
            watchers = [watcher['addr'] for watcher in image.watchers_list()]
        with cluster.connect() as client:
            for address in watchers:
                client.mon_command(json.dumps({
                    'prefix': 'osd blocklist', 'blocklistop': 'add',
                    'addr': address}), b'', timeout=30)

    def begin_upload(self, announced, sent):
        """Send a part of the data of an upload and leave it there.

        :returns: the socket
        """
        sock = socket.create_connection(
            ('127.0.0.1', self.own.worker.service.port))
        self.addCleanup(sock.close)
        head = ['PUT /v2/images/%s/file HTTP/1.1' % self.image_id,
                'Host: glance', 'Content-Type: application/octet-stream',
                'X-Auth-Token: %s' % base.session().get_token(),
                'Content-Length: %d' % announced, '', '']
        sock.sendall('\r\n'.join(head).encode())
        sock.sendall(os.urandom(sent))
        self.wait_until_written()
        return sock

    def begin_import(self):
        """Begin to import 20 MiB, and wait until it is under way."""
        self.api.stage(self.image_id, os.urandom(20 * MiB))
        self.api.images.image_import(self.image_id, 'glance-direct',
                                     stores=['central'])
        self.wait_until_written()

    def wait_until_written(self):
        """Wait until the RBD image has been created."""
        def is_there():
            with contextlib.suppress(rbd.ImageNotFound), self.rbd_image(
                    'central', self.image_id, read_only=True):
                return True
            return False
        process.wait_for('RBD image', is_there, 20)

    def wait_until_gone(self):
        cluster = self.cluster('central')
        process.wait_for('RBD image gone',
                         lambda: self.image_id not in cluster.images(), 30)

    def assertNotReadable(self):
        """Nobody finds an image where it would be."""
        # Its name is listed before there is an image to open.
        with contextlib.suppress(rbd.ImageNotFound), self.rbd_image(
                'central', self.image_id, read_only=True) as image:
            self.assertEqual([], list(image.list_snaps()))
        image = self.api.images.get(self.image_id)
        self.assertNotEqual('active', image['status'])
        self.assertEqual([], image['locations'])
        answer = self.api.request('GET',
                                  '/v2/images/%s/file' % self.image_id)
        self.assertEqual(204, answer.status_code, answer.text)
        return image

    def end_worker(self, number):
        """Send a signal to the process that serves; another takes over."""
        before = self.own.worker.service.worker_pids()
        for pid in before:
            os.kill(pid, number)

        def another():
            now = self.own.worker.service.worker_pids()
            return now and not set(now) & set(before)
        process.wait_for('worker to be replaced', another, 30)

    def test_client_goes_away(self):
        sock = self.begin_upload(announced=8 * MiB, sent=3 * MiB)
        sock.close()
        self.wait_until_gone()
        process.wait_for(
            'queued', lambda: self.api.images.get(
                self.image_id)['status'] == 'queued', 20)
        self.assertNotReadable()
        self.assertNoTrace(self.image_id, 'central')
        # The next upload of it goes well.
        data = base.random_data()
        self.api.upload(self.image_id, data)
        self.assertStored(self.image_id, data, 'central')

    def test_worker_is_killed_during_an_upload(self):
        self.begin_upload(announced=8 * MiB, sent=3 * MiB)
        self.end_worker(signal.SIGKILL)
        self.assertNotReadable()

    def test_worker_is_killed_during_an_import(self):
        self.begin_import()
        self.end_worker(signal.SIGKILL)
        self.assertNotReadable()

    def test_terminated_during_an_upload(self):
        self.begin_upload(announced=8 * MiB, sent=3 * MiB)
        self.own.worker.stop()
        self.own.start()
        self.assertNotReadable()

    def test_terminated_during_an_import(self):
        self.begin_import()
        self.own.worker.stop()
        self.own.start()
        image = self.assertNotReadable()
        self.assertEqual('importing', image['status'])

    def test_slow_but_sure(self):
        # What the others break off would have come to its end.
        data = base.random_data(4 * MiB)
        self.api.upload(self.image_id, data)
        self.assertStored(self.image_id, data, 'central')
