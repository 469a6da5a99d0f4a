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

"""What outlives a power cut: real files, and what is asked of the disk."""

import logging
import os
import pathlib
import threading

import fixtures
from oslotest import base

from glance_dcn.engine import digests
from glance_dcn.engine import errors
from glance_dcn.imports import folder

MiB = 1 << 20


def content_digest(data):
    """Return the content digest of some bytes."""
    found = digests.ContentDigest()
    found.update(0, data)
    return found.finish(len(data))


class Syncs(fixtures.Fixture):
    """Takes note of what is synced.

    :ivar paths: of the files and folders that were, in their order
    """

    def _setUp(self):
        self.paths = []
        for name in ('fsync', 'fdatasync'):
            self.useFixture(fixtures.MonkeyPatch(
                'os.' + name, self._watched(getattr(os, name))))

    def _watched(self, function):
        def watched(fd):
            function(fd)
            self.paths.append(os.readlink('/proc/self/fd/%d' % fd))
        return watched


class FileTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = self.folder / 'image'
        self.data = os.urandom(MiB) + bytes(MiB)
        self.path.write_bytes(self.data)


class OlderThanBootTest(FileTest):
    """What the first process after a restart finds is not believed."""

    def setUp(self):
        super().setUp()
        self.hidden = self.folder / '.glance-dcn'
        # What the clock says is another matter.
        os.utime(self.path, (1 << 32, 1 << 32))

    def start(self, boot):
        """Start a process of Glance; return what is older."""
        known = self.folder / 'boot_id'
        known.write_text(boot + '\n')
        folder.mark_older(str(self.folder), str(known))
        return {path.name for path in self.folder.glob('image*')
                if folder.is_older_than_boot(str(path))}

    def test_processes(self):
        self.assertEqual(set(), self.start('first'))
        self.assertEqual(set(), self.start('first'))
        self.assertEqual({'image'}, self.start('second'))
        (self.folder / 'image-2').write_bytes(self.data)
        self.assertEqual({'image'}, self.start('second'))
        folder.renew(str(self.path))
        self.assertEqual(set(), self.start('second'))

    def test_hosts_that_have_one_folder(self):
        self.start('first')
        self.assertEqual({'image'}, self.start('other'))
        (self.folder / 'image-2').write_bytes(self.data)
        for boot in ('first', 'other'):
            self.assertEqual({'image'}, self.start(boot))

    def test_without_boot_id_nothing_is_believed_after_a_start(self):
        self.start('')
        self.assertEqual({'image'}, self.start(''))

    def test_folder_of_before_this_software(self):
        os.utime(self.path, (2, 2))
        self.assertEqual({'image'}, self.start('first'))

    def test_links_are_left_alone(self):
        self.start('first')
        (self.folder / 'image-3').symlink_to('/etc/hostname')
        before = os.stat('/etc/hostname')
        self.start('second')
        self.assertEqual(before.st_mtime, os.stat('/etc/hostname').st_mtime)

    def test_one_that_cannot_be_marked(self):
        self.start('first')
        for number in range(5):
            (self.folder / ('image-%d' % number)).write_bytes(b'')
        utime = os.utime

        def refuse(path, *args, **kwargs):
            if str(path).endswith('-2'):
                raise PermissionError(path)
            if str(path).endswith('-3'):
                raise FileNotFoundError(path)
            utime(path, *args, **kwargs)
        with fixtures.MonkeyPatch('os.utime', refuse):
            self.assertRaises(PermissionError, self.start, 'second')
        # The others are, and none of this boot by the next start.
        (self.folder / 'image-9').write_bytes(b'')
        self.assertEqual({'image', 'image-0', 'image-1', 'image-4'},
                         self.start('second'))

    def test_very_many_starts(self):
        for number in range(120):
            self.start('boot-%d' % number)
        self.assertEqual(100, len((self.hidden / 'boots').read_text().split()))


class DurableTest(FileTest):

    def test_boot_id_is_that_of_the_kernel(self):
        self.assertEqual(
            pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip(
                ), folder.boot_id())
        self.assertTrue(folder.is_current(folder.boot_id()))

    def test_boot_id_of_another_time_is_not_current(self):
        for boot in ('', '1b4e28ba-2fa1-11d2-883f-0016d3cca427'):
            self.assertFalse(folder.is_current(boot))

    def test_unknown_boot_id_equals_no_other(self):
        self.assertEqual('', folder.boot_id('/not/here'))
        self.assertFalse(folder.is_current('', '/not/here'))

    def test_file_is_synced_and_then_its_folder(self):
        syncs = self.useFixture(Syncs())
        folder.sync(str(self.path))
        self.assertEqual([str(self.path), str(self.folder)], syncs.paths)

    def test_link_is_not_followed(self):
        (self.folder / 'link').symlink_to(self.path)
        self.assertRaises(OSError, folder.sync, str(self.folder / 'link'))

    def test_digest_is_the_content_digest(self):
        self.assertEqual(content_digest(self.data),
                         folder.digest(str(self.path)))

    def test_holes_in_place_of_data_have_another_digest(self):
        before = folder.digest(str(self.path))
        os.truncate(self.path, 0)
        os.truncate(self.path, len(self.data))
        self.assertNotEqual(before, folder.digest(str(self.path)))

    def test_digest_of_an_empty_file(self):
        self.path.write_bytes(b'')
        self.assertEqual(content_digest(b''), folder.digest(str(self.path)))

    def test_digest_of_what_is_not_there(self):
        self.assertRaises(errors.EngineError, folder.digest, '/not/here')


class VouchingTest(FileTest):

    def setUp(self):
        super().setUp()
        self.logger = self.useFixture(fixtures.FakeLogger(
            'glance_dcn.imports.folder', level=logging.WARNING))
        self.noted = []
        self.over = threading.Semaphore(0)
        self.vouching = self.vouch()

    def vouch(self, note=None, then=None, **kwargs):
        return folder.Vouching(
            str(self.path), note or (lambda *what: self.noted.append(what)),
            then or self.over.release, **kwargs)

    def run_it(self):
        self.vouching.start()
        self.assertTrue(self.over.acquire(timeout=60))

    def assertOnce(self):
        self.vouching.close()
        self.assertFalse(self.over.acquire(blocking=False))

    def test_length_and_digest_are_noted(self):
        self.run_it()
        self.assertEqual([(len(self.data), content_digest(self.data))],
                         self.noted)
        self.assertOnce()
        self.assertEqual('', self.logger.output)

    def test_digest_that_another_thread_computes(self):
        asked = []

        def known(seconds):
            asked.append(seconds)
            if len(asked) < 2:
                # It takes longer.
                threading.Event().wait(seconds)
                return None
            return len(self.data), 'theirs'
        self.vouching = self.vouch(known=known, step=.2)
        self.run_it()
        self.assertEqual([(len(self.data), 'theirs')], self.noted)

    def test_digest_of_another_file_or_never_computed(self):
        for answer in (None, (1, 'of another')):
            self.vouching = self.vouch(
                known=lambda seconds, answer=answer: answer)
            self.run_it()
            self.assertEqual((len(self.data), content_digest(self.data)),
                             self.noted.pop())

    def test_nothing_is_noted_before_it_is_on_the_disk(self):
        syncs = self.useFixture(Syncs())
        self.vouching = self.vouch(
            note=lambda *unused: syncs.paths.append('noted'))
        self.run_it()
        self.assertEqual([str(self.path), str(self.folder), 'noted'],
                         syncs.paths)

    def test_disk_fails(self):
        def fails(fd):
            raise OSError(5, 'Input/output error')
        self.useFixture(fixtures.MonkeyPatch('os.fdatasync', fails))
        self.run_it()
        self.assertEqual([], self.noted)
        self.assertOnce()
        self.assertIn('Input/output error', self.logger.output)

    def test_file_is_gone(self):
        # That is how imports end.
        self.path.unlink()
        self.run_it()
        self.assertEqual([], self.noted)
        self.assertEqual('', self.logger.output)

    def test_closed_before_it_is_done(self):
        reached, go_on = threading.Event(), threading.Event()

        def waits(fd):
            reached.set()
            go_on.wait(60)
        self.useFixture(fixtures.MonkeyPatch('os.fdatasync', waits))
        self.vouching.start()
        self.assertTrue(reached.wait(60))
        self.vouching.close()
        self.assertTrue(self.over.acquire(blocking=False))
        go_on.set()
        self.assertOnce()
        self.assertEqual([], self.noted)

    def test_import_that_is_over_at_once(self):
        # It is not worth its while.
        syncs = self.useFixture(Syncs())
        thread = threading.Event()
        self.vouching = self.vouch(delay=3600, then=lambda: (
            self.over.release(), thread.set()))
        self.vouching.start()
        self.vouching.close()
        self.assertTrue(thread.wait(60))
        self.assertTrue(self.over.acquire(blocking=False))
        self.assertOnce()
        self.assertEqual(([], []), (self.noted, syncs.paths))

    def test_short_import_has_removed_its_file(self):
        syncs = self.useFixture(Syncs())
        self.vouching = self.vouch(delay=3600)
        self.vouching.start()
        self.path.unlink()
        self.assertTrue(self.over.acquire(timeout=60))
        self.assertOnce()
        self.assertEqual(([], []), (self.noted, syncs.paths))

    def test_import_that_lasts(self):
        self.vouching = self.vouch(delay=.2)
        self.run_it()
        self.assertEqual([(len(self.data), content_digest(self.data))],
                         self.noted)

    def test_closed_without_what_comes_then(self):
        self.vouching.close(keep=True)
        self.assertOnce()

    def test_what_comes_then_fails(self):
        def fails():
            raise PermissionError(1, 'Operation not permitted')
        folder.Vouching(str(self.path), None, fails).close()
        self.assertIn('Operation not permitted', self.logger.output)
