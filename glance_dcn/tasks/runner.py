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

"""Does what is recorded at home, beside the requests of a process.

One process of a home runs the tasks: it leads at its host, and has a lease at
home; another takes over when it stops renewing. What the former one may still
be at fails: each removal is made under the image's name lock, whose holder is
blocklisted before the lock is taken from it
(:mod:`glance_dcn.ceph.name_lock`).

Of another site the runner knows nothing while there is nothing to do there.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
import time
import typing
import weakref

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.runtime import lead as leads
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers
from glance_dcn.sites import figures
from glance_dcn.tasks import actions
from glance_dcn.tasks import crashes
from glance_dcn.tasks import leases
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.upstream import glance_db

if typing.TYPE_CHECKING:
    from glance_dcn.ceph import connection
    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)

# Seconds between two scans, while a writer seems dead, and while nothing is
# recorded; with the jitter of periodic work the last is less than what the
# runner's lease and the observation of leases allow.
_INTERVAL = 10
_SOON = 3
_IDLE = 15
# Seconds for which a run may hang until a sibling leads: a round, and requests
# to home that are not answered.
_HANGS = 120
# Seconds after which the lease of a dead process is dropped.
_FORGOTTEN = 600
# Tasks at a time: each waits for round trips most of the time. Of a site only
# some, and one until one has ended: what hangs must not take all threads.
_WORKERS, _OF_A_SITE = 8, 2
# Seconds after which it is found out whether the site of a task is away.
_SUSPECT = 3
# Seconds until the next scan, although some tasks still run: writers are found
# dead by scans, and a site that hangs must not keep those of others waiting.
_ROUND = 10
# Seconds to wait for a task to end before the lease is looked after.
_WAIT = 3
# Seconds until the next attempt: the first and the longest after a failure,
# and the same for what is to be waited for, which may last for months.
_FAILED = (2, 20)
_EXPECTED = (10, 600)
# What is waited for is tried again after this part of the time that it has
# waited.
_PATIENCE = 20


@dataclasses.dataclass
class _Attempts:
    """The attempts at one record.

    :ivar retried_at: of the record; another one is an order to retry
    :ivar since: when it was seen first, by the monotonic clock
    :ivar due: when it is to be tried next
    :ivar failed: how often it has failed in a row
    """

    since: float
    retried_at: float = 0
    due: float = 0
    failed: int = 0


@dataclasses.dataclass
class _Running:
    """A record that is being tried, since a time of the monotonic clock."""

    site: sites.Site
    since: float


class _Tried:
    """The running attempts of one process, and which have ended when.

    :ivar answering: names of sites at which the last one to end did not hang
    """

    def __init__(self) -> None:
        self.running: dict[str, _Running] = {}
        self.ended: native.Queue[tuple[str, float]] = native.Queue()
        self.answering: set[str] = set()


class TaskRunner:
    """Runs the tasks of a home.

    :param sites: returns the site of a store by its identifier, or None
    :param clock: returns seconds of a monotonic clock
    :param expiry: seconds without a renewal after which a writer is dead
    :param settled: seconds for which Glance's database must have been settled
        without the location of a published image until that is removed, and
        have had it until it is believed to stay: requests that were accepted
        a moment ago may be about to change it
    :param ready: returns whether Glance is loaded, so that its database may
        be asked
    :param lead: that of the host, without which nothing is run
    :param wait: seconds to wait for a task to end before the lease is looked
        after
    """

    def __init__(self, store: stores.TaskStore,
                 sites: typing.Callable[[str], sites.Site | None],
                 database: glance_db.GlanceDatabase,
                 clock: typing.Callable[[], float] = time.monotonic,
                 expiry: float = leases.EXPIRY, settled: float = 60,
                 ready: typing.Callable[[], bool] = lambda: True,
                 lead: leads.Lead | None = None,
                 wait: float = _WAIT) -> None:
        self._expiry = expiry
        self._settling = settled
        self._wait = wait
        self._store = store
        self._sites = sites
        self._ready = ready
        self._lead = lead or leads.Lead()
        self._clock = clock
        self._lease = leases.RunnerLease(store, clock)
        self._observer = leases.Observer(clock)
        self._database = database
        self._executor = actions.Executor(store, database, self._lease.check)
        self._crashes = crashes.Crashes(self._lead)
        self._attempts: dict[str, _Attempts] = {}
        self._processes = process.ForkLocal(_Tried)
        # Since when Glance is settled without the location of a committed
        # image, by uid of the intent.
        self._settled: dict[str, float] = {}
        # Since when Glance has the location, by the same.
        self._named: dict[str, float] = {}
        self._scanned = float('-inf')
        # Connections that tell when their sites are back.
        self._awaited: weakref.WeakSet[connection.Connection] = (
            weakref.WeakSet())
        self._reported: set[str] = set()
        self._periodic = periodic.Periodic('dcn-tasks', self.run, _INTERVAL)

    @property
    def _own(self) -> _Tried:
        return self._processes.get()

    def start(self) -> None:
        """Run tasks beside requests, from now on."""
        self._periodic.start()
        self._lead.on_work(self.wake)

    def stop(self) -> None:
        """Run no more tasks."""
        self._periodic.stop()

    def wake(self) -> None:
        """Scan now: there is a new task."""
        self._periodic.wake()

    def run(self) -> None:
        """Scan once, and do what can be done now.

        What takes long goes on, and is left alone by the next runs. A process
        that does not lead at its host brings home what it has recorded while
        home was away, and does nothing else there.
        """
        if not self._lead.is_held:
            self._stand_by()
            return
        with self._lead.job('tasks', _HANGS):
            self._work()

    def run_once(self) -> bool:
        """Try each record once, and wait for all of them.

        :returns: False if another process runs the tasks
        :raises: as :class:`glance_dcn.tasks.store.TaskStore`
        """
        self._store.drain()
        if not self._lease.acquire():
            return False
        try:
            self._run(self._store.scan(), patience=float('inf'))
            while self._own.running:
                self._gather()
            return True
        finally:
            self._lease.release()

    def _stand_by(self) -> None:
        home = self._store.home.site
        self._periodic.interval = _INTERVAL
        try:
            self._lease.release()
            if (self._store.has_spooled and home is not None
                    and home.available):
                self._store.drain(abandoned=False)
                self._lead.notify()
        except stores.AWAY as exc:
            LOG.debug('What is recorded on the local disk waits: %s', exc)

    def _work(self) -> None:
        home = self._store.home.site
        if home is None or not home.available:
            return
        if not self._ready():
            self._periodic.interval = _SOON
            return
        try:
            self._store.drain()
            self._periodic.interval = _INTERVAL
            if not self._database.available or not self._lease.acquire():
                return
            self._crashes.take_over()
            # First: the scan may have what was done meanwhile.
            self._forget_ended()
            scan = self._store.scan()
            self._run(scan)
            if not scan.records and not scan.leases:
                self._periodic.interval = _IDLE
        except stores.AWAY as exc:
            LOG.debug('Tasks wait: %s', exc)
        if self._observer.suspects:
            self._periodic.interval = _SOON

    def _run(self, scan: stores.Scan, patience: float = _ROUND) -> None:
        self._report(scan.unreadable)
        writers = {record.writer for record in scan.records
                   if isinstance(record, tasks.Intent)}
        self._observer.update(scan.leases, writers)
        self._forget(scan.records)
        self._drop_leases(scan.leases, writers)
        due = [(site, record) for record, site in (
            (record, self._site_of(record)) for record in scan.records
            if record.key not in self._own.running)
            if site is not None and self._is_due(record)]
        self._do_all(due, patience)

    def _do_all(self, due: list[tuple[sites.Site, tasks.Record]],
                patience: float) -> None:
        """Do what is due; after seconds of patience, leave what hangs."""
        until = self._clock() + patience
        waiting = _in_turn(due)
        while waiting and self._clock() < until:
            chosen = self._choose(waiting)
            if chosen is None:
                self._gather()
            elif self._lease.acquire():
                waiting.remove(chosen)
                self._begin(*chosen)
            else:
                break
        while self._own.running and self._clock() < until:
            self._gather()
        if waiting:
            # The rest is done in the next round.
            self.wake()

    def _choose(self, waiting: list[tuple[sites.Site, tasks.Record]]
                ) -> tuple[sites.Site, tasks.Record] | None:
        now = self._clock()
        lively = [key for key, one in list(self._own.running.items())
                  if now - one.since < _ROUND]
        # One at which a process may end is tried alone.
        if (len(lively) >= _WORKERS
                or any(map(self._crashes.is_suspect, lively))):
            return None
        running = list(self._own.running.values())
        busy = collections.Counter(one.site.name for one in running)

        def may_begin(site: sites.Site, record: tasks.Record) -> bool:
            most = _OF_A_SITE if site.name in self._own.answering else 1
            return (busy[site.name] < most
                    and not (lively and self._crashes.is_suspect(record.key)))
        return next((entry for entry in waiting if may_begin(*entry)), None)

    def _begin(self, site: sites.Site, record: tasks.Record) -> None:
        """Try a record in a native thread, of eventlet's process too."""
        self._own.running[record.key] = _Running(site, self._clock())
        ended = self._own.ended

        def work() -> None:
            over = False
            self._crashes.begin(record.key)
            try:
                over = self._do(site, record)
            finally:
                self._crashes.end(record.key, over)
                ended.put((record.key, self._clock()))
        process.get(schedulers.Scheduler).submit(work)

    def _drop_leases(self, held: dict[str, str], writers: set[str]) -> None:
        """Drop the leases of dead processes that have left no intents."""
        dead = [name for name in held.keys() - writers
                if self._observer.is_expired(name, _FORGOTTEN)]
        for name in dead:
            self._store.home.run(omap.remove, stores.OBJECT,
                                 stores.LEASES + name, held[name])

    def _gather(self) -> None:
        """Wait for a task to end, or for a while.

        Of what takes long it is found out whether the site is away.
        """
        with contextlib.suppress(native.Empty):
            self._end(*native.get(self._own.ended, self._wait))
        self._forget_ended()
        now = self._clock()
        for one in list(self._own.running.values()):
            if now - one.since > _SUSPECT:
                one.site.suspect()
        # The tasks themselves check it before they act.
        self._lease.acquire()

    def _forget_ended(self) -> None:
        with contextlib.suppress(native.Empty):
            while True:
                self._end(*self._own.ended.get_nowait())

    def _end(self, key: str, when: float) -> None:
        one = self._own.running.pop(key, None)
        if one is not None and when - one.since < _ROUND:
            self._own.answering.add(one.site.name)
        elif one is not None:
            self._own.answering.discard(one.site.name)

    def _site_of(self, record: tasks.Record) -> sites.Site | None:
        site = self._sites(record.site)
        if site is not None and not site.available:
            self._await(site)
            return None
        return site

    def _await(self, site: sites.Site) -> None:
        """Have the tasks of a site tried at once when it is back."""
        # A store that was made anew may have another.
        if site.connection not in self._awaited:
            self._awaited.add(site.connection)
            site.connection.add_up_callback(
                functools.partial(self._on_return, site.name))

    def _on_return(self, name: str) -> None:
        for key, attempts in list(self._attempts.items()):
            if key.startswith(tasks.prefix(name)):
                attempts.due = 0
        self.wake()

    def _is_due(self, record: tasks.Record) -> bool:
        now = self._clock()
        attempts = self._attempts.setdefault(record.key, _Attempts(now))
        retried_at = (record.retried_at if isinstance(record, tasks.Task)
                      else 0)
        if attempts.retried_at != retried_at:
            attempts.retried_at, attempts.due = retried_at, 0
        return max(attempts.due, attempts.since + self._crashes.pause(
            record.key)) <= now

    def _forget(self, found: list[tasks.Record]) -> None:
        keys = {record.key for record in found}
        self._attempts = {key: known for key, known in self._attempts.items()
                          if key in keys}
        self._crashes.forget(keys)
        now = self._clock()
        if now - self._scanned > leases.GAP:
            # An import may have begun and ended meanwhile.
            self._settled.clear()
        self._scanned = now
        uids = {record.uid for record in found}
        for known in (self._settled, self._named):
            for uid in known.keys() - uids:
                del known[uid]

    def _do(self, site: sites.Site, record: tasks.Record) -> bool:
        """Try a record; return whether it need not be tried again."""
        attempts = self._attempts.setdefault(record.key,
                                             _Attempts(self._clock()))
        waited = self._clock() - attempts.since
        if attempts.failed:
            site.limits.meter.retry(figures.Operation.TASK)
        try:
            if isinstance(record, tasks.Intent):
                decision = self._do_intent(site, record)
            else:
                decision = self._executor.execute(site, record,
                                                  waited=waited)
                self._store.remove(record)
            LOG.log(logging.DEBUG
                    if decision.verdict is actions.Verdict.DROP
                    else logging.INFO,
                    'Store %(store)s: %(what)s of image %(image)s, recorded '
                    'by %(by)s: %(verdict)s, because %(reason)s', {
                        'store': site.name, 'what': _title(record),
                        'image': record.image, 'by': record.created_by,
                        'verdict': decision.verdict.value,
                        'reason': decision.reason})
            return True
        except (actions.RetryLater, rbd.Error, omap.Error,
                errors.ClusterError) as exc:
            self._retry(site, record, attempts, exc)
        except leases.LeaseLost as exc:
            LOG.info('Task runner: %s', exc)
        except Exception as exc:
            LOG.exception('Store %(store)s: %(what)s of image %(image)s '
                          'failed', {'store': site.name, 'image':
                                     record.image, 'what': _title(record)})
            self._retry(site, record, attempts, exc)
        return False

    def _do_intent(self, site: sites.Site,
                   intent: tasks.Intent) -> actions.Decision:
        """Find out about an image that was begun, and remove what is dead.

        :raises glance_dcn.tasks.actions.RetryLater: while it is in order
        """
        if intent.state is not tasks.State.REMOVING:
            decision, answer = self._executor.plan_intent(
                site, intent,
                self._observer.is_expired(intent.writer, self._expiry))
            if answer is None:
                raise actions.RetryLater(decision.reason, expected=True)
            if decision.verdict is actions.Verdict.DROP:
                if answer.location is glance_db.Location.NAMED:
                    self._check_kept(intent)
                self._store.remove(intent)
                return decision
            committed = intent.state is tasks.State.COMMITTED
            if committed:
                self._check_settled(intent, answer)
            intent = self._take(intent, committed, decision.reason)
        task = actions.remove_incomplete(intent)
        decision = self._executor.execute(site, task)
        self._store.remove(intent)
        return decision

    def _check_kept(self, intent: tasks.Intent) -> None:
        """See that Glance has not been about to drop a location since.

        A request that read the image before the location was there, and
        deletes it or saves something else of it, drops the location and knows
        of no image to remove. Stock Glance locks nothing against that.

        :raises glance_dcn.tasks.actions.RetryLater: while it may be
        """
        now = self._clock()
        left = (self._named.setdefault(intent.uid, now) + self._settling
                - now)
        if left > 0:
            raise actions.RetryLater(
                'Glance has its location, which must last', expected=True,
                pause=min(left, _EXPECTED[0]))

    def _check_settled(self, intent: tasks.Intent,
                       answer: glance_db.Answer) -> None:
        """See that no location can come any more for a committed image.

        :raises glance_dcn.tasks.actions.RetryLater: while one can
        """
        if answer.location is glance_db.Location.DELETED:
            # It gets no location any more: a save of it fails.
            return
        now = self._clock()
        if not answer.permits_removal:
            self._settled.pop(intent.uid, None)
        elif now - self._settled.setdefault(intent.uid, now) >= (
                self._settling):
            return
        raise actions.RetryLater('Glance may be about to note its location',
                                 expected=True)

    def _take(self, intent: tasks.Intent, committed: bool,
              reason: str) -> tasks.Intent:
        """Take an intent from its writer, which cannot commit from then on.

        :raises glance_dcn.tasks.actions.RetryLater: if it was changed
        """
        # Nothing is in flight of what was committed: its writer, which may
        # be alive, is not blocklisted.
        taken = dataclasses.replace(
            intent, state=tasks.State.REMOVING,
            address='' if committed else intent.address)
        if not self._store.replace(intent, taken):
            raise actions.RetryLater('its writer has just changed it',
                                     expected=True)
        LOG.warning('Image %(image)s in store %(store)s: %(why)s; what is '
                    'left of it is removed', {
                        'image': intent.image, 'store': intent.site,
                        'why': reason})
        return taken

    def _retry(self, site: sites.Site, record: tasks.Record,
               attempts: _Attempts, exc: Exception) -> None:
        later = exc if isinstance(exc, actions.RetryLater) else None
        expected = later is not None and later.expected
        now = self._clock()
        if isinstance(exc, errors.ClusterError):
            self._await(site)
        if expected:
            attempts.failed = 0
            shortest, longest = _EXPECTED
            pause = (now - attempts.since) / _PATIENCE
        else:
            attempts.failed += 1
            site.limits.meter.error(exc)
            shortest, longest = _FAILED
            pause = shortest * 2 ** min(attempts.failed, 10)
        if isinstance(record, tasks.Intent):
            # Its writer is to be found dead in time.
            longest = shortest = _SOON
        attempts.due = now + max(shortest, min(pause, longest))
        if later is not None and later.pause is not None:
            attempts.due = now + later.pause
        LOG.log(logging.DEBUG if expected or attempts.failed > 1
                else logging.WARNING,
                'Store %(store)s: %(what)s of image %(image)s is tried again: '
                '%(error)s', {'store': site.name, 'what': _title(record),
                              'image': record.image, 'error': exc})
        if isinstance(record, tasks.Task):
            self._note(record, exc, expected)

    def _note(self, task: tasks.Task, exc: Exception,
              expected: bool) -> None:
        message = record_format.printable(exc)
        changed = dataclasses.replace(
            task, message=message,
            retry_attempts=0 if expected else task.retry_attempts + 1)
        if changed == task:
            return
        try:
            self._store.replace(task, changed)
        except stores.AWAY as error:
            LOG.debug('Tasks cannot be written: %s', error)

    def _report(self, unreadable: list[stores.Unreadable]) -> None:
        for entry in unreadable:
            if entry.key not in self._reported and not entry.foreign:
                self._reported.add(entry.key)
                LOG.error('Store %(store)s: record %(key)s in object '
                          '%(object)s is unreadable and is left alone: '
                          '%(reason)s', {
                              'store': self._store.home.name,
                              'key': entry.key, 'object': stores.OBJECT,
                              'reason': entry.reason})


def _in_turn(due: list[tuple[sites.Site, tasks.Record]]
             ) -> list[tuple[sites.Site, tasks.Record]]:
    """Return what is due, each site's in its order, and all sites in turn."""
    seen: collections.Counter[str] = collections.Counter()
    turns = []
    for entry in due:
        turns.append(seen[entry[0].name])
        seen[entry[0].name] += 1
    return [entry for _turn, entry in sorted(
        zip(turns, due), key=lambda pair: pair[0])]


def _title(record: tasks.Record) -> str:
    if isinstance(record, tasks.Intent):
        return 'intent (%s)' % record.state.value
    return record.action.value
