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

"""An answer of the database that is lost: the commit is done all the same."""

import pathlib
import select
import socket
import threading
import urllib.parse

import fixtures

from lab import process
from tests.functional.api import base
from tests.functional.api import databases

MiB = base.MiB


class Proxy(fixtures.Fixture):
    """Stands before MariaDB, on a Unix socket, and loses one answer.

    Once it is armed, the connection that has inserted a location is cut right
    after its COMMIT was passed on, and before the answer is.

    :ivar path: of its socket
    :ivar lost: whether an answer was lost

    :param target: path of the server's socket
    """

    def __init__(self, target):
        super().__init__()
        self._target = target
        self.lost = threading.Event()
        self.armed = threading.Event()

    def _setUp(self):
        folder = self.useFixture(fixtures.TempDir()).path
        self.path = str(pathlib.Path(folder) / 'socket')
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(64)
        self.addCleanup(self._server.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _address = self._server.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            threading.Thread(target=self._pass_on, args=(client, server),
                             daemon=True).start()

    def _pass_on(self, client, server):
        inserted = False
        with client, server:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is server:
                        client.sendall(data)
                        continue
                    server.sendall(data)
                    if self.armed.is_set():
                        inserted |= b'INSERT INTO image_locations' in data
                        if inserted and b'COMMIT' in data:
                            self.armed.clear()
                            # The server has carried it out when it answers.
                            server.recv(1 << 16)
                            self.lost.set()
                            return


class LostAnswerTest(base.ApiTestCase):

    def test_copy_that_glance_has(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        database = self.useFixture(databases.Database(self.lab, folder))
        before, _mark, path = database.url.rpartition('unix_socket=')
        if not path:
            self.skipTest('the lab has no MariaDB')
        proxy = self.useFixture(Proxy(urllib.parse.unquote(path)))
        own = base.OwnGlance(base.rbd_stores(), database='%sunix_socket=%s'
                             % (before, proxy.path))
        database.make_tables()
        self.useFixture(own)
        api = self.use_own(own)
        image_id = self.uploaded(api, b'x' * MiB, 'central')
        proxy.armed.set()
        api.images.image_import(image_id, 'copy-image', stores=['dcn0'])
        self.assertTrue(proxy.lost.wait(60))
        # Glance has the location: it may keep it, or take it off again with
        # the data, but what it has must be there.
        process.wait_for('the task to end', lambda: not api.images.get(
            image_id).get('os_glance_import_task'), 120)
        self.assertComplete(api, image_id)
        if 'dcn0' not in api.images.get(image_id)['stores'].split(','):
            api.images.image_import(image_id, 'copy-image', stores=['dcn0'])
            api.wait(image_id, 'central', 'dcn0')
        self.assertComplete(api, image_id)

    def assertComplete(self, api, image_id):
        """Every location of an image has its data."""
        for location in api.images.get(image_id)['locations']:
            store = location['metadata']['store']
            with self.rbd_image(store, image_id, read_only=True) as opened:
                opened.set_snap('snap')
                self.assertEqual(b'x' * MiB, opened.read(0, MiB))
