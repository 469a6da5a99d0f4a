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

"""Several workers of one site behind a load balancer, for tests."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import uuid

import fixtures

from lab import balancer
from lab import glance
from lab import process
from tests.functional.api import base
from tests.functional.api import client
from tests.functional.api import databases

_ROOT = pathlib.Path(__file__).parents[3]
PLUGINS = '[dcn_distributed_staging,dcn_image_conversion]'


def site_name():
    """Return the name of a site that no other test has.

    Workers of one site take over from each other, and all share one pool.
    """
    return 'site-%s' % uuid.uuid4().hex[:8]


class Workers(fixtures.Fixture):
    """Workers of one site, with one database, behind a load balancer.

    :ivar workers: list of :class:`lab.glance.Glance`
    :ivar apis: list of their :class:`tests.functional.api.client.Api`
    :ivar public: the same of the load balancer
    :ivar site: name of the site, which is that of the default store

    :param count: number of workers
    :param overrides: dict of dicts: options of all workers, by group
    :param stock: numbers of the workers that have stock's store and plugins
    :param options: of each store, to add or change
    :param processes: number of processes of each worker, besides its master
    :param program: class of the workers
    """

    def __init__(self, count=3, overrides=None, stock=(), options=None,
                 processes=1, program=glance.Glance):
        super().__init__()
        self._program = program
        self._count = count
        self._overrides = overrides or {}
        self._stock = stock
        self._options = options or {}
        self._processes = processes
        self.site = site_name()

    def _setUp(self):
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        database = self.useFixture(
            databases.Database(base.lab(), self.folder))
        self.database_url = database.url
        self._ports = []
        for _ in range(self._count + 1):
            self._ports.append(process.free_port(taken=self._ports))
        self.workers = [self._make(number) for number in range(self._count)]
        database.make_tables(self.workers[0])
        for worker in self.workers:
            self.addCleanup(worker.stop)
            self.start(worker)
        self.balancer = balancer.Balancer(
            'haproxy', self.folder / 'haproxy', self._ports[-1],
            self._ports[:-1])
        self.addCleanup(self.balancer.stop)
        self.balancer.start()
        self.apis = [client.Api(worker.url, base.session())
                     for worker in self.workers]
        self.public = client.Api(self.balancer.url, base.session())

    def _make(self, number, **changes):
        stock = number in self._stock
        kind = 'rbd' if stock else 'dcn'
        stores = {self.site: (kind, self.store('central')),
                  'dcn0': (kind, self.store('dcn0'))}
        overrides = {group: dict(options) for group, options
                     in self._overrides.items()}
        if not stock:
            overrides.setdefault('image_import_opts', {})[
                'image_import_plugins'] = PLUGINS
        for group, options in changes.items():
            overrides.setdefault(group, {}).update(options)
        return self._program(
            'worker-%d' % number, self.folder / ('worker-%d' % number),
            self._ports[number], base.lab().keystone, self.database_url,
            stores,
            self.site, overrides, processes=self._processes)

    def store(self, name):
        """Return the options of a store in a cluster."""
        return glance.rbd_store(base.lab().cluster(name), **self._options)

    def start(self, worker):
        """Start a worker, unless it runs."""
        with fixtures.EnvironmentVariable('HOME', str(self.folder)):
            worker.start()

    def configure(self, number, **changes):
        """Start a worker anew with other options.

        :param changes: dicts of options by group
        """
        self.workers[number].stop()
        # What was said before is not asked for any more.
        self.workers[number].log.unlink()
        self.workers[number] = self._make(number, **changes)
        self.start(self.workers[number])

    def processes(self, number):
        """Return the process IDs of a worker, the master first."""
        service = self.workers[number].service
        return [service.pid, *service.worker_pids()]

    def signal(self, number, signum):
        """Send a signal to all processes of a worker, the master first."""
        for pid in self.processes(number):
            os.kill(pid, signum)

    def kill(self, number):
        """End all processes of a worker at once, for good."""
        self.signal(number, signal.SIGKILL)

    def listed(self):
        """Return what ``glance-dcn worker list`` shows, by URL, and status."""
        done = subprocess.run(
            [sys.executable, '-c', 'import sys\n'
             'from glance_dcn.cmd import main\n'
             'sys.exit(main.main())', 'worker', 'list', '--format', 'json'],
            cwd=_ROOT, capture_output=True, text=True, timeout=60,
            env=dict(os.environ, OS_GLANCE_CONFIG_DIR=str(
                self.workers[0].etc)))
        if done.returncode not in (0, 1):
            raise AssertionError(done.stderr)
        return {entry['staging']: entry
                for entry in json.loads(done.stdout)['workers']
                if entry['site'] == self.site}, done.returncode

    def entry(self, number):
        """Return what the list shows of a worker, or None."""
        return self.listed()[0].get(str(self.workers[number].staging))

    def staged(self, number):
        """Return the names of the files in a worker's staging folder."""
        return [path.name for path in self.workers[number].staged()]

    def log(self, number):
        """Return what a worker has logged."""
        return self.workers[number].log.read_text(errors='replace')


class WorkersTestCase(base.ApiTestCase):
    """A test through the workers of a fixture of its class."""

    def use_workers(self, fixture):
        """Let a failure keep the logs of the class's workers."""
        from testtools import content

        def attach(_exc_info):
            for number in range(len(fixture.workers)):
                self.addDetail('worker-%d' % number, content.text_content(
                    fixture.log(number)[-20000:]))
        self.addOnException(attach)
