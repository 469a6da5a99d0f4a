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

"""The short form of tools/run-clusters.sh: five clusters of their own."""

import contextlib
import io
import os
import pathlib

import fixtures
from oslotest import base

from tests.clusters import __main__ as clusters


class ClustersTest(base.BaseTestCase):

    def test_all_steps(self):
        # main() sets it; sockets need a short path.
        self.useFixture(fixtures.EnvironmentVariable(
            'GLANCE_DCN_LAB', os.environ.get('GLANCE_DCN_LAB')))
        state = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            status = clusters.main(['--sites', '5', '--size', '4',
                                    '--database', 'sqlite', '--state',
                                    str(state)])
        self.assertEqual(0, status, shown.getvalue())
        self.assertEqual(11, len(shown.getvalue().splitlines()))
        for words in ('5 stores', 'copy 4 MiB to 4 clusters',
                      '2 of which are cut', 'the 2 are back'):
            self.assertIn(words, shown.getvalue())
