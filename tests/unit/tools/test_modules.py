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

"""Tests of what runs modules with old releases of Glance."""

import pathlib
import subprocess
import sys

from oslotest import base

from lab import process

_TOP = pathlib.Path(__file__).resolve().parents[3]


class RunnerTest(base.BaseTestCase):

    def test_nothing_is_left_when_it_is_killed(self):
        runner = subprocess.Popen(
            [sys.executable, 'tools/run-modules.py',
             'tests/unit/ceph/test_calls.py'], cwd=_TOP,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(runner.stderr.close)
        self.addCleanup(runner.wait)
        self.addCleanup(runner.kill)
        # A test has begun.
        while ' ... ' not in runner.stderr.readline():
            self.assertIsNone(runner.poll())
        begun = process.children(runner.pid)
        self.assertNotEqual([], begun)
        runner.kill()
        runner.wait()
        process.wait_for('its processes to end', lambda: not any(
            pathlib.Path('/proc/%d' % pid).exists() for pid in begun), 10)
