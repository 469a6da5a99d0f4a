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

"""The order of sources, and the change from one to the next."""

import contextlib
import random
import types

import fixtures
import hypothesis
from hypothesis import strategies
from oslotest import base
import rados

from glance_dcn.ceph import errors
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.sites import limits
from glance_dcn.sites import sources
from tests import runtimes
from tests.unit.engine import fakes
from tests.unit.engine import memory


KEY = bytes(range(32))

# Not one that depends on how busy the machine is.
_SETTINGS = hypothesis.settings(
    deadline=None, database=None, max_examples=25,
    suppress_health_check=list(hypothesis.HealthCheck))


class FakeImage:
    """An RBD image that has been opened.

    :param record: its record, or None
    """

    def __init__(self, record, image_id='id'):
        self.record = record
        self._id = image_id

    def id(self):
        return self._id

    def metadata_get(self, key):
        if self.record is None:
            raise KeyError(key)
        return records.compose(self.record, self.id())

    def list_snaps(self):
        return [{'name': 'snap', 'id': 7}, {'name': 'other', 'id': 8}]


class FakeEndpoint:
    """An endpoint of an RBD image that has been opened."""

    def __init__(self, record, size, name='endpoint', image_id='id'):
        self.image = FakeImage(record, image_id)
        self.size = size
        self.name = name

    def call(self, function, *args, fence=True):
        return function(self.image, *args)


class FakePool:
    """A pool whose cluster says what a snapshot is called."""

    def __init__(self):
        self.reply = b'\x04\0\0\0snap'

    def execute(self, *args):
        if isinstance(self.reply, Exception):
            raise self.reply
        return 0, self.reply


class FakeHome:
    """Where the key of the deployment is."""

    site = types.SimpleNamespace(name='home')

    def key(self):
        return KEY


class FakeSite:
    """A site that has an image, or fails.

    :param record: of the image
    :param error: what opening the pool fails with
    :param reason: why its monitors do not answer; 'later': nothing comes
    """

    home = FakeHome()
    image_id = 'id'
    is_in_use = outdated = False

    def __init__(self, name, record=None, error=None, available=True,
                 round_trip=None, size=10, reason=None):
        self.name = name
        self.reason = reason
        self.asked = 0
        self.available = available
        self.round_trip = round_trip
        self.record = record
        self.error = error
        self.size = size
        self.limits = limits.get(name)
        self.told = []
        self.open = 0
        self.pool = FakePool()
        self.connection = self

    def call(self, function, *args, **unused):
        return function(*args)

    def ask_monitors(self, then):
        self.asked += 1
        if self.reason != 'later':
            then(self.reason)

    @contextlib.contextmanager
    def open_pool(self, pool):
        if self.error:
            raise self.error
        self.open += 1
        try:
            yield self.pool
        finally:
            self.open -= 1

    @contextlib.contextmanager
    def reading(self, ioctx, image, snapshot):
        yield FakeEndpoint(self.record, self.size, self.name, self.image_id)

    def is_outdated(self, ioctx):
        return self.outdated

    def suspect(self):
        self.told.append('suspected')

    def failed(self, error):
        self.told.append(error)
        if isinstance(error, errors.Unreachable):
            self.available = False


def signed(content, size=10):
    """Return a record of this deployment's."""
    return records.sign(records.Record(size, content), 'image', KEY)


def source(site):
    return sources.Source(site, None, 'image', 'snap')


class OrderTest(base.BaseTestCase):

    def ordered(self, *sites, **weights):
        return [one.site.name for one in sources.ordered(
            map(source, sites), 'local', weights)]

    def test_local_then_nearest(self):
        self.assertEqual(['local', 'near', 'far', 'unknown'], self.ordered(
            FakeSite('unknown'), FakeSite('far', round_trip=.2),
            FakeSite('near', round_trip=.01), FakeSite('local')))

    def test_about_as_far_is_equal(self):
        # What is measured differs each time.
        for one, other in ((.0001, .005), (.03, .05), (.1, .2)):
            self.assertEqual(['b', 'a'], self.ordered(
                FakeSite('b', round_trip=other),
                FakeSite('a', round_trip=one)))

    def test_weights_come_before_that(self):
        self.assertEqual(['far', 'local', 'near'], self.ordered(
            FakeSite('local'), FakeSite('near', round_trip=.1),
            FakeSite('far', round_trip=.2), far=7, near=-1))

    def test_those_that_are_away_come_last(self):
        self.assertEqual(['near', 'local'], self.ordered(
            FakeSite('local', available=False), FakeSite('near'), local=9))

    def test_otherwise_as_they_came(self):
        self.assertEqual(['b', 'a', 'c'], self.ordered(
            FakeSite('b'), FakeSite('a'), FakeSite('c')))

    def test_preference(self):
        order = [FakeSite('local', round_trip=.5),
                 FakeSite('near', round_trip=.01),
                 FakeSite('far', round_trip=.2), FakeSite('unknown'),
                 FakeSite('away', available=False, round_trip=.001)]
        found = [sources.preference(site, 'local') for site in order]
        self.assertEqual(sorted(found, reverse=True), found)
        self.assertEqual(len(order), len(set(found)))
        self.assertTrue(all(0 <= one < 1 for one in found))


class SourceFailoverTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.useFixture(runtimes.Runtime())
        self.record = signed('digest')
        self.error = engine_errors.RequestError('one', 'read', 110)

    def failover(self, *sites, record=True, **options):
        return sources.SourceFailover('image', map(source, sites),
                                      self.record if record else None,
                                      **options)

    def test_none_is_left(self):
        # As for a target that goes on by itself once each source has failed.
        with self.failover() as failover:
            error = self.assertRaises(engine_errors.RequestError,
                                      failover.open)
        self.assertIn('image image: read failed', str(error))
        self.assertIn('No source is left', str(error))

    def test_next_one(self):
        one, two = FakeSite('one', self.record), FakeSite('two', self.record)
        with self.failover(one, two) as failover:
            self.assertEqual('one', failover.open().name)
            self.assertEqual('two', failover.next_source(self.error).name)
            self.assertEqual(['one', 'two'], failover.names)
            self.assertIs(two, failover.source.site)
            self.assertIsNone(failover.next_source(self.error))
        self.assertEqual({'one': self.error, 'two': self.error},
                         failover.failed)
        self.assertEqual([self.error], one.told)
        self.assertEqual(0, two.open)
        self.assertEqual(
            [{'errors/away': 1, 'retries/read': 1}, {'errors/away': 1}],
            [site.limits.meter.counts() for site in (one, two)])

    def test_what_was_left_is_closed(self):
        # Its client is not to be held to the end of a long download.
        one, two = FakeSite('one', self.record), FakeSite('two', self.record)
        started = []
        with self.failover(one, two, start=lambda name, run: started.append(
                run)) as failover:
            failover.open()
            self.assertEqual([], started)
            failover.next_source(self.error)
            [close] = started
            close()
            self.assertEqual((0, 1), (one.open, two.open))

    def test_renewed_if_its_client_was_retired(self):
        site = FakeSite('one', self.record)
        with self.failover(site, start=lambda name, run: run()) as failover:
            first = failover.open()
            self.assertIsNone(failover.renew())
            site.outdated = True
            # Not while it is away.
            site.available = False
            self.assertIsNone(failover.renew())
            site.available = True
            second = failover.renew()
            self.assertIsNot(first, second)
            self.assertEqual((1, ['one']), (site.open, failover.names))
            # Each time that it is retired.
            self.assertIsNot(second, failover.renew())

    def test_not_renewed_by_another_image(self):
        site = FakeSite('one', self.record)
        with self.failover(site, start=lambda name, run: run()) as failover:
            first = failover.open()
            site.outdated, site.image_id = True, 'another'
            self.assertIsNone(failover.renew())
            self.assertIs(first, failover.endpoint)
            self.assertEqual(1, site.open)

    def test_stays_if_it_cannot_be_renewed(self):
        site = FakeSite('one', self.record)
        with self.failover(site, start=lambda name, run: run()) as failover:
            first = failover.open()
            site.outdated = True
            site.error = errors.Exhausted('one', 'x', 'y')
            self.assertIsNone(failover.renew())
            self.assertIs(first, failover.endpoint)
            self.assertEqual({}, failover.failed)
            # It is not tried before each chunk.
            site.error = None
            self.assertIsNone(failover.renew())

    def test_what_was_left_is_closed_without_a_thread(self):
        def start(name, run):
            raise RuntimeError("can't start new thread")
        one, two = FakeSite('one', self.record), FakeSite('two', self.record)
        with self.failover(one, two, start=start) as failover:
            failover.open()
            failover.next_source(self.error)
        self.assertEqual((0, 0), (one.open, two.open))

    def test_only_the_same_image(self):
        wrong = [FakeSite('nothing known'),
                 FakeSite('other digest', signed('other')),
                 FakeSite('other size', signed('digest', 11)),
                 FakeSite('of anybody', records.Record(10, 'digest')),
                 FakeSite('of another image', records.sign(
                     records.Record(10, 'digest'), 'other', KEY)),
                 FakeSite('of another deployment', records.sign(
                     records.Record(10, 'digest'), 'image', KEY[::-1])),
                 FakeSite('grown', self.record, size=11)]
        right = FakeSite('right', self.record)
        with self.failover(FakeSite('one', self.record), *wrong,
                           right) as failover:
            failover.open()
            self.assertEqual('right', failover.next_source(self.error).name)
            self.assertEqual([0] * 7, [site.open for site in wrong])
            self.assertEqual(['one', 'right'], failover.names)

    def test_none_without_a_record(self):
        with self.failover(FakeSite('one'), FakeSite('two', self.record),
                           record=False) as failover:
            failover.open()
            self.assertIsNone(failover.next_source(self.error))
            self.assertEqual({'one': self.error}, failover.failed)

    def test_those_that_are_away_are_not_waited_for(self):
        away = FakeSite('away', self.record, available=False)
        with self.failover(FakeSite('one', self.record), away,
                           FakeSite('two', self.record)) as failover:
            failover.open()
            self.assertEqual('two', failover.next_source(self.error).name)
        self.assertEqual([], away.told)

    def test_those_whose_monitors_do_not_answer_come_last(self):
        silent = [FakeSite('refuses', self.record, reason='refused'),
                  FakeSite('silent', self.record, reason='later')]
        well = [FakeSite(name, self.record) for name in ('two', 'three')]
        with self.failover(FakeSite('one', self.record), silent[0], well[0],
                           silent[1], well[1], patience=.2) as failover:
            failover.open()
            self.assertEqual(
                ['two', 'three', 'silent'],
                [failover.next_source(self.error).name for _ in range(3)])
            self.assertIsNone(failover.next_source(self.error))
        # Nothing else waits for it either.
        self.assertFalse(silent[0].available)
        self.assertIn('refused', str(silent[0].told[0]))
        # All at once, and whether the last one answers tells nothing.
        self.assertEqual([1, 2], [site.asked for site in silent])

    def test_an_answer_that_comes_late(self):
        # As where very many are asked, some at a time.
        late, silent = (FakeSite(name, self.record, reason='later')
                        for name in ('late', 'silent'))
        silent.ask_monitors = lambda then: late.then(None)
        late.ask_monitors = lambda then: setattr(late, 'then', then)
        with self.failover(FakeSite('one', self.record), late, silent,
                           patience=0) as failover:
            failover.open()
            self.assertEqual('late', failover.next_source(self.error).name)

    def test_the_only_one_left_is_not_asked(self):
        two = FakeSite('two', self.record, reason='refused')
        with self.failover(FakeSite('one', self.record), two) as failover:
            failover.open()
            self.assertEqual('two', failover.next_source(self.error).name)
        self.assertEqual(0, two.asked)

    def test_first_cannot_be_opened(self):
        gone = FakeSite('one', error=errors.Unreachable('one', 'x', 'y'))
        with self.failover(gone, FakeSite('two', self.record)) as failover:
            self.assertEqual('two', failover.open().name)
        self.assertEqual([gone.error], gone.told)

    def gone(self, name, **kwargs):
        return FakeSite(name, self.record, errors.Unreachable(name, 'x', 'y'),
                        reason='no answer', **kwargs)

    def test_others_that_are_gone_are_found_out_at_once(self):
        # What was the image's location is away, and nothing is known of the
        # others: each is going to be tried as the first one.
        gone = [self.gone('gone%d' % number) for number in range(20)]
        well = FakeSite('well', self.record)
        with self.failover(*gone, well, record=False) as failover:
            self.assertRaises(errors.Unreachable, failover.open)
        self.assertEqual([False] * 20, [site.available for site in gone])
        self.assertTrue(well.available)
        # Only one was connected to.
        self.assertEqual(19, sum(site.asked for site in gone))

    def test_one_that_is_in_use_is_only_suspected(self):
        used, other = self.gone('used'), self.gone('other')
        used.is_in_use = True
        with self.failover(self.gone('one'), used, other,
                           record=False) as failover:
            self.assertRaises(errors.Unreachable, failover.open)
        self.assertEqual((['suspected'], True), (used.told, used.available))
        self.assertFalse(other.available)

    def test_one_that_was_known_to_be_away_has_no_other_asked(self):
        # It was refused at once.
        others = [FakeSite(name, self.record) for name in ('two', 'three')]
        with self.failover(self.gone('one', available=False), *others,
                           record=False) as failover:
            self.assertRaises(errors.Unreachable, failover.open)
        self.assertEqual([0, 0], [site.asked for site in others])

    def test_none_can_be_opened(self):
        first, second = (errors.Unreachable(name, 'x', 'y')
                         for name in ('one', 'two'))
        with self.failover(FakeSite('one', error=first),
                           FakeSite('two', error=second)) as failover:
            self.assertIs(first, self.assertRaises(errors.Unreachable,
                                                   failover.open))
        self.assertEqual(['one', 'two'], list(failover.failed))

    def test_check(self):
        site = FakeSite('one', self.record)
        with self.failover(site) as failover:
            failover.open()
            self.assertEqual('id', failover.image_id)
            failover.check()
            for reply in (rados.ObjectNotFound('gone', errno=2),
                          b'\x05\0\0\0trash', b''):
                site.pool.reply = reply
                self.assertRaises(sources.Removed, failover.check)
            site.pool.reply = rados.TimedOut('late', errno=110)
            error = self.assertRaises(engine_errors.RequestError,
                                      failover.check)
            self.assertEqual(110, error.errno)
            self.assertIn('one', str(error))


class Vanishing(memory.Memory):
    """An image that is removed, and reads as zeros and holes since.

    :param after: reads and listings until then
    """

    # Bytes of a read at most: there are many.
    limit = 1 << 20

    def __init__(self, data, after):
        super().__init__(data=data)
        self._after = after

    @property
    def removed(self):
        return self._after < 0

    def extents(self, offset=0, length=None):
        self._after -= 1
        return (iter(()) if self.removed
                else super().extents(offset, length))

    def read(self, offset, length, done):
        self._after -= 1
        if self.removed:
            done(bytes(length))
        else:
            super().read(offset, length, done)


class FakeFailover:
    """Endpoints of one image, of which the next is taken when one fails."""

    def __init__(self, *endpoints):
        self._endpoints = list(endpoints)
        self.open = self._endpoints.pop(0)
        self.checked = 0

    def check(self):
        self.checked += 1
        if getattr(self.open, 'removed', False):
            raise sources.Removed('gone')

    def renew(self):
        return None

    def next_source(self, error):
        if not self._endpoints:
            return None
        self.open = self._endpoints.pop(0)
        return self.open


class ChunksTest(base.BaseTestCase):
    """Nothing is given out that was read of a removed image."""

    # More than is read ahead.
    CHUNK = 1 << 20

    def setUp(self):
        super().setUp()
        source = random.Random(1)
        self.data = b''.join(
            source.choice((bytes, source.randbytes))(self.CHUNK)
            for _ in range(14)) + b'end'

    def read(self, failover, offset=0, length=None):
        """Return what is given out, and the error at its end, if any."""
        came = []
        try:
            for chunk in sources.chunks(
                    failover, failover.open, offset,
                    len(self.data) - offset if length is None else length,
                    chunk=self.CHUNK, ahead=self.CHUNK):
                came.append(chunk)
        except sources.Removed as exc:
            return b''.join(came), exc
        return b''.join(came), None

    def test_ranges(self):
        for offset, length in ((0, None), (5, 1), (7, 3 << 20), (0, 0),
                               (len(self.data) - 1, 1)):
            failover = FakeFailover(Vanishing(self.data, 1000))
            came, error = self.read(failover, offset, length)
            self.assertIsNone(error)
            end = None if length is None else offset + length
            self.assertEqual(self.data[offset:end], came)
            # At least once, and no more than once a chunk.
            self.assertLessEqual(bool(came), failover.checked)
            self.assertLessEqual(failover.checked,
                                 -(-len(came) // self.CHUNK))

    @_SETTINGS
    @hypothesis.given(after=strategies.integers(0, 40),
                      offset=strategies.integers(0, 3 << 20),
                      others=strategies.lists(strategies.integers(0, 40),
                                              max_size=2))
    def test_removed_at_any_time(self, after, offset, others):
        endpoints = [Vanishing(self.data, one) for one in (after, *others)]
        came, error = self.read(FakeFailover(*endpoints), offset)
        self.assertEqual(self.data[offset:offset + len(came)], came)
        if error is None:
            self.assertEqual(self.data[offset:], came)
        else:
            self.assertTrue(all(one.removed for one in endpoints))

    def faulty(self, name, at):
        """Return an image of which the read of a number fails."""
        endpoint = fakes.Faulty(name, data=self.data, fail_at={'read': at})
        endpoint.limit = Vanishing.limit
        return endpoint

    @_SETTINGS
    @hypothesis.given(strategies.integers(0, 24), strategies.integers(0, 9),
                      strategies.integers(1, 24 << 20))
    def test_source_fails(self, at, offset, length):
        failover = FakeFailover(self.faulty('one', at),
                                memory.Memory(data=self.data))
        length = min(length, len(self.data) - offset)
        came, error = self.read(failover, offset, length)
        self.assertIsNone(error)
        self.assertEqual(self.data[offset:offset + length], came)

    def test_source_is_renewed(self):
        # As when its client was retired, at any time.
        for at in range(5):
            failover = FakeFailover(
                *(memory.Memory(data=self.data) for _number in range(2)))
            turns = iter(range(100))
            failover.renew = lambda failover=failover, at=at, turns=turns: (
                failover.next_source(None) if next(turns) == at else None)
            came, error = self.read(failover, 5)
            self.assertIsNone(error)
            self.assertEqual(self.data[5:], came)

    def test_last_source_fails(self):
        failover = FakeFailover(self.faulty('one', 3), self.faulty('two', 3))
        error = self.assertRaises(
            engine_errors.RequestError, lambda: len(self.read(failover)[0]))
        self.assertEqual('two', error.endpoint)

    def test_another_has_all_of_it(self):
        for after in range(30):
            came, error = self.read(FakeFailover(
                Vanishing(self.data, after), Vanishing(self.data, 1000)))
            self.assertIsNone(error)
            self.assertEqual(self.data, came)
