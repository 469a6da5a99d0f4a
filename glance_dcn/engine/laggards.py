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

"""Which targets of a transfer hold back the others.

What bounds a transfer is the memory of its buffers, and a buffer is held
until the last target has it written. So a target that trickles soon has all
the memory in its queue, and the others wait for it; and at the end they wait
until it is done, before they can be published.

A target is let go of only if that has cost the others some time, and if it is
much slower than they are: one that is a little slower would cost the source
more, which has to be read again for it, than it costs the others.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import statistics

from glance_dcn.engine import lane as lanes_


# Seconds for which the others may be held back in any case, and the part of
# the time since the transfer began.
_PATIENCE = 0.5
_SHARE = 0.1
# A target is slow that has less than this part of the others' median speed.
_SLOW = 0.5


class Laggards:
    """Finds the lanes that hold back the other lanes of a transfer."""

    def __init__(self, clock: Callable[[], float],
                 lanes: Sequence[lanes_.Lane]) -> None:
        self._clock = clock
        self._lanes = lanes
        self._began = self._last = clock()
        # Seconds for which lanes were held back since one was let go of.
        self._held = 0.0

    def find(self, blocked: bool, ended: bool) -> list[lanes_.Lane]:
        """Return the lanes that are to be let go of now.

        :param blocked: whether nothing is read because memory is full
        :param ended: whether everything has been read
        """
        now = self._clock()
        passed, self._last = now - self._last, now
        live = [lane for lane in self._lanes if lane.live]
        if len(live) < 2 or not (
                any(lane.flushed for lane in live) if ended
                else blocked and any(lane.idle for lane in live)):
            return []
        self._held += passed
        patience = max(_PATIENCE, _SHARE * (now - self._began))
        found = [lane for lane in live if not lane.flushed and (
            lane.flushing > patience if lane.idle else
            self._held + self._remaining(lane, ended) > patience
            and self._is_slow(lane, live))]
        if found:
            self._held = 0.0
        return found

    def _is_slow(self, lane: lanes_.Lane,
                 live: Sequence[lanes_.Lane]) -> bool:
        return lane.speed < _SLOW * statistics.median(
            other.speed for other in live if other is not lane)

    def _remaining(self, lane: lanes_.Lane, ended: bool) -> float:
        """Return the seconds that it will take at least, if that is known."""
        return lane.backlog / lane.speed if ended and lane.written else 0.0
