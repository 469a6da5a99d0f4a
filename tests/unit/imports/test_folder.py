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


"""The staging folder: what it is on, who shares it, what is in it."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import time
import types

import fixtures
from oslotest import base

from glance_dcn.imports import folder
from glance_dcn.imports import journal

_MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /var/lib/glance/staging rw - nfs4 server:/export rw
31 22 0:41 / /mnt/a\\040b rw master:2 - fuse.glusterfs vol rw
"""


def conf(staging, url='http://one'):
    return types.SimpleNamespace(
        enabled_backends={'central': 'dcn'}, config_file=['/etc/x.conf'],
        config_dir=[], worker_self_reference_url=url,
        os_glance_staging_store=types.SimpleNamespace(
            filesystem_store_datadir=str(staging)))


class FolderTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def test_path(self):
        self.assertEqual(str(self.path), folder.path(conf(self.path)))
        single = types.SimpleNamespace(
            enabled_backends={}, node_staging_uri='file:///var/staging')
        self.assertEqual('/var/staging', folder.path(single))
        self.assertIsNone(journal.of(types.SimpleNamespace(
            enabled_backends={'central': 'dcn'})))

    def test_file_system(self):
        mounts = self.path / 'mountinfo'
        mounts.write_text(_MOUNTS)
        self.assertEqual(
            ['ext4', 'ext4', 'nfs4', 'nfs4', 'fuse.glusterfs'],
            [folder.file_system(path, str(mounts)) for path in (
                '/', '/var/lib/glance/staging2', '/var/lib/glance/staging',
                '/var/lib/glance/staging/x', '/mnt/a b/c')])
        self.assertIsNone(folder.file_system('/', str(self.path / 'none')))

    def test_own_file_system_is_known(self):
        self.assertIsNotNone(folder.file_system(str(self.path)))

    def test_nothing_to_say(self):
        self.assertEqual([], folder.doubts(conf(self.path)))
        self.assertEqual([], folder.doubts(conf(self.path)))

    def test_network_file_system(self):
        mounts = self.path / 'mountinfo'
        mounts.write_text(_MOUNTS.replace('/mnt/a\\040b',
                                          os.path.realpath(self.path)).replace(
                                              'fuse.glusterfs', 'nfs4'))
        [sentence] = folder.doubts(conf(self.path), str(mounts))
        self.assertIn('network file system (nfs4)', sentence)

    def another(self, url='http://two'):
        """Announce another worker; returns its locked file."""
        workers = self.path / folder.FOLDER / 'workers'
        workers.mkdir(parents=True, exist_ok=True)
        file = (workers / 'another').open('w+')
        self.addCleanup(file.close)
        file.write(json.dumps({'url': url, 'host': 'edge7'}))
        file.flush()
        fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def test_shared_with_another_worker(self):
        self.another()
        [sentence] = folder.doubts(conf(self.path))
        self.assertIn('used by another worker too (http://two at edge7)',
                      sentence)

    def test_other_worker_has_ended(self):
        self.another().close()
        self.assertEqual([], folder.doubts(conf(self.path)))
        self.assertFalse((self.path / folder.FOLDER / 'workers'
                          / 'another').exists())

    def test_companions(self):
        for name in ('a', 'a.raw', 'a.b.c', 'ab', 'b.raw'):
            (self.path / name).touch()
        self.assertEqual(
            {str(self.path / 'a.raw'), str(self.path / 'a.b.c')},
            set(folder.companions(str(self.path / 'a'))))
        self.assertEqual([], folder.companions('/none/a'))

    def test_orphans_end(self):
        # A program of that name that sleeps.
        program = self.path / 'qemu-img'
        shutil.copy(shutil.which('sleep'), program)
        # What it works on is among its arguments: for sleep, a number.
        staged = '60.%d' % os.getpid()
        orphan = subprocess.Popen(['qemu-img', staged],
                                  executable=str(program))
        self.addCleanup(orphan.wait)
        self.addCleanup(orphan.kill)
        folder.end_orphans(str(self.path / 'another-image'))
        time.sleep(.1)
        self.assertIsNone(orphan.poll())
        folder.end_orphans(staged)
        self.assertEqual(-9, orphan.wait(10))

    def test_free(self):
        status = os.statvfs(self.path)
        self.assertLess(abs(folder.free(str(self.path))
                            - status.f_bavail * status.f_frsize), 1 << 30)
