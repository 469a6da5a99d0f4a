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

"""What the tests of the command have in common: running it."""

import json
import os
import pathlib
import subprocess
import sys
import time

import fixtures

from lab import glance
from lab import process
from tests.functional.api import base

ROOT = pathlib.Path(__file__).parents[3]
_PLUGINS = '[dcn_distributed_staging,dcn_image_conversion]'
_COMMAND = ('import sys\n'
            'from glance_dcn.cmd import main\n'
            'sys.exit(main.main())')


class CommandTestCase(base.ApiTestCase):
    """A test of ``glance-dcn`` as operators run it."""

    def start(self, etc, *argv, env=None):
        """Start the command with a folder of configuration."""
        return subprocess.Popen(
            [sys.executable, '-c', _COMMAND, *map(str, argv)], cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ, OS_GLANCE_CONFIG_DIR=str(etc),
                     PYTHONUNBUFFERED='1', **(env or {})))

    def run_command(self, etc, *argv, env=None, timeout=120):
        """Run it, and return the exit status, its output and the seconds."""
        began = time.monotonic()
        command = self.start(etc, *argv, env=env)
        try:
            out, err = command.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            command.kill()
            raise
        self.addDetail('stderr', base.content.text_content(err))
        self.addDetail('stdout', base.content.text_content(out[-4000:]))
        # Ended by a signal: where, is told by faulthandler and librados.
        self.assertGreaterEqual(command.returncode, 0, err[-4000:])
        return command.returncode, out, time.monotonic() - began

    def configured(self, stores, overrides=None, default='central',
                   worker=None):
        """Return the folder of a configuration, which nobody runs with.

        :param stores: see :class:`lab.glance.Glance`
        :param overrides: likewise
        :param worker: :class:`lab.glance.Glance` at whose port it would run;
            None: the lab's own central one
        """
        worker = worker or self.lab.glance('central')
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        other = glance.Glance(
            'nobody', folder, int(worker.url.rpartition(':')[2]),
            self.lab.keystone, self.lab.database.url('glance'), stores,
            default, dict({'image_import_opts': {
                'image_import_plugins': _PLUGINS}}, **(overrides or {})))
        other.configure()
        return other.etc

    def assertInTime(self, seconds, limit):
        """It took less than some seconds, had the machine been its own.

        A machine that is half as fast will do: it is not told in advance.
        """
        share = 2 * max(1, os.getloadavg()[0] / os.cpu_count())
        self.assertLess(seconds, limit * share)

    def json_of(self, out):
        """Return what was printed as JSON."""
        return json.loads(out)

    def assertNoScratch(self, *clusters, pools=('images',)):
        """See that no scratch images are left, nor any in the trash.

        Those of a command that another test runs at the same time go soon.
        """
        def scratch():
            return {(cluster.name, name) for cluster in clusters
                    for pool in pools
                    for name in cluster.images(pool) + cluster.trash(pool)
                    if name.startswith('glance-dcn-scratch')}
        left = scratch()

        def gone():
            left.intersection_update(scratch())
            return not left
        try:
            process.wait_for('scratch images to be gone', gone, 10)
        except process.LabError:
            self.fail('left: %s' % sorted(left))
