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

"""Which clients stay connected, and which are closed."""

import contextlib
import threading
from unittest import mock

from oslotest import base

from glance_dcn.ceph import client_cache
from glance_dcn.ceph import errors
from glance_dcn.ceph import state
from glance_dcn.runtime import limits
from glance_dcn.runtime import scheduler as schedulers


class Client:
    """Stands for a connected rados.Rados."""

    def __init__(self, name, closed):
        self.name = name
        self._closed = closed

    def get_fsid(self):
        return '5f9a3c1e-0000-4000-8000-6b7d2e8f1a90'

    def get_addrs(self):
        return self.name

    def shutdown(self):
        self._closed.append(self.name)


class Scheduler:
    """Runs at once what is submitted, and later what is due."""

    def __init__(self):
        self.now = 1000.0
        self.later = []
        self.limits = []

    def clock(self):
        return self.now

    def submit(self, function, limit=None):
        self.limits.append(limit)
        function()

    def call_later(self, delay, function, limit=None):
        self.later.append((self.now + delay, function))

    def advance(self, seconds):
        """Let time pass, and run what is due on the way."""
        until = self.now + seconds
        while self.later and min(self.later)[0] <= until:
            due = min(self.later, key=lambda one: one[0])
            self.later.remove(due)
            self.now = due[0]
            due[1]()
        self.now = until


class Limits:
    """Stands for the limits of the process."""

    room = None
    max_clients = 3
    processes = 1

    def room_for_clients(self, reserved):
        self.reserved = reserved
        return self.room

    def left(self):
        return limits.Amount(threads=7, files=8)


class CacheCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.scheduler = Scheduler()
        self.limits = Limits()
        self.closed = []
        self.settings = client_cache.Settings(idle_timeout=60)
        self.cache = client_cache.ClientCache(
            self.settings, self.limits, self.scheduler, self.scheduler.clock)

    def connect(self, name, patience=0):
        """Make a client of a further site, as a connection does."""
        owner = state.State(self.cache)
        with self.cache.making(name, patience):
            owner.adopt(Client(name, self.closed))
        self.cache.release(self.use(owner))
        return owner

    def use(self, owner):
        return self.cache.acquire(owner)


class TestIdle(CacheCase):

    def test_closed_after_a_while(self):
        owner = self.connect('a')
        self.scheduler.advance(59)
        self.assertEqual([], self.closed)
        self.scheduler.advance(6)
        self.assertEqual(['a'], self.closed)
        self.assertIsNone(owner.entry)
        self.assertIsNone(self.use(owner))
        # Which cluster the site has is still known.
        self.assertIsNotNone(owner.fsid)

    def test_in_use(self):
        owner = self.connect('a')
        entry = self.use(owner)
        self.scheduler.advance(600)
        self.assertEqual([], self.closed)
        self.cache.release(entry)
        self.scheduler.advance(59)
        self.assertEqual([], self.closed)
        self.scheduler.advance(6)
        self.assertEqual(['a'], self.closed)

    def test_each_use_counts(self):
        owner = self.connect('a')
        first, second = self.use(owner), self.use(owner)
        self.assertIs(first, second)
        self.cache.release(first)
        self.scheduler.advance(600)
        self.assertEqual([], self.closed)
        self.cache.release(second)
        self.scheduler.advance(66)
        self.assertEqual(['a'], self.closed)

    def test_held_beyond_the_use(self):
        entry = self.use(self.connect('a'))
        end = self.cache.hold(entry)
        self.cache.release(entry)
        self.scheduler.advance(600)
        self.assertEqual([], self.closed)
        end()
        end()
        self.assertEqual(0, entry.uses)
        self.scheduler.advance(66)
        self.assertEqual(['a'], self.closed)

    def test_nothing_is_scheduled_without_clients(self):
        self.connect('a')
        self.scheduler.advance(66)
        self.assertEqual([], self.scheduler.later)
        self.connect('b')
        self.assertEqual(1, len(self.scheduler.later))
        self.connect('c')
        self.assertEqual(1, len(self.scheduler.later))

    def test_closed_a_few_at_a_time(self):
        self.connect('a')
        self.scheduler.advance(66)
        [limit] = self.scheduler.limits
        self.assertEqual(4, limit.count)


class TestTooMany(CacheCase):

    def test_least_recently_used_first(self):
        a, b, _c = [self.connect(name) for name in 'abc']
        self.scheduler.advance(2)
        for owner in (b, a):
            self.cache.release(self.use(owner))
        self.scheduler.advance(2)
        self.connect('d')
        self.assertEqual(['c'], self.closed)
        self.scheduler.advance(2)
        self.connect('e')
        self.assertEqual(['c', 'b'], self.closed)
        self.assertEqual(3, len(self.cache))

    def test_never_one_in_use(self):
        a, b, _c = [self.connect(name) for name in 'abc']
        self.use(a)
        self.use(b)
        self.scheduler.advance(10)
        self.connect('d')
        self.assertEqual(['c'], self.closed)

    def test_all_in_use(self):
        for name in 'abcde':
            self.use(self.connect(name))
            self.scheduler.advance(10)
        self.assertEqual([], self.closed)
        self.assertEqual(5, len(self.cache))
        self.assertEqual(0, self.cache.idle)

    def test_back_to_the_limit_when_they_are_idle(self):
        entries = [self.use(self.connect(name)) for name in 'abcde']
        for entry in entries:
            self.cache.release(entry)
        self.assertEqual(5, self.cache.idle)
        self.scheduler.advance(10)
        self.connect('f')
        self.assertEqual(['a', 'b', 'c'], self.closed)

    def test_one_that_was_just_made(self):
        self.limits.max_clients = 1
        owner = state.State(self.cache)
        owner.adopt(Client('a', self.closed))
        self.scheduler.advance(4)
        # It is about to be used.
        self.connect('b')
        self.assertEqual([], self.closed)
        self.scheduler.advance(2)
        self.connect('c')
        self.assertEqual(['a', 'b'], self.closed)


class TestRoom(CacheCase):

    def test_an_idle_one_makes_room(self):
        a = self.connect('a')
        self.use(self.connect('b'))
        self.scheduler.advance(2)
        self.limits.room = 0
        exc = self.assertRaises(errors.Exhausted, self.connect, 'c')
        self.assertEqual(['a'], self.closed)
        self.assertIsNone(a.entry)
        for word in ('store c', '7 threads', '8 files', '1 connections',
                     'pids.max', 'ulimit -n'):
            self.assertIn(word, str(exc))
        self.limits.room = 1
        self.connect('c')

    def test_those_being_made_take_room(self):
        self.limits.room = 2
        with self.cache.making('a'), self.cache.making('b'):
            self.assertRaises(errors.Exhausted, self.connect, 'c')
        self.connect('c')

    def test_processes_that_grow_at_once_share_what_is_left(self):
        # Neither sees what the other is making.
        self.limits.processes = 2
        other = client_cache.ClientCache(
            self.settings, self.limits, self.scheduler, self.scheduler.clock)
        self.limits.room = 5
        with contextlib.ExitStack() as making:
            for cache in (self.cache, other):
                for name in 'ab':
                    making.enter_context(cache.making(name))
                self.assertRaises(errors.Exhausted, making.enter_context,
                                  cache.making('c', 0))

    def test_the_last_room_is_taken_in_turn(self):
        self.limits.processes = 4
        other = client_cache.ClientCache(
            self.settings, self.limits, self.scheduler, self.scheduler.clock)
        self.limits.room = 3
        with self.cache.making('a'):
            self.assertRaises(errors.Exhausted, other.making('b', 0).__enter__)
        with other.making('b', 0):
            self.assertRaises(errors.Exhausted, self.connect, 'c')
        self.connect('c')
        self.limits.room = 0
        self.assertRaises(errors.Exhausted, self.connect, 'd')

    def test_room_that_was_used_before_its_turn(self):
        self.limits.processes = 4
        # As of another process that has just made a client.
        rooms = [1, 0]
        self.limits.room_for_clients = lambda reserved: (
            rooms.pop(0) if rooms else 0)
        making = self.cache.making('a', 0)
        self.assertRaises(errors.Exhausted, making.__enter__)
        self.assertEqual([], rooms)
        # The turn is another's now.
        self.limits.room_for_clients = lambda reserved: 1
        with self.cache.making('a', 0):
            pass

    def test_threads_that_come_with_the_first_image(self):
        self.connect('a')
        self.connect('b')
        self.assertEqual(2 * limits.IMAGE_THREADS, self.reserved('c'))
        entry = self.use(self.connect('d'))
        self.cache.hold(entry)
        self.assertEqual(2 * limits.IMAGE_THREADS, self.reserved('e'))

    def reserved(self, name):
        """Return for how many threads there must be room besides."""
        with self.cache.making(name):
            return self.limits.reserved

    def test_a_failure_gives_it_back(self):
        self.limits.room = 1
        for _i in range(3):
            with self.assertRaises(errors.Unreachable), \
                    self.cache.making('a'):
                raise errors.Unreachable('a', 'no answer', 'look')

    def test_waits_for_it(self):
        cache = client_cache.ClientCache(self.settings, self.limits)
        self.limits.room = 0
        timer = threading.Timer(.2, setattr, (self.limits, 'room', 1))
        timer.start()
        self.addCleanup(timer.cancel)
        with cache.making('a', patience=60):
            self.assertEqual(1, self.limits.room)


class TestRetired(CacheCase):

    def test_how_many_are_in_use(self):
        owner = self.connect('a')
        entries = []
        for name in ('b', 'c'):
            entry = self.use(owner)
            entries.append(entry)
            owner.retire(entry.client)
            owner.adopt(Client(name, self.closed))
        self.assertEqual(2, self.cache.retired_of(owner))
        self.scheduler.advance(600)
        # The last one is idle, those before are not.
        self.assertEqual(['c'], self.closed)
        for entry in entries:
            self.cache.release(entry)
        self.assertEqual(['c', 'a', 'b'], self.closed)
        self.assertEqual(0, self.cache.retired_of(owner))


class TestBlocking(base.BaseTestCase):
    """To close a client may block: nothing else waits for it."""

    def test_others_are_closed(self):
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        closed = []

        class Hanging(Client):
            def shutdown(self):
                go_on.wait()
                super().shutdown()

        cache = client_cache.ClientCache(
            client_cache.Settings(), Limits(), schedulers.Scheduler())
        for number in range(3):
            owner = state.State(cache)
            owner.adopt(Hanging(str(number), closed))
            owner.retire(owner.client)
        other = threading.Event()
        owner = state.State(cache)
        owner.adopt(Client('other', closed))
        client = owner.client
        client.shutdown = other.set
        owner.retire(client)
        self.assertTrue(other.wait(60))
        self.assertEqual([], closed)


class TestFork(base.BaseTestCase):

    def test_a_child_begins_with_none(self):
        caches = client_cache.Caches()
        mine = caches.current()
        self.assertIs(mine, caches.current())
        owner = state.State(mine)
        owner.adopt(Client('a', []))
        with mock.patch('os.getpid', lambda: -1):
            childs = caches.current()
            self.assertIsNot(mine, childs)
            self.assertIs(childs, caches.current())
            self.assertEqual(0, len(childs))
            self.assertIs(caches.settings, childs._settings)
        self.assertIs(mine, caches.current())
        self.assertEqual(1, len(mine))
