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

"""Which process of a host does its background work."""

import os
import pathlib
import signal
import stat
import time

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.imports import options
from glance_dcn.tasks import queue
from glance_dcn.workers import host


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
        made = host.HostLead(folders or self.folders, 30,
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
        self.assertEqual([True, False], self.beat(*leads))
        self.assertTrue((self.root / 'glance-dcn').is_dir())
        (self.root / 'none').mkdir()
        # The one that comes first there leads, and the other does not.
        self.assertEqual([False, True], self.beat(*reversed(leads))[::-1])
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

    def test_no_room_is_no_reason_for_another_folder(self):
        self.beat(self.first)

        def full(*args, **kwargs):
            raise OSError(28, os.strerror(28))
        self.first.resign()
        self.useFixture(fixtures.MonkeyPatch('tempfile.mkstemp', full))
        self.assertEqual([False], self.beat(self.second))
        self.assertFalse((self.root / 'locks').exists())

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


class BeginTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.runtime.periodic.Periodic.start',
            lambda periodic: None))
        self.conf = cfg.ConfigOpts()
        options.register(self.conf)
        self.conf([], prog='glance-api')
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.imports.folder.path', lambda conf: '/s'))

    def test_folders(self):
        found = host.folders(self.conf, 'ours')
        self.assertEqual('/s/.glance-dcn', found[0])
        self.assertEqual(2, len(found))
        self.assertNotEqual(found[1], host.folders(self.conf, 'other')[1])
        self.conf.register_opt(cfg.StrOpt('lock_path', default='/locks'),
                               group='oslo_concurrency')
        found = host.folders(self.conf, 'ours')
        self.assertEqual(['/s', '/locks'],
                         [os.path.dirname(path) for path in found[:2]])

    def test_once_for_a_configuration(self):
        tasks = queue.TaskQueue()
        host.begin(self.conf, tasks)
        begun = tasks.lead
        host.begin(self.conf, tasks)
        self.assertIs(begun, tasks.lead)
