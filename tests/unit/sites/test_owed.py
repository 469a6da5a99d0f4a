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

"""Records of owed work as far as they need no cluster."""

import contextlib
import dataclasses
import json
import time

import fixtures
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.sites import owed
from glance_dcn.sites import worker

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class AwaySite:
    """A site that cannot be reached."""

    fsid = 'f'
    pool = 'images'
    available = False

    round_trip = None
    retired = False

    def __init__(self, name):
        self.name = name

    @contextlib.contextmanager
    def open_pool(self, pool=None):
        raise errors.Unreachable(self.name, 'it is away', 'wait')
        yield


class TestRecord(base.BaseTestCase):

    def test_is_understood_again(self):
        record = owed.Record(owed.DELETE, IMAGE, 'images', 'fsid',
                             snapshot='snap', error='näh', attempts=3,
                             tried=12.5)
        self.assertEqual(record, owed.parse(record.text()))
        # The comparison on the cluster takes text alone.
        self.assertTrue(record.text().isascii())

    def test_of_another_version(self):
        fields = json.loads(owed.Record(owed.DELETE, IMAGE, 'images').text())
        for text in (json.dumps(dict(fields, version=2)),
                     json.dumps(dict(fields, more=1)), '[]', '{', '{}'):
            self.assertRaises(ValueError, owed.parse, text)

    def test_keys(self):
        def record(job, **fields):
            return owed.Record(job, IMAGE, 'images', **fields).key
        # The same work twice is one record; that of two writers is two.
        self.assertEqual(record(owed.DELETE), record(owed.DELETE))
        self.assertNotEqual(record(owed.HALF_WRITTEN),
                            record(owed.HALF_WRITTEN))
        self.assertNotEqual(record(owed.REAP, image_id='1'),
                            record(owed.REAP, image_id='2'))
        for key in (record(owed.DELETE), record(owed.HALF_WRITTEN)):
            self.assertTrue(key.startswith(owed.prefix(IMAGE)))

    def test_names_that_begin_alike(self):
        self.assertFalse(owed.Record(owed.DELETE, 'a/b', 'p').key.startswith(
            owed.prefix('a')))


class TestLedger(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.ledger = owed.Ledger()
        self.home, self.edge = AwaySite('home'), AwaySite('edge')

    def test_places(self):
        self.ledger.add(self.edge)
        own = owed.Place(self.edge, 'glance_dcn.owed')
        self.assertEqual([own], self.ledger.places(self.edge))
        self.ledger.add(self.home, default=True)
        self.assertEqual(
            [owed.Place(self.home, 'glance_dcn.owed.edge'), own],
            self.ledger.places(self.edge))
        self.assertEqual([owed.Place(self.home, 'glance_dcn.owed')],
                         self.ledger.places(self.home))

    def test_nowhere_to_record(self):
        self.ledger.add(self.home, default=True)
        exc = self.assertRaises(owed.NotRecorded, self.ledger.record,
                                self.edge, owed.DELETE, IMAGE)
        for word in ('home: ', 'edge: ', IMAGE, 'try again'):
            self.assertIn(word, str(exc))
        self.assertEqual('edge', exc.store)
        # Where nobody could be told of it, it is only logged.
        self.ledger.try_record(self.edge, owed.DELETE, IMAGE)


class KeepingSite(AwaySite):
    """A site that keeps records.

    :ivar kept: the names of the objects they were put into
    """

    available = True

    def __init__(self, name, round_trip):
        super().__init__(name)
        self.round_trip = round_trip
        self.kept = []

    @contextlib.contextmanager
    def open_pool(self, pool=None):
        yield self.kept


class TestDefaultSiteAway(base.BaseTestCase):
    """What is owed to the default site is recorded at another."""

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.omap.put',
            lambda kept, name, records: kept.append(name)))
        self.ledger = owed.Ledger()
        self.home = AwaySite('home')
        self.ledger.add(self.home, default=True)

    def kept(self, *others):
        """Record a removal; return which sites keep it, by their names."""
        for other in others:
            self.ledger.add(other)
        self.ledger.record(self.home, owed.DELETE, IMAGE)
        return {other.name: other.kept for other in others
                if getattr(other, 'kept', None)}

    def test_at_the_nearest_where_others_look_for_it(self):
        near = KeepingSite('near', .1)
        self.assertEqual(
            {'near': ['glance_dcn.owed.home']},
            self.kept(KeepingSite('unknown', None), near,
                      KeepingSite('far', .2)))
        # There it is what the default site owes to another one.
        there = owed.Ledger()
        there.add(near, default=True)
        self.assertEqual(owed.Place(near, near.kept[0]),
                         there.places(self.home)[0])

    def test_not_where_it_may_not_last(self):
        going = KeepingSite('going', .1)
        going.retired = True
        self.assertEqual({'far': ['glance_dcn.owed.home']},
                         self.kept(going, KeepingSite('far', .2)))

    def test_those_known_to_be_away_are_not_asked(self):
        asked = [AwaySite('edge_%d' % number) for number in range(20)]
        self.assertEqual({'far': ['glance_dcn.owed.home']},
                         self.kept(*asked, KeepingSite('far', .2)))

    def test_not_many_are_waited_for(self):
        # They went away unnoticed: each may take seconds.
        asked = [AwaySite('edge_%d' % number) for number in range(20)]
        for site in asked:
            site.available = True
        exc = self.assertRaises(owed.NotRecorded, self.kept, *asked)
        self.assertEqual(3, str(exc).count('store edge_'))

    def test_nobody_else_keeps_what_is_owed_to_an_edge(self):
        # Nobody who works for it would look there.
        edge, other = AwaySite('edge'), KeepingSite('other', .1)
        self.ledger.add(edge)
        self.ledger.add(other)
        self.assertRaises(owed.NotRecorded, self.ledger.record, edge,
                          owed.DELETE, IMAGE)
        self.assertEqual([], other.kept)


class TestPace(base.BaseTestCase):

    def due(self, ago, **fields):
        """Whether a record that was tried some time ago is due."""
        now = time.time()
        fields = dict({'since': now - 10000, 'tried': now - ago}, **fields)
        return worker._is_due(dataclasses.replace(
            owed.Record(owed.REAP, IMAGE, 'images', image_id='1'), **fields))

    def test_new(self):
        self.assertTrue(self.due(0, tried=None))

    def test_failures_are_tried_again_within_20_s(self):
        self.assertFalse(self.due(1, attempts=1))
        self.assertTrue(self.due(5, attempts=1))
        for attempts in (5, 50000):
            self.assertFalse(self.due(15, attempts=attempts))
            self.assertTrue(self.due(21, attempts=attempts))

    def test_in_use_since_long(self):
        self.assertFalse(self.due(400))
        self.assertTrue(self.due(501))
        # No longer than ten minutes, nor shorter than ten seconds.
        self.assertTrue(self.due(601, since=0))
        self.assertFalse(self.due(9, since=time.time() - 10))
        self.assertTrue(self.due(11, since=time.time() - 11))

    def test_clock_of_another_that_is_ahead(self):
        self.assertTrue(self.due(-3600))
