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

"""The event loop of a transfer, and its rate limits.

Each transfer is run by its caller's thread, which alone looks at its state:
there are no locks. Completions come from the threads of librbd and of the
engine; all they do is to put a tuple on the queue of its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import functools
import time
import typing

from glance_dcn.engine import errors
from glance_dcn.runtime import native

if typing.TYPE_CHECKING:
    # A handler, a request, and its result.
    _Event = tuple[Callable[[typing.Any, typing.Any], object] | None,
                   typing.Any, typing.Any]

#: Seconds after which deadlines are looked at, at the latest.
TICK = 0.25
# Idle time that a rate lets catch up with, in seconds.
_BURST = 0.25

_Request = typing.TypeVar('_Request')
_Result = typing.TypeVar('_Result')


def _post(queue: native.Queue[_Event],
          handler: Callable[[typing.Any, typing.Any], object],
          request: typing.Any, result: typing.Any) -> None:
    queue.put((handler, request, result))


class Loop:
    """Hands completions to their handlers, in the caller's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.cancelled = False
        self._queue: native.Queue[_Event] = native.Queue()

    def callback(self, handler: Callable[[_Request, _Result], object],
                 request: _Request) -> Callable[[_Result], None]:
        """Return a function of one argument, the result of a request.

        Any thread may call it; ``handler(request, result)`` then runs in the
        loop's thread.
        """
        return functools.partial(_post, self._queue, handler, request)

    def cancel(self) -> None:
        """Make the loop raise when it runs next. Any thread may call it."""
        self.cancelled = True
        self._queue.put((None, None, None))

    def run_once(self, timeout: float = TICK,
                 delays: Iterable[float] = ()) -> None:
        """Wait for a completion, then handle those that have come.

        :param timeout: seconds to wait at most
        :param delays: seconds after which something may go on without one;
            those of 0 do not count
        :raises Cancelled: after :meth:`cancel`
        """
        try:
            event = self._wait(min([timeout, *filter(None, delays)]))
            # All of them, before it is checked whether something has stalled;
            # no handler starts requests, so they come to an end.
            while True:
                self._check()
                handler, request, result = event
                if handler is not None:
                    handler(request, result)
                event = self._queue.get_nowait()
        except native.Empty:
            pass
        self._check()

    def _wait(self, timeout: float) -> _Event:
        return native.get(self._queue, timeout)

    def _check(self) -> None:
        if self.cancelled:
            raise errors.Cancelled('The transfer was cancelled.')


class Rate:
    """A token bucket that may go into debt.

    A request may start whenever there is no debt, and is charged whole. So
    no request is ever too large, and the mean over time is the limit. One
    object may be shared by several transfers, as the limit of their site.

    :param limit: bytes per second, or None for no limit; it may be
        changed at any time
    """

    def __init__(self, limit: float | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = native.lock()
        self._limit = limit
        self._tokens: float = (limit or 0) * _BURST
        self._last = clock()

    @property
    def limit(self) -> float | None:
        """The limit in bytes per second."""
        return self._limit

    @limit.setter
    def limit(self, limit: float | None) -> None:
        if limit is not None and limit <= 0:
            raise ValueError('a limit must be more than 0 bytes per second')
        with self._lock:
            self._fill()
            self._limit = limit
            self._tokens = min(self._tokens, (limit or 0) * _BURST)

    def delay(self) -> float:
        """Return the seconds until a request may start; 0 for now."""
        with self._lock:
            self._fill()
            # Less than a byte of debt is a matter of rounding.
            if self._limit is None or self._tokens > -1:
                return 0
            return -self._tokens / self._limit

    def charge(self, count: int) -> None:
        """Count bytes that were sent, or are being sent.

        :param count: bytes; below 0: so many fewer than was counted before
        """
        with self._lock:
            self._fill()
            self._tokens -= count

    def _fill(self) -> None:
        now = self._clock()
        if self._limit is None:
            self._tokens = 0
        else:
            self._tokens = min(self._tokens + (now - self._last)
                               * self._limit, self._limit * _BURST)
        self._last = now
