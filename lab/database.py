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

"""The database of the lab's Keystone and Glance: sqlite, or MariaDB."""

import pathlib
import secrets
import shutil

from lab import process

KINDS = ('sqlite', 'mariadb')


class Sqlite:
    """One file a service. Nothing runs."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def start(self):
        """Make the directory."""
        self.directory.mkdir(parents=True, exist_ok=True)

    def stop(self):
        """Do nothing: sqlite has no daemon."""

    def make(self, service):
        """Do nothing: a database is made when it is used."""

    def url(self, service):
        """Return the SQLAlchemy URL of a service's database."""
        return 'sqlite:///%s' % (self.directory / ('%s.sqlite' % service))


class MariaDB:
    """A MariaDB server of the lab's own, from the distribution's package.

    It listens on a Unix socket in its directory and nowhere else.
    """

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self._server = process.Daemon('mariadbd', self.directory / 'run')
        self._socket = self.directory / 'run' / 'socket'
        self._password = self.directory / 'password'

    def start(self, timeout=60):
        """Make the databases unless they are there, and start the server."""
        data = self.directory / 'data'
        if not self._password.exists():
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir(parents=True)
            process.run(['mariadb-install-db', '--no-defaults',
                         '--datadir=%s' % data, '--skip-test-db',
                         '--auth-root-authentication-method=socket',
                         '--auth-root-socket-user=root', '--user=root'])
        self._server.start([
            'mariadbd', '--no-defaults', '--user=root',
            '--datadir=%s' % data, '--socket=%s' % self._socket,
            # A server that starts removes what it takes for its own there.
            '--tmpdir=%s' % (self.directory / 'run'),
            '--pid-file=%s' % (self.directory / 'run' / 'server.pid'),
            '--skip-networking', '--innodb-flush-log-at-trx-commit=2',
            '--max-connections=500'])
        self._server.wait_until(self._answers, timeout)
        if not self._password.exists():
            password = secrets.token_hex(16)
            self._sql(
                "CREATE USER 'lab'@'localhost' IDENTIFIED BY '%s';"
                'CREATE DATABASE keystone; CREATE DATABASE glance;'
                "GRANT ALL ON *.* TO 'lab'@'localhost';" % password)
            process.write_private(self._password, password)

    def stop(self):
        """End the server; the data stays."""
        self._server.stop()

    def make(self, service):
        """Make a further, empty database for a service."""
        self._sql('DROP DATABASE IF EXISTS `%s`; CREATE DATABASE `%s`'
                  % (service, service))

    def url(self, service):
        """Return the SQLAlchemy URL of a service's database."""
        return 'mysql+pymysql://lab:%s@localhost/%s?unix_socket=%s' % (
            self._password.read_text(), service, self._socket)

    def _answers(self):
        try:
            self._sql('SELECT 1')
        except process.LabError:
            return False
        return True

    def _sql(self, statements):
        return process.run(['mariadb', '--no-defaults', '--user=root',
                            '--socket=%s' % self._socket], input=statements)


def database(kind, directory):
    """Return the database of a kind named in :data:`KINDS`."""
    return {'sqlite': Sqlite, 'mariadb': MariaDB}[kind](directory)
