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

"""What one process has of a connection to a cluster."""

from __future__ import annotations

import dataclasses
import threading
import time

import rados

from glance_dcn.ceph import calls
from glance_dcn.ceph import client as clients
from glance_dcn.ceph import client_cache
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.runtime import native


# Seconds for which the address of a retired client is known: requests that
# it has sent may be carried out.
_KEPT = 150


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

    :ivar entry: the connected client, with its uses
    :ivar fsid: fsid of the cluster that was connected to; it is known for as
        long as the site is not lost and the conf file is the same, however
        often the client is closed and made again
    :ivar breaker: set by who makes this
    :ivar cleared: when one was found to be wrong last, by the monotonic clock
    :ivar lock: that of the cache, for these but the breaker and the callers;
        held for moments only
    """

    def __init__(self, cache: client_cache.ClientCache) -> None:
        self.cache = cache
        self.lock = cache.lock
        self.entry: client_cache.Entry | None = None
        self.fsid: str | None = None
        self.attempt: Attempt | None = None
        self.breaker: health.CircuitBreaker
        self.callers = calls.Callers()
        self.suspicion: calls.Suspicion | None = None
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
                             or now - one.since < _KEPT]
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

    def wait(self, timeout: float | None) -> None:
        """Return when there is a client.

        :param timeout: seconds, or None
        :raises ClusterError: if there is none
        :raises native.Empty: if it takes longer; the time until there is room
            for the client does not count
        """
        queue: native.Queue[bool] = native.Queue()
        with self._lock:
            if self._is_over:
                queue.put(True)
            else:
                self._waiting.append(queue)
        limit = threading.TIMEOUT_MAX if timeout is None else timeout
        left = limit
        while True:
            try:
                native.get(queue, left)
                break
            except native.Empty:
                if self.since is not None:
                    left = self.since + limit - time.monotonic()
                    if left <= 0:
                        raise
        if self._error:
            raise self._error.again()
