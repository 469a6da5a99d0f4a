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

"""Records on the local disk; with real files and processes."""

import logging
import os
import pathlib

import fixtures
from oslotest import base

from glance_dcn.ceph import record_format
from glance_dcn.tasks import spool


class SpoolTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))
        self.folder = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'records'
        self.spool = spool.Spool(str(self.folder))

    def in_child(self, function):
        """Run a function in a process that ends then."""
        pid = os.fork()
        if not pid:
            status = 1
            try:
                function()
                status = 0
            finally:
                os._exit(status)
        _pid, status = os.waitpid(pid, 0)
        self.assertEqual(0, os.waitstatus_to_exitcode(status))

    def abandoned(self, check=lambda texts: None):
        return [found for found, _remove in self.spool.abandoned(check)]

    def test_kept(self):
        self.assertEqual([], self.spool.items())
        self.spool.put({'a': '1'})
        self.spool.put({'b': '2'})
        self.spool.put({'a': '3'})
        self.assertEqual([('a', '3'), ('b', '2')], self.spool.items())
        self.assertTrue(self.spool.discard('a'))
        self.assertFalse(self.spool.discard('a'))
        self.assertEqual([('b', '2')], self.spool.items())

    def test_changed_if_it_is_what_it_was(self):
        self.spool.put({'a': '1'})
        for key, before in (('a', '2'), ('b', '1'), ('b', '')):
            self.assertFalse(self.spool.swap(key, before, '3'))
            self.assertFalse(self.spool.discard(key, before))
        self.assertTrue(self.spool.swap('a', '1', '3'))
        self.assertEqual([('a', '3')], self.spool.items())
        self.assertTrue(self.spool.discard('a', '3'))

    def test_moved(self):
        written = []

        def write(key, text):
            written.append((key, text))
            if key == 'b':
                self.spool.put({'b': '3'})
        self.spool.put({'a': '1'})
        self.spool.put({'b': '2'})
        self.spool.move(write)
        self.assertEqual([('a', '1'), ('b', '2')], written)
        self.assertEqual([('b', '3')], self.spool.items())

    def test_for_nobody_else(self):
        self.spool.put({'a': '1'})
        self.assertEqual(0o700, self.folder.stat().st_mode & 0o777)
        for path in self.folder.iterdir():
            self.assertEqual(0o600, path.stat().st_mode & 0o777)

    def test_nothing_is_left_of_nothing(self):
        self.spool.put({'a': '1'})
        self.spool.discard('a')
        self.assertEqual([], list(self.folder.glob('*.json')))

    def test_those_of_the_living_are_theirs(self):
        other = spool.Spool(str(self.folder))
        other.put({'a': '1'})
        self.assertEqual([], self.abandoned())

    def test_those_of_the_dead_are_found_and_removed(self):
        self.in_child(lambda: self.spool.put({'a': '1'}))
        self.assertEqual([], self.spool.items())
        self.assertEqual([{'a': '1'}], self.abandoned())
        # Until they are removed.
        for found, remove in self.spool.abandoned(lambda texts: None):
            self.assertEqual({'a': '1'}, found)
            remove()
        self.assertEqual([], self.abandoned())
        self.assertEqual([], list(self.folder.iterdir()))

    def test_child_has_its_own(self):
        self.spool.put({'a': '1'})
        self.in_child(lambda: self.assertEqual([], self.spool.items()))
        # The lock is the parent's, also when the child has ended.
        self.in_child(lambda: self.spool.put({'b': '2'}))
        self.assertEqual([('a', '1')], self.spool.items())
        self.assertEqual([{'b': '2'}], self.abandoned())

    def test_damaged_files(self):
        self.folder.mkdir()
        too_long = '{"a": "%s"}' % ('x' * (record_format.LARGEST + 1))
        for number, text in enumerate((
                '', '{', '[]', '7', '{"a": 7}', '[' * 100000, too_long,
                '{"a": ["b"]}')):
            (self.folder / ('%d.json' % number)).write_text(text)
        (self.folder / '8.json').write_bytes(b'\xff\xfe')
        (self.folder / '9.json').symlink_to('/etc/passwd')
        (self.folder / 'a.json').write_text('{"good": "1"}')
        self.assertEqual([{'good': '1'}], self.abandoned())
        self.assertEqual(10, self.log.output.count('cannot be read'))
        # Each scan finds them again, and says nothing new.
        self.assertEqual([{'good': '1'}], self.abandoned())
        self.assertEqual(10, self.log.output.count('cannot be read'))
        # Somebody may want to see what it was.
        self.assertTrue((self.folder / '1.json').exists())

    def test_what_is_no_record_is_left_there(self):
        def check(texts):
            if 'deployment' in texts:
                raise ValueError('that is no record')
        self.folder.mkdir()
        (self.folder / '1.json').write_text('{"a": "1"}')
        (self.folder / '2.json').write_text('{"deployment": "1"}')
        self.assertEqual([{'a': '1'}], self.abandoned(check))
        self.assertIn('that is no record', self.log.output)
        self.assertTrue((self.folder / '2.json').exists())

    def test_file_of_another_user(self):
        if os.geteuid():
            self.skipTest('only root can make one')
        self.folder.mkdir()
        path = self.folder / '1.json'
        path.write_text('{"a": "1"}')
        os.chown(path, 65534, 65534)
        self.assertEqual([], self.abandoned())
        self.assertIn('another user', self.log.output)

    def test_folder_that_cannot_be_made(self):
        self.assertRaises(OSError, spool.Spool('/proc/nonsense').put,
                          {'a': '1'})

    def test_what_was_not_written_is_not_kept(self):
        self.spool.put({'a': '1'})
        self.useFixture(fixtures.MonkeyPatch('os.fsync', fail))
        self.assertRaises(OSError, self.spool.put, {'b': '2'})
        self.assertEqual([('a', '1')], self.spool.items())


def fail(_fd):
    raise OSError('no space left')
