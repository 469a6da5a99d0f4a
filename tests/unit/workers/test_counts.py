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


"""The figures of a host, as its processes come and go."""

import os
import pathlib
import signal

import fixtures
from oslotest import base

from glance_dcn.runtime import process
from glance_dcn.sites import figures
from glance_dcn.sites import limits
from glance_dcn.workers import counts
from tests import runtimes


class HostFiguresTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(runtimes.Runtime())
        self.folder = self.useFixture(fixtures.TempDir()).path
        self.host = counts.HostFigures(self.folder)

    def total(self):
        """Return (counts, slots used) by site, as a leader finds them."""
        return {site: (one.counts, one.used) for site, one
                in counts.HostFigures(self.folder).total().items()}

    def child(self, *reads):
        """Have a process read bytes with a slot; it lives until the end."""
        ready, done = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                limits.get('dcn0').count(1)
                for number in reads:
                    limits.get('dcn0').meter.moved(read=number)
                    self.host.save()
                os.write(done, b'x')
                signal.pause()
            finally:
                os._exit(0)
        os.close(done)
        with open(ready, 'rb') as f:
            self.assertEqual(b'x', f.read(1))
        ended = []

        def end():
            if not ended:
                ended.append(True)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.addCleanup(end)
        return end

    def test_nothing_to_count(self):
        self.host.save()
        self.assertEqual([], os.listdir(self.folder))
        self.assertEqual({}, self.total())

    def test_outlive_their_process(self):
        first = self.child(1, 2)
        second = self.child(10)
        self.assertEqual({'dcn0': ({'read': 13}, 2)}, self.total())
        first()
        # What it has counted stays, and its slot is free.
        self.assertEqual({'dcn0': ({'read': 13}, 1)}, self.total())
        third = self.child(100)
        self.assertEqual({'dcn0': ({'read': 113}, 2)}, self.total())
        # It has taken the file of the first one.
        self.assertEqual({'figures.0', 'figures.0.held', 'figures.1',
                          'figures.1.held'}, set(os.listdir(self.folder)))
        second()
        third()
        self.assertEqual({'dcn0': ({'read': 113}, 0)}, self.total())

    def test_written_when_changed(self):
        limits.get('dcn0').meter.error(None)
        self.host.save()
        path = pathlib.Path(self.folder, 'figures.0')
        before = path.stat()
        self.host.save()
        self.assertEqual(before.st_ino, path.stat().st_ino)
        limits.get('dcn0').meter.error(None)
        self.host.save()
        self.assertNotEqual(before.st_ino, path.stat().st_ino)
        self.assertEqual({'dcn0': ({'errors/other': 2}, 0)}, self.total())
        self.assertEqual(0o600, path.stat().st_mode & 0o777)

    def test_sites_come_and_stay(self):
        self.child(1)()
        # A process that does not have the site.
        limits.get('dcn1').meter.moved(written=2)
        self.host.save()
        self.assertEqual(
            {'dcn0': ({'read': 1}, 0), 'dcn1': ({'written': 2}, 0)},
            self.total())

    def test_one_file_of_a_process(self):
        # As after it was configured again.
        limits.get('dcn0').meter.moved(read=1)
        for _ in range(2):
            counts.HostFigures(self.folder).save()
        self.assertEqual({'dcn0': ({'read': 1}, 0)}, self.total())

    def test_damaged(self):
        end = self.child(1)
        end()
        path = pathlib.Path(self.folder, 'figures.0')
        good = path.read_text()
        for text in (b'\xff\xfe', b'{', b'\n' * 100000, b'x' * (5 << 20),
                     good.replace('1', '-1').encode(),
                     good.replace('"used": 1', '"used": 1e400').encode()):
            path.write_bytes(text)
            self.assertEqual({}, self.total())
            # A process begins again over it.
        limits.get('dcn0').meter.moved(read=5)
        self.host.save()
        self.assertEqual(5, self.total()['dcn0'][0]['read'])

    def test_no_file(self):
        os.mkfifo(os.path.join(self.folder, 'figures.0'))
        self.assertEqual({}, self.total())
        os.unlink(os.path.join(self.folder, 'figures.0'))
        os.symlink('/etc/passwd', os.path.join(self.folder, 'figures.0'))
        self.assertRaises(OSError, self.total)

    def test_no_folder(self):
        limits.get('dcn0')
        host = counts.HostFigures(self.folder + '/none')
        self.assertRaises(OSError, host.save)
        self.assertRaises(OSError, host.total)

    def test_measured_by_this_process(self):
        limits.get('dcn0').count(1)
        self.host.save()
        [one] = process.get(limits.TransferScheduler).measure()
        self.assertEqual(figures.Figures('dcn0', {}, 1), one)
        self.assertEqual({'dcn0': ({}, 1)}, self.total())
