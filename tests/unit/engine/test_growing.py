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

import hashlib
import os
import random
import threading
import time

from oslotest import base

from glance_dcn.engine.backends import growing
from glance_dcn.engine import errors
from glance_dcn.engine import transfer

MIB = 1 << 20


class GrowingTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.path = self.create_tempfiles([('image', '')])[0]

    def content(self, seed, size):
        """Return some sparse content, and the parts of it that are data."""
        source = random.Random(seed)
        data, parts = bytearray(size), []
        at = 0
        while at < size:
            at += source.randrange(0, 6 * MIB) // 65536 * 65536
            part = source.randbytes(min(source.randrange(1, 6 * MIB),
                                        max(0, size - at)))
            if part:
                data[at:at + len(part)] = part
                parts.append((at, part))
                at += len(part)
        return bytes(data), parts

    def write(self, file, parts, pause):
        for at, part in parts:
            os.pwrite(file.fileno(), part, at)
            time.sleep(pause)

    def test_reads_what_is_written_meanwhile(self):
        for seed in range(4):
            size = random.Random(seed).randrange(1, 60 * MIB)
            data, parts = self.content(seed, size)
            with open(self.path, 'wb') as file:
                file.truncate(size)
                with growing.Growing(self.path, size) as source:
                    writer = threading.Thread(
                        target=self.write, args=(file, parts, 0.01))
                    writer.start()
                    job = transfer.Transfer(source, hashes=['md5'])
                    results = []
                    reader = threading.Thread(
                        target=lambda job=job, results=results:
                        results.append(job.run()))
                    reader.start()
                    writer.join()
                    source.complete()
                    reader.join()
            self.assertEqual(hashlib.md5(data).hexdigest(),  # noqa: S324
                             results[0].hashes['md5'], seed)

    def test_reads_before_it_is_complete(self):
        with open(self.path, 'wb') as file:
            file.truncate(64 * MIB)
            with growing.Growing(self.path, 64 * MIB) as source:
                os.pwrite(file.fileno(), b'x' * 16 * MIB, 16 * MIB)
                found = source.extents()
                self.assertEqual((0, 16 * MIB, False), next(found))
                offset, length, data = next(found)
                self.assertEqual((16 * MIB, True), (offset, data))
                # The newest part of it may still be on its way.
                self.assertLess(length, 16 * MIB)
                self.assertGreaterEqual(length, 8 * MIB)
                source.complete()
                rest = list(found)
                self.assertEqual(64 * MIB, sum(rest[-1][:2]))

    def test_who_waits_is_let_go_when_it_is_closed(self):
        with open(self.path, 'wb') as file:
            file.truncate(MIB)
        source = growing.Growing(self.path, MIB)
        waiting = threading.Thread(target=list, args=(source.extents(),))
        waiting.start()
        source.close()
        waiting.join(10)
        self.assertFalse(waiting.is_alive())

    def test_not_there(self):
        self.assertRaises(errors.RequestError, growing.Growing,
                          self.path + '.not', MIB)
