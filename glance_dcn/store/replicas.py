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

"""Where else the image of a location lies, among the stores of this process.

Glance gives a driver one location at a time. At other sites an image has the
same name, its UUID; whether it is the same image, its record tells.
"""

from __future__ import annotations

import itertools
import sys
import typing

from glance_store import location

from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.sites import sources

if typing.TYPE_CHECKING:
    from collections.abc import Iterator
    import types

    from glance_dcn.engine.backends import rbd as rbd_backend
    from glance_dcn.store import driver
    from glance_dcn.store import location as locations

# Module of the controllers that show images; those that read an image's data
# are in others (glance_interfaces.SHOWING proves it).
_SHOWING = 'glance.api.v2.images'
# The function that sorts locations, how many frames it is away at most, and
# the name of the answer in its frame.
_SORTING = 'sort_image_locations'
_FRAMES = 6
_ANSWER = '__glance_dcn_is_shown'


class Replicas:
    """The places where the image of a location may be read.

    """

    def __init__(self, store: driver.Store,
                 loc: locations.StoreLocation) -> None:
        self._store = store
        self._own = sources.Source(store.site, loc.pool, loc.image,
                                   loc.snapshot)
        group = getattr(store.conf, 'glance_store', None)
        self._local = getattr(group, 'default_backend', None)
        self._stores: dict[str, driver.Store] = {}
        # An image that somebody else named is looked for nowhere else.
        if (loc.pool, loc.snapshot) == (store.pool, images.SNAPSHOT):
            self._stores = stores_of(type(store))

    def failover(self) -> sources.SourceFailover:
        """Return how the image is read, from one place after the other.

        Until it is given the record of the image, which can be had once the
        image is open at its location, there is no other place.
        """
        return sources.SourceFailover(self._own.image, itertools.chain(
            [self._own], self._others()))

    def record(self, endpoint: rbd_backend.RBD) -> records.Record | None:
        """Return the record that tells whether another image is the same.

        :returns: None if the image is to be read at its location only
        :raises rbd.Error: if it cannot be told
        """
        if all(store is self._store for store in self._stores.values()):
            return None
        record = endpoint.call(records.load, fence=False)
        if record is None or record.size != endpoint.size:
            return None
        return record

    def _others(self) -> Iterator[sources.Source]:
        # Not before they are needed: their order changes. Which of them will
        # do is asked then, too.
        others = [sources.Source(store.site, None, self._own.image,
                                 images.SNAPSHOT)
                  for store in self._stores.values()
                  if store is not self._store]
        weights = {name: getattr(one, 'weight', 0)
                   for name, one in self._stores.items()}
        yield from sources.ordered(others, self._local, weights)


def stores_of(kind: type[driver.Store]) -> dict[str, driver.Store]:
    """Return the stores of a kind that glance_store has, by identifier."""
    known = location.SCHEME_TO_CLS_BACKEND_MAP.get('dcn', {})
    return {name: entry['store'] for name, entry in known.items()
            if isinstance(entry.get('store'), kind)}


def is_shown() -> bool:
    """Return whether Glance loads an image in order to show it.

    It asks for weights whenever it loads an image, and does not tell what
    for. The controller that serves the request does. Of an image with hundreds
    of locations it asks as often, so the answer is left in the frame of the
    function that sorts them (PEP 667: names that the function does not have
    stay there).
    """
    frame: types.FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            break
        if frame.f_code.co_name == _SORTING:
            names = frame.f_locals
            if _ANSWER not in names:
                names[_ANSWER] = _shows(frame)
            return bool(names[_ANSWER])
        frame = frame.f_back
    return _shows(sys._getframe(1))


def _shows(frame: types.FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get('__name__') == _SHOWING:
            return True
        frame = frame.f_back
    return False
