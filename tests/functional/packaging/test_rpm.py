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

"""The RPM packages, built and installed for real into an empty root."""

import os
import pathlib
import subprocess
import sys
import tempfile

from oslotest import base

_ROOT = pathlib.Path(__file__).parents[3]
_PROGRAM = 'usr/bin/glance-dcn'


def run(*command):
    """Run a command, and return it as it ended, with all that it said."""
    return subprocess.run(command, cwd=_ROOT, check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=300)


class RpmTest(base.BaseTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.output = cls.folder / 'packages'
        cls.before = cls.changes()
        cls.built = run('tools/build-rpm.sh', '--output', str(cls.output))

    @staticmethod
    def changes():
        return run('git', 'status', '--porcelain').stdout

    def package(self):
        self.assertEqual(0, self.built.returncode, self.built.stdout)
        (package,) = self.output.glob('python3-glance-dcn-*.noarch.rpm')
        return package

    def install(self):
        """Install the package into a root of this test's own."""
        root = pathlib.Path(tempfile.mkdtemp(dir=self.folder)) / 'root'
        root.mkdir()
        # The packages' files belong to root.
        as_root = [] if os.getuid() == 0 else [
            'unshare', '--user', '--map-root-user']
        done = run(*as_root, 'rpm', '--root', str(root), '--dbpath',
                   '/var/lib/rpm', '--install', '--nodeps',
                   str(self.package()))
        self.assertEqual(0, done.returncode, done.stdout)
        return root

    def check(self, root):
        return run(sys.executable, 'tools/check-rpm.py', '--root', str(root),
                   '--work', str(root.parent), str(self.package()))

    def packages_of(self, root):
        """Return the folder of the package below a root."""
        (folder,) = root.glob('usr/lib/python3*/site-packages/glance_dcn')
        return folder

    def test_is_built_and_checked(self):
        self.package()
        for title in ('files', 'entry points', 'program', 'dependencies'):
            self.assertRegex(self.built.stdout, r'(?m)^  %s +ok$' % title)
        self.assertEqual(
            ['python-glance-dcn-', 'python-glance-dcn-doc-',
             'python3-glance-dcn-'],
            sorted(path.name[:path.name.index('0')]
                   for path in self.output.iterdir()))

    def test_building_changes_nothing_in_the_checkout(self):
        self.package()
        self.assertEqual(self.before, self.changes())

    def test_has_manual_pages(self):
        root = self.install()
        for name in ('man1/glance-dcn.1', 'man5/glance-dcn-sites.5'):
            page, = (root / 'usr/share/man').glob(name + '*')
            shown = run('man', '--local-file', str(page))
            self.assertEqual(0, shown.returncode, shown.stdout)
            self.assertIn(name[5:-2] + ' - ', shown.stdout)

    def test_has_a_completion_for_bash(self):
        path = self.install() / 'usr/share/bash-completion/completions'
        done = run('bash', '--norc', '-c', 'source "$1" && complete -p '
                   'glance-dcn', 'bash', str(path / 'glance-dcn'))
        self.assertEqual((0, 'complete -F _glance_dcn glance-dcn\n'),
                         (done.returncode, done.stdout))

    def test_the_check_finds_what_is_wrong(self):
        root = self.install()
        self.assertEqual(0, self.check(root).returncode)
        library = self.packages_of(root)
        (library / 'upstream' / 'glance_db.py').unlink()
        (library / 'sites' / 'passwords.txt').write_text('secret')
        (library / 'opts.py').chmod(0o666)
        program = root / _PROGRAM
        program.write_text(program.read_text().replace(
            '/usr/bin/python3', '%s/bin/python' % root.parent))
        (points,) = library.parent.glob('glance_dcn-*/entry_points.txt')
        points.write_text(points.read_text().replace(
            'dcn = glance_dcn.store.driver:Store',
            'dcn = glance_dcn.store.driver:Shop'))
        (root / 'etc/glance-dcn').chmod(0o755)
        (root / 'etc' / 'passwd').write_text('')
        done = self.check(root)
        self.assertEqual(1, done.returncode, done.stdout)
        for complaint in (
                'glance_dcn/upstream/glance_db.py is missing',
                'glance_dcn/sites/passwords.txt is too much',
                'opts.py may be written to by others',
                'usr/bin/glance-dcn names ',
                'usr/bin/glance-dcn is for #!',
                'etc/passwd does not belong there',
                'etc/glance-dcn is no folder of mode 0750',
                'dcn = glance_dcn.store.driver:Store is missing',
                'glance_store.drivers: dcn is not loaded'):
            self.assertIn(complaint, done.stdout)
