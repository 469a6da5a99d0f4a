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

"""What is due later, by a clock and with threads of the test's."""

import importlib.util
import logging
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unittest

import fixtures
from oslotest import base

from glance_dcn.runtime import native
from glance_dcn.runtime import scheduler

_ROOT = pathlib.Path(__file__).parents[3]


class Threads:
    """Starts no threads, but keeps what they are to run."""

    def __init__(self):
        self.begun = []
        self.refuses = False

    def start(self, name, function, *args):
        if self.refuses:
            raise RuntimeError("can't start new thread")
        self.begun.append((name, function, args))

    def count(self, name):
        return [begun[0] for begun in self.begun].count(name)

    def run_work(self):
        """Run the calls that threads of the pool were started for."""
        ran = [one for one in self.begun if one[0] == 'dcn-work']
        self.begun = [one for one in self.begun if one[0] != 'dcn-work']
        for _name, function, args in ran:
            function(*args)
        return len(ran)


class ClockTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))
        self.now = 100.0
        self.threads = Threads()
        self.scheduler = scheduler.Scheduler(lambda: self.now,
                                             self.threads.start, idle=0)
        self.ran = []

    def call(self, what, delay=0, limit=None):
        return self.scheduler.call_later(
            delay, lambda: self.ran.append(what), limit)

    def pass_time(self, seconds):
        self.now += seconds
        left = self.scheduler.run_due()
        self.threads.run_work()
        return left

    def test_in_the_order_in_which_they_are_due(self):
        self.call('late', 10)
        self.call('soon', 5)
        self.assertEqual(5, self.pass_time(0))
        self.assertEqual([], self.ran)
        self.assertEqual(5, self.pass_time(5))
        self.assertEqual(['soon'], self.ran)
        self.assertIsNone(self.pass_time(5))
        self.assertEqual(['soon', 'late'], self.ran)

    def test_one_thread_schedules_any_number(self):
        for number in range(300):
            self.call(number, 5 + number)
        self.assertEqual(['dcn-scheduler'],
                         [begun[0] for begun in self.threads.begun])

    def test_cancelled(self):
        self.assertTrue(self.call('never', 5).cancel())
        self.assertIsNone(self.pass_time(10))
        self.assertEqual([], self.ran)

    def test_limit_of_a_kind(self):
        limit = scheduler.Limit('probe', 2)
        for number in range(5):
            self.call(number, 0, limit)
        self.call('other')
        self.scheduler.run_due()
        # Two of the kind, and the one that has no limit.
        self.assertEqual(3, self.threads.count('dcn-work'))
        self.threads.run_work()
        # Those that wait are run by the threads of those that end.
        self.assertEqual([0, 2, 3, 4, 1, 'other'], self.ran)
        self.call('again', 0, limit)
        self.pass_time(0)
        self.assertEqual('again', self.ran[-1])

    def test_cancelled_while_it_waits_for_others(self):
        limit = scheduler.Limit('probe', 1)
        calls = [self.call(number, 0, limit) for number in range(3)]
        self.scheduler.run_due()
        self.assertTrue(calls[1].cancel())
        self.threads.run_work()
        self.assertEqual([0, 2], self.ran)

    def test_failure_is_logged_and_ends_nothing(self):
        self.scheduler.call_later(0, lambda: 1 / 0)
        self.call('next')
        self.pass_time(0)
        self.assertEqual(['next'], self.ran)
        self.assertIn('division by zero', self.log.output)

    def test_repetition(self):
        repetition = self.scheduler.every(
            5, lambda: self.ran.append(self.now) is None)
        for _ in range(7):
            self.pass_time(2)
        # From the end of one to the next.
        self.assertEqual([106, 112], self.ran)
        self.assertTrue(repetition.stop())
        self.assertIsNone(self.pass_time(60))
        self.assertEqual(2, len(self.ran))

    def test_repetition_that_ends_itself(self):
        self.scheduler.every(5, lambda: self.ran.append(self.now))
        self.pass_time(5)
        self.assertIsNone(self.pass_time(60))
        self.assertEqual([105], self.ran)

    def test_no_thread_to_be_had(self):
        self.threads.refuses = True
        self.call('late')
        self.threads.refuses = False
        self.call('other', 9)
        self.threads.refuses = True
        self.scheduler.run_due()
        self.threads.refuses = False
        self.assertEqual([], self.ran)
        self.assertIn('raise the limit of threads', self.log.output)
        self.pass_time(1)
        self.assertEqual(['late'], self.ran)


class ThreadsTest(base.BaseTestCase):
    """With real threads."""

    def setUp(self):
        super().setUp()
        # Those of other tests may be there as well.
        self.threads = []
        self.scheduler = scheduler.Scheduler(
            start=lambda *args: self.threads.append(native.start(*args)),
            idle=0.05)

    def test_one_that_hangs_holds_up_no_other(self):
        go_on, done = threading.Event(), threading.Semaphore(0)
        self.addCleanup(go_on.set)
        for _ in range(20):
            self.scheduler.call_later(0, go_on.wait)
        for _ in range(5):
            self.scheduler.call_later(0.01, done.release)
        for _ in range(5):
            self.assertTrue(done.acquire(timeout=30))

    def test_threads_end_when_there_is_nothing_to_do(self):
        done = threading.Semaphore(0)
        for number in range(20):
            self.scheduler.call_later(number / 1000, done.release)
        for _ in range(20):
            self.assertTrue(done.acquire(timeout=30))
        for thread in self.threads:
            thread.join(30)
            self.assertFalse(thread.is_alive(), thread.name)

    def test_stop_waits_for_the_call_that_runs(self):
        entered, go_on = threading.Event(), threading.Event()
        ended = []

        def work():
            entered.set()
            go_on.wait(30)
            ended.append(True)
            return True
        repetition = self.scheduler.every(0.01, work)
        self.assertTrue(entered.wait(30))
        self.assertFalse(repetition.stop(0.01))
        threading.Timer(0.05, go_on.set).start()
        self.assertTrue(repetition.stop(30))
        self.assertEqual([True], ended)

    def test_thread_runs_the_calls_of_its_process(self):
        # The thread of what was taken for a child waited for nothing, and
        # never ran what was due there.
        ran = threading.Event()
        with fixtures.MonkeyPatch('os.getpid',
                                  lambda: -1):
            self.scheduler.call_later(0.2, ran.set)
        self.assertTrue(ran.wait(30))
        for thread in self.threads:
            thread.join(30)
            self.assertFalse(thread.is_alive())

    def test_child_of_a_fork_begins_with_nothing(self):
        # The parent's lock may be held for ever in the child.
        ran = threading.Event()
        self.scheduler.call_later(3600, ran.set)
        reader, writer = os.pipe()
        with self.scheduler._states.get().lock:
            child = os.fork()
            if not child:
                signal.alarm(30)
                self.scheduler.call_later(
                    0, lambda: os.write(writer, b'x'))
                time.sleep(30)
                os._exit(1)
        try:
            self.assertEqual(b'x', os.read(reader, 1))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@unittest.skipUnless(importlib.util.find_spec('eventlet'), 'no eventlet')
class GreenTest(base.BaseTestCase):
    """In a process that eventlet has patched, and in a child of it."""

    def test_calls_go_on_beside_the_hub(self):
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', textwrap.dedent('''
                import eventlet
                eventlet.monkey_patch()
                from glance_dcn.runtime import native
                from glance_dcn.runtime import process
                from glance_dcn.runtime import scheduler
                import os
                import time

                ran = native.Queue()
                def wait():
                    # A green thread waits: the hub is not kept.
                    native.get(ran, 60)
                ticks = []
                def tick():
                    ticks.append(1)
                    eventlet.spawn_after(0.01, tick)
                tick()
                work = process.get(scheduler.Scheduler)
                work.call_later(0.2, lambda: ran.put(1))
                wait()
                assert len(ticks) > 1, ticks
                repetition = work.every(
                    0.01, lambda: ran.put(1) is None)
                wait()
                assert repetition.stop(60)
                child = os.fork()
                if not child:
                    work.call_later(0, lambda: os._exit(7))
                    time.sleep(60)
                    os._exit(1)
                print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
            ''')], cwd=_ROOT, capture_output=True, text=True, timeout=120)
        self.assertEqual(('7\n', 0), (done.stdout, done.returncode),
                         done.stderr)
