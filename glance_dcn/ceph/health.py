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

"""Whether a cluster can be used, so that nothing waits for one that is away.

Each process has one :class:`CircuitBreaker` for each connection: when
something fails because the cluster is away, it opens, and all calls to the
cluster are refused at once; probes go to the cluster until it is back. It has
no thread of its own: probes are scheduled, a few of them run at a time, and
none is made before a monitor has been found to answer, which takes no thread
(:mod:`glance_dcn.ceph.monitors`). So sites that stay away, however many, cost
next to nothing, and hold up none that returns.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import dataclasses
import datetime
import enum
import errno
import logging
import random
import time

import rados
import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import monitors
from glance_dcn.engine import errors as engine_errors
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers

LOG = logging.getLogger(__name__)


class State(str, enum.Enum):
    """Whether a cluster can be used, as a text that is shown."""

    UP = 'up'
    DOWN = 'down'
    NOT_DEPLOYED = 'not deployed'
    MISCONFIGURED = 'misconfigured'
    #: It was not used yet, in this process.
    UNKNOWN = 'unknown'

    __str__ = str.__str__


UP, DOWN, NOT_DEPLOYED, MISCONFIGURED, UNKNOWN = State

# Seconds between probes of a cluster that is away: the first pause, what it
# grows by and the longest. A probe takes as long as connecting may, and a
# returned site is to be found within 15 s. One that is away for minutes may be
# away for weeks, and there may be hundreds, which every process probes: the
# pause is a part of its absence then, and a minute at most.
_FIRST = 1
_GROWTH = 1.6
_LONGEST = 5
_PART, _LONGEST_OF_ALL = 0.05, 60
# The same for one whose files are not there, at which no more is looked than
# these: the first pause and the longest, for there may be hundreds of them.
# And for one that must be mended by hand.
_FILES, _SELDOM = 2, 15
_MENDED = 20
# Seconds until the next probe of one that is not well, if that is asked for
# during a probe.
_MOMENT = 0.1
# Parts of a pause by which it is longer or shorter: the processes of a
# deployment must not all ask at the same moment.
_JITTER = 0.2

# Probes by librados that run at a time: of clusters that are away and have
# begun to answer; of those whose last probe found monitors and no OSDs, each
# of which takes its place for the whole timeout; and of others.
_PROBES = schedulers.Limit('probe', 8)
_HUNG = schedulers.Limit('probe again', 8)
_CHECKS = schedulers.Limit('check', 32)

# What requests to a cluster that does not answer end with. Everything else
# is an answer.
_AWAY = frozenset((errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH,
                   errno.EHOSTDOWN, errno.ECONNREFUSED))

_REMEDY = ('see that the site is up and can be reached, and that its cluster '
           'is healthy; it is used again by itself when it answers')


def state_of(error: errors.ClusterError) -> State:
    """Return the state of a site whose cluster cannot be used."""
    if isinstance(error, errors.NotDeployed):
        return NOT_DEPLOYED
    return MISCONFIGURED if isinstance(error, errors.Misconfigured) else DOWN


@dataclasses.dataclass(frozen=True)
class Health:
    """Health of a site, as this process knows it.

    :ivar since: when it was found to be so, in seconds since the epoch
    """

    state: State
    since: float | None = None
    reason: str | None = None


def explain(exc: BaseException | None,
            store: str) -> errors.Unreachable | None:
    """Return what an exception says about a store's cluster being away.

    An exception may pass through the connections of several stores: the
    first one that is asked is the one it is about.

    :param exc: what it was raised ``from`` counts too
    :returns: None if it says nothing of the kind
    """
    while exc is not None:
        if isinstance(exc, errors.Unreachable):
            return exc if exc.store == store else None
        if (isinstance(exc, (rados.Error, rbd.Error,
                             engine_errors.RequestError))
                and vars(exc).setdefault('dcn_store', store) == store
                and errors.code(exc) in _AWAY):
            return errors.Unreachable(
                store, 'a request was not answered (%s)' % exc, _REMEDY)
        exc = exc.__cause__
    return None


class CircuitBreaker:
    """Keeps the health of one cluster, and probes it while it is not well.

    Safe for use by many threads.

    :param ask: returns if the cluster can be used, and raises
        :class:`glance_dcn.ceph.errors.ClusterError` if not; it may take long
    :param on_up: functions to call each time the cluster is found to be up, in
        threads of the scheduler; more may be added
    :param clock: returns seconds since the epoch
    :param addresses: returns the addresses of the cluster's monitors; none:
        each probe is made by ``ask``
    """

    def __init__(self, store: str, ask: Callable[[], object],
                 on_up: Iterable[Callable[[], object]] = (),
                 clock: Callable[[], float] = time.time,
                 scheduler: schedulers.Scheduler | None = None,
                 addresses: Callable[[], list[monitors.Address]] = list,
                 asker: monitors.Monitors | None = None) -> None:
        self.store = store
        self._ask = ask
        self._on_up = on_up
        self._clock = clock
        self._scheduler = scheduler or process.get(schedulers.Scheduler)
        self._addresses = addresses
        self._asker = asker or process.get(monitors.Monitors)
        # Held for moments only.
        self._lock = native.lock()
        self._health = Health(UNKNOWN)
        self._remedy = _REMEDY
        self._stopped = False
        # The next probe, whether one is under way, and whether another was
        # asked for meanwhile.
        self._next: schedulers.Call | None = None
        self._probing = self._asked = False
        # Whether the last probe by librados found it away.
        self._hung = False
        self._pause: float = _FIRST

    @property
    def health(self) -> Health:
        """Health of the cluster."""
        return self._health

    def check(self) -> None:
        """Return if the cluster may be tried.

        :raises Unreachable: while it is away
        """
        health = self._health
        if health.state == DOWN:
            raise errors.Unreachable(
                self.store, 'the site is away since %s (%s)' % (
                    format_time(health.since), health.reason),
                self._remedy, health.since)

    def record_failure(self, error: errors.ClusterError) -> None:
        """Record why the cluster cannot be used, and begin to probe it."""
        self._begin_probes(wake=self._set_failed(error))

    def _set_failed(self, error: errors.ClusterError) -> bool:
        """Set the health, and return whether the state is another."""
        state = state_of(error)
        with self._lock:
            before = self._health
            # Kept while it lasts: the first failure tells most.
            if (before.state, before.reason) != (state, error.reason) and (
                    (before.state, state) != (DOWN, DOWN)):
                since = (before.since if before.state == state
                         else self._clock())
                self._health = Health(state, since, error.reason)
                self._remedy = error.remedy
        if before.state != state:
            LOG.warning('Store %(store)s is %(state)s: %(error)s',
                        {'store': self.store, 'state': state, 'error': error})
        return before.state != state

    def record_success(self) -> None:
        """Record that the cluster can be used."""
        with self._lock:
            before = self._health
            if before.state == UP:
                return
            self._health = Health(UP, self._clock())
        if before.state != UNKNOWN:
            LOG.warning('Store %(store)s can be used again; it was '
                        '%(state)s since %(since)s', {
                            'store': self.store, 'state': before.state,
                            'since': format_time(before.since)})
        for function in list(self._on_up):
            self._submit(function)

    def call_when_up(self, function: Callable[[], object]) -> None:
        """Call a function in a thread of the scheduler if the cluster is up.

        If that is not known, the cluster is probed.
        """
        if self._health.state == UP:
            self._submit(function)
        else:
            self.probe()

    def probe(self) -> None:
        """Probe the cluster now, in the background."""
        self._begin_probes(wake=True)

    def stop(self) -> None:
        """Do not probe the cluster any more."""
        with self._lock:
            self._stopped = True
            if self._next is not None:
                self._next.cancel()

    def _submit(self, function: Callable[[], object]) -> None:
        def call() -> None:
            try:
                function()
            except Exception:
                LOG.exception('A callback for the return of store %s failed',
                              self.store)
        self._scheduler.submit(call)

    def _begin_probes(self, wake: bool) -> None:
        """Have the cluster probed; at once if it is to ``wake``."""
        with self._lock:
            if self._stopped:
                return
            if self._probing:
                self._asked = self._asked or wake
            elif wake or self._next is None:
                self._pause = _FIRST
                self._schedule(0)

    def _schedule(self, delay: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = self._scheduler.call_later(delay, self._begin_probe)

    def _begin_probe(self) -> None:
        """Begin a probe; the first step for one that is away costs little."""
        with self._lock:
            if self._stopped or self._probing:
                return
            self._next, self._probing = None, True
            down = self._health.state == DOWN
        found: list[monitors.Address] = []
        try:
            found = self._addresses() if down else []
        except errors.ClusterError as exc:
            LOG.debug('The monitors of store %(store)s are not known: '
                      '%(error)s', {'store': self.store, 'error': exc})
        if found:
            self._asker.ask(found, self._on_answer)
        else:
            self._submit_probe(down)

    def _on_answer(self, reason: str | None) -> None:
        """Continue a probe; the reason tells why no monitor answers."""
        if reason is None:
            if not self._hung:
                # It is coming back; its OSDs may take some time longer.
                self._pause = _FIRST
            self._submit_probe(True)
            return
        self._hung = False
        LOG.debug('No monitor of store %(store)s answers: %(reason)s', {
            'store': self.store, 'reason': reason})
        self._end_probe()

    def _submit_probe(self, down: bool) -> None:
        self._scheduler.submit(
            self._run_probe,
            _CHECKS if not down else _HUNG if self._hung else _PROBES)

    def _run_probe(self) -> None:
        self._hung = False
        try:
            self._ask()
        except errors.Exhausted as exc:
            LOG.debug('Not probed: %s', exc)
        except errors.ClusterError as exc:
            self._set_failed(exc)
            self._hung = True
        except Exception as exc:
            LOG.exception('Probing the cluster of store %s failed',
                          self.store)
            self._set_failed(errors.Unreachable(self.store, str(exc), _REMEDY))
        else:
            self.record_success()
        self._end_probe()

    def _end_probe(self) -> None:
        """End a probe, and schedule the next one if there is to be one."""
        with self._lock:
            asked, self._asked, self._probing = self._asked, False, False
            state, since = self._health.state, self._health.since
            if self._stopped or (state == UP and not asked):
                self._pause = _FIRST
                return
            if asked:
                self._pause = _FIRST
                self._schedule(0 if state == UP else _MOMENT)
                return
            usual = {NOT_DEPLOYED: max(_FILES, self._pause),
                     MISCONFIGURED: _MENDED}.get(
                         state, min(self._pause, max(_LONGEST, min(
                             _LONGEST_OF_ALL, _PART * (
                                 self._clock() - (since or 0))))))
            self._pause = min(self._pause * _GROWTH, _LONGEST_OF_ALL
                              if state == DOWN else _SELDOM)
            self._schedule(usual * random.uniform(  # noqa: S311
                1 - _JITTER, 1 + _JITTER))


def format_time(seconds: float | None) -> str:
    """Return a time in seconds since the epoch as text.

    Of one that no calendar has it is not known: a record may say anything.
    """
    if seconds is not None:
        with contextlib.suppress(OSError, OverflowError, ValueError):
            return datetime.datetime.fromtimestamp(
                seconds, datetime.timezone.utc
            ).strftime('%Y-%m-%d %H:%M:%S UTC')
    return 'an unknown time'
