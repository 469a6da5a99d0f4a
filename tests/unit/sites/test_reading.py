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
import types

import fixtures
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.sites import reading
from glance_dcn.sites import sources


class FakeSite:
    """A site that has an image, or fails.

    :param record: of the image
    :param error: what opening the pool fails with
    """

    def __init__(self, name, record=None, error=None, available=True,
                 round_trip=None, size=10):
        self.name = name
        self.available = available
        self.round_trip = round_trip
        self.record = record
        self.error = error
        self.size = size
        self.told = []
        self.open = 0

    @contextlib.contextmanager
    def open_pool(self, pool):
        if self.error:
            raise self.error
        self.open += 1
        try:
            yield 'pool'
        finally:
            self.open -= 1

    @contextlib.contextmanager
    def reading(self, ioctx, image, snapshot):
        yield types.SimpleNamespace(image=self.record, size=self.size,
                                    name=self.name)

    def failed(self, error):
        self.told.append(error)


def source(site):
    return sources.Source(site, None, 'image', 'snap')


class OrderTest(base.BaseTestCase):

    def ordered(self, *sites, **weights):
        return [one.site.name for one in sources.ordered(
            map(source, sites), 'local', weights)]

    def test_local_then_nearest(self):
        self.assertEqual(['local', 'near', 'far', 'unknown'], self.ordered(
            FakeSite('unknown'), FakeSite('far', round_trip=.2),
            FakeSite('near', round_trip=.1), FakeSite('local')))

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


class RelayTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.records.load', lambda image: image))
        self.record = records.Record(10, 'digest')
        self.error = engine_errors.RequestError('one', 'read', 110)

    def relay(self, *sites, record=True):
        return reading.Relay(map(source, sites),
                             self.record if record else None)

    def test_next_one(self):
        one, two = FakeSite('one', self.record), FakeSite('two', self.record)
        with self.relay(one, two) as relay:
            self.assertEqual('one', relay.open().name)
            self.assertEqual('two', relay.another(self.error).name)
            self.assertEqual(['one', 'two'], relay.names)
            self.assertIs(two, relay.source.site)
            self.assertIsNone(relay.another(self.error))
        self.assertEqual({'one': self.error, 'two': self.error},
                         relay.failed)
        self.assertEqual([self.error], one.told)
        self.assertEqual((0, 0), (one.open, two.open))

    def test_only_the_same_image(self):
        wrong = [FakeSite('nothing known'),
                 FakeSite('other digest', records.Record(10, 'other')),
                 FakeSite('other size', records.Record(11, 'digest')),
                 FakeSite('grown', self.record, size=11)]
        right = FakeSite('right', self.record)
        with self.relay(FakeSite('one', self.record), *wrong,
                        right) as relay:
            relay.open()
            self.assertEqual('right', relay.another(self.error).name)
            self.assertEqual([0] * 4, [site.open for site in wrong])
            self.assertEqual(['one', 'right'], relay.names)

    def test_none_without_a_record(self):
        with self.relay(FakeSite('one'), FakeSite('two', self.record),
                        record=False) as relay:
            relay.open()
            self.assertIsNone(relay.another(self.error))
            self.assertEqual({'one': self.error}, relay.failed)

    def test_those_that_are_away_are_not_waited_for(self):
        away = FakeSite('away', self.record, available=False)
        with self.relay(FakeSite('one', self.record), away,
                        FakeSite('two', self.record)) as relay:
            relay.open()
            self.assertEqual('two', relay.another(self.error).name)
        self.assertEqual([], away.told)

    def test_first_cannot_be_opened(self):
        gone = FakeSite('one', error=errors.Unreachable('one', 'x', 'y'))
        with self.relay(gone, FakeSite('two', self.record)) as relay:
            self.assertEqual('two', relay.open().name)
        self.assertEqual([gone.error], gone.told)

    def test_none_can_be_opened(self):
        first, second = (errors.Unreachable(name, 'x', 'y')
                         for name in ('one', 'two'))
        with self.relay(FakeSite('one', error=first),
                        FakeSite('two', error=second)) as relay:
            self.assertIs(first, self.assertRaises(errors.Unreachable,
                                                   relay.open))
        self.assertEqual(['one', 'two'], list(relay.failed))
