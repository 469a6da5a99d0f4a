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

"""Images and tasks in Glance's database, asked where that is possible."""

from __future__ import annotations

import inspect
import typing
import uuid

from oslotest import base

from glance_dcn.runtime import green
from glance_dcn.runtime import process
from glance_dcn.upstream import database

from tests import runtimes
from tests.unit.imports import glance
from tests.unit.upstream import hubs

# Those that do not ask Glance for anything that eventlet patches.
_OTHERS = {'located', 'stores', 'move_stores', 'may_copy', 'own_url'}


class TestInTheHub(base.BaseTestCase):
    """What a process does that eventlet has patched."""

    def functions(self) -> dict[str, typing.Callable[..., typing.Any]]:
        """Return all functions that ask Glance, by name."""
        return {name: function for name, function in vars(database).items()
                if inspect.isfunction(function) and not name.startswith('_')
                and function.__module__ == database.__name__
                and name not in _OTHERS}

    def test_nothing_is_asked_elsewhere(self) -> None:
        self.useFixture(runtimes.Runtime())
        process.put(hubs.NoHub(), green.Bridge)
        names = self.functions()
        self.assertLessEqual({'image', 'task', 'save_message', 'update',
                              'fail_task', 'replace_lock', 'remove_data'},
                             set(names))
        for function in names.values():
            needed = [parameter for parameter in inspect.signature(
                function).parameters.values()
                if parameter.default is inspect.Parameter.empty
                and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
            self.assertRaises(green.Unavailable, function,
                              *[mock_argument(parameter.name)
                                for parameter in needed])

    def test_it_is_asked_all_the_same(self) -> None:
        found = self.useFixture(glance.Database())
        image = str(uuid.uuid4())
        found.add_image(image, 'active', ['central'])
        self.assertEqual('active', database.image(image)['status'])
        self.assertTrue(database.replace_lock(image, None, 'task'))
        self.assertEqual('task', database.image(image)['properties'][
            database.LOCK])

    def test_lock_is_replaced_in_one_step(self) -> None:
        found = self.useFixture(glance.Database())
        image = str(uuid.uuid4())
        found.add_image(image, 'active', ['central'])

        def lock() -> str | None:
            return database.image(image)['properties'].get(database.LOCK)
        self.assertTrue(database.replace_lock(image, None, 'first'))
        # What another connection sees before each commit.
        seen: list[str | None] = []
        found.before_commit(lambda: seen.append(lock()))
        self.assertTrue(database.replace_lock(image, 'first', 'second'))
        self.assertEqual(['first'], seen)
        self.assertFalse(database.replace_lock(image, 'first', 'third'))
        self.assertFalse(database.replace_lock(image, None, 'third'))
        self.assertEqual('second', lock())
        self.assertNotIn(None, seen)


def mock_argument(name: str) -> object:
    """Return something that may be given for a parameter."""
    return {'id': 'x', 'url': 'x', 'metadata': {}} if name == (
        'location') else 'x'
