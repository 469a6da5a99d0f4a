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

import pathlib
import subprocess
import sys

import fixtures
from oslotest import base

_ROOT = pathlib.Path(__file__).parents[3]


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

    def test_manual_page(self):
        built = self.build('man', 'doc/source')
        page = (built / 'glance-dcn.1').read_text()
        self.assertIn('.SH SYNOPSIS', page)

    def test_release_notes(self):
        built = self.build('html', 'releasenotes/source')
        self.assertTrue((built / 'unreleased.html').exists())
