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

"""The guide and the release notes are built without a warning."""

import os
import pathlib
import re
import subprocess
import sys

import fixtures
from oslotest import base

from glance_dcn.cmd import main
from tests.unit.cmd import test_main

_ROOT = pathlib.Path(__file__).parents[3]
# As terminals show bold letters, or underlined ones.
_OVERSTRUCK = re.compile('.\b')


class DocsTest(base.BaseTestCase):

    def build(self, builder, source):
        """Build documents, and return the folder that they are in."""
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        done = subprocess.run(
            [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q',
             '-b', builder, '-d', str(folder / 'doctrees'),
             str(_ROOT / source), str(folder / builder)],
            cwd=_ROOT, check=False, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=300)
        self.assertEqual(0, done.returncode, done.stdout)
        return folder / builder

    def test_guide(self):
        built = self.build('html', 'doc/source')
        options = (built / 'configuration' / 'options.html').read_text()
        self.assertIn('rbd_store_ceph_conf', options)

    def read(self, page):
        """Return a manual page as those see it who read it."""
        done = subprocess.run(
            ['man', '--warnings', '--local-file', str(page)], check=True,
            text=True, capture_output=True, timeout=60,
            env=dict(os.environ, LC_ALL='C.UTF-8', MANWIDTH='79',
                     MANROFFOPT='-c'))
        # Of troff.
        self.assertEqual('', done.stderr)
        return _OVERSTRUCK.sub('', done.stdout)

    def test_manual_pages(self):
        built = self.build('man', 'doc/source')
        self.assertEqual(['glance-dcn-sites.5', 'glance-dcn.1'], sorted(
            path.name for path in built.iterdir()))
        text = self.read(built / 'glance-dcn.1')
        for heading in ('NAME', 'SYNOPSIS', 'OUTPUT', 'COMMANDS',
                        'EXIT STATUS', 'EXAMPLES', 'FILES', 'ENVIRONMENT'):
            self.assertRegex(text, '(?m)^%s$' % heading)
        self.assertIn('glance-dcn - shows how the sites', text)
        for name, _parser in test_main.commands(main._parser()):
            self.assertRegex(text, '(?m)^   %s$' % name)
        text = self.read(built / 'glance-dcn-sites.5')
        self.assertIn('glance-dcn-sites - the file that says', text)
        # Of references to pages that are not there.
        self.assertNotIn('<>', text)

    def test_release_notes(self):
        built = self.build('html', 'releasenotes/source')
        self.assertTrue((built / 'unreleased.html').exists())
