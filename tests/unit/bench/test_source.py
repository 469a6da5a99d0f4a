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
import pathlib
import shutil
import tempfile
import unittest
import urllib.request

import hypothesis
from hypothesis import strategies

from bench import source

MIB = 1 << 20


class TestExtents(unittest.TestCase):

    @hypothesis.settings(
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow])
    @hypothesis.given(blocks=strategies.integers(1, 5000),
                      share=strategies.floats(0.0001, 1),
                      fragment=strategies.integers(1, 300),
                      seed=strategies.integers())
    def test_scattered(self, blocks, share, fragment, seed):
        size = blocks * source.BLOCK
        found = source.extents(size, share, fragment * source.BLOCK, seed)
        data = sum(length for _offset, length in found)
        self.assertEqual(max(1, round(blocks * share)) * source.BLOCK, data)
        end = -1
        for offset, length in found:
            self.assertGreater(offset, end)
            self.assertGreater(length, 0)
            self.assertEqual(0, offset % source.BLOCK)
            self.assertEqual(0, length % source.BLOCK)
            end = offset + length
        self.assertLessEqual(end, size)

    def test_same_seed_same_extents(self):
        one = source.extents(1 << 30, 0.1, 4 * MIB, 1)
        self.assertEqual(one, source.extents(1 << 30, 0.1, 4 * MIB, 1))
        self.assertNotEqual(one, source.extents(1 << 30, 0.1, 4 * MIB, 2))

    def test_mean_length(self):
        found = source.extents(100 << 30, 0.1, 4 * MIB, 1)
        mean = sum(length for _offset, length in found) / len(found)
        self.assertAlmostEqual(4 * MIB, mean, delta=MIB // 4)


class TestImage(unittest.TestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    @unittest.skipUnless(shutil.which('qemu-img'), 'qemu-img is not here')
    def test_made_and_hashed(self):
        made = source.make(self.folder, 'x', 16 * MIB, 0.3, MIB, 7)
        source.hashes(made)
        raw = made.raw.read_bytes()
        self.assertEqual(16 * MIB, len(raw))
        self.assertEqual(hashlib.md5(raw).hexdigest(), made.checksum)
        self.assertEqual(hashlib.sha512(raw).hexdigest(), made.hash_value)
        at = 0
        for offset, length in made.extents:
            self.assertFalse(any(raw[at:offset]))
            self.assertTrue(any(raw[offset:offset + length]))
            at = offset + length

    def test_served(self):
        (self.folder / 'a').write_bytes(b'x' * 100000)
        with source.served(self.folder) as url:
            with urllib.request.urlopen(url + '/a') as answer:
                self.assertEqual(b'x' * 100000, answer.read())
