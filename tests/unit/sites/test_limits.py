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

import gc
import os
import threading
import time

from oslotest import base

from glance_dcn.runtime import process
from glance_dcn.sites import limits
from tests import runtimes

MIB = 1 << 20


class LimitsCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(runtimes.Runtime())
        process.put(limits.TransferScheduler(tick=0.02))
        self.order = []

    def limits(self, name, max_transfers=1):
        found = limits.Limits(name)
        found.set(max_transfers, 0)
        return found

    def transfer(self, name, *wanted, **kwargs):
        """Start a transfer in a thread; return the event that ends it."""
        end = threading.Event()
        self.addCleanup(end.set)

        def run():
            try:
                with limits.slots(wanted, **kwargs):
                    self.order.append(name)
                    end.wait(10)
            except Exception as exc:
                self.order.append((name, exc))
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        # Until it runs or waits.
        time.sleep(0.05)
        return end

    def wait_order(self, *names):
        deadline = time.monotonic() + 5
        while self.order != list(names) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(list(names), self.order)

    def wait_others(self, *names, last):
        """The same, but the last ones begin at the same time."""
        deadline = time.monotonic() + 5
        while (len(self.order) < len(names) + len(last)
               and time.monotonic() < deadline):
            time.sleep(0.01)
        self.assertEqual(list(names), self.order[:len(names)])
        self.assertEqual(set(last), set(self.order[len(names):]))


class TestTurns(LimitsCase):

    def test_no_limit(self):
        site = self.limits('site', 0)
        for name in 'abc':
            self.transfer(name, site)
        self.wait_order('a', 'b', 'c')
        self.assertEqual(3, site.running)

    def test_in_order(self):
        site = self.limits('site', 2)
        ends = {name: self.transfer(name, site) for name in 'abcd'}
        self.wait_order('a', 'b')
        ends['b'].set()
        self.wait_order('a', 'b', 'c')
        ends['a'].set()
        self.wait_order('a', 'b', 'c', 'd')

    def test_all_sites_at_once(self):
        # One that waits for a site takes no turn at another.
        here, there = self.limits('here'), self.limits('there')
        ends = {'a': self.transfer('a', there),
                'b': self.transfer('b', here, there),
                'c': self.transfer('c', here)}
        self.wait_order('a', 'c')
        ends['a'].set()
        time.sleep(0.1)
        self.wait_order('a', 'c')
        ends['c'].set()
        self.wait_order('a', 'c', 'b')

    def test_not_overtaken_for_ever(self):
        here, there = self.limits('here', 2), self.limits('there')
        far = self.transfer('far', there)
        self.transfer('both', here, there)
        ends = [self.transfer(n, here) for n in range(2)]
        for n in range(2, limits._OVERTAKEN + 2):
            ends[n - 2].set()
            ends.append(self.transfer(n, here))
        # Neither of the two turns at here is given away any more.
        self.wait_order('far', *range(limits._OVERTAKEN))
        ends[-3].set()
        ends[-4].set()
        time.sleep(0.1)
        self.wait_order('far', *range(limits._OVERTAKEN))
        far.set()
        self.wait_others('far', *range(limits._OVERTAKEN),
                         last=['both', limits._OVERTAKEN])

    def test_raised_and_taken_away(self):
        site = self.limits('site')
        for name in 'abcd':
            self.transfer(name, site)
        self.wait_order('a')
        site.set(2, 0)
        self.wait_order('a', 'b')
        site.set(0, 0)
        self.wait_others('a', 'b', last=['c', 'd'])

    def test_lowered(self):
        site = self.limits('site', 2)
        ends = [self.transfer(name, site) for name in 'abc']
        site.set(1, 0)
        ends[0].set()
        time.sleep(0.1)
        self.wait_order('a', 'b')
        ends[1].set()
        self.wait_order('a', 'b', 'c')

    def test_cancelled_while_waiting(self):
        site = self.limits('site')
        told = []

        def waiting(names):
            told.append(names)
            raise ValueError('no task')
        end = self.transfer('a', site)
        self.transfer('b', site, waiting=waiting, interval=0.1)
        self.transfer('c', site)
        time.sleep(0.2)
        self.assertEqual([['site']], told)
        end.set()
        deadline = time.monotonic() + 5
        while len(self.order) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(['a', 'c'], [self.order[0], self.order[2]])
        self.assertEqual('no task', str(self.order[1][1]))
        self.assertEqual(1, site.running)

    def test_failed_transfer_gives_its_turn_back(self):
        site = self.limits('site')
        self.assertRaises(ValueError, self._fail, site)
        self.transfer('a', site)
        self.wait_order('a')

    def _fail(self, site):
        with limits.slots([site]):
            raise ValueError()

    def test_twice_the_same_site_is_one_turn(self):
        site = self.limits('site')
        self.transfer('a', site, site)
        self.wait_order('a')
        self.assertEqual(1, site.running)

    def test_abandoned_in_the_midst_of_a_look(self):
        # The garbage collector may close a reader's generator anywhere.
        site = self.limits('site')

        def reader():
            with limits.slots([site]):
                yield

        one = reader()
        next(one)
        with process.get(limits.TransferScheduler)._queue.get().lock:
            del one
            gc.collect()
        self.transfer('a', site)
        self.wait_order('a')

    def test_many(self):
        site, other = self.limits('site', 3), self.limits('other', 2)
        most = []

        def run(wanted):
            with limits.slots(wanted):
                most.append((site.running, other.running))
                time.sleep(0.005)
        threads = [threading.Thread(target=run, args=(
            [[site], [other], [site, other]][n % 3],)) for n in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        self.assertEqual(60, len(most))
        self.assertEqual((3, 2), tuple(map(max, zip(*most))))
        process.get(limits.TransferScheduler).run_once()
        self.assertEqual((0, 0), (site.running, other.running))

    def test_child_of_a_fork_starts_anew(self):
        site = limits.get(self.id())
        site.set(1, 8)
        self.transfer('a', site)
        self.wait_order('a')
        process.get(limits.TransferScheduler)._queue.get().lock.acquire()
        child = os.fork()
        if not child:
            with limits.slots([site]):
                os._exit(0 if site.bandwidth == 8 else 1)
        process.get(limits.TransferScheduler)._queue.get().lock.release()
        deadline = time.monotonic() + 10
        status = None
        while status is None and time.monotonic() < deadline:
            done, code = os.waitpid(child, os.WNOHANG)
            status = code if done else None
            time.sleep(0.02)
        if status is None:
            os.kill(child, 9)
            os.waitpid(child, 0)
        self.assertEqual(0, status)


class TestLimits(LimitsCase):

    def test_one_for_each_site(self):
        self.assertIs(limits.get('x'), limits.get('x'))
        self.assertIsNot(limits.get('x'), limits.get('y'))

    def test_bandwidth(self):
        site = self.limits('site')
        self.assertEqual(0, site.bandwidth)
        self.assertTrue(site.set(0, 1.5))
        self.assertEqual(1.5, site.bandwidth)
        for rate in (site.sending, site.receiving):
            self.assertEqual(1.5 * MIB, rate.limit)
        self.assertFalse(site.set(0, 1.5))
        self.assertTrue(site.set(0, 0))
        self.assertIsNone(site.sending.limit)

    def test_the_rates_stay_when_the_limit_changes(self):
        # Running transfers have them.
        site = self.limits('site')
        rates = site.sending, site.receiving
        site.set(3, 5)
        self.assertEqual(rates, (site.sending, site.receiving))
