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

import os
import pathlib
import tempfile

from oslotest import base

from glance_dcn.engine.backends import file
from glance_dcn.engine import errors
from tests.unit.engine import conformance
from tests.unit.engine import memory


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
