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


"""A limit on bytes per second."""

from __future__ import annotations

from collections.abc import Callable
import time

from glance_dcn.runtime import native


# Idle time that may be caught up with, in seconds.
_BURST = 0.25


class Rate:
    """A token bucket that may go into debt.

    A request may start whenever there is no debt, and is charged whole. So
    no request is ever too large, and the mean over time is the limit. One
    object may be shared by several transfers, as the limit of their site.

    :param limit: bytes per second, or None for no limit; it may be set anew
        at any time
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
