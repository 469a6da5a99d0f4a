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

"""What ``glance-dcn check`` is asked for, without clusters."""

import collections
import contextlib
import io
import types

import fixtures
from oslotest import base

from glance_dcn.cmd import main
from glance_dcn.cmd import output
from glance_dcn.status import cluster
from tests import runtimes


class TestOnly(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.sites = ['central', 'edge']
        self.ran = []
        conf = collections.defaultdict(lambda: types.SimpleNamespace(
            filesystem_store_datadir='/nonsense', deployment_id='ours'))
        for target, value in (
                ('glance_dcn.cmd.node.read_all', lambda args: conf),
                ('glance_dcn.cmd.node.targets', lambda conf, tell: [
                    cluster.Target(name, 'images') for name in self.sites]),
                ('glance_dcn.checks.runner.run', self._run)):
            self.useFixture(fixtures.MonkeyPatch(target, value))
        self.useFixture(runtimes.Runtime())

    def _run(self, things, timeout, only):
        self.ran.append(([thing.name for thing in things], only))
        return []

    def check(self, *argv):
        """Return the exit status, and what it complained of."""
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), (
                contextlib.redirect_stderr(err)):
            return main.main(['check', *argv]), err.getvalue()

    def test_what_there_is(self):
        for argv, things in (
                (('--only', 'staging,conf,own-pool'),
                 ['node', 'central', 'edge']),
                (('--only', 'conf,own-pool', '--site', 'edge'), ['edge']),
                (('--only', 'glance,conf', '--site', 'edge', '--glance',
                  'http://g:9292'), ['edge', 'glance']),
                (('--only', 'glance', '--glance', 'HTTPS://[::1]:443/image/'),
                 ['node', 'central', 'edge', 'glance']),
                (('--site', 'edge'), ['edge'])):
            self.assertEqual((output.Exit.GOOD, ''), self.check(*argv))
            self.assertEqual(things, self.ran[-1][0])

    def refused(self, *argv):
        """Return why a check is refused."""
        status, err = self.check(*argv)
        self.assertEqual(output.Exit.WRONG, status)
        self.assertEqual([], self.ran)
        return err

    def test_of_the_node_while_it_is_left_out(self):
        self.assertEqual(
            'glance-dcn: nothing to look at for staging: --site leaves this '
            'node out\n', self.refused('--site', 'edge', '--only', 'staging'))

    def test_some_of_them(self):
        err = self.refused('--site', 'edge', '--only',
                           'conf,staging,glance,plugins')
        self.assertIn('for staging, plugins: --site', err)
        self.assertIn('; nor for glance: name a Glance with --glance', err)
        self.assertNotIn('conf', err)

    def test_explained_to_programs(self):
        for argv in (('-f', 'csv'), ('-c', 'check')):
            self.assertIn('--explain says it in words',
                          self.refused('--explain', 'conf', *argv))

    def test_of_sites_while_there_are_none(self):
        self.sites = []
        self.assertIn('for conf, own-pool: there is no site',
                      self.refused('--only', 'conf,staging,own-pool'))
