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

"""The circuit breaker, with a clock and a scheduler of the test's."""

import errno
import functools
import logging
import threading
from unittest import mock

import fixtures
from oslotest import base
import rados
import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.engine import errors as engine_errors

STORE = 'edge_7'
NOON = 1_700_000_000


def away(reason='no answer'):
    return errors.Unreachable(STORE, reason, 'look at it')


class Scheduler:
    """Runs what is scheduled when told, by the clock of a test."""

    def __init__(self, test):
        self.test = test
        self.calls = []
        self.delays = []

    def call_later(self, delay, function, limit=None):
        call = mock.Mock(function=function, delay=delay)
        call.cancel.side_effect = lambda: self.calls.remove(call)
        self.calls.append(call)
        return call

    def submit(self, function, limit=None):
        return self.call_later(0, function, limit)

    def run(self):
        """Run the next call, after its delay."""
        call = self.calls.pop(0)
        if call.delay:
            self.delays.append(call.delay)
        self.test.now += call.delay
        call.function()

    def run_all(self):
        while self.calls:
            self.run()


class BreakerCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))
        self.now = NOON
        self.scheduler = Scheduler(self)
        self.outcomes = []
        self.told = []
        self.addresses = []
        self.answers = []
        self.breaker = health.CircuitBreaker(
            STORE, self.look, self.told, clock=lambda: self.now,
            scheduler=self.scheduler, addresses=lambda: self.addresses,
            asker=self)

    def look(self):
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome

    def ask(self, addresses, then):
        """Stand for :class:`glance_dcn.ceph.monitors.Monitors`."""
        answer = self.answers.pop(0)
        self.scheduler.submit(lambda: then(answer))

    def refusal(self):
        return self.assertRaises(errors.Unreachable, self.breaker.check)


class TestOpening(BreakerCase):

    def test_unknown_at_first(self):
        self.assertEqual(health.Health(health.UNKNOWN), self.breaker.health)
        self.breaker.check()
        self.assertEqual([], self.scheduler.calls)

    def test_opens_and_says_since_when(self):
        self.breaker.record_failure(away())
        self.assertEqual(health.Health(health.DOWN, NOON, 'no answer'),
                         self.breaker.health)
        exc = self.refusal()
        self.assertEqual(NOON, exc.since)
        for word in (STORE, '2023-11-14 22:13:20 UTC', 'no answer',
                     'look at it'):
            self.assertIn(word, str(exc))
        self.assertIn(STORE, self.log.output)

    def test_the_first_failure_counts(self):
        self.breaker.record_failure(away())
        self.now += 60
        self.breaker.record_failure(away('still none'))
        self.assertEqual(NOON, self.refusal().since)
        self.assertEqual('no answer', self.breaker.health.reason)
        # One probe looks after it.
        self.assertEqual(1, len(self.scheduler.calls))
        self.assertEqual(1, len(self.log.output.splitlines()))

    def test_closes_when_it_is_found(self):
        self.breaker.record_failure(away())
        self.outcomes = [away(), away(), None]
        self.scheduler.run_all()
        self.breaker.check()
        self.assertEqual(health.UP, self.breaker.health.state)
        self.assertIn('can be used again', self.log.output)

    def test_opens_again(self):
        self.outcomes = [None, None]
        for _i in range(2):
            self.breaker.record_failure(away())
            self.refusal()
            self.scheduler.run_all()
            self.breaker.check()

    def test_what_looks_may_fail_as_it_likes(self):
        self.breaker.record_failure(away())
        self.outcomes = [KeyError('x'), None]
        self.scheduler.run_all()
        self.breaker.check()

    def test_other_states_do_not_refuse(self):
        # Whoever tries finds out what is wrong, or that it was mended.
        for kind, state in ((errors.NotDeployed, health.NOT_DEPLOYED),
                            (errors.Misconfigured, health.MISCONFIGURED)):
            self.breaker.record_failure(kind(STORE, 'no file', 'make it'))
            self.assertEqual((state, 'no file'), (
                self.breaker.health.state, self.breaker.health.reason))
            self.breaker.check()

    def test_state_that_changes(self):
        self.breaker.record_failure(
            errors.NotDeployed(STORE, 'no file', 'make it'))
        self.now += 9
        self.breaker.record_failure(
            errors.NotDeployed(STORE, 'no keyring', 'make it'))
        self.assertEqual(
            health.Health(health.NOT_DEPLOYED, NOON, 'no keyring'),
            self.breaker.health)
        self.breaker.record_failure(away())
        self.assertEqual(NOON + 9, self.refusal().since)


class TestPauses(BreakerCase):

    def looks(self, error, count=20):
        self.scheduler.delays = []
        self.outcomes = [error] * count + [None]
        self.breaker.record_failure(error)
        self.scheduler.run_all()
        return self.scheduler.delays

    def test_of_one_that_is_away(self):
        pauses = self.looks(away())
        self.assertLess(pauses[0], 1.3)
        self.assertGreater(pauses[-2], 4)
        # With 5 s for connecting and some for the OSDs: 15 s.
        self.assertLess(max(pauses), 6.1)
        self.assertNotEqual(pauses[10], pauses[11])

    def test_of_one_that_is_away_for_long(self):
        # It costs next to nothing, and is found within a minute or so.
        pauses = self.looks(away(), 300)
        gone = 0
        for pause in pauses:
            self.assertLess(pause, max(6.1, 0.061 * gone))
            gone += pause
        self.assertGreater(min(pauses[-20:]), 45)
        self.assertLess(max(pauses), 72.1)

    def test_of_one_that_is_not_deployed(self):
        pauses = self.looks(errors.NotDeployed(STORE, 'no file', 'make it'))
        self.assertLess(pauses[0], 3)
        self.assertGreater(min(pauses), 1)
        # There may be hundreds of them.
        self.assertGreater(pauses[-2], 11)
        self.assertLess(max(pauses), 18.1)

    def test_of_one_that_must_be_mended(self):
        pauses = self.looks(errors.Misconfigured(STORE, 'refused', 'mend it'))
        self.assertGreater(min(pauses), 10)


class TestMonitors(BreakerCase):
    """Asked before librados is, of a site that is away."""

    def setUp(self):
        super().setUp()
        self.addresses = ['10.0.0.1:3300']

    def test_none_answers(self):
        self.answers = ['no answer'] * 9
        self.breaker.record_failure(away())
        while self.answers or self.scheduler.calls[0].delay == 0:
            self.scheduler.run()
        # No probe of librados was made.
        self.refusal()
        self.assertEqual(9, len(self.scheduler.delays) + 1)
        self.assertLess(max(self.scheduler.delays), 6.1)

    def test_one_answers(self):
        self.answers = ['no answer', None, None]
        self.outcomes = [away(), None]
        self.breaker.record_failure(away())
        self.scheduler.run_all()
        self.breaker.check()
        self.assertEqual(([], []), (self.answers, self.outcomes))

    def test_not_where_nothing_is_known(self):
        self.breaker.probe()
        self.outcomes = [None]
        self.scheduler.run_all()
        self.assertEqual(health.UP, self.breaker.health.state)

    def test_conf_file_that_cannot_be_read(self):
        def addresses():
            raise errors.Misconfigured(STORE, 'no file', 'make it')
        self.breaker._addresses = addresses
        self.breaker.record_failure(away())
        self.outcomes = [None]
        self.scheduler.run_all()
        self.breaker.check()

    def test_stopped_meanwhile(self):
        self.answers = ['no answer']
        self.breaker.record_failure(away())
        self.scheduler.run()
        self.breaker.stop()
        self.scheduler.run_all()
        self.breaker.probe()
        self.assertEqual([], self.scheduler.calls)


class TestTold(BreakerCase):

    def test_each_time_it_is_back(self):
        call = mock.Mock()
        self.told.append(call)
        for i in range(1, 3):
            self.breaker.record_failure(away())
            self.outcomes = [away(), None]
            self.scheduler.run_all()
            self.assertEqual(i, call.call_count)

    def test_at_the_beginning(self):
        call = mock.Mock()
        self.told.append(call)
        self.breaker.call_when_up(call)
        self.outcomes = [None]
        self.scheduler.run_all()
        call.assert_called_once_with()

    def test_if_it_is_known_to_be_up(self):
        self.breaker.record_success()
        call = mock.Mock()
        self.breaker.call_when_up(call)
        self.scheduler.run_all()
        call.assert_called_once_with()

    def test_failure_is_logged(self):
        self.told.append(mock.Mock(side_effect=ValueError('oh')))
        self.breaker.record_success()
        self.scheduler.run_all()
        self.assertIn('oh', self.log.output)


class TestThread(base.BaseTestCase):
    """With real threads."""

    def test_one_that_hangs_holds_no_other(self):
        self.useFixture(fixtures.FakeLogger())
        go_on, looked = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)
        hanging = health.CircuitBreaker(STORE, go_on.wait)
        other = health.CircuitBreaker('edge_8', looked.set)
        hanging.record_failure(away())
        other.record_failure(errors.Unreachable('edge_8', 'no answer', 'look'))
        self.assertTrue(looked.wait(5))
        self.assertRaises(errors.Unreachable, hanging.check)

    def test_those_that_hang_hold_none_that_comes_back(self):
        """Monitors of all answer, and OSDs of most do not."""
        self.useFixture(fixtures.FakeLogger())
        go_on, probed = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)
        asker = mock.Mock(ask=lambda addresses, then: then(None))
        hanging = threading.Semaphore(0)

        def breaker(name, ask):
            made = health.CircuitBreaker(name, ask, addresses=lambda: ['a'],
                                         asker=asker)
            self.addCleanup(made.stop)
            made.record_failure(errors.Unreachable(name, 'no answer', 'look'))

        def hang(outcomes):
            if outcomes:
                raise outcomes.pop()
            hanging.release()
            go_on.wait()
        for number in range(22):
            breaker('hangs_%d' % number, functools.partial(hang, [away()]))
        for _i in range(8):
            self.assertTrue(hanging.acquire(timeout=10))
        breaker('returned', probed.set)
        self.assertTrue(probed.wait(5))

    def test_stopped(self):
        self.useFixture(fixtures.FakeLogger())
        looks = threading.Semaphore(0)

        def look():
            looks.release()
            raise away()
        breaker = health.CircuitBreaker(STORE, look)
        breaker.probe()
        self.assertTrue(looks.acquire(timeout=5))
        breaker.stop()
        while looks.acquire(timeout=.1):
            pass
        breaker.probe()
        self.assertFalse(looks.acquire(timeout=2))

    def test_looks_again_when_asked(self):
        self.useFixture(fixtures.FakeLogger())
        looks = threading.Semaphore(0)

        def look():
            looks.release()
            raise errors.Misconfigured(STORE, 'refused', 'mend it')
        breaker = health.CircuitBreaker(STORE, look)
        breaker.probe()
        for _i in range(3):
            self.assertTrue(looks.acquire(timeout=5))
            breaker.probe()


class TestExplain(base.BaseTestCase):

    def explain(self, exc):
        return health.explain(exc, STORE)

    def test_what_means_away(self):
        for exc in (
                rados.TimedOut('x', errno.ETIMEDOUT),
                rbd.Timeout('x', errno.ETIMEDOUT),
                engine_errors.Stalled('edge_7: images/x', 'write', 60),
                engine_errors.RequestError('x', 'read', errno.ETIMEDOUT),
                away()):
            self.assertIsInstance(self.explain(exc), errors.Unreachable, exc)

    def test_what_does_not(self):
        for code in (errno.ENOENT, errno.EEXIST, errno.ENOSPC, errno.EDQUOT,
                     errno.EPERM, errno.EACCES, errno.EBUSY, errno.EROFS,
                     errno.EIO, errno.EINVAL, errno.ESHUTDOWN, None):
            self.assertIsNone(self.explain(
                engine_errors.RequestError('x', 'read', code)))
        for exc in (engine_errors.Cancelled('x'), ValueError(),
                    rbd.ImageNotFound('x'), rados.NoSpace('x'),
                    # Of the user's, who sends the data.
                    TimeoutError(errno.ETIMEDOUT, 'x'),
                    errors.Misconfigured(STORE, 'x', 'y')):
            self.assertIsNone(self.explain(exc))

    def test_cause(self):
        exc = ValueError()
        exc.__cause__ = engine_errors.Stalled('x', 'read', 60)
        self.assertIsNotNone(self.explain(exc))

    def test_belongs_to_the_first_store(self):
        exc = engine_errors.Stalled('x', 'read', 60)
        self.assertIsNotNone(health.explain(exc, 'edge_8'))
        self.assertIsNone(self.explain(exc))
        self.assertIsNotNone(health.explain(exc, 'edge_8'))
        self.assertIsNone(health.explain(away(), 'edge_8'))
