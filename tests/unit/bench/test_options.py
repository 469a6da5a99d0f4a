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

import argparse
import contextlib
import io
import unittest

from bench import cases
from bench import options


class TestSize(unittest.TestCase):

    def test_units(self):
        for text, wanted in (('65536', 65536), ('64K', 65536),
                             ('64MiB', 64 << 20), ('2GB', 2 << 30),
                             ('0.5G', 1 << 29), ('1TiB', 1 << 40)):
            self.assertEqual(wanted, options.size(text), text)

    def test_wrong(self):
        for text in ('', 'x', '-1', '0', '1', '65537', '10 GiB', '1P'):
            self.assertRaises(argparse.ArgumentTypeError, options.size, text)


class TestParse(unittest.TestCase):

    def refused(self, *argv):
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertRaises(SystemExit, options.parse, argv)
        return err.getvalue()

    def test_defaults(self):
        args = options.parse([])
        self.assertEqual(list(cases.NAMES), args.cases)
        self.assertTrue(args.verify)
        self.assertEqual((2 << 30, 1), (args.virtual_size, args.runs))

    def test_cases_keep_their_order(self):
        self.assertEqual(['import-1', 'copy-1'],
                         options.parse(['--cases', 'copy-1,import-1']).cases)

    def test_unknown_case(self):
        self.assertIn('nonsense', self.refused('--cases', 'nonsense'))

    def test_too_few_sites(self):
        self.assertIn('--sites 4', self.refused('--sites', '3'))
        options.parse(['--sites', '2', '--cases', 'copy-1'])
        options.parse(['--sites', '1', '--cases', 'copy-wan-50ms'])

    def test_wrong_numbers(self):
        self.refused('--runs', '0')
        self.refused('--data-share', '1.5')
        self.refused('--fragment-size', '4GiB')
