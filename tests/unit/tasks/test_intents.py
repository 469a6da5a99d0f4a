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

"""What a writer records, and who wins where it is taken for dead."""

import dataclasses
import os

import fixtures
from oslotest import base

from glance_dcn.ceph import record_format
from glance_dcn.sites import existing
from glance_dcn.sites import home
from glance_dcn.tasks import intents
from glance_dcn.tasks import leases
from glance_dcn.tasks import spool
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests.unit.tasks import fakes

IMAGE = fakes.IMAGE
ADDRESS = '10.0.0.7:0/7'
State = tasks.State


class WriteLogTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.cluster = self.useFixture(fakes.MemoryCluster())
        self.clock = fakes.Clock()
        self.home, self.edge = fakes.Site('home'), fakes.Site('edge')
        self.store = stores.TaskStore(
            home.Home(self.home), 'ours',
            spool.Spool(self.useFixture(fixtures.TempDir()).path))
        self.writes = intents.WriteLog(self.store, clock=self.clock,
                                       repeat=fakes.Periodic)

    def begin(self, image=IMAGE):
        return self.writes.begin(self.edge, image, ADDRESS)

    @property
    def kept(self):
        return self.store.scan().records

    @property
    def beats(self):
        """Beats of the leases, by their IDs."""
        return {name: record_format.load(leases.Lease, text, 'ours').beat
                for name, text in self.store.scan().leases.items()}

    def take(self, record):
        """Take an intent as the task runner does."""
        self.assertTrue(self.store.replace(record, dataclasses.replace(
            record, state=State.REMOVING)))

    def assertKept(self, *states, image_id=None):
        self.assertEqual([(state, image_id) for state in states],
                         [(record.state, record.image_id)
                          for record in self.kept])

    def test_begun_with_the_lease(self):
        write = self.begin()
        self.assertEqual([write.intent], self.kept)
        self.assertEqual({write.intent.writer: 1}, self.beats)
        self.assertEqual(('edge', IMAGE, 'images', 'f', ADDRESS), tuple(
            getattr(write.intent, name) for name in (
                'site', 'image', 'pool', 'fsid', 'address')))

    def test_written_and_committed(self):
        write = self.begin()
        write.bind('1')
        self.assertKept(State.WRITING, image_id='1')
        write.commit()
        self.assertKept(State.COMMITTED, image_id='1')

    def test_ended(self):
        write = self.begin()
        write.bind('1')
        write.end()
        self.assertEqual([], self.kept)

    def test_abandoned(self):
        for fence, addresses in ((True, (ADDRESS,)), (False, ())):
            write = self.begin()
            write.bind('1')
            write.abandon(fence)
            task, = self.kept
            self.assertEqual(
                (tasks.Action.REMOVE_INCOMPLETE, IMAGE, '1', addresses),
                (task.action, task.image, task.image_id, task.addresses))
            self.store.remove(task)

    def test_abandoned_before_its_image_was_told(self):
        # Its thread, which nobody waits for any more, goes on.
        write = self.begin()
        write.abandon()
        self.assertRaises(intents.WriteLost, write.bind, '1')
        task, = self.kept
        self.assertIsInstance(task, tasks.Task)
        # Nothing more needs the lease.
        self.clock.now += 11
        self.writes.renew()
        self.assertEqual({}, self.beats)

    def test_what_was_committed_is_told_once(self):
        self.assertEqual([], self.writes.take_committed())
        write = self.begin()
        write.bind('1')
        write.commit()
        self.assertEqual([write.intent], self.writes.take_committed())
        self.assertEqual([], self.writes.take_committed())

    def test_taken_before_it_is_committed(self):
        write = self.begin()
        write.bind('1')
        self.take(write.intent)
        exc = self.assertRaises(intents.WriteLost, write.commit)
        self.assertIsInstance(exc, existing.Gone)
        self.assertIn(IMAGE, str(exc))
        self.assertKept(State.REMOVING, image_id='1')
        # Nothing more needs the lease.
        self.clock.now += 11
        self.writes.renew()
        self.assertEqual({}, self.beats)

    def test_of_writer_and_remover_one_gets_on(self):
        # Whichever comes first, also in the very middle of the other.
        write = self.begin()
        taken = []

        def take_first(key):
            if key == write.intent.key and not taken:
                taken.append(True)
                self.take(self.kept[0])
        self.cluster.on_swap = take_first
        self.assertRaises(intents.WriteLost, write.commit)
        self.cluster.on_swap = lambda key: None
        self.assertKept(State.REMOVING)
        write = self.begin(fakes.OTHER)
        write.commit()
        committed = write.intent
        self.assertFalse(self.store.replace(
            dataclasses.replace(committed, state=State.WRITING),
            dataclasses.replace(committed, state=State.REMOVING)))

    def test_removed_before_it_is_committed(self):
        write = self.begin()
        self.store.remove(write.intent)
        self.assertRaises(intents.WriteLost, write.commit)

    def test_taken_before_its_image_was_told(self):
        write = self.begin()
        self.take(write.intent)
        self.assertRaises(intents.WriteLost, write.bind, '1')
        # What is abandoned now is the image, whoever has the intent.
        write.abandon()
        self.assertEqual({(State.REMOVING, None), (None, '1')}, {
            (getattr(record, 'state', None), record.image_id)
            for record in self.kept})

    def test_lease_is_renewed_while_it_matters(self):
        write = self.begin()
        for beat in (2, 3):
            self.writes.renew()
            self.assertEqual({write.intent.writer: beat}, self.beats)
        write.commit()
        # Another write may come at once, and needs no other lease.
        self.clock.now += 9
        self.writes.renew()
        self.assertEqual(write.intent.writer, self.begin().intent.writer)
        self.assertEqual([write.intent.writer], list(self.beats))

    def test_lease_ends_where_nothing_is_written(self):
        write = self.begin()
        write.end()
        self.clock.now += 61
        self.writes.renew()
        self.assertEqual({}, self.beats)
        self.assertFalse(self.writes._periodic.runs)
        # Those who saw the old one end must not take this for it.
        again = self.begin()
        self.assertNotEqual(write.intent.writer, again.intent.writer)
        self.assertTrue(self.writes._periodic.runs)

    def test_lease_lasts_as_long_as_a_write(self):
        write = self.begin()
        for _time in range(100):
            self.clock.now += 60
            self.writes.renew()
        self.assertEqual([write.intent.writer], list(self.beats))

    def test_home_away_from_the_beginning(self):
        self.home.away()
        write = self.begin()
        write.bind('1')
        write.commit()
        self.writes.renew()
        self.home.back()
        self.assertKept(State.COMMITTED, image_id='1')
        self.assertEqual({}, fakes.records_of(self.home))
        self.writes.renew()
        self.assertKept(State.COMMITTED, image_id='1')
        self.assertEqual(
            {write.intent.key, stores.LEASES + write.intent.writer},
            set(fakes.records_of(self.home)))

    def test_home_that_goes_away_amid_a_write(self):
        write = self.begin()
        self.home.away()
        write.bind('1')
        write.commit()
        self.assertIn('recorded later', self.log.output)
        self.home.back()
        self.assertKept(State.WRITING)
        self.writes.renew()
        self.assertKept(State.COMMITTED, image_id='1')

    def test_home_that_is_back_at_the_commit(self):
        write = self.begin()
        self.home.away()
        write.bind('1')
        self.home.back()
        write.commit()
        self.assertKept(State.COMMITTED, image_id='1')
        self.writes.renew()
        self.assertKept(State.COMMITTED, image_id='1')

    def test_caught_up_by_two_threads_at_once(self):
        writes = [self.begin(image) for image in (IMAGE, fakes.OTHER)]
        self.home.away()
        for write in writes:
            write.bind('1')
        self.home.back()
        renewed = []

        def renew_first(_key):
            if not renewed:
                renewed.append(True)
                self.writes.renew()
        self.cluster.on_swap = renew_first
        for write in writes:
            write.commit()
        self.writes.renew()
        self.assertKept(State.COMMITTED, State.COMMITTED, image_id='1')

    def test_ended_while_home_is_away(self):
        write = self.begin()
        self.home.away()
        write.end()
        self.writes.renew()
        self.home.back()
        self.writes.renew()
        self.assertEqual([], self.kept)

    def test_abandoned_while_home_is_away(self):
        write = self.begin()
        write.bind('1')
        self.home.away()
        write.abandon()
        self.home.back()
        self.writes.renew()
        task, = self.kept
        self.assertEqual((tasks.Action.REMOVE_INCOMPLETE, '1'),
                         (task.action, task.image_id))

    def test_abandoned_and_nowhere_to_record(self):
        self.store.spool = None
        write = self.begin()
        self.home.away()
        write.abandon()
        self.clock.now += 61
        self.writes.renew()
        self.home.back()
        self.writes.renew()
        task, = self.kept
        self.assertEqual(tasks.Action.REMOVE_INCOMPLETE, task.action)
        # Nothing more needs the lease.
        self.writes.renew()
        self.assertEqual({}, self.beats)

    def test_nowhere_to_record(self):
        self.store.spool = None
        self.home.away()
        self.assertRaises(stores.NotRecorded, self.begin)
        self.home.back()
        self.writes.renew()
        self.assertEqual([], self.kept)

    def test_not_recorded_but_written_all_the_same(self):
        # The cluster carried out what it did not answer.
        self.store.spool = None
        put = self.cluster.put

        def put_unanswered(*args, **kwargs):
            put(*args, **kwargs)
            raise stores.omap.Error('no answer')
        self.cluster.put = put_unanswered
        self.assertRaises(stores.NotRecorded, self.begin)
        self.cluster.put = put
        self.assertEqual(1, len(self.kept))
        self.writes.renew()
        self.assertEqual([], self.kept)

    def test_child_of_a_fork(self):
        parents = self.begin().intent
        pid = os.getpid()
        self.useFixture(fixtures.MonkeyPatch('os.getpid', lambda: pid + 1))
        # It does not speak for the parent.
        self.writes.renew()
        self.assertEqual({parents.writer: 1}, self.beats)
        self.assertNotEqual(parents.writer, self.begin().intent.writer)
