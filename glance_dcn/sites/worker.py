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

"""The worker that does what is owed to a site, when the site is there.

Each Glance worker process has one thread for each site; a lock on the records
lets one of them work at a time. The lock expires, so that another process
goes on where one was killed.
"""

from concurrent import futures
import logging
import time
import uuid

import rbd

from glance_dcn import background
from glance_dcn import catalog
from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.sites import intents
from glance_dcn.sites import jobs
from glance_dcn.sites import owed

LOG = logging.getLogger(__name__)

#: Whether work is done by this process; the command, which only looks,
#: has none done.
enabled = True

# Seconds between two looks at the records, and while a writer seems dead.
_INTERVAL = 10
_SOON = 3
# Seconds for which a writer must be silent, beyond the expiry of its lock:
# one that was cut off from the site together with this worker has to be heard
# of again first.
_GRACE = 10
# Seconds a lock lasts, and after which it is renewed.
_EXPIRY = 20
_RENEWAL = 5
_LOCK = 'worker'
# Jobs at a time: each waits for round trips most of the time.
_JOBS = 8
# Records looked at in a second, on the average, of those that must wait.
_RATE = 1000
# Seconds until the next try, the first and the longest after a failure, and
# the same for an image that is in use, which may last for months.
_FAILED = (2, 20)
_IN_USE = (10, 600)
# An image that has been in use for some time is looked at again after this
# part of the time.
_PATIENCE = 20

_workers = {}


def start(site):
    """Have what is owed to a site done from now on.

    :param site: :class:`glance_dcn.sites.site.Site`; another one of its name
        is replaced
    """
    if not enabled:
        return
    stop(site.name)
    if not _workers:
        owed.ledger.on_record(_on_record)
    worker = _workers[site.name] = Worker(site)
    worker.start()


def stop(name):
    """End the work for a site."""
    worker = _workers.pop(name, None)
    if worker:
        worker.stop()


def _on_record(site):
    worker = _workers.get(site.name)
    if worker:
        worker.on_record()


class Worker:
    """Does what is owed to one site.

    :param site: :class:`glance_dcn.sites.site.Site`
    """

    def __init__(self, site):
        self._site = site
        self._holder = uuid.uuid4().hex
        # When a writer was first not heard of, by its name.
        self._silent = {}
        # When to look at the records of a place again.
        self._next = {}
        # The spare places that have to be looked at.
        self._spares = []
        self._periodic = background.Periodic(
            'glance-dcn-owed-%s' % site.name, self.run, _INTERVAL)

    def start(self):
        """Work beside requests."""
        self._periodic.start()
        self._site.when_back(self.on_return)

    def stop(self):
        """Work no more."""
        self._periodic.stop()

    def on_record(self):
        """Look at the records now: there is a new one."""
        self._spares = owed.ledger.spare_places(self._site)
        if self._site.available:
            self._periodic.wake()

    def on_return(self):
        """Look at all records now: the site is there again."""
        self._next.clear()
        self.on_record()

    def run(self):
        """Do what can be done now."""
        if not self._site.available:
            self._silent.clear()
            return
        for place in owed.ledger.places(self._site):
            self._look(place)
        # One that cannot be asked now is asked again: it may know of work.
        spares = self._spares
        left = [place for place in spares if not self._look(place)]
        if self._spares is spares:
            self._spares = left
        self._periodic.interval = _SOON if self._silent else _INTERVAL

    def _look(self, place):
        """Do what can be done; return whether nothing more is to be done."""
        if time.monotonic() < self._next.get(place, 0):
            return False
        try:
            return self._work(place)
        except (errors.ClusterError, omap.Error) as exc:
            LOG.debug('What is owed to store %(store)s waits: %(error)s',
                      {'store': self._site.name, 'error': exc})
            return False

    def _work(self, place):
        own = place.site is self._site
        if next(place.records(), None) is None:
            if own:
                self._bury(())
            return True
        with place.site.open_pool() as ioctx:
            lock = _Lock(ioctx, place.name, self._holder)
            if not lock.hold():
                return False
            writers = _Writers(self._site, self._silent)
            try:
                left = self._do_all(place, lock, writers)
            finally:
                lock.release()
            if own:
                self._bury(writers.seen)
        self._next[place] = time.monotonic() + left / _RATE
        return False

    def _bury(self, seen):
        """Forget the dead writers that have left nothing more to see to."""
        for writer in set(self._silent).difference(seen):
            del self._silent[writer]
            with self._site.open_pool() as ioctx:
                intents.bury(ioctx, writer)

    def _do_all(self, place, lock, writers):
        """Do the jobs of a place and return how many are left."""
        left = 0
        with futures.ThreadPoolExecutor(
                _JOBS, 'glance-dcn-owed') as pool:
            running = set()
            for record in place.records():
                if not lock.hold() or not self._site.available:
                    break
                patient = writers.is_dead(record)
                if not _is_due(record) or patient is None:
                    left += 1
                    continue
                running.add(pool.submit(self._do, place, record, patient))
                if len(running) >= 2 * _JOBS:
                    running, left = _gather(running, left, lock)
            while running and lock.hold():
                running, left = _gather(running, left, lock)
        return left

    def _do(self, place, record, patient):
        """Do a job; return whether it is still owed."""
        try:
            done = jobs.carry_out(self._site, record, patient)
            place.drop(record)
            LOG.log(logging.INFO if done else logging.DEBUG,
                    'Store %(store)s: %(done)s: %(title)s', {
                        'store': self._site.name, 'title': owed.title(record),
                        'done': 'done' if done else 'nothing to be done'})
            return False
        except errors.ClusterError as exc:
            LOG.debug('Store %s: %s', self._site.name, exc)
        except (jobs.Later, rbd.Error, omap.Error) as exc:
            usual = getattr(exc, 'usual', False)
            if not usual:
                LOG.warning('Store %(store)s: %(title)s has failed and is '
                            'tried again: %(error)s', {
                                'store': self._site.name, 'error': exc,
                                'title': owed.title(record)})
            self._put_off(place, record, exc, usual)
        return True

    def _put_off(self, place, record, exc, usual):
        try:
            place.replace(
                record, tried=time.time(), error=str(exc),
                attempts=0 if usual else record.attempts + 1)
        except (errors.ClusterError, omap.Error) as error:
            LOG.debug('Store %s: %s', self._site.name, error)


class _Lock:
    """The right to work on the records of a place."""

    def __init__(self, ioctx, name, holder):
        self._ioctx = ioctx
        self._name = name
        self._holder = holder
        self._until = 0

    def hold(self):
        """Hold it for some more time; return whether it is held."""
        now = time.monotonic()
        if now > self._until - _EXPIRY + _RENEWAL:
            if not omap.lock(self._ioctx, self._name, _LOCK, self._holder,
                             _EXPIRY):
                return False
            self._until = now + _EXPIRY
        return True

    def release(self):
        omap.unlock(self._ioctx, self._name, _LOCK, self._holder)


class _Writers:
    """Which of those who have begun to write live, as seen in one pass.

    :ivar seen: the names of those who have records
    """

    def __init__(self, site, silent):
        self._site = site
        self._silent = silent
        self._alive = {}
        self.seen = set()

    def is_dead(self, record):
        """Whether the writer of a record is dead for certain.

        :returns: None if the record is to be left alone; otherwise whether
            its writer is dead, which it is not if it has none
        """
        if record.writer is None:
            return False
        self.seen.add(record.writer)
        answer = _ask(self._site, record)
        if answer is None:
            # Whoever does not hear of Glance may not hear of others either.
            self._silent.pop(record.writer, None)
            return None
        if answer in (catalog.NAMED, catalog.DELETED):
            # Whatever its writer may do, it has been decided upon.
            return True
        if record.writer not in self._alive:
            with self._site.open_pool() as ioctx:
                self._alive[record.writer] = intents.is_alive(ioctx,
                                                              record.writer)
        if self._alive[record.writer]:
            self._silent.pop(record.writer, None)
            return True if intents.is_late(record) else None
        now = time.monotonic()
        if now - self._silent.setdefault(record.writer, now) < _GRACE:
            return None
        return True


def _ask(site, record):
    """Return what Glance's database says, or None."""
    try:
        return catalog.ask(record.image, site.uri(record.image, record.pool))
    except Exception as exc:
        LOG.debug('The database of Glance does not answer: %s', exc)
        return None


def _is_due(record):
    """Whether it is time to try a record."""
    if record.tried is None:
        return True
    if record.attempts:
        shortest, longest = _FAILED
        pause = min(shortest * 2 ** min(record.attempts, 10), longest)
    else:
        shortest, longest = _IN_USE
        pause = max(shortest, min((record.tried - record.since) / _PATIENCE,
                                  longest))
    # Also when the clock of the one who tried was ahead.
    return not record.tried <= time.time() < record.tried + pause


def _gather(running, left, lock):
    """Wait for some jobs; return those that still run, and what is left."""
    done, running = futures.wait(running, timeout=_RENEWAL,
                                 return_when=futures.FIRST_COMPLETED)
    return running, left + sum(job.result() for job in done)
