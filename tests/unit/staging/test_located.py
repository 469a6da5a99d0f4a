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

"""Locations that were saved after their images were removed."""

from __future__ import annotations

import contextlib
import types
import typing
import uuid

import fixtures
from glance.common import exception
from oslotest import base

from glance_dcn.flows import located
from glance_dcn.staging import database

from tests.unit.staging import glance

IMAGE = str(uuid.uuid4())


class LocatedTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.useFixture(glance.Database()).add_image(
            IMAGE, 'active', ['central', 'dcn0', 'dcn1', 'dcn2'])
        self.clocks = {'monotonic': 0.0, 'time': 1e9}
        for name in self.clocks:
            self.useFixture(fixtures.MonkeyPatch(
                'time.' + name, lambda name=name: self.clocks[name]))
        # What the sites have, by store.
        self.there: dict[str, typing.Any] = dict.fromkeys(
            ('central', 'dcn0', 'dcn1', 'dcn2'), 'ID')
        self.looked: list[str] = []
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.flows.located.stores.site', self.site))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.images.look_up', self.look_up))

    def site(self, store: str) -> typing.Any:
        return types.SimpleNamespace(
            open_pool=lambda: contextlib.nullcontext(store))

    def look_up(self, store: str, image: str) -> str | None:
        self.looked.append(store)
        if isinstance(self.there[store], Exception):
            raise self.there[store]
        return self.there[store]

    def stores(self) -> set[str]:
        return database.located(database.image(IMAGE))

    def save(self, *stores: str, clock: str = 'monotonic',
             seconds: float = 700) -> None:
        """Save locations, which takes some time by a clock."""
        watch = located.Stopwatch()
        self.clocks[clock] += seconds
        located.check(watch, IMAGE, stores)

    def test_stopped_and_removed_meanwhile(self) -> None:
        for clock, store in (('monotonic', 'dcn0'), ('time', 'dcn1')):
            self.there[store] = None
            exc = self.assertRaises(exception.UploadException, self.save,
                                    'dcn2', store, clock=clock)
            self.assertIn(store, str(exc))
            self.assertNotIn(store, self.stores())
        self.assertEqual({'central', 'dcn2'}, self.stores())
        self.assertIn('stopped for 700 s', self.log.output)

    def test_stopped_and_still_there(self) -> None:
        self.save('dcn0', 'dcn1')
        self.assertEqual(['dcn0', 'dcn1'], self.looked)
        self.assertEqual(4, len(self.stores()))

    def test_not_stopped(self) -> None:
        self.there['dcn0'] = None
        self.save('dcn0', seconds=1)
        # A clock that was set back.
        self.save('dcn0', clock='time', seconds=-3600)
        self.assertEqual([], self.looked)

    def test_it_cannot_be_told(self) -> None:
        self.there['dcn0'] = OSError('away')
        self.save('dcn0')
        self.assertIn('dcn0', self.stores())
        self.assertIn('cannot be told', self.log.output)

    def test_image_was_deleted(self) -> None:
        self.there['dcn0'] = None
        for found in ({'locations': []}, None):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.staging.database.image',
                lambda _image, found=found: found))
            self.assertRaises(exception.UploadException, self.save, 'dcn0')
