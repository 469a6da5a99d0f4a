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

"""How the whole deployment is at one moment: images, sites, transfers."""

from __future__ import annotations

import dataclasses
import enum
import time

from glance_dcn.ceph import health
from glance_dcn.status import cluster as clusters
from glance_dcn.status import inventory
from glance_dcn.status import poll

#: Seconds for sites to answer, unless others are chosen, and for each table of
#: the database.
ANSWER = 8
# Seconds for the questions about images, unless others are chosen: a million
# locations, on a busy server.
_LISTING = 120


class ImageState(str, enum.Enum):
    """How an image is at a site, as it is shown."""

    PRESENT = 'present'
    COPYING = 'copying'
    DELETING = 'deleting'
    LEFT = 'failed'
    LOST = 'lost'
    MISSING = 'missing'

    __str__ = str.__str__


PRESENT, COPYING, DELETING, LEFT, LOST, MISSING = ImageState


@dataclasses.dataclass
class Snapshot:
    """How the deployment is.

    :ivar images: those that were asked for, or None
    :ivar number: of images that were meant
    :ivar seconds: that it took
    :ivar taken: seconds since the epoch
    :ivar known: names of all stores that this node's Glance has had, or None
        if that cannot be read
    :ivar exists: whether the one image that was asked for is there, even if
        it is not among those that are meant; True if none was asked for
    :ivar work: who does the work of this node's home; None: not read
    """

    sites: list[poll.SiteStatus]
    totals: inventory.Totals
    transfers: list[inventory.Transfer]
    images: list[inventory.Image] | None
    number: int
    seconds: float
    taken: float
    known: set[str] | None = None
    exists: bool = True
    work: poll.Work | None = None

    @property
    def healthy(self) -> bool:
        """Whether every site is up, and nothing is deferred or lost."""
        return not (self.strays or any(map(self.is_wrong, self.sites))
                    or any(map(self.is_lost, self.images or ())))

    def is_wrong(self, site: poll.SiteStatus) -> bool:
        """Return whether a site is not up, or has tasks or lost images."""
        return bool(site.state != health.UP or site.tasks or site.unread
                    or site.unreadable or self.counts(site)[LOST])

    def is_lost(self, image: inventory.Image) -> bool:
        """Return whether an image is lost at a site."""
        return any(self.state(image, site)[0] is LOST for site in self.sites)

    @property
    def strays(self) -> dict[str, int]:
        """Number of images by store, of stores that were taken away.

        This node's Glance had them, and has no store of the name any more.
        """
        return {store: number for store, number in self.elsewhere.items()
                if store in (self.known or ())}

    @property
    def elsewhere(self) -> dict[str, int]:
        """Number of images by store, of stores that this node has not."""
        here = {site.name for site in self.sites}
        return {store: number for store, number
                in sorted(self.totals.present.items()) if store not in here}

    def counts(self, site: poll.SiteStatus) -> dict[ImageState, int]:
        """Return the numbers of images by how they are at a site.

        Those that are lost are at least so many: of images in the right
        cluster, only their number is compared.
        """
        lost, _data = self._lost(site)
        listed = self.totals.present.get(site.name, 0)
        return {PRESENT: listed - lost,
                COPYING: self.totals.importing.get(site.name, 0),
                LEFT: self.totals.failed.get(site.name, 0), LOST: lost,
                MISSING: max(0, self.totals.active - listed)}

    def stored(self, site: poll.SiteStatus) -> int:
        """Return the bytes of images that a site has."""
        return self.totals.stored.get(site.name, 0) - self._lost(site)[1]

    def _lost(self, site: poll.SiteStatus) -> tuple[int, int]:
        """Return (number, bytes) of images that cannot be where they were."""
        if site.prefix is None:
            return 0, 0
        cluster = site.prefix.rpartition('/')[0] + '/'
        places = self.totals.places.get(site.name, {})
        others = [found for prefix, found in places.items()
                  if prefix.startswith(poll.SCHEME)
                  and not prefix.startswith(cluster)]
        number = sum(count for count, _data in others)
        data = sum(size for _count, size in others)
        if site.names is not None:
            number += max(0, places.get(site.prefix, (0, 0))[0]
                          - len(site.names))
        return number, data

    def state(self, image: inventory.Image,
              site: poll.SiteStatus) -> tuple[ImageState, int | None]:
        """Return how an image is at a site, and the percent or None."""
        if site.name in image.importing:
            transfer = self._transfers.get(image.id)
            return COPYING, (transfer.percent_of(site.name) if transfer
                             else None)
        if site.name in image.present:
            return (LOST if site.lacks(image.places.get(site.name))
                    else PRESENT), None
        if image.id in site.images:
            return DELETING, None
        if site.name in image.failed:
            return LEFT, None
        return MISSING, None

    def __post_init__(self) -> None:
        self._transfers = {transfer.image: transfer
                           for transfer in self.transfers}


def take(targets: list[clusters.Target], timeout: float | None,
         wanted: inventory.Filter | None = None, limit: int = 0,
         deployment: str = '',
         database: inventory.Database | None = None) -> Snapshot:
    """Return how the deployment is now.

    :param timeout: seconds for the database and the sites, which are asked
        at the same time; None: 8, and longer for a database whose tables
        answer, as to count many images takes a while
    :param wanted: None: all images, if there are no more than the limit
    :raises glance_dcn.status.inventory.DatabaseUnavailable: if the database
        does not answer all of it in time
    """
    began = time.monotonic()
    # Sites are asked while the database is.
    polling = poll.Poll(targets, deployment)
    database = database or inventory.Database()
    if timeout is None:
        database.ask(inventory.ping, ANSWER)
    totals, images, number, transfers, exists = database.ask(
        lambda: _inventory(wanted, limit), timeout or _LISTING)
    left = (timeout or ANSWER) - (time.monotonic() - began)
    sites = polling.wait(max(left, 1))
    return Snapshot(sites, totals, transfers, images, number,
                    time.monotonic() - began, time.time(),
                    None if polling.kept is None else set(polling.kept),
                    exists, polling.work)


def _inventory(wanted: inventory.Filter | None, limit: int) -> tuple[
        inventory.Totals, list[inventory.Image] | None, int,
        list[inventory.Transfer], bool]:
    """Return what the database tells of a :class:`Snapshot`."""
    totals = inventory.totals()
    number = sum(totals.images.values())
    images, exists = None, True
    if wanted is not None or number <= limit:
        images, number = inventory.images(wanted or inventory.Filter(), limit)
    if wanted is not None and wanted.image is not None and not number:
        exists = bool(inventory.images(
            inventory.Filter(image=wanted.image), 1)[1])
    return totals, images, number, inventory.transfers(), exists
