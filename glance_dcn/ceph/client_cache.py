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

"""The connected clients of one process: who uses them, and how long they stay.

A connected client of a cluster has a dozen threads and some open files. So
one that was not used for a while is closed, and where there are more than
there should be, the one that was not used for longest. One in use is never
closed: whatever needs a client, an open pool or image say, counts as a use
from before its beginning until after its end.

Where all are in use, further clients are made beyond the limit. Waiting for
one to become idle might take forever: a copy holds the client of its source
while it waits for those of its targets, and another copy may do so the other
way round. What bounds them is how many targets a copy writes at a time
(:func:`glance_dcn.runtime.limits.targets_at_once`), and what the system has
left: librados ends the process where it gets no thread or file, so that a
client is made only where there is room, and otherwise refused after a moment
of waiting. Processes that share a limit may find the same room at the same
moment: each takes no more than its part of it, and of what is less than a
client for each, one process at a time takes one.

``rados_shutdown`` may block: clients are closed in threads of the scheduler,
a few at a time, and never under a lock or in a request.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import logging
import time
import typing

import rados

from glance_dcn.ceph import errors
from glance_dcn.runtime import limits as process_limits
from glance_dcn.runtime import native
from glance_dcn.runtime import scheduler as schedulers

from glance_dcn.runtime import process

LOG = logging.getLogger(__name__)

# Clients that are closed at the same time.
_CLOSING = schedulers.Limit('close client', 4)
# Seconds after its last use before a client is closed for others: what its
# user did not wait for may be on its way. And after it was made, when it is
# about to be used.
_MOMENT = 0.25
_FIRST_MOMENT = 5.0
# Seconds to wait for threads and files that others give back, and the pause
# between checks.
_PATIENCE = 10.0
_PAUSE = 0.05
# Seconds between sweeps for idle clients: the longest, and as a part of the
# time that they may be idle.
_LONGEST = 5.0
_PART = 0.25


@dataclasses.dataclass
class Settings:
    """How long clients stay, for all processes with one configuration.

    :ivar idle_timeout: seconds without any use after which one is closed
    """

    idle_timeout: float = 60.0


class Owner(typing.Protocol):
    """What a client was made for: :class:`glance_dcn.ceph.state.State`."""

    entry: Entry | None


class Entry:
    """A connected client."""

    def __init__(self, owner: Owner, client: rados.Rados,
                 now: float) -> None:
        self.client = client
        self.address = client.get_addrs()
        self.uses = 0
        #: Whether it has the threads that come with the first image.
        self.has_opened = False
        self._was_used = False
        self.owner = owner
        self._idle_since = now

    @property
    def is_retired(self) -> bool:
        """Whether it serves no further use."""
        return self.owner.entry is not self

    def idle_for(self, now: float) -> float:
        """Return the seconds for which it has had no use; 0: it has one."""
        return 0.0 if self.uses else now - self._idle_since

    def may_be_closed(self, now: float) -> bool:
        """Return whether it may be closed for the sake of others."""
        return self.idle_for(now) >= (
            _MOMENT if self._was_used else _FIRST_MOMENT)

    def drop(self) -> None:
        """Have it serve no further use."""
        if self.owner.entry is self:
            self.owner.entry = None

    def end_use(self, now: float) -> None:
        """Count one use less."""
        self.uses -= 1
        self._was_used = True
        self._idle_since = now


class ClientCache:
    """The connected clients of one process.

    Safe for use by many threads.

    :param limits: what the system lets the process have, with the number of
        clients beyond which idle ones are closed
    :param scheduler: in whose threads clients are closed
    :param clock: returns seconds of a monotonic clock
    :param take_turn: see :func:`glance_dcn.runtime.limits.take_turn`
    :ivar lock: for all of it, and what its owners have; held for moments only
    """

    def __init__(self, settings: Settings,
                 limits: process_limits.ProcessLimits | None = None,
                 scheduler: schedulers.Scheduler | None = None,
                 clock: Callable[[], float] = time.monotonic,
                 take_turn: Callable[[], process_limits.Turn | None] = (
                     process_limits.take_turn)) -> None:
        self.lock = native.lock()
        self._take_turn = take_turn
        self._settings = settings
        self._limits = limits or process.get(process_limits.ProcessLimits)
        self._scheduler = scheduler or process.get(schedulers.Scheduler)
        self._clock = clock
        # Least recently used first.
        self._entries: list[Entry] = []
        self._being_made = self._being_closed = 0
        # Those that wait for room, in the order in which they came.
        self._waiting: list[object] = []
        self._sweep_is_due = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def idle(self) -> int:
        """How many clients would be closed for the sake of others."""
        with self.lock:
            return sum(not entry.uses for entry in self._entries)

    def add(self, owner: Owner, client: rados.Rados) -> None:
        """Take a client that was just connected.

        If its owner has one already, the new one is closed.
        """
        with self.lock:
            is_first = owner.entry is None
            if is_first:
                entry = owner.entry = Entry(owner, client, self._clock())
                self._entries.append(entry)
        if not is_first:
            self._close([client])
        self._schedule()

    def acquire(self, owner: Owner) -> Entry | None:
        """Begin a use of an owner's client; return None if it has none."""
        with self.lock:
            entry = owner.entry
            if entry is not None:
                entry.uses += 1
            return entry

    def hold(self, entry: Entry) -> Callable[[], None]:
        """Begin a further use of a client that is in use: an open image.

        :returns: function that ends it; to call it again has no effect
        """
        with self.lock:
            entry.uses += 1
            entry.has_opened = True
        ended: list[Entry] = [entry]

        def end() -> None:
            with contextlib.suppress(IndexError):
                self.release(ended.pop())
        return end

    def release(self, entry: Entry) -> None:
        """End a use of a client."""
        with self.lock:
            entry.end_use(self._clock())
            self._entries.remove(entry)
            over = entry.is_retired and not entry.uses
            if not over:
                self._entries.append(entry)
        if over:
            self._close([entry.client])

    def retire(self, owner: Owner, client: rados.Rados) -> bool:
        """Have a client serve no further use; close it after the last one.

        :returns: whether it was the owner's client
        """
        with self.lock:
            entry = owner.entry
            if entry is None or entry.client is not client:
                return False
            entry.drop()
            over = not entry.uses
            if over:
                self._entries.remove(entry)
        if over:
            self._close([client])
        return True

    def retired_of(self, owner: Owner) -> int:
        """Return how many retired clients of an owner are still in use."""
        with self.lock:
            return sum(entry.is_retired for entry in self._entries
                       if entry.owner is owner)

    @contextlib.contextmanager
    def making(self, store: str,
               patience: float = _PATIENCE) -> Iterator[None]:
        """Make a client in the block, when there is room for another one.

        :param patience: seconds to wait for threads and files
        :raises errors.Exhausted: if the process has too few
        """
        waiter = object()
        with contextlib.ExitStack() as held:
            with self.lock:
                self._waiting.append(waiter)
            try:
                self._await_room(waiter, store, self._clock() + patience, held)
            finally:
                with self.lock:
                    self._waiting.remove(waiter)
            try:
                yield
            finally:
                with self.lock:
                    self._being_made -= 1

    def _await_room(self, waiter: object, store: str, deadline: float,
                    held: contextlib.ExitStack) -> None:
        """Return when there is room, and what it takes to use it is held."""
        pauses: native.Queue[None] = native.Queue()
        while self._waiting[0] is not waiter or not self._reserve(held):
            if self._clock() >= deadline:
                raise self._exhausted(store)
            with contextlib.suppress(native.Empty):
                # First without a timeout: see native.get(). This thread is
                # never that of a request.
                pauses.get_nowait()
            with contextlib.suppress(native.Empty):
                pauses.get(timeout=_PAUSE)

    def _reserve(self, held: contextlib.ExitStack) -> bool:
        """Have room for another client; return whether there is."""
        processes = self._limits.processes
        with self.lock:
            unopened = sum(not entry.has_opened for entry in self._entries)
        # Of others no process knows; they are likely to have as many.
        reserved = unopened * process_limits.IMAGE_THREADS * processes
        room = self._limits.room_for_clients(reserved)
        turn = None
        if room is not None and 0 < room < processes:
            turn = self._take_turn()
            if turn is not None:
                # The process that had it may have used the room.
                room = self._limits.room_for_clients(reserved)
        now = self._clock()
        with self.lock:
            excess = (len(self._entries) + self._being_made + 1
                      - self._limits.max_clients)
            share = processes if turn is None else 1
            enough = room is None or room // share > self._being_made
            if not enough and self._being_closed < _CLOSING.count:
                excess = max(excess, 1)
            idle = [entry for entry in self._entries
                    if entry.may_be_closed(now)][:max(excess, 0)]
            self._drop(idle)
            if enough:
                self._being_made += 1
        if turn is not None and enough:
            held.enter_context(turn)
        elif turn is not None:
            turn.close()
        self._close([entry.client for entry in idle])
        return enough

    def sweep(self) -> None:
        """Close the clients that have been idle for long enough."""
        now = self._clock()
        with self.lock:
            self._sweep_is_due = False
            idle = [entry for entry in self._entries
                    if entry.idle_for(now) >= self._settings.idle_timeout]
            self._drop(idle)
        self._close([entry.client for entry in idle])
        self._schedule()

    def _drop(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.drop()
            self._entries.remove(entry)

    def _schedule(self) -> None:
        """Schedule the next sweep for idle clients, if there are clients."""
        with self.lock:
            if self._sweep_is_due or not self._entries:
                return
            self._sweep_is_due = True
        self._scheduler.call_later(
            min(_LONGEST, self._settings.idle_timeout * _PART), self.sweep)

    def _close(self, clients: list[rados.Rados]) -> None:
        for client in clients:
            with self.lock:
                self._being_closed += 1
            self._scheduler.submit(functools.partial(self._shut, client),
                                   _CLOSING)

    def _shut(self, client: rados.Rados) -> None:
        try:
            client.shutdown()
        finally:
            with self.lock:
                self._being_closed -= 1
                last = not self._being_closed
        if last:
            # What a client had is spread over what others still have.
            native.give_back_memory()

    def _exhausted(self, store: str) -> errors.Exhausted:
        left = self._limits.left()
        return errors.Exhausted(
            store, 'this process has no room for another connection (left: '
            '%s threads, %s files; %d connections are open)' % (
                'unlimited' if left.threads is None else left.threads,
                'unlimited' if left.files is None else left.files,
                len(self._entries)),
            'try again later; raise pids.max (pids_limit of the container) '
            'and RLIMIT_NOFILE (ulimit -n), as the guide\'s page "Limits of '
            'processes" says')


class Caches:
    """The cache of each process: a child of a fork begins an empty one."""

    def __init__(self, settings: Settings | None = None,
                 limits: process_limits.ProcessLimits | None = None) -> None:
        self.settings = settings or Settings()
        self._limits = limits or process.get(process_limits.ProcessLimits)
        self._wanted: tuple[int, int] | None = None
        self._limits.reclaimable = lambda: self.current().idle
        self._caches = process.ForkLocal(
            lambda: ClientCache(self.settings, self._limits))

    def configure(self, idle_timeout: float, max_clients: int,
                  processes: int) -> list[process_limits.Shortage]:
        """Have clients closed after other times; the same have no effect.

        :returns: the limits of the system that are too low for it
        """
        self.settings.idle_timeout = idle_timeout
        wanted = max_clients, processes
        if wanted == self._wanted:
            return []
        self._wanted = wanted
        return self._limits.configure(max_clients, processes)

    def current(self) -> ClientCache:
        """Return the cache of this process."""
        return self._caches.get()
