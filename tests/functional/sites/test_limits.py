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

"""Copies and the record of sites, on real clusters: limits that are kept."""

import json
import threading
import time
import uuid

import fixtures
import rados

from glance_dcn.ceph import definitions
from glance_dcn.ceph import errors
from glance_dcn.ceph import record_format
from glance_dcn.sites import limits
from tests.functional import base
from tests.functional.sites import test_copying

MIB = 1 << 20


class LimitsTest(test_copying.CopyingTestCase):

    def setUp(self):
        super().setUp()
        for one in self.sites.values():
            self.addCleanup(one.limits.set, 0, 0)

    def seconds(self, *targets):
        started = time.monotonic()
        outcome = self.copy(*targets)
        self.assertEqual({}, outcome.failed)
        return time.monotonic() - started, outcome.data / MIB

    def test_bandwidth_of_the_target(self):
        self.sites['dcn0'].limits.set(0, 4)
        taken, moved = self.seconds('dcn0')
        self.assertGreater(taken, moved / 4 - 1)

    def test_bandwidth_of_the_source(self):
        self.sites['central'].limits.set(0, 4)
        taken, moved = self.seconds('dcn0')
        # What is written on its way to the others is none of its business.
        self.assertGreater(taken, moved / 4 - 1)

    def test_two_copies_share_it(self):
        self.sites['central'].limits.set(0, 8)
        taken = []
        threads = [threading.Thread(
            target=lambda name=name: taken.append(self.seconds(name)))
            for name in ('dcn0', 'dcn1')]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(2, len(taken))
        moved = sum(data for _, data in taken)
        self.assertGreater(max(seconds for seconds, _ in taken),
                           moved / 8 - 1)

    def test_raised_while_it_runs(self):
        self.sites['dcn0'].limits.set(0, 0.25)
        timer = threading.Timer(
            2, lambda: self.sites['dcn0'].limits.set(0, 0))
        timer.start()
        taken, moved = self.seconds('dcn0')
        self.assertGreater(taken, 1.9)
        self.assertLess(taken, moved / 0.25 - 5)

    def test_waiting_is_told_and_can_be_ended(self):
        told = []

        def waiting(names):
            told.append(names)
            raise ValueError('the task was ended')
        self.sites['dcn0'].limits.set(1, 0)
        self.sites['dcn0'].limits.count(1)
        self.addCleanup(self.sites['dcn0'].limits.count, -1)
        slots = limits.slots
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.limits.slots',
            lambda wanted, waiting: slots(wanted, waiting, 0.5)))
        self.assertRaises(ValueError, self.copy, 'dcn0', waiting=waiting)
        self.assertEqual([['dcn0']], told)
        self.assertAbsent('dcn0')

    def test_site_that_was_taken_away(self):
        self.sites['dcn0'].retired = True
        outcome = self.copy('dcn0', 'dcn1')
        self.assertEqual(['dcn1'], outcome.copied)
        self.assertIsInstance(outcome.failed['dcn0'], errors.Retired)
        self.assertAbsent('dcn0')
        # What it holds is a source like any other.
        self.sites['dcn1'].retired = True
        self.sites['dcn0'].retired = False
        self.assertEqual('dcn1', self.copy('dcn0', sources=['dcn1']).source)


class DefinitionsTest(base.CephTestCase):

    def setUp(self):
        super().setUp()
        # The object of Glances that run on this cluster is left alone.
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.definitions.OBJECT', 'test.%s' % uuid.uuid4()))
        self.ioctx = self.enter(self.cluster('dcn0').pool(user='glance'))
        self.record = definitions.Definitions('dcn0', self.ioctx)
        self.addCleanup(self.remove)

    def enter(self, manager):
        value = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return value

    def remove(self):
        if definitions.OBJECT in [one.key for one
                                  in self.ioctx.list_objects()]:
            self.ioctx.remove_object(definitions.OBJECT)

    def test_nothing_recorded(self):
        self.assertEqual({}, self.record.load().sites)

    def test_saved_held_released_and_forgotten(self):
        options = {'weight': '3', 'store_description': 'Zürich\n"x"'}
        self.record.save('dcn7', options)
        self.record.save('dcn8', {})
        for host in ('a', 'b.example'):
            self.record.hold('dcn7', host, 1234.5)
        self.assertEqual(
            {'dcn7': definitions.Definition(options, {'a': 1234.5,
                                                      'b.example': 1234.5}),
             'dcn8': definitions.Definition({})}, self.record.load().sites)
        self.record.release('dcn7', 'a')
        self.record.release('dcn7', 'never')
        self.assertEqual({'b.example': 1234.5},
                         self.record.load().sites['dcn7'].holders)
        self.record.forget('dcn7', ['b.example'])
        self.assertEqual(['dcn8'], list(self.record.load().sites))
        self.record.forget('dcn8')
        self.assertEqual({}, self.record.load().sites)

    def kept(self, options):
        """Return options as they are kept, bytes."""
        return record_format.dump(definitions._Options({
            name: json.dumps(value) for name, value in options.items()}),
            '').encode()

    def test_many(self):
        names = {'site-%04d' % n for n in range(1200)}
        with rados.WriteOpCtx() as operation:
            self.ioctx.set_omap(
                operation, tuple('site/' + name for name in sorted(names)),
                (self.kept({}),) * len(names))
            self.ioctx.operate_write_op(operation, definitions.OBJECT)
        self.assertEqual(names, set(self.record.load().sites))

    def test_what_cannot_be_understood_is_left_aside(self):
        with rados.WriteOpCtx() as operation:
            self.ioctx.set_omap(
                operation,
                ('site/a', 'site/b', 'site/c', 'site/d', 'site/e',
                 'holder/good', 'holder/c/h', 'else'),
                (b'\xff{', b'[]', self.kept({'weight': '3'}),
                 # That of an earlier release, and one with other values.
                 b'{"weight": "3"}',
                 self.kept({'weight': '3'}).replace(b'"\\"3\\""', b'"3"'),
                 b'1', b'soon', b''))
            self.ioctx.operate_write_op(operation, definitions.OBJECT)
        self.assertEqual({'c': definitions.Definition({'weight': '3'})},
                         self.record.load().sites)

    def test_a_pool_that_refuses(self):
        with self.cluster('dcn0').connect('glance') as client, \
                client.open_ioctx('vms') as ioctx:
            refused = definitions.Definitions('dcn0', ioctx)
            error = self.assertRaises(definitions.RecordError, refused.load)
        self.assertIn('store dcn0', str(error))
        self.assertIn('osd caps', str(error))
