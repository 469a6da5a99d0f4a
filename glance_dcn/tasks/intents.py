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

"""The images that this process writes, recorded before they are written.

Before an image is created at any site, an intent is written at home, with the
lease of this process in the same operation: one small write near by. It is
there until the image is removed again or Glance's database has its location.
What a dead process leaves is found and removed by the task runner of its
home (:mod:`glance_dcn.tasks.runner`).
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
import typing
import uuid

from glance_dcn.ceph import omap
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.sites import existing
from glance_dcn.tasks import leases
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks

if typing.TYPE_CHECKING:
    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)

# Seconds for which the lease is kept after the last write has ended: another
# may come at once. It is renewed meanwhile: a runner that reads it just before
# an intent of its holder must not see one that has long been unchanged.
_LINGER = 10
# Committed intents that are kept until take_committed() is called.
_COMMITTED = 1000


class WriteLost(existing.Gone):
    """The image was given to another process to be removed.

    This process did not renew its lease in time: Glance must not be told of
    the image.
    """

    def __init__(self, intent: tasks.Intent) -> None:
        super().__init__(
            existing.ExistingImage(intent.image, intent.image_id),
            'it was taken for that of a dead process, because this one was '
            'stopped for too long; try again')


class Write:
    """One image that is being written."""

    def __init__(self, log: WriteLog, intent: tasks.Intent) -> None:
        self.intent = intent
        self._log = log

    def bind(self, image_id: str) -> None:
        """Add the internal ID of the image, before data is written to it.

        What has data is removed by that ID alone. While home is away it is
        written later.

        :raises WriteLost: if the intent was given to another process
        """
        log, old = self._log, self.intent
        new = self.intent = dataclasses.replace(old, image_id=image_id)
        with log.own.guard:
            # One that was given up meanwhile needs no lease any more.
            if old.uid in log.own.open:
                log.own.open[new.uid] = new
        try:
            self._replace(old, new)
        except stores.AWAY:
            log.put_off(old, new)

    def commit(self) -> None:
        """Take the right to tell Glance of the image.

        From here on it is not removed but by what Glance's database says.

        :raises WriteLost: if the image was given to another process
        """
        log, old = self._log, self.intent
        new = dataclasses.replace(old, state=tasks.State.COMMITTED)
        with log.own.guard:
            late = any(one.uid == old.uid for one, _new in log.own.late)
        try:
            if late:
                log.catch_up()
            self._replace(old, new)
        except stores.AWAY as exc:
            # If home is away from this process alone, another may take it
            # all the same; but what is published is removed only where
            # Glance's database is settled without it.
            LOG.warning('Store %(store)s, which keeps the records, does not '
                        'answer (%(error)s): that image %(image)s is complete '
                        'in store %(site)s is recorded later', {
                            'store': log.store.home.name, 'error': exc,
                            'image': old.image, 'site': old.site})
            log.put_off(old, new)
        finally:
            # Also if it is lost: nothing of it needs the lease any more.
            with log.own.guard:
                log.own.open.pop(old.uid, None)
                log.own.until = log.clock() + _LINGER
        log.own.committed.append(new)
        self.intent = new

    def _replace(self, old: tasks.Intent, new: tasks.Intent) -> None:
        if not self._log.store.replace(old, new):
            raise WriteLost(old)

    def end(self) -> None:
        """Drop the intent: nothing of the image is left."""
        self._close()
        try:
            self._log.store.remove_later(self.intent)
        except stores.AWAY:
            self._log.put_off(self.intent, None)

    def abandon(self, fence: bool = True) -> None:
        """Leave the image to the task runner, which removes it.

        :param fence: whether the client that wrote it is blocklisted first
        """
        intent = self.intent
        task = tasks.Task(
            tasks.Action.REMOVE_INCOMPLETE, intent.site, intent.image,
            intent.pool, fsid=intent.fsid, image_id=intent.image_id,
            addresses=(intent.address,) if fence else ())
        try:
            self._log.store.put(task)
        except stores.NotRecorded as exc:
            LOG.error('%s', exc)
            self._close()
            self._log.put_off(intent, task)
            return
        self.end()
        self._log.notify()

    def _close(self) -> None:
        with self._log.own.guard:
            self._log.own.open.pop(self.intent.uid, None)


class _Open:
    """The intents of one process; what a parent has open is the parent's.

    :ivar open: intents that are not committed, by uid
    :ivar late: changes that home was away for: (old, new), or (old, None)
    :ivar committed: see :meth:`WriteLog.take_committed`
    """

    def __init__(self) -> None:
        self.guard = native.lock()
        self.lease = uuid.uuid4().hex
        self.beat = 0
        self.open: dict[str, tasks.Intent] = {}
        self.late: list[tuple[tasks.Intent, tasks.Record | None]] = []
        self.until = 0.0
        self.committed: collections.deque[tasks.Intent] = collections.deque(
            maxlen=_COMMITTED)


class WriteLog:
    """The intents of this process.

    :param notify: called when a task was recorded; it must not block
    :param clock: returns seconds of a monotonic clock
    :param repeat: makes the periodic work that renews the lease
    """

    def __init__(self, store: stores.TaskStore,
                 notify: typing.Callable[[], object] = lambda: None,
                 clock: typing.Callable[[], float] = time.monotonic,
                 repeat: type[periodic.Periodic] = periodic.Periodic) -> None:
        self.store = store
        self.notify = notify
        self.clock = clock
        self._periodic = repeat('dcn-lease', self.renew, leases.RENEWAL)
        self._processes = process.ForkLocal(_Open)

    @property
    def own(self) -> _Open:
        """The open intents of this process."""
        return self._processes.get()

    def begin(self, site: sites.Site, image: str, address: str) -> Write:
        """Record that an image is going to be written.

        :param address: of the client that writes
        :raises glance_dcn.tasks.store.NotRecorded: if it cannot be recorded
        """
        with self.own.guard:
            self.own.until = self.clock() + _LINGER
            intent = tasks.Intent(site.name, image, site.pool, site.fsid,
                                  self.own.lease, address)
            self.own.open[intent.uid] = intent
            self.own.beat += 1
            lease = {stores.LEASES + self.own.lease: self._lease_text()}
        try:
            self.store.put(intent, others=lease)
        except BaseException:
            with self.own.guard:
                self.own.open.pop(intent.uid, None)
                # It may be written when the cluster goes on.
                self.own.late.append((intent, None))
            self._periodic.start()
            raise
        self._periodic.start()
        return Write(self, intent)

    def take_committed(self) -> list[tasks.Intent]:
        """Return what was committed since the last call."""
        with self.own.guard:
            found = list(self.own.committed)
            self.own.committed.clear()
        return found

    def renew(self) -> None:
        """Renew the lease, as long as it matters, and catch up."""
        if not self._processes.is_made:
            return
        with self.own.guard:
            idle = (not self.own.open and not self.own.late
                    and self.clock() > self.own.until)
            self.own.beat += 1
            key, text = stores.LEASES + self.own.lease, self._lease_text()
            if idle:
                self.own.lease = uuid.uuid4().hex
                self._periodic.stop()
        site = self.store.home.site
        if site is None or not site.available:
            return
        try:
            if idle:
                self.store.home.run(omap.remove, stores.OBJECT, key)
            else:
                self.store.home.run(omap.put, stores.OBJECT, {key: text})
            self.catch_up()
            self.store.drain()
        except stores.AWAY as exc:
            LOG.debug('The lease of this process was not renewed: %s', exc)

    def _lease_text(self) -> str:
        return leases.dump(self.own.lease, self.own.beat,
                           self.store.deployment)

    def put_off(self, old: tasks.Intent, new: tasks.Record | None) -> None:
        """Have a change written once home is back; None: a removal."""
        with self.own.guard:
            self.own.late.append((old, new))
        self._periodic.start()

    def catch_up(self) -> None:
        """Write what home was away for, in order.

        :raises: as :meth:`glance_dcn.tasks.store.TaskStore.replace`
        """
        while True:
            with self.own.guard:
                if not self.own.late:
                    return
                entry = self.own.late[0]
            old, new = entry
            if isinstance(new, tasks.Task):
                self.store.put(new)
                self.store.remove(old)
            elif new is None:
                self.store.remove(old)
            else:
                self.store.replace(old, new)
            with self.own.guard:
                # Another thread may have done the same.
                if self.own.late and self.own.late[0] is entry:
                    del self.own.late[0]
