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

"""The command where Glance's database is away, or hangs; a real process."""

from __future__ import annotations

import contextlib
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import fixtures
from oslotest import base

_CONF = """\
[DEFAULT]
enabled_backends = central:dcn
[glance_store]
default_backend = central
[database]
connection = mysql+pymysql://glance:secret@127.0.0.1:%d/glance
[central]
rbd_store_ceph_conf = %s
"""
_COMMAND = 'import sys; from glance_dcn.cmd import main; sys.exit(main.main())'
# Seconds: of --timeout, and of all, on a machine with other tests. Glance's
# own patience with its database is 100 s.
_TIMEOUT, _ENOUGH = 2, 60


class DatabaseAwayTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        # It accepts connections, and says nothing.
        self.hung = self.listener()
        self.hung.listen()
        # Nobody listens there.
        self.closed = self.listener()

    def listener(self) -> socket.socket:
        found = socket.socket()
        self.addCleanup(found.close)
        found.bind(('127.0.0.1', 0))
        return found

    def test_none_is_configured(self) -> None:
        command = self.command(self.closed, 'status')
        conf = self.folder / 'glance-api.conf'
        conf.write_text(conf.read_text().replace('connection =', '# '))
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=_ENOUGH, check=False)
        self.assertEqual((3, 1), (done.returncode, done.stderr.count('\n')),
                         done.stderr)
        self.assertIn('the database of Glance cannot be read', done.stderr)

    def command(self, database: socket.socket, *args: str) -> list[str]:
        """Return the command, with a configuration for a database."""
        cluster = self.folder / 'ceph.conf'
        cluster.write_text('[global]\nmon_host = v2:127.0.0.1:9\n')
        conf = self.folder / 'glance-api.conf'
        conf.write_text(_CONF % (database.getsockname()[1], cluster))
        return [sys.executable, '-c', _COMMAND, '--config-file', str(conf),
                *args, '--timeout', str(_TIMEOUT)]

    def test_once(self) -> None:
        for command in ('status', 'metrics'):
            for database, reason in (
                    (self.closed, 'Connection refused'),
                    (self.hung, 'does not answer within 2 s')):
                done = subprocess.run(
                    self.command(database, command), timeout=_ENOUGH,
                    capture_output=True, text=True, check=False)
                self.assertEqual(3, done.returncode, done.stderr)
                self.assertEqual('', done.stdout)
                said = [line for line in done.stderr.splitlines()
                        if 'database of Glance cannot be read' in line]
                self.assertEqual(1, len(said), done.stderr)
                self.assertIn(reason, said[0])
                self.assertNotIn('Traceback', done.stderr)
                self.assertNotIn('secret', done.stderr)

    def test_exporter(self) -> None:
        with self.listener() as free:
            port = free.getsockname()[1]
        for found in (self.closed, self.hung):
            with self.exporter(found, port) as process:
                # It answers as long as it lives, and it lives.
                for _scrape in range(3):
                    self.assertRegex(self.scrape(port, process), (
                        'nothing has been looked at yet|cannot be read'))
                    time.sleep(.5)
                self.await_reason(port, process)

    @contextlib.contextmanager
    def exporter(self, database: socket.socket, port: int):
        """Run the exporter; it is ended at the end of the block."""
        with subprocess.Popen(
                self.command(database, 'metrics', '--listen',
                             '127.0.0.1:%d' % port, '--interval', '1'),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def await_reason(self, port: int, process: subprocess.Popen) -> None:
        until = time.monotonic() + _ENOUGH
        while not re.search('the database of Glance cannot be read',
                            self.scrape(port, process)):
            self.assertLess(time.monotonic(), until)
            time.sleep(.2)

    def scrape(self, port: int, process: subprocess.Popen) -> str:
        """Return what the exporter says, which must be with status 503."""
        until = time.monotonic() + _ENOUGH
        while True:
            self.assertIsNone(process.poll())
            try:
                urllib.request.urlopen('http://127.0.0.1:%d/metrics' % port,
                                       timeout=_ENOUGH)
            except urllib.error.HTTPError as exc:
                self.assertEqual(503, exc.code)
                return exc.read().decode()
            except OSError:
                # It does not listen yet.
                self.assertLess(time.monotonic(), until)
                time.sleep(.1)
                continue
            self.fail('figures of a database that is away')
