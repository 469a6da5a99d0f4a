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

"""Refusing to delete an image where this Glance may not delete all of it.

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

from glance_dcn import catalog
from glance_dcn.ceph import permission
from glance_dcn.store import failures
from glance_dcn.store import replicas

if typing.TYPE_CHECKING:
    from glance_dcn.store import driver
    from glance_dcn.store import location

LOG = logging.getLogger(__name__)


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
    uris = catalog.locations(loc.image) if others else []
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
