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

"""Undoing what a peer was doing, with a real database and real folders."""

import dataclasses
import os
import pathlib
import threading
import time
import types
import uuid

import fixtures
from oslotest import base
from tests.unit.imports import glance
from tests.unit.imports import test_durable
from tests.unit.workers import fakes

from glance_dcn.ceph import errors
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import recovery
from glance_dcn.upstream import database
from glance_dcn.workers import identity as identities
from glance_dcn.workers import registry
from glance_dcn.workers import takeover

STORES = ('central', 'dcn0')
THEIR_URL = 'http://worker-2.example:9292'


class TakeoverTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.own, self.theirs = (
            pathlib.Path(self.useFixture(fixtures.TempDir()).path)
            for _ in range(2))
        self.conf = types.SimpleNamespace(
            enabled_backends=None, node_staging_uri='file://%s' % self.own)
        self.glance = self.useFixture(glance.Database())
        self.image_id, self.task_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.worker = registry.Worker(
            identities.WorkerIdentity(str(self.theirs)).uuid(), 'central',
            url=THEIR_URL, staging=str(self.theirs))

    def broken_off(self, method='glance-direct', status='importing',
                   phase=journal.STORING, located=(), lock=None,
                   task='processing'):
        """Make what a worker that is gone has left in the database."""
        properties = {database.IMPORTING: ','.join(STORES),
                      database.FAILED: '', database.HOST: THEIR_URL}
        if lock != '':
            properties[database.LOCK] = lock or self.task_id
        self.glance.add_image(self.image_id, status, located, properties,
                              size=100)
        self.glance.add_task(self.task_id, self.image_id, method, STORES,
                             task)
        return journal.Entry(
            task=self.task_id, image=self.image_id, method=method,
            stores=list(STORES), path=str(self.theirs / self.image_id),
            phase=phase, formats={'disk_format': 'qcow2',
                                  'container_format': 'bare'})

    def undo(self, entry, recover=recovery.roll_back):
        return takeover.roll_back(self.conf, self.worker, entry, recover)

    @property
    def image(self):
        return database.image(self.image_id)

    def lock(self):
        return self.image['properties'].get(database.LOCK)

    def host(self):
        return self.image['properties'].get(database.HOST)

    def files(self, staging):
        return sorted(path.name for path in staging.iterdir()
                      if path.name != folder.FOLDER)

    def assertFailed(self):
        self.assertEqual('failure', database.task(self.task_id)['status'])
        self.assertIsNone(self.lock())
        self.assertEqual([], journal.Journal(str(self.own)).entries())

    def assertLeftAlone(self, status, lock):
        self.assertEqual((status, lock), (self.image['status'], self.lock()))
        self.assertEqual([], journal.Journal(str(self.own)).entries())

    def test_staged_data_is_out_of_reach(self):
        entry = self.broken_off()
        self.worker = registry.Worker(self.worker.identity, 'central',
                                      staging='/not/here')
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertFailed()
        self.assertEqual('queued', self.image['status'])
        # Or its deletion would be sent to nobody.
        self.assertIsNone(self.host())

    def test_path_is_that_of_another_folder_here(self):
        entry = self.broken_off()
        (self.theirs / self.image_id).write_bytes(bytes(100))
        self.worker = registry.Worker(str(uuid.uuid4()), 'central',
                                      staging=str(self.theirs))
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertEqual('queued', self.image['status'])
        self.assertEqual([self.image_id], self.files(self.theirs))

    def test_staged_data_is_taken_over(self):
        entry = self.broken_off()
        data = os.urandom(100)
        (self.theirs / self.image_id).write_bytes(data)
        journal.Journal(str(self.theirs)).begin(entry).release()
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertFailed()
        self.assertEqual('uploading', self.image['status'])
        self.assertEqual(glance.URL, self.host())
        self.assertEqual(data, (self.own / self.image_id).read_bytes())
        self.assertEqual([], self.files(self.theirs))
        self.assertEqual([], journal.Journal(str(self.theirs)).tasks())

    def test_peer_was_at_another_host(self):
        # What that has lost, nobody knows but by the digest, which the
        # registry has not heard of yet.
        data = os.urandom(100)
        for lost in (False, True):
            entry = dataclasses.replace(self.broken_off(), boot=str(
                uuid.uuid4()))
            (self.theirs / self.image_id).write_bytes(
                bytes(100) if lost else data)
            journal.Journal(str(self.theirs)).begin(dataclasses.replace(
                entry, proofs={journal.AS_STAGED: journal.Proof(
                    100, test_durable.content_digest(data))})).release()
            self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
            self.assertFailed()
            self.assertEqual('queued' if lost else 'uploading',
                             self.image['status'])
            self.image_id, self.task_id = str(uuid.uuid4()), str(uuid.uuid4())

    def test_what_is_taken_over_is_on_the_disk(self):
        syncs = self.useFixture(test_durable.Syncs())
        self.test_staged_data_is_taken_over()
        for path in (self.own, self.own / self.image_id):
            self.assertIn(str(path), syncs.paths)

    def test_what_is_copied_from_another_file_system_is_on_the_disk(self):
        syncs = self.useFixture(test_durable.Syncs())
        self.test_on_another_file_system()
        self.assertIn(str(self.own / self.image_id) + '.part', syncs.paths)

    def test_link_to_something_else_is_not_taken_over(self):
        entry = self.broken_off()
        secret = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / 'k'
        secret.write_bytes(bytes(100))
        journal.Journal(str(self.theirs)).begin(entry).release()
        (self.theirs / self.image_id).symlink_to(secret)
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertEqual('queued', self.image['status'])
        self.assertEqual([], self.files(self.own))
        self.assertEqual(bytes(100), secret.read_bytes())

    def test_folder_that_others_may_write_to(self):
        entry = self.broken_off()
        (self.theirs / self.image_id).write_bytes(bytes(100))
        journal.Journal(str(self.theirs)).begin(entry).release()
        (self.theirs / folder.FOLDER).chmod(0o777)
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertEqual('queued', self.image['status'])
        self.assertEqual([self.image_id], self.files(self.theirs))

    def test_data_that_was_taken_over_is_there_when_it_is_done_again(self):
        entry = self.broken_off()
        data = os.urandom(100)
        (self.theirs / self.image_id).write_bytes(data)
        journal.Journal(str(self.theirs)).begin(entry).release()
        self.assertRaises(KeyboardInterrupt, self.undo, entry, self.dies)
        self.assertEqual([], self.files(self.theirs))
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertEqual('uploading', self.image['status'])
        self.assertEqual(data, (self.own / self.image_id).read_bytes())

    def test_image_with_an_id_in_capitals(self):
        self.image_id = self.image_id.upper()
        self.assertEqual(recovery.ROLLED_BACK, self.undo(self.broken_off()))
        self.assertEqual('queued', self.image['status'])

    def test_on_another_file_system(self):
        def rename(source, target):
            if not source.endswith('.part'):
                raise OSError(18, 'Invalid cross-device link')
            os.replace(source, target)
        self.useFixture(fixtures.MonkeyPatch('os.rename', rename))
        self.test_staged_data_is_taken_over()

    def test_process_of_the_worker_lives(self):
        entry = self.broken_off()
        (self.theirs / self.image_id).write_bytes(bytes(100))
        held = journal.Journal(str(self.theirs)).begin(entry)
        self.addCleanup(held.close)
        self.assertRaises(journal.Busy, self.undo, entry)
        self.assertLeftAlone('importing', self.task_id)

    def test_own_file_of_that_name(self):
        # It is none of this import's.
        (self.own / self.image_id).write_bytes(bytes(100))
        self.assertEqual(recovery.ROLLED_BACK, self.undo(self.broken_off()))
        self.assertEqual('queued', self.image['status'])
        self.assertEqual([], self.files(self.own))

    def test_copy(self):
        entry = self.broken_off('copy-image', 'active', journal.COPYING,
                                located=('central',))
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertFailed()
        properties = self.image['properties']
        self.assertEqual(('active', '', 'dcn0'), (
            self.image['status'], properties[database.IMPORTING],
            properties[database.FAILED]))

    def test_another_import_goes_on(self):
        other = str(uuid.uuid4())
        (self.own / self.image_id).write_bytes(bytes(100))
        self.assertEqual(recovery.LEFT,
                         self.undo(self.broken_off(lock=other)))
        self.assertLeftAlone('importing', other)
        self.assertEqual([self.image_id], self.files(self.own))

    def test_had_ended(self):
        entry = self.broken_off(status='active', lock='', task='success',
                                located=STORES)
        self.assertEqual(recovery.FINISHED, self.undo(entry))
        self.assertLeftAlone('active', None)
        self.assertEqual('success', database.task(self.task_id)['status'])

    def test_image_was_deleted(self):
        entry = self.broken_off()
        self.glance.delete_image(self.image_id)
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))

    def test_the_one_who_comes_back_lets_go(self):
        entry = self.broken_off()
        journal.Journal(str(self.theirs)).begin(entry).release()
        # A peer has just begun to undo it.
        self.assertTrue(recovery.fence(dataclasses.replace(entry,
                                                           taken=True)))
        (self.theirs / self.image_id).write_bytes(bytes(100))
        begun = []
        self.assertEqual([(entry, recovery.LEFT)], recovery.recover(
            journal.Journal(str(self.theirs)),
            lambda *args: begun.append(args)))
        self.assertEqual([], begun)
        self.assertEqual('importing', self.image['status'])

    def test_dies_over_it(self):
        entry = self.broken_off()
        for name in ('replace_lock', 'update'):
            patch = fixtures.MonkeyPatch(
                'glance_dcn.upstream.database.' + name, self.dies)
            with patch:
                self.assertRaises(KeyboardInterrupt, self.undo, entry)
            self.assertEqual('importing', self.image['status'])
        [(_entry, outcome)] = recovery.recover(
            journal.Journal(str(self.own)), self.dies)
        self.assertEqual(recovery.ROLLED_BACK, outcome)
        self.assertFailed()
        self.assertEqual('queued', self.image['status'])

    def test_lock_is_gone_and_the_task_goes_on(self):
        entry = self.broken_off(lock='')
        self.assertIsNone(self.lock())
        self.assertEqual(recovery.ROLLED_BACK, self.undo(entry))
        self.assertFailed()
        self.assertEqual('queued', self.image['status'])

    def test_names_that_are_none(self):
        for names in (('../x', self.image_id), (self.task_id, '../x')):
            entry = journal.Entry(*names, 'glance-direct', [], '/x', 'storing')
            self.assertRaises(ValueError, self.undo, entry)
        self.assertEqual([], os.listdir(self.own))

    def dies(self, *args, **kwargs):
        raise KeyboardInterrupt


TIMEOUT = 100
ENTRY = journal.Entry('task', 'image', 'glance-direct', ['central'], '/s/i',
                      journal.STORING)


class PeersTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.registry = fakes.Registry()
        self.now = 1000.0
        self.undone = []
        self.peers = self.watcher('me')

    def watcher(self, name):
        return takeover.Peers(self.registry, name, TIMEOUT, self.undo,
                              clock=lambda: self.now)

    def undo(self, worker, entry):
        self.undone.append((worker.identity, entry.task))

    def speak(self, identity='other', beat=1, **fields):
        worker = registry.Worker(**dict(
            {'identity': identity, 'site': 'central',
             'instance_id': 'first', 'beat': beat}, **fields))
        self.registry.records[identity] = worker.text('ours')
        return worker

    def look(self, passed=0, watcher=None, times=1):
        for _ in range(times):
            self.now += passed
            (watcher or self.peers).scan()

    def taken_by(self, identity='other'):
        return self.registry.worker(identity)[0].taken_by

    def test_right_to_act_lasts_as_long_as_the_work(self):
        renewed = threading.Event()
        with takeover.acting(self.registry, 'other', 'me', 0.01) as renew:
            self.assertTrue(renew())
            hold = self.registry.hold
            self.registry.hold = lambda *args: renewed.set() or True
            self.assertTrue(renewed.wait(10))
            self.registry.hold = hold
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
        self.peers._roll_back = fails_once
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
        self.peers._may_roll_back = lambda: False
        self.look(20, times=20)
        self.assertIsNone(self.taken_by())

    def test_is_forgotten_after_a_week(self):
        week = 7 * 24 * 3600
        self.speak('long gone', seen=time.time() - week - 1)
        self.speak('gone', seen=time.time() - week + 1000)
        self.speak('owned', seen=1)
        self.registry.note('owned', ENTRY)
        self.speak('of another release', seen=1)
        self.registry.unreadable['task/of another release/t'] = 'of version 3'
        self.peers._roll_back = self.fails
        self.look(20, times=8)
        self.assertEqual({'gone', 'owned', 'of another release'},
                         set(self.registry.records))

    def fails(self, worker, entry):
        raise RuntimeError('it cannot be undone now')
