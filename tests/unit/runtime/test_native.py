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


"""Native threads, also in a process that eventlet has patched."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time
import typing
import unittest
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.engine.backends import rbd as rbd_backend
from glance_dcn.runtime import native

_SCRIPT = """
    import eventlet
    eventlet.monkey_patch()
    import hashlib
    import io
    import os
    import time

    from eventlet import patcher
    from glance_dcn.engine.backends import file
    from glance_dcn.engine import stream
    from glance_dcn.engine import transfer
    from glance_dcn.runtime import native

    assert native.patched()
    main = patcher.original('threading').get_ident()
    seen = []
    native.start('x', lambda: seen.append(
        patcher.original('threading').get_ident()))

    beats = []

    def beat():
        while True:
            beats.append(1)
            time.sleep(0.001)

    eventlet.spawn(beat)
    data = os.urandom(3 << 20) + bytes(200 << 20) + b'x'
    with file.File('one', create=True) as one:
        with stream.Sink(one, hashes=['md5', 'sha512']) as sink:
            sink.write_from(io.BytesIO(data))
            result = sink.finish()
        assert result.hashes['md5'] == hashlib.md5(data).hexdigest()
        with file.File('two', create=True) as two:
            two.resize(one.size)
            count = len(beats)
            again = transfer.Transfer(one, [two], hashes=['md5']).run()
            assert again.content == result.content
            assert again.hashes['md5'] == result.hashes['md5']
            assert len(beats) - count > 20, len(beats) - count
            assert b''.join(stream.Reader(two)) == data
    count = len(beats)
    sleep = patcher.original('time').sleep
    assert native.call(lambda: (sleep(0.2), 'slept')[1]) == 'slept'
    assert len(beats) - count > 5, len(beats) - count
    try:
        native.call(int, 'x')
    except ValueError:
        pass
    else:
        raise AssertionError('no error')
    assert seen and seen[0] != main
    print('fine')
"""

# Each way to wait in native threads, again and again: how many descriptors
# that has left behind. What a hub that was left has open is one.
_HUBS = """
    import eventlet
    eventlet.monkey_patch()
    import gc
    import os
    import socket
    import subprocess

    from glance_dcn.runtime import native

    def get():
        try:
            native.get(native.Queue(), 0.02)
        except native.Empty:
            pass

    def connect():
        one, other = socket.socketpair()
        with one, other:
            other.settimeout(0.02)
            try:
                other.recv(1)
            except socket.timeout:
                pass

    def run():
        # What glance_dcn does not call itself: it waits in a hub.
        subprocess.run(['sleep', '0.05'])

    def open_files():
        gc.collect()
        return len(os.listdir('/proc/self/fd'))

    for wait in get, lambda: native.sleep(0.02), connect, run:
        for count in range(6):
            if count == 1:
                before = open_files()
            ended = native.Queue()
            # A green thread waits for it meanwhile.
            thread = native.start('x', lambda: (wait(), ended.put(True)))
            native.get(ended, 60)
            thread.join()
        print(open_files() - before)
"""


class TestGet(base.BaseTestCase):

    def test_does_not_wait_for_ever(self):
        # The get() of Python 3.9 and 3.10 now and then does, when a timeout of
        # 0 has run out while it finds the lock of an empty queue free, as that
        # of a new one is. In a thread: it cannot be ended.
        asked = []

        def ask():
            for _ in range(100000):
                try:
                    native.get(native.Queue(), 0)
                except native.Empty:
                    continue
            asked.append(True)
        native.start('test', ask).join(30)
        self.assertEqual([True], asked)

    def test_takes_what_comes(self):
        queue = native.Queue()
        native.start('test', lambda: (time.sleep(.1), queue.put(1)))
        self.assertEqual(1, native.get(queue, 10))
        self.assertRaises(native.Empty, native.get, queue, .01)

    def test_waits_without_end(self):
        queue = native.Queue()
        later = threading.Timer(.2, queue.put, [1])
        later.start()
        self.addCleanup(later.join)
        self.assertEqual(1, native.get(queue, float('inf')))


@unittest.skipUnless(importlib.util.find_spec('eventlet'),
                     'eventlet is not installed')
class TestEventlet(base.BaseTestCase):

    def test_patched_process(self):
        self.assertEqual('fine\n', self.run_script(_SCRIPT))

    def test_threads_leave_no_hub_behind(self):
        self.assertEqual(4 * '0\n', self.run_script(_HUBS))

    def run_script(self, text):
        """Return what a process of its own prints, which is to succeed."""
        folder = self.useFixture(fixtures.TempDir()).path
        root = pathlib.Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(text)],
            cwd=folder, env=dict(os.environ, PYTHONPATH=str(root)),
            timeout=60, capture_output=True, text=True)
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout


class SharedTest(base.BaseTestCase):

    def test_closed_after_the_last_use(self) -> None:
        close = mock.Mock()
        uses = native.Shared(close)
        uses.acquire()
        self.assertFalse(uses.release())
        close.assert_not_called()
        self.assertTrue(uses.release())
        close.assert_called_once_with()
        self.assertFalse(uses.acquire())


class Left(Exception):
    """A call was left."""


class Cluster:
    """A cluster that answers no call before it is told to.

    :ivar answer: lets it answer one
    """

    def __init__(self) -> None:
        self.answer: typing.Any = native.Queue()
        self.ended: typing.Any = native.Queue()

    def call(self, function: typing.Callable[..., object], *args: object,
             fence: bool = True) -> None:
        def run() -> None:
            self.answer.get()
            function(*args)
            self.ended.put(True)
        native.start('call', run)
        raise Left


class ImageTest(base.BaseTestCase):
    """An image of which a call was left is closed after that has ended."""

    def setUp(self) -> None:
        super().setUp()
        self.image = self.useFixture(fixtures.MockPatch(
            'glance_dcn.engine.backends.rbd.rbd.Image')).mock.return_value
        self.image.stat.return_value = {'size': 1, 'obj_size': 1 << 22,
                                        'order': 22}
        self.image.features.return_value = 1
        self.image.stripe_count.return_value = 1
        self.image.stripe_unit.return_value = 1 << 22
        self.image.list_snaps.return_value = []
        self.ioctx = mock.Mock()
        self.ioctx.dup.return_value = self.ioctx
        self.image.data_pool_id.return_value = (
            self.ioctx.get_pool_id.return_value)
        self.closed: typing.Any = native.Queue()
        self.cluster = Cluster()

    def open(self, writable: bool) -> rbd_backend.RBD:
        return rbd_backend.RBD(
            self.ioctx, 'image', writable=writable, cluster=self.cluster,
            hold=lambda: lambda: self.closed.put(True))

    def test_left(self) -> None:
        for writable in (False, True):
            self.image.reset_mock()
            used = mock.Mock()
            with self.open(writable) as endpoint:
                for _ in range(2):
                    self.assertRaises(Left, endpoint.call, used, 'record')
            for _ in range(2):
                self.image.close.assert_not_called()
                self.assertTrue(self.closed.empty())
                self.cluster.answer.put(True)
                self.assertTrue(native.get(self.cluster.ended, 30))
            self.assertTrue(native.get(self.closed, 30))
            self.image.close.assert_called_once_with()
            used.assert_called_with(self.image, 'record')

    def test_none_was_left(self) -> None:
        endpoint = self.open(True)
        for _ in range(2):
            # Once more does nothing.
            endpoint.close()
        self.assertTrue(native.get(self.closed, 30))
        self.assertTrue(self.closed.empty())
        self.image.close.assert_called_once_with()
