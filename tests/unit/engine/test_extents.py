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


"""Extents, trimming, and the content digest."""

import hashlib
import random

import hypothesis
from hypothesis import strategies as st
from oslotest import base

from glance_dcn.engine import digests
from glance_dcn.engine import extents
from tests.unit.engine import strategies

BLOCK = extents.BLOCK


class TestExtents(base.BaseTestCase):

    @hypothesis.given(
        st.lists(st.tuples(st.integers(0, 50 << 20),
                           st.integers(0, 9 << 20)), max_size=20),
        st.sampled_from([BLOCK, 1 << 20, extents.REQUEST]))
    def test_requests(self, found, limit):
        found.sort()
        size = max([start + length for start, length in found] or [0])
        covered = list(extents.cover(found, 0, size))
        requests = list(extents.requests(covered, size, limit))
        wanted = set()
        for start, length, data in covered:
            if data:
                wanted.update(range(start // BLOCK,
                                    -(-(start + length) // BLOCK)))
        got = []
        for start, length in requests:
            self.assertEqual(0, start % BLOCK)
            self.assertTrue(start + length == size or not length % BLOCK)
            self.assertEqual(start // limit, (start + length - 1) // limit)
            got += range(start // BLOCK, -(-(start + length) // BLOCK))
        self.assertEqual(sorted(wanted), got)
        # Neighbours are merged.
        for (start, length), (following, _) in zip(requests, requests[1:]):
            self.assertTrue(start + length < following
                            or not following % limit)

    @hypothesis.given(strategies.images())
    def test_pieces(self, data):
        copy = bytearray(len(data))
        last = -1
        for offset, piece in extents.trim(data, 0):
            self.assertGreater(offset, last)
            last = offset + len(piece)
            copy[offset:last] = piece
            for at in range(0, len(piece), BLOCK):
                self.assertTrue(any(piece[at:at + BLOCK]))
        self.assertEqual(data, copy)

    def test_pieces_do_not_copy_all(self):
        data = b'x' * (2 * BLOCK)
        self.assertIs(data, extents.trim(data, 0)[0][1])

    def test_is_zero(self):
        for size in (0, 1, BLOCK, extents.REQUEST, extents.REQUEST + 1):
            self.assertTrue(extents.is_zero(bytes(size)))
            self.assertFalse(extents.is_zero(bytes(size) + b'\1'))
            self.assertFalse(extents.is_zero(b'\1' + bytes(size)))

    @hypothesis.given(strategies.images(), st.randoms())
    def test_cutter(self, data, chance):
        cutter = extents.Cutter()
        regions = []
        at = 0
        while at < len(data):
            step = chance.choice([1, 1000, BLOCK, 5 << 20])
            regions += cutter.put(data[at:at + step])
            at += step
            hypothesis.assume(at > 2000 or step > 1)
        regions += cutter.rest()
        self.assertEqual(data, b''.join(part for _, part in regions))
        self.assertEqual(len(data), cutter.position)
        for number, (offset, _) in enumerate(regions):
            self.assertEqual(number * extents.REQUEST, offset)


class TestContentDigest(base.BaseTestCase):

    def digest(self, data, size=None):
        content = digests.ContentDigest()
        content.update(0, data)
        return content.finish(len(data) if size is None else size)

    def test_format(self):
        """The definition, computed by other means, never to change."""
        data = bytes(BLOCK) + b'\1' * BLOCK + bytes(5 << 20) + b'\2' * 10
        number = lambda value: value.to_bytes(8, 'big')  # noqa: E731
        sha256 = lambda *parts: hashlib.sha256(b''.join(parts))  # noqa: E731
        last = (len(data) - 10) // BLOCK
        tail = data[last * BLOCK:].ljust(BLOCK, b'\0')
        chunks = [
            sha256(number(1), sha256(b'\1' * BLOCK).digest()).digest(),
            sha256(number(last), sha256(tail).digest()).digest()]
        top = sha256(b'dcn1:sha256:65536:', number(len(data)),
                     number(0), chunks[0], number(1), chunks[1])
        self.assertEqual('dcn1:sha256:65536:' + top.hexdigest(),
                         self.digest(data))

    def test_known_values(self):
        self.assertEqual(
            'dcn1:sha256:65536:' + hashlib.sha256(
                b'dcn1:sha256:65536:' + bytes(8)).hexdigest(),
            self.digest(b''))
        self.assertNotEqual(self.digest(b'\0'), self.digest(b'\0\0'))

    @hypothesis.given(strategies.images(), st.randoms())
    def test_order_does_not_matter(self, data, chance):
        parts = extents.trim(data, 0)
        parts += [(at, bytes(BLOCK)) for at in range(
            0, len(data) - BLOCK, BLOCK) if chance.random() < .1
            and extents.is_zero(data[at:at + BLOCK])]
        chance.shuffle(parts)
        content = digests.ContentDigest()
        for offset, part in parts:
            content.update(offset, part)
        self.assertEqual(self.digest(data), content.finish(len(data)))

    @hypothesis.given(strategies.images())
    def test_folding_does_not_matter(self, data):
        content = digests.ContentDigest()
        for offset, part in extents.trim(data, 0):
            content.update(offset, part)
            content.fold(offset + len(part))
        self.assertEqual(self.digest(data), content.finish(len(data)))

    @hypothesis.given(strategies.images().filter(len), st.data())
    def test_any_change_shows(self, data, chance):
        at = chance.draw(st.integers(0, len(data) - 1))
        other = bytearray(data)
        other[at] ^= 1
        self.assertNotEqual(self.digest(data), self.digest(bytes(other)))
        self.assertNotEqual(self.digest(data), self.digest(data + b'\0'))

    def test_moved_block_shows(self):
        one = b'x' * BLOCK + bytes(BLOCK)
        two = bytes(BLOCK) + b'x' * BLOCK
        self.assertNotEqual(self.digest(one), self.digest(two))

    def test_misuse(self):
        content = digests.ContentDigest()
        self.assertRaises(ValueError, content.update, 1, b'x')
        content.fold(digests.CHUNK)
        self.assertRaises(ValueError, content.update, 0, b'x')

    def test_chunks_are_a_block_list(self):
        data = random.Random(1).randbytes(3 * digests.CHUNK)
        content = digests.ContentDigest()
        content.update(0, data)
        before = content.chunks()
        other = digests.ContentDigest()
        other.update(0, data[:5 << 20] + b'x' + data[(5 << 20) + 1:])
        self.assertEqual([1], [a[0] for a, b in zip(before, other.chunks())
                               if a != b])
