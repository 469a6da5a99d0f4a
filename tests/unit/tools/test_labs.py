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

"""Tests of what all long runs have in common."""

import io
import signal
import sys

import fixtures
from oslotest import base

from lab import process
from tests import labs


class ExitStatusTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.addCleanup(signal.signal, signal.SIGTERM,
                        signal.getsignal(signal.SIGTERM))
        self.printed = io.StringIO()
        self.useFixture(fixtures.MonkeyPatch('sys.stderr', self.printed))

    def test_tells_what_went_wrong(self):
        self.assertEqual(0, labs.exit_status('kills', list))
        self.assertEqual(1, labs.exit_status('kills', lambda: ['a kill']))
        self.assertEqual('', self.printed.getvalue())

    def test_tells_what_hindered_it(self):
        def go():
            raise process.LabError('no port is free')
        self.assertEqual(2, labs.exit_status('kills', go))
        self.assertEqual('kills: no port is free\n', self.printed.getvalue())

    def test_faults_of_its_own_are_not_hidden(self):
        self.assertRaises(ZeroDivisionError, labs.exit_status, 'kills',
                          lambda: 1 / 0)

    def test_sigterm_takes_down_what_was_brought_up(self):
        def go():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                print('taken down', file=sys.stderr)
        self.assertRaises(SystemExit, labs.exit_status, 'kills', go)
        self.assertEqual('taken down\n', self.printed.getvalue())
