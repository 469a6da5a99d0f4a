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

"""What belongs to one process, made once in each child of a fork.

Locks, connections and records in memory of a parent are not those of its
child. The child begins with its own, on first use: WSGI servers fork after
loading the application, and not all of them tell Python when they do. Several
threads may be the first; one makes it, and the others wait for that. The lock
for it cannot be one that the parent had, which another thread may have held
at the moment of the fork.
"""

from __future__ import annotations

import os
import typing

from glance_dcn.runtime import native

if typing.TYPE_CHECKING:
    from collections.abc import Callable


class ForkGuard:
    """Calls a function once in this process, and in each child of a fork.

    :param reset: makes what belongs to a process; called at once, too
    """

    def __init__(self, reset: Callable[[], object]) -> None:
        self._reset = reset
        self._locks: dict[int, typing.Any] = {}
        self._pid = 0
        self.check()

    @property
    def is_current(self) -> bool:
        """Whether what there is belongs to this process."""
        return self._pid == os.getpid()

    def check(self) -> None:
        """Call the function if this is a child that has not; wait for it.

        :raises Exception: what the function raises
        """
        pid = os.getpid()
        if self._pid == pid:
            return
        # One call for all threads: dict.setdefault() is atomic.
        with self._locks.setdefault(pid, native.lock()):
            if self._pid != pid:
                self._reset()
                self._pid = pid
