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

"""Where an image can be read, and in which order that is tried."""

from __future__ import annotations

import dataclasses
import math
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping

    from glance_dcn.sites import site as sites

# Seconds of a round trip up to which sites are equally near; and how many
# times as far another has to be, to be in the next class of distance.
_NEAR = 0.005
_MARGIN = 4


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an image can be read.

    :ivar pool: name of the pool; None: the site's
    :ivar snapshot: name of the snapshot; None: the image itself
    """

    site: sites.Site
    pool: str | None
    image: str
    snapshot: str | None


def ordered(sources: Iterable[Source], local: str | None,
            weights: Mapping[str, float]) -> list[Source]:
    """Return sources in the order in which to try them.

    Sites that are up come before those that are away; then the heaviest, and
    of equal weight as :func:`preference` says.

    :param weights: of stores by name; 0 for those that are not in it
    """
    def key(source: Source) -> tuple[bool, float, float]:
        site = source.site
        return (not site.available, -weights.get(site.name, 0),
                -preference(site, local))
    return sorted(sources, key=key)


def preference(site: sites.Site, local: str | None) -> float:
    """Return how much a site is to be preferred, from 0 to less than 1.

    Above all the local site, then those nearer by a wide margin, by the round
    trip that was measured when they were connected to; a site that is away
    least of all. What is equally far is equal, so that the order does not
    change with each measurement.
    """
    if not site.available:
        return 0
    if site.name == local:
        return 0.9
    if site.round_trip is None:
        # One that was never connected to is as far as can be.
        return 0.1
    distance = max(0.0, math.log(max(site.round_trip, _NEAR) / _NEAR,
                                 _MARGIN))
    return 0.1 + 0.7 / (1 + math.ceil(distance))
