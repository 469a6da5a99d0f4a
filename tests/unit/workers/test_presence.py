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

"""What a worker says of itself, to a registry without a cluster."""

import dataclasses
import os
import sys
import threading
from unittest import mock

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.imports import journal
from glance_dcn.imports import options
from glance_dcn.runtime import process
from glance_dcn.sites import figures
from glance_dcn.sites import limits
from glance_dcn.workers import identity as identities
from glance_dcn.workers import leader
from glance_dcn.workers import presence
from glance_dcn.workers import registry
from glance_dcn.workers import takeover
from tests import runtimes
from tests.unit.tasks import fakes as task_fakes
from tests.unit.workers import fakes

URL = 'http://worker-1:9292'
RIGHT = identities.Verdict(registry.RIGHT, [])
WRONG = identities.Verdict(registry.WRONG, ['it is wrong'])
PASSING = identities.Verdict(registry.WRONG, ['nobody listens'], passing=True)


class PresenceTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.conf = cfg.ConfigOpts()
        self.conf.register_opts([
            cfg.StrOpt('worker_self_reference_url', default=URL),
            cfg.StrOpt('public_endpoint'), cfg.StrOpt('node_staging_uri'),
            cfg.DictOpt('enabled_backends')])
        options.register(self.conf)
        self.conf([])
        self.logged = self.useFixture(fixtures.FakeLogger(
            'glance_dcn.workers'))
        self.registry = fakes.Registry()
        self.staging = self.useFixture(fixtures.TempDir()).path
        self.now = 1000.0
        self.verdicts = []
        self.roll_back = takeover.roll_back
        self.presence = self.process()

    def process(self):
        """Return what another process of the worker has."""
        return self.at(self.staging)

    def at(self, staging):
        """Return what a process has whose staging folder is this one."""
        found = identities.WorkerIdentity(staging)
        # As long as heartbeats may be left out by default.
        made = presence.Presence(self.conf, self.registry, found,
                                 leader.HostLead([found.folder], 30,
                                                 clock=lambda: self.now),
                                 clock=lambda: self.now,
                                 judge=lambda *args, **kwargs:
                                 self.verdicts.pop(0),
                                 roll_back=lambda *args: self.roll_back(*args))
        self.addCleanup(made.stop)
        return made

    @property
    def worker(self):
        [(worker, _text)] = self.registry.workers()
        return worker

    @property
    def warnings(self):
        """What was logged besides who leads, which is said once each."""
        return [line for line in self.logged.output.splitlines()
                if 'does the background work of its host' not in line]

    def entry(self, task='task'):
        return journal.Entry(task, 'image', 'glance-direct', ['central'],
                             '/s/image', journal.STORING)

    def check(self, *verdicts):
        self.verdicts[:] = verdicts
        for _ in verdicts:
            self.now += 60
            self.presence.check()
            self.presence.beat()
        self.assertEqual([], self.verdicts)

    def begin(self, prog):
        """Return whether a process that is called so has a presence."""
        self.useFixture(runtimes.Runtime())
        self.conf.set_default('node_staging_uri', 'file://' + self.staging)
        for name in ('identities.begin', 'active_imports.on_begin',
                     'Presence.start'):
            self.useFixture(fixtures.MockPatch(
                'glance_dcn.workers.presence.%s' % name))
        self.conf([], prog=prog)
        presence.begin(self.conf)
        return process.find(presence.Presence) is not None

    def test_process_that_serves_the_api(self):
        with mock.patch.dict(sys.modules):
            sys.modules.pop('glance.common.wsgi_app', None)
            self.assertTrue(self.begin('glance-api'))
            self.assertFalse(self.begin('glance-scrubber'))
            # Before release 33 it is called after the WSGI server.
            self.assertFalse(self.begin('uwsgi'))
            sys.modules['glance.common.wsgi_app'] = mock.Mock()
            self.assertTrue(self.begin('uwsgi'))

    def test_first_beat(self):
        self.presence.beat()
        worker = self.worker
        self.assertEqual(
            (identities.WorkerIdentity(self.staging).uuid(), 'central', URL,
             self.staging, registry.UNCHECKED, None),
            (worker.identity, worker.site, worker.url, worker.staging,
             worker.reference, worker.taken_by))

    def test_counts_up(self):
        beats = []
        for _ in range(3):
            self.presence.beat()
            beats.append(self.worker.beat)
        self.assertEqual([0, 1, 2], beats)

    def test_figures_that_have_changed(self):
        self.useFixture(runtimes.Runtime())
        identity = identities.WorkerIdentity(self.staging).uuid()
        meter = limits.get('dcn0').meter
        limits.get('dcn1')
        for _ in range(2):
            meter.moved(written=5)
            self.presence.beat()
            self.presence.beat()
        both = [figures.Figures('dcn0', {'written': 5}),
                figures.Figures('dcn1', {})]
        later = figures.Figures('dcn0', {'written': 10})
        self.assertEqual([both, [], [later], []],
                         self.registry.figures[identity])
        # They lie beside the journal, and are none of its entries.
        self.assertIn('figures.0', os.listdir(
            identities.WorkerIdentity(self.staging).folder))
        self.assertEqual([], journal.Journal(self.staging).tasks())
        # What one process leaves to the next one.
        self.presence.stop()
        self.registry.figures.clear()
        self.process().beat()
        self.assertEqual([[later, both[1]]], self.registry.figures[identity])

    def test_figures_that_cannot_be_written(self):
        self.useFixture(runtimes.Runtime())
        limits.get('dcn0')
        # Folders are where the files would be.
        folder = identities.WorkerIdentity(self.staging).folder
        for name in ('figures.0', 'figures.0.held'):
            os.makedirs(os.path.join(folder, name))
        for _ in range(3):
            self.presence.beat()
        self.assertEqual([[[]] * 3], [*self.registry.figures.values()])
        self.assertEqual(2, self.worker.beat)
        self.assertEqual([], self.warnings)

    def test_one_process_speaks(self):
        second = self.process()
        self.presence.beat()
        second.beat()
        second.read_peers()
        second.check()
        first = self.worker.instance_id
        self.assertEqual(0, self.worker.beat)
        self.presence.stop()
        second.beat()
        self.assertNotEqual(first, self.worker.instance_id)
        self.assertEqual([], self.warnings)

    def beat_in_vain(self, passed=120):
        """Have a sibling beat for some seconds, and return it."""
        sibling = self.process()
        for _ in range(passed // 10):
            self.now += 10
            sibling.beat()
        return sibling

    def test_leader_whose_thread_hangs_loses_the_lead(self):
        self.presence.beat()
        first = self.worker.instance_id
        entered, go_on = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)
        replace = self.registry.replace

        def hang(*args):
            self.registry.replace = replace
            entered.set()
            go_on.wait(60)
            return replace(*args)
        self.registry.replace = hang
        thread = threading.Thread(target=self.presence.beat, daemon=True)
        thread.start()
        self.assertTrue(entered.wait(60))
        sibling = self.beat_in_vain()
        taken = self.worker
        self.assertNotEqual(first, taken.instance_id)
        self.assertIn('takes over the lead', self.logged.output)
        # It wakes in the midst of its write: that comes too late.
        go_on.set()
        thread.join(60)
        self.assertEqual(taken, self.worker)
        for _ in range(3):
            self.presence.beat()
            self.presence.read_peers()
        self.assertEqual(taken, self.worker)
        self.assertIsNone(self.presence.peers)
        self.assertNotIn('has the staging folder', self.logged.output)
        sibling.beat()
        self.assertEqual((taken.instance_id, taken.beat + 1),
                         (self.worker.instance_id, self.worker.beat))

    def test_leader_that_beats_keeps_the_lead(self):
        sibling = self.process()
        for _ in range(20):
            self.now += 10
            self.presence.beat()
            sibling.beat()
        self.assertEqual(19, self.worker.beat)
        self.assertIsNone(sibling.peers)
        self.assertEqual([], self.warnings)

    def test_leader_beats_while_the_default_site_is_away(self):
        self.presence.beat()
        self.registry.site.available = False
        sibling = self.process()
        for _ in range(20):
            self.now += 10
            self.presence.beat()
            sibling.beat()
        self.assertIsNone(sibling.peers)

    def test_takeover_of_the_peer_ends_with_the_lead(self):
        self.presence.beat()
        self.registry.records['gone'] = registry.Worker(
            'gone', 'central', instance_id='first').text('ours')
        for task in ('first', 'second'):
            self.registry.note('gone', self.entry(task))
        undone = []

        def undo(_conf, _worker, entry):
            undone.append(entry.task)
            self.beat_in_vain()
        self.roll_back = undo
        self.presence.stop()
        self.presence.beat()
        self.presence.read_peers()
        for _ in range(61):
            self.now += 10
            self.presence.beat()
            self.presence.read_peers()
        # What was undone while it lost the lead is done; the rest is for the
        # process that leads now.
        self.assertEqual(['first'], undone)
        self.assertEqual({}, self.registry.holders)

    def test_default_site_is_away(self):
        self.registry.reachable = False
        self.presence.beat()
        self.presence.read_peers()
        self.registry.reachable = True
        self.presence.beat()
        self.assertEqual(0, self.worker.beat)
        self.registry.site.available = False
        self.presence.beat()
        self.assertEqual(0, self.worker.beat)

    def test_journal_is_copied(self):
        found = journal.Journal(self.staging)
        self.presence.beat()
        identity = self.worker.identity
        held = found.begin(self.entry())
        self.addCleanup(held.close)
        self.presence.beat()
        self.assertEqual([self.entry().task], [
            entry.task for entry in self.registry.tasks(identity)])
        held.note(phase=journal.CONVERTED)
        # Announced by another process, and ended since.
        self.registry.note(identity, self.entry('ended'))
        self.presence.beat()
        self.assertEqual([held.entry], self.registry.tasks(identity))
        held.close()
        self.presence.beat()
        self.assertEqual([], self.registry.tasks(identity))

    def test_journal_of_another_release(self):
        found = journal.Journal(self.staging)
        self.presence.beat()
        held = found.begin(self.entry('there'))
        self.addCleanup(held.close)
        there, gone = ('task/%s/%s' % (self.worker.identity, task)
                       for task in ('there', 'gone'))
        path = os.path.join(found.folder, 'there.json')
        with open(path) as file:
            text = file.read()
        with open(path, 'w') as file:
            file.write(task_fakes.next_release(text))
        self.registry.unreadable.update({there: 'of version 3',
                                         gone: 'of version 3'})
        self.presence.beat()
        # What was rolled back by that release meanwhile, and is not there.
        self.assertEqual([there], list(self.registry.unreadable))

    def test_announces_at_once(self):
        # Also by a process that does not speak for the worker.
        self.presence.beat()
        self.process().announce(self.entry())
        self.assertEqual([self.entry().task], [
            entry.task for entry in self.registry.tasks(
                self.worker.identity)])
        self.registry.reachable = False
        self.presence.announce(self.entry('unheard'))

    def test_comes_back(self):
        self.presence.beat()
        before = self.worker
        self.registry.note(before.identity, self.entry())
        text = before.text('ours')
        self.assertTrue(self.registry.replace(text, dataclasses.replace(
            before, taken_by='peer')))
        self.registry.holders[before.identity] = 'peer'
        # The peer is at it.
        for _ in range(3):
            self.presence.beat()
        self.assertEqual('peer', self.worker.taken_by)
        self.assertNotIn('has taken its locks', self.logged.output)
        self.assertFalse(self.presence.may_recover())
        del self.registry.holders[before.identity]
        self.presence.beat()
        self.assertTrue(self.presence.may_recover())
        self.assertIsNone(self.worker.taken_by)
        self.assertEqual([], self.registry.tasks(before.identity))
        self.assertEqual({}, self.registry.holders)
        self.assertEqual(1, self.logged.output.count(
            'worker peer has taken its locks off images'))

    def test_comes_back_after_another_release(self):
        self.presence.beat()
        identity = self.worker.identity
        self.registry.note(identity, self.entry())
        text = task_fakes.next_release(self.registry.records[identity])
        self.registry.records[identity] = text
        # A peer of that release may be at it.
        self.registry.holders[identity] = 'peer'
        for _ in range(3):
            self.presence.beat()
        self.assertEqual(text, self.registry.records[identity])
        del self.registry.holders[identity]
        self.presence.beat()
        self.assertEqual(identity, self.worker.identity)
        self.assertEqual({}, self.registry.holders)
        self.assertNotIn('has taken its locks', self.logged.output)

    def test_may_recover(self):
        # It is not known to anybody yet, or nobody can be asked.
        self.assertTrue(self.presence.may_recover())
        self.presence.beat()
        self.assertTrue(self.presence.may_recover())
        self.registry.reachable = False
        self.assertTrue(self.presence.may_recover())

    def test_copy_of_the_staging_folder_elsewhere(self):
        self.presence.beat()
        text = self.worker.text('ours')
        other = dataclasses.replace(self.worker, host='elsewhere',
                                    instance_id='other')
        for _ in range(3):
            self.presence.beat()
            self.registry.records[other.identity] = other.text('ours')
        self.presence.beat()
        self.assertNotEqual(text, self.worker.text('ours'))
        self.assertEqual(1, self.logged.output.count(
            'Another worker, at host elsewhere, has the staging folder'))

    def test_staging_folder_that_cannot_be_written(self):
        self.presence = self.at('/proc/staging')
        for _ in range(3):
            self.presence.beat()
            self.presence.read_peers()
            self.presence.check()
        self.assertEqual({}, self.registry.records)
        self.assertEqual(1, self.logged.output.count('Nothing can be kept'))

    def test_self_reference_is_right(self):
        self.presence.beat()
        self.check(RIGHT, RIGHT)
        self.assertEqual(registry.RIGHT, self.worker.reference)
        self.assertEqual(1, self.logged.output.count(
            URL + ' leads to this worker'))

    def test_self_reference_is_wrong_for_a_while(self):
        self.presence.beat()
        self.check(WRONG, WRONG)
        self.assertEqual((registry.WRONG, ('it is wrong',)),
                         (self.worker.reference, self.worker.faults))
        self.assertEqual(1, self.logged.output.count('it is wrong'))
        self.check(RIGHT, WRONG)
        self.assertEqual(2, self.logged.output.count('it is wrong'))

    def test_nobody_listens_yet(self):
        self.presence.beat()
        self.check(PASSING, RIGHT, PASSING, RIGHT)
        self.assertNotIn('nobody', self.logged.output)
        self.check(PASSING)
        self.assertEqual(registry.RIGHT, self.worker.reference)
        self.check(PASSING, PASSING)
        self.assertEqual(registry.WRONG, self.worker.reference)
        self.assertEqual(1, self.logged.output.count('nobody'))
