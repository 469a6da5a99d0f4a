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


"""One suite that every backend must pass.

A subclass sets ``make(size, data)``, which returns an open, writable endpoint
of that size whose content begins with the data, and ``content(endpoint)``,
which reads it back by other means.
"""

import threading

from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import transfer
from tests.unit.engine import fakes

BLOCK = extents.BLOCK


class Suite:
    """Mixed into a test case."""

    def ask(self, function, *args):
        """Make one request and return its result."""
        answers = []
        answered = threading.Event()

        def done(result):
            answers.append(result)
            answered.set()

        function(*args, done)
        self.assertTrue(answered.wait(30))
        self.assertEqual(1, len(answers))
        return answers[0]

    def test_size(self):
        for size in (0, 1, 511, BLOCK, 3 * BLOCK + 7):
            self.assertEqual(size, self.make(size).size)

    def test_reads_what_was_written(self):
        endpoint = self.make(2 * BLOCK + 100)
        self.assertIsNone(self.ask(endpoint.write, BLOCK - 5, b'0123456789'))
        self.assertIsNone(self.ask(endpoint.flush))
        self.assertEqual(b'\0\x000123456789\0\0',
                         self.ask(endpoint.read, BLOCK - 7, 14))
        self.assertEqual(bytes(100), self.ask(endpoint.read, 2 * BLOCK, 100))
        self.assertEqual(0, endpoint.in_flight)

    def test_many_in_flight(self):
        endpoint = self.make(64 * BLOCK)
        results = []
        finished = threading.Event()

        def done(result):
            results.append(result)
            if len(results) == 64:
                finished.set()

        for number in range(64):
            endpoint.write(number * BLOCK, bytes([number + 1]) * BLOCK, done)
        self.assertTrue(finished.wait(30))
        self.assertEqual([None] * 64, results)
        self.ask(endpoint.flush)
        self.assertEqual(
            b''.join(bytes([n + 1]) * BLOCK for n in range(64)),
            self.content(endpoint))

    def test_beyond_the_end(self):
        endpoint = self.make(1000)
        for error in (self.ask(endpoint.write, 990, b'x' * 11),
                      self.ask(endpoint.read, 990, 11),
                      self.ask(endpoint.read, 5000, 11)):
            self.assertIsInstance(error, errors.RequestError)
            self.assertEqual(endpoint.name, error.endpoint)
            self.assertIsNotNone(error.offset)
            self.assertEqual(11, error.length)
        self.assertEqual(bytes(1000), self.content(endpoint))

    def test_extents_cover(self):
        data = bytearray(40 * extents.REQUEST // 4 + 100)
        for at in (0, 70 * BLOCK + 5, len(data) - 1):
            data[at] = 1
        endpoint = self.make(len(data), bytes(data))
        for offset, length in ((0, None), (5, 10), (BLOCK, 100 * BLOCK),
                               (len(data) - 1, 1), (len(data), None)):
            self._check_cover(endpoint, bytes(data), offset, length)

    def _check_cover(self, endpoint, data, offset, length):
        position = offset
        for extent in endpoint.extents(offset, length):
            self.assertEqual(position, extent.offset)
            self.assertGreater(extent.length, 0)
            position += extent.length
            if not extent.data:
                self.assertTrue(extents.is_zero(
                    data[extent.offset:position]))
        self.assertEqual(
            len(data) if length is None else offset + length, position)

    def test_empty_has_no_data(self):
        found = list(self.make(10 * extents.REQUEST).extents())
        self.assertEqual([(0, 10 * extents.REQUEST, False)], found)
        self.assertEqual([], list(self.make(0).extents()))

    def test_resize(self):
        endpoint = self.make(BLOCK + 100, b'x' * (BLOCK + 100))
        endpoint.resize(BLOCK + 10)
        self.assertEqual(BLOCK + 10, endpoint.size)
        endpoint.resize(5 * BLOCK)
        self.assertEqual(5 * BLOCK, endpoint.size)
        self.assertEqual(b'x' * (BLOCK + 10) + bytes(4 * BLOCK - 10),
                         self.content(endpoint))

    def test_copies(self):
        for size in (0, 1, 512, BLOCK - 1, 3 * extents.REQUEST + 777):
            data = fakes.scattered(size, seed=size)
            source = self.make(size, data)
            targets = [self.make(size), self.make(size)]
            result = transfer.Transfer(source, targets).run()
            for target, outcome in zip(targets, result.outcomes):
                self.assertIsNone(outcome.error)
                self.assertEqual(data, self.content(target))
            again = transfer.Transfer(targets[0]).run()
            self.assertEqual(result.content, again.content)
            self.assertEqual(result.data, again.data)
