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

import contextlib
import sys
import threading
import time

import rados

from glance_dcn.ceph import calls
from glance_dcn.ceph import fencing
from glance_dcn.engine import native

# Seconds for which a client that was given up is kept at least: requests of
# its users may be in flight.
_KEPT = 150
# sys.getrefcount() of a client that only its entry in that list refers to.
_UNUSED = 2


class State:
    """What one process has of a connection.

    :ivar client: connected rados.Rados, or None
    :ivar fsid: fsid of its cluster, or None
    :ivar attempt: the :class:`Attempt` that is being made, or None
    :ivar watch: :class:`glance_dcn.ceph.health.Watch`
    :ivar callers: :class:`glance_dcn.ceph.calls.Callers`
    :ivar suspected: since when a probe is asked whether the cluster is lost,
        by the monotonic clock; None: none is
    :ivar lock: for these but the watch and the callers; held for moments only
    """

    def __init__(self):
        self.lock = native.lock()
        self.client = None
        self.fsid = None
        self.attempt = None
        self.watch = None
        self.callers = calls.Callers()
        self.suspected = None
        # [client, when it was retired, whether it is to be blocklisted]
        self._retired = []
        # Addresses of those whose requests must not be carried out any more.
        self._to_blocklist = set()

    def adopt(self, client):
        """Take a new client, if there is none; return the one there is."""
        with self.lock:
            if self.client is None:
                self.client = client
                self.fsid = client.get_fsid()
            used = self.client
        if used is not client:
            client.shutdown()
        return used

    def retire(self, client):
        """Give up a client: the next use makes a new one.

        :returns: whether it was the one in use
        """
        with self.lock:
            if self.client is not client:
                return False
            self.client = self.fsid = None
            self._retired.append([client, time.monotonic(), False])
            return True

    def mark_retired(self):
        """Have nothing carried out any more of what retired clients sent.

        librados sends it once more when the cluster is back.
        """
        with self.lock:
            for entry in self._retired:
                client, _since, done = entry
                if not done:
                    entry[2] = True
                    with contextlib.suppress(rados.Error):
                        self._to_blocklist.add(client.get_addrs())

    def blocklist_marked(self, client):
        """Blocklist those clients; what cannot be, is tried the next time.

        :param client: connected rados.Rados
        """
        with self.lock:
            taken, self._to_blocklist = self._to_blocklist, set()
        left = fencing.blocklist(client, taken)
        with self.lock:
            self._to_blocklist |= left

    def release(self):
        """Release clients that were given up and that nobody uses any more.

        Whoever uses one refers to it, by an Ioctx or an image.
        """
        with self.lock:
            ripe = [entry for entry in self._retired
                    if time.monotonic() - entry[1] > _KEPT
                    and sys.getrefcount(entry[0]) <= _UNUSED]
            for entry in ripe:
                self._retired.remove(entry)
        for client, _since, _done in ripe:
            client.shutdown()


class Attempt:
    """An attempt to connect, whose outcome all who wait for it get."""

    def __init__(self):
        self._lock = native.lock()
        self._outcome = None
        self._waiting = []

    def end(self, client, error):
        """Give the outcome to all who wait.

        :param client: connected rados.Rados, or None
        :param error: the ClusterError why there is none
        """
        with self._lock:
            self._outcome = client, error
            waiting, self._waiting = self._waiting, []
        for queue in waiting:
            queue.put(True)

    def wait(self, timeout):
        """Return the client.

        :param timeout: seconds, or None
        :raises ClusterError: if there is none
        :raises native.Empty: if it takes longer
        """
        queue = native.Queue()
        with self._lock:
            if self._outcome is None:
                self._waiting.append(queue)
            else:
                queue.put(True)
        native.get(queue, threading.TIMEOUT_MAX if timeout is None
                   else timeout)
        client, error = self._outcome
        if error:
            raise error.again()
        return client
