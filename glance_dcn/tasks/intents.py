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
from glance_dcn.ceph import record_format
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
        old = self.intent
        self.intent = dataclasses.replace(old, image_id=image_id)
        self._log.bind(old, self.intent)

    def commit(self) -> None:
        """Take the right to tell Glance of the image.

        From here on it is not removed but by what Glance's database says.

        :raises WriteLost: if the image was given to another process
        """
        committed = dataclasses.replace(self.intent,
                                        state=tasks.State.COMMITTED)
        self._log.commit(self.intent, committed)
        self.intent = committed

    def end(self) -> None:
        """Drop the intent: nothing of the image is left."""
        self._log.end(self.intent)

    def abandon(self, fence: bool = True) -> None:
        """Leave the image to the task runner, which removes it.

        :param fence: whether the client that wrote it is blocklisted first
        """
        self._log.abandon(self.intent, fence)


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
    """

    def __init__(self, store: stores.TaskStore,
                 notify: typing.Callable[[], object] = lambda: None) -> None:
        self._store = store
        self._notify = notify
        self._periodic = periodic.Periodic('dcn-lease', self.renew,
                                           leases.RENEWAL)
        self._processes = process.ForkLocal(_Open)

    @property
    def _own(self) -> _Open:
        return self._processes.get()

    def begin(self, site: sites.Site, image: str, address: str) -> Write:
        """Record that an image is going to be written.

        :param address: of the client that writes
        :raises glance_dcn.tasks.store.NotRecorded: if it cannot be recorded
        """
        with self._own.guard:
            self._own.until = time.monotonic() + _LINGER
            intent = tasks.Intent(site.name, image, site.pool, site.fsid,
                                  self._own.lease, address)
            self._own.open[intent.uid] = intent
            self._own.beat += 1
            lease = {stores.LEASES + self._own.lease: self._lease_text()}
        try:
            self._store.put(intent, lease)
        except BaseException:
            with self._own.guard:
                self._own.open.pop(intent.uid, None)
                # It may be written when the cluster goes on.
                self._own.late.append((intent, None))
            self._periodic.start()
            raise
        self._periodic.start()
        return Write(self, intent)

    def bind(self, old: tasks.Intent, new: tasks.Intent) -> None:
        """Write an intent that tells the image.

        :raises WriteLost: if it was changed by another process
        """
        with self._own.guard:
            # One that was given up meanwhile needs no lease any more.
            if old.uid in self._own.open:
                self._own.open[new.uid] = new
        try:
            self._replace(old, new)
        except stores.AWAY:
            self._put_off(old, new)

    def commit(self, old: tasks.Intent, new: tasks.Intent) -> None:
        """Write a committed intent.

        :raises WriteLost: if it was changed by another process
        """
        with self._own.guard:
            late = any(one.uid == old.uid for one, _new in self._own.late)
        try:
            if late:
                self._catch_up()
            self._replace(old, new)
        except stores.AWAY as exc:
            # If home is away from this process alone, another may take it
            # all the same; but what is published is removed only where
            # Glance's database is settled without it.
            LOG.warning('Store %(store)s, which keeps the records, does not '
                        'answer (%(error)s): that image %(image)s is complete '
                        'in store %(site)s is recorded later', {
                            'store': self._store.home.name, 'error': exc,
                            'image': old.image, 'site': old.site})
            self._put_off(old, new)
        finally:
            # Also if it is lost: nothing of it needs the lease any more.
            with self._own.guard:
                self._own.open.pop(old.uid, None)
                self._own.until = time.monotonic() + _LINGER
        self._own.committed.append(new)

    def take_committed(self) -> list[tasks.Intent]:
        """Return what was committed since this was called last.

        Of very many, only the latest.
        """
        with self._own.guard:
            found = list(self._own.committed)
            self._own.committed.clear()
        return found

    def _replace(self, old: tasks.Intent, new: tasks.Intent) -> None:
        if not self._store.replace(old, new):
            raise WriteLost(old)

    def end(self, intent: tasks.Intent) -> None:
        """Drop an intent."""
        with self._own.guard:
            self._own.open.pop(intent.uid, None)
        try:
            self._store.remove_later(intent)
        except stores.AWAY:
            self._put_off(intent, None)

    def abandon(self, intent: tasks.Intent, fence: bool) -> None:
        """Turn an intent into a task that removes the image."""
        task = tasks.Task(
            tasks.Action.REMOVE_INCOMPLETE, intent.site, intent.image,
            intent.pool, fsid=intent.fsid, image_id=intent.image_id,
            addresses=(intent.address,) if fence else ())
        try:
            self._store.put(task)
        except stores.NotRecorded as exc:
            LOG.error('%s', exc)
            with self._own.guard:
                self._own.open.pop(intent.uid, None)
            self._put_off(intent, task)
            return
        self.end(intent)
        self._notify()

    def renew(self) -> None:
        """Renew the lease, as long as it matters, and catch up."""
        if not self._processes.is_made:
            return
        with self._own.guard:
            idle = (not self._own.open and not self._own.late
                    and time.monotonic() > self._own.until)
            self._own.beat += 1
            key, text = stores.LEASES + self._own.lease, self._lease_text()
            if idle:
                self._own.lease = uuid.uuid4().hex
                self._periodic.stop()
        site = self._store.home.site
        if site is None or not site.available:
            return
        try:
            with self._store.home.open() as ioctx:
                if idle:
                    omap.remove(ioctx, stores.OBJECT, key)
                else:
                    omap.put(ioctx, stores.OBJECT, {key: text})
            self._catch_up()
            self._store.drain()
        except stores.AWAY as exc:
            LOG.debug('The lease of this process was not renewed: %s', exc)

    def _lease_text(self) -> str:
        return record_format.dump(
            leases.Lease(self._own.lease, self._own.beat,
                         tasks.host_and_process()), self._store.deployment)

    def _put_off(self, old: tasks.Intent,
                 new: tasks.Record | None) -> None:
        with self._own.guard:
            self._own.late.append((old, new))
        self._periodic.start()

    def _catch_up(self) -> None:
        """Write what home was away for, in order.

        :raises: as :class:`glance_dcn.tasks.store.TaskStore`
        """
        while True:
            with self._own.guard:
                if not self._own.late:
                    return
                entry = self._own.late[0]
            old, new = entry
            if isinstance(new, tasks.Task):
                self._store.put(new)
                self._store.remove(old)
            elif new is None:
                self._store.remove(old)
            else:
                self._store.replace(old, new)
            with self._own.guard:
                # Another thread may have done the same.
                if self._own.late and self._own.late[0] is entry:
                    del self._own.late[0]
