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

"""What one process has of a connection, and calls that may never be answered.

A call to librbd or librados blocks its thread until it is answered, or until
the time that one request may take is over, which is long: data takes its time
on a slow link. A site that is lost in the midst of a call must not be waited
for as long. So the call is made by a thread of its own, and its caller waits::

    caller                 thread of the call        thread of the probe
    ------                 ------------------        -------------------
    submit                 open, snapshot, lock ...
    (3 s without an answer)
    suspect the cluster    ...                       ask monitors, connect,
                           ...                       ask the OSDs at once
    (every half a second)  ...                       no answer: the client is
    leave the call         ...                       retired, the site is down
    raise Unreachable      (ends some time)

While the probe is answered the call goes on: a slow link is no reason to end
it, and how long a probe may take counts from the last answer to it. Of a call
that was left pool, image and client stay open until it ends
(:class:`glance_dcn.runtime.native.Shared`); what it brings after all is given
to a function, to be closed. Its client was retired and is blocklisted before
another one takes its place, where what it has sent must not be carried out
later. Where the process has no room for the client of a probe, what its
monitors answer without one counts (:mod:`.monitors`).

The engine's requests block no thread; a transfer that does not move for as
long asks the same probe (:meth:`glance_dcn.ceph.connection.Connection.lost`).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import time
import typing

import rados

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import client_cache
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers

# Seconds for which the address of a retired client is known: requests that
# it has sent may be carried out.
_KEPT = 150

_T = typing.TypeVar('_T')


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a cluster without an answer is waited for, in seconds.

    :ivar quiet: without an answer, after which the cluster is suspected
    :ivar pause: between two checks of the suspicion
    :ivar verdict: that a probe may go without any answer, of the monitors say
    :ivar room: for which a probe waits for threads and files; after these
        what the monitors have answered without a client counts
    """

    quiet: float = 3
    pause: float = 0.5
    verdict: float = 11
    room: float = 1


PATIENCE = Patience()


@dataclasses.dataclass
class _Retired:
    """A client that was retired.

    :ivar since: when, in seconds of the monotonic clock
    """

    entry: client_cache.Entry
    since: float
    is_marked: bool = False


class State:
    """What one process has of a connection.

    :ivar fsid: fsid of the cluster that was connected to; it is known for as
        long as the site is not lost and the conf file is the same, however
        often the client is closed and made again
    :ivar breaker: set by who makes this
    :ivar cleared: when one was found to be wrong last, by the monotonic clock
    :ivar lock: that of the cache, for these but the breaker and the callers;
        held for moments only
    :param kept: seconds for which the address of a retired client is known
    """

    def __init__(self, cache: client_cache.ClientCache,
                 kept: float = _KEPT) -> None:
        self._kept = kept
        self.cache = cache
        self.lock = cache.lock
        self.entry: client_cache.Entry | None = None
        self.fsid: str | None = None
        self.attempt: Attempt | None = None
        self.breaker: health.CircuitBreaker
        self.callers = Callers()
        self.suspicion: Suspicion | None = None
        self.cleared = float('-inf')
        self._retired: list[_Retired] = []
        # Addresses of those whose requests must not be carried out any more.
        self._to_blocklist: set[str] = set()

    @property
    def client(self) -> rados.Rados | None:
        """The connected client, or None; it may be closed at any moment."""
        entry = self.entry
        return entry.client if entry else None

    def adopt(self, client: rados.Rados) -> None:
        """Take a new client; close it if there is one already."""
        self.fsid = client.get_fsid()
        self.cache.add(self, client)

    def retire(self, client: rados.Rados) -> bool:
        """Take a client out of use: the next use makes a new one.

        It is closed after its last use.

        :returns: whether it was the one in use
        """
        entry = self.entry
        if not self.cache.retire(self, client) or entry is None:
            return False
        now = time.monotonic()
        with self.lock:
            self.fsid = None
            self._retired = [one for one in self._retired if one.entry.uses
                             or now - one.since < self._kept]
            self._retired.append(_Retired(entry, now))
        return True

    def mark_retired(self) -> None:
        """Have nothing carried out any more of what retired clients sent.

        librados sends it once more when the cluster is back.
        """
        with self.lock:
            for one in self._retired:
                if not one.is_marked:
                    one.is_marked = True
                    self._to_blocklist.add(one.entry.address)

    def blocklist_marked(self, client: rados.Rados) -> None:
        """Blocklist those clients; what cannot be, is tried the next time."""
        # Each client that is made meanwhile does the same, before it is used:
        # it is to have the map of OSDs that has the blocklist.
        with self.lock:
            marked = set(self._to_blocklist)
        left = clients.blocklist(client, marked)
        with self.lock:
            self._to_blocklist -= marked - left


class Attempt:
    """An attempt to connect, whose outcome all who wait for it get.

    :ivar since: when it began to connect, in seconds of the monotonic clock;
        None: there is no room for another client yet
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._lock = native.lock()
        self._error: errors.ClusterError | None = None
        self._is_over = False
        self._waiting: list[native.Queue[bool]] = []

    def end(self, error: errors.ClusterError | None) -> None:
        """Give the outcome to all who wait.

        :param error: why there is no client; None: there is one
        """
        with self._lock:
            self._error, self._is_over = error, True
            waiting, self._waiting = self._waiting, []
        for queue in waiting:
            queue.put(True)

    def wait(self, timeout: float) -> None:
        """Return when there is a client.

        :raises ClusterError: if there is none
        :raises native.Empty: if it takes more seconds; the time until there is
            room for the client does not count
        """
        queue: native.Queue[bool] = native.Queue()
        with self._lock:
            if self._is_over:
                queue.put(True)
            else:
                self._waiting.append(queue)
        left = timeout
        while True:
            try:
                native.get(queue, left)
                break
            except native.Empty:
                if self.since is not None:
                    left = self.since + timeout - time.monotonic()
                    if left <= 0:
                        raise
        if self._error:
            raise self._error.again()


class Call(typing.Generic[_T]):
    """One call, and what has come of it.

    :param late: called with the result if nothing waits for it any more
    :param ended: called when the function has ended, before its caller knows
    """

    def __init__(self, function: Callable[..., _T],
                 args: tuple[typing.Any, ...],
                 late: Callable[[_T], object] | None = None,
                 ended: Callable[[], object] | None = None) -> None:
        self._function = function
        self._args = args
        self._late = late
        self._ended = ended
        self._lock = native.lock()
        self._outcome: native.Queue[
            tuple[typing.Any, BaseException | None]] = native.Queue()
        self._left = False

    def run(self) -> None:
        """Make the call; for the thread that does."""
        result: typing.Any = None
        error: BaseException | None = None
        try:
            result = self._function(*self._args)
        except BaseException as exc:
            error = exc
        # What the call was about may be waiting for that to be closed.
        del self._function, self._args
        if self._ended is not None:
            self._ended()
        with self._lock:
            if not self._left:
                self._outcome.put((result, error))
                return
        if error is None and self._late is not None:
            self._late(result)

    def wait(self, timeout: float) -> _T:
        """Return what the function returned, or raise what it raised.

        :raises native.Empty: if there is nothing within the seconds
        """
        result, error = native.get(self._outcome, timeout)
        if error is not None:
            raise error
        return typing.cast(_T, result)

    def leave(self) -> bool:
        """Wait no longer; return False if there is an outcome already."""
        with self._lock:
            self._left = self._outcome.empty()
            return self._left


class Callers:
    """The threads that make the calls to one cluster, in one process.

    They are those of the scheduler, which all clusters have in common.
    """

    def __init__(self, scheduler: schedulers.Scheduler | None = None) -> None:
        self._scheduler = scheduler or process.get(schedulers.Scheduler)
        self._inside: set[int] = set()

    def is_caller(self) -> bool:
        """Return whether the running thread makes a call to this cluster."""
        return native.thread_id() in self._inside

    def submit(self, call: Call[typing.Any]) -> None:
        """Have a call made."""
        self._scheduler.submit(functools.partial(self._run, call))

    def _run(self, call: Call[typing.Any]) -> None:
        thread = native.thread_id()
        self._inside.add(thread)
        try:
            call.run()
        finally:
            self._inside.discard(thread)


@dataclasses.dataclass
class Suspicion:
    """That a cluster is lost, while a probe asks whether it is.

    :ivar client: that has no answer
    :ivar since: when the cluster answered the probe last, or the probe began
        to ask, in seconds of the monotonic clock; None: it has not begun yet
    """

    client: rados.Rados | None
    since: float | None = None

    def answered(self) -> None:
        """Note that the cluster has answered, if slowly, or is asked now."""
        self.since = time.monotonic()

    def is_over(self, now: float, verdict: float) -> bool:
        """Return whether there was no answer for more than these seconds."""
        return self.since is not None and now - self.since > verdict
