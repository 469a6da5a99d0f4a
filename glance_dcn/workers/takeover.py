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

"""Takeover: rolling back what a worker that fell silent was doing.

Peers have the same default store. Others may have another store in the same
pool, and are left alone. Silence is measured by this worker's own clock, from
the first heartbeat that it read, and only while it can read: nothing that
happens to clocks or to the default site makes a living worker seem dead.

A peer that takes over first gets the lock of those who act for that worker,
then marks its record, which fails if there was a heartbeat meanwhile, and only
then rolls back its work, task by task. To roll back twice does no harm.

This worker puts the peer's entry into its own journal, as taken, changes the
lock of the image into one of its own, moves the staged data into its own
staging folder, if it can read the peer's, and undoes the import as it does
with its own. Should it die over that, its successor goes on.

The lock stands for all that the peer's process may still do: with another one
Glance lets it change the image no more, and the clusters cut its clients off.
It is for the same reason that nothing is begun again here: that would have
the lock the peer believes in.
"""

from __future__ import annotations

from collections import abc
import contextlib
import dataclasses
import errno
import logging
import os
import re
import shutil
import stat
import time
import uuid

from oslo_config import cfg

from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import recovery
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import identity as identities
from glance_dcn.workers import registry

LOG = logging.getLogger(__name__)

# Seconds the right to act for a worker lasts, if it is not renewed.
_ACTING = 60
# Seconds between renewals, and for which the last one is waited for.
_RENEWAL = 15
_MOMENT = 10
# Seconds between two scans after which it is not known what was in between.
_GAP = 60
# Seconds after which nobody waits for a worker to come back that left
# nothing to be done.
_FORGOTTEN = 7 * 24 * 3600
# Users may give images IDs in capitals.
_UUID = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}',
                   re.ASCII | re.IGNORECASE)


def roll_back(conf: cfg.ConfigOpts, worker: registry.Worker,
              entry: journal.Entry,
              recover: abc.Callable[[journal.Held], str] = recovery.roll_back
              ) -> str:
    """Roll back an import or a copy of a peer that is gone.

    :param recover: rolls back one of this worker, once it is that
    :returns: the outcome, see :mod:`glance_dcn.imports.recovery`
    :raises glance_dcn.imports.journal.Busy: if a process is at it
    :raises Exception: if it cannot be rolled back now
    """
    if not (_UUID.fullmatch(entry.task) and _UUID.fullmatch(entry.image)):
        # They become names of files; others may write to the pool.
        raise ValueError('task %r of image %r is none of Glance\'s'
                         % (entry.task, entry.image))
    with contextlib.ExitStack() as stack:
        theirs = _theirs(worker, entry.task)
        if theirs is not None:
            stack.callback(theirs.release)
            # The registry has it a little later.
            entry = dataclasses.replace(entry, boot=theirs.entry.boot,
                                        proofs=theirs.entry.proofs)
        ours = journal.of(conf)
        assert ours is not None, 'a worker is one that has a staging folder'
        known = ours.read(entry.task)
        own = ours.begin(dataclasses.replace(
            entry, path=folder.staged(conf, entry.image), taken=True,
            by=tasks.host_and_process()))
        stack.callback(own.release)
        if recovery.fence(own.entry):
            path = own.entry.path
            if known is None or not known.taken:
                # Of an earlier time: this worker has not staged it for this
                # import. But what is there if this is done once more may
                # have been taken over from the peer, and be all there is.
                folder.discard(path, *folder.companions(path))
            if theirs is not None:
                _move(os.path.join(worker.staging, entry.image), path)
        outcome = recover(own)
        if theirs is not None:
            theirs.close()
    LOG.warning('Image %(image)s: its %(method)s was interrupted when worker '
                '%(worker)s at host %(host)s fell silent (%(phase)s); it was '
                '%(outcome)s', {
                    'image': entry.image, 'method': entry.method,
                    'worker': worker.identity, 'host': worker.host,
                    'phase': entry.phase, 'outcome': outcome})
    return outcome


def _theirs(worker: registry.Worker, task: str) -> journal.Held | None:
    """Return the peer's own entry, if its staging folder can be read here.

    :raises glance_dcn.imports.journal.Busy: if a living process holds it
    """
    try:
        found = journal.Journal(worker.staging)
        # Others may have written the path, and what is there.
        found.check()
        # The folder of that path may be another's here.
        known = identities.WorkerIdentity(worker.staging).known_uuid()
        if known != worker.identity:
            return None
        held = found.take(task)
        if held is None and found.read(task) is not None:
            raise journal.Busy(task)
        return held
    except (OSError, ValueError):
        return None


def _move(source: str, target: str) -> None:
    """Move a staged file, and its conversions, into the own staging folder."""
    for path in [*folder.companions(source), source]:
        new = target + path[len(source):]
        part = '%s.part' % target
        try:
            # A link may lead to what is secret.
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise OSError(errno.EINVAL, 'it is no file', path)
            try:
                os.rename(path, new)
            except OSError:
                # On another file system, or not to be changed.
                shutil.copyfile(path, part, follow_symlinks=False)
                folder.sync(part)
                os.rename(part, new)
            folder.sync_folder(os.path.dirname(new))
            if os.path.islink(new):
                # It was changed meanwhile.
                folder.discard(new)
        except FileNotFoundError:
            continue
        except OSError as exc:
            LOG.warning('Staged file %(path)s cannot be taken over: '
                        '%(error)s', {'path': path, 'error': exc})
            folder.discard(part)
            continue
        with contextlib.suppress(OSError):
            folder.discard(path)


@contextlib.contextmanager
def acting(records: registry.Registry, identity: str, holder: str,
           renewal: float = _RENEWAL
           ) -> abc.Iterator[abc.Callable[[], bool] | None]:
    """Hold the only right to act for a worker while the block runs.

    :param renewal: seconds between two renewals
    :returns: context manager that gives None if another has it, or a function
        that renews it, and returns whether it still was held
    """
    def renew() -> bool:
        return records.hold(identity, holder, _ACTING)
    if not renew():
        yield None
        return
    # What is done may take longer: staged data is copied, say.
    renewals = process.get(schedulers.Scheduler).every(
        renewal, lambda: _renew_quietly(renew))
    try:
        yield renew
    finally:
        # Or it might take it once more after this.
        renewals.stop(_MOMENT)
        records.release(identity, holder)


def _renew_quietly(renew: abc.Callable[[], bool]) -> bool:
    try:
        return renew()
    except Exception as exc:
        LOG.debug('The right to act for a worker was not renewed: %s', exc)
        return True


class Peers:
    """The peers of one worker.

    :param timeout: seconds of silence until a peer's work is taken over
    :param may_act: whether this process leads its worker at this moment; asked
        before each step of a takeover
    :param may_roll_back: whether ``roll_back`` can do its work in this
        process; asked before a takeover begins
    :param clock: returns seconds of a monotonic clock
    """

    def __init__(self, records: registry.Registry, identity: str,
                 timeout: float,
                 roll_back: abc.Callable[[registry.Worker, journal.Entry],
                                         object],
                 may_act: abc.Callable[[], bool] = lambda: True,
                 may_roll_back: abc.Callable[[], bool] = lambda: True,
                 clock: abc.Callable[[], float] = time.monotonic) -> None:
        self._registry = records
        self._identity = identity
        self._timeout = timeout
        self._roll_back = roll_back
        self._may_act = may_act
        self._may_roll_back = may_roll_back
        self._clock = clock
        self._holder = uuid.uuid4().hex
        self._looked: float | None = None
        self._heartbeats: dict[str, _Heartbeat] = {}

    def forget(self) -> None:
        """Forget the heartbeats of peers: some may have been missed."""
        self._heartbeats.clear()

    def alive(self) -> list[registry.Worker]:
        """Return the peers with a new heartbeat within the timeout."""
        now = self._clock()
        return [known.worker for known in list(self._heartbeats.values())
                if known.changed and now - known.since < self._timeout]

    def scan(self) -> None:
        """Read all peers, and take over from those silent for too long.

        :raises: as :class:`glance_dcn.workers.registry.Registry`
        """
        now = self._clock()
        if self._looked is not None and now - self._looked > _GAP:
            self.forget()
        self._looked = now
        found = {worker.identity: (worker, text)
                 for worker, text in self._registry.workers()
                 if worker.identity != self._identity
                 and worker.site == self._registry.site.name}
        for identity in set(self._heartbeats).difference(found):
            del self._heartbeats[identity]
        for identity, (worker, text) in found.items():
            if not self._may_act():
                return
            known = self._heartbeats.get(identity)
            if known is None or _count(known.worker) != _count(worker):
                self._heartbeats[identity] = _Heartbeat(worker, now,
                                                        known is not None)
            elif now - known.since >= self._timeout:
                self._roll_back_or_forget(worker, text)

    def _roll_back_or_forget(self, worker: registry.Worker, text: str) -> None:
        tasks, unreadable = self._registry.journal_of(worker.identity)
        if tasks:
            if not self._may_roll_back():
                return
            with acting(self._registry, worker.identity,
                        self._holder) as renew:
                if renew and self._may_act() and self._mark(worker, text):
                    self._take_over(worker, renew)
        elif time.time() - worker.seen > _FORGOTTEN and not unreadable:
            LOG.info('Worker %(worker)s at host %(host)s is forgotten: it is '
                     'silent for long', {'worker': worker.identity,
                                         'host': worker.host})
            self._registry.remove(worker, text)

    def _mark(self, worker: registry.Worker, text: str) -> bool:
        """Mark a worker as taken over; return False if it lives."""
        if worker.taken_by is not None:
            # The worker that had begun with it may be gone as well.
            return self._registry.worker(worker.identity)[1] == text
        marked = dataclasses.replace(worker, taken_by=self._identity)
        if not self._registry.replace(text, marked):
            return False
        LOG.warning('Worker %(worker)s at host %(host)s is silent for more '
                    'than %(timeout)d s: this worker rolls back what it did',
                    {'worker': worker.identity, 'host': worker.host,
                     'timeout': self._timeout})
        return True

    def _take_over(self, worker: registry.Worker,
                   renew: abc.Callable[[], bool]) -> None:
        # Again: the worker may have begun one just before it was marked.
        for entry in self._registry.tasks(worker.identity):
            if not renew() or not self._may_act():
                return
            try:
                self._roll_back(worker, entry)
            except journal.Busy:
                LOG.debug('Worker %(worker)s is silent, but lives: image '
                          '%(image)s is left to it', {
                              'worker': worker.identity,
                              'image': entry.image})
                continue
            except Exception:
                LOG.exception(
                    'What worker %(worker)s did with image %(image)s could '
                    'not be undone; it is tried again', {
                        'worker': worker.identity, 'image': entry.image})
                continue
            self._registry.forget(worker.identity, entry.task)


@dataclasses.dataclass(frozen=True)
class _Heartbeat:
    """When the heartbeat of a worker changed last.

    :ivar since: seconds of this worker's monotonic clock
    :ivar changed: whether it changed while this worker read it
    """

    worker: registry.Worker
    since: float
    changed: bool


def _count(worker: registry.Worker) -> tuple[str, int]:
    return worker.instance_id, worker.beat
