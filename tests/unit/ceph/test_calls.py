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

"""Calls that may never be answered."""

from __future__ import annotations

import threading
import time
import types
import typing
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import client_cache
from glance_dcn.ceph import connection
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import monitors
from glance_dcn.ceph import state
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from tests import runtimes


class CallersTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.callers = state.Callers()

    def call(self, function: typing.Callable[..., typing.Any],
             *args: typing.Any) -> typing.Any:
        call = state.Call(function, args)
        self.callers.submit(call)
        return call.wait(30)

    def test_outcome(self) -> None:
        self.assertEqual(3, self.call(max, 1, 3))
        self.assertRaises(ZeroDivisionError, self.call, divmod, 1, 0)

    def test_threads_do_not_wait_for_each_other(self) -> None:
        meeting = threading.Barrier(3)
        made = [state.Call(meeting.wait, (30,)) for _ in range(3)]
        for call in made:
            self.callers.submit(call)
        self.assertEqual({0, 1, 2}, {call.wait(30) for call in made})

    def test_thread_knows_whose_call_it_makes(self) -> None:
        other = state.Callers()
        self.assertFalse(self.callers.is_caller())
        self.assertEqual((True, False), self.call(lambda: (
            self.callers.is_caller(), other.is_caller())))

    def test_threads_are_those_of_the_scheduler(self) -> None:
        self.assertEqual('dcn-work', self.call(
            lambda: threading.current_thread().name))

    def test_left(self) -> None:
        go_on, closed = native.Queue(), native.Queue()
        call = state.Call(go_on.get, (), closed.put)
        self.callers.submit(call)
        self.assertRaises(native.Empty, call.wait, 0.01)
        self.assertTrue(call.leave())
        go_on.put('result')
        self.assertEqual('result', native.get(closed, 30))

    def test_answered_in_time(self) -> None:
        call = state.Call(int, ())
        call.run()
        self.assertFalse(call.leave())
        self.assertEqual(0, call.wait(0))

    def test_end_is_told_before_the_outcome(self) -> None:
        ended: list[bool] = []
        call = state.Call(int, (), ended=lambda: ended.append(
            call._outcome.empty()))
        call.run()
        self.assertEqual([True], ended)


class ConnectionTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.useFixture(runtimes.Runtime())
        self.connect()

    def connect(self, **patience: float) -> None:
        self.connection = connection.Connection(
            clients.ClusterConfig('edge', 'images', '/nowhere'),
            client_cache.Caches(),
            state.Patience(quiet=0.02, pause=0.01, **patience))
        self.state = self.connection._states.get()
        self.addCleanup(self.state.breaker.stop)
        self.client = types.SimpleNamespace(
            get_addrs=lambda: 'address', get_fsid=lambda: 'fsid',
            shutdown=lambda: self.closed.put(True))
        self.closed = native.Queue()
        self.state.adopt(self.client)
        self.probed = native.Queue()
        self.verdicts = native.Queue()
        # Why no monitor answers, if none does.
        self.reason: typing.Any = None
        self.connection.ask_monitors = (
            lambda then, first=False: then(self.reason))
        self.useFixture(fixtures.MockPatchObject(
            self.connection, '_ask_by_new_client', self.probe))
        self.go_on = native.Queue()
        # What hangs ends with the test.
        self.addCleanup(self.go_on.put, None)
        self.addCleanup(self.verdicts.put, None)

    def probe(self, state: typing.Any, factory: typing.Any,
              answered: typing.Any) -> None:
        self.answered, self.factory = answered, factory
        self.probed.put(True)
        verdict = self.verdicts.get()
        if verdict is not None:
            raise verdict

    def test_what_is_answered(self) -> None:
        self.assertEqual(3, self.connection.call(max, 1, 3))
        self.assertTrue(self.probed.empty())

    def test_slow_one_goes_on(self) -> None:
        def answer() -> None:
            for _ in range(3):
                self.verdicts.put(None)
                native.get(self.probed, 30)
            self.go_on.put('result')
        thread = native.start('answer', answer)
        self.assertEqual('result', self.connection.call(self.go_on.get))
        thread.join()
        self.assertEqual(health.UNKNOWN, self.state.breaker.health.state)

    def test_lost(self) -> None:
        closed = native.Queue()
        self.verdicts.put(errors.Unreachable('edge', 'no answer', 'wait'))
        self.assertRaises(errors.Unreachable, self.connection.call,
                          self.go_on.get, late=closed.put)
        self.assertEqual(health.DOWN, self.state.breaker.health.state)
        self.assertIsNone(self.state.client)
        # Nothing that it has sent is to be carried out.
        self.assertEqual({'address'}, self.state._to_blocklist)
        self.assertIs(self.client, self.state._retired[0].entry.client)
        # The next one is not probed for.
        self.assertIsNotNone(self.connection.lost())
        self.go_on.put('result')
        self.assertEqual('result', native.get(closed, 30))

    def test_reader_is_not_cut_off(self) -> None:
        self.verdicts.put(errors.Unreachable('edge', 'no answer', 'wait'))
        self.assertRaises(errors.Unreachable, self.connection.call,
                          self.go_on.get, fence=False)
        self.assertEqual(set(), self.state._to_blocklist)

    def test_probe_that_fails_otherwise_is_no_verdict(self) -> None:
        self.verdicts.put(errors.Misconfigured('edge', 'no key', 'see'))
        thread = native.start('answer', lambda: (
            native.get(self.probed, 30), self.go_on.put('result')))
        self.assertEqual('result', self.connection.call(self.go_on.get))
        thread.join()
        self.assertEqual(health.UNKNOWN, self.state.breaker.health.state)

    def test_probe_that_hangs(self) -> None:
        self.connect(verdict=0.05)
        self.assertRaises(errors.Unreachable, self.connection.call,
                          self.go_on.get)
        self.assertEqual(health.DOWN, self.state.breaker.health.state)

    def test_probe_that_is_answered_slowly(self) -> None:
        # As on a link where connecting takes dozens of round trips.
        self.connect(verdict=0.3)

        def answer() -> None:
            native.get(self.probed, 30)
            began = time.monotonic()
            while time.monotonic() - began < 1:
                self.answered()
            self.go_on.put('result')
        thread = native.start('answer', answer)
        self.assertEqual('result', self.connection.call(self.go_on.get))
        thread.join()

    def test_time_to_connect_for_a_probe(self) -> None:
        # More of it where there is something to connect to.
        for self.reason, timeout in ((None, 10), ('no answer', 5)):
            begun = state.Suspicion(self.client)
            self.verdicts.put(None)
            self.connection._verify(self.state, begun)
            native.get(self.probed, 30)
            self.assertEqual(timeout, self.factory.config.connect_timeout)
            # With what it takes to suspect the site, and the monitors' time.
            self.assertLess(3.5 + timeout + (2 if self.reason else 0), 15)

    def test_pool_stays_open_until_the_call_ends(self) -> None:
        pool = mock.Mock()
        self.useFixture(fixtures.MockPatchObject(
            self.connection._factory, 'open_pool', lambda *unused: pool))
        self.verdicts.put(errors.Unreachable('edge', 'no answer', 'wait'))

        def use() -> None:
            with self.connection.open_pool('images') as ioctx:
                self.connection.call(lambda _ioctx: self.go_on.get(), ioctx)
        self.assertRaises(errors.Unreachable, use)
        self.assertIsNone(self.state.client)
        # Pool and client are those of the call now.
        self.assertIs(self.client, self.connection.client_of(pool))
        pool.close.assert_not_called()
        self.assertTrue(self.closed.empty())
        self.go_on.put('result')
        self.assertTrue(native.get(self.closed, 30))
        pool.close.assert_called_once_with()

    def test_no_room_for_a_probe(self) -> None:
        asked = native.Queue()
        self.connect(room=0)
        del self.connection.ask_monitors
        self.useFixture(fixtures.MockPatchObject(
            self.state.cache, '_reserve', lambda held: False))
        self.connection._prober = types.SimpleNamespace(
            settings=types.SimpleNamespace(
                mon_host='[v2:192.0.2.1:3300,v1:192.0.2.1:6789]'))
        asker = types.SimpleNamespace(
            ask=lambda addresses, then, first: asked.put((addresses, then)))
        process.put(asker, monitors.Monitors)

        def answer() -> None:
            native.get(asked, 30)[1](None)
            # It has not ended the call.
            addresses, then = native.get(asked, 30)
            asked.put(addresses)
            then('no answer within 2 s')
        thread = native.start('answer', answer)
        error = self.assertRaises(errors.Unreachable, self.connection.call,
                                  self.go_on.get)
        thread.join()
        self.assertIn('monitors (no answer within 2 s)', str(error))
        self.assertEqual(2, len(asked.get()))
        self.assertTrue(self.probed.empty())
        self.assertEqual(health.DOWN, self.state.breaker.health.state)

    def test_within_another_call(self) -> None:
        self.assertTrue(self.connection.call(lambda: (
            native.thread_id() == self.connection.call(native.thread_id))))
