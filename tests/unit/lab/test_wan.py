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

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

from bench import stream
from lab import process
from lab import wan

_CAN = (os.geteuid() == 0 and os.access('/dev/net/tun', os.R_OK | os.W_OK))


class TestQuality(unittest.TestCase):

    def test_impossible(self):
        for wrong in ({'delay': -1}, {'rate': -1}, {'loss': 1.1}):
            self.assertRaises(ValueError, wan.Quality, **wrong)

    def test_pump_settings(self):
        self.assertEqual('0 0 0 0 1\n',
                         wan.pump_settings(wan.Quality(), False, 1))
        self.assertEqual('25500 1000000000 1500 1 7\n', wan.pump_settings(
            wan.Quality(25.5, 1000, 0.0015), True, 7))

    def test_netem_options(self):
        def text(*args):
            return ' '.join(map(str, wan.netem_options(*args)))
        self.assertEqual('limit 100000 delay 0us',
                         text(wan.Quality(), False))
        self.assertEqual(
            'limit 100000 delay 25000us loss 0.1000% rate 1000000kbit',
            text(wan.Quality(25, 1000, 0.001), False))
        self.assertIn('loss 100.0000%', text(wan.Quality(), True))


class TestRights(unittest.TestCase):

    def test_not_root(self):
        with tempfile.TemporaryDirectory() as folder:
            with mock.patch.object(os, 'geteuid', return_value=1):
                with self.assertRaisesRegex(process.LabError, 'root'):
                    wan.Link(folder).start()


@unittest.skipUnless(_CAN, 'a WAN link needs the rights of root, and TUN')
class TestLink(unittest.TestCase):

    def setUp(self):
        super().setUp()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.wmem = wan._WMEM.read_text()
        self.link = wan.Link(holder.name)
        self.addCleanup(self.link.stop)
        self.link.start()

    def connecting_time(self):
        """Return how long a SYN takes to be refused, or None."""
        started = time.monotonic()
        with socket.socket() as sock:
            sock.settimeout(0.7)
            try:
                sock.connect((self.link.far, 9))
            except ConnectionRefusedError:
                return time.monotonic() - started
            except TimeoutError:
                return None
        raise AssertionError('somebody listens there')

    def send(self, size):
        """Send bytes to the far end; return the seconds it took."""
        sink = subprocess.Popen(
            self.link.command([sys.executable, stream.__file__,
                               self.link.far]), stdout=subprocess.PIPE)
        port = int(sink.stdout.readline())
        started = time.monotonic()
        stream.send(self.link.far, port, size)
        taken = time.monotonic() - started
        sink.communicate()
        return taken

    def test_delay(self):
        self.assertLess(self.connecting_time(), 0.1)
        self.link.set(wan.Quality(delay=100))
        self.assertGreaterEqual(self.connecting_time(), 0.2)

    def test_rate(self):
        self.link.set(wan.Quality(rate=40))
        self.assertGreaterEqual(self.send(10000000), 1.9)

    def test_counters(self):
        before = self.link.counters()
        self.send(3000000)
        after = self.link.counters()
        self.assertGreater(after[0] - before[0], 3000000)
        self.assertLess(after[0] - before[0], 3300000)
        self.assertGreater(after[1], before[1])

    def test_loss_is_repaired_by_tcp(self):
        self.link.set(wan.Quality(loss=0.01))
        self.send(3000000)

    def test_all_lost(self):
        self.link.set(wan.Quality(loss=1))
        self.assertIsNone(self.connecting_time())

    def test_cut_and_heal(self):
        self.link.set(wan.Quality(delay=10))
        self.link.cut()
        self.assertIsNone(self.connecting_time())
        self.link.heal()
        self.assertGreaterEqual(self.connecting_time(), 0.02)
        self.assertEqual(wan.Quality(delay=10), self.link.quality)

    def test_nothing_is_left(self):
        namespace, near = self.link.namespace, self.link._device('n')
        self.assertTrue(self.link.up)
        self.link.stop()
        self.assertFalse(self.link.up)
        self.assertFalse(pathlib.Path('/run/netns', namespace).exists())
        self.assertFalse(pathlib.Path('/sys/class/net', near).exists())
        self.assertEqual(self.wmem, wan._WMEM.read_text())
        self.link.stop()

    def test_again_after_a_crash(self):
        self.link.pump.signal(9)
        again = wan.Link(self.link.directory)
        again.start(wan.Quality(delay=50))
        self.assertGreaterEqual(self.connecting_time(), 0.1)
        self.assertEqual(0, wan._WMEM.read_text().count('None'))

    def test_two_links(self):
        with tempfile.TemporaryDirectory() as folder:
            other = wan.Link(folder)
            other.start()
            self.addCleanup(other.stop)
            self.assertNotEqual(self.link.far, other.far)
            other.stop()

    def test_netem(self):
        """The same on veth, as where the kernel has netem.

        The kernels of test machines do not have it: its qdiscs are left out.
        """
        self.link.stop()
        with mock.patch.object(wan.Link, '_tc') as tc:
            with mock.patch.object(process, 'run', _run_without_tc):
                self.link.start()
            self.assertLess(self.connecting_time(), 0.1)
            tc.reset_mock()
            self.link.set(wan.Quality(delay=10))
        options = ['limit', 100000, 'delay', '10000us']
        self.assertEqual(
            [mock.call([], self.link._device('n'), options),
             mock.call(['-n', self.link.namespace], self.link._device('f'),
                       options)], tc.mock_calls)
        self.assertIsNone(self.link.pump.pid)


def _run_without_tc(argv, _run=process.run, **options):
    return '' if argv[0] == 'tc' else _run(argv, **options)
