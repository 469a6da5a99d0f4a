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


"""What becomes of imports whose process has died.

The database, the journal and the staging folder are real ones; the clusters
are not there, see tests/functional/staging for these.
"""

import dataclasses
import os
import pathlib
import uuid

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import recovery
from glance_dcn.runtime import process
from glance_dcn.tasks import queue
from glance_dcn.upstream import database
from tests import runtimes
from tests.unit.imports import glance
from tests.unit.imports import test_durable

STORES = ('central', 'dcn0')
# Boot ID before the host was restarted.
BEFORE = '1b4e28ba-2fa1-11d2-883f-0016d3cca427'


class RecoveryTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.journal = journal.Journal(str(self.staging))
        self.glance = self.useFixture(glance.Database())
        self.image_id = str(uuid.uuid4())
        self.task_id = str(uuid.uuid4())
        self.path = self.staging / self.image_id
        self.begun = []
        # What is asked to be ended and removed.
        self.ended, self.found, self.removed = [], [], []
        self.removal = recovery.Removal(
            end_orphans=self.ended.append, discard_writes=self.discard,
            remove_data=lambda *args: self.removed.append(args))

    def discard(self, site, image, instances, published, committed):
        self.found.append((site, instances, published, *[
            'uncommitted'] * (not committed)))

    def died(self, method='glance-direct', phase=journal.STORING,
             status='importing', size=100, located=(), task='processing',
             lock=None, staged=100, attempts=0, boot=None, proofs=None,
             **values):
        """Make what a worker that died has left.

        :param boot: boot ID of the host at that time; None: that of now
        """
        properties = {database.IMPORTING: ','.join(STORES),
                      database.FAILED: '', 'own': 'property'}
        if lock != '':
            properties[database.LOCK] = lock or self.task_id
        self.glance.add_image(self.image_id, status, located, properties,
                              size=size, **values)
        self.glance.add_task(self.task_id, self.image_id, method, STORES,
                             task)
        if staged is not None:
            self.path.write_bytes(bytes(staged))
        self.journal.begin(journal.Entry(
            task=self.task_id, image=self.image_id, method=method,
            stores=list(STORES), path=str(self.path), phase=phase,
            formats={'disk_format': 'qcow2', 'container_format': 'bare'},
            attempts=attempts, proofs=proofs or {},
            boot=folder.boot_id() if boot is None else boot)).release()

    def proof(self, data):
        return journal.Proof(len(data), test_durable.content_digest(data))

    def restarted(self, *args, digest=True, lost=False, **kwargs):
        """Make what a worker has left whose host was restarted.

        :param digest: whether the data was known to be on the disk
        :param lost: whether the length alone had come to the disk
        """
        data = os.urandom(100000)
        proof = self.proof(data)
        if not digest:
            proof = journal.Proof(len(data))
        kwargs.setdefault('size', len(data))
        kwargs.setdefault('proofs', {journal.AS_STAGED: proof})
        self.died(*args, boot=BEFORE, **kwargs)
        self.path.write_bytes(data)
        if lost:
            self.lose(self.path)
        return data

    def lose(self, path):
        """Let a file be as a power cut leaves it: its length and no data."""
        size = path.stat().st_size
        os.truncate(path, 0)
        os.truncate(path, size)

    def begin_again(self, held, stores):
        active_imports.adopt(held)
        self.addCleanup(active_imports.end, held.entry.task)
        self.begun.append((held.entry.attempts, stores))

    def recover(self, again=True):
        [(entry, outcome)] = recovery.recover(
            self.journal, self.begin_again if again else None, self.removal)
        return outcome

    @property
    def image(self):
        return database.image(self.image_id)

    @property
    def task(self):
        return database.task(self.task_id)

    def lists(self):
        properties = self.image['properties']
        return (properties[database.IMPORTING], properties[database.FAILED])

    def files(self):
        return sorted(path.name for path in self.staging.iterdir()
                      if path.name != folder.FOLDER)

    def assertLetGo(self):
        self.assertNotIn(database.LOCK, self.image['properties'])
        self.assertEqual([], self.journal.tasks())
        self.assertEqual('property', self.image['properties']['own'])

    def assertImportable(self):
        self.assertLetGo()
        self.assertEqual('uploading', self.image['status'])
        self.assertEqual(glance.URL, self.image['properties'][database.HOST])
        self.assertEqual([self.image_id], self.files())
        self.assertEqual(self.path.stat().st_size, self.image['size'])
        self.assertEqual(('', 'central,dcn0'), self.lists())

    def assertQueued(self):
        self.assertLetGo()
        self.assertEqual(('queued', None, 'qcow2'), (
            self.image['status'], self.image['size'],
            self.image['disk_format']))
        self.assertEqual([], self.files())
        self.assertNotIn(database.HOST, self.image['properties'])

    def assertBegunAgain(self, stores=STORES):
        self.assertEqual([(1, list(stores))], self.begun)
        self.assertEqual(self.task_id,
                         self.image['properties'][database.LOCK])
        self.assertEqual('processing', self.task['status'])
        self.assertIsNotNone(active_imports.of(self.image_id))

    def test_nothing(self):
        self.assertEqual([], recovery.recover(self.journal))

    def test_folder_was_at_another_place(self):
        # Or somebody has written into it what is to be removed.
        elsewhere = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        other = elsewhere / self.image_id
        other.write_bytes(b'not ours')
        self.died(method='web-download', phase=journal.DOWNLOADING)
        [record] = self.staging.glob('.glance-dcn/*.json')
        record.write_text(record.read_text().replace(
            str(self.path), str(other)))
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()
        self.assertEqual(b'not ours', other.read_bytes())

    def test_one_that_cannot_be_looked_at_keeps_no_other_waiting(self):
        self.died()
        (self.staging / '.glance-dcn/0-first.json').touch()
        (self.staging / '.glance-dcn/0-first.lock').mkdir()
        self.assertEqual(recovery.RESUMED, self.recover())

    def test_image_that_is_imported_anew_is_left_alone(self):
        # By another process of this worker, say.
        self.died(lock=str(uuid.uuid4()))
        self.assertEqual(recovery.LEFT, self.recover())
        self.assertEqual([], self.ended)
        self.assertEqual([self.image_id], self.files())

    def test_staged_image_is_gone_on_with(self):
        self.died()
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertBegunAgain()
        self.assertEqual('uploading', self.image['status'])
        # It is at it now, and not to be taken over.
        self.assertEqual([], recovery.recover(self.journal, self.begin_again))

    def test_staged_image_is_put_back(self):
        self.died()
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertImportable()
        self.assertEqual('failure', self.task['status'])
        self.assertIn('repeat the import', self.task['message'])

    def test_before_the_image_was_touched(self):
        self.died(status='uploading', phase=journal.STAGED)
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertImportable()

    def test_what_ends_every_worker_is_not_tried_for_ever(self):
        self.died(attempts=recovery._ATTEMPTS)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertImportable()

    def test_signed_image_is_put_back(self):
        self.died()
        database.update(self.image_id, 'importing', {'img_signature': 'x'})
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertImportable()

    def test_data_that_is_not_complete(self):
        self.died(staged=99)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()
        self.assertIn('stage the image again', self.task['message'])

    def test_data_that_is_gone(self):
        self.died(staged=None)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()

    def test_half_download(self):
        self.died('web-download', journal.DOWNLOADING, size=None)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()

    def test_download_that_is_staged(self):
        self.died('web-download', journal.STORING, size=None)
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertBegunAgain()
        self.assertEqual(100, self.image['size'])

    def test_download_that_is_staged_is_put_back(self):
        self.died('web-download', journal.STORING, size=None)
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertQueued()

    def test_half_conversion(self):
        self.died(phase=journal.CONVERTING)
        pathlib.Path('%s.raw' % self.path).write_bytes(bytes(50))
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertEqual([self.image_id], self.files())
        self.assertEqual(100, self.path.stat().st_size)

    def test_conversion_that_was_over(self):
        # The last thing that a conversion does is to remove its source.
        for source in (100, None):
            self.died(phase=journal.CONVERTING, disk_format='raw', size=500,
                      staged=source)
            pathlib.Path('%s.raw' % self.path).write_bytes(bytes(500))
            self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
            self.assertImportable()
            self.assertEqual((500, 'raw'), (self.path.stat().st_size,
                                            self.image['disk_format']))
            self.image_id, self.task_id = str(uuid.uuid4()), str(uuid.uuid4())
            self.path.unlink()
            self.path = self.staging / self.image_id

    def test_conversion_that_was_over_in_vain(self):
        self.died('web-download', journal.CONVERTED, disk_format='raw',
                  size=500, staged=500)
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertQueued()

    def test_image_was_deleted(self):
        self.died()
        pathlib.Path('%s.raw' % self.path).write_bytes(bytes(50))
        self.glance.delete_image(self.image_id)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertEqual([], self.files())
        self.assertEqual([], self.journal.tasks())
        self.assertEqual('failure', self.task['status'])

    def test_another_task_has_the_image(self):
        self.died(lock='another')
        self.assertEqual(recovery.LEFT, self.recover())
        self.assertEqual('another', self.image['properties'][database.LOCK])
        self.assertEqual([self.image_id], self.files())
        self.assertEqual(('importing', 'failure'), (
            self.image['status'], self.task['status']))
        self.assertEqual([], self.journal.tasks())

    def test_task_had_let_go(self):
        self.died(lock='', status='queued', staged=None)
        self.assertEqual(recovery.FINISHED, self.recover())
        self.assertEqual('failure', self.task['status'])
        self.assertLetGo()

    def test_task_had_let_go_of_an_image_that_was_converted(self):
        # The staged file is that of a new upload by now.
        self.died(lock='', status='uploading', task='failure')
        pathlib.Path(folder.aside(str(self.path))).write_bytes(b'source')
        self.assertEqual(recovery.FINISHED, self.recover())
        self.assertEqual([self.image_id], self.files())

    def test_task_has_ended_and_the_lock_stays(self):
        self.died(status='active', located=STORES, task='success')
        self.assertEqual(recovery.FINISHED, self.recover())
        self.assertLetGo()
        self.assertEqual([], self.files())
        self.assertEqual('active', self.image['status'])

    def test_task_has_failed_and_the_lock_stays(self):
        self.died(task='failure')
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertImportable()

    def test_task_is_gone(self):
        self.died()
        self.glance.delete_task(self.task_id)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertImportable()

    def test_image_is_active_and_only_the_end_was_missing(self):
        self.died(status='active', located=STORES)
        self.assertEqual(recovery.FINISHED, self.recover())
        self.assertLetGo()
        self.assertEqual(('', ''), self.lists())
        self.assertEqual('success', self.task['status'])
        self.assertEqual([], self.files())

    def test_image_is_active_with_some_of_its_stores(self):
        self.died(status='active', located=['central'])
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertLetGo()
        self.assertEqual(('', 'dcn0'), self.lists())
        self.assertEqual({'central'}, database.located(self.image))
        self.assertIn('storing it in dcn0 was interrupted',
                      self.task['message'])

    def test_image_that_was_deactivated_keeps_its_data(self):
        self.allow_copies()
        self.died(status='deactivated', located=['central'])
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertLetGo()
        self.assertEqual('deactivated', self.image['status'])
        self.assertEqual({'central'}, database.located(self.image))
        self.assertEqual([], self.removed)

    def allow_copies(self):
        for name, value in (
                ('enabled_backends', dict.fromkeys(STORES, 'dcn')),
                ('enabled_import_methods', ['copy-image'])):
            cfg.CONF.set_override(name, value)
            self.addCleanup(cfg.CONF.clear_override, name)

    def buried(self):
        """Return what is asked to be removed at sites from now on."""
        self.useFixture(runtimes.Runtime())
        process.get(queue.TaskQueue).sites.update(
            {name: name for name in (*STORES, 'glance_store')})
        self.found.clear()
        return self.found

    def wrote(self, **changes):
        """Add to the journal what the dead worker has begun to write."""
        held = self.journal.take(self.task_id)
        held.note(**changes)
        held.release()

    def test_data_of_an_image_that_was_deleted(self):
        for status, published in (('deleted', True),
                                  ('pending_delete', False)):
            found = self.buried()
            self.died()
            self.wrote(begun={'dcn0': [7]})
            database.update(self.image_id, 'importing', status=status)
            self.assertEqual(recovery.ROLLED_BACK, self.recover())
            self.assertEqual([('dcn0', [7], published)], found)
            self.image_id, self.task_id = (str(uuid.uuid4())
                                           for _ in range(2))

    def test_data_of_an_image_of_another_glance(self):
        found = self.buried()
        self.died()
        self.wrote(begun={'dcn0': [7]}, image=str(uuid.uuid4()))
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertEqual([], found)

    def test_image_becomes_active_meanwhile(self):
        # Its worker was taken for dead, and lives.
        found = self.buried()
        self.died(located=['central'])
        self.wrote(begun={'central': [7], 'dcn0': [8]})
        self.removal = dataclasses.replace(
            self.removal, end_orphans=lambda path: database.update(
                self.image_id, 'importing', status='active'))
        self.assertIsNone(self.recover(again=False))
        self.assertEqual('active', self.image['status'])
        self.assertEqual(([], []), (found, self.removed))
        self.assertEqual({'central'}, database.located(self.image))

    def test_data_in_the_only_store_of_a_glance(self):
        found = self.buried()
        self.died()
        self.wrote(begun={'glance_store': [7]}, stores=[None])
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertEqual([('glance_store', [7], True)], found)

    def test_what_glance_may_be_told_of_while_it_is_active(self):
        # The save may have been sent before the worker died.
        for method in ('copy-image', 'glance-direct'):
            found = self.buried()
            self.died(method, journal.COPYING, 'active', staged=None,
                      located=['other'])
            self.wrote(begun={'dcn0': [7]})
            self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
            self.assertEqual(('dcn0', [7], True, 'uncommitted'), found[-1])
            self.image_id, self.task_id = (str(uuid.uuid4())
                                           for _ in range(2))

    def test_image_that_is_active_is_copied_to_its_other_stores(self):
        self.allow_copies()
        self.died(status='active', located=['central'])
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertBegunAgain(['dcn0'])
        self.assertEqual(('copy-image', journal.COPYING), (
            active_imports.of(self.image_id).entry.method,
            active_imports.of(self.image_id).entry.phase))
        self.assertEqual([], self.files())

    def test_copy_is_gone_on_with(self):
        self.died('copy-image', journal.COPYING, 'active', staged=None,
                  located=['central', 'other'])
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertBegunAgain(['dcn0'])
        self.assertEqual('active', self.image['status'])

    def test_copy_is_given_up(self):
        self.died('copy-image', journal.COPYING, 'active', staged=None,
                  located=['other'])
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertLetGo()
        self.assertEqual(('', 'central,dcn0'), self.lists())
        self.assertEqual({'other'}, database.located(self.image))
        self.assertEqual('active', self.image['status'])

    def test_copy_that_was_over(self):
        self.died('copy-image', journal.COPYING, 'active', staged=None,
                  located=['other', *STORES])
        self.assertEqual(recovery.FINISHED, self.recover())
        self.assertEqual('success', self.task['status'])

    def test_half_a_file_of_a_stock_copy(self):
        self.died('copy-image', journal.COPYING, 'active', staged=99,
                  located=['other'])
        self.recover()
        self.assertEqual([], self.files())

    def test_file_of_a_stock_copy(self):
        self.died('copy-image', journal.COPYING, 'active', staged=100,
                  located=['other'])
        self.recover()
        self.assertEqual([self.image_id], self.files())

    def test_file_of_a_stock_copy_after_a_restart(self):
        # Stock takes it for complete by its length.
        self.died('copy-image', journal.COPYING, 'active', staged=100,
                  located=['other'], boot=BEFORE)
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertEqual([], self.files())

    def test_host_was_restarted(self):
        data = self.restarted()
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertBegunAgain()
        self.assertEqual(data, self.path.read_bytes())
        # From now on it is in the page cache of this one.
        self.assertEqual(folder.boot_id(),
                         active_imports.of(self.image_id).entry.boot)

    def test_host_was_restarted_and_it_is_put_back(self):
        self.restarted()
        syncs = self.useFixture(test_durable.Syncs())
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertImportable()
        self.assertIn(str(self.path), syncs.paths)

    def test_data_was_lost_when_the_host_was_restarted(self):
        for again in (True, False):
            self.restarted(lost=True)
            self.assertEqual(recovery.ROLLED_BACK, self.recover(again))
            self.assertQueued()
            for word in ('its content changed', 'stage the image again'):
                self.assertIn(word, self.task['message'])
            self.another_image()

    def test_data_was_lost_before_its_digest_was_known(self):
        # Of the length, it is, and nothing else is known of it.
        for proofs in ({}, {journal.AS_STAGED: journal.Proof(100000)}):
            self.restarted(proofs=proofs)
            self.assertEqual(recovery.ROLLED_BACK, self.recover())
            self.assertQueued()
            for word in ('known to be on the disk', 'stage the image again'):
                self.assertIn(word, self.task['message'])
            self.another_image()

    def test_length_was_lost_when_the_host_was_restarted(self):
        self.restarted('web-download', size=None)
        os.truncate(self.path, 99999)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()
        self.assertIn('99999 bytes instead of 100000', self.task['message'])

    def test_boot_id_was_not_known(self):
        self.died(boot='')
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()

    def test_download_and_the_host_was_restarted(self):
        self.restarted('web-download', size=None)
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertEqual(100000, self.image['size'])

    def test_download_was_lost_when_the_host_was_restarted(self):
        self.restarted('web-download', size=None, lost=True)
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()
        self.assertIn(': repeat the import', self.task['message'])

    def test_data_cannot_be_read_when_the_host_was_restarted(self):
        self.restarted()

        def pread(fd, length, offset):
            raise OSError(5, 'Input/output error')
        self.useFixture(fixtures.MonkeyPatch('os.pread', pread))
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertIn('cannot be read', self.task['message'])

    def test_data_cannot_be_brought_to_the_disk(self):
        self.died()
        fdatasync = os.fdatasync

        def fails(fd):
            if os.readlink('/proc/self/fd/%d' % fd) == str(self.path):
                raise OSError(5, 'Input/output error')
            fdatasync(fd)
        self.useFixture(fixtures.MonkeyPatch('os.fdatasync', fails))
        self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
        self.assertQueued()
        for word in ('could not be brought to the disk',
                     'stage the image again'):
            self.assertIn(word, self.task['message'])

    def test_task_is_saved_while_data_is_verified(self):
        self.restarted()
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertIn('verifying the staged data: 100 %',
                      self.task['message'])

    def test_import_that_waits_and_the_host_was_restarted(self):
        # Its formats are noted when it begins.
        self.restarted(phase=journal.ACCEPTED, status='uploading')
        held = self.journal.take(self.task_id)
        held.note(formats={})
        held.release()
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertBegunAgain()

    def another_image(self):
        self.image_id, self.task_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.path = self.staging / self.image_id

    def converted(self, aside=True, digest=True, **kwargs):
        """Make what a worker has left that had just converted an image.

        :param aside: whether the source had been put aside
        :param digest: whether the result was known to be on the disk
        :returns: content of the source, of the result, and its path
        """
        made = os.urandom(300000)
        proof = self.proof(made)
        if not digest:
            proof = journal.Proof(len(made))
        source = os.urandom(100000)
        self.died(phase=journal.CONVERTED, disk_format='raw',
                  virtual_size=len(made), size=len(made), staged=None,
                  boot=BEFORE,
                  proofs={journal.AS_STAGED: self.proof(source),
                          'raw': proof}, **kwargs)
        path = pathlib.Path('%s.raw' % self.path)
        path.write_bytes(made)
        pathlib.Path('%s%s' % (self.path, '.source' if aside else '')
                     ).write_bytes(source)
        return source, made, path

    def test_conversion_and_the_host_was_restarted(self):
        for aside in (True, False):
            _source, made, _path = self.converted(aside)
            self.assertEqual(recovery.ROLLED_BACK, self.recover(again=False))
            self.assertImportable()
            self.assertEqual('raw', self.image['disk_format'])
            self.assertEqual(made, self.path.read_bytes())
            self.path.unlink()
            self.another_image()

    def test_conversion_was_lost_when_the_host_was_restarted(self):
        for aside in (True, False):
            for digest in (True, False):
                source, _made, path = self.converted(aside, digest)
                self.lose(path)
                self.assertEqual(recovery.ROLLED_BACK,
                                 self.recover(again=False))
                # The source is worth something.
                self.assertImportable()
                self.assertEqual(('qcow2', 'bare', None), (
                    self.image['disk_format'], self.image['container_format'],
                    self.image['virtual_size']))
                self.assertEqual(source, self.path.read_bytes())
                self.path.unlink()
                self.another_image()

    def test_source_of_a_conversion_is_gone_on_with(self):
        source, _made, path = self.converted()
        self.lose(path)
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertBegunAgain()
        self.assertEqual(('qcow2', len(source)), (
            self.image['disk_format'], self.image['size']))
        self.assertEqual([self.image_id], self.files())

    def test_conversion_was_lost_and_so_was_its_source(self):
        _source, _made, path = self.converted()
        self.lose(path)
        self.lose(pathlib.Path('%s.source' % self.path))
        self.assertEqual(recovery.ROLLED_BACK, self.recover())
        self.assertQueued()

    def test_dies_over_putting_the_source_back(self):
        source, _made, path = self.converted()
        self.lose(path)
        with self.glance.away('UPDATE images'):
            self.assertIsNone(self.recover())
        self.assertEqual([self.image_id], self.files())
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertEqual(source, self.path.read_bytes())
        self.assertEqual('qcow2', self.image['disk_format'])

    def test_restaged_data_is_synced(self):
        self.converted()
        syncs = self.useFixture(test_durable.Syncs())
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertIn(str(self.staging), syncs.paths)

    def test_database_is_away(self):
        self.died()
        with self.glance.away():
            self.assertIsNone(self.recover())
        self.assertEqual(recovery.RESUMED, self.recover())

    def test_beginning_again_fails(self):
        self.died()

        def again(held, stores):
            raise OSError('no thread')
        [(_entry, outcome)] = recovery.recover(self.journal, again)
        self.assertIsNone(outcome)
        # Then it is undone, and not tried for ever.
        self.assertEqual(recovery.RESUMED, self.recover())
        self.assertEqual([(2, list(STORES))], self.begun)
