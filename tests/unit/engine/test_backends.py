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


"""The conformance suite on memory and files."""

import hashlib
import os
import pathlib
import random
import tempfile
import threading
import time

from oslotest import base

from glance_dcn.engine.backends import file
from glance_dcn.engine import errors
from glance_dcn.engine import transfer
from tests.unit.engine import conformance
from tests.unit.engine import memory

MIB = 1 << 20


class TestMemory(conformance.Suite, base.BaseTestCase):

    def make(self, size, data=b''):
        return memory.Memory(size=size, data=data)

    def content(self, endpoint):
        return endpoint.content()


class TestFile(conformance.Suite, base.BaseTestCase):

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.count = 0

    def make(self, size, data=b''):
        self.count += 1
        path = self.folder / str(self.count)
        with open(path, 'wb') as raw:
            # In blocks, so that zeros become holes.
            for at in range(0, len(data), 4096):
                if any(data[at:at + 4096]):
                    raw.seek(at)
                    raw.write(data[at:at + 4096])
            raw.truncate(size)
        endpoint = file.File(path, writable=True)
        self.addCleanup(endpoint.close)
        return endpoint

    def content(self, endpoint):
        return pathlib.Path(endpoint.name).read_bytes()

    def test_missing(self):
        error = self.assertRaises(errors.RequestError, file.File,
                                  self.folder / 'none')
        self.assertEqual('open', error.operation)
        self.assertEqual(2, error.errno)

    def test_created_once(self):
        path = self.folder / 'new'
        file.File(path, create=True).close()
        error = self.assertRaises(errors.RequestError, file.File, path,
                                  create=True)
        self.assertEqual(17, error.errno)

    def test_read_only(self):
        path = pathlib.Path(self.make(100).name)
        with file.File(path) as endpoint:
            error = self.ask(endpoint.write, 0, b'x')
        self.assertEqual(9, error.errno)

    def test_shrunk_meanwhile(self):
        endpoint = self.make(1000)
        os.truncate(endpoint.name, 10)
        error = self.ask(endpoint.read, 0, 1000)
        self.assertIsInstance(error, errors.ShortRead)
        self.assertIn('shorter', str(error))


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

    def write(self, writer, parts, pause):
        for at, part in parts:
            os.pwrite(writer.fileno(), part, at)
            time.sleep(pause)

    def test_reads_what_is_written_meanwhile(self):
        for seed in range(4):
            size = random.Random(seed).randrange(1, 60 * MIB)
            data, parts = self.content(seed, size)
            with open(self.path, 'wb') as writer:
                writer.truncate(size)
                with file.Growing(self.path, size) as source:
                    writer = threading.Thread(
                        target=self.write, args=(writer, parts, 0.01))
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
        with open(self.path, 'wb') as writer:
            writer.truncate(64 * MIB)
            with file.Growing(self.path, 64 * MIB) as source:
                os.pwrite(writer.fileno(), b'x' * 16 * MIB, 16 * MIB)
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
        with open(self.path, 'wb') as writer:
            writer.truncate(MIB)
        source = file.Growing(self.path, MIB)
        waiting = threading.Thread(target=list, args=(source.extents(),))
        waiting.start()
        source.close()
        waiting.join(10)
        self.assertFalse(waiting.is_alive())

    def test_not_there(self):
        self.assertRaises(errors.RequestError, file.Growing,
                          self.path + '.not', MIB)
