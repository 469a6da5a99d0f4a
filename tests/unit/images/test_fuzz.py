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

"""A short run of tests.fuzz, and whether it would see what is wrong."""

import shutil
import tempfile
import unittest

import fixtures
from oslotest import base
from testtools import content

from tests.fuzz import changes
from tests.fuzz import run
from tests.fuzz import seeds

FILES, SAMPLE = 230, 10


@unittest.skipUnless(shutil.which('qemu-img'), 'qemu-img is not installed')
class ShortRunTest(base.BaseTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with tempfile.TemporaryDirectory() as folder:
            cls.files = seeds.make(folder)

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.run_ = run.Run(self.useFixture(fixtures.TempDir()).path, 1,
                            self.files)

    def test_every_outcome_has_a_reason(self):
        self.run_.examine(0, FILES)
        # Neighbours are of different kinds.
        self.run_.sample(range(SAMPLE))
        result = self.run_.result
        self.addDetail('fuzz', content.text_content(run.summary(result, 0)))
        self.assertEqual([], result.wrong)
        self.assertEqual(set(self.files), set(result.kinds))
        self.assertEqual(FILES, sum(result.kinds.values()))
        # Not all are refused at the first look, nor taken.
        self.assertGreater(len(result.outcomes), 10)

    def test_sees_what_is_wrong(self):
        good = {'format': 'raw', 'others': [], 'hazards': [],
                'missing': []}
        for answer, cpu in (({**good, 'format': 'x'},
                             1), ({'refused': ''}, 1), ({'memory': True}, 1),
                            ({'errno': 5}, 1), (good, 11)):
            self.run_.result.wrong.clear()
            self.run_._judge(0, {'name': 'raw', 'answer': answer, 'cpu': cpu,
                                 'limit': 10, 'length': 1})
            self.assertEqual(1, len(self.run_.result.wrong), answer)

    def test_sees_a_process_that_was_ended(self):
        # It is not to be given what it would need.
        (self.run_.folder / 'seeds').write_bytes(b'nothing')
        self.assertRaises(RuntimeError, self.run_.examine, 0, 1)

    def test_the_same_seed_makes_the_same_changes(self):
        made = [changes.make(self.files, seed, 7)[1]
                for seed in (1, 1, 2)]
        self.assertEqual(made[0], made[1])
        self.assertNotEqual(made[0], made[2])
