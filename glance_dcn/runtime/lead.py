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

"""The lead: which process of a host does the background work of all.

What a process does for its host, beyond its own requests, it does while it
has the lead. This is the lead of a process that knows of no siblings, such as
a command; that of Glance's processes is
:class:`glance_dcn.workers.leader.HostLead`.
"""

from __future__ import annotations

import contextlib
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator


class Lead:
    """The lead of a process without siblings, which always has it."""

    def __init__(self) -> None:
        self._wakers: list[Callable[[], object]] = []
        self._beginners: list[Callable[[], object]] = []

    @property
    def is_held(self) -> bool:
        """Whether this process leads at this moment."""
        return True

    @property
    def term(self) -> object:
        """What differs between two times that this process leads, or None."""
        return 'always'

    def beat(self) -> bool:
        """Prove that this process leads and works, or take a free lead.

        :returns: whether this process leads
        """
        return True

    def resign(self) -> None:
        """Let a sibling take the lead at once."""

    def on_work(self, function: Callable[[], object]) -> None:
        """Have a function called in the leader when there may be work.

        :param function: without arguments; it must not block
        """
        self._wakers.append(function)

    def on_lead(self, function: Callable[[], object]) -> None:
        """Have a function called each time this process takes the lead.

        :param function: without arguments; it must not block
        """
        self._beginners.append(function)

    def notify(self) -> None:
        """Tell the leader that there is work; nothing is raised."""
        self._wake()

    def _wake(self) -> None:
        for function in list(self._wakers):
            function()

    @contextlib.contextmanager
    def job(self, name: str, limit: float | None = None) -> Iterator[None]:
        """Do work of the leader, which must not take too long.

        :param name: of the work, for messages
        :param limit: seconds after which it counts as hung, and the lead goes
            to a sibling; None: as many as heartbeats may be left out
        """
        yield

    def publish(self, name: str, text: str) -> None:
        """Leave a text to the other processes of the host.

        :raises OSError: if it cannot be written
        """

    def published(self, name: str) -> str | None:
        """Return what the leader has left, if it has changed; or None."""
        return None
