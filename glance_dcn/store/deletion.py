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

"""Deleting an image from its stores: from all of them at once, or from none.

Glance deletes an image by asking one store after the other to remove it, and
a store is told of its own location only. At 200 sites that would take minutes;
and if the third store refuses, because its image has clones or the key of this
Glance is good for reading alone, those before it have removed theirs already.
So the first store that is asked deletes the image from all of them::

    request           a thread for each store, some at a time
    -------           ---------------------------------------
                      take the name lock; unprotect the snapshot
    all have      <-- "prepared", or an error
    decide        --> remove it; or, if one store refuses, protect it again
    1.6 s are over    (goes on)
    record tasks for the stores that have not answered, in one operation

The calls for the other stores of the same request get what has become of
theirs. Nothing that is asked of one store alone (the removal from one store,
glance-scrubber) is done at another.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import time
import typing
import weakref

from glance_store import exceptions
from glance_store import location as locations
import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.runtime import native
from glance_dcn.store import callers
from glance_dcn.store import failures
from glance_dcn.tasks import queue
from glance_dcn.tasks import task as tasks

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    import rados

    from glance_dcn.sites import site as sites
    from glance_dcn.store import driver
    from glance_dcn.store import location

LOG = logging.getLogger(__name__)

# Locations from which on Glance is spared what it does for each of them.
_MANY = 20
# Seconds between two checks whether a site is still there.
_POLL = 0.5

# What a cluster ends a removal with, an answer or not.
_ANSWERS = (rbd.Error, omap.Error, name_lock.NameLockError)


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long stores are waited for, and how many at a time.

    :ivar answer: seconds that one store has, if it is asked alone
    :ivar together: seconds that all stores of an image have together
    :ivar decision: seconds after which it is decided although some have not
        prepared the removal
    :ivar workers: stores at which an image is removed at the same time
    """

    answer: float = 5
    together: float = 1.6
    decision: float = 1.1
    workers: int = 24


class Deletion:
    """The removal of the image of a location, in a thread of its own.

    :ivar image_id: internal ID of the RBD image, once it is known
    :ivar address: address of the client that removes it, once it is known
    :ivar begun: whether its site has been asked
    :ivar abandoned: whether its caller has stopped waiting: it must not begin
        any more
    :ivar prepared: whether nothing was in the way of it
    :ivar deferred: whether it is recorded as a task
    :ivar refusal: why the store refuses it although it has not answered, or
        None
    """

    def __init__(self, site: sites.Site, loc: location.StoreLocation,
                 store: driver.Store | None = None,
                 checks_access: bool = False,
                 answer: float = Patience.answer) -> None:
        self._answer = answer
        self.loc = loc
        self.store = store
        self.site = site
        self.image_id: str | None = None
        self.address: str | None = None
        self.error: BaseException | None = None
        self.refusal: errors.ReadOnly | None = None
        self.begun = False
        self.abandoned = self.prepared = self.done = self.deferred = False
        self._checks_access = checks_access
        self._decision: native.Queue[bool] = native.Queue()
        self._decided: bool | None = None

    def decide(self, remove: bool) -> None:
        """Tell it, once, whether to go on when it is prepared."""
        self._decision.put(remove)

    def run(self, events: native.Queue[Deletion]) -> None:
        """Remove the image, if that is decided.

        :param events: is given this object when it is prepared, and done
        """
        self.begun = True
        for last in (False, True):
            self.error = None
            try:
                with self.site.open_pool(self.loc.pool) as ioctx:
                    self._remove(ioctx, events)
            except BaseException as exc:
                self.error = exc
                # The cluster has cut off this client: there is a new one.
                if not last and self._decided is not False and abs(
                        getattr(exc, 'errno', None) or 0) == errno.ESHUTDOWN:
                    continue
            break
        self.done = True
        events.put(self)

    def is_unanswered(self) -> bool:
        """Return whether the site has not answered, so far or at all."""
        if not self.done or isinstance(self.error, (
                errors.Unreachable, errors.NotDeployed, errors.Exhausted)):
            return True
        # An error that a cluster answers with, a refusal say, is an answer.
        return isinstance(self.error, _ANSWERS) and (
            self.site.health.state == health.DOWN
            or abs(getattr(self.error, 'errno', None) or 0) == errno.ETIMEDOUT)

    def refuses_unasked(self) -> bool:
        """Return whether its task could not be done, as far as is known.

        That is where this Glance may only read.
        """
        if self.prepared or not self.is_unanswered():
            return False
        self.refusal = self.site.access.known_refusal()
        return self.refusal is not None

    def task(self) -> tasks.Task:
        """Return the task that removes the image later."""
        # The client of a site that went away was retired. One that is in use
        # has other work to do, and its answers tell what it has done.
        connection = self.site.connection
        fenced = self.address if self.address != connection.address else None
        reason = self.error or 'store %s has not answered in time' % (
            self.site.name)
        return tasks.Task(
            tasks.Action.DELETE, self.site.name, self.loc.image,
            self.loc.pool or self.site.pool,
            fsid=self.loc.fsid or connection.known_fsid,
            image_id=self.image_id, snapshot=self.loc.snapshot,
            addresses=(fenced,) if fenced else (),
            message=record_format.printable(reason))

    def _remove(self, ioctx: rados.Ioctx,
                events: native.Queue[Deletion]) -> None:
        image = self.loc.image
        self.address = self.site.connection.address_of(ioctx)
        if self._checks_access:
            self.site.access.require_write(ioctx)
        # A site that has just gone away, or hangs, is not to be waited for as
        # long as other requests are.
        images.check_responsive(ioctx, image, self._answer)
        # Once: by now another may have the name.
        self.image_id = (self.image_id or images.read_image_id(ioctx, image)
                         or images.find_being_removed(ioctx, image))
        with self.site.name_lock(ioctx, image):
            # Whether another has it by now is seen by its internal ID; what
            # was abandoned is done by the task runner.
            if self.abandoned:
                return
            removal = self.site.removal(ioctx, image, self.image_id,
                                        self.loc.snapshot, self.loc.pool)
            removal.prepare()
            if self._decided is None:
                self.prepared = True
                events.put(self)
                self._decided = self._decision.get()
            if self._decided:
                removal.finish()
            else:
                removal.undo()


class ImageDeletion:
    """The deletion of an image from one or several stores.

    :param deletions: in Glance's order
    :param start: what starts a thread, as
        :func:`glance_dcn.runtime.native.start`
    :ivar refused: the one whose store refuses, for all of them; or None
    """

    def __init__(self, deletions: list[Deletion], tasks: queue.TaskQueue,
                 patience: Patience,
                 start: Callable[..., object] = native.start) -> None:
        self.refused: Deletion | None = None
        self._tasks = tasks
        self._patience = patience
        self._start_thread = start
        self._deletions = deletions
        self._events: native.Queue[Deletion] = native.Queue()
        self._waiting: native.Queue[Deletion] = native.Queue()
        self._closed = False
        self._of = {(one.store, one.loc.get_uri()): one
                    for one in reversed(deletions)}

    def __len__(self) -> int:
        return len(self._deletions)

    def of(self, store: driver.Store,
           loc: location.StoreLocation) -> Deletion | None:
        """Return the part of it that is about a location, or None."""
        return self._of.get((store, loc.get_uri()))

    def run(self) -> None:
        """Delete the image, and record what is not done in time.

        :raises failures.TimeoutError: if what is not done cannot be recorded
        """
        try:
            self._run()
        except BaseException:
            # Threads that have prepared a site, and hold a lock there, wait.
            self._closed = True
            for deletion in self._deletions:
                deletion.decide(False)
            raise

    def _run(self) -> None:
        alone = len(self._deletions) == 1
        began = time.monotonic()
        until = began + (self._patience.answer if alone
                         else self._patience.together)
        started = self._start()
        if alone:
            self._deletions[0].decide(True)
        else:
            self._await(started, self._is_decidable,
                        began + self._patience.decision)
            self._decide()
        self._await(started if self.refused else self._deletions,
                    lambda one: one.done, until)
        self._closed = True
        for deletion in self._deletions:
            deletion.abandoned = not deletion.done
            # Of one that was not asked yet nothing is known.
            if deletion.abandoned and deletion.begun:
                deletion.site.suspect()
        if alone and self._deletions[0].refuses_unasked():
            self.refused = self._deletions[0]
        if self.refused is None:
            self._defer([one for one in self._deletions if self._is_late(
                one, alone)])

    def _start(self) -> list[Deletion]:
        """Begin; return the deletions that are begun at once."""
        # Sites that this process is connected to first, then the nearest; no
        # thread is needed for one that is known to be away.
        order = sorted(self._deletions, key=lambda one: (
            not one.site.available, one.site.connection.address is None,
            one.site.connection.round_trip or 0))
        for deletion in order:
            self._waiting.put(deletion)
        started = 0
        for _ in order[:self._patience.workers]:
            try:
                self._start_thread('dcn-delete', self._work)
            except RuntimeError as exc:
                LOG.error('An image is removed from %(count)d sites at a '
                          'time, and from the rest later: %(error)s; raise '
                          'the limit of threads or processes (pids.max, '
                          'ulimit -u)', {'count': started, 'error': exc})
                break
            started += 1
        return order[:started]

    def _work(self) -> None:
        while not self._closed:
            try:
                deletion = self._waiting.get_nowait()
            except native.Empty:
                return
            deletion.run(self._events)

    def _await(self, wanted: list[Deletion],
               enough: Callable[[Deletion], bool], until: float) -> None:
        """Wait until deletions are as far as is enough.

        Sites that are found to be away are not waited for.
        """
        while True:
            left = until - time.monotonic()
            missing = [one for one in wanted if not enough(one)]
            if left <= 0 or all(one.site.health.state == health.DOWN
                                for one in missing):
                return
            try:
                native.get(self._events, min(left, _POLL))
                while True:
                    self._events.get_nowait()
            except native.Empty:
                pass

    def _is_decidable(self, deletion: Deletion) -> bool:
        """Return whether a deletion is not to be waited for to decide."""
        if deletion.done and _is_refusal(deletion):
            self.refused = deletion
        return (deletion.done or deletion.prepared
                or self.refused is not None)

    def _decide(self) -> None:
        """Decide whether the image is removed."""
        if self.refused is None:
            self.refused = next((one for one in self._deletions
                                 if one.refuses_unasked()), None)
        if self.refused is not None:
            self._closed = True
        for deletion in self._deletions:
            deletion.decide(self.refused is None)

    @staticmethod
    def _is_late(deletion: Deletion, alone: bool) -> bool:
        """Return whether the removal is to be recorded as a task."""
        # One that was abandoned may be done by now, without having begun.
        if deletion.abandoned or deletion.is_unanswered():
            return True
        # It is decided: an image that was opened, say, after another store
        # had removed its own is removed when that is possible.
        return not alone and _is_refusal(deletion)

    def _defer(self, late: list[Deletion]) -> None:
        for deletion in late:
            if deletion.done:
                LOG.warning('Store %(store)s: image %(image)s is removed '
                            'later: %(error)s', {
                                'store': deletion.site.name,
                                'image': deletion.loc.image,
                                'error': deletion.error})
        try:
            self._tasks.defer([one.task() for one in late])
        except queue.NotRecorded as exc:
            # Not one that makes Glance drop the location all the same, as it
            # does after NotFound and StoreDeleteNotSupported.
            raise failures.TimeoutError('Image %s stays: %s' % (
                late[0].loc.image, exc))
        for deletion in late:
            deletion.deferred = True


class Requests:
    """The deletions of images by requests of this process.

    Each lives as long as Glance's object for the image of the request.

    :param start: as for :class:`ImageDeletion`
    """

    def __init__(self, patience: Patience = Patience(),  # noqa: B008
                 start: Callable[..., object] = native.start) -> None:
        self._patience, self._start = patience, start
        self._known: weakref.WeakKeyDictionary[
            typing.Any, ImageDeletion] = weakref.WeakKeyDictionary()

    def delete(self, store: driver.Store,
               loc: location.StoreLocation) -> Deletion:
        """Delete the image of a location, and of all others if Glance does.

        :returns: the deletion to be answered: that of the location, or one
            that refuses for the whole image
        :raises failures.DeleteDenied: if it lies in another store, too, in
            which this Glance may only read
        :raises failures.TimeoutError: if it can be neither removed nor
            recorded
        :raises exceptions.BadStoreUri: if another location is not in the
            cluster of its store
        """
        image = callers.deleted_image()
        found = None if image is None else self._known.get(image)
        if found is None and image is not None:
            found = ImageDeletion(self._deletions(store.siblings, image),
                                  store.tasks, self._patience, self._start)
            if found.of(store, loc) is not None:
                self._known[image] = found
                found.run()
                if found.refused is None:
                    _spare(image, found)
            else:
                found = None
        deletion = None if found is None else (found.refused
                                               or found.of(store, loc))
        if deletion is None:
            check_other_stores(store, loc)
            deletion = Deletion(store.site, loc, store,
                                answer=self._patience.answer)
            alone = ImageDeletion([deletion], store.tasks, self._patience,
                                  self._start)
            alone.run()
            deletion = alone.refused or deletion
        return deletion

    def _deletions(self, stores: dict[str, driver.Store],
                   image: typing.Any) -> list[Deletion]:
        """Return the deletions of an image from all of some stores.

        Locations without a known store are left to a call of their own.
        """
        found = []
        places = list(image.image.locations)
        for place in places:
            store = stores.get(place['metadata'].get('store'))
            if store is None:
                continue
            loc = locations.get_location_from_uri_and_backend(
                place['url'], store.name, conf=store.conf)
            try:
                checked = store.checked_for_deletion(loc)
            except exceptions.NotFound:
                continue
            found.append(Deletion(store.site, checked, store,
                                  checks_access=len(places) > 1,
                                  answer=self._patience.answer))
        return found


def _spare(image: typing.Any, deletion: ImageDeletion) -> None:
    """Have Glance mark many locations in one transaction, not in one each.

    At the end it marks all as deleted that it has not marked one by one. Only
    where no other store can refuse any more.
    """
    places = list(image.image.locations)
    if len(places) >= _MANY and len(places) == len(deletion):
        for place in places:
            place.pop('id', None)


def _is_refusal(deletion: Deletion) -> bool:
    """Return whether a store has refused to remove its image."""
    return not (deletion.error is None or deletion.is_unanswered()
                or isinstance(deletion.error, rbd.ImageNotFound))


def check_other_stores(store: driver.Store,
                       loc: location.StoreLocation) -> None:
    """Return if the image of a location can be deleted from all its stores.

    Also if Glance removes the image from this store only.

    :raises failures.DeleteDenied: if it lies in another store, too, in which
        this Glance may only read
    """
    if callers.removal_from_one_store() is not None:
        return
    others = [other for other in store.siblings.values()
              if other is not store]
    database = store.database if others else None
    uris = database.locations(loc.image) if database else ()
    for other in others:
        prefix = other.url_prefix
        if prefix and any(uri.startswith(prefix) for uri in uris):
            denied = other.site.access.refusal()
            if denied:
                raise denial(loc.image, denied)


def explain(store: driver.Store, loc: location.StoreLocation,
            exc: BaseException) -> None:
    """Raise DeleteDenied if an error means that this Glance may only read.

    :param exc: what the cluster of the store has answered
    """
    denied = errors.is_denied(exc) and store.site.access.refusal()
    if denied:
        raise denial(loc.image, denied) from exc


def denial(image: str, reason: Exception) -> failures.DeleteDenied:
    """Return what to raise if this Glance may only read in a store."""
    LOG.warning('Image %(image)s is not deleted: %(reason)s',
                {'image': image, 'reason': reason})
    return failures.DeleteDenied(str(reason))
