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

"""Imports to many stores: when what one store has is copied to the others."""

import hashlib
import random
import types

import fixtures
from oslotest import base

from glance_dcn.ceph import records
from glance_dcn.imports import active_imports
from glance_dcn.store import spreading
from tests.unit.sites import fakes


class SpreadingTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fakes.Cluster())
        self.useFixture(fixtures.FakeLogger())
        data = random.Random(3).randbytes(70000)
        self.data = data
        self.sites = {name: fakes.Site(name) for name in (
            'central', 'dcn0', 'dcn1', 'dcn2')}
        for site in self.sites.values():
            site.connection.round_trip = .02
        self.sites['central'].held = fakes.Image('central', data=data)
        self.record = records.Record(len(data), 'digest', {
            'sha256': hashlib.sha256(data).hexdigest()})
        self.options = types.SimpleNamespace(
            direct_copy=True, copy_targets=16, transfer_memory=128)
        self.conf = types.SimpleNamespace(
            glance_dcn=self.options, glance_store=types.SimpleNamespace(
                default_backend='central'))
        self.entry = types.SimpleNamespace(
            image='image', task='task', method='glance-direct',
            stores=[*self.sites, 'nfs'])
        self.going_on = active_imports.adopt(types.SimpleNamespace(
            entry=self.entry, close=lambda: None))
        self.addCleanup(active_imports.end, 'task')

    def spreading(self):
        return spreading.of(self.going_on, self.conf, self.sites)

    def add(self, name):
        """Do what a store's driver does; return what there was already."""
        spread = self.spreading()
        spread.prepare(self.sites[name], None)
        found = self.sites[name].held
        spread.stored(self.sites[name], self.record)
        return found

    def test_others_have_it_when_their_turn_comes(self):
        self.sites['central'].held, held = None, self.sites['central'].held
        self.assertIsNone(self.add('central'))
        self.sites['central'].held = held
        for name in ('dcn0', 'dcn1', 'dcn2'):
            self.assertEqual(self.data, self.add(name).content())
            self.assertEqual(['begin', 'publish', 'commit'],
                             self.sites[name].calls)
        self.assertEqual(['read'], self.sites['central'].calls)

    def near(self, *names):
        for name in names:
            self.sites[name].connection.round_trip = .0005

    def test_few_near_ones_are_written_as_ever(self):
        self.near('dcn0', 'dcn1')
        self.add('central')
        for name in ('dcn0', 'dcn1', 'dcn2'):
            self.assertIsNone(self.add(name))

    def test_several_far_ones_are_worth_it(self):
        self.near('dcn0')
        self.sites['dcn2'].connection.round_trip = None
        self.add('central')
        self.assertEqual(self.data, self.add('dcn1').content())
        self.assertEqual(self.data, self.add('dcn2').content())

    def test_many_near_ones_are_worth_it(self):
        names = ['dcn%d' % number for number in range(6)]
        for name in names:
            self.sites.setdefault(name, fakes.Site(name))
        self.near(*names)
        self.entry.stores = ['central', *names]
        self.add('central')
        for name in names:
            self.assertEqual(self.data, self.add(name).content())

    def test_one_that_fails_is_left_to_its_turn(self):
        def fail():
            raise OSError('no room')
        self.sites['dcn1'].publishing = fail
        self.add('central')
        self.assertEqual(self.data, self.add('dcn0').content())
        self.assertIsNone(self.add('dcn1'))
        self.assertEqual(self.data, self.add('dcn2').content())

    def test_source_that_cannot_be_read(self):
        self.add('central')
        self.sites['central'].held = None
        for name in ('dcn0', 'dcn1', 'dcn2'):
            self.assertIsNone(self.add(name))

    def test_import_has_ended(self):
        self.add('central')
        spread = self.spreading()
        active_imports.end('task')
        self.assertRaises(spreading._Ended, spread._check, None)

    def test_only_the_store_of_this_site_is_copied(self):
        self.assertIsNone(self.add('dcn0'))
        self.assertIsNone(self.add('dcn1'))
        self.assertEqual([], self.sites['dcn2'].calls)

    def test_not_for_two_stores(self):
        self.entry.stores = ['central', 'dcn0']
        self.assertIsNone(self.spreading())

    def test_not_for_copies(self):
        self.entry.method = 'copy-image'
        self.assertIsNone(self.spreading())

    def test_turned_off(self):
        self.options.direct_copy = False
        self.assertIsNone(self.spreading())
