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


"""Transfers between memory images, with every fault there is."""

import hashlib
import math
import random
import threading
import time

import hypothesis
from hypothesis import strategies as st
from oslotest import base

from glance_dcn.engine import digests
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import fanout
from glance_dcn.engine import pacing
from glance_dcn.engine import transfer
from tests.unit.engine import fakes
from tests.unit.engine import memory
from tests.unit.engine import strategies

BLOCK = extents.BLOCK
MB = 1 << 20


class TestTransfer(base.BaseTestCase):

    @hypothesis.given(strategies.images(), st.integers(0, 3),
                      st.integers(0, 1000))
    def test_equals_a_plain_copy(self, data, count, seed):
        source = fakes.Shuffled(data=data, seed=seed)
        targets = [memory.Memory('t%d' % n, len(data)) for n in range(count)]
        result = transfer.Transfer(source, targets,
                                   hashes=['md5', 'sha512']).run()
        for target, outcome in zip(targets, result.outcomes):
            self.assertIs(target, outcome.target)
            self.assertIsNone(outcome.error)
            self.assertEqual(data, target.content())
            self.assertEqual(result.data, outcome.written)
            self.assertEqual(1, target.flushed)
        self.assertEqual(hashlib.md5(data).hexdigest(),
                         result.hashes['md5'])
        self.assertEqual(hashlib.sha512(data).hexdigest(),
                         result.hashes['sha512'])
        blocks = [data[at:at + BLOCK] for at in range(0, len(data), BLOCK)]
        self.assertEqual(sum(len(b) for b in blocks if any(b)), result.data)

    @hypothesis.given(strategies.images(), st.integers(0, 20),
                      st.integers(0, 1000))
    def test_equals_a_plain_copy_with_a_change_of_source(self, data, at,
                                                         seed):
        first = fakes.Faulty('first', data=data, fail_at={'read': at})
        second = fakes.Shuffled('second', data=data, seed=seed)
        target = memory.Memory('target', len(data))
        plain = transfer.Transfer(memory.Memory(data=data)).run()
        result = transfer.Transfer(
            first, [target], hashes=['md5'], expected=plain.content,
            next_source=lambda unused: second).run()
        self.assertEqual(data, target.content())
        self.assertEqual(hashlib.md5(data).hexdigest(), result.hashes['md5'])
        self.assertEqual(plain.data, result.data)

    def test_zeros_are_not_written(self):
        source = memory.Memory(data=bytes(20 * BLOCK) + b'x' + bytes(MB))
        target = fakes.Faulty('target', source.size)
        transfer.Transfer(source, [target]).run()
        self.assertEqual([('write', 20 * BLOCK, BLOCK)], target.requests)

    def test_holes_are_not_read(self):
        source = fakes.Faulty('source', 1 << 40)
        source.write(1 << 39, b'x', lambda result: None)
        source.requests.clear()
        target = memory.Memory('target', 1 << 40)
        result = transfer.Transfer(source, [target]).run()
        self.assertEqual([('read', 1 << 39, BLOCK)], source.requests)
        self.assertEqual(BLOCK, result.data)

    def test_source_is_read_once(self):
        source = fakes.Faulty(data=b'x' * 5 * MB)
        targets = [memory.Memory(size=5 * MB) for _ in range(3)]
        transfer.Transfer(source, targets, hashes=['md5']).run()
        self.assertEqual(5 * MB, sum(r[2] for r in source.requests))

    def test_nothing_but_digests(self):
        data = fakes.scattered(9 * MB)
        one = transfer.Transfer(memory.Memory(data=data), content=False,
                                hashes=['sha1']).run()
        self.assertIsNone(one.content)
        self.assertEqual(hashlib.sha1(data).hexdigest(), one.hashes['sha1'])
        two = transfer.Transfer(memory.Memory(data=data)).run()
        self.assertEqual({}, two.hashes)
        self.assertTrue(two.content.startswith('dcn1:sha256:65536:'))
        # Zeros that are there count like holes.
        full = memory.Memory(data=data)
        for number in range(len(data) // BLOCK):
            full.blocks.setdefault(number, bytearray(BLOCK))
        self.assertEqual(two.content, transfer.Transfer(full).run().content)

    def test_expected_digest(self):
        source = memory.Memory(data=b'x' * MB)
        content = transfer.Transfer(source).run().content
        transfer.Transfer(source, expected=content).run()
        source.blocks[3][77] ^= 1
        error = self.assertRaises(
            errors.DigestMismatch,
            transfer.Transfer(source, expected=content).run)
        self.assertEqual(content, error.expected)

    def test_bad_arguments(self):
        source = memory.Memory()
        self.assertRaises(ValueError, transfer.Transfer, source, memory=MB)
        self.assertRaises(ValueError, transfer.Transfer, source,
                          hashes=['nosuchhash'])

    def test_progress(self):
        source = memory.Memory(data=fakes.scattered(30 * MB))
        target = memory.Memory('there', source.size)
        seen = []
        result = transfer.Transfer(source, [target], progress=seen.append,
                                   interval=0).run()
        self.assertEqual(1, seen[-1].fraction)
        self.assertEqual({'there': result.data}, seen[-1].written)
        self.assertEqual(result.data, seen[-1].data)
        fractions = [one.fraction for one in seen]
        self.assertTrue(all(0 <= f <= 1 for f in fractions))
        bytes_read = [one.bytes_read for one in seen]
        self.assertEqual(sorted(bytes_read), bytes_read)

    def test_sizes_differ(self):
        source = memory.Memory(data=b'x' * MB)
        good = memory.Memory('good', MB)
        bad = memory.Memory('bad', MB + 1)
        outcomes = transfer.Transfer(source, [bad, good]).run().outcomes
        self.assertIsInstance(outcomes[0].error, errors.SizeMismatch)
        self.assertIsNone(outcomes[1].error)
        self.assertEqual({}, bad.blocks)


class TestFaults(base.BaseTestCase):
    """On a fake clock, without content digest: no threads, no chance."""

    def setUp(self):
        super().setUp()
        self.loop = fakes.Loop()
        self.data = b'x' * (64 * MB)
        self.source = memory.Memory('source', data=self.data)

    def target(self, name='target', **kwargs):
        return fakes.Faulty(name, len(self.data), loop=self.loop, **kwargs)

    def transfer(self, targets, source=None, **kwargs):
        return transfer.Transfer(source or self.source, targets,
                                 content=False, loop=self.loop, **kwargs)

    def test_target_fails(self):
        for fault in ({'write': 3}, {'flush': 0}):
            bad, good = self.target('bad', fail_at=fault), self.target()
            outcomes = self.transfer([bad, good]).run().outcomes
            self.assertEqual('bad', outcomes[0].error.endpoint)
            self.assertEqual(5, outcomes[0].error.errno)
            self.assertIsNone(outcomes[1].error)
            self.assertEqual(self.data, good.content())

    def test_all_targets_fail(self):
        targets = [self.target(fail_at={'write': n}) for n in (1, 5)]
        source = fakes.Faulty('source', data=self.data)
        result = self.transfer(targets, source, memory=8 * MB).run()
        self.assertTrue(all(one.error for one in result.outcomes))
        self.assertIsNone(result.content)
        self.assertLess(source.counts['read'], 16)

    def test_target_stalls(self):
        bad = self.target('bad', stall_at={'write': 2})
        good = self.target(delay=0.01)
        start = self.loop.clock.now
        result = self.transfer([bad, good], timeout=30).run()
        error = result.outcomes[0].error
        self.assertIsInstance(error, errors.Stalled)
        # The first one is small.
        self.assertEqual(('bad', 'write', 4 * MB),
                         (error.endpoint, error.operation, error.offset))
        self.assertIsNone(result.outcomes[1].error)
        self.assertEqual(self.data, good.content())
        self.assertLess(self.loop.clock.now - start, 35)
        # What comes too late does no harm.
        for _done, request in bad.stalled:
            request()
        self.loop.run_once(0)

    def test_target_is_lost(self):
        # It is not waited for until the timeout, nor is one that is slow.
        lost = self.target('lost', stall_at={'write': 2})
        lost.lost = lambda: errors.Lost('lost', 'no probe is answered')
        slow = self.target(delay=20)
        asked = []
        slow.lost = lambda: asked.append(self.loop.clock.now)
        start = self.loop.clock.now
        result = self.transfer([lost, slow], timeout=600).run()
        error = result.outcomes[0].error
        self.assertIsInstance(error, errors.Lost)
        self.assertIn('no probe is answered', str(error))
        self.assertIsNone(result.outcomes[1].error)
        self.assertEqual(self.data, slow.content())
        self.assertGreater(min(asked) - start, errors.QUIET)

    def test_source_is_lost(self):
        source = fakes.Faulty('source', data=self.data, stall_at={'read': 4})
        source.lost = lambda: errors.Lost('source', 'no probe is answered')
        start = self.loop.clock.now
        self.assertRaises(errors.Lost, self.transfer(
            [self.target()], source, timeout=600).run)
        self.assertLess(self.loop.clock.now - start, 30)

    def test_flush_stalls(self):
        bad = self.target('bad', stall_at={'flush': 0})
        error = self.transfer([bad]).run().outcomes[0].error
        self.assertIsInstance(error, errors.Stalled)
        self.assertEqual('flush', error.operation)

    def test_stalled_holds_back_by_the_memory_only(self):
        bad = self.target('bad', stall_at={'write': 0})
        good = self.target()
        copy = self.transfer([bad, good], memory=16 * MB, timeout=30)
        seen = []
        self.loop.later(20, lambda: seen.append(
            sum(r[2] for r in good.requests)))
        copy.run()
        self.assertEqual([16 * MB], seen)
        self.assertEqual(self.data, good.content())

    def test_slow_and_steady_is_no_stall(self):
        slow = self.target(delay=50)
        result = self.transfer([slow], window=4 * MB, timeout=60).run()
        self.assertIsNone(result.outcomes[0].error)
        self.assertEqual(self.data, slow.content())

    def test_source_fails(self):
        source = fakes.Faulty('source', data=self.data, fail_at={'read': 4})
        error = self.assertRaises(errors.RequestError, self.transfer(
            [self.target()], source).run)
        self.assertEqual(('source', 'read', 16 * MB),
                         (error.endpoint, error.operation, error.offset))

    def test_source_stalls(self):
        source = fakes.Faulty('source', data=self.data, stall_at={'read': 4})
        error = self.assertRaises(errors.Stalled, self.transfer(
            [self.target()], source, timeout=10).run)
        self.assertEqual('source', error.endpoint)

    def test_source_cannot_list(self):
        self.source.extents = lambda *unused: 1 / 0
        self.assertRaises(ZeroDivisionError, self.transfer([]).run)

    def test_source_gives_too_little(self):
        source = fakes.Faulty('source', data=self.data)
        source.read = lambda offset, length, done: done(b'x')
        self.assertRaises(errors.ShortRead, self.transfer([], source).run)

    def test_source_shrinks(self):
        source = fakes.Faulty('source', data=self.data, loop=self.loop,
                              delay=1)
        self.loop.later(0.5, lambda: setattr(source, 'size', 63 * MB))
        self.assertRaises(errors.EngineError, self.transfer([], source).run)

    def test_another_source_goes_on(self):
        for fault in ({'fail_at': {'read': 9}}, {'stall_at': {'read': 9}}):
            first = fakes.Faulty('first', data=self.data, loop=self.loop,
                                 delay=0.01, **fault)
            second = fakes.Faulty('second', data=self.data)
            target = self.target(delay=0.01)
            met = []
            result = self.transfer(
                [target], first, timeout=10, memory=16 * MB,
                next_source=lambda error, met=met, second=second:
                    met.append(error) or second).run()
            self.assertEqual(['first'], [error.endpoint for error in met])
            self.assertIsNone(result.outcomes[0].error)
            self.assertEqual((len(self.data), len(self.data)),
                             (result.data, result.outcomes[0].written))
            self.assertEqual(self.data, target.content())
            # What the first one gave is not asked for again.
            asked = [offset for _read, offset, _length in second.requests]
            self.assertEqual(sorted(asked), asked)
            self.assertGreaterEqual(asked[0], 4 * 4 * MB)
            self.assertLess(sum(r[2] for r in second.requests),
                            len(self.data))
            # What the first one answers too late does no harm.
            for _done, request in first.stalled:
                request()
            self.loop.run_once(0)

    def test_another_source_takes_its_time(self):
        # Meanwhile the target has answered: it has not stalled.
        first = fakes.Faulty('first', data=self.data, fail_at={'read': 9})
        target = self.target(delay=1)

        def another(unused):
            self.loop.clock.now += 500
            while self.loop.timers:
                self.loop.timers.pop(0)[1]()
            return memory.Memory('second', data=self.data)

        result = self.transfer([target], first, timeout=10,
                               next_source=another).run()
        self.assertIsNone(result.outcomes[0].error)
        self.assertEqual(self.data, target.content())

    def test_another_source_fails_too(self):
        sources = [fakes.Faulty(name, data=self.data, fail_at={'read': at})
                   for name, at in (('one', 3), ('two', 5), ('three', 1))]
        left = sources[1:]
        error = self.assertRaises(
            errors.RequestError, self.transfer(
                [self.target()], sources[0], memory=8 * MB,
                next_source=lambda error: left.pop(0) if left else None).run)
        self.assertEqual('three', error.endpoint)

    def test_another_source_lists_the_rest(self):
        class CannotList(memory.Memory):
            def extents(self, offset=0, length=None):
                for extent in super().extents(offset, length):
                    if extent.offset >= 20 * MB:
                        raise self._error('list extents', 5, extent.offset)
                    yield extent

        data = bytearray(self.data)
        data[15 * MB:19 * MB] = data[40 * MB:44 * MB] = bytes(4 * MB)
        first = CannotList('first', len(data))
        first.write(0, bytes(data), lambda unused: None)
        for number in [n for n, block in first.blocks.items()
                       if not any(block)]:
            del first.blocks[number]
        target = self.target()
        second = memory.Memory('second', data=bytes(data))
        self.transfer([target], first, next_source=lambda unused: second).run()
        self.assertEqual(bytes(data), target.content())

    def test_another_source_of_another_size(self):
        first = fakes.Faulty('first', data=self.data, fail_at={'read': 3})
        self.assertRaises(errors.SizeMismatch, self.transfer(
            [self.target()], first,
            next_source=lambda unused: memory.Memory('second', MB)).run)

    def test_memory_bound(self):
        copy = self.transfer([self.target(delay=0.1), self.target(delay=1),
                              self.target(delay=0.5)], memory=20 * MB)
        most = []

        def watch(progress):
            most.append(copy._fanout.held + copy._reader.reserved)

        copy._progress, copy._interval = watch, 0
        copy.run()
        self.assertLessEqual(max(most), 20 * MB)
        self.assertGreater(max(most), 12 * MB)
        self.assertEqual(0, copy._fanout.held)

    def test_window(self):
        target = self.target(stall_at={'write': 6})
        self.transfer([target], window=8 * MB).run()
        self.assertEqual(8 * MB, sum(r[2] for r in target.requests[6:]))

    def test_many_targets_share_what_is_in_flight(self):
        self.assertEqual([32 * MB, 32 * MB, 16 * MB, 4 * MB], [
            fanout.window_for(count) for count in (1, 2, 4, 30)])

    def test_thin_link(self):
        # 100 KiB a second, which do not come sooner for being asked for.
        target = self.target()
        answered, most = [0.0], []

        def write(offset, data, done):
            now = self.loop.clock.now
            answered.append(max(answered[-1], now) + len(data) / (100 << 10))
            most.append(answered[-1] - now)
            self.loop.later(answered[-1] - now, lambda: memory.Memory.write(
                target, offset, data, done))
        target.write = write
        result = self.transfer([target], timeout=20).run()
        self.assertIsNone(result.outcomes[0].error)
        self.assertEqual(self.data, target.content())
        self.assertLess(max(most), 12)


class TestLaggards(base.BaseTestCase):
    """A target that trickles beside others, on a fake clock."""

    def setUp(self):
        super().setUp()
        self.loop = fakes.Loop()
        self.source = memory.Memory('source', data=random.Random(7).randbytes(
            32 * MB))

    def targets(self, count, **kwargs):
        return [fakes.Faulty('t%d' % number, self.source.size,
                             loop=self.loop, **kwargs)
                for number in range(count)]

    def run_(self, targets, slow=(), limit=100 << 10, rates=None, **kwargs):
        """Return the result, and the seconds that it took."""
        start = self.loop.clock.now
        limits = {target: pacing.Rate(limit, self.loop.clock)
                  for target in slow}
        result = transfer.Transfer(
            self.source, [*targets, *slow], loop=self.loop, lets_go=True,
            limits={**limits, **(rates or {})}, **kwargs).run()
        return result, self.loop.clock.now - start

    def test_others_take_no_longer(self):
        # 8 MiB a second, once with room for all and once with far less.
        for room in (64 * MB, 8 * MB):
            # On a busy machine one of two runs may be disturbed.
            for _attempt in range(8):
                _result, alone = self.run_(self.targets(20, delay=0.5),
                                           window=4 * MB, memory=room)
                targets, slow = self.targets(20, delay=0.5), self.targets(1)
                result, beside = self.run_(targets, slow, window=4 * MB,
                                           memory=room)
                if beside < 1.2 * alone:
                    break
            self.assertLess(beside, 1.2 * alone)
            self.assertEqual([None] * 21,
                             [one.error for one in result.outcomes])
            self.assertEqual([None] * 20, [
                one.left_at for one in result.outcomes[:20]])
            self.assertEqual(self.source.content(), targets[0].content())
            self.assertLess(result.outcomes[20].left_at, 16 * MB)

    def test_alone_it_is_waited_for(self):
        result, seconds = self.run_([], self.targets(1), 4 * MB)
        self.assertIsNone(result.outcomes[0].left_at)
        self.assertGreaterEqual(seconds, 7)

    def test_a_little_slower_is_waited_for(self):
        # 13 MiB a second beside 20.
        result, _seconds = self.run_(
            self.targets(3, delay=0.2), self.targets(1), 13 * MB,
            window=4 * MB, memory=8 * MB)
        self.assertEqual([None] * 4, [one.left_at for one in result.outcomes])

    def test_none_of_equals_is_let_go_of(self):
        targets = self.targets(8)
        result, _seconds = self.run_([], targets, 2 * MB)
        self.assertEqual([None] * 8, [one.left_at for one in result.outcomes])

    def test_most_are_slow(self):
        _result, alone = self.run_(self.targets(7, delay=0.2), memory=8 * MB,
                                   content=False)
        for room in (64 * MB, 8 * MB):
            result, seconds = self.run_(
                self.targets(7, delay=0.2), self.targets(9), memory=room,
                content=False)
            self.assertLess(seconds, 1.2 * alone + 1)
            self.assertEqual([False] * 7 + [True] * 9, [
                one.left_at is not None for one in result.outcomes])

    @hypothesis.given(st.integers(4, 16), st.data())
    @hypothesis.settings(deadline=None, max_examples=20)
    def test_the_fast_wait_for_none(self, count, draw):
        # Any number of slow ones that leaves a third of the others. No digest
        # is computed: that would take time of the real clock.
        slow = draw.draw(st.integers(0, math.ceil(2 * (count - 1) / 3)))
        limit = draw.draw(st.sampled_from([64 << 10, 256 << 10, MB]))
        room = draw.draw(st.sampled_from([8 * MB, 16 * MB, 64 * MB]))
        self.source = memory.Memory('source', data=random.Random(
            7).randbytes(16 * MB))
        fast = count - slow
        _result, alone = self.run_([], self.targets(fast), 8 * MB,
                                   memory=room, content=False)
        targets = self.targets(fast)
        rates = {target: pacing.Rate(8 * MB, self.loop.clock)
                 for target in targets}
        result, seconds = self.run_(targets, self.targets(slow), limit,
                                    memory=room, rates=rates, content=False)
        self.assertLess(seconds, 1.2 * alone + 1)
        self.assertEqual([None] * fast, [
            one.left_at for one in result.outcomes[:fast]])

    @hypothesis.given(st.integers(1, 16), st.sampled_from([MB // 4, 4 * MB]),
                      st.sampled_from([8 * MB, 64 * MB]))
    @hypothesis.settings(deadline=None, max_examples=20)
    def test_equals_wait_for_each_other(self, count, limit, room):
        self.source = memory.Memory('source', data=random.Random(
            7).randbytes(9 * MB))
        # Others wait for them, to which they are compared, or none do.
        for behind in (None, [limit] * 3):
            result, _seconds = self.run_([], self.targets(count), limit,
                                         memory=room, behind=behind)
            self.assertEqual([None] * count, [
                one.left_at for one in result.outcomes])

    def test_makes_way_for_those_that_wait_behind(self):
        for behind in ([], [8 * MB] * 3):
            targets = self.targets(1 if not behind else 2)
            result, _seconds = self.run_([], targets, memory=8 * MB,
                                         behind=behind)
            for outcome in result.outcomes:
                self.assertLess(outcome.left_at, 8 * MB)
            # It is read to its end, to be proved.
            self.assertEqual(result.content, transfer.Transfer(
                self.source).run().content)

    def test_ends_when_all_have_made_way_for_what_is_known(self):
        content = transfer.Transfer(self.source).run().content
        result, _seconds = self.run_([], self.targets(1), memory=8 * MB,
                                     behind=[], expected=content)
        self.assertIsNone(result.content)
        self.assertIsNotNone(result.outcomes[0].left_at)

    def test_flush_that_does_not_end(self):
        targets = self.targets(2)
        hangs = fakes.Faulty('hangs', self.source.size, loop=self.loop,
                             stall_at={'flush': 0})
        result, _seconds = self.run_([*targets, hangs])
        # It would be an error if it had been waited for.
        self.assertIsNone(result.outcomes[2].error)
        self.assertEqual(self.source.size, result.outcomes[2].left_at)

    def test_goes_on_where_it_was_left(self):
        targets, slow = self.targets(2, delay=0.2), self.targets(1)
        result, _seconds = self.run_(targets, slow, 1 * MB, window=4 * MB,
                                     memory=12 * MB)
        source = fakes.Faulty('source', data=self.source.content())
        left_at = result.outcomes[2].left_at // MB * MB
        self.assertGreater(left_at, 0)
        left_at -= left_at % digests.CHUNK
        rest = [chunk for chunk in result.chunks
                if chunk[0] >= left_at // digests.CHUNK]
        second = transfer.Transfer(source, slow, offset=left_at, chunks=rest)
        outcome = second.run()
        self.assertIsNone(outcome.content)
        self.assertEqual(self.source.content(), slow[0].content())
        self.assertEqual(left_at, source.requests[0][1])

    def test_what_goes_on_is_proved(self):
        chunks = transfer.Transfer(self.source).run().chunks
        self.source.blocks[8 * MB // BLOCK][3] ^= 1
        for offset, fails in ((0, True), (8 * MB, True), (12 * MB, False)):
            rest = [chunk for chunk in chunks
                    if chunk[0] >= offset // digests.CHUNK]
            again = transfer.Transfer(self.source, offset=offset, chunks=rest)
            if fails:
                error = self.assertRaises(errors.DigestMismatch, again.run)
                self.assertIn('chunk 2', str(error))
            else:
                again.run()

    def test_chunks_are_proved_without_a_digest(self):
        chunks = transfer.Transfer(self.source).run().chunks
        again = transfer.Transfer(self.source, content=False, chunks=chunks)
        self.assertEqual(chunks, again.run().chunks)


class TestRates(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.loop = fakes.Loop()
        self.source = memory.Memory('source', data=b'x' * (64 * MB))

    def seconds(self, limits, targets=()):
        start = self.loop.clock.now
        transfer.Transfer(self.source, targets, content=False,
                          loop=self.loop, limits=limits).run()
        return self.loop.clock.now - start

    def test_target(self):
        target = memory.Memory('target', self.source.size)
        rate = pacing.Rate(8 * MB, self.loop.clock)
        taken = self.seconds({target: rate}, [target])
        self.assertTrue(6.9 < taken < 8.1, taken)

    def test_source(self):
        rate = pacing.Rate(4 * MB, self.loop.clock)
        taken = self.seconds({self.source: rate})
        self.assertTrue(14.5 < taken < 16.1, taken)

    def test_source_with_holes(self):
        # A read of a whole object brings what data it has: only that counts.
        data = (b'x' * BLOCK + bytes(4 * MB - BLOCK)) * 16
        source = memory.Memory('source', data=data)
        source.extents = lambda *range_: [extents.Extent(0, len(data), True)]
        self.source = source
        rate = pacing.Rate(BLOCK, self.loop.clock)
        taken = self.seconds({source: rate})
        self.assertTrue(14 < taken < 90, taken)

    def test_changed_while_running(self):
        target = memory.Memory('target', self.source.size)
        rate = pacing.Rate(1 * MB, self.loop.clock)
        self.loop.later(10, lambda: setattr(rate, 'limit', 54 * MB))
        taken = self.seconds({target: rate}, [target])
        self.assertTrue(10 < taken < 13, taken)

    def test_slower_than_the_time_out(self):
        target = memory.Memory('target', self.source.size)
        rate = pacing.Rate(32 << 10, self.loop.clock)
        taken = self.seconds({target: rate}, [target])
        self.assertGreater(taken, 1800)

    def test_shared(self):
        rate = pacing.Rate(10, clock := fakes.Clock())
        rate.charge(22)
        self.assertAlmostEqual(1.95, rate.delay())
        clock.now += 1.95
        self.assertAlmostEqual(0, rate.delay())
        self.assertRaises(ValueError, setattr, rate, 'limit', 0)
        rate.charge(1000)
        rate.limit = None
        self.assertEqual(0, rate.delay())


class TestCancel(base.BaseTestCase):
    """On the real clock, because threads are what matters."""

    def _cancelled(self, source, targets, **kwargs):
        copy = transfer.Transfer(source, targets, **kwargs)
        caught = []

        def run():
            try:
                copy.run()
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.1)
        start = time.monotonic()
        copy.cancel()
        thread.join(10)
        self.assertLess(time.monotonic() - start, 1)
        self.assertIsInstance(caught[0], errors.Cancelled)

    def test_stalled_target(self):
        source = memory.Memory(data=b'x' * MB)
        self._cancelled(source, [fakes.Faulty(
            size=MB, stall_at={'write': 0})])

    def test_stalled_source(self):
        self._cancelled(fakes.Faulty(data=b'x' * MB, stall_at={'read': 0}),
                        [memory.Memory(size=MB)])

    def test_stalled_listing(self):
        source = memory.Memory(data=b'x' * MB)
        release = threading.Event()
        self.addCleanup(release.set)
        source.extents = lambda *unused: release.wait() and []
        self._cancelled(source, [])

    def test_hashing_a_huge_hole(self):
        self._cancelled(memory.Memory(size=1 << 50), [], hashes=['md5'])
