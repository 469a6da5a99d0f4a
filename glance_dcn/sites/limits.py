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

"""The limits of a site in this process: transfers, and bandwidth.

A site's limits are shared by all its transfers in this process, and outlive
the objects that describe the site: one that is made again has the same slots
and bandwidth in use. They may be changed at any time.

A transfer begins when all its sites have a free slot. Those that wait do so
in the order in which they came, at each site; but one that waits for one site
does not hold up others at its other sites, unless so many have overtaken it
that it would never begin.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import time
import typing

from glance_dcn.engine import pacing
from glance_dcn.runtime import native

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Iterator

    _Waiting = typing.Optional[Callable[[list[str]], object]]

_MIB = 1 << 20
# Seconds between checks whether slots are free.
_TICK = 0.5
# How many may overtake one that waits.
_OVERTAKEN = 16

_registry: dict[str, Limits] = {}


@dataclasses.dataclass(eq=False)
class Limits:
    """The limits of one site; get it from :func:`get`.

    :ivar sending: rate of all data that is sent to the site
    :ivar receiving: rate of all data that is read from it
    :ivar max_transfers: transfers at the same time; 0: no limit
    :ivar running: how many there are
    """

    name: str
    sending: pacing.Rate = dataclasses.field(default_factory=pacing.Rate)
    receiving: pacing.Rate = dataclasses.field(default_factory=pacing.Rate)
    max_transfers: int = 0
    running: int = 0

    @property
    def bandwidth(self) -> float:
        """MiB per second in each direction; 0: no limit."""
        return (self.sending.limit or 0) / _MIB

    @property
    def full(self) -> bool:
        """Whether no other transfer may begin."""
        return 0 < self.max_transfers <= self.running

    def set(self, max_transfers: int, bandwidth: float) -> bool:
        """Take other limits; running transfers follow the bandwidth at once.

        :param bandwidth: MiB per second in each direction; 0: no limit
        :returns: whether anything has changed
        """
        if (max_transfers, bandwidth) == (self.max_transfers, self.bandwidth):
            return False
        self.max_transfers = max_transfers
        for rate in (self.sending, self.receiving):
            rate.limit = bandwidth * _MIB or None
        _scheduler.run_once()
        return True


def get(name: str) -> Limits:
    """Return the limits of a site by the identifier of its store."""
    # setdefault is one step: no two threads get different ones.
    return _registry.setdefault(name, Limits(name))


def slots(wanted: Iterable[Limits], waiting: _Waiting = None,
          interval: float = 10) -> contextlib.AbstractContextManager[None]:
    """Wait for a slot at each site, and hold them while the block runs.

    :param waiting: called while it waits, every ``interval`` seconds, with the
        names of the sites it waits for; what it raises ends the waiting
    """
    return _scheduler.slots(wanted, waiting, interval)


class _Waiter:
    """A transfer that waits: for which sites, and how many overtook it."""

    def __init__(self, wanted: Iterable[Limits]) -> None:
        self.wanted = frozenset(wanted)
        self.overtaken = 0
        self.called: native.Queue[bool] = native.Queue()


class TransferScheduler:
    """The transfers of the process that wait, in order."""

    def __init__(self) -> None:
        self._lock = native.lock()
        self._waiting: list[_Waiter] = []
        self._ended: collections.deque[_Waiter] = collections.deque()

    @contextlib.contextmanager
    def slots(self, wanted: Iterable[Limits], waiting: _Waiting,
              interval: float) -> Iterator[None]:
        waiter = _Waiter(wanted)
        with self._lock:
            self._waiting.append(waiter)
        try:
            self._wait(waiter, waiting, interval)
        except BaseException:
            self._cancel(waiter)
            raise
        try:
            yield
        finally:
            self._end(waiter)

    def run_once(self, patient: bool = True) -> None:
        """Let those begin for which there are slots.

        :param patient: wait for another thread that does the same
        """
        if not self._lock.acquire(patient):
            return
        try:
            while self._ended:
                for one in self._ended.popleft().wanted:
                    one.running -= 1
            self._begin_ready()
        finally:
            self._lock.release()

    def _wait(self, waiter: _Waiter, waiting: _Waiting,
              interval: float) -> None:
        self.run_once()
        told = time.monotonic()
        while True:
            try:
                native.get(waiter.called, _TICK)
                return
            except native.Empty:
                self.run_once()
            if waiting and time.monotonic() - told >= interval:
                told = time.monotonic()
                waiting(sorted(one.name for one in waiter.wanted if one.full))

    def _cancel(self, waiter: _Waiter) -> None:
        with self._lock:
            called = waiter not in self._waiting
            if not called:
                self._waiting.remove(waiter)
        if called:
            self._end(waiter)
        self.run_once()

    def _end(self, waiter: _Waiter) -> None:
        # This may be the end of a generator that the garbage collector found,
        # in the middle of anything, even of run_once(): it must not wait.
        # If another thread has overlooked it, those who wait check again.
        self._ended.append(waiter)
        self.run_once(patient=False)

    def _begin_ready(self) -> None:
        taken: set[Limits] = set()
        passed: list[_Waiter] = []
        for waiter in list(self._waiting):
            missing = {one for one in waiter.wanted
                       if one.full or one in taken}
            if missing:
                taken |= (waiter.wanted if waiter.overtaken >= _OVERTAKEN
                          else missing)
                passed.append(waiter)
                continue
            self._waiting.remove(waiter)
            for one in waiter.wanted:
                one.running += 1
            for other in passed:
                other.overtaken += bool(other.wanted & waiter.wanted)
            waiter.called.put(True)


_scheduler = TransferScheduler()


def _after_fork() -> None:
    """Forget what only the parent has: threads, and with them transfers."""
    global _scheduler
    _scheduler = TransferScheduler()
    for one in _registry.values():
        one.running = 0
        one.sending = pacing.Rate(one.sending.limit)
        one.receiving = pacing.Rate(one.receiving.limit)


os.register_at_fork(after_in_child=_after_fork)
