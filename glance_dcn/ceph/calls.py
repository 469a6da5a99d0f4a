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

"""Calls to a cluster that may never be answered.

A call to librbd or librados blocks its thread until it is answered, or until
the time that one request may take is over, which is long: data takes its time
on a slow link. A site that is lost in the midst of a call must not be waited
for as long. So the call is made by a thread of its own, and its caller waits::

    caller                 thread of the call        thread of the probe
    ------                 ------------------        -------------------
    submit                 open, snapshot, lock ...
    (3 s without an answer)
    suspect the cluster    ...                       connect, ask the OSDs
    (every half a second)  ...                       no answer: the client is
    leave the call         ...                       retired, the site is down
    raise Unreachable      (ends some time)

While the probe is answered the call goes on: a slow link is no reason to end
it. Of a call that was left pool, image and client stay open until it ends
(:class:`glance_dcn.runtime.native.Shared`); what it brings after all is given
to a function, to be closed. Its client was retired and is blocklisted before
another one takes its place, where what it has sent must not be carried out
later. Where the process has no room for the client of a probe, the
monitors alone are asked (:mod:`.monitors`).

The engine's requests block no thread; a transfer that does not move for as
long asks the same probe (:meth:`glance_dcn.ceph.connection.Connection.lost`).
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import typing

import rados

from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers


#: Seconds without an answer after which the cluster is suspected.
QUIET = 3
#: Seconds between two checks of the suspicion.
PAUSE = 0.5
#: Seconds that a probe has; one that has no answer by then has none.
VERDICT = 11
#: Seconds for which a probe waits for threads and files; after these the
#: monitors are asked without a client.
PATIENCE = 1


_T = typing.TypeVar('_T')


class Call(typing.Generic[_T]):
    """One call, and what has come of it.

    :param late: called with the result if nothing waits for it any more
    :param ended: called when the function has ended, before its caller knows
    """

    def __init__(self, function: Callable[..., _T],
                 args: tuple[typing.Any, ...],
                 late: Callable[[_T], object] | None = None,
                 ended: Callable[[], object] | None = None) -> None:
        self._function: Callable[..., typing.Any] = function
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
        self._function, self._args = _nothing, ()
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

        :param timeout: seconds
        :raises glance_dcn.runtime.native.Empty: if there is nothing yet
        """
        result: _T
        result, error = native.get(self._outcome, timeout)
        if error is not None:
            raise error
        return result

    def leave(self) -> bool:
        """Wait no longer; return False if there is an outcome already."""
        with self._lock:
            self._left = self._outcome.empty()
            return self._left


def _nothing() -> None:
    pass


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


class Suspicion:
    """That a cluster is lost, while a probe asks whether it is.

    :ivar client: that has no answer
    :ivar since: when the probe began to ask, in seconds of the monotonic
        clock; None: there is no room for its client yet
    """

    def __init__(self, client: rados.Rados | None) -> None:
        self.client = client
        self.since: float | None = None

    def is_over(self, now: float) -> bool:
        """Return whether the probe has asked for as long as it may."""
        return self.since is not None and now - self.since > VERDICT
