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

"""The lab's own command: up, show, env, down; again after any failure."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import fixtures

from lab import deployment
from lab import wsgi
from tests.functional.api import base
from tests.functional.api import client

_ROOT = pathlib.Path(__file__).parents[3]


def run_lab(state, *arguments):
    """Run ``python -m lab`` and return the finished process."""
    return subprocess.run(
        [sys.executable, '-m', 'lab', '--state', str(state), *arguments],
        cwd=_ROOT, capture_output=True, text=True, timeout=240)


def pids(state):
    """Return the process ids of a lab's daemons, by their pid files."""
    return {str(path.relative_to(state)): json.loads(path.read_text())['pid']
            for path in pathlib.Path(state).rglob('run/*.pid')
            if path.name != 'server.pid'}


def is_alive(pid):
    """Return whether a process runs (a zombie does not)."""
    try:
        stat = pathlib.Path('/proc/%d/stat' % pid).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(')')[2].split()[0] not in 'ZX'


class RunningLabTest(base.ApiTestCase):
    """The lab that all tests use; nothing here may change it."""

    def setUp(self):
        super().setUp()
        self.state = self.lab.state
        self.before = pids(self.state)
        self.assertNotEqual({}, self.before)

    def up(self, **changes):
        facts = dict(self.lab.facts, **changes)
        return run_lab(
            self.state, 'up', '--names', ','.join(facts['sites']),
            '--workers', str(facts['workers']), '--database',
            facts['database'], '--store-type', facts['store_type'])

    def test_show(self):
        done = run_lab(self.state, 'show')
        self.assertEqual((0, ''), (done.returncode, done.stderr))
        rows = [line.rsplit(None, 2) for line in done.stdout.splitlines()]
        expected = ['keystone']
        for site in self.lab.sites:
            expected.append('%s ceph' % site)
            expected += ['%s glance-%d' % (site, number)
                         for number in range(self.lab.facts['workers'])]
        self.assertEqual(expected, [what for what, _state, _where in rows])
        for what, state, where in rows:
            self.assertEqual('up', state, what)
            if where.startswith('http'):
                self.assertTrue(wsgi.answers(where), where)
            else:
                self.assertIn('mon_host', pathlib.Path(where).read_text())

    def test_environment_makes_the_clients_work(self):
        done = run_lab(self.state, 'env')
        self.assertEqual(0, done.returncode)
        # An old release of Glance has the clients beside Keystone.
        path = os.pathsep.join(filter(None, (
            os.environ['PATH'], os.environ.get('GLANCE_DCN_KEYSTONE'))))
        for region in ('central', 'dcn1'):
            shown = subprocess.run(
                ['bash', '-c', '%s\nexport OS_REGION_NAME=%s\n'
                 'exec openstack image stores list -f json' % (
                     done.stdout, region)],
                capture_output=True, text=True, timeout=60,
                env={'PATH': path, 'HOME': '/nonexistent'})
            self.assertEqual(0, shown.returncode, shown.stderr)
            stores = {row['ID']: row['Default']
                      for row in json.loads(shown.stdout)}
            self.assertEqual('true', str(stores[region]).lower())
            self.assertEqual(set(base.SITES) if region == 'central'
                             else {'dcn1', 'central'}, set(stores))

    def test_secrets_are_private(self):
        for pattern in ('openrc', 'lab.json', 'keystone/*.password',
                        'etc/ceph/*.keyring', 'sites/*/glance-*/etc/*.conf'):
            found = list(self.state.glob(pattern))
            self.assertNotEqual([], found, pattern)
            for path in found:
                self.assertEqual(0o600, path.stat().st_mode & 0o777, path)

    def test_up_again_changes_nothing(self):
        done = self.up()
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual(self.before, pids(self.state))

    def test_up_with_other_options_is_refused(self):
        done = self.up(workers=self.lab.facts['workers'] + 1)
        self.assertEqual(1, done.returncode)
        self.assertIn('was made with other options', done.stderr)
        self.assertNotIn('Traceback', done.stderr)
        self.assertEqual(self.before, pids(self.state))


class WholeLifeTest(base.ApiTestCase):
    """A lab of one site with MariaDB, from its beginning to its end."""

    def setUp(self):
        super().setUp()
        self.state = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'lab'
        self.addCleanup(run_lab, self.state, 'down')
        self.own = deployment.Deployment(self.state)
        # Somebody else's process, called as one of the lab's.
        self.bystander = subprocess.Popen(
            ['bash', '-c', 'exec -a ceph-mon sleep 600'])
        self.addCleanup(self.bystander.wait)
        self.addCleanup(self.bystander.kill)

    def up(self):
        done = run_lab(self.state, 'up', '--sites', '1', '--database',
                       'mariadb')
        self.assertEqual(0, done.returncode, done.stderr)

    def test_up_killed_up_down(self):
        self.up()
        image_id, data = self.imported()
        self.kill_some()
        self.up()
        self.assertDownloaded(image_id, data)
        started = pids(self.state)
        self.assertEqual(5, len(started), started)
        done = run_lab(self.state, 'down')
        self.assertEqual((0, ''), (done.returncode, done.stderr))
        self.assertEqual([], [name for name, pid in started.items()
                              if is_alive(pid)])
        self.assertIsNone(self.bystander.poll())
        self.assertTrue(is_alive(self.bystander.pid))
        self.check_down()

    def api(self):
        return client.Api(self.own.glance('central').url,
                          self.own.keystone.session())

    def imported(self):
        """Make an image; its record is in MariaDB, its data in Ceph."""
        api, data = self.api(), base.random_data()
        image = api.images.create(name='one', disk_format='raw',
                                  container_format='bare')
        api.stage(image['id'], data)
        api.images.image_import(image['id'], 'glance-direct',
                                stores=['central'])
        api.wait(image['id'], 'central')
        self.assertIn(image['id'], self.own.cluster('central').images())
        return image['id'], data

    def assertDownloaded(self, image_id, data):
        self.assertSame(data, self.api().download(image_id))

    def kill_some(self):
        """End a monitor and two servers as a crash would."""
        killed = [pid for name, pid in pids(self.state).items()
                  if pathlib.Path(name).name in (
                      'ceph-mon.pid', 'keystone.pid', 'mariadbd.pid')]
        self.assertEqual(3, len(killed))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    def check_down(self):
        shown = run_lab(self.state, 'show')
        self.assertEqual({'down'}, {
            line.rsplit(None, 2)[1] for line in shown.stdout.splitlines()})
        # Again, and for good.
        done = run_lab(self.state, 'down', '--delete')
        self.assertEqual((0, ''), (done.returncode, done.stderr))
        self.assertFalse(self.state.exists())
        for command in ('down', 'show', 'env'):
            done = run_lab(self.state, command)
            self.assertEqual(1, done.returncode, command)
            self.assertNotIn('Traceback', done.stderr)
