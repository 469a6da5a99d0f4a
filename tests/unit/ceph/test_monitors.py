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

"""Asking monitors, at sockets of this host."""

import os
import resource
import socket
import sys
import threading
import time

import fixtures
from oslotest import base

from glance_dcn.ceph import monitors
from glance_dcn.runtime import native
from glance_dcn.runtime import scheduler
from lab import process


class ParseTest(base.BaseTestCase):

    def test_parse(self):
        cases = (
            ('', []),
            ('10.0.0.1', [('10.0.0.1', 3300), ('10.0.0.1', 6789)]),
            ('10.0.0.1:6789, 10.0.0.2:6789',
             [('10.0.0.1', 6789), ('10.0.0.2', 6789)]),
            ('v2:127.0.0.1:4000', [('127.0.0.1', 4000)]),
            ('[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0] '
             '[v2:10.0.0.2:3300,v1:10.0.0.2:6789]',
             [('10.0.0.1', 3300), ('10.0.0.1', 6789), ('10.0.0.2', 3300),
              ('10.0.0.2', 6789)]),
            ('[fd00::1]:6789;[fd00::2]',
             [('fd00::1', 6789), ('fd00::2', 3300), ('fd00::2', 6789)]),
            ('[v2:[fd00::1]:3300/0,v1:[fd00::1]:6789/0]',
             [('fd00::1', 3300), ('fd00::1', 6789)]),
            # Names are for librados to resolve.
            ('mon.example.org', []),
            ('10.0.0.1 mon2', []),
            # librados takes them for monitors that do not answer.
            ('10.0.0.1:67890', []), ('999.1.1.1:6789', []),
            ('[fd00::1::2]:6789', []))
        for text, expected in cases:
            self.assertEqual(expected, monitors.parse(text), text)


class MonitorsTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.threads = []
        self.monitors = monitors.Monitors(scheduler.Scheduler(
            start=lambda *args: self.threads.append(native.start(*args))))
        self.reasons = native.Queue()

    def listen(self, banner=b''):
        """Return the address of a server that sends some bytes at once."""
        server = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(server.close)
        if banner:
            def serve():
                while True:
                    try:
                        connected = server.accept()[0]
                    except OSError:
                        return
                    connected.sendall(banner)
            threading.Thread(target=serve, daemon=True).start()
        return monitors.Address(*server.getsockname())

    @staticmethod
    def connections(address):
        """Return how many connections to it are open."""
        host, port = address
        remote = '%08X:%04X' % (int.from_bytes(
            socket.inet_aton(host), sys.byteorder), port)
        established = '01'
        with open('/proc/self/net/tcp') as f:
            return sum(line.split()[2:4] == [remote, established]
                       for line in f)

    def closed(self):
        """Return an address that nobody listens at."""
        with socket.create_server(('127.0.0.1', 0)) as server:
            return monitors.Address(*server.getsockname())

    def ask(self, *addresses):
        self.monitors.ask(list(addresses), self.reasons.put)
        return self.reasons.get(timeout=60)

    def test_one_answers(self):
        self.assertIsNone(self.ask(self.listen(b'ceph v2\n')))
        self.assertIsNone(self.ask(self.closed(), self.listen(),
                                   self.listen(b'ceph v2\n')))

    def test_nobody_listens(self):
        self.assertEqual(os.strerror(111), self.ask(self.closed()))

    def test_address_that_is_none_holds_up_no_other(self):
        self.assertIsNotNone(self.ask(monitors.Address('127.0.0.1', 67890)))
        self.assertIsNone(self.ask(self.listen(b'ceph v2\n')))

    def test_answer_that_leads_to_an_error_holds_up_no_other(self):
        self.useFixture(fixtures.FakeLogger())

        def fail(reason):
            self.reasons.put('failed')
            raise ValueError
        self.monitors.ask([self.closed()], fail)
        self.assertEqual('failed', self.reasons.get(timeout=60))
        self.assertIsNone(self.ask(self.listen(b'ceph v2\n')))

    def test_process_without_files_cannot_tell(self):
        address = self.closed()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, most)
        with open(os.devnull) as lowest:
            question = monitors._Question([address], print)
            resource.setrlimit(resource.RLIMIT_NOFILE,
                               (lowest.fileno(), most[1]))
            question.begin(0)
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        self.assertTrue(question.poll(0))
        self.assertIsNone(question.reason)

    def test_address_of_a_family_that_there_is_not(self):
        # Without IPv6: EADDRNOTAVAIL, or no route. Others are asked.
        question = monitors._Question(
            [self.closed(), monitors.Address('2001:db8::1', 3300)], print)
        question.begin(0)
        self.addCleanup(question.close)
        self.assertTrue(question.poll(monitors.TIMEOUT))
        self.assertIsNotNone(question.reason)

    def test_a_call_that_waits_comes_first(self):
        many = [self.listen() for _one in range(12)]
        over = []
        for number in range(60):
            self.monitors.ask(many, lambda reason, number=number:
                              over.append(number))
        self.monitors.ask([self.closed()], lambda reason: (
            over.append('call'), self.reasons.put(reason)), first=True)
        self.assertIsNotNone(self.reasons.get(timeout=60))
        # After those at most that were being asked.
        self.assertLess(over.index('call'), 45)

    def test_accepted_by_what_says_nothing(self):
        # A monitor that is stopped, or a gateway in front of a cut link.
        began = time.monotonic()
        self.assertIn('no answer', self.ask(self.closed(), self.listen()))
        self.assertGreaterEqual(time.monotonic() - began, monitors.TIMEOUT)

    def test_many_take_no_threads_and_hold_up_none(self):
        silent = self.listen()
        answers = self.listen(b'ceph v2\n')
        for _ in range(400):
            self.monitors.ask([silent], lambda reason: None)
        began = time.monotonic()
        self.monitors.ask([answers], self.reasons.put)
        threads = connections = 0
        while True:
            threads = max(threads, sum(
                thread.is_alive() for thread in list(self.threads)))
            connections = max(connections, self.connections(silent))
            try:
                self.assertIsNone(self.reasons.get(timeout=0.1))
                break
            except native.Empty:
                continue
        # The scheduler, and one that polls them all.
        self.assertLessEqual(threads, 3)
        self.assertLessEqual(connections, 240)
        self.assertGreater(connections, 32)
        # Not after each thirty of them.
        self.assertLess(time.monotonic() - began, 5 * monitors.TIMEOUT)

    def test_all_sockets_are_closed(self):
        silent = self.listen()
        for _ in range(3):
            self.monitors.ask([silent, silent], self.reasons.put)
        process.wait_for('the connections',
                         lambda: self.connections(silent) == 6, 30, 0.05)
        for _ in range(3):
            self.assertIn('no answer', self.reasons.get(timeout=60))
        self.assertEqual(0, self.connections(silent))
