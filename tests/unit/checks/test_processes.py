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


"""The limits of the Glance that runs on a node, as the checks see them."""

import os
import pathlib
import resource
import subprocess
import sys
import time
import types
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.checks import access
from glance_dcn.checks import processes
from glance_dcn.checks import subjects
from glance_dcn.runtime import limits
from glance_dcn.workers import leadership
from tests.unit.checks import fakes

_PROGRAM = '''
import sys, time
from glance_dcn.workers import leadership
lead = leadership.Leadership(sys.argv[1], 60)
assert lead.acquire()
print("leads", flush=True)
time.sleep(600)
'''


class ProcessesTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = os.path.join(
            self.useFixture(fixtures.TempDir()).path, 'lead')

    def start(self, files):
        """Start a process that leads, with a soft limit of open files."""
        process = subprocess.Popen(
            ['prlimit', '--nofile=%d:606' % files, sys.executable,
             '-c', _PROGRAM, self.folder], stdout=subprocess.PIPE,
            cwd=pathlib.Path(__file__).parents[3], text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual('leads\n', process.stdout.readline())
        return process

    def check(self, max_clients=4, **known):
        """Return what the check finds."""
        conf = types.SimpleNamespace(glance_dcn=types.SimpleNamespace(
            dcn_max_clients=max_clients))
        return fakes.check(
            'limits', folders=lambda conf: ['/nonexistent', self.folder],
            **known).run(subjects.Node(conf, access.Access(), 1))

    def test_no_glance(self):
        found = self.check(32)
        self.assertEqual('ok', found.level)
        self.assertIn('each of its processes needs 540 threads and 606 open '
                      'files', found.text)

    def test_limit_of_the_one_that_runs(self):
        process = self.start(200)
        self.assertEqual(process.pid,
                         processes.leading_process([self.folder]))
        found = self.check(32)
        self.assertEqual('warn', found.level)
        self.assertIn('process %d of Glance: RLIMIT_NOFILE allows 200 open '
                      'files, and 606 may be needed' % process.pid, found.text)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (606, 606))
        self.assertNotIn('RLIMIT_NOFILE', self.check(32).text)

    def test_one_that_may_not_be_inspected(self):
        process = self.start(200)

        refusing = mock.Mock(spec=limits.ProcessLimits)
        refusing.shortages.side_effect = PermissionError(
            1, 'Operation not permitted')
        found = self.check(32, limits_of=lambda pid: refusing)
        self.assertEqual('warn', found.level)
        self.assertIn('process %d of Glance cannot be inspected (Operation '
                      'not permitted)' % process.pid, found.text)

    def test_one_that_has_ended_does_not_count(self):
        process = self.start(200)
        process.kill()
        process.wait()
        self.assertIsNone(processes.leading_process([self.folder]))

    def test_process_of_another_container_does_not_count(self):
        lead = leadership.Leadership(self.folder, 60)
        self.assertTrue(lead.acquire())
        self.assertEqual(os.getpid(),
                         processes.leading_process([self.folder]))
        # The same ID is another process there.
        other = self.start_sleeping()
        for path in pathlib.Path(self.folder).glob('lead.*'):
            path.write_text('pid %-10d instance x count 1\n' % other)
        self.assertIsNone(processes.leading_process([self.folder]))
        lead.resign()

    def start_sleeping(self):
        process = subprocess.Popen(['sleep', '600'])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process.pid

    def test_siblings(self):
        with subprocess.Popen(
                ['sh', '-c', 'sleep 600 & sleep 600 & echo $!; wait'],
                stdout=subprocess.PIPE, text=True) as parent:
            children = pathlib.Path('/proc/%d/task/%d/children' % (
                parent.pid, parent.pid))
            try:
                pid = int(parent.stdout.readline())
                # The shell has forked both; they may yet become `sleep`.
                while any(os.readlink('/proc/%s/exe' % child)
                          == os.readlink('/proc/%d/exe' % parent.pid)
                          for child in children.read_text().split()):
                    time.sleep(0.01)
                self.assertEqual(2, processes.siblings(pid))
            finally:
                for child in children.read_text().split():
                    os.kill(int(child), 9)
