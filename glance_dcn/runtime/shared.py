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

"""Something that is closed when nothing uses it any more.

An open image or pool is closed by the one that has opened it, but must not be
while a function that was left by its caller, because no answer comes, still
uses it in another thread.
"""

from __future__ import annotations

from collections.abc import Callable

from glance_dcn.runtime import native


class Shared:
    """The uses of something that is open; the first is that of its opener.

    :param close: closes it; called once, by the thread that ends the last use
    """

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close
        self._lock = native.lock()
        self._uses = 1

    def acquire(self) -> None:
        """Begin a further use; there is one."""
        with self._lock:
            self._uses += 1

    def release(self) -> bool:
        """End a use, and close it after the last one.

        :returns: whether it was the last one
        """
        with self._lock:
            self._uses -= 1
            last = not self._uses
        if last:
            self._close()
        return last
