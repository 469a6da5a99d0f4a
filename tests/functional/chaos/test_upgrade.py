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

"""A short rolling upgrade, and that its trees are what they should be."""

import pathlib
import re
import subprocess
import sys

import fixtures
from oslotest import base as unit

from lab import process
from tests.functional import base
from tests.functional.chaos import programs
from tests.upgrade import trees

_ROOT = pathlib.Path(__file__).parents[3]


class ShortUpgradeTest(base.CephTestCase):
    """An upgrade of a deployment of its own, and the way back."""

    def test_nothing_is_lost_or_left_behind(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.addOnException(lambda exc_info: self.addDetail(
            'upgrade.log', programs.text_of(folder / 'upgrade.log')))
        status, out = programs.run(
            [sys.executable, '-m', 'tests.upgrade', '--seed', '3',
             '--releases', 'current,again,current', '--pause', '1',
             '--workers', '2', '--state', folder, '--lender',
             base.lab_state()],
            folder, timeout=600, cwd=_ROOT)
        self.assertEqual(0, status, out)


class TreesTest(unit.BaseTestCase):

    def made(self, name):
        return trees.make(self.useFixture(fixtures.TempDir()).path, name)

    def test_release_that_is_imported(self):
        tree = self.made(trees.AGAIN)
        said = subprocess.run([
            sys.executable, '-c', 'import importlib.metadata\n'
            'import glance_dcn\n'
            'print(glance_dcn.__file__)\n'
            'print(importlib.metadata.version("glance-dcn"))\n'
            'print([point.value for point in importlib.metadata.entry_points('
            'group="glance_store.drivers") if point.name == "dcn"])'],
            env={'PYTHONPATH': str(tree)}, cwd=tree, check=True, text=True,
            stdout=subprocess.PIPE).stdout
        self.assertEqual([str(tree / 'glance_dcn/__init__.py'), '0+again',
                          "['glance_dcn.store.driver:Store']"],
                         said.splitlines())

    def test_versions_of_all_records(self):
        """None is forgotten: each has a constant, and all are raised."""
        later, own = self.made(trees.LATER), _ROOT
        changed = {
            str(path.relative_to(own)) for path in own.glob(
                'glance_dcn/**/*.py')
            if path.read_text() != (
                later / path.relative_to(own)).read_text()}
        self.assertEqual({
            str(path.relative_to(own)) for path in own.glob(
                'glance_dcn/**/*.py')
            if re.search(r'^_?VERSION = ', path.read_text(), re.MULTILINE)},
            changed)
        self.assertEqual(3, len(changed))

    def test_commit_that_is_not_there(self):
        self.assertRaises(process.LabError, self.made, 'no-such-commit')
