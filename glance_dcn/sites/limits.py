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
import time
import typing

from glance_dcn.engine import pacing
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.sites import figures

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Iterator

    _Waiting = typing.Optional[Callable[[list[str]], object]]

_MIB = 1 << 20
# How many may overtake one that waits.
_OVERTAKEN = 16


class _Use:
    """What one process uses of a site; transfers do not survive a fork."""

    def __init__(self, bandwidth: float) -> None:
        self.sending = pacing.Rate(bandwidth * _MIB or None)
        self.receiving = pacing.Rate(bandwidth * _MIB or None)
        self.running = 0


class Limits:
    """The limits of one site; get it from :func:`get`.

    :ivar bandwidth: MiB per second in each direction; 0: no limit
    :ivar max_transfers: transfers at the same time; 0: no limit
    :ivar meter: counts what transfers do there
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.meter = figures.Meter()
        self.bandwidth: float = 0
        self.max_transfers = 0
        self._use = process.ForkLocal(lambda: _Use(self.bandwidth))

    @property
    def sending(self) -> pacing.Rate:
        """Rate of all data that is sent to the site."""
        return self._use.get().sending

    @property
    def receiving(self) -> pacing.Rate:
        """Rate of all data that is read from it."""
        return self._use.get().receiving

    @property
    def running(self) -> int:
        """Transfers that have begun and not ended."""
        return self._use.get().running

    @property
    def full(self) -> bool:
        """Whether no other transfer may begin."""
        return 0 < self.max_transfers <= self.running

    def count(self, transfers: int) -> None:
        """Count transfers that begin, or end: a negative number."""
        self._use.get().running += transfers

    def set(self, max_transfers: int, bandwidth: float) -> bool:
        """Take other limits; running transfers follow the bandwidth at once.

        :param max_transfers: transfers at the same time; 0: no limit
        :param bandwidth: MiB per second in each direction; 0: no limit
        :returns: whether anything has changed
        """
        if (max_transfers, bandwidth) == (self.max_transfers, self.bandwidth):
            return False
        self.max_transfers, self.bandwidth = max_transfers, bandwidth
        for rate in (self.sending, self.receiving):
            rate.limit = bandwidth * _MIB or None
        process.get(TransferScheduler).run_once()
        return True


def get(name: str) -> Limits:
    """Return the limits of a site by the identifier of its store."""
    return process.get(TransferScheduler).limits_of(name)


def slots(wanted: Iterable[Limits], waiting: _Waiting = None,
          interval: float = 10) -> contextlib.AbstractContextManager[None]:
    """Wait for a slot at each site, and hold them while the block runs.

    :param wanted: limits of the sites
    :param waiting: called now and then, while it waits, with the names of the
        sites it waits for; what it raises ends the waiting
    :param interval: seconds between calls of ``waiting``
    """
    return process.get(TransferScheduler).slots(wanted, waiting, interval)


class _Waiter:
    """A transfer that waits: for whom, and how many went past it."""

    def __init__(self, wanted: Iterable[Limits]) -> None:
        self.wanted = frozenset(wanted)
        self.overtaken = 0
        self.called: native.Queue[bool] = native.Queue()


class _Queue:
    """The transfers of one process that wait, in order."""

    def __init__(self) -> None:
        self.lock = native.lock()
        self.waiting: list[_Waiter] = []
        self.ended: collections.deque[_Waiter] = collections.deque()


class TransferScheduler:
    """Gives slots to transfers, in the order in which they come.

    :param tick: seconds between checks whether slots are free
    """

    def __init__(self, tick: float = 0.5) -> None:
        self._tick = tick
        self._limits: dict[str, Limits] = {}
        self._queue = process.ForkLocal(_Queue)

    def limits_of(self, name: str) -> Limits:
        """Return the limits of a site; see :func:`get`."""
        # setdefault is one step: no two threads get different ones.
        return self._limits.setdefault(name, Limits(name))

    def measure(self) -> list[figures.Figures]:
        """Return the figures of this process, of all its sites."""
        # The end of one may have been overlooked.
        self.run_once()
        awaited = collections.Counter(
            one.name for waiter in list(self._queue.get().waiting)
            for one in waiter.wanted if one.full)
        return [figures.Figures(one.name, one.meter.counts(), one.running,
                                awaited[one.name])
                for one in list(self._limits.values())]

    @contextlib.contextmanager
    def slots(self, wanted: Iterable[Limits], waiting: _Waiting,
              interval: float) -> Iterator[None]:
        waiter = _Waiter(wanted)
        queue = self._queue.get()
        with queue.lock:
            queue.waiting.append(waiter)
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
        queue = self._queue.get()
        if not queue.lock.acquire(patient):
            return
        try:
            while queue.ended:
                for one in queue.ended.popleft().wanted:
                    one.count(-1)
            self._begin_ready(queue.waiting)
        finally:
            queue.lock.release()

    def _wait(self, waiter: _Waiter, waiting: _Waiting,
              interval: float) -> None:
        self.run_once()
        told = time.monotonic()
        while True:
            try:
                native.get(waiter.called, self._tick)
                return
            except native.Empty:
                self.run_once()
            if waiting and time.monotonic() - told >= interval:
                told = time.monotonic()
                waiting(sorted(one.name for one in waiter.wanted if one.full))

    def _cancel(self, waiter: _Waiter) -> None:
        queue = self._queue.get()
        with queue.lock:
            called = waiter not in queue.waiting
            if not called:
                queue.waiting.remove(waiter)
        if called:
            self._end(waiter)
        self.run_once()

    def _end(self, waiter: _Waiter) -> None:
        # This may be the end of a generator that the garbage collector found,
        # in the middle of anything, even of run_once(): it must not wait.
        # If another thread has overlooked it, those who wait check again.
        self._queue.get().ended.append(waiter)
        self.run_once(patient=False)

    @staticmethod
    def _begin_ready(queue: list[_Waiter]) -> None:
        taken: set[Limits] = set()
        passed: list[_Waiter] = []
        for waiter in list(queue):
            missing = {one for one in waiter.wanted
                       if one.full or one in taken}
            if missing:
                taken |= (waiter.wanted if waiter.overtaken >= _OVERTAKEN
                          else missing)
                passed.append(waiter)
                continue
            queue.remove(waiter)
            for one in waiter.wanted:
                one.count(1)
                one.meter.count(figures.TRANSFERS)
            for other in passed:
                other.overtaken += bool(other.wanted & waiter.wanted)
            waiter.called.put(True)
