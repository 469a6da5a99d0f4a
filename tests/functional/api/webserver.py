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

"""A web server on this machine, to download from."""

import functools
import http.server
import pathlib
import threading

import fixtures


class Served(fixtures.Fixture):
    """Serves some data until the end of the test.

    :ivar url: where

    :param data: bytes
    """

    def __init__(self, data):
        super().__init__()
        self._data = data

    def _setUp(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (folder / 'image').write_bytes(self._data)
        server = http.server.ThreadingHTTPServer(
            ('127.0.0.1', 0),
            functools.partial(_QuietHandler, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.url = 'http://127.0.0.1:%d/image' % server.server_port


class _QuietHandler(http.server.SimpleHTTPRequestHandler):

    def log_message(self, *args):
        """Do not mix with the output of the tests."""
