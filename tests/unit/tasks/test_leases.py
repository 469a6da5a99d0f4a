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

"""Who is alive, and who may act; by a clock that tests move."""

import os
import threading

import fixtures
from oslotest import base

from glance_dcn.ceph import record_format
from glance_dcn.sites import home
from glance_dcn.tasks import leases
from glance_dcn.tasks import store as stores
from tests.unit.tasks import fakes

RUNNER = leases.RunnerLease


class ObserverTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.clock = fakes.Clock()
        self.observer = leases.Observer(self.clock)

    def observe(self, seconds, wanted=(), **seen):
        """Observe leases for some seconds, as the runner does."""
        end = self.clock.now + seconds
        while True:
            self.observer.update(seen, wanted)
            if self.clock.now >= end:
                return
            self.clock.now = min(end, self.clock.now + 10)

    def test_expires_after_30_s_without_change(self):
        self.observe(29, a='1')
        self.assertFalse(self.observer.is_expired('a'))
        self.observe(1, a='1')
        self.assertTrue(self.observer.is_expired('a'))

    def test_any_change_counts(self):
        for beat in range(20):
            self.observe(8, a=str(beat % 2))
            self.assertFalse(self.observer.is_expired('a'))

    def test_never_seen(self):
        self.observe(100, a='1')
        self.assertFalse(self.observer.is_expired('b'))

    def test_missing(self):
        self.observe(29, {'a'})
        self.assertFalse(self.observer.is_expired('a'))
        self.observe(1, {'a'})
        self.assertTrue(self.observer.is_expired('a'))
        # It was only late.
        self.observe(0, {'a'}, a='1')
        self.assertFalse(self.observer.is_expired('a'))

    def test_not_while_nobody_looked(self):
        self.observe(20, a='1')
        # The home was away, or this process was stopped.
        self.clock.now += 26
        self.observe(0, a='1')
        self.assertFalse(self.observer.is_expired('a'))
        self.observe(29, a='1')
        self.assertFalse(self.observer.is_expired('a'))
        self.observe(1, a='1')
        self.assertTrue(self.observer.is_expired('a'))

    def test_suspects(self):
        self.observe(12, a='1')
        self.assertFalse(self.observer.suspects)
        self.observe(1, a='1')
        self.assertTrue(self.observer.suspects)
        # It is as good as dead: to look more often would tell nothing.
        self.observe(17, a='1')
        self.assertFalse(self.observer.suspects)


class RunnerLeaseTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.cluster = self.useFixture(fakes.MemoryCluster())
        self.clock = fakes.Clock()
        self.site = fakes.Site('home')
        self.first, self.second = self.process(), self.process()

    def process(self, deployment='ours', **known):
        return leases.RunnerLease(stores.TaskStore(
            home.Home(self.site), deployment), self.clock, **known)

    def wait(self, seconds, *others):
        """Let time pass, in which others try to get the lease."""
        for _second in range(seconds):
            self.clock.now += 1
            for lease in others:
                lease.acquire()

    def test_one_at_a_time(self):
        self.assertTrue(self.first.acquire())
        self.assertFalse(self.second.acquire())
        self.first.check()
        self.assertRaises(leases.LeaseLost, self.second.check)

    def test_renewed_by_several_threads_at_once(self):
        self.assertTrue(self.first.acquire())
        self.clock.now += 5
        held = []
        thread = threading.Thread(
            target=lambda: held.append(self.first.acquire()))

        def renew_too(_key):
            if not thread.ident:
                thread.start()
                # It comes as far as it can.
                thread.join(0.2)
        self.cluster.on_swap = renew_too
        self.assertTrue(self.first.acquire())
        thread.join()
        self.assertEqual([True], held)
        self.assertTrue(self.first.acquire())

    def test_child_of_a_fork(self):
        self.assertTrue(self.first.acquire())
        pid = os.getpid()
        with fixtures.MonkeyPatch('os.getpid', lambda: pid + 1):
            self.assertFalse(self.first.acquire())
            self.assertRaises(leases.LeaseLost, self.first.check)

    def test_of_each_deployment(self):
        self.assertTrue(self.first.acquire())
        self.assertTrue(self.process('theirs').acquire())

    def test_kept_as_long_as_it_is_renewed(self):
        self.assertTrue(self.first.acquire())
        for _time in range(30):
            self.wait(4)
            self.assertTrue(self.first.acquire())
            self.assertFalse(self.second.acquire())

    def test_taken_over_from_a_dead_one(self):
        self.first.acquire()
        self.second.acquire()
        self.wait(RUNNER.EXPIRY - 1, self.second)
        self.assertFalse(self.second.acquire())
        self.wait(1)
        self.assertTrue(self.second.acquire())
        # It was not dead, and does nothing more.
        self.assertRaises(leases.LeaseLost, self.first.check)
        self.assertFalse(self.first.acquire())
        self.second.check()

    def test_not_trusted_before_another_can_take_it(self):
        # Whatever the moment in which a holder is stopped.
        for seconds in range(1, RUNNER.EXPIRY + 10):
            first, second = self.process(str(seconds)), self.process(
                str(seconds))
            self.assertTrue(first.acquire())
            second.acquire()
            self.wait(seconds, second)
            held = [lease for lease in (first, second)
                    if self.may_act(lease)]
            self.assertEqual(1, len(held), seconds)

    def may_act(self, lease):
        try:
            lease.check()
        except leases.LeaseLost:
            return False
        return True

    def test_not_trusted_while_home_is_away(self):
        self.first.acquire()
        self.site.away()
        self.first.check()
        self.wait(RUNNER._TRUSTED)
        self.assertRaises(leases.LeaseLost, self.first.check)
        self.site.back()
        # Nobody has taken it.
        self.first.check()

    def test_released(self):
        self.first.acquire()
        self.first.release()
        self.assertRaises(leases.LeaseLost, self.first.check)
        self.assertTrue(self.second.acquire())
        # What is not held is not released.
        self.first.release()
        self.second.check()
        self.site.away()
        self.second.release()

    def test_releases_with_other_records_run_their_own(self):
        self.assertTrue(self.first.acquire())
        later = self.process(version=record_format.VERSION + 1)
        self.assertTrue(later.acquire())
        self.first.check()
        self.assertEqual(['runner/ours', 'runner/ours/3'],
                         sorted(fakes.records_of(self.site)))

    def test_record(self):
        self.first.acquire()
        [(key, text)] = fakes.records_of(self.site).items()
        self.assertEqual('runner/ours', key)
        self.assertEqual(1, record_format.load(leases.Lease, text,
                                               'ours').beat)
