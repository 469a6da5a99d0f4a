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

"""Which process of a host leads, by which folder, and what it tells others."""

from __future__ import annotations

import os
import pathlib
import signal
import stat
import subprocess
import time

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.imports import options
from glance_dcn.tasks import queue
from glance_dcn.workers import leader
from tests import volumes


class HostLeadTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.logged = self.useFixture(fixtures.FakeLogger(
            'glance_dcn.workers'))
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (self.root / 'staging').mkdir()
        self.folders = [str(self.root / name / '.glance-dcn')
                        for name in ('staging', 'locks')]
        self.now = 1000.0
        self.may_lead = True
        self.first, self.second = self.process(), self.process()

    def process(self, folders=None):
        """Return what another process of the host has."""
        made = leader.HostLead(folders or self.folders, 30,
                               lambda: self.may_lead, lambda: self.now)
        self.addCleanup(made.stop)
        return made

    def beat(self, *leads, times=1):
        for _ in range(times):
            self.now += 3
            for lead in leads:
                lead.beat()
        return [lead.is_held for lead in leads]

    def test_one_leads(self):
        self.assertFalse(self.first.is_held)
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=20))
        self.assertIsNone(self.second.term)

    def test_another_when_it_ends(self):
        self.beat(self.first, self.second)
        self.first.stop()
        self.assertEqual([True, False], self.beat(self.second, self.first))

    def test_another_when_it_stops_beating(self):
        self.beat(self.first, self.second)
        self.beat(self.second, times=15)
        self.assertTrue(self.second.is_held)
        self.assertFalse(self.first.is_held)
        self.assertIn('has not beaten', self.logged.output)

    def test_work_that_hangs_gives_the_lead_to_a_sibling(self):
        self.beat(self.first, self.second)
        with self.first.job('tasks', 60), self.first.job('other', 300):
            self.assertEqual([True, False],
                             self.beat(self.first, self.second, times=19))
            self.assertEqual([False, True],
                             self.beat(self.first, self.second, times=2))
            self.assertIn('(tasks) has not ended for 60 s',
                          self.logged.output)
            # It does not take it back while that lasts.
            self.second.stop()
            self.beat(self.first)
            self.assertFalse(self.first.is_held)
        self.beat(self.first)
        self.assertTrue(self.first.is_held)

    def test_process_that_must_not_lead(self):
        # A scrubber ends at any moment, and does not speak for the worker.
        self.may_lead = False
        self.assertEqual([False], self.beat(self.first))
        self.may_lead = True
        self.assertEqual([True], self.beat(self.first))

    def test_term_differs(self):
        self.beat(self.first)
        terms = {self.first.term}
        self.first.resign()
        self.beat(self.second)
        self.second.resign()
        self.beat(self.first)
        self.assertNotIn(self.first.term, terms)

    def test_told_when_it_begins_to_lead(self):
        told = []
        for lead in (self.first, self.second):
            lead.on_lead(lambda lead=lead: told.append(lead))
        self.beat(self.first, self.second, times=3)
        self.assertEqual([self.first], told)
        self.first.resign()
        self.beat(self.second)
        self.assertEqual([self.first, self.second], told)

    def test_leader_is_woken_by_a_sibling(self):
        woken = []
        for lead in (self.first, self.second):
            lead.on_work(lambda lead=lead: woken.append(lead))
        self.beat(self.first, self.second)
        # Its thread would see the file first.
        self.first._polling.stop()
        woken.clear()
        self.first._poll()
        self.assertEqual([], woken)
        self.second.notify()
        self.assertEqual([], woken)
        self.first._poll()
        self.first._poll()
        self.assertEqual([self.first], woken)
        # The leader itself needs no file.
        self.first.notify()
        self.assertEqual([self.first] * 2, woken)

    def test_sibling_that_knows_no_folder_yet(self):
        self.beat(self.first)
        touched = self.root / 'staging' / '.glance-dcn' / 'wake'
        self.second.notify()
        self.assertTrue(touched.exists())
        self.assertEqual(0o600, stat.S_IMODE(touched.stat().st_mode))

    def test_nothing_is_raised_where_none_can_be_told(self):
        self.process(['/proc/none/x']).notify()

    def test_published(self):
        self.beat(self.first, self.second)
        self.assertIsNone(self.second.published('sites'))
        self.first.publish('sites', 'one')
        self.assertEqual('one', self.second.published('sites'))
        self.assertIsNone(self.second.published('sites'))
        self.first.publish('sites', 'another')
        self.assertEqual('another', self.second.published('sites'))

    def test_folder_beside_the_locks(self):
        # There is no staging folder, and then it is mounted.
        self.folders[:] = [str(self.root / 'none' / '.glance-dcn'),
                           str(self.root / 'glance-dcn')]
        leads = [self.process(), self.process()]
        # Not at once: a sibling may have found the first to be usable.
        self.assertEqual([False, False], self.beat(*leads))
        self.assertEqual([True, False], self.beat(*leads))
        self.assertTrue((self.root / 'glance-dcn').is_dir())
        (self.root / 'none').mkdir()
        # One that comes first there does not lead while the other does.
        self.assertEqual([False], self.beat(leads[1]))
        self.assertTrue(leads[0].is_held)
        self.assertEqual([False, True], self.beat(*leads))
        self.assertEqual([False, True], self.beat(*leads, times=3))

    def test_folder_of_another_user(self):
        shared = self.root / 'glance-dcn'
        shared.mkdir()
        shared.chmod(0o777)
        lead = self.process(['/proc/none/x', str(shared)])
        self.beat(lead)
        self.assertEqual([], list(shared.iterdir()))
        # No sibling can be known of: it does the work itself.
        self.assertTrue(lead.is_held)
        self.assertIn('another user', self.logged.output)

    def test_another_folder_that_cannot_be_looked_into(self):
        # Anyone may make such a link in a folder for temporary files.
        self.folders[1] = str(self.root / 'loop')
        os.symlink('loop', self.folders[1])
        lead = self.process()
        self.assertEqual([True], self.beat(lead, times=2))
        # The same where it is the first.
        lead = self.process([self.folders[1], str(self.root / 'other')])
        self.assertEqual([True], self.beat(lead, times=2))

    def test_leader_in_another_folder_that_is_stopped(self):
        self.folders[0] = str(self.root / 'none' / '.glance-dcn')
        (self.root / 'locks').mkdir()
        leads = [self.process(), self.process()]
        self.assertEqual([True, False], self.beat(*leads, times=2))
        (self.root / 'none').mkdir()
        # The first beats no more: the lead is taken from it there, too.
        self.assertEqual([False], self.beat(leads[1], times=9))
        self.assertEqual([True], self.beat(leads[1], times=4))
        self.assertFalse(leads[0].is_held)
        self.assertEqual([False, True], self.beat(*leads))

    def small_disk(self, options):
        """Have the staging folder on a small file system."""
        disk = self.useFixture(volumes.SmallDisk(options))
        self.folders[0] = os.path.join(disk.path, '.glance-dcn')
        (self.root / 'locks').mkdir()
        self.first, self.second = self.process(), self.process()
        return disk

    def test_read_only_disk(self):
        disk = self.small_disk('size=64k')
        self.beat(self.first, self.second)
        self.first.stop()
        self.second.stop()
        self.assertEqual(0, disk.mount('-o', 'remount,ro').returncode)
        # No leader can beat, and none takes the lead in another folder.
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=30))
        self.first.stop()
        self.assertEqual([True, False],
                         self.beat(self.second, self.first, times=30))
        self.assertEqual([], os.listdir(self.root / 'locks'))

    def test_silent_leader_that_cannot_be_replaced(self):
        disk = self.small_disk('size=64k')
        self.beat(self.first)
        # The same disk, when nothing can be written to it any more.
        read_only = self.useFixture(fixtures.TempDir()).path
        subprocess.run(['mount', '--bind', disk.path, read_only], check=True)
        self.addCleanup(subprocess.run, ['umount', '--lazy', read_only],
                        check=True)
        subprocess.run(['mount', '-o', 'remount,bind,ro', read_only],
                       check=True)
        second = self.process([os.path.join(read_only, '.glance-dcn'),
                               self.folders[1]])
        self.assertEqual([False], self.beat(second, times=30))
        self.assertTrue(self.first.is_held)
        self.assertIn('Read-only file system', self.logged.output)

    def test_full_disk(self):
        disk = self.small_disk('size=64k')
        disk.fill()
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=30))
        self.first.stop()
        self.assertEqual([True, False],
                         self.beat(self.second, self.first, times=30))
        self.assertEqual([], os.listdir(self.root / 'locks'))

    def test_disk_without_room_for_files(self):
        disk = self.small_disk('nr_inodes=20')
        disk.take_inodes()
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=20))
        self.assertTrue((self.root / 'locks' / '.glance-dcn').is_dir())
        disk.give_inodes()
        for _ in range(3):
            self.assertLess(sum(self.beat(self.second, self.first)), 2)
        self.assertEqual([True, False], self.beat(self.second, self.first))
        self.assertTrue(os.listdir(self.folders[0]))

    def test_no_room_for_files_anywhere(self):
        disk = self.useFixture(volumes.SmallDisk('nr_inodes=20'))
        leads = [self.process([disk.path + '/none']) for _ in range(2)]
        disk.take_inodes()
        # Each would be alone, and have as many siblings.
        self.assertEqual([False, False], self.beat(*leads))
        disk.give_inodes()
        self.assertEqual([True, False], self.beat(*leads))

    def test_child_of_a_fork_does_not_lead(self):
        self.first.beat()
        reader, writer = os.pipe()
        # Whatever lock the parent's threads hold at that moment.
        with self.first._own.lock, self.first.job('tasks'):
            child = os.fork()
            if not child:
                signal.alarm(60)
                held = self.first.is_held, self.first.beat()
                os.write(writer, b'01'[any(held):][:1])
                time.sleep(60)
                os._exit(1)
        try:
            self.assertEqual(b'0', os.read(reader, 1))
            self.assertTrue(self.first.is_held)
            # Nor does it keep the lead of a parent that has ended.
            self.first.stop()
            self.assertEqual([True], self.beat(self.second))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


class Idle(leader.HostLead):
    """Never takes the lead."""

    def start(self):
        pass


class BeginTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.conf = cfg.ConfigOpts()
        options.register(self.conf)
        self.conf.register_opts([
            cfg.StrOpt('node_staging_uri', default='file:///s'),
            cfg.DictOpt('enabled_backends')])
        self.conf([], prog='glance-api')

    def test_folders(self):
        found = leader.folders(self.conf, 'ours')
        self.assertEqual('/s/.glance-dcn', found[0])
        self.assertEqual(2, len(found))
        self.assertNotEqual(found[1], leader.folders(self.conf, 'other')[1])
        self.conf.set_override('node_staging_uri', 'file:///s2')
        self.assertNotEqual(found[1], leader.folders(self.conf, 'ours')[1])
        self.conf.clear_override('node_staging_uri')
        self.conf.register_opt(cfg.StrOpt('lock_path', default='/locks'),
                               group='oslo_concurrency')
        found = leader.folders(self.conf, 'ours')
        self.assertEqual(['/s', '/locks'],
                         [os.path.dirname(path) for path in found[:2]])

    def test_without_a_folder_for_temporary_files(self):
        def none():
            raise FileNotFoundError('No usable temporary directory found')
        self.useFixture(fixtures.MonkeyPatch('tempfile.gettempdir', none))
        self.assertEqual(['/s/.glance-dcn'],
                         leader.folders(self.conf, 'ours'))

    def test_once_for_a_configuration(self):
        tasks = queue.TaskQueue()
        leader.begin(self.conf, tasks, Idle)
        begun = tasks.lead
        leader.begin(self.conf, tasks, Idle)
        self.assertIs(begun, tasks.lead)
