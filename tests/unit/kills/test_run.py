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


"""The summary of kills."""

from oslotest import base

from tests.kills import __main__ as command
from tests.kills import run


class SummaryTest(base.BaseTestCase):

    def test_by_method_and_phase(self):
        lines = run.summary([
            run.Kill('copy-image', 'copying', 'resumed', 5.0, []),
            run.Kill('copy-image', 'copying', 'put back', 7.0, ['wrong']),
            run.Kill('web-download', 'before', 'locked', 30.0, ['locked']),
        ]).splitlines()
        self.assertEqual([
            'method and phase      kills  locked  put back  resumed  wrong  '
            'median s to usable  longest',
            'copy-image: copying       2       -         1        1      1  '
            '               6.0      7.0',
            'web-download: before      1       1         -        -      1  '
            '              30.0     30.0',
            'all                       3       1         1        1      2  '
            '               7.0     30.0'], lines)

    def test_arguments(self):
        args = command.parser().parse_args(['--seed', '3', '--stock'])
        self.assertEqual((3, 100, True, 'mariadb'), (
            args.seed, args.kills, args.stock, args.database))
