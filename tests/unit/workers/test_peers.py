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

"""Who is taken for dead, and what becomes of its work."""

import dataclasses
import threading
import time
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.imports import journal
from glance_dcn.workers import peers
from glance_dcn.workers import registry
from tests.unit.workers import fakes

TIMEOUT = 100
ENTRY = journal.Entry('task', 'image', 'glance-direct', ['central'], '/s/i',
                      journal.STORING)


class PeersTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.registry = fakes.Registry()
        self.now = 1000.0
        self.useFixture(fixtures.MonkeyPatch('time.monotonic',
                                             lambda: self.now))
        self.undone = []
        self.peers = self.watcher('me')

    def watcher(self, name):
        return peers.Peers(self.registry, name, TIMEOUT, self.undo)

    def undo(self, worker, entry):
        self.undone.append((worker.identity, entry.task))

    def speak(self, identity='other', beat=1, **fields):
        worker = registry.Worker(**dict(
            {'identity': identity, 'site': 'central',
             'incarnation': 'first', 'beat': beat}, **fields))
        self.registry.records[identity] = worker.text('ours')
        return worker

    def look(self, passed=0, watcher=None, times=1):
        for _ in range(times):
            self.now += passed
            (watcher or self.peers).look()

    def taken_by(self, identity='other'):
        return self.registry.worker(identity)[0].taken_by

    def test_right_to_act_lasts_as_long_as_the_work(self):
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.workers.peers._RENEWAL', 0.01))
        renewed = threading.Event()
        with peers.acting(self.registry, 'other', 'me') as renew:
            self.assertTrue(renew())
            with mock.patch.object(
                    self.registry, 'hold',
                    side_effect=lambda *args: renewed.set() or True):
                self.assertTrue(renewed.wait(10))
        self.assertEqual({}, self.registry.holders)
        # Nothing takes it once more.
        time.sleep(0.1)
        self.assertEqual({}, self.registry.holders)

    def test_speaks(self):
        self.registry.note('other', ENTRY)
        for beat in range(30):
            self.speak(beat=beat)
            self.look(20)
        self.assertEqual([], self.undone)
        self.assertEqual(['other'], [worker.identity
                                     for worker in self.peers.alive()])

    def test_was_never_heard_to_speak(self):
        # Its record may be years old.
        self.speak()
        self.look(20, times=3)
        self.assertEqual([], self.peers.alive())

    def test_falls_silent(self):
        self.registry.note('other', ENTRY)
        # Whatever its clock says.
        self.speak(seen=time.time() + 1e6)
        self.look(20, times=5)
        self.assertEqual([], self.undone)
        self.look(20)
        self.assertEqual([('other', 'task')], self.undone)
        self.assertEqual('me', self.taken_by())
        self.assertEqual([], self.registry.tasks('other'))
        self.assertEqual({}, self.registry.holders)
        self.look(20, times=10)
        self.assertEqual(1, len(self.undone))

    def test_silent_and_idle(self):
        self.speak()
        self.look(20, times=20)
        # It may go on where it was, when it is back.
        self.assertIsNone(self.taken_by())

    def test_one_does_not_look_at_itself(self):
        self.speak('me')
        self.registry.note('me', ENTRY)
        self.look(20, times=20)
        self.assertEqual([], self.undone)

    def test_of_another_store(self):
        self.registry.note('other', ENTRY)
        self.speak(site='another')
        self.look(20, times=20)
        self.assertEqual([], self.undone)

    def test_speaks_at_the_last_moment(self):
        self.registry.note('other', ENTRY)
        self.speak()
        self.look(20, times=5)
        tasks = self.registry.tasks

        def late(identity):
            self.speak(beat=2)
            return tasks(identity)
        self.registry.tasks = late
        self.look(20)
        self.assertEqual([], self.undone)
        self.assertIsNone(self.taken_by())

    def test_another_is_at_it(self):
        self.registry.note('other', ENTRY)
        self.speak()
        self.look(20, times=5)
        self.registry.holders['other'] = 'a third one'
        self.look(20)
        self.assertEqual([], self.undone)
        # It dies over it, having marked the worker.
        worker, text = self.registry.worker('other')
        self.assertTrue(self.registry.replace(text, dataclasses.replace(
            worker, taken_by='third')))
        del self.registry.holders['other']
        self.look(20)
        self.assertEqual([('other', 'task')], self.undone)

    def test_loses_the_right_to_act(self):
        self.registry.note('other', ENTRY)
        self.registry.note('other', dataclasses.replace(ENTRY, task='second'))
        self.speak()
        self.look(20, times=5)
        renewals = []

        def hold(identity, holder, seconds):
            renewals.append(holder)
            return len(renewals) < 3
        self.registry.hold = hold
        self.look(20)
        self.assertEqual([('other', 'task')], self.undone)

    def test_what_cannot_be_undone_is_tried_again(self):
        self.registry.note('other', ENTRY)
        self.registry.note('other', dataclasses.replace(ENTRY, task='second'))
        self.speak()
        undo, failures = self.undo, [RuntimeError()]

        def fails_once(worker, entry):
            if failures:
                raise failures.pop()
            undo(worker, entry)
        self.peers._undo = fails_once
        self.look(20, times=6)
        self.assertEqual([('other', 'second')], self.undone)
        self.look(20)
        self.assertEqual([('other', 'second'), ('other', 'task')],
                         self.undone)

    def test_two_peers(self):
        self.registry.note('other', ENTRY)
        self.speak()
        second = self.watcher('second')
        for _ in range(20):
            self.look(10)
            self.look(10, second)
        self.assertEqual([('other', 'task')], self.undone)

    def test_what_is_not_heard_is_no_silence(self):
        self.registry.note('other', ENTRY)
        self.speak()
        self.look(20, times=4)
        self.registry.reachable = False
        self.assertRaises(errors.ClusterError, self.look, 20)
        self.peers.forget()
        self.registry.reachable = True
        self.look(20, times=5)
        self.assertEqual([], self.undone)
        # Nor what was while this one slept.
        self.look(1000)
        self.assertEqual([], self.undone)

    def test_cannot_undo(self):
        self.registry.note('other', ENTRY)
        self.speak(seen=1)
        self.peers._may_undo = lambda: False
        self.look(20, times=20)
        self.assertIsNone(self.taken_by())

    def test_is_forgotten_after_a_week(self):
        week = 7 * 24 * 3600
        self.speak('long gone', seen=time.time() - week - 1)
        self.speak('gone', seen=time.time() - week + 1000)
        self.speak('owned', seen=1)
        self.registry.note('owned', ENTRY)
        self.peers._undo = self.fails
        self.look(20, times=8)
        self.assertEqual({'gone', 'owned'}, set(self.registry.records))

    def fails(self, worker, entry):
        raise RuntimeError('it cannot be undone now')
