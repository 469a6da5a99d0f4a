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

"""Leases: how a process is known to be alive, without comparing clocks.

A holder writes a count that goes up every few seconds. An observer looks, by
its own monotonic clock, how long it has seen the same count, and only while
it can look: nothing that happens to clocks, or to the cluster that keeps the
leases, makes a living holder seem dead.
"""

from __future__ import annotations

import dataclasses
import time
import typing
import uuid

from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks

#: Seconds without a change after which the holder of a lease is taken for
#: dead. As long as a cluster takes to forget which client had an image open.
EXPIRY = 30
#: Seconds between renewals.
RENEWAL = 8
#: Seconds between two observations after which it is not known what was in
#: between.
GAP = 25
# What the key of the task runner's lease begins with; the identity of the
# deployment follows.
_RUNNER = 'runner/'
# Version of the records from which on it tells that as well: each release runs
# the tasks that it understands, also beside another one.
_FIRST = 2


@dataclasses.dataclass(frozen=True)
class Lease:
    """What a holder writes; its beat goes up with each renewal."""

    holder: str
    beat: int
    created_by: str


def dump(holder: str, beat: int, deployment: str) -> str:
    """Return a lease of this process as it is kept."""
    return record_format.dump(
        Lease(holder, beat, tasks.host_and_process()), deployment)


class Observer:
    """Knows how long each lease has been unchanged.

    :param clock: returns seconds of a monotonic clock
    """

    def __init__(self, clock: typing.Callable[[], float] = time.monotonic
                 ) -> None:
        self._clock = clock
        self._looked: float | None = None
        # (text, since when it was seen unchanged) by ID.
        self._seen: dict[str, tuple[str | None, float]] = {}

    def update(self, leases: dict[str, str],
               wanted: typing.Iterable[str] = ()) -> None:
        """Record the leases as they are now.

        :param leases: texts by ID
        :param wanted: IDs that are asked about; one that has no lease is
            observed as missing
        """
        now = self._clock()
        if self._looked is not None and now - self._looked > GAP:
            self._seen.clear()
        self._looked = now
        seen = {}
        for name in {*leases, *wanted}:
            text = leases.get(name)
            known = self._seen.get(name)
            seen[name] = (known if known and known[0] == text
                          else (text, now))
        self._seen = seen

    def is_expired(self, name: str, expiry: float = EXPIRY) -> bool:
        """Return whether a lease was not renewed for seconds of expiry."""
        known = self._seen.get(name)
        return known is not None and self._clock() - known[1] >= expiry

    @property
    def suspects(self) -> bool:
        """Whether a lease has missed a renewal, and is not expired yet."""
        now = self._clock()
        return any(1.5 * RENEWAL < now - since < EXPIRY
                   for _text, since in self._seen.values())


def _runner_key(deployment: str,
                version: int = record_format.VERSION) -> str:
    """Return the key of the lease of the task runners of a release."""
    key = _RUNNER + deployment
    if version > _FIRST:
        key += '/%d' % version
    return key


def runner_beat(store: stores.TaskStore) -> int:
    """Return the beat of the lease of those who run the tasks of a home.

    It is below the former one after another has taken the lease.

    :returns: 0 if there is no lease that can be understood
    :raises: as :class:`glance_dcn.tasks.store.TaskStore`
    """
    text = store.home.run(omap.get, stores.OBJECT,
                          _runner_key(store.deployment), fence=False)
    try:
        return record_format.load(Lease, text or '', store.deployment).beat
    except record_format.RecordError:
        return 0


class LeaseLost(Exception):
    """The right to act was lost: nothing irreversible may be done."""


class _Held:
    """The lease as one process holds it; that of a parent is the parent's.

    :ivar guard: of two threads that renew it at once, one would take it for
        lost
    :ivar text: of the record that it holds, or None
    """

    def __init__(self, clock: typing.Callable[[], float]) -> None:
        self.guard = native.lock()
        self.holder = uuid.uuid4().hex
        self.observer = Observer(clock)
        self.text: str | None = None
        self.beat = 0
        self.renewed = float('-inf')


class RunnerLease:
    """The right of one process to run the tasks of a home.

    :param clock: returns seconds of a monotonic clock
    :param version: of the records of tasks
    """

    #: Seconds without a renewal after which another process takes it over.
    EXPIRY = 20
    # Seconds for which a renewal is trusted: well before another takes over.
    _TRUSTED = 10
    _RENEWAL = 3

    def __init__(self, store: stores.TaskStore,
                 clock: typing.Callable[[], float] = time.monotonic,
                 version: int = record_format.VERSION) -> None:
        self._store = store
        self._clock = clock
        self._key = _runner_key(store.deployment, version)
        self._processes = process.ForkLocal(lambda: _Held(clock))

    @property
    def _own(self) -> _Held:
        return self._processes.get()

    def acquire(self) -> bool:
        """Take the lease, or renew it; return whether it is held.

        :raises: as :class:`glance_dcn.tasks.store.TaskStore`
        """
        with self._own.guard:
            return self._acquire()

    def _acquire(self) -> bool:
        own, now = self._own, self._clock()
        if own.text is not None and now - own.renewed < self._RENEWAL:
            return True
        home, before = self._store.home, own.text
        if before is None:
            before = home.run(omap.get, stores.OBJECT, self._key, fence=False)
            own.observer.update({} if before is None
                                else {self._key: before})
            if before is not None and not own.observer.is_expired(
                    self._key, self.EXPIRY):
                return False
        after = dump(own.holder, own.beat + 1, self._store.deployment)
        if not home.run(omap.swap, stores.OBJECT, self._key, before, after):
            own.text = None
            return False
        own.text, own.beat, own.renewed = after, own.beat + 1, now
        return True

    def check(self) -> None:
        """Return if the lease is held; for before each irreversible step.

        :raises LeaseLost: if it is not, or that is not known
        """
        try:
            held = (self._clock() - self._own.renewed < self._TRUSTED
                    or (self._own.text is not None and self.acquire()))
        except stores.AWAY as exc:
            raise LeaseLost(str(exc)) from exc
        if not held or self._clock() - self._own.renewed >= self._TRUSTED:
            raise LeaseLost('another process runs the tasks now')

    def release(self) -> None:
        """Let another process run the tasks at once."""
        text, self._own.text = self._own.text, None
        self._own.renewed = float('-inf')
        if text is not None:
            try:
                self._store.home.run(omap.remove, stores.OBJECT, self._key,
                                     text)
            except stores.AWAY:
                # It expires.
                pass
