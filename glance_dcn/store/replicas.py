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

At other sites an image has the same name, its UUID; whether it is the same
image, its record tells.
"""

from __future__ import annotations

import errno
import itertools
import time
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.runtime import native
from glance_dcn.sites import sources
from glance_dcn.store import failures

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from glance_dcn.engine.backends import rbd as rbd_backend
    from glance_dcn.store import driver
    from glance_dcn.store import location as locations

# Seconds for which clusters that are just being connected to are waited for,
# and between two polls.
_PATIENCE, _POLL = 5, .02


class Replicas:
    """The places where the image of a location may be read."""

    def __init__(self, store: driver.Store,
                 loc: locations.StoreLocation) -> None:
        self._store = store
        self._own = sources.Source(store.site, loc.pool, loc.image,
                                   loc.snapshot)
        group = getattr(store.conf, 'glance_store', None)
        self._local = getattr(group, 'default_backend', None)
        self._stores: dict[str, driver.Store] = {}
        # An image that others have named is read at its location only.
        if (loc.pool, loc.snapshot) == (store.pool, images.SNAPSHOT):
            self._stores = store.siblings

    def failover(self) -> sources.SourceFailover:
        """Return how the image is read, from one place after the other.

        There is no other place until it is given the record of the image,
        which can be had once the image is open at its location.
        """
        return sources.SourceFailover(self._own.image, itertools.chain(
            [self._own], self._others()))

    def record(self, endpoint: rbd_backend.RBD) -> records.Record | None:
        """Return the record that tells whether another image is the same.

        :returns: None if the image is to be read at its location only
        :raises rbd.Error: if it cannot be read
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


def owner(store: driver.Store,
          loc: locations.StoreLocation) -> driver.Store | None:
    """Return the store whose cluster has the fsid of a location.

    A cluster that is away cannot tell an fsid that its conf file does not
    have; it is not waited for where another store has that fsid.

    :param store: the one that Glance asks
    :returns: it, too, if it is not known to have another fsid and no other
        store has the location's; otherwise None
    """
    fsid = store.site.connection.known_fsid
    if fsid == loc.fsid:
        return store
    found = _other_owner(store, loc, fsid)
    if found is None and fsid is None:
        fsid = store.site.fsid
        if fsid == loc.fsid:
            return store
    deadline = time.monotonic() + _PATIENCE
    # To ask for what is not known has had it looked for in the background.
    while found is None:
        is_over = (time.monotonic() >= deadline
                   or not any(_is_being_asked(other)
                              for other in store.siblings.values()))
        found = _other_owner(store, loc, fsid)
        if is_over:
            break
        native.sleep(_POLL)
    return found or (store if fsid is None else None)


def holder(store: driver.Store,
           loc: locations.StoreLocation) -> driver.Store | None:
    """Return the store that has the image of a location without an fsid.

    Which the oldest form has not. It may be in any store's pool but those that
    the image has a location of its own in. What has no snapshot may be a copy
    that is under way: it counts only if nothing else can be meant.

    :param store: the one that Glance asks
    :returns: None if no store has it
    :raises failures.Away: if that cannot be told
    """
    database = store.database
    located = database.locations(loc.image) if database else set()
    silent: list[str] = []
    incomplete = []
    for one in sorted(store.siblings.values(), key=lambda one: (
            not one.site.available, one is not store,
            one.site.connection.round_trip is None,
            one.site.connection.round_trip or 0)):
        prefix = one.url_prefix
        if prefix and any(uri.startswith(prefix) for uri in located):
            continue
        try:
            if _has(one, loc.image, images.SNAPSHOT):
                return one
            if _has(one, loc.image, None):
                incomplete.append(one)
        except (errors.ClusterError, engine_errors.RequestError) as exc:
            silent.append(str(exc))
    if silent or len(incomplete) > 1:
        raise failures.Away(
            message='Which store has image %s cannot be told, as location %s '
            'names none; %s' % (
                loc.image, loc.get_uri(), '; '.join(silent or [
                    'store %s has an RBD image of that name'
                    % one.name for one in incomplete])))
    return next(iter(incomplete), None)


def _has(store: driver.Store, image: str, snapshot: str | None) -> bool:
    """Return whether a store's pool has an image with a snapshot.

    :raises glance_dcn.ceph.errors.ClusterError,
        glance_dcn.engine.errors.RequestError: if it does not tell
    """
    try:
        with store.site.open_pool() as ioctx, store.site.reading(
                ioctx, image, snapshot):
            return True
    except engine_errors.RequestError as exc:
        if exc.errno == errno.ENOENT:
            return False
        raise


def _other_owner(store: driver.Store, loc: locations.StoreLocation,
                 fsid: str | None) -> driver.Store | None:
    found = [other for other in store.siblings.values()
             if other is not store
             and other.site.connection.known_fsid == loc.fsid]
    # Several stores may have pools of one cluster.
    exact = [other for other in found if other.pool == loc.pool]
    if not exact and fsid is None and store.pool == loc.pool:
        return None
    return next(iter(exact or found), None)


def _is_being_asked(store: driver.Store) -> bool:
    return (store.site.connection.known_fsid is None
            and store.site.health.state == health.UNKNOWN)


def is_last_answer(store: driver.Store,
                   loc: locations.StoreLocation) -> bool:
    """Return whether no other store could have a location, of any kind.

    :param store: one that has it not
    """
    ours = store.siblings
    enabled = getattr(store.conf, 'enabled_backends', None) or {}
    return owner(store, loc) is None and not any(
        kind == 'rbd' and name not in ours for name, kind in enabled.items())
