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

"""Recovery: resuming or rolling back what a dead worker was doing.

Each process of a worker scans the journal when it starts and every few
seconds (:mod:`glance_dcn.imports.scan`), and takes over the entries whose
processes have died; of several one gets an entry. It rolls the image back to
where its import began, keeping what is worth to be kept, and then resumes the
import with the same task and the same lock, or, if that is not possible, ends
the task and unlocks the image. All of it may be interrupted and done again.

======================== ===============================================
phase                    outcome
======================== ===============================================
glance-direct, any phase resumed with the staged data; else the image is
                         ``uploading``, with the data in its place
download, until staged   ``queued``: the same request can be repeated
download, from there on  resumed with the staged data; else ``queued``
copy                     resumed for the stores that lack the image
active already           copied to the stores that lack it; else these have
                         failed, and the others stay
staged data is not to be glance-direct, download: ``queued``; copy: staged
trusted                  again
image deleted            what is left of it is removed
another task has it      left alone, but for the task's message
======================== ===============================================

Staged data is trusted by its length as long as the host has not been
restarted, and after that by its digest (:mod:`.folder`).
"""

from __future__ import annotations

from collections import abc
import copy
import dataclasses
import logging
import os
import typing
import uuid

from glance_dcn.engine import errors
from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.runtime import green
from glance_dcn.runtime import process
from glance_dcn.sites import existing
from glance_dcn.tasks import queue
from glance_dcn.upstream import glance_interfaces

if typing.TYPE_CHECKING:
    from glance_dcn.upstream import database

    #: What resumes an import, see :func:`resume_import`.
    Resume = abc.Callable[[journal.Held, abc.Sequence[str | None]], None]

LOG = logging.getLogger(__name__)

# Seconds for which a native thread of a patched process waits until a resumed
# import has begun. Only a hub that answers nothing at all takes long.
_BEGINNING = 24 * 3600
# Times that an import is resumed: it may be what ends the worker.
_ATTEMPTS = 2

#: Outcomes of an entry.
RESUMED = 'resumed'
ROLLED_BACK = 'rolled back'
FINISHED = 'finished'
LEFT = 'left alone'

# Namespace of the locks by which a peer's imports are undone.
_FENCES = uuid.UUID('8f8c3f0e-6f0b-4b0b-9c39-5a8f3d6f2f11')
# Statuses of images whose data is in a store, and stays there.
_USABLE = ('active', 'deactivated')
# Phases before the end of a download.
_NOT_STAGED = (journal.ACCEPTED, journal.DOWNLOADING)


def _remove_data(image_id: str, location: database.Row) -> None:
    from glance_dcn.upstream import database
    database.remove_data(image_id, location)


@dataclasses.dataclass(frozen=True)
class Removal:
    """How what a dead process has left is removed."""

    end_orphans: abc.Callable[[str], None] = folder.end_orphans
    discard_writes: abc.Callable[..., bool] = existing.discard_writes
    remove_data: abc.Callable[[str, database.Row], None] = _remove_data


def recover(found: journal.Journal, resume: Resume | None = None,
            removal: Removal = Removal()
            ) -> list[tuple[journal.Entry, str | None]]:
    """Recover the imports that dead processes have left.

    :param resume: resumes an import; None: it is rolled back
    :returns: entries and outcomes; None as the outcome of one that failed and
        is tried again
    """
    outcomes: list[tuple[journal.Entry, str | None]] = []
    for task in found.tasks():
        if active_imports.get(task):
            continue
        try:
            held = found.take(task)
        except OSError as exc:
            # The others are none the worse for it.
            LOG.error('What is left of task %(task)s cannot be read: '
                      '%(error)s', {'task': task, 'error': exc})
            continue
        if held is None:
            continue
        # The folder may have been at another place.
        entry = held.entry = dataclasses.replace(
            held.entry, path=os.path.join(os.path.dirname(found.folder),
                                          held.entry.image))
        try:
            outcome: str | None = _Recovery(held, resume, removal).run()
            LOG.warning('Image %(image)s: its %(method)s was interrupted when '
                        '%(by)s ended (%(phase)s); it was %(outcome)s', {
                            'image': entry.image, 'method': entry.method,
                            'by': entry.by, 'phase': entry.phase,
                            'outcome': outcome})
        except Exception:
            LOG.exception('Image %(image)s: what is left of task %(task)s '
                          'cannot be recovered now; it is tried again', {
                              'image': entry.image, 'task': task})
            outcome = None
        finally:
            if active_imports.get(task) is None:
                # Gone already, if it is over.
                held.release()
        outcomes.append((entry, outcome))
    return outcomes


def is_possible() -> bool:
    """Return whether imports can be recovered in this Glance."""
    return (glance_interfaces.usable(glance_interfaces.DATABASE)
            and glance_interfaces.usable(glance_interfaces.IMAGE_LOCK))


def roll_back(held: journal.Held) -> str:
    """Roll an import or a copy back; return the outcome."""
    return _Recovery(held, None).run()


def fence(entry: journal.Entry) -> bool:
    """Replace the lock on the image of a peer's entry by an own one.

    :param entry: one that was taken
    :returns: whether it is; if not, another task has it by now, or none
    """
    from glance_dcn.upstream import database
    image = database.image(entry.image)
    if image is None:
        return False
    lock = image['properties'].get(database.LOCK)
    if lock == _lock(entry):
        return True
    if lock is None:
        task = database.task(entry.task)
        # The task goes on without a lock: its last fencing was interrupted.
        if task is None or task['status'] in database.ENDED:
            return False
    elif lock != entry.task:
        return False
    return database.replace_lock(entry.image, lock, _lock(entry))


def _lock(entry: journal.Entry) -> str:
    """Return the task that the lock on the image of an entry names."""
    if not entry.taken:
        return entry.task
    # The same for each worker that undoes it.
    return str(uuid.uuid5(_FENCES, entry.task))


class _Recovery:
    """The recovery of one entry."""

    def __init__(self, held: journal.Held, resume: Resume | None,
                 removal: Removal = Removal()) -> None:
        # Where there is no database there is nothing to recover.
        from glance_dcn.upstream import database
        self._database = database
        self._held = held
        self._entry = held.entry
        self._begin, self._removal = resume, removal
        # Empty before it is known, and if it is gone.
        self._image: database.Row = {}
        self._saves = False
        # Whether the staged data is what a conversion was made of, and the
        # first reason not to trust staged data.
        self._unconverted = False
        self._mistrust = ''

    def run(self) -> str:
        """Recover the import or copy; return the outcome."""
        entry = self._entry
        task = self._database.task(entry.task)
        self._saves = (task is not None
                       and task['status'] not in self._database.ENDED)
        if self._saves:
            # From now on no request takes the lock for a stale one. Whether
            # one has is checked next.
            self._database.save_message(
                entry.task,
                'Its worker has ended: recovering what it has left')
        self._image = self._database.image(entry.image) or {}
        if not self._image:
            return self._gone()
        if entry.taken:
            # The peer's process may be there still: with the same lock.
            self._begin = None
            fence(entry)
            self._image = self._database.image(entry.image) or {}
            if not self._image:
                return self._gone()
        lock = self._image['properties'].get(self._database.LOCK)
        if lock != _lock(entry):
            return self._lost(lock)
        # Not of an image that is imported again by now.
        self._removal.end_orphans(entry.path)
        if task is not None and task['status'] == 'success':
            return self._finish()
        if task is None or task['status'] == 'failure':
            self._begin = None
        copies = entry.method == 'copy-image'
        if not copies and self._image['status'] not in _USABLE:
            return self._import()
        there = self._database.located(self._image)
        remaining = [store for store in entry.stores if store not in there]
        if not remaining:
            return self._finish()
        return self._copy(remaining) if copies else self._active(remaining)

    def _gone(self) -> str:
        """End an import whose image the user has deleted."""
        self._removal.end_orphans(self._entry.path)
        status = self._database.last_status(self._entry.image)
        # One that was never known is that of another Glance, which has a
        # database of its own and the same pool.
        if status is not None:
            # While its deletion is delayed, its data is Glance's to remove.
            self._clean_up(self._entry.stores,
                           published=status != 'pending_delete')
        folder.discard_staged(self._entry.path)
        self._database.fail_task(self._entry.task, 'The image was deleted.')
        self._held.close()
        return ROLLED_BACK

    def _lost(self, lock: str | None) -> str:
        """End an import whose task has unlocked the image, or lost it."""
        if not lock:
            # Glance has removed what was staged before it let go; what that
            # was converted from is ours.
            folder.discard(*folder.companions(self._entry.path))
        self._database.fail_task(
            self._entry.task, 'The worker ended; the image %s.' % (
                'was taken over by task %s' % lock if lock
                else 'had been abandoned'))
        self._held.close()
        return LEFT if lock else FINISHED

    def _finish(self) -> str:
        """Complete an import of which only the end was missing."""
        folder.discard_staged(self._entry.path)
        self._update(remaining=())
        self._database.complete_task(self._entry.task, self._entry.image)
        self._unlock()
        self._held.close()
        return FINISHED

    def _copy(self, remaining: list[str | None]) -> str:
        """Copy the image to the stores that lack it."""
        self._clean_up(remaining, published=False)
        # Stock goes by the length alone, and nothing vouches for it.
        if (folder.size(self._entry.path) != self._image['size']
                or not folder.is_current(self._entry.boot)):
            folder.discard(self._entry.path)
        if self._may_resume():
            return self._resume(remaining)
        folder.discard(self._entry.path)
        return self._give_up(remaining, 'copying to %s was interrupted: '
                             'repeat it' % _names(remaining))

    def _active(self, remaining: list[str | None]) -> str:
        """Copy an active image to the stores that an import left out."""
        folder.discard_staged(self._entry.path)
        # Glance copies no image that was deactivated meanwhile.
        if (self._image['status'] == 'active' and self._may_resume()
                and self._database.may_copy()):
            self._clean_up(remaining, published=False)
            self._held.note(method='copy-image')
            return self._resume(remaining)
        return self._give_up(
            remaining, 'the image is %s; storing it in %s was interrupted: '
            'copy it there (copy-image)' % (self._image['status'],
                                            _names(remaining)))

    def _give_up(self, remaining: list[str | None], remedy: str) -> str:
        """Let the stores that lack the image have failed."""
        self._clean_up(remaining, published=True, committed=False)
        self._update(remaining)
        return self._rolled_back(remedy)

    def _import(self) -> str:
        usable = self._restage()
        if usable and self._may_resume():
            self._clean_up(self._entry.stores, published=False)
            self._drop_locations(keep=True)
            self._restore_image('uploading', ())
            return self._resume(self._entry.stores)
        keeps = (usable and self._entry.method not in journal.DOWNLOADS
                 and self._is_synced())
        if not keeps:
            folder.discard_staged(self._entry.path)
        # First of all: a peer that lives may be about to make it active.
        self._restore_image('uploading' if keeps else 'queued',
                            self._entry.stores)
        self._drop_locations(keep=False)
        self._clean_up(self._entry.stores, published=True)
        return self._rolled_back(self._remedy(keeps))

    def _is_synced(self) -> bool:
        """Sync the staged file, for which nothing vouches any more."""
        try:
            folder.renew(self._entry.path)
            return True
        except OSError as exc:
            LOG.error('Image %(image)s: staged file %(path)s cannot be '
                      'brought to the disk, and is not trusted: %(error)s', {
                          'image': self._entry.image,
                          'path': self._entry.path, 'error': exc})
            self._mistrust = 'it could not be brought to the disk'
            return False

    def _remedy(self, keeps: bool) -> str:
        """Return what the user of an import that was undone has to do."""
        if keeps:
            return 'the staged data is kept: repeat the import'
        if self._mistrust:
            found = 'the staged data is not trusted (%s): ' % self._mistrust
        elif self._entry.method in journal.DOWNLOADS:
            found = ''
        else:
            found = 'the staged data is not complete: '
        return found + (
            'repeat the import' if self._entry.method in journal.DOWNLOADS
            else 'stage the image again')

    def _restage(self) -> bool:
        """Put trusted data where the staged file was; return whether so."""
        entry, image = self._entry, self._image
        if entry.method in journal.DOWNLOADS and entry.phase in _NOT_STAGED:
            return False
        kind, origin = image['disk_format'], entry.formats.get('disk_format')
        proofs, staged = entry.proofs, entry.proofs.get(journal.AS_STAGED)
        # Of these, the first one that is trusted: path, proof, length.
        candidates = [(
            entry.path, proofs.get(kind) or (
                staged if origin in (None, kind) else None), image['size'])]
        if kind != origin:
            # The conversion was over: the image says what it is now.
            candidates.insert(0, ('%s.%s' % (entry.path, kind),
                                  proofs.get(kind), image['size']))
        sources = []
        if origin not in (None, kind) and staged:
            sources = [(path, staged, staged.size) for path in (
                folder.aside(entry.path), entry.path)]
        found = next((candidate for candidate in candidates + sources
                      if self._is_trusted(*candidate)), None)
        if found is None:
            return False
        self._unconverted = found in sources
        path = found[0]
        if path != entry.path:
            os.replace(path, entry.path)
            folder.sync_folder(os.path.dirname(path))
        folder.discard(*folder.companions(entry.path))
        return True

    def _is_trusted(self, path: str, proof: journal.Proof | None,
                    size: int | None) -> bool:
        """Return whether a staged file is what it was, or log why not.

        :param size: bytes that it would have, or None
        """
        found = folder.size(path)
        if found is None:
            return False
        reason = (
            'it has %d bytes instead of %d' % (found, size)
            if size not in (None, found)
            else None if folder.is_current(self._entry.boot)
            else self._disproof(path, proof, found))
        if reason:
            self._mistrust = self._mistrust or reason
            LOG.warning('Image %(image)s: staged file %(path)s is not '
                        'trusted: %(reason)s', {
                            'image': self._entry.image, 'path': path,
                            'reason': reason})
        return reason is None

    def _disproof(self, path: str, proof: journal.Proof | None,
                  size: int) -> str | None:
        """Return why a file is not what the journal vouches for, or None.

        The host was restarted: what the file was is on the disk, or gone.
        """
        if proof is None or proof.digest is None:
            return ('the host was restarted before it was known to be on the '
                    'disk')
        if size != proof.size:
            return 'it has %d bytes instead of %d' % (size, proof.size)
        try:
            digest = folder.digest(path, self._verifies)
        except errors.EngineError as exc:
            LOG.warning('Staged file %(path)s cannot be read: %(error)s',
                        {'path': path, 'error': exc})
            return 'it cannot be read'
        return None if digest == proof.digest else (
            'its content changed when the host was restarted')

    def _verifies(self, part: float) -> None:
        """Save the task: this may take long, and the lock is to stay."""
        if self._saves:
            self._database.save_message(
                self._entry.task, 'Its worker has ended: verifying the '
                'staged data: %d %%' % (100 * part))

    def _restore_image(self, status: str,
                       failed: abc.Sequence[str | None]) -> None:
        """Return the image to where it was before the import."""
        values: database.Row = {
            'status': status, 'checksum': None, 'os_hash_value': None,
            'os_hash_algo': None}
        properties = self._database.move_stores(
            self._image, self._entry.stores, failed)
        if status == 'uploading':
            values['size'] = folder.size(self._entry.path)
            if self._unconverted:
                values.update(self._entry.formats, virtual_size=None)
            url = self._database.own_url()
            if url:
                properties[self._database.HOST] = url
        else:
            values.update(self._entry.formats, size=None, virtual_size=None)
        self._database.update(self._image['id'], self._image['status'],
                              properties, **values)
        host = self._image['properties'].get(self._database.HOST)
        if status == 'queued' and self._entry.taken and host:
            # Nothing is there: a deletion must not be sent to that host.
            self._database.drop_property(self._image['id'],
                                         self._database.HOST, host)

    def _update(self, remaining: abc.Sequence[str | None]) -> None:
        """Set the lists of stores, and nothing else."""
        self._database.update(self._image['id'], self._image['status'],
                              self._database.move_stores(
                                  self._image, self._entry.stores, remaining))

    def _drop_locations(self, keep: bool) -> None:
        """Take the locations off an image that is not active yet.

        :param keep: let the data stay where our driver will find it equal
        """
        for location in self._image['locations']:
            store = location['metadata'].get('store')
            if store not in self._entry.stores:
                continue
            kept = location['status'] != 'active' or (
                keep and self._answer_for(store))
            self._database.drop_location(self._image['id'], location)
            if not kept:
                self._removal.remove_data(self._image['id'], location)

    def _answer_for(self, store: str | None) -> bool:
        """Let a store keep its data; return whether it does.

        Should the import not adopt it, it is removed as a dead writer's.
        """
        site = process.get(queue.TaskQueue).sites.get(store or '')
        if site is None or not site.available:
            return False
        try:
            existing.record_published(site, self._entry.image)
        except Exception as exc:
            LOG.info('Store %(store)s has to take image %(image)s again: '
                     '%(error)s', {'store': store, 'error': exc,
                                   'image': self._entry.image})
            return False
        return True

    def _clean_up(self, stores: abc.Collection[str | None], published: bool,
                  committed: bool = True) -> None:
        """Remove what the dead process has begun to write.

        :param committed: also what Glance may be told of at this moment. Not
            where the status of the image stays: nothing else would keep a save
            from succeeding that was sent before, or by a process only stopped
        """
        there = self._database.located(self._image) if self._image else ()
        for name, instances in self._entry.begun.items():
            site = process.get(queue.TaskQueue).sites.get(name)
            # A Glance with a single store has no name for it.
            store = None if self._entry.stores == [None] else name
            if site and store in stores and store not in there:
                self._removal.discard_writes(
                    site, self._entry.image, instances, published, committed)

    def _may_resume(self) -> bool:
        # What proves a signature needs the token of the user.
        return (self._begin is not None
                and self._entry.attempts < _ATTEMPTS
                and 'img_signature' not in self._image['properties'])

    def _resume(self, stores: abc.Sequence[str | None]) -> str:
        """Resume the import, under the lock that it has."""
        copies = self._held.entry.method == 'copy-image'
        self._held.note(phase=journal.COPYING if copies else journal.STAGED,
                        attempts=self._entry.attempts + 1,
                        boot=folder.boot_id())
        assert self._begin is not None, 'see _may_resume()'
        self._begin(self._held, stores)
        return RESUMED

    def _rolled_back(self, what: str) -> str:
        # The lock first: who sees the task fail may repeat the import at once.
        self._unlock()
        self._database.fail_task(
            self._entry.task, 'The worker ended in the middle of the import '
            '(%s); %s.' % (self._entry.phase, what))
        self._held.close()
        return ROLLED_BACK

    def _unlock(self) -> None:
        self._database.drop_property(self._image['id'], self._database.LOCK,
                                     _lock(self._entry))


def _names(stores: abc.Iterable[str | None]) -> str:
    # A Glance with a single store has no name for it.
    return ', '.join(store or 'the store' for store in stores)


def resume_import(held: journal.Held, stores: abc.Sequence[str | None]
                  ) -> None:
    """Resume an import with the task that was interrupted.

    Its owner and its user, its ID and with that the lock that it has on the
    image stay. It begins where the staged data is complete, whatever way it
    came there, and goes through every task of the flow that does not bring
    it. Nothing of it depends on the one who began it but the user's token,
    which is needed to prove signatures; images that have one are not resumed.

    :raises Exception: if it cannot be begun; it is not held any more then
    """
    # Until it is known whether it has begun, the caller holds the entry.
    green.call(_resume_import, held, stores, timeout=_BEGINNING)


def _resume_import(held: journal.Held, stores: abc.Sequence[str | None]
                   ) -> None:
    from glance.api import common
    from glance.common import exception

    from glance_dcn.upstream import database
    entry = held.entry
    # It may have waited for its turn when its worker ended.
    database.begin_processing(entry.task, 'Resumed after its worker had ended')
    task = database.task(entry.task)
    if task is None:
        raise exception.TaskNotFound(task_id=entry.task)
    executor = _executor(task, entry.method, stores)
    active_imports.adopt(held)
    try:
        common.get_thread_pool('tasks_pool').spawn(
            _execute, executor, entry.task)
    except BaseException:
        active_imports.give_up(entry.task)
        raise


def _execute(executor: typing.Any, task_id: str) -> None:
    try:
        executor._run(task_id, 'api_image_import')
    except Exception as exc:
        # Glance has logged it and set the task to failure.
        LOG.debug('Task %(task)s has failed once more: %(error)s', {
            'task': task_id, 'error': exc})


def _executor(task: database.Row, method: str,
              stores: abc.Sequence[str | None]) -> typing.Any:
    """Return Glance's executor for what is left to do of a task."""
    from glance.async_ import taskflow_executor
    from glance import context
    from glance import gateway

    def owner() -> typing.Any:
        """Return the context of the task's owner, with an admin's rights."""
        return context.RequestContext(
            user_id=task.get('user_id'), project_id=task['owner'],
            request_id=task.get('request_id'), is_admin=True,
            roles=['admin', 'member', 'reader'], overwrite=False)

    def get_flow(task: typing.Any) -> typing.Any:
        left = copy.deepcopy(task.task_input)
        left['backend'] = list(stores)
        # However it came there, the data is staged.
        left['import_req']['method'] = {
            'name': method if copies else 'glance-direct'}
        # Not saved: neither Glance nor the heartbeat writes the input.
        task.task_input = left
        return glances_flow(task)

    gate, own = gateway.Gateway(), owner()
    copies = method == 'copy-image'
    executor = taskflow_executor.TaskExecutor(
        own, gate.get_task_repo(own), gate.get_repo(own),
        gate.get_image_factory(own),
        admin_repo=gate.get_repo(owner()) if copies else None)
    glances_flow, executor._get_flow = executor._get_flow, get_flow
    return executor
