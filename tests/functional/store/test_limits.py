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

"""The limits of a store: uploads and downloads."""

import io
import os
import threading
import time

import fixtures
from glance_store import multi_backend

from glance_dcn.sites import limits
from tests.functional.store import base

MiB = base.MiB


class LimitsTest(base.StoreTestCase):

    driver = 'dcn'

    def setUp(self):
        super().setUp()
        self.data = os.urandom(12 * MiB)

    @property
    def limits(self):
        """Those of the stores in use."""
        return limits.get(self.store)

    def seconds(self, work, *args):
        started = time.monotonic()
        result = work(*args)
        return time.monotonic() - started, result

    def test_bandwidth_of_an_upload(self):
        self.use_store(dcn_bandwidth_limit=4)
        taken, result = self.seconds(self.add, self.data)
        self.assertGreater(taken, 1.8)
        self.limits.set(0, 0)
        self.assertSame(self.data, self.read(result[0]))

    def test_bandwidth_of_a_download(self):
        self.use_store()
        uri = self.add(self.data)[0]
        self.limits.set(0, 4)
        taken, data = self.seconds(self.read, uri)
        self.assertGreater(taken, 1.8)
        self.assertSame(self.data, data)

    def test_zeros_are_free(self):
        self.use_store(dcn_bandwidth_limit=1)
        data = b'x' + bytes(64 * MiB)
        taken, result = self.seconds(self.add, data)
        self.assertLess(taken, 50)
        taken, _ = self.seconds(self.read, result[0])
        self.assertLess(taken, 50)

    def test_turns_of_downloads(self):
        self.use_store(dcn_max_transfers=1)
        uri = self.add(self.data)[0]
        first, _ = multi_backend.get(uri, self.store)
        next(first)
        read = []
        thread = threading.Thread(target=lambda: read.append(self.read(uri)))
        thread.start()
        time.sleep(1)
        self.assertEqual([], read)
        # What is no transfer waits for nobody.
        self.assertEqual(len(self.data), self.size(uri))
        # The client went away; nobody closes the iterator.
        del first
        thread.join(20)
        self.assertSame(self.data, read[0])
        self.assertEqual(0, self.limits.running)

    def test_upload_whose_task_is_ended_while_it_waits(self):
        self.use_store(dcn_max_transfers=1)

        class Ended(Exception):
            pass

        class Callbacks:
            """As Glance's CallbackIterator."""

            def __init__(self, data):
                self._source = io.BytesIO(data)

            def _callback(self, chunk_bytes, total_bytes):
                raise Ended()

            def read(self, size):
                return self._source.read(size)

        slots = limits.slots
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.limits.slots',
            lambda wanted, waiting: slots(wanted, waiting, 0.5)))
        name = self.new_image()
        with slots([self.limits]):
            self.assertRaises(Ended, self.add, Callbacks(self.data),
                              len(self.data), name)
        self.assertAbsent(name)
        self.add(self.data, name=name)
