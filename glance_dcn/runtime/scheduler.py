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

"""One thread for all work of a process that is due later, or again and again.

The scheduler thread sleeps until the next call of a heap is due, and hands it
to a pool of threads. It runs nothing itself, so that nothing that hangs can
hold up what is due next. A pool has as many threads as calls are running at
this moment, and they end when they have been idle for a while: a process with
nothing to do has the scheduler thread alone, however many sites there are.
Calls of a kind of which there may be hundreds have a limit in common, and wait
for each other.

Threads do not survive a fork. A child begins with an empty heap, and starts a
scheduler thread of its own with the first call that it schedules.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import heapq
import itertools
import logging
import time
import typing

from glance_dcn.runtime import native
from glance_dcn.runtime import process

if typing.TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

_T = typing.TypeVar('_T')

# Seconds until another attempt at what there is no thread for.
_AGAIN = 1.0


class _Phase(enum.Enum):
    SCHEDULED, RUNNING, OVER = range(3)


@dataclasses.dataclass(frozen=True)
class Limit:
    """A limit of the calls of one kind that run at a time in a process."""

    kind: str
    count: int


class Call:
    """A call that is due at some moment.

    :ivar due: when, in seconds of the scheduler's clock
    """

    def __init__(self, due: float, function: Callable[[], object],
                 limit: Limit | None, state: _State) -> None:
        self.due = due
        self._function = function
        self._limit = limit
        self._state = state
        self._phase = _Phase.SCHEDULED

    def cancel(self) -> bool:
        """Have the function not called, unless that has begun.

        :returns: whether it is certain that it is not running now
        """
        with self._state.lock:
            if self._phase is not _Phase.RUNNING:
                self._phase = _Phase.OVER
            return self._phase is not _Phase.RUNNING

    def run(self) -> None:
        """Call the function; what it raises is logged."""
        with self._state.lock:
            if self._phase is _Phase.OVER:
                return
            self._phase = _Phase.RUNNING
        try:
            self._function()
        except Exception:
            LOG.exception('Work of the scheduler failed')
        finally:
            # What it refers to may be large, and the caller may keep this.
            self._function = _nothing
            with self._state.lock:
                self._phase = _Phase.OVER

    @property
    def limit(self) -> Limit | None:
        """The limit that counts for it, or None."""
        return self._limit

    @property
    def is_cancelled(self) -> bool:
        """Whether it was called or cancelled."""
        return self._phase is _Phase.OVER


class Repetition:
    """Calls of a function, one after the other, until it returns False.

    They end, too, when it raises.

    :param first: seconds until the first call
    :param pause: returns the seconds from the end of one call to the next
    """

    def __init__(self, scheduler: Scheduler, first: float,
                 pause: Callable[[], float],
                 function: Callable[[], bool]) -> None:
        self._scheduler = scheduler
        self._pause = pause
        self._function = function
        self._guard = native.lock()
        self._stopped = self._is_running = self._again = False
        # Of those that wait for the function to return.
        self._waiting: list[native.Queue[bool]] = []
        with self._guard:
            self._call = scheduler.call_later(first, self._run)

    def wake(self) -> None:
        """Have a call now, or once more if one is running."""
        with self._guard:
            if self._is_running:
                self._again = True
            elif not self._stopped:
                self._schedule(0)

    def stop(self, timeout: float | None = None) -> bool:
        """Have no more calls, and wait for one that is running.

        :param timeout: seconds to wait at most; None: as long as it takes
        :returns: whether none is running
        """
        ended: native.Queue[bool] = native.Queue()
        with self._guard:
            self._stopped = True
            self._call.cancel()
            if not self._is_running:
                return True
            self._waiting.append(ended)
        try:
            native.get(ended, float('inf') if timeout is None else timeout)
        except native.Empty:
            return False
        return True

    def _schedule(self, delay: float) -> None:
        self._call.cancel()
        self._call = self._scheduler.call_later(delay, self._run)

    def _run(self) -> None:
        with self._guard:
            # One that was woken may have begun by the time it is cancelled.
            if self._stopped or self._is_running:
                return
            self._is_running, self._again = True, False
        go_on = False
        try:
            go_on = self._function()
        finally:
            with self._guard:
                self._is_running = False
                self._stopped = self._stopped or not go_on
                if not self._stopped:
                    self._schedule(0 if self._again else self._pause())
                waiting, self._waiting = self._waiting, []
            for queue in waiting:
                queue.put(True)


class Scheduler:
    """Calls functions later, in threads of this process.

    Safe for use by many threads, and after a fork.

    :param clock: returns seconds of a monotonic clock
    :param start: what starts a thread, with the signature of
        :func:`glance_dcn.runtime.native.start`
    :param idle: seconds without work after which a thread of the pool ends
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic,
                 start: Callable[..., object] = native.start,
                 idle: float = 10) -> None:
        self._clock = clock
        self._idle = idle
        self._start = start
        self._states = process.ForkLocal(_State)

    def call_later(self, delay: float, function: Callable[[], object],
                   limit: Limit | None = None) -> Call:
        """Have a function called in a thread of the pool.

        What it raises is logged.

        :param delay: seconds from now
        :param function: without arguments; it may block
        :param limit: of the calls of its kind, those that run at a time
        """
        state = self._states.get()
        call = Call(self._clock() + max(0.0, delay), function, limit, state)
        self._schedule(state, call)
        return call

    def submit(self, function: Callable[[], object],
               limit: Limit | None = None) -> Call:
        """Have a function called as soon as there is a thread for it."""
        state = self._states.get()
        call = Call(self._clock(), function, limit, state)
        self._begin(state, call)
        return call

    def every(self, interval: float,
              function: Callable[[], bool]) -> Repetition:
        """Have a function called again and again, in threads of the pool.

        :param interval: seconds until the first call, and from the end of
            one to the next
        :param function: without arguments; returns whether to go on
        """
        return Repetition(self, interval, lambda: interval, function)

    def run_due(self) -> float | None:
        """Hand what is due to the pool; called by the scheduler thread.

        :returns: seconds until the next call is due, or None
        """
        return self._run_due(self._states.get())

    def _run_due(self, state: _State) -> float | None:
        while True:
            with state.lock:
                while state.heap and state.heap[0][2].is_cancelled:
                    heapq.heappop(state.heap)
                if not state.heap:
                    return None
                left = state.heap[0][0] - self._clock()
                if left > 0:
                    return left
                call = heapq.heappop(state.heap)[2]
            self._begin(state, call)

    def _schedule(self, state: _State, call: Call) -> None:
        with state.lock:
            first = not state.heap or call.due < state.heap[0][0]
            heapq.heappush(state.heap, (call.due, next(state.numbers), call))
            begin = not state.is_running
            state.is_running = True
        if begin:
            self._start_scheduler(state)
        elif first:
            state.events.put(True)

    def _start_scheduler(self, state: _State) -> None:
        try:
            self._start('dcn-scheduler', self._run, state)
        except RuntimeError as exc:
            # The next call that is scheduled tries it again.
            state.is_running = False
            LOG.error('Work beside requests waits: %s; raise the limit of '
                      'threads or processes (pids.max, ulimit -u)', exc)

    def _run(self, state: _State) -> None:
        """Wait for what is due, until nothing is scheduled any more."""
        while True:
            left = self._run_due(state)
            if left is not None:
                _take(state.events, left)
                continue
            with state.lock:
                if not state.heap:
                    state.is_running = False
                    return

    def _begin(self, state: _State, call: Call) -> None:
        """Run a call, or have it wait for others of its kind."""
        limit = call.limit
        with state.lock:
            if limit is not None:
                if state.busy[limit.kind] >= limit.count:
                    state.waiting[limit.kind].append(call)
                    return
                state.busy[limit.kind] += 1
            idle = state.idle.pop() if state.idle else None
        if idle is not None:
            idle.put(call)
            return
        try:
            self._start('dcn-work', self._work, state, call)
        except RuntimeError as exc:
            self._put_back(state, call, exc)

    def _put_back(self, state: _State, call: Call, exc: Exception) -> None:
        """Try a call again for which no thread could be started."""
        LOG.error('Work beside requests waits: %s; raise the limit of '
                  'threads or processes (pids.max, ulimit -u)', exc)
        call.due = self._clock() + _AGAIN
        with state.lock:
            if call.limit is not None:
                state.busy[call.limit.kind] -= 1
        self._schedule(state, call)

    def _work(self, state: _State, call: Call | None) -> None:
        """Run calls, until there have been none for a while."""
        mine: native.Queue[Call] = native.Queue()
        while call is not None:
            call.run()
            following = self._next(state, call, mine)
            if following is None:
                following = _take(mine, self._idle)
            if following is None:
                with state.lock:
                    if mine in state.idle:
                        state.idle.remove(mine)
                        return
                # One is on its way.
                following = mine.get()
            call = following

    def _next(self, state: _State, call: Call,
              mine: native.Queue[Call]) -> Call | None:
        """Return the next call of the same kind; None: be idle."""
        limit = call.limit
        with state.lock:
            if limit is not None:
                waiting = state.waiting[limit.kind]
                while waiting:
                    following = waiting.popleft()
                    if not following.is_cancelled:
                        return following
                state.busy[limit.kind] -= 1
            state.idle.append(mine)
        return None


class _State:
    """What one process has of a scheduler.

    :ivar lock: for all of it, and the phases of calls; held for moments only
    :ivar heap: of (when it is due, number, call)
    :ivar events: what wakes the scheduler thread
    :ivar is_running: whether there is one
    :ivar idle: the queues of the threads that wait for a call, of which the
        last one to come is taken first
    :ivar busy: how many calls of a kind are running
    :ivar waiting: those of the kind that wait for them
    """

    def __init__(self) -> None:
        self.lock = native.lock()
        self.heap: list[tuple[float, int, Call]] = []
        self.numbers = itertools.count()
        self.events: native.Queue[bool] = native.Queue()
        self.is_running = False
        self.idle: list[native.Queue[Call]] = []
        self.busy: collections.Counter[str] = collections.Counter()
        self.waiting: dict[str, collections.deque[Call]] = (
            collections.defaultdict(collections.deque))


def _nothing() -> None:
    pass


def _take(queue: native.Queue[_T], timeout: float) -> _T | None:
    """Return the next item of a queue, or None if there was none in time."""
    with contextlib.suppress(native.Empty):
        return native.take(queue, timeout)
    return None
