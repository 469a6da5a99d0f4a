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

"""The targets of a copy, and where each of them stands.

The source is read once for all targets of a wave. How many run at the same
time is bounded by what the process may have of files, threads and memory
(:mod:`glance_dcn.runtime.limits`). Of those, a bounded number are stragglers:
targets that were let go of because they held back the others, and that are
written to their end one by one. Any more than that are put back, to begin
again when the others are done.
"""

from __future__ import annotations

import collections
import dataclasses
import time
import typing

from glance_dcn.runtime import limits

if typing.TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence

    from glance_dcn.engine import transfer
    from glance_dcn.sites import site as sites_
    from glance_dcn.sites import target as targets_

#: Targets that are written at the same time, if there is room for them.
AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a copy is.

    :ivar transfer: progress of the wave's transfer, as last told; None if
        none has told any yet
    :ivar fraction: part of the whole copy that is done, 0 to 1
    :ivar done: targets that have the image
    :ivar running: targets that are being written
    :ivar waiting: targets that wait for a later wave
    :ivar failed: targets that have failed
    :ivar stragglers: names of the sites that go on by themselves
    :ivar left: seconds until it is probably done; None if that is not known
    """

    transfer: transfer.Progress | None
    fraction: float
    done: int
    running: int
    waiting: int
    failed: int
    stragglers: list[str]
    left: float | None


class Waves:
    """The targets of one copy. Not thread-safe.

    :param sites: those that are to have the image
    :param at_once: targets that run at the same time at most
    :ivar waiting: sites that wait for a later wave
    :ivar running: targets that have begun and have not come to their end
    :ivar stragglers: those of them that go on by themselves
    """

    def __init__(self, sites: Iterable[sites_.Site],
                 at_once: int = AT_ONCE) -> None:
        self.waiting = collections.deque(sites)
        self.running: list[targets_.Target] = []
        self.stragglers: list[targets_.Target] = []
        self._at_once = at_once
        self._put_back: set[sites_.Site] = set()
        self._done = self._failed = 0
        self._count = len(self.waiting)
        self._began = time.monotonic()
        self._progress: transfer.Progress | None = None

    def next(self) -> list[sites_.Site]:
        """Take the sites of the next wave: one at least, if any waits.

        Those that can begin at once come before those that are at the limit
        of their transfers, of which one is waited for at a time; and those
        that were put back come last.
        """
        room = max(1, self._limit() - len(self.running))
        ready = [site for site in self.waiting if not site.limits.full]
        fresh = [site for site in ready if site not in self._put_back]
        chosen = (fresh or ready)[:room] or list(self.waiting)[:1]
        for site in chosen:
            self.waiting.remove(site)
        return chosen

    def begin(self, targets: Iterable[targets_.Target]) -> None:
        """Record that targets run."""
        self._progress = None
        self.running.extend(targets)

    def straggles(self, target: targets_.Target) -> bool:
        """Let a target go on by itself, if it may.

        :returns: whether it may; False: it has to be put back
        """
        if len(self.stragglers) >= max(1, self._limit() // 2):
            return False
        self.stragglers.append(target)
        return True

    def was_put_back(self, target: targets_.Target) -> bool:
        """Return whether a target's site has been put back before."""
        return target.site in self._put_back

    def put_back(self, target: targets_.Target) -> None:
        """Let the site of a target wait again, of which nothing is left."""
        self._forget(target)
        self._put_back.add(target.site)
        self.waiting.append(target.site)

    def retry(self, sites: Sequence[sites_.Site]) -> None:
        """Let the sites of a wave be first in the next one."""
        self.running = [target for target in self.running
                        if target.site not in sites]
        self.waiting.extendleft(reversed(sites))

    def end(self, target: targets_.Target) -> None:
        """Record that a target has come to its end."""
        self._forget(target)
        if target.error is None:
            self._done += 1
        else:
            self._failed += 1

    def fail_waiting(self) -> list[str]:
        """Give up the sites that wait, and return their names."""
        names = [site.name for site in self.waiting]
        self._failed += len(names)
        self.waiting.clear()
        return names

    def standing(self, progress: transfer.Progress | None = None) -> Standing:
        """Return how far the copy is.

        :param progress: of the wave's transfer; None: as it was told last
        """
        self._progress = progress or self._progress
        shared = len(self.running) - len(self.stragglers)
        ended = (self._done + self._failed
                 + shared * (self._progress.fraction if self._progress else 0))
        alone = sum(target.part for target in self.stragglers)
        return Standing(
            self._progress, (ended + alone) / max(1, self._count), self._done,
            len(self.running), len(self.waiting), self._failed,
            sorted(target.site.name for target in self.stragglers),
            self._left(ended, shared + len(self.waiting)))

    def _left(self, ended: float, count: int) -> float | None:
        """Return the seconds until all is probably done.

        Those that share a source go on as they did; each of the others, too.
        """
        now = time.monotonic()
        estimates = []
        if count:
            if not ended:
                return None
            remaining = self._count - len(self.stragglers) - ended
            estimates.append((now - self._began) * remaining / ended)
        for target in self.stragglers:
            if not target.part or target.began is None:
                return None
            estimates.append((now - target.began) * (1 - target.part)
                             / target.part)
        return max(estimates, default=0.0)

    def _limit(self) -> int:
        return limits.targets_at_once(self._at_once, len(self.running))

    def _forget(self, target: targets_.Target) -> None:
        self.running.remove(target)
        if target in self.stragglers:
            self.stragglers.remove(target)
