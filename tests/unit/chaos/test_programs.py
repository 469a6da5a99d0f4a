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

import pathlib
import subprocess
import sys

import fixtures
from oslotest import base

from lab import process
from tests.functional.chaos import programs

# Starts a daemon that sleeps, and does something else then.
_PROGRAM = ('import pathlib, signal, sys, time; from lab import process\n'
            'process.Daemon("sleeper", sys.argv[1]).start(["sleep", "600"])\n'
            'pathlib.Path(sys.argv[1], "started").touch()\n')


class ProgramTest(base.BaseTestCase):
    """No end of a program leaves its daemons behind."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        daemon = process.Daemon('sleeper', self.folder)
        self.addCleanup(daemon.stop)
        self.daemon = daemon

    def run_program(self, rest, timeout):
        return programs.run(
            [sys.executable, '-c', _PROGRAM + rest, str(self.folder)],
            self.folder, timeout, cwd=pathlib.Path(__file__).parents[3])

    def assertOver(self):
        self.assertTrue((self.folder / 'started').exists())
        self.assertIsNone(self.daemon.pid)

    def test_takes_too_long(self):
        self.assertRaises(subprocess.TimeoutExpired, self.run_program,
                          'time.sleep(600)', 3)
        self.assertOver()

    def test_fails(self):
        status, out = self.run_program('sys.exit("no luck")', 60)
        self.assertEqual((1, 'no luck\n'), (status, out))
        self.assertOver()
