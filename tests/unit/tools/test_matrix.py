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

"""The table of combinations that the guide shows."""

import csv
import pathlib
from unittest import mock

import fixtures
from oslotest import base

from tests.matrix import __main__ as matrix


class TableTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'table'
        patch = mock.patch.object(matrix, 'TABLE', self.path)
        patch.start()
        self.addCleanup(patch.stop)

    def row(self, rooms, outcome):
        return ['ceph-sid-sid', *['1'] * 7, rooms, outcome]

    def read(self):
        with self.path.open() as file:
            return [row[-2:] for row in csv.reader(file)
                    if row[0] == 'ceph-sid-sid']

    def test_rooms_have_rows_until_all_are_run(self):
        matrix.record(self.row('store', '1 passed, 1 failed, 0 skipped'))
        matrix.record(self.row('sites', '2 passed, 0 failed, 0 skipped'))
        matrix.record(self.row('store', '2 passed, 0 failed, 0 skipped'))
        self.assertEqual([['sites', '2 passed, 0 failed, 0 skipped'],
                          ['store', '2 passed, 0 failed, 0 skipped']],
                         self.read())
        matrix.record(self.row('all', '4 passed, 0 failed, 0 skipped'))
        self.assertEqual([['all', '4 passed, 0 failed, 0 skipped']],
                         self.read())

    def test_what_was_not_run_stands_there(self):
        matrix.record(self.row('all', '4 passed, 0 failed, 0 skipped'))
        with self.path.open() as file:
            found = {row[0]: row[-1] for row in list(csv.reader(file))[1:]}
        self.assertEqual({each.name for each in matrix.COMBINATIONS},
                         set(found))
        self.assertEqual('not run', found['glance-26-eventlet'])

    def test_the_guide_has_all(self):
        with (matrix.release.TOP
              / 'doc/source/install/combinations.csv').open() as file:
            found = {row[0] for row in list(csv.reader(file))[1:]}
        self.assertEqual({each.name for each in matrix.COMBINATIONS}, found)
