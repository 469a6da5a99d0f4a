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

import functools
import time

from glance_dcn.engine import errors
from glance_dcn.engine import native


def _post(queue, handler, request, result):
    queue.put((handler, request, result))


class Loop:
    """Hands completions to their handlers, in the caller's thread.

    :param clock: returns seconds
    """

    def __init__(self, clock=time.monotonic):
        self.clock = clock
        self.cancelled = False
        self._queue = native.Queue()

    def reply(self, handler, request):
        """Return a function of one argument, the result of a request.

        Any thread may call it; ``handler(request, result)`` then runs in the
        loop's thread.
        """
        return functools.partial(_post, self._queue, handler, request)

    def cancel(self):
        """Make the loop raise at its next turn. Any thread may call it."""
        self.cancelled = True
        self._queue.put((None, None, None))

    def turn(self, timeout):
        """Wait for a completion, then handle those that have come.

        :param timeout: seconds to wait at most
        :raises Cancelled: after :meth:`cancel`
        """
        try:
            self._handle(self._wait(timeout))
            # All of them, before anybody looks whether something has stalled;
            # no handler starts requests, so they come to an end.
            while True:
                self._handle(self._queue.get_nowait())
        except native.Empty:
            pass
        self._check()

    def _handle(self, event):
        self._check()
        handler, request, result = event
        if handler is not None:
            handler(request, result)

    def _wait(self, timeout):
        return native.get(self._queue, timeout)

    def _check(self):
        if self.cancelled:
            raise errors.Cancelled('The transfer was cancelled.')
