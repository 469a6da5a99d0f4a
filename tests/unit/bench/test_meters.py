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

import json
import mmap
import os
import pathlib
import resource
import socket
import struct
import tempfile
import threading
import unittest
from unittest import mock

from bench import meters
from bench import stream


class TestWorker(unittest.TestCase):

    def test_peak_of_memory(self):
        meter = meters.Worker(os.getpid())
        meter.start()
        # Not by malloc: when that gives memory back depends on what other
        # tests of this process have told it.
        with mmap.mmap(-1, 64 << 20) as block:
            for position in range(0, len(block), mmap.PAGESIZE):
                block[position] = 1
        _cpu, memory = meter.stop()
        self.assertGreater(memory, 50 << 20)
        meter.start()
        self.assertLess(meter.stop()[1], 50 << 20)

    def test_cpu(self):
        meter, usage = (meters.Worker(os.getpid()),
                        meters.Usage(resource.RUSAGE_SELF))
        meter.start()
        usage.start()
        while usage.stop()[0] < 0.2:
            sum(range(10000))
        self.assertGreater(meter.stop()[0], 0.1)


class TestAdminSocket(unittest.TestCase):

    def test_counters(self):
        answer = json.dumps({
            'AsyncMessenger::Worker-0': {'msgr_recv_bytes': 1},
            'AsyncMessenger::Worker-1': {'msgr_recv_bytes': 2},
            'osd': {'op': 9, 'op_out_bytes': 30},
            'bluestore': {'bluestore_allocated': 4096}}).encode()
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder) / 'run'
            run.mkdir()
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(run / 'osd.0.asok'))
                server.listen()
                asked = []

                def serve():
                    peer, _address = server.accept()
                    with peer:
                        asked.append(peer.recv(1000))
                        peer.sendall(struct.pack('>I', len(answer)) + answer)
                thread = threading.Thread(target=serve)
                thread.start()

                class Cluster:
                    directory = pathlib.Path(folder)
                found = meters.osd_counters(Cluster)
                thread.join()
        self.assertEqual([b'{"prefix": "perf dump"}\0'], asked)
        self.assertEqual({'received': 3, 'read': 30, 'allocated': 4096,
                          'operations': 9}, found)


class TestStream(unittest.TestCase):

    def test_all_arrives(self):
        port = []
        printed = threading.Event()

        def note(number, flush):
            port.append(number)
            printed.set()
        with mock.patch.object(stream, 'print', note, create=True):
            thread = threading.Thread(target=stream.receive,
                                      args=('127.0.0.1',))
            thread.start()
            printed.wait(10)
            stream.send('127.0.0.1', port[0], 5000001)
            thread.join()
