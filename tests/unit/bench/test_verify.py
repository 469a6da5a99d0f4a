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

import unittest

from bench import api
from bench import cases
from bench import source
from bench import verify


class TestFirstUncovered(unittest.TestCase):

    def check(self, result, wanted, covering):
        self.assertEqual(result, verify.first_uncovered(wanted, covering))

    def test_covered(self):
        self.check(None, [], [])
        self.check(None, [], [(0, 5)])
        self.check(None, [(0, 5)], [(0, 5)])
        self.check(None, [(1, 2), (4, 1)], [(0, 5)])
        self.check(None, [(2, 6)], [(0, 4), (4, 4)])
        self.check(None, [(10, 1)], [(0, 1), (3, 2), (9, 9)])

    def test_not_covered(self):
        self.check(0, [(0, 5)], [])
        self.check(4, [(0, 5)], [(0, 4)])
        self.check(0, [(0, 5)], [(1, 4)])
        self.check(4, [(2, 6)], [(0, 4), (5, 4)])
        self.check(9, [(1, 2), (9, 1)], [(0, 5), (10, 1)])


class TestImage(unittest.TestCase):

    def test_wrong_hash(self):
        made = source.Source(None, None, 5, [], 'aa', 'bb')
        image = {'size': 5, 'checksum': 'aa', 'os_hash_value': 'bb'}
        verify.check_image(image, made)
        for key in image:
            self.assertRaises(api.JobFailed, verify.check_image,
                              dict(image, **{key: 'other'}), made)


class TestCases(unittest.TestCase):

    class Stage:
        sites = ['central', 'dcn0', 'dcn1', 'dcn2']

    def test_targets(self):
        for name, wanted in (('import-2', ['central', 'dcn0']),
                             ('copy-1', ['dcn0']),
                             ('copy-3', ['dcn0', 'dcn1', 'dcn2']),
                             ('copy-wan-50ms', ['wan']), ('download', [])):
            self.assertEqual(wanted, cases.targets(self.Stage,
                                                   cases.NAMES[name]))

    def test_sites_needed(self):
        self.assertEqual(4, max(kind.sites for kind in cases.NAMES.values()))

    def test_references_are_known(self):
        for kind in cases.NAMES.values():
            self.assertLessEqual(set(kind.references), set(cases.SIDES))
