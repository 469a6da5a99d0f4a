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


"""Streams into an image, and images read as streams."""

import hashlib
import io

import hypothesis
from hypothesis import strategies as st
from oslotest import base

from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import stream
from glance_dcn.engine import transfer
from tests.unit.engine import fakes
from tests.unit.engine import memory
from tests.unit.engine import strategies

BLOCK = extents.BLOCK
MB = 1 << 20

chunks = st.sampled_from([BLOCK - 1, BLOCK, MB, 4 * MB, 8 * MB, 7777777])


class TestSink(base.BaseTestCase):

    @hypothesis.given(strategies.images(), chunks, st.booleans())
    def test_equals_a_plain_copy(self, data, chunk, known):
        target = memory.Memory(size=len(data) if known else 0)
        tapped = hashlib.sha1()
        with stream.Sink(target, len(data) if known else None,
                         hashes=['md5', 'sha512'],
                         tap=tapped.update) as sink:
            sink.write_from(io.BytesIO(data), chunk)
            result = sink.finish()
        self.assertEqual(data, target.content())
        self.assertEqual(len(data), target.size)
        self.assertEqual(hashlib.sha1(data).digest(), tapped.digest())
        self.assertEqual({'md5': hashlib.md5(data).hexdigest(),
                          'sha512': hashlib.sha512(data).hexdigest()},
                         result.hashes)
        same = transfer.Transfer(memory.Memory(data=data)).run()
        self.assertEqual((same.content, same.data, same.size),
                         (result.content, result.data, result.size))

    def test_iterable(self):
        target = memory.Memory()
        with stream.Sink(target) as sink:
            sink.write_from([b'ab', b'', b'c'])
            self.assertEqual(3, sink.position)
            sink.finish()
        self.assertEqual(b'abc', target.content())

    def test_zeros_are_not_written(self):
        target = fakes.Faulty(size=0)
        with stream.Sink(target) as sink:
            sink.write_from(io.BytesIO(bytes(9 * MB) + b'x' + bytes(MB)))
            sink.finish()
        self.assertEqual([('write', 9 * MB, BLOCK)], target.requests)
        self.assertEqual(10 * MB + 1, target.size)

    def test_grows_seldom(self):
        target = memory.Memory()
        sizes = []
        grow = target.resize
        target.resize = lambda size: (sizes.append(size), grow(size))
        with stream.Sink(target, memory=64 * MB) as sink:
            for _ in range(20):
                sink.write(b'x' * MB)
            sink.finish()
        self.assertEqual(2, len(sizes))
        self.assertEqual(20 * MB, sizes[-1])

    def test_not_as_promised(self):
        for size in (9, 11):
            sink = stream.Sink(memory.Memory(size=size), size)
            self.addCleanup(sink.close)

            def run(sink=sink):
                sink.write(b'0123456789')
                sink.finish()

            error = self.assertRaises(errors.SizeMismatch, run)
            self.assertEqual((size, 10), (error.expected, error.found))

    def test_target_fails(self):
        target = fakes.Faulty('bad', 64 * MB, fail_at={'write': 2})
        with stream.Sink(target, 64 * MB) as sink:
            error = self.assertRaises(
                errors.RequestError, sink.write_from,
                io.BytesIO(b'x' * 64 * MB))
        self.assertEqual('bad', error.endpoint)

    def test_target_stalls(self):
        loop = fakes.Loop()
        target = fakes.Faulty('bad', 64 * MB, loop=loop,
                              stall_at={'write': 0})
        with stream.Sink(target, 64 * MB, memory=16 * MB, content=False,
                         loop=loop) as sink:
            self.assertRaises(errors.Stalled, sink.write_from,
                              io.BytesIO(b'x' * 64 * MB))
            self.assertLessEqual(sink.position, 20 * MB)

    def test_a_slow_stream_is_no_stall(self):
        loop = fakes.Loop()
        target = fakes.Faulty(size=8 * MB, loop=loop)
        with stream.Sink(target, 8 * MB, timeout=10, loop=loop) as sink:
            for _ in range(8):
                loop.clock.now += 1000
                sink.write(b'x' * MB)
            loop.clock.now += 1000
            sink.finish()
        self.assertEqual(b'x' * 8 * MB, target.content())


class TestReader(base.BaseTestCase):

    @hypothesis.given(strategies.images(), chunks, st.data(),
                      st.integers(0, 1000))
    def test_equals_a_slice(self, data, chunk, draw, seed):
        offset = draw.draw(st.integers(0, len(data) + 1))
        length = draw.draw(st.none() | st.integers(0, len(data) + 1))
        end = len(data) if length is None else offset + length
        source = fakes.Shuffled(data=data, seed=seed)
        parts = list(stream.Reader(source, offset, length, chunk))
        self.assertEqual(data[offset:end], b''.join(parts))
        for part in parts[:-1]:
            self.assertEqual(chunk, len(part))

    def test_holes_are_not_read(self):
        source = fakes.Faulty(size=64 * MB)
        source.write(32 * MB, b'x', lambda result: None)
        source.requests.clear()
        parts = list(stream.Reader(source, chunk=8 * MB))
        self.assertEqual([('read', 32 * MB, BLOCK)], source.requests)
        # All holes are one and the same buffer.
        self.assertIs(parts[0], parts[1])

    def test_reads_ahead_and_no_further(self):
        source = fakes.Faulty(data=b'x' * 64 * MB)
        chunks_ = stream.Reader(source, chunk=MB, ahead=16 * MB)
        next(chunks_)
        self.assertEqual(4, source.counts['read'])
        chunks_.close()
        self.assertEqual([], list(chunks_))

    def test_only_what_is_asked_for(self):
        source = fakes.Faulty(data=b'x' * 64 * MB)
        self.assertEqual(b'x' * 10, b''.join(
            stream.Reader(source, BLOCK - 5, 10)))
        self.assertEqual([('read', 0, 2 * BLOCK)], source.requests)

    def test_source_fails(self):
        source = fakes.Faulty('bad', data=b'x' * MB, fail_at={'read': 0})
        error = self.assertRaises(errors.RequestError, next,
                                  stream.Reader(source))
        self.assertEqual('bad', error.endpoint)

    def test_source_stalls(self):
        loop = fakes.Loop()
        source = fakes.Faulty(data=b'x' * MB, loop=loop,
                              stall_at={'read': 0})
        self.assertRaises(errors.Stalled, next,
                          stream.Reader(source, loop=loop))

    def test_a_slow_caller_is_no_stall(self):
        loop = fakes.Loop()
        source = fakes.Faulty(data=b'x' * 64 * MB, loop=loop, delay=0.1)
        count = 0
        for data in stream.Reader(source, chunk=MB, loop=loop, timeout=10):
            loop.clock.now += 500
            # What was asked for meanwhile has been answered meanwhile.
            while loop.timers:
                loop.timers.pop(0)[1]()
            count += len(data)
        self.assertEqual(64 * MB, count)
