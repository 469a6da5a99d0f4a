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
it. What a call that was left brings after all is given to a function, to be
closed. Its client was retired and is blocklisted before another one takes its
place, where what it has sent must not be carried out later.

The engine's requests block no thread; a transfer that does not move for as
long asks the same probe (:meth:`glance_dcn.ceph.connection.Connection.lost`).
"""

from __future__ import annotations

import typing

from glance_dcn.engine import native

if typing.TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds without an answer after which the cluster is suspected.
QUIET = 3
#: Seconds between two looks what has become of the suspicion.
PAUSE = 0.5
#: Seconds that a probe has; one that has no answer by then has none.
VERDICT = 11
# Seconds for which a thread waits for another call.
_IDLE = 5


class Call:
    """One call, and what has come of it.

    :param function: what to call
    :param args: its arguments
    :param late: called with the result if nothing waits for it any more
    """

    def __init__(self, function: Callable[..., typing.Any],
                 args: tuple[typing.Any, ...],
                 late: Callable[[typing.Any], None] | None = None) -> None:
        self._function = function
        self._args = args
        self._late = late
        self._lock = native.lock()
        self._outcome = native.Queue()
        self._left = False

    def run(self) -> None:
        """Make the call; for the thread that does."""
        result, error = None, None
        try:
            result = self._function(*self._args)
        except BaseException as exc:
            error = exc
        # What the call was about may be waiting for that to be closed.
        self._function = self._args = None
        with self._lock:
            if not self._left:
                self._outcome.put((result, error))
                return
        if error is None and self._late is not None:
            self._late(result)

    def wait(self, timeout: float) -> typing.Any:
        """Return what the function returned, or raise what it raised.

        :param timeout: seconds
        :raises glance_dcn.engine.native.Empty: if there is nothing yet
        """
        result, error = native.get(self._outcome, timeout)
        if error is not None:
            raise error
        return result

    def leave(self) -> bool:
        """Wait no longer; return False if there is an outcome already."""
        with self._lock:
            self._left = self._outcome.empty()
            return self._left


class Callers:
    """Threads that make calls, each of which waits a while for another one.

    They belong to one process.
    """

    def __init__(self) -> None:
        # The queues of those that wait for a call. Taking one out is atomic,
        # for the one who has a call and for the thread that has waited for
        # too long.
        self._idle: list[native.Queue] = []
        self._inside: set[int] = set()

    def is_caller(self) -> bool:
        """Return whether the thread that runs is one of these."""
        return native.thread_id() in self._inside

    def submit(self, call: Call) -> None:
        """Have a call made."""
        try:
            work = self._idle.pop()
        except IndexError:
            work = native.Queue()
            native.start('dcn-call', self._run, work)
        work.put(call)

    def _run(self, work: native.Queue) -> None:
        thread = native.thread_id()
        self._inside.add(thread)
        try:
            while True:
                try:
                    call = work.get(timeout=_IDLE)
                except native.Empty:
                    try:
                        self._idle.remove(work)
                        return
                    except ValueError:
                        # It was taken meanwhile, and a call is coming.
                        continue
                call.run()
                del call
                self._idle.append(work)
        finally:
            self._inside.discard(thread)
