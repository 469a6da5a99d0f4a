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


"""The one thread that decides.

Each transfer is run by its caller's thread, which alone looks at its state:
there are no locks. Completions come from the threads of librbd and of the
engine; all they do is to put a tuple on the loop's queue.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import time
import typing

from glance_dcn.engine import errors
from glance_dcn.runtime import native

if typing.TYPE_CHECKING:
    # A handler, a request, and its result.
    _Event = tuple[Callable[[typing.Any, typing.Any], object] | None,
                   typing.Any, typing.Any]

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

    def reply(self, handler: Callable[[_Request, _Result], object],
              request: _Request) -> Callable[[_Result], None]:
        """Return a function of one argument, the result of a request.

        Any thread may call it; ``handler(request, result)`` then runs in the
        loop's thread.
        """
        return functools.partial(_post, self._queue, handler, request)

    def cancel(self) -> None:
        """Make the loop raise at its next turn. Any thread may call it."""
        self.cancelled = True
        self._queue.put((None, None, None))

    def turn(self, timeout: float) -> None:
        """Wait for a completion, then handle those that have come.

        :param timeout: seconds to wait at most
        :raises Cancelled: after :meth:`cancel`
        """
        try:
            self._handle(self._wait(timeout))
            # All of them, before it is checked whether something has stalled;
            # no handler starts requests, so they come to an end.
            while True:
                self._handle(self._queue.get_nowait())
        except native.Empty:
            pass
        self._check()

    def _handle(self, event: _Event) -> None:
        self._check()
        handler, request, result = event
        if handler is not None:
            handler(request, result)

    def _wait(self, timeout: float) -> _Event:
        return native.get(self._queue, timeout)

    def _check(self) -> None:
        if self.cancelled:
            raise errors.Cancelled('The transfer was cancelled.')
