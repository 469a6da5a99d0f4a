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

"""Copies to many sites, without a cluster."""

import contextlib
import hashlib
import itertools
import random
import threading
import types
from unittest import mock

import fixtures
import hypothesis
from hypothesis import strategies as st
from oslotest import base

from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.runtime import limits
from glance_dcn.runtime import process
from glance_dcn.sites import copying
from glance_dcn.sites import existing
from glance_dcn.sites import targets as targets_
from tests import runtimes
from tests.unit.sites import fakes

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'
MIB = 1 << 20
_numbers = itertools.count()


class OneStraggler(targets_.Waves):
    """Waves of which one target at most continues by itself."""

    def straggles(self, target):
        return not self.stragglers and super().straggles(target)


class WavesTestCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fakes.Cluster())
        self.data = random.Random(5).randbytes(9 * MIB + 77)
        self.source = self.site('source', self.data)
        self.noted = []

    def site(self, name, data=None):
        """Make a site, whose limits no other test has changed."""
        return fakes.Site('%s-%d' % (name, next(_numbers)), data)

    def sites(self, count):
        return [self.site('dcn') for _number in range(count)]

    def copy(self, targets, sources=None, **options):
        options.setdefault('finished', self.note)
        return copying.Copy(
            'image', [one.source() for one in sources or [self.source]],
            targets, {'sha256': hashlib.sha256(self.data).hexdigest()},
            **options)

    def note(self, outcome, told):
        told()
        self.noted += outcome.copied

    def assertCopied(self, *sites):
        for site in sites:
            self.assertTrue(self.data == site.held.content(), site.name)
            self.assertEqual(['begin', 'publish', 'commit'], site.calls[-3:])


class CopyTest(WavesTestCase):

    def test_in_waves(self):
        targets, most = self.sites(11), []
        copy = self.copy(targets, at_once=4, interval=0, progress=lambda now:
                         most.append(now.running))
        outcome = copy.run()
        self.assertEqual({target.name for target in targets},
                         set(outcome.copied))
        self.assertEqual(11, len(self.noted))
        self.assertCopied(*targets)
        self.assertLessEqual(max(most), 4)
        # The source is opened once, and its record made once.
        self.assertEqual(['read'], self.source.calls)

    def test_fewer_where_the_process_has_no_room(self):
        self.useFixture(runtimes.Runtime())
        process.put(types.SimpleNamespace(
            targets_at_once=lambda most, running: 2), limits.ProcessLimits)
        most = []
        self.copy(self.sites(5), interval=0, progress=lambda now:
                  most.append(now.running)).run()
        self.assertEqual(2, max(most))

    def test_failed_ones_are_named_and_the_others_go_on(self):
        targets = self.sites(7)
        targets[2].opening = mock.Mock(side_effect=errors.EngineError('no'))
        targets[5].publishing = mock.Mock(side_effect=OSError('no room'))
        outcome = self.copy(targets, at_once=3).run()
        self.assertEqual({targets[2].name, targets[5].name},
                         set(outcome.failed))
        self.assertEqual(5, len(outcome.copied))
        for failed in (targets[2], targets[5]):
            self.assertEqual('discard', failed.calls[-1])
            self.assertEqual({'transfers': 1, 'errors/other': 1},
                             failed.limits.meter.counts())
        self.assertEqual({'transfers': 1}, targets[0].limits.meter.counts())
        self.assertCopied(*targets[:2], *targets[3:5], targets[6])

    def test_source_that_fails_is_counted(self):
        other = self.site('other', self.data)
        away = self.site('away')
        damaged = self.site('damaged', self.data[::-1])
        target = self.site('dcn')
        self.copy([target], [away, damaged, other]).run()
        self.assertCopied(target)
        self.assertEqual(
            [{'transfers': 1, 'errors/away': 1, 'retries/read': 1},
             {'transfers': 1, 'errors/mismatch': 1, 'retries/read': 1},
             {'transfers': 1}],
            [site.limits.meter.counts() for site in (away, damaged, other)])

    def test_slow_one_does_not_hold_back_the_others(self):
        targets, slow = self.sites(9), self.site('slow')
        slow.limits.set(0, 0.1)

        def note(outcome, told):
            self.note(outcome, told)
            if len(self.noted) == 9:
                slow.limits.set(0, 0)
        outcome = self.copy([slow, *targets], at_once=5, finished=note).run()
        self.assertEqual({}, outcome.failed)
        # Of two waves the others are there, and it is not.
        self.assertEqual(slow.name, self.noted[-1])
        self.assertEqual(10, len(self.noted))
        self.assertCopied(slow, *targets)
        # It had the source to itself once.
        self.assertEqual(['read', 'read'], self.source.calls)

    def test_more_slow_ones_than_may_go_on_are_put_back(self):
        targets, slow = self.sites(8), [self.site('slow') for _ in range(3)]
        for one in slow:
            one.limits.set(0, 0.1)

        def note(outcome, told):
            self.note(outcome, told)
            if len(self.noted) == 8:
                for one in slow:
                    one.limits.set(0, 0)
        log = self.useFixture(fixtures.FakeLogger())
        self.copy([*slow, *targets], at_once=11, finished=note,
                  waves=OneStraggler).run()
        self.assertIn('takes image image later', log.output)
        self.assertEqual({one.name for one in slow}, set(self.noted[-3:]))
        self.assertCopied(*slow, *targets)

    def slow(self, count):
        sites = [self.site('slow') for _number in range(count)]
        for one in sites:
            one.limits.set(0, 0.1)
        return sites

    def copy_beside(self, slow, targets, failing=(), **options):
        """Copy to both; the slow ones are fast once the others are done."""
        def note(outcome, told):
            self.note(outcome, told)
            if {one.name for one in targets} <= set(self.noted):
                for one in slow:
                    one.limits.set(0, 0)
        outcome = self.copy(options.pop('order', [*slow, *targets]),
                            finished=note, **options).run()
        self.assertEqual({one.name for one in failing}, set(outcome.failed))
        self.assertEqual({one.name for one in slow},
                         set(self.noted[-len(slow):]))
        self.assertCopied(*slow, *targets)

    def test_most_are_slow(self):
        self.copy_beside(self.slow(9), self.sites(7))

    def test_slow_one_is_alone_in_the_first_wave(self):
        [slow], targets, away = self.slow(1), self.sites(3), self.site('away')
        away.opening = mock.Mock(side_effect=errors.EngineError('no'))
        self.copy_beside([slow], targets, [away], at_once=2,
                         order=[slow, away, *targets])

    def test_slow_one_is_alone_in_a_later_wave(self):
        [slow], targets = self.slow(1), self.sites(3)
        self.copy_beside([slow], targets, at_once=1,
                         order=[targets[0], slow, *targets[1:]])

    def test_slow_ones_fill_a_later_wave(self):
        slow, targets = self.slow(2), self.sites(4)
        self.copy_beside(slow, targets, at_once=2,
                         order=[*targets[:2], *slow, *targets[2:]])

    def test_what_was_not_read_to_its_end_is_written_again(self):
        # Nothing has proven the part that is written, of a damaged source: it
        # has data where the image has none, and none is written over it.
        chance = random.Random(6)
        self.data = (chance.randbytes(MIB) + bytes(MIB)
                     + chance.randbytes(22 * MIB))
        self.source = source = self.site('source', self.data)
        slow, away, *targets = self.sites(5)
        slow.limits.set(0, 8)
        away.opening = mock.Mock(side_effect=errors.EngineError('no'))
        damaged = []

        def damage():
            source.held.write(MIB, bytes(range(1, 256)), lambda error: None)
            damaged.append(True)

        class Mended(targets_.Waves):
            def put_back(self, target):
                if damaged and target.site is slow:
                    del source.held.blocks[MIB // extents.BLOCK]
                    slow.limits.set(0, 0)
                super().put_back(target)

        def note(outcome, told):
            self.note(outcome, told)
            if len(self.noted) == 2 and not damaged:
                damage()
        self.copy([*targets[:2], slow, away, targets[2]], at_once=2,
                  finished=note, waves=Mended).run()
        self.assertEqual(1, len(damaged))
        self.assertCopied(slow, *targets)

    def test_one_that_is_put_back_twice_does_not_hold_back_the_others(self):
        slow, targets = self.slow(4), self.sites(3)
        [alone, twice, third, fourth] = slow

        def note(outcome, told):
            self.note(outcome, told)
            if targets[2].name in self.noted:
                third.limits.set(0, 0)
            if third.name in self.noted:
                fourth.limits.set(0, 0)
            if fourth.name in self.noted:
                alone.limits.set(0, 0)
                twice.limits.set(0, 0)
        self.copy([alone, twice, targets[0], third, targets[1], fourth,
                   targets[2]], at_once=3, finished=note,
                  waves=OneStraggler).run()
        self.assertEqual({alone.name, twice.name}, set(self.noted[-2:]))
        self.assertCopied(*slow, *targets)

    def test_most_are_late(self):
        target, late = self.site('dcn'), [self.site('late') for _ in range(3)]
        ready = threading.Event()
        self.addCleanup(ready.set)
        for one in late:
            one.opening = lambda: ready.wait(60)

        def note(outcome, told):
            self.note(outcome, told)
            ready.set()
        self.copy([*late, target], finished=note, late=0.1, latest=0.3).run()
        self.assertEqual(target.name, self.noted[0])
        self.assertCopied(*late, target)

    def test_all_are_late(self):
        # They are waited for, as there is no other.
        late = self.sites(2)
        ready = threading.Event()
        self.addCleanup(ready.set)
        threading.Timer(1, ready.set).start()
        for one in late:
            one.opening = lambda: ready.wait(60)
        self.copy(late, late=0.1, latest=0.3).run()
        self.assertEqual(['begin', 'publish', 'commit'], late[0].calls)
        self.assertCopied(*late)

    def test_one_that_is_published_slowly_does_not_hold_back_the_others(self):
        slow, *targets = self.sites(3)
        ready = threading.Event()
        self.addCleanup(ready.set)
        slow.publishing = lambda: ready.wait(60)

        def note(outcome, told):
            self.note(outcome, told)
            if len(self.noted) == 2:
                ready.set()
        self.copy([slow, *targets], at_once=1, finished=note, late=0.1,
                  latest=0.3).run()
        self.assertEqual(slow.name, self.noted[-1])

    def test_late_one_does_not_hold_back_the_others(self):
        targets, late = self.sites(3), self.site('late')
        ready = threading.Event()
        self.addCleanup(ready.set)
        late.opening = lambda: ready.wait(60)

        def note(outcome, told):
            self.note(outcome, told)
            if len(self.noted) == 3:
                ready.set()
        self.copy([late, *targets], finished=note, late=0.1).run()
        self.assertEqual(late.name, self.noted[-1])
        self.assertCopied(late, *targets)

    def test_one_that_is_full_does_not_hold_back_the_others(self):
        full, other = self.site('full'), self.site('dcn')
        full.limits.set(1, 0)
        full.limits.count(1)

        def note(outcome, told):
            self.note(outcome, told)
            full.limits.set(0, 0)
        self.copy([full, other], finished=note).run()
        self.assertEqual([other.name, full.name], self.noted)

    def test_ended_by_its_progress_keeps_what_was_noted(self):
        targets = self.sites(6)

        def progress(standing):
            if standing.done == 3:
                raise ZeroDivisionError
        copy = self.copy(targets, at_once=3, interval=0, progress=progress)
        self.assertRaises(ZeroDivisionError, copy.run)
        self.assertEqual(3, len(self.noted))
        for target in targets:
            self.assertEqual(target.name not in self.noted,
                             target.held is None)

    def test_ended_while_one_goes_on_by_itself(self):
        targets, slow = self.sites(2), self.site('slow')
        slow.limits.set(0, 0.01)

        def progress(standing):
            if standing.stragglers:
                raise ZeroDivisionError
        copy = self.copy([*targets, slow], interval=0, progress=progress)
        self.assertRaises(ZeroDivisionError, copy.run)
        self.assertIsNone(slow.held)
        self.assertEqual('discard', slow.calls[-1])

    def test_source_that_is_not_there(self):
        other = self.site('other', self.data)
        gone = self.site('gone')
        targets = self.sites(3)
        outcome = self.copy(targets, [gone, other], at_once=2).run()
        self.assertEqual(other.name, outcome.source)
        self.assertCopied(*targets)

    def test_no_source(self):
        targets = self.sites(3)
        self.assertRaises(copying.CopyFailed,
                          self.copy(targets, [self.site('gone')]).run)
        self.assertEqual([[], [], []], [one.calls for one in targets])

    def test_source_that_is_damaged(self):
        self.source.held.blocks[3][5] ^= 1
        targets = self.sites(3)
        self.assertRaises(copying.CopyFailed, self.copy(targets).run)
        self.assertEqual([None] * 3, [one.held for one in targets])
        self.assertEqual([], self.noted)

    def test_source_fails_when_some_are_done(self):
        targets = self.sites(4)

        def note(outcome, told):
            self.note(outcome, told)
            self.source.held.blocks[3][5] ^= 1
        outcome = self.copy(targets, at_once=2, finished=note).run()
        self.assertEqual(2, len(outcome.copied))
        self.assertEqual(2, len(outcome.failed))
        self.assertIsInstance(outcome.failed[targets[3].name],
                              copying.CopyFailed)
        self.assertIsNone(targets[3].held)


class StandingTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        self.useFixture(runtimes.Runtime())
        process.put(types.SimpleNamespace(
            targets_at_once=lambda most, running: most), limits.ProcessLimits)
        self.waves = targets_.Waves([fakes.Site('s%d' % number)
                                     for number in range(8)], 4,
                                    lambda: self.now)

    def begin(self):
        targets = [mock.Mock(site=site, error=None, part=0, began=None)
                   for site in self.waves.next()]
        self.waves.begin(targets)
        return targets

    def test_tells_numbers_and_the_time_left(self):
        self.assertEqual((0, 8, None), self.told())
        targets = self.begin()
        self.now += 10
        for target in targets[:3]:
            self.waves.end(target)
        targets[3].error = OSError()
        self.waves.end(targets[3])
        standing = self.waves.standing()
        self.assertEqual((3, 0, 4, 1, 0.5), (
            standing.done, standing.running, standing.waiting,
            standing.failed, standing.fraction))
        self.assertEqual(10, standing.left)

    def told(self):
        standing = self.waves.standing()
        return standing.done, standing.waiting, standing.left

    def test_the_slowest_tells_the_time_left(self):
        targets = self.begin()
        for target in targets[:3]:
            self.waves.end(target)
        self.assertTrue(self.waves.straggles(targets[3]))
        targets[3].began = self.now
        for target in self.begin():
            self.waves.end(target)
        self.now += 30
        targets[3].part = 0.25
        self.assertEqual(90, self.waves.standing().left)
        self.assertEqual(['s3'], self.waves.standing().stragglers)

    def test_put_back_comes_last(self):
        targets = self.begin()
        self.waves.put_back(targets[0])
        self.waves.retry([target.site for target in targets[1:]])
        self.assertEqual(['s1', 's2', 's3', 's4'],
                         [site.name for site in self.waves.next()])
        self.assertEqual(['s5', 's6', 's7'],
                         [site.name for site in self.waves.next()])
        self.assertEqual(['s0'], [site.name for site in self.waves.next()])

    @hypothesis.given(st.integers(1, 20), st.integers(1, 6), st.data())
    @hypothesis.settings(deadline=None)
    def test_whatever_is_put_back_it_ends(self, count, at_once, draw):
        sites = [fakes.Site('s%d' % number) for number in range(count)]
        waves = targets_.Waves(sites, at_once)
        rounds = done = 0
        while waves.waiting:
            targets = [mock.Mock(site=site, error=None)
                       for site in waves.next()]
            waves.begin(targets)
            waves.record_speeds([1])
            # All make way for others; or one ends, and any may be put back.
            ended = [] if waves.expected_speeds() else [targets[0]] + [
                target for target in targets[1:]
                if draw.draw(st.booleans())]
            for target in targets:
                if target in ended:
                    waves.end(target)
                    done += 1
                else:
                    waves.put_back(target)
            rounds += 1
        self.assertEqual(count, done)
        self.assertLessEqual(rounds, count * (count + 1) / 2)


class AdoptedTargetTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.site = mock.Mock()
        self.site.open_pool.return_value = contextlib.nullcontext('ioctx')
        self.site.begin.side_effect = existing.Complete(
            existing.ExistingImage(IMAGE, '17', 10, ('snap',), True))
        self.target = targets_.Target(self.site, IMAGE, 10, None, {}, 0,
                                      adopt=lambda *args: None)
        self.target.open()

    def assertReleased(self, *calls):
        self.assertEqual([mock.call(IMAGE, image_id) for image_id in calls],
                         self.site.release_adopted.mock_calls)
        # It was there before, and another copy may adopt it.
        self.site.discard_or_defer.assert_not_called()

    def test_released_if_the_copy_fails(self):
        self.target.close(failed=True)
        self.assertReleased('17')

    def test_released_if_it_fails(self):
        self.target.fail(OSError())
        self.target.close(failed=False)
        self.assertReleased('17')

    def test_kept_once_glance_is_told(self):
        self.target.tell()
        self.target.close(failed=True)
        self.assertReleased()

    def test_kept_if_all_is_well(self):
        self.target.close(failed=False)
        self.assertReleased()
