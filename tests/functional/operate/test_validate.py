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

"""``glance-dcn validate`` on the lab: it passes, and leaves nothing behind."""

import signal

from tests.functional.api import base
from tests.functional.operate import base as operate

_NAME = 'glance-dcn-validate'


class ValidateTest(operate.CommandTestCase):

    def setUp(self):
        super().setUp()
        self.etc = self.lab.glance('central').etc
        self.env = self.lab.environment()

    def validate(self, *argv):
        """Run it, and return the exit status and what it printed."""
        status, out, _seconds = self.run_command(
            self.etc, 'validate', *argv, env=self.env)
        return status, out

    def assertNothingLeft(self):
        self.assertEqual([], [
            image['id'] for image in self.central.images.list()
            if image['name'].startswith(_NAME)])
        self.assertNoScratch(*map(self.cluster, base.SITES),
                             pools=('images', 'vms'))

    def test_passes(self):
        status, out = self.validate('--compute-user', 'openstack',
                                    '--compute-pool', 'vms', '--size', '6')
        self.assertEqual(0, status)
        for step in ('import an image to central and dcn0',
                     'copy it to dcn1', 'clone it at central',
                     'clone it at dcn1', 'snapshot a disk at dcn1',
                     'copy that to central, dcn0', 'delete both'):
            line = next(line for line in out.splitlines()
                        if line.startswith(step))
            self.assertRegex(line, r'\.\.\. ok \(\d+\.\d s\)$')
        self.assertNothingLeft()

    def test_json_of_one_site(self):
        status, out = self.validate('--format', 'json', '--site', 'dcn0',
                                    '--size', '2')
        found = self.json_of(out)
        self.assertEqual((0, []), (status, found['left']))
        self.assertEqual({None}, {step['error'] for step in found['steps']})
        self.assertNothingLeft()

    def test_failure_leaves_nothing(self):
        # Glance's user may not clone into that pool.
        status, out = self.validate('--compute-pool', 'vms', '--size', '2')
        self.assertEqual(1, status)
        self.assertIn('clone it at central ... FAILED', out)
        self.assertIn('removing what was made ... done', out)
        self.assertNothingLeft()

    def test_interrupted(self):
        # Whoever runs the tests beside other work has it ignored, which a
        # command inherits.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        command = self.start(self.etc, 'validate', '--size', '64',
                             env=self.env)
        self.addCleanup(command.kill)
        shown = ''
        while not shown.endswith('import an image'):
            shown += command.stdout.read(1)
        command.send_signal(signal.SIGINT)
        out, _err = command.communicate(timeout=120)
        self.assertEqual(130, command.returncode, out)
        self.assertNothingLeft()

    def test_wrong_arguments(self):
        self.assertEqual(2, self.validate('--site', 'dcn9')[0])
        self.assertEqual(2, self.run_command(
            self.etc, 'validate', env={'OS_AUTH_URL': ''})[0])
