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
from unittest import mock
import uuid

import fixtures
from glance.common import exception
from oslotest import base
import rados

from glance_dcn.ceph import omap
from glance_dcn.imports import scan
from glance_dcn.upstream import database

from tests.unit.imports import glance

IMAGE = str(uuid.uuid4())


class LocatedCase(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.glance = self.useFixture(glance.Database())
        self.glance.add_image(
            IMAGE, 'active', ['central', 'dcn0', 'dcn1', 'dcn2'])
        self.locations = {
            entry['metadata']['store']: entry['url']
            for entry in database.image(IMAGE)['locations']}
        self.clocks = {'monotonic': 0.0, 'time': 1e9}
        # What the sites have, by store.
        self.there: dict[str, typing.Any] = dict.fromkeys(
            ('central', 'dcn0', 'dcn1', 'dcn2'), 'ID')
        self.looked: list[str] = []

    def stopwatch(self) -> scan.Stopwatch:
        return scan.Stopwatch([lambda: self.clocks['monotonic'],
                               lambda: self.clocks['time']])

    def site(self, store: str) -> typing.Any:
        pool = types.SimpleNamespace(
            read=lambda name, length: self.look_up(store, name),
            execute=mock.Mock(side_effect=rados.ObjectNotFound('no such')))
        return types.SimpleNamespace(
            name=store, open_pool=lambda: contextlib.nullcontext(pool),
            uri=lambda image: self.locations[store],
            call=lambda function, *args, **unused: function(*args))

    def look_up(self, store: str, name: str) -> bytes:
        """Return the object of a site that tells the ID of an image."""
        self.assertEqual('rbd_id.' + IMAGE, name)
        self.looked.append(store)
        there = self.there[store] or rados.ObjectNotFound('no such')
        if isinstance(there, Exception):
            raise there
        return omap.encode_text(there)

    def stores(self) -> set[str]:
        return database.located(database.image(IMAGE))


class LocatedTest(LocatedCase):

    def save(self, *stores: str, clock: str = 'monotonic',
             seconds: float = 700) -> None:
        """Save locations, which takes some time by a clock."""
        watch = self.stopwatch()
        self.clocks[clock] += seconds
        scan.check_saved(watch, IMAGE, map(self.site, stores))

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
        for location in database.image(IMAGE)['locations']:
            database.drop_location(IMAGE, location)
        self.assertRaises(exception.UploadException, self.save, 'dcn0')
        self.glance.delete_image(IMAGE)
        self.assertRaises(exception.UploadException, self.save, 'dcn0')


class CommitsTest(LocatedCase):
    """What a stock import saves, which looks at nothing afterwards."""

    def setUp(self) -> None:
        super().setUp()
        self.committed: list[typing.Any] = []
        self.commits = scan.Commits(self.take, self.site, self.stopwatch)

    def take(self) -> list[typing.Any]:
        found, self.committed = self.committed, []
        return found

    def commit(self, *stores: str) -> None:
        self.committed = [types.SimpleNamespace(site=store, image=IMAGE)
                          for store in stores]
        self.commits.check()

    def go_on(self, seconds: float, clock: str = 'monotonic') -> None:
        self.clocks[clock] += seconds
        self.commits.check()

    def test_stopped_before_glance_saved_it(self) -> None:
        for clock, store in (('monotonic', 'dcn0'), ('time', 'dcn1')):
            self.commit('central', store)
            self.there[store] = None
            self.go_on(700, clock)
            self.assertNotIn(store, self.stores())
        self.assertEqual({'central', 'dcn2'}, self.stores())
        self.assertIn('stopped for 700 s', self.log.output)

    def test_saved_some_seconds_after_it_went_on(self) -> None:
        self.commit('dcn0')
        self.there['dcn0'] = None
        url, self.locations['dcn0'] = self.locations['dcn0'], 'not yet'
        self.go_on(700)
        self.assertIn('dcn0', self.stores())
        self.locations['dcn0'] = url
        self.go_on(5)
        self.assertNotIn('dcn0', self.stores())

    def test_nothing_is_asked_while_it_runs(self) -> None:
        self.commit('dcn0', 'dcn1')
        self.there['dcn0'] = None
        for _ in range(20):
            self.go_on(5)
        # It was saved by then.
        self.go_on(700)
        self.assertEqual([], self.looked)

    def test_site_that_is_gone(self) -> None:
        kept = scan.Commits(self.take, lambda name: None, self.stopwatch)
        self.commit('dcn0')
        self.clocks['time'] += 700
        kept.check()
        self.assertEqual([], self.looked)
