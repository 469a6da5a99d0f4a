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


"""A web server that takes its time, to download images from."""

import contextlib
import http.server
import threading
import time

import fixtures

_PIECES = 40


class SlowServer(fixtures.Fixture):
    """Serves some data until the end of the test.

    :ivar url: where

    :param data: bytes
    :param seconds: for how long a download lasts
    """

    def __init__(self, data, seconds):
        super().__init__()
        self._data = data
        self._pause = seconds / _PIECES

    def _setUp(self):
        data, pause = self._data, self._pause

        class Handler(http.server.BaseHTTPRequestHandler):

            def do_HEAD(self):  # noqa: N802 (the name is http.server's)
                """Tell the length."""
                self.send_response(200)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()

            def do_GET(self):  # noqa: N802
                """Send the data, piece by piece."""
                self.do_HEAD()
                step = len(data) // _PIECES + 1
                # The one who asked may be killed.
                with contextlib.suppress(OSError):
                    for start in range(0, len(data), step):
                        self.wfile.write(data[start:start + step])
                        time.sleep(pause)

            def log_message(self, *args):
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.url = 'http://127.0.0.1:%d/image' % server.server_port
