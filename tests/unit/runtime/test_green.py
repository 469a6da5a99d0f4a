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


"""Questions of native threads to the hub of eventlet, with real eventlet."""

from __future__ import annotations

import importlib.util
import logging
import os
import pathlib
import subprocess
import sys
import textwrap
import unittest

import fixtures
from oslotest import base

from glance_dcn.runtime import green

_HEAD = """
    import eventlet
    eventlet.monkey_patch()
    # As glance-api does.
    eventlet.hubs.use_hub('poll')
    import os
    import sys
    import time

    from eventlet import patcher
    from glance_dcn.runtime import green
    from glance_dcn.runtime import native

    assert native.patched()
    hub_thread = native.thread_id()
    really_sleep = patcher.original('time').sleep

    def in_native_thread(function, *args):
        # Run it in one, while the hub runs; return its result and exception.
        answers = native.Queue()

        def run():
            try:
                answers.put((function(*args), None))
            except Exception as exc:
                answers.put((None, exc))
        native.start('asking', run)
        return native.get(answers, 60)

    def ask(*args, **kwargs):
        result, error = in_native_thread(
            lambda: green.call(*args, **kwargs))
        if error:
            raise error
        return result
"""


class TestNotPatched(base.BaseTestCase):

    def test_is_run_by_the_caller(self) -> None:
        bridge = green.Bridge()
        bridge.start()
        self.assertFalse(bridge.started)
        self.assertEqual(7, bridge.call(lambda one, two: one + two, 3, 4))
        self.assertRaises(KeyError, bridge.call, {}.__getitem__, 'missing')


@unittest.skipUnless(importlib.util.find_spec('eventlet'),
                     'eventlet is not there')
class TestPatched(base.BaseTestCase):

    def run_patched(self, script: str) -> str:
        """Run a script in a patched process, and return what it prints."""
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        path = folder / 'script.py'
        path.write_text(textwrap.dedent(_HEAD) + textwrap.dedent(script))
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', path], cwd=folder, timeout=120,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
            capture_output=True, text=True)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return done.stdout

    def test_runs_in_a_green_thread(self) -> None:
        self.assertEqual('fine\n', self.run_patched("""
            green.start()
            green.start()
            where = []

            def wait(seconds):
                # Patched: others run meanwhile.
                time.sleep(seconds)
                where.append(native.thread_id())
                return seconds
            assert ask(wait, 0.01) == 0.01
            assert where == [hub_thread]
            assert in_native_thread(native.thread_id)[0] != hub_thread
            # By a green thread itself.
            assert green.call(wait, 0) == 0
            print('fine')
            """))

    def test_raises_what_the_function_raises(self) -> None:
        self.assertEqual('fine\n', self.run_patched("""
            green.start()

            def fails():
                raise KeyError('missing')
            for _ in range(3):
                try:
                    ask(fails)
                except KeyError as exc:
                    assert exc.args == ('missing',)
                else:
                    raise AssertionError('nothing was raised')

            def leaves():
                sys.exit(3)
            try:
                # The hub goes on all the same.
                answers = native.Queue()

                def run():
                    try:
                        green.call(leaves)
                    except SystemExit as exc:
                        answers.put(exc.code)
                native.start('asking', run)
                assert native.get(answers, 60) == 3
            finally:
                assert ask(lambda: 1) == 1
            print('fine')
            """))

    def test_many_threads_at_a_time(self) -> None:
        # One that takes long holds up neither the others nor the hub.
        self.assertEqual('fine\n', self.run_patched("""
            green.start()
            go_on = eventlet.event.Event()
            answers = native.Queue()
            native.start('long', lambda: answers.put(
                green.call(go_on.wait)))

            def many(number):
                for count in range(200):
                    assert green.call(lambda: (number, count)) == (
                        number, count)
                answers.put(number)
            for number in range(8):
                native.start('many', many, number)
            found = sorted(native.get(answers, 60) for _ in range(8))
            assert found == list(range(8)), found
            go_on.send('at last')
            assert native.get(answers, 60) == 'at last'
            print('fine')
            """))

    def test_takes_too_long(self) -> None:
        self.assertEqual('fine\n', self.run_patched("""
            green.start()
            go_on, ran = eventlet.event.Event(), []

            def long():
                go_on.wait()
                ran.append(1)
            result, error = in_native_thread(
                lambda: green.call(long, timeout=0.05))
            assert isinstance(error, green.NoAnswer), error
            go_on.send()
            assert ask(lambda: 2) == 2
            # The hub itself is held up: what is not begun never begins.
            answers = native.Queue()

            def late():
                try:
                    green.call(ran.append, 2, timeout=0.05)
                except green.NoAnswer:
                    answers.put('no answer')
            native.start('late', late)
            really_sleep(1)
            assert native.get(answers, 60) == 'no answer'
            assert ask(lambda: 3) == 3
            assert ran == [1], ran
            print('fine')
            """))

    def test_was_not_started(self) -> None:
        self.assertEqual('fine\n', self.run_patched("""
            result, error = in_native_thread(
                lambda: green.call(lambda: 1))
            assert type(error) is green.Unavailable, error
            print('fine')
            """))

    def test_children_of_a_fork(self) -> None:
        # As glance-api does it: set up first, then forked, then served.
        self.assertEqual('fine\n', self.run_patched("""
            green.start()
            assert ask(os.getpid) == os.getpid()
            children = []
            for _ in range(3):
                # One that has no answer yet.
                answers = native.Queue()
                native.start('asking', lambda: answers.put(
                    green.call(os.getpid)))
                really_sleep(0.1)
                pid = os.fork()
                if pid == 0:
                    assert native.thread_id() == hub_thread
                    for _ in range(50):
                        assert ask(os.getpid) == os.getpid()
                        assert green.call(os.getpid) == os.getpid()
                    # A child of its own.
                    grandchild = os.fork()
                    assert ask(os.getpid) == os.getpid()
                    if grandchild:
                        assert os.waitpid(grandchild, 0)[1] == 0
                    os._exit(0)
                children.append(pid)
                assert native.get(answers, 60) == os.getpid()
                for _ in range(50):
                    assert ask(os.getpid) == os.getpid()
            for pid in children:
                assert os.waitpid(pid, 0)[1] == 0
            print('fine')
            """))

    def test_thread_that_is_there_before_the_child_is_ready(self) -> None:
        self.assertEqual('fine\n', self.run_patched("""
            answers = native.Queue()

            def begin():
                # Before the hook of the bridge, which was registered later.
                native.start('early', lambda: answers.put(
                    green.call(os.getpid)))
                really_sleep(0.3)
            os.register_at_fork(after_in_child=begin)
            green.start()
            pid = os.fork()
            if pid == 0:
                assert native.get(answers, 60) == os.getpid()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            print('fine')
            """))

    def test_child_of_a_native_thread(self) -> None:
        # It has no hub: nothing is answered, and nothing hangs.
        self.assertEqual('fine\n', self.run_patched("""
            green.start()

            def forks():
                pid = os.fork()
                if pid == 0:
                    code = 1
                    try:
                        green.call(os.getpid, timeout=0.1)
                    except green.NoAnswer:
                        code = 0
                    finally:
                        os._exit(code)
                return pid
            pid, error = in_native_thread(forks)
            assert os.waitpid(pid, 0)[1] == 0
            assert ask(os.getpid) == os.getpid()
            print('fine')
            """))


# The lock of the module, or of a handler, is held by a native thread while one
# of each kind logs.
_LOGGING = """
    import eventlet
    eventlet.monkey_patch()
    eventlet.hubs.use_hub('poll')
    from eventlet import patcher
    from glance_dcn.runtime import green
    from glance_dcn.runtime import native
    import logging
    import os
    import sys
    import threading
    import time

    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    # As with an oslo.log that makes no locks for both kinds of threads.
    logging._lock = threading.RLock()
    handler = logging.getLogger().handlers[0]
    handler.lock = threading.RLock()
    assert green._is_green(logging._lock)
    if 'unshared' not in sys.argv:
        green.start()
        assert not green._is_green(logging._lock)
        assert not green._is_green(handler.lock)
    really_sleep = patcher.original('time').sleep

    def hold(lock, held):
        with lock:
            held.put(True)
            really_sleep(.3)

    for lock in (logging._lock, handler.lock):
        for number in range(3):
            held, done = native.Queue(), native.Queue()
            native.start('holds', hold, lock, held)
            native.get(held, 60)
            # A logger that has asked for no level yet takes the first lock.
            eventlet.spawn(lambda: done.put(logging.getLogger(
                'green.%d' % number).info('said')))
            native.start('logs', lambda: done.put(logging.getLogger(
                'native.%d' % number).info('said')))
            for _thread in range(2):
                native.get(done, 20)
    if os.fork():
        assert os.wait()[1] == 0
    logging.getLogger('after').info('said')
    print('fine')
    """


@unittest.skipUnless(importlib.util.find_spec('eventlet'),
                     'eventlet is not there')
class TestPatchedLogging(base.BaseTestCase):

    def run_script(self, *args: str) -> subprocess.CompletedProcess[str]:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        path = folder / 'script.py'
        path.write_text(textwrap.dedent(_LOGGING))
        return subprocess.run(
            [sys.executable, '-W', 'ignore', path, *args], cwd=folder,
            timeout=300, env={**os.environ,
                              'PYTHONPATH': os.pathsep.join(sys.path)},
            capture_output=True, text=True)

    def test_nobody_waits_for_ever(self) -> None:
        done = self.run_script()
        self.assertEqual('fine\nfine\n', done.stdout, done.stderr)
        self.assertEqual(14, done.stderr.count(':said'))


class TestLogging(base.BaseTestCase):

    def test_nothing_is_changed(self) -> None:
        before = logging._lock
        green.share_logging_locks()
        self.assertIs(before, logging._lock)
        self.assertFalse(green._is_green(before))
