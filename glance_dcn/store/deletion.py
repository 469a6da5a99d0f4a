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

"""Deleting an image, or refusing to, if not all of it may be deleted.

Glance deletes an image by removing it from one store after the other, the
nearest first. At an edge, whose key of central is good for reading alone,
the copy of the edge would be gone when central refuses, and the image would
still be there, with a location of what is not. So the first store that is
asked looks at all of them.
"""

from __future__ import annotations

import logging
import sys
import typing

from glance_dcn.ceph import images
from glance_dcn.ceph import permission
from glance_dcn.engine import native
from glance_dcn import glance_db
from glance_dcn.store import failures
from glance_dcn.store import replicas

if typing.TYPE_CHECKING:
    from glance_dcn.sites import site as sites
    from glance_dcn.store import driver
    from glance_dcn.store import location

LOG = logging.getLogger(__name__)

#: Seconds a site has to answer before a deletion is deferred instead.
ANSWER = 5


class Deletion:
    """The removal of the image of a location, in a thread of its own.

    :ivar loc: :class:`glance_dcn.store.location.StoreLocation`
    :ivar image_id: internal ID of the RBD image, once it is known
    :ivar address: address of the client that removes it, once it is known
    :ivar abandoned: whether its caller has stopped waiting: it must not begin
        any more
    """

    def __init__(self, site: sites.Site, loc: location.StoreLocation) -> None:
        self.loc = loc
        self.image_id: str | None = None
        self.address: str | None = None
        self.abandoned = False
        self._site = site

    def run(self, outcome: native.Queue) -> None:
        """Remove the image.

        :param outcome: queue for the exception, or None
        """
        error: BaseException | None = None
        try:
            with self._site.open_pool(self.loc.pool) as ioctx:
                self._remove(ioctx)
        except BaseException as exc:
            error = exc
        outcome.put(error)

    def _remove(self, ioctx: typing.Any) -> None:
        image = self.loc.image
        self.address = self._site.address_of(ioctx)
        # A site that has just gone away, or hangs, is not to be waited for as
        # long as other requests are.
        images.knock(ioctx, image, ANSWER)
        self.image_id = images.look_up(ioctx, image)
        with self._site.name_lock(ioctx, image):
            # Whether another has it by now is seen by its internal ID; what
            # was abandoned is done by the task runner.
            if not self.abandoned:
                self._site.delete(ioctx, image, self.image_id,
                                  self.loc.snapshot, self.loc.pool)


def check_other_stores(store: driver.Store,
                       loc: location.StoreLocation) -> None:
    """Return if the image of a location can be deleted from all its stores.

    Also if Glance removes the image from this store only.

    :param store: ``dcn`` driver of the location
    :param loc: the location that is to be deleted
    :raises glance_dcn.store.failures.DeleteDenied: if it lies in another
        store, too, in which this Glance may only read
    """
    if _is_removal_from_one_store():
        return
    others = [other for other in replicas.stores_of(type(store)).values()
              if other is not store]
    database = glance_db.of(store.conf) if others else None
    uris = database.locations(loc.image) if database else ()
    for other in others:
        prefix = other.url_prefix
        if prefix and any(uri.startswith(prefix) for uri in uris):
            denied = other.site.access.refusal()
            if denied:
                raise _denied(loc.image, denied)


def explain(store: driver.Store, loc: location.StoreLocation,
            exc: BaseException) -> None:
    """Raise DeleteDenied if an error means that this Glance may only read.

    :param exc: what the cluster of the store has answered
    :raises glance_dcn.store.failures.DeleteDenied: if it does
    """
    denied = permission.is_denied(exc) and store.site.access.refusal()
    if denied:
        raise _denied(loc.image, denied) from exc


def check_may_defer(store: driver.Store, loc: location.StoreLocation) -> None:
    """Return if a removal may be recorded as a task.

    :raises glance_dcn.store.failures.DeleteDenied: if this Glance may only
        read in the store, as far as is known: its task runner could not do it
    """
    denied = store.site.access.known_refusal()
    if denied:
        raise _denied(loc.image, denied)


def _denied(image: str, reason: Exception) -> failures.DeleteDenied:
    LOG.warning('Image %(image)s is not deleted: %(reason)s',
                {'image': image, 'reason': reason})
    return failures.DeleteDenied(str(reason))


def _is_removal_from_one_store() -> bool:
    """Return whether Glance takes one location from an image that stays.

    A driver is told neither that nor which request it serves. Glance takes
    locations from images in one method; what comes from elsewhere is taken
    for the deletion of the whole image.
    """
    frame = sys._getframe()
    while frame is not None:
        if (frame.f_code.co_name == 'pop'
                and frame.f_globals.get('__name__') == 'glance.location'):
            return True
        frame = frame.f_back
    return False
