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

"""Where the image of a location is read."""

import types

import fixtures
from oslotest import base

from glance_dcn.ceph import records
from glance_dcn.store import replicas
from tests.unit.sites import test_sources


class FakeStore:
    """A store with a site; ``weight`` as older glance_stores have it: not."""

    pool = 'images'
    conf = types.SimpleNamespace(
        glance_store=types.SimpleNamespace(default_backend='local'))

    def __init__(self, name, weight=None, **site):
        self.site = test_sources.FakeSite(name, **site)
        if weight is not None:
            self.weight = weight


class ReplicasTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.records.load', lambda image: image.record))
        self.record = test_sources.signed('digest')

    def read(self, *stores, pool='images', snapshot='snap', fails=1):
        """Return the sites that an image of the last store is read from.

        :param fails: how many of them fail, one after the other
        """
        for store in stores:
            store.site.record = store.site.record or self.record
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.store.replicas.location', types.SimpleNamespace(
                SCHEME_TO_CLS_BACKEND_MAP={'dcn': {
                    store.site.name: {'store': store} for store in stores}})))
        loc = types.SimpleNamespace(pool=pool, image='image',
                                    snapshot=snapshot)
        endpoint = test_sources.FakeEndpoint(self.record, 10)
        found = replicas.Replicas(stores[-1], loc)
        with found.failover() as failover:
            failover.open()
            failover.record = found.record(endpoint)
            for _ in range(fails):
                failover.next_source(OSError())
            return failover.names

    def test_the_location_then_the_others_in_order(self):
        self.assertEqual(['far', 'local', 'near'], self.read(
            FakeStore('near', round_trip=.1), FakeStore('local'),
            FakeStore('far', round_trip=.11), fails=3))

    def test_heavier_ones_first(self):
        self.assertEqual(['far', 'near', 'local'], self.read(
            FakeStore('near', weight=1), FakeStore('local'),
            FakeStore('far', weight=2), fails=2))

    def test_those_away_are_left_out(self):
        self.assertEqual(['far'], self.read(
            FakeStore('local', available=False), FakeStore('far')))

    def test_another_image(self):
        self.assertEqual(['far'], self.read(
            FakeStore('local', record=test_sources.signed('other')),
            FakeStore('far')))

    def test_record_of_anybody(self):
        self.assertEqual(['far'], self.read(
            FakeStore('local', record=records.Record(10, 'digest')),
            FakeStore('far')))

    def test_location_that_is_not_ours(self):
        for kwargs in ({'pool': 'volumes'}, {'snapshot': 'other'},
                       {'pool': None}, {'snapshot': None}):
            self.assertEqual(['far'], self.read(
                FakeStore('local'), FakeStore('far'), **kwargs))

    def test_no_record(self):
        self.record = None
        self.assertEqual(['far'], self.read(FakeStore('local'),
                                            FakeStore('far')))
