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

"""How tests are dealt out to the workers of a run."""

import datetime
import importlib.util
import json
import pathlib
import re

import fixtures
from oslotest import base

_ROOT = pathlib.Path(__file__).parents[3]
_START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def load():
    """Return the script as a module; its name is none of Python's."""
    spec = importlib.util.spec_from_file_location(
        'partition_tests', _ROOT / 'tools/partition-tests.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PartitionTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.script = load()

    def test_each_class_is_dealt_once_and_the_load_is_even(self):
        seconds = {'tests.functional.c%d' % n: float(n) for n in range(1, 30)}
        parts = self.script.partition(set(seconds), 4, seconds)
        self.assertEqual(4, len(parts))
        self.assertEqual(sorted(seconds), sorted(sum(parts, [])))
        loads = [sum(seconds[name] for name in part) for part in parts]
        self.assertLess(max(loads) - min(loads), 5)

    def test_class_without_a_record_is_dealt(self):
        parts = self.script.partition({'tests.functional.new', 'tests.unit.n'},
                                      3, {})
        self.assertEqual([['tests.functional.new'], ['tests.unit.n']],
                         sorted(parts))

    def test_tests_of_a_class_stay_together_and_none_is_lost(self):
        ids = ['tests.a.B.test_one', 'tests.a.B.test_two(kind.x,1)',
               'tests.a.BC.test_one', 'tests.a.B.C.test_one']
        classes = {self.script.class_of(one) for one in ids}
        self.assertEqual({'tests.a.B', 'tests.a.BC', 'tests.a.B.C'}, classes)
        workers = json.loads(self.script.worker_file(
            self.script.partition(classes, 3, {})))
        # As stestr selects them.
        found = [sorted(one for one in ids if any(
            re.search(pattern, one) for pattern in worker['worker']))
            for worker in workers]
        self.assertEqual(sorted([ids[:2], ids[2:3], ids[3:]]), sorted(found))

    def test_preparation_counts(self):
        timer = self.script.Timer()
        for worker, test, status, second in (
                ('worker-0', 'a.B.test_1', 'inprogress', 0),
                ('worker-1', 'a.C.test_1', 'inprogress', 20),
                ('worker-0', 'a.B.test_1', 'success', 3),
                ('worker-1', 'a.C.test_1', 'fail', 21),
                ('worker-0', 'a.D.test_1', 'inprogress', 10),
                ('worker-0', 'a.D.test_1', 'skip', 10)):
            # As stestr tells it.
            tags = None if status == 'inprogress' else {worker}
            timer.status(test, status, tags,
                         timestamp=_START + datetime.timedelta(0, second))
        self.assertEqual({'a.B': 3, 'a.C': 21, 'a.D': 7}, dict(timer.seconds))

    def test_times_are_kept(self):
        folder = self.useFixture(fixtures.TempDir()).path
        path = pathlib.Path(folder) / 'seconds.txt'
        self.script.write_seconds({'a.B': 3.21, 'a.C': 21.0, 'a.D': .2}, path)
        self.assertEqual({'a.C': 21.0, 'a.B': 3.2},
                         self.script.read_seconds(path))
        self.assertLess(100, len(self.script.read_seconds()))
