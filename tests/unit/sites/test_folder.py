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

import json
import os
import pathlib
import shutil
import subprocess
import sys

import fixtures
from oslotest import base

from glance_dcn.sites import folder
from tests import volumes

TEXT = """\
# a site
[dcn7]
rbd_store_pool = images
store_description = "of many
  lines"
"""
OPTIONS = {'rbd_store_pool': 'images',
           'store_description': '"of many\nlines"'}


class FolderCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path.chmod(0o755)
        self.folder = folder.Folder(self.path)

    def put(self, text, name='dcn7', mode=0o644):
        path = self.path / (name + '.conf')
        if path.exists():
            path.unlink()
        path.write_text(text)
        path.chmod(mode)
        # As if it had lain there for long.
        os.utime(path, (1, 1))
        return path

    def sites(self):
        return self.folder.read().sites

    def errors(self):
        return self.log.output.splitlines()


class TestFolder(FolderCase):

    def test_order_is_that_of_names(self):
        for name in ('dcn2', 'dcn0', 'far', 'dcn1'):
            self.put(TEXT.replace('dcn7', name), name)
        self.assertEqual(['dcn0', 'dcn1', 'dcn2', 'far'],
                         list(self.folder.read().sites))

    def test_empty(self):
        contents = self.folder.read()
        self.assertEqual(({}, frozenset()), (contents.sites,
                                             contents.present))

    def test_a_site(self):
        self.put(TEXT)
        self.assertEqual({'dcn7': OPTIONS}, self.sites())

    def test_the_last_value_counts(self):
        self.put('[dcn7]\nweight = 1\nweight=2\n')
        self.assertEqual({'dcn7': {'weight': '2'}}, self.sites())

    def test_other_files_are_none_of_ours(self):
        for name in ('.dcn7.conf', '.conf', 'dcn7.conf~', 'README',
                     'dcn7.conf.rpmnew'):
            (self.path / name).write_text('what?')
        self.assertEqual(frozenset(), self.folder.read().present)
        self.assertEqual([], self.errors())

    def test_changed_and_gone(self):
        path = self.put(TEXT)
        self.sites()
        self.put('[dcn7]\nweight = 1\n')
        self.assertEqual({'dcn7': {'weight': '1'}}, self.sites())
        path.unlink()
        self.assertEqual({}, self.sites())
        self.put(TEXT)
        self.assertEqual({'dcn7': OPTIONS}, self.sites())

    def test_read_again_only_when_changed(self):
        checked = []
        self.folder = folder.Folder(
            self.path, lambda *args: checked.append(args))
        self.put(TEXT)
        for _ in range(3):
            self.sites()
        self.assertEqual([('dcn7', OPTIONS)], checked)

    def test_one_that_may_be_half_written_is_left_alone(self):
        path = self.put('[dcn')
        os.utime(path)
        self.assertEqual({}, self.sites())
        self.assertEqual([], self.errors())
        path.write_text(TEXT)
        os.utime(path)
        contents = self.folder.read()
        self.assertEqual(({}, {'dcn7'}), (contents.sites, contents.present))
        # At the start there is no time to wait.
        self.assertEqual({'dcn7': OPTIONS},
                         self.folder.read(settled=False).sites)

    def test_settled_by_a_clock_that_is_ahead(self):
        path = self.put(TEXT)
        future = os.stat(path).st_mtime + (1 << 31)
        os.utime(path, (future, future))
        self.assertEqual({'dcn7': OPTIONS}, self.sites())

    def test_a_link_to_a_good_file(self):
        # As Kubernetes puts ConfigMaps.
        (self.path / '..data').mkdir()
        (self.path / '..data' / 'file').write_text(TEXT)
        (self.path / 'dcn7.conf').symlink_to('..data/file')
        self.assertEqual({'dcn7': OPTIONS},
                         self.folder.read(settled=False).sites)


class TestMistakes(FolderCase):

    def refused(self, *words, name='dcn7'):
        """The file is not taken; one line says why."""
        contents = self.folder.read()
        self.assertNotIn(name, contents.sites)
        self.assertIn(name, contents.present)
        self.folder.read()
        lines = self.errors()
        self.assertEqual(1, len(lines), lines)
        for word in (str(self.path / (name + '.conf')), *words):
            self.assertIn(word, lines[0])

    def test_two_sections(self):
        self.put(TEXT + '[dcn8]\n')
        self.refused('[dcn7]', '[dcn8]')

    def test_no_section(self):
        self.put('')
        self.refused('none')

    def test_option_before_the_section(self):
        self.put('a = b\n' + TEXT)
        self.refused("option 'a'")

    def test_syntax_does_not_show_the_line(self):
        self.put(TEXT + 'key AQD secret\n')
        self.refused('line 6')
        self.assertNotIn('AQD', self.log.output)

    def test_not_utf8(self):
        self.put('').write_bytes(b'[dcn7]\nweight=\xff\n')
        os.utime(self.path / 'dcn7.conf', (1, 1))
        self.refused('UTF-8')

    def test_nul(self):
        self.put('[dcn7]\nweight = \0\n')
        self.refused('no text')

    def test_size(self):
        self.put(TEXT + '#' * (64 << 10))
        self.refused('64 KiB')

    def test_names(self):
        for name in ('a b', 'a.b', '-a', 'ä', 'a' * 65, 'default'):
            self.assertRaises(folder.Mistake, folder.check_name, name)
        for name in ('a', '7', 'Dcn-7_x', 'a' * 64):
            folder.check_name(name)

    def test_reserved_name(self):
        self.put('[os_glance_x]\n', 'os_glance_x')
        self.refused('os_glance_', name='os_glance_x')

    def test_writable_by_others(self):
        for mode in (0o666, 0o664, 0o646):
            self.put(TEXT, mode=mode)
            self.assertEqual({}, self.sites())
        self.assertEqual(3, len(self.errors()))

    def test_made_safe(self):
        path = self.put(TEXT, mode=0o666)
        self.refused('chmod')
        path.chmod(0o644)
        self.assertEqual({'dcn7': OPTIONS}, self.sites())

    def test_owner(self):
        self.put(TEXT)
        self.useFixture(fixtures.MonkeyPatch('os.geteuid', lambda: 4711))
        if os.getuid() == 0:
            os.chown(self.path / 'dcn7.conf', 4712, -1)
        else:
            self.folder.path = '/'
            self.skipTest('files of other users need root')
        self.refused('4712')

    def test_pipe_is_not_waited_for(self):
        os.mkfifo(self.path / 'dcn7.conf', 0o600)
        os.utime(self.path / 'dcn7.conf', (1, 1))
        self.refused('regular')

    def test_folder_instead_of_a_file(self):
        (self.path / 'dcn7.conf').mkdir()
        os.utime(self.path / 'dcn7.conf', (1, 1))
        self.refused('regular')

    def test_dangling_link(self):
        (self.path / 'dcn7.conf').symlink_to('nowhere')
        self.refused('No such file')

    def test_check(self):
        def check(name, options):
            raise folder.Mistake('not like this')
        self.folder = folder.Folder(self.path, check)
        self.put(TEXT)
        self.refused('not like this')

    def test_what_it_said_before_holds(self):
        self.put(TEXT)
        self.sites()
        self.put('[dcn')
        self.assertEqual({'dcn7': OPTIONS}, self.sites())
        self.assertIn('What it said before holds', self.log.output)
        # But not if it went meanwhile.
        (self.path / 'dcn7.conf').unlink()
        self.sites()
        self.put('[dcn')
        self.assertEqual({}, self.sites())

    def test_others_are_unaffected(self):
        self.put('what?', 'bad')
        self.put(TEXT)
        self.assertEqual({'dcn7': OPTIONS}, self.sites())


class TestUnusableFolder(FolderCase):

    def test_is_not_taken_for_an_empty_one(self):
        self.put(TEXT)
        self.sites()
        away = self.path.with_name('away')
        self.path.rename(away)
        self.assertIsNone(self.folder.read())
        self.assertIsNone(self.folder.read())
        self.assertEqual(1, len(self.errors()))
        away.rename(self.path)
        self.assertEqual({'dcn7': OPTIONS}, self.sites())

    def test_writable_by_others(self):
        self.put(TEXT)
        self.path.chmod(0o777)
        self.assertIsNone(self.folder.read())
        self.assertIn('chmod', self.log.output)


class TestSecretVolume(FolderCase):
    """The folder is a volume that Kubernetes makes of a Secret."""

    #: Reads the folder twice, the second time after a line of input.
    PROGRAM = """
import json, sys
from glance_dcn.sites import folder
found = folder.Folder(sys.argv[1])
for _ in range(2):
    read = found.read(settled=False)
    print(json.dumps([found.mistake, read and read.sites]), flush=True)
    sys.stdin.readline()
"""

    def volume(self, **given):
        volume = volumes.SecretVolume(self.path / 'sites', **given)
        volume.put({'dcn7.conf': TEXT})
        return volume

    def test_is_refused_where_others_may_write(self):
        self.folder.path = self.volume().path
        self.assertIsNone(self.folder.read())
        self.assertIn('mode 1777', self.folder.mistake)

    @staticmethod
    def mounted(volume):
        return volumes.mounted({volume.path: volume.path})

    def pod(self):
        """Return what a command begins with to be run by a pod's user."""
        if os.geteuid():
            return []
        for path in (self.path, self.path.parent):
            path.chmod(0o711)
        return ['setpriv', '--reuid', '42415', '--regid', '42415',
                '--clear-groups']

    def test_is_read_where_it_is_mounted_read_only(self):
        pod = self.pod()
        for mode in (0o644, 0o440, 0o400):
            volume = self.volume(group=42415 if pod else None, mode=mode)
            with subprocess.Popen(
                    [*self.mounted(volume), *pod, sys.executable,
                     '-c', self.PROGRAM, volume.path], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, text=True) as child:
                first = child.stdout.readline()
                if not first:
                    self.skipTest('nothing can be mounted here')
                self.assertEqual([None, {'dcn7': OPTIONS}],
                                 json.loads(first))
                volume.put({'dcn8.conf': TEXT.replace('dcn7', 'dcn8')})
                child.stdin.write('\n\n')
                child.stdin.flush()
                self.assertEqual([None, {'dcn8': OPTIONS}],
                                 json.loads(child.stdout.readline()))
            shutil.rmtree(volume.path)

    def test_files_that_others_may_write_are_refused_there(self):
        volume = self.volume(mode=0o666)
        done = subprocess.run(
            [*self.mounted(volume), sys.executable, '-c',
             self.PROGRAM, volume.path], input='\n\n', check=False,
            stdout=subprocess.PIPE, text=True, timeout=60)
        if not done.stdout:
            self.skipTest('nothing can be mounted here')
        self.assertEqual([None, {}], json.loads(done.stdout.splitlines()[0]))
