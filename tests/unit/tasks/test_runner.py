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

"""What the runner does, and when; by a clock that tests move."""

import dataclasses
import gc
import importlib
import logging
import sys
import threading
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.runtime import lead as leads
from glance_dcn.sites import home
from glance_dcn.tasks import leases
from glance_dcn.tasks import runner
from glance_dcn.tasks import spool
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests.unit.tasks import fakes

IMAGE, OTHER = fakes.IMAGE, fakes.OTHER
ADDRESS = '10.0.0.7:0/7'
Action, State = tasks.Action, tasks.State


class RunnerCase(base.BaseTestCase):

    # Seconds the runner waits for a task to end.
    wait = 3

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))
        self.useFixture(fakes.MemoryCluster())
        self.clock = fakes.Clock()
        self.home, self.edge = fakes.Site('home'), fakes.Site('edge')
        self.sites = {'home': self.home, 'edge': self.edge}
        self.database = fakes.Database()
        self.store, self.runner = self.process()

    def process(self):
        """Return what another process of the home has."""
        store = stores.TaskStore(home.Home(self.home), 'ours')
        return store, runner.TaskRunner(store, self.sites.get, self.database,
                                        self.clock, wait=self.wait)

    def task(self, action=Action.DELETE, **fields):
        """Record a task."""
        task = tasks.Task(action, **dict(
            {'site': 'edge', 'image': IMAGE, 'pool': 'images',
             'image_id': '1'}, **fields))
        self.store.put(task)
        return task

    def intent(self, state=State.WRITING, image_id='1', lease='1'):
        """Record an intent, and the lease of its writer."""
        intent = tasks.Intent('edge', IMAGE, 'images', 'f', 'writer',
                              ADDRESS, image_id, state)
        self.store.put(intent, others=lease and {
            stores.LEASES + 'writer': lease})
        return intent

    def run_for(self, seconds, beating=False):
        """Have the runner run every few seconds."""
        end = self.clock.now + seconds
        while True:
            if beating:
                fakes.records_of(self.home)[stores.LEASES + 'writer'] = str(
                    self.clock.now)
            self.runner.run()
            if self.clock.now >= end:
                return
            self.clock.now = min(end, self.clock.now + 3)

    @property
    def left(self):
        return self.store.scan().records

    @property
    def images(self):
        return sorted(info.image_id for info in self.edge.images.values())


class TestTasks(RunnerCase):

    def test_retried_when_it_is_asked_for(self):
        self.edge.add('1')
        self.task()
        self.database.says = fakes.NAMED
        self.run_for(3600)
        self.database.says = fakes.DROPPED
        waiting, = self.left
        self.runner.run()
        self.assertEqual(['1'], self.images)
        self.assertTrue(self.store.replace(
            waiting, dataclasses.replace(waiting, retried_at=7.0)))
        self.runner.run()
        self.assertEqual(([], []), (self.left, self.images))

    def test_done(self):
        self.edge.add('1')
        self.task()
        self.runner.run()
        self.assertEqual([], self.left)
        self.assertEqual([], self.images)
        self.assertIn('delete of image ' + IMAGE, self.log.output)
        self.assertIn('remove, because Glance has no location',
                      self.log.output)

    def test_void_ones_are_dropped_in_silence(self):
        self.edge.add('2')
        self.task()
        self.runner.run()
        self.assertEqual([], self.left)
        self.assertEqual(['2'], self.images)
        self.assertEqual('', self.log.output)

    def test_many(self):
        for number in range(100):
            name = '%d-%s' % (number, IMAGE)
            self.edge.add(str(number), name)
            self.task(image=name, image_id=str(number))
        self.runner.run()
        self.assertEqual([], self.left)
        self.assertEqual([], self.images)

    def test_refused_until_somebody_looks(self):
        self.edge.add('1')
        self.database.says = fakes.UNKNOWN
        self.task()
        self.run_for(100)
        task, = self.left
        self.assertIn('does not know the image', task.message)
        self.assertGreater(task.retry_attempts, 3)
        self.assertEqual(['1'], self.images)
        self.assertEqual(1, self.log.output.count('is tried again'))
        self.database.says = fakes.DROPPED
        self.run_for(20)
        self.assertEqual([], self.left)

    def test_what_is_waited_for_is_no_failure(self):
        self.edge.add('1')
        self.database.says = fakes.NAMED
        self.task()
        self.run_for(100)
        task, = self.left
        self.assertEqual((0, 'Glance still has its location'),
                         (task.retry_attempts, task.message))
        self.assertEqual('', self.log.output)

    def test_message_is_fit_for_a_record(self):
        self.edge.add('1')
        self.database.refusal = ZeroDivisionError('a\nb\0c\x1b' + 'x' * 9999)
        self.task()
        self.runner.run()
        task, = self.left
        self.assertIn('a b c x', task.message)
        self.assertEqual(500, len(task.message))

    def test_error_that_nobody_expects(self):
        self.edge.add('1')
        self.edge.add('2', OTHER)
        self.task()
        self.task(image=OTHER, image_id='2')
        uri = self.edge.uri

        def fail(image, pool=None):
            if image == IMAGE:
                raise SystemError('a bug')
            return uri(image, pool)
        self.edge.uri = fail
        self.runner.run()
        self.assertEqual(['1'], self.images)
        task, = self.left
        self.assertIn('a bug', task.message)
        self.assertIn('Traceback', self.log.output)

    def test_records_that_nobody_understands(self):
        self.edge.add('1')
        key = tasks.prefix('edge', OTHER) + 'task/delete'
        fakes.records_of(self.home)[key] = '{'
        self.task()
        for _time in range(3):
            self.runner.run()
        self.assertEqual([], self.images)
        self.assertEqual(1, self.log.output.count('left alone'))
        self.assertIn(key, self.log.output)
        self.assertIn(key, fakes.records_of(self.home))

    def test_site_that_is_not_there(self):
        # Its file was taken away, and may come back.
        self.edge.add('1')
        del self.sites['edge']
        task = self.task()
        self.run_for(10)
        self.assertEqual([task], self.left)
        self.sites['edge'] = self.edge
        self.run_for(0)
        self.assertEqual([], self.left)


class TestPace(RunnerCase):

    def setUp(self):
        super().setUp()
        self.edge.add('1')
        self.task()
        self.tried = []
        # What each attempt fails with, or None.
        self.failure = None
        self.uri, self.edge.uri = self.edge.uri, self.attempt

    def attempt(self, image, pool=None):
        self.tried.append(self.clock.now)
        if self.failure:
            raise self.failure
        return self.uri(image, pool)

    def pauses(self, seconds):
        """Return the seconds between attempts, run once a second."""
        self.tried.clear()
        for _second in range(seconds):
            self.runner.run()
            self.clock.now += 1
        return [after - before for before, after
                in zip(self.tried, self.tried[1:])]

    def test_failures(self):
        self.failure = ZeroDivisionError('broken')
        pauses = self.pauses(300)
        self.assertEqual([4, 8, 16, 20], pauses[:4])
        self.assertEqual({20}, set(pauses[4:]))
        self.assertGreater(len(pauses), 10)
        self.assertEqual({'errors/other': len(self.tried),
                          'retries/task': len(self.tried) - 1},
                         self.edge.limits.meter.counts())

    def test_what_is_waited_for(self):
        self.database.says = fakes.IN_USE
        pauses = self.pauses(800)
        self.assertEqual({}, self.edge.limits.meter.counts())
        self.assertEqual(10, pauses[0])
        self.assertEqual(sorted(pauses), pauses)
        self.assertGreater(pauses[-1], 20)
        self.clock.now += 10 ** 6
        self.runner.run()
        self.assertEqual({600}, set(self.pauses(1300)))

    def test_new_record_of_an_old_key(self):
        self.failure = ZeroDivisionError('broken')
        self.pauses(100)
        self.failure = None
        self.store.remove(self.left[0])
        self.runner.run()
        self.task()
        self.runner.run()
        self.assertEqual([], self.images)

    def test_tried_at_once_when_the_site_is_back(self):
        self.edge.away()
        self.run_for(100)
        self.assertEqual([], self.tried)
        self.assertEqual(1, len(self.edge.waiting))
        self.edge.back()
        self.runner.run()
        self.assertEqual([], self.left)

    def test_tried_at_once_after_failures_too(self):
        self.failure = fakes.errors.Unreachable('edge', 'it is away', 'wait')
        for _time in range(9):
            self.pauses(20)
        self.failure = None
        self.edge.back()
        self.runner.run()
        self.assertEqual([], self.left)


class TickingClock(fakes.Clock):
    """A clock that goes on each time it is read."""

    def __call__(self):
        self.now += 0.2
        return self.now


class TestAway(RunnerCase):

    def test_store_that_is_made_anew(self):
        self.task()
        for _ in range(2):
            site = self.sites['edge'] = fakes.Site('edge')
            site.away()
            for _round in range(3):
                self.runner.run()
            self.assertEqual(1, len(site.waiting))
        # Nothing is kept of those that are gone.
        del site, self.sites['edge'], self.edge
        gc.collect()
        self.assertEqual(0, len(self.runner._awaited))


class TestHanging(RunnerCase):

    wait = 0.01

    def setUp(self):
        super().setUp()
        self.clock = TickingClock()
        self.store, self.runner = self.process()
        self.over = threading.Event()
        self.addCleanup(self.end)
        self.asked = []
        hanging = fakes.Site('hanging')
        hanging.add('9')
        hanging.uri = self.hang
        self.sites['hanging'] = hanging
        self.task(site='hanging', image_id='9')

    def end(self):
        self.over.set()
        while self.runner._own.running:
            self.runner._gather()

    def hang(self, image, pool=None):
        self.asked.append(image)
        self.assertTrue(self.over.wait(60))
        return 'rbd://hanging'

    def test_dead_writers_are_found_all_the_same(self):
        self.edge.add('1', published=False)
        self.intent()
        for _round in range(8):
            self.runner.run()
        self.assertEqual([], self.images)
        # It was not tried once more meanwhile.
        self.assertEqual([IMAGE], self.asked)

    def test_many_that_hang(self):
        for number in range(40):
            self.task(site='hanging', image_id=str(number))
        for _round in range(3):
            self.runner.run()
        # One of a site, however many there are.
        self.assertEqual(1, len(self.runner._own.running))
        # It is found out whether it is away.
        self.assertGreater(self.sites['hanging'].suspicions, 0)

    def test_many_sites_that_hang(self):
        names = ['hanging%02d' % number for number in range(70)]
        for name in names:
            self.sites[name] = fakes.Site(name)
            self.sites[name].uri = self.hang
            for number in range(4):
                self.task(site=name, image_id=str(number))
        self.sites['zone'] = last = fakes.Site('zone')
        last.add('1')
        self.task(site='zone')
        for _round in range(30):
            self.runner.run()
        self.assertEqual({}, last.images)
        self.assertEqual(71, len(self.runner._own.running))

    def test_under_eventlet_too(self):
        patcher = mock.Mock(original=importlib.import_module)
        with mock.patch.dict(sys.modules, {'eventlet.patcher': patcher}):
            self.test_many_that_hang()
            self.end()
        patcher.is_monkey_patched.assert_called_with('thread')


class TestTurns(RunnerCase):

    def test_of_a_slow_site_and_others(self):
        begun = []

        def begin(site, record, begin=self.runner._begin):
            begun.append(site.name)
            begin(site, record)
        self.runner._begin = begin
        for number in range(30):
            self.task(image=str(number))
        for name in ('far', 'zone'):
            self.sites[name] = fakes.Site(name)
            self.task(site=name)
        self.runner.run()
        # Not after all thirty of the first one.
        self.assertLess(max(map(begun.index, ('far', 'zone'))), 6)
        self.assertEqual(32, len(begun))


class TestLease(RunnerCase):

    def setUp(self):
        super().setUp()
        _store, self.other = self.process()

    def test_one_runs(self):
        self.other.run()
        self.edge.add('1')
        self.task()
        self.runner.run()
        self.assertEqual(['1'], self.images)
        self.other.run()
        self.assertEqual([], self.images)

    def test_takes_over(self):
        self.other.run()
        self.edge.add('1')
        self.task()
        self.run_for(leases.RunnerLease.EXPIRY + 3)
        self.assertEqual([], self.images)

    def test_lost_amid_the_work(self):
        self.edge.add('1')
        task = self.task()
        ask = self.database.ask

        def ask_slowly(image_id, uri):
            # This process is stopped, and another takes over.
            if self.clock.now < 1030:
                for _second in range(30):
                    self.clock.now += 1
                    self.other._lease.acquire()
            return ask(image_id, uri)
        self.database.ask = ask_slowly
        self.runner.run()
        while self.runner._own.running:
            self.runner._gather()
        self.assertEqual(['1'], self.images)
        self.assertEqual([task], self.left)
        self.assertIn('another process runs the tasks now', self.log.output)

    def test_nothing_while_home_is_away_or_glance_is(self):
        self.edge.add('1')
        self.task()
        self.home.away()
        self.runner.run()
        self.home.back()
        self.database.available = False
        self.runner.run()
        self.assertEqual(['1'], self.images)
        self.database.available = True
        self.runner.run()
        self.assertEqual([], self.images)

    def test_no_home_yet(self):
        runner.TaskRunner(stores.TaskStore(home.Home()), self.sites.get,
                          self.database).run()


class TestIntents(RunnerCase):

    def setUp(self):
        super().setUp()
        self.edge.add('1', published=False)
        self.database.says = fakes.IN_USE

    def test_living_writers_are_left_alone(self):
        # However long they take.
        intent = self.intent()
        self.run_for(900, beating=True)
        self.assertEqual([intent], self.left)
        self.assertEqual(['1'], self.images)
        self.assertEqual('', self.log.output)

    def test_dead_writers(self):
        intent = self.intent()
        self.run_for(29)
        self.assertEqual([intent], self.left)
        self.run_for(6)
        self.assertEqual([], self.left)
        self.assertEqual([], self.images)
        # Before it was removed: what is in flight must not land.
        self.assertEqual({ADDRESS}, self.edge.blocklisted)
        self.assertIn('is dead', self.log.output)

    def test_writer_without_a_lease(self):
        # Its lease was on a disk.
        self.intent(lease=None)
        self.run_for(36)
        self.assertEqual([], self.images)

    def test_looks_more_often_while_one_seems_dead(self):
        self.intent()
        self.run_for(12)
        self.assertEqual(10, self.runner._periodic.interval)
        self.run_for(6)
        self.assertEqual(3, self.runner._periodic.interval)

    def test_writer_that_was_stopped_commits_first(self):
        intent = self.intent()
        self.run_for(29)
        committed = dataclasses.replace(intent, state=State.COMMITTED)
        self.assertTrue(self.store.replace(intent, committed))
        self.run_for(300)
        self.assertEqual([committed], self.left)
        self.assertEqual(['1'], self.images)
        self.assertEqual(set(), self.edge.blocklisted)

    def test_dead_one_whose_image_glance_has(self):
        self.edge.add('1')
        self.intent()
        self.database.says = fakes.NAMED
        self.run_for(30 + 66)
        self.assertEqual([], self.left)
        self.assertEqual(['1'], self.images)

    def test_committed_and_noted(self):
        self.edge.add('1')
        intent = self.intent(State.COMMITTED)
        self.database.says = fakes.NAMED
        self.run_for(57)
        self.assertEqual([intent], self.left)
        self.run_for(9)
        self.assertEqual([], self.left)
        self.assertEqual(['1'], self.images)

    def test_location_dropped_by_a_request_that_had_not_seen_it(self):
        # Glance deletes an image, or saves another change of it, with the
        # locations that it had when the request was read.
        for says, seconds in ((fakes.DELETED, 63), (fakes.DROPPED, 129)):
            self.edge.add('1')
            self.intent(State.COMMITTED)
            self.database.says = fakes.NAMED
            self.run_for(12)
            self.database.says = says
            self.run_for(seconds)
            self.assertEqual([], self.left)
            self.assertEqual([], self.images)

    def test_committed_and_never_noted(self):
        # Glance failed, or its process died, before it had the location.
        self.edge.add('1')
        intent = self.intent(State.COMMITTED)
        self.run_for(600)
        self.assertEqual([intent], self.left)
        self.database.says = fakes.NEVER_NAMED
        self.run_for(57)
        self.assertEqual(['1'], self.images)
        self.run_for(9)
        self.assertEqual([], self.images)
        self.assertEqual([], self.left)
        # Its writer is alive, and has other work.
        self.assertEqual(set(), self.edge.blocklisted)

    def test_committed_of_an_image_that_was_deleted(self):
        self.intent(State.COMMITTED)
        self.database.says = fakes.DELETED
        self.runner.run()
        self.assertEqual([], self.images)
        self.assertEqual([], self.left)

    def test_committed_and_undone(self):
        # What was stored is removed when another store of the import fails.
        self.edge.images.clear()
        for others in ([], ['2']):
            for image_id in others:
                self.edge.add(image_id)
            self.intent(State.COMMITTED)
            self.database.says = fakes.IN_USE
            self.runner.run()
            self.assertEqual([], self.left)
            self.assertEqual(others, self.images)

    def test_settled_for_60_s_at_a_stretch(self):
        self.edge.add('1')
        intent = self.intent(State.COMMITTED)
        for _time in range(5):
            self.database.says = fakes.NEVER_NAMED
            self.run_for(50)
            self.database.says = fakes.IN_USE
            self.run_for(4)
        self.assertEqual([intent], self.left)
        self.assertEqual(['1'], self.images)

    def test_settled_while_nobody_looked_counts_for_nothing(self):
        # Another process ran the tasks, or this one was stopped.
        self.edge.add('1')
        intent = self.intent(State.COMMITTED)
        self.database.says = fakes.NEVER_NAMED
        self.run_for(10)
        self.clock.now += 100
        self.run_for(50)
        self.assertEqual([intent], self.left)
        self.assertEqual(['1'], self.images)
        self.run_for(16)
        self.assertEqual([], self.images)

    def test_committed_of_an_unknown_image(self):
        self.edge.add('1')
        intent = self.intent(State.COMMITTED)
        self.database.says = fakes.UNKNOWN
        self.run_for(600)
        self.assertEqual([intent], self.left)
        self.assertEqual(['1'], self.images)

    def test_database_that_does_not_answer(self):
        self.intent()
        self.database.refusal = ZeroDivisionError('broken')
        self.run_for(100)
        self.assertEqual(State.WRITING, self.left[0].state)
        self.assertEqual(['1'], self.images)

    def test_taken_one_is_removed_later(self):
        self.intent()
        self.edge.in_use = {'1'}
        self.run_for(60)
        self.assertEqual(State.REMOVING, self.left[0].state)
        self.assertEqual(['1'], self.images)
        self.edge.in_use = set()
        self.run_for(4)
        self.assertEqual([], self.left)
        self.assertEqual([], self.images)

    def test_what_it_took_is_removed_after_a_restart(self):
        self.intent(State.REMOVING, lease=None)
        self.runner.run()
        self.assertEqual([], self.images)
        self.assertEqual({ADDRESS}, self.edge.blocklisted)

    def test_another_that_took_the_name_is_left_alone(self):
        self.edge.add('2', published=False)
        self.intent()
        self.run_for(36)
        self.assertEqual([], self.left)
        self.assertEqual(['2'], self.images)

    def test_nothing_is_kept_of_those_that_are_gone(self):
        self.intent(State.COMMITTED)
        self.database.says = fakes.NEVER_NAMED
        self.run_for(3)
        self.database.says = fakes.NAMED
        self.run_for(6)
        self.assertEqual(1, len(self.runner._named))
        self.run_for(66)
        self.assertEqual(({}, {}, {}), (
            self.runner._attempts, self.runner._settled, self.runner._named))


class FakeLead(leads.Lead):
    """The lead of a host that a test gives and takes."""

    is_held = True
    notified = 0

    def notify(self):
        self.notified += 1


class TestLead(RunnerCase):
    """One process of a host runs tasks."""

    def setUp(self):
        super().setUp()
        self.lead = FakeLead()
        folder = self.useFixture(fixtures.TempDir()).path
        self.store.spool = spool.Spool(folder)
        self.runner = runner.TaskRunner(
            self.store, self.sites.get, self.database, self.clock,
            lead=self.lead)
        self.opened = []
        opened = self.home.open_pool

        def open_pool(*args):
            self.opened.append(args)
            return opened(*args)
        self.home.open_pool = open_pool

    def test_others_do_nothing_at_home(self):
        self.edge.add('1')
        self.task()
        self.opened.clear()
        self.lead.is_held = False
        self.run_for(900)
        self.assertEqual([], self.opened)
        self.lead.is_held = True
        self.runner.run()
        self.assertEqual(([], []), (self.left, self.images))

    def test_former_leader_leaves_its_lease_to_the_next_one(self):
        self.runner.run()
        _store, other = self.process()
        self.edge.add('1')
        self.task()
        other.run()
        self.assertEqual(['1'], self.images)
        self.lead.is_held = False
        self.runner.run()
        other.run()
        self.assertEqual([], self.images)

    def test_others_bring_home_what_they_have_recorded(self):
        self.home.away()
        task = self.task()
        self.lead.is_held = False
        self.runner.run()
        self.assertEqual(0, self.lead.notified)
        self.home.back()
        self.runner.run()
        self.assertEqual([], self.store.spool.items())
        self.assertEqual([task], self.left)
        # The leader is to do it.
        self.assertEqual(1, self.lead.notified)

    def test_scans_less_often_while_nothing_is_recorded(self):
        self.runner.run()
        idle = self.runner._periodic.interval
        self.task(site='unknown')
        self.runner.run()
        self.assertLess(self.runner._periodic.interval, idle)
        # With the jitter: another host takes the lease over after that.
        self.assertLess(1.2 * idle, leases.RunnerLease.EXPIRY)
        self.assertLess(1.2 * idle, leases.GAP)
