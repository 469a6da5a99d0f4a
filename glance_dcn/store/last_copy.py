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

"""The last copy of an image, which stays while one of them is removed.

Glance reads an image, has a store remove the data of one location, and saves
the locations that it has read, but that one. So two requests at once could
remove all data, and what is saved last brings back a location whose data was
removed before. Its database is no proof that another store has the data
therefore; only that store is::

    request to remove it from dcn0          to remove it from central
    ------------------------------          -------------------------
    lock the removal at central, at dcn0    (waits)
    central: in the database? the data?
    remove the data at dcn0
    drop the location of dcn0
    unlock                                  lock it at central, at dcn0
                                            dcn0: no more in the database:
                                            refused

The locks are taken in the order of the locations, which is the same for all
Glances, at the store that the image is removed from and at the one that is to
keep it. Where this Glance may only read, or a site is away from which it is
removed, there is none. A store of another type than dcn is taken at its word.

A site that is gone is found out in some seconds. So before anything is locked,
the site that it is removed from and the nearest other one are asked whether
they answer, each in a thread; after a moment without an answer the next one is
asked beside it. Only sites that have just answered are locked.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
import typing

from glance_store import exceptions
from glance_store import location as locations

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.engine import errors as engine_errors
from glance_dcn.runtime import native
from glance_dcn.sites import sources
from glance_dcn.store import callers
from glance_dcn.store import failures
from glance_dcn.upstream import glance_interfaces

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

    from glance_dcn.store import driver
    from glance_dcn.store import location
    from glance_dcn.upstream import glance_db

    _Copy = tuple[driver.Store, location.StoreLocation]
    # A copy, and what asking its site has failed with.
    _Answers = native.Queue[tuple[_Copy, Exception | None]]

LOG = logging.getLogger(__name__)

# Seconds that a site has to answer before it is locked, that all have, and
# after which another one is asked as well.
_TIMEOUT, _PATIENCE, _MOMENT = 5, 15, 0.5
# What tells that it cannot be seen what a site has.
_SILENCE = (errors.ClusterError, omap.Error, name_lock.NotLocked,
            engine_errors.RequestError)


@contextlib.contextmanager
def kept(store: driver.Store, loc: location.StoreLocation,
         start: Callable[..., object] = native.start,
         patience: float = _PATIENCE) -> Iterator[None]:
    """See that another store keeps the image while the block removes it.

    Only where Glance removes it from one store, and that is not the end of an
    import that has failed.

    :param start: what starts the threads that ask sites and unlock, as
        :func:`glance_dcn.runtime.native.start`
    :param patience: seconds that all sites have to answer
    :raises failures.LastCopy: if no other store is seen to have the image, or
        the request knows other locations than the database
    """
    removal = callers.removal_from_one_store()
    database = store.database
    # Of a location that was never saved nobody else knows.
    if (removal is None or removal.undoes_import
            or 'id' not in removal.location
            or database is None or not database.available
            or not glance_interfaces.usable(glance_interfaces.IMAGE_DELETION)):
        yield
        return
    with contextlib.ExitStack() as locks:
        _Guard(store, loc, removal, database, start, patience).secure(locks)
        try:
            yield
        except exceptions.NotFound:
            _drop(removal, database)
            raise
        _drop(removal, database)


def _drop(removal: callers.Removal,
          database: glance_db.GlanceDatabase) -> None:
    """Drop the location as long as it is locked; Glance does it as well."""
    try:
        database.drop_location(removal.image_id, removal.location['id'])
    except Exception as exc:
        LOG.warning('Image %(image)s: a location is dropped later: %(error)s',
                    {'image': removal.image_id, 'error': exc})


class _Guard:
    """What is needed to remove an image from one store."""

    def __init__(self, store: driver.Store, loc: location.StoreLocation,
                 removal: callers.Removal,
                 database: glance_db.GlanceDatabase,
                 start: Callable[..., object], patience: float) -> None:
        self._own = store, loc
        self._start = start
        self._deadline = time.monotonic() + patience
        # Whether the site answers that it is removed from; None: unknown yet.
        self._own_answers: bool | None = None
        self._own_answer: _Answers = native.Queue()
        self._removal = removal
        self._database = database
        self._reasons: list[str] = []

    def secure(self, locks: contextlib.ExitStack) -> None:
        """Find another store that has the image, and lock the removal.

        :param locks: is given the locks
        :raises failures.LastCopy: if there is none
        """
        ours, has_others = self._others()
        self._ask(self._own, self._own_answer)
        for copy in self._answering(ours):
            with contextlib.ExitStack() as stack:
                if self._is_kept(stack, copy):
                    locks.push(stack.pop_all())
                    return
        if not has_others:
            raise self._refusal('no other store is seen to have it: %s'
                                % '; '.join(self._reasons or ['there is none']
                                            ))
        with contextlib.ExitStack() as stack:
            try:
                self._lock(stack, self._own)
            except name_lock.NotLocked as exc:
                raise self._refusal(str(exc)) from exc
            self._check_database()
            locks.push(stack.pop_all())

    def _others(self) -> tuple[list[_Copy], bool]:
        """Return the other copies, the nearest first.

        :returns: and whether stores of other types have locations
        """
        store, _loc = self._own
        enabled = getattr(store.conf, 'enabled_backends', None) or {}
        found: dict[str, _Copy] = {}
        has_others = False
        for place in self._removal.others:
            name = place['metadata'].get('store')
            other = store.siblings.get(name)
            if other is not None:
                copy = (other, locations.get_location_from_uri_and_backend(
                    place['url'], other.name, conf=store.conf).store_location)
                # Two stores may have one pool, and so the same copy.
                if _place(copy) != _place(self._own):
                    found[other.name] = copy
            elif name in enabled:
                has_others = True
            else:
                self._reasons.append('store %s is none of this Glance\'s: ask '
                                     'one that has it' % name)
        near = sources.ordered(
            [sources.Source(other.site, loc.pool, loc.image, loc.snapshot)
             for other, loc in found.values()], store.name, {})
        return [found[source.site.name] for source in near], has_others

    def _ask(self, copy: _Copy, answers: _Answers) -> None:
        """Ask in a thread whether a site answers about its image."""
        store, loc = copy

        def ask() -> None:
            error: Exception | None = None
            try:
                with store.site.open_pool(loc.pool) as ioctx:
                    try:
                        images.check_responsive(ioctx, loc.image, _TIMEOUT)
                    except omap.Error as exc:
                        # One slow object does not make a site lost.
                        error = exc
                        store.site.suspect()
            except Exception as exc:
                error = exc
            answers.put((copy, error))
        try:
            self._start('dcn-ask', ask)
        except RuntimeError as exc:
            answers.put((copy, errors.Exhausted(
                store.name, 'no thread can be started to ask it (%s)' % exc,
                'raise pids.max (pids_limit of the container)')))

    def _answering(self, copies: list[_Copy]) -> Iterator[_Copy]:
        """Give the copies whose sites answer, each as soon as it does."""
        answers: _Answers = native.Queue()
        waiting = collections.deque(copies)
        asked: list[str] = []
        while waiting or asked:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._reasons += ['store %s: it did not answer in time' % name
                                  for name in asked]
                return
            if waiting:
                asked.append(waiting[0][0].name)
                self._ask(waiting.popleft(), answers)
            try:
                copy, error = native.get(
                    answers, min(left, _MOMENT) if waiting else left)
            except native.Empty:
                continue
            name = copy[0].name
            asked.remove(name)
            if error is None:
                yield copy
            elif isinstance(error, _SILENCE):
                self._reasons.append('store %s: %s' % (name, error))
            else:
                raise error

    def _has_own_answered(self) -> bool:
        """Return whether the site answers that it is removed from.

        Where it does not, that is deferred.
        """
        if self._own_answers is None:
            self._own_answers = self._wait_for_own()
        return self._own_answers

    def _wait_for_own(self) -> bool:
        # It may be found to be away meanwhile, by others that wait for it.
        while (self._own[0].site.available
               and (left := self._deadline - time.monotonic()) > 0):
            try:
                _own, error = native.get(self._own_answer,
                                         min(left, _MOMENT))
            except native.Empty:
                continue
            if error is not None and not isinstance(error, (
                    errors.ClusterError, omap.Error)):
                raise error
            return error is None
        return False

    def _is_kept(self, stack: contextlib.ExitStack, copy: _Copy) -> bool:
        """Lock the removal here and there; return whether the copy is there.

        :raises failures.LastCopy: if the request knows other locations than
            the database
        """
        other, loc = copy
        try:
            for one in sorted([self._own, copy], key=_place):
                self._lock(stack, one)
            self._check_database()
            with other.site.open_pool(loc.pool) as ioctx, other.site.reading(
                    ioctx, loc.image, loc.snapshot):
                if loc.fsid in (None, other.site.fsid):
                    return True
                self._reasons.append('store %s: its cluster has fsid %s' % (
                    other.name, other.site.fsid))
        except _SILENCE as exc:
            self._reasons.append('store %s: %s' % (other.name, exc))
        return False

    def _lock(self, stack: contextlib.ExitStack, copy: _Copy) -> None:
        """Lock the removal at a store, unless this Glance may only read it."""
        store, loc = copy
        if copy is self._own and not self._has_own_answered():
            return
        if store.site.access.refusal() is not None:
            return
        held = contextlib.ExitStack()
        try:
            ioctx = held.enter_context(store.site.open_pool(loc.pool))
            # Each call ends as soon as the site is known to be away.
            lock = store.site.removal_lock(ioctx, loc.image)
            store.site.call(
                lambda _ioctx: lock.__enter__(), ioctx,
                late=lambda _held: lock.__exit__(None, None, None),
                fence=False)
            held.push(lock)
        except BaseException as exc:
            held.close()
            # Where it is removed from, that is deferred.
            if copy is self._own and isinstance(exc, (
                    errors.ClusterError, omap.Error)):
                return
            raise
        stack.callback(_release, held, self._start)

    def _check_database(self) -> None:
        known = {one['id'] for one in (self._removal.location,
                                       *self._removal.others) if 'id' in one}
        if self._database.location_ids(self._removal.image_id) != known:
            raise self._refusal('its locations have changed meanwhile; look '
                                'where it is')

    def _refusal(self, reason: str) -> failures.LastCopy:
        store, _loc = self._own
        return failures.LastCopy(
            'Image %s is not removed from store %s: %s' % (
                self._removal.image_id, store.name, reason))


def _release(held: contextlib.ExitStack,
             start: Callable[..., object]) -> None:
    """Unlock in a thread: what is done is done, whatever a site answers."""
    def close() -> None:
        try:
            held.close()
        except Exception as exc:
            LOG.warning('The removal of an image is not unlocked: %s', exc)
    try:
        start('dcn-unlock', close)
    except RuntimeError:
        close()


def _place(copy: _Copy) -> tuple[str, str]:
    """Return cluster and pool of a copy, by which locks are ordered."""
    store, loc = copy
    return (loc.fsid or store.site.connection.known_fsid or '',
            loc.pool or store.pool)
