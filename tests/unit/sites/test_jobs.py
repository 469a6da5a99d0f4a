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

import contextlib
import logging
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn import catalog
from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.sites import jobs
from glance_dcn.sites import owed
from glance_dcn.sites import worker

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'
OTHER = IMAGE.replace('0a', '0b')


class FakeSite:
    """A site whose pool is a dict of objects, dicts of text by key.

    :ivar refusal: what every request is answered with, or None
    """

    fsid = 'f'
    pool = 'images'

    def __init__(self, name):
        self.name = name
        self.objects = {}
        self.refusal = None

    @contextlib.contextmanager
    def open_pool(self, pool=None):
        if self.refusal:
            raise self.refusal
        yield self.objects


def put(objects, name, values):
    objects.setdefault(name, {}).update(values)


def walk(objects, name, prefix):
    yield from [item for item in sorted(objects.get(name, {}).items())
                if item[0].startswith(prefix)]


def remove(objects, name, key, text):
    if objects[name].get(key) == text:
        del objects[name][key]


class ForgiveTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        for function in (put, walk, remove):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.ceph.omap.%s' % function.__name__, function))
        self.home, self.edge = FakeSite('home'), FakeSite('edge')
        ledger = owed.Ledger()
        ledger.add(self.home, default=True)
        ledger.add(self.edge)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.owed.ledger', ledger))
        self.at_home, self.at_edge = ledger.places(self.edge)

    def owe(self, place, job, image=IMAGE, **fields):
        record = owed.Record(job, image, 'images', **fields)
        place.put(record)
        return record

    def test_removals_of_the_image_wherever_they_are_recorded(self):
        for place in (self.at_home, self.at_edge):
            self.owe(place, owed.DELETE)
        jobs.forgive(self.edge, IMAGE)
        self.assertEqual([], [*self.at_home.records(),
                              *self.at_edge.records()])

    def test_nothing_else(self):
        kept = [self.owe(self.at_home, owed.HALF_WRITTEN),
                self.owe(self.at_home, owed.REAP, image_id='1'),
                self.owe(self.at_home, owed.DELETE, image=OTHER)]
        others = owed.ledger.places(self.home)[0]
        kept.append(self.owe(others, owed.DELETE))
        self.owe(self.at_home, owed.DELETE)
        jobs.forgive(self.edge, IMAGE)
        self.assertEqual(
            {record.token for record in kept},
            {record.token for place in (self.at_home, others)
             for record in place.records()})

    def test_place_that_cannot_be_asked(self):
        for refusal in (errors.Unreachable('home', 'it is away', 'wait'),
                        omap.Error(1, 'it refuses')):
            self.owe(self.at_home, owed.DELETE)
            self.owe(self.at_edge, owed.DELETE)
            self.home.refusal = refusal
            jobs.forgive(self.edge, IMAGE)
            self.assertEqual([], list(self.at_edge.records()))
            self.assertIn(str(refusal), self.log.output)
            self.home.refusal = None
            self.assertEqual(1, len(list(self.at_home.records())))


class WorkerTest(base.BaseTestCase):

    def test_nothing_is_said_to_be_done_of_an_image_that_is_wanted(self):
        for answer, said in ((catalog.NAMED, False), (catalog.DELETED, True)):
            log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))
            for name, result in (
                    ('catalog.ask', answer), ('ceph.images.look', None),
                    ('ceph.claims.claim', contextlib.nullcontext()),
                    ('sites.jobs._Work._remove', None)):
                self.useFixture(fixtures.MonkeyPatch(
                    'glance_dcn.' + name, mock.Mock(return_value=result)))
            site = FakeSite('edge')
            site.uri = lambda image, pool: 'rbd://%s' % image
            site.when_back = lambda function: None
            place = mock.Mock()
            left = worker.Worker(site)._do(
                place, owed.Record(owed.HALF_WRITTEN, IMAGE, 'images'), False)
            self.assertFalse(left)
            place.drop.assert_called_once()
            self.assertEqual(said, 'done: half-written' in log.output)
