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

"""A site, as the data path sees it: a pool of images in some cluster."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import typing
import urllib.parse

import rbd

from glance_dcn.ceph import connection
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import records
from glance_dcn.engine.backends import rbd as rbd_backend
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.sites import access
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import existing
from glance_dcn.sites import limits

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Collection
    from collections.abc import Iterator

    import rados

    from glance_dcn.ceph import client as clients
    from glance_dcn.sites import home as homes
    from glance_dcn.tasks import intents
    from glance_dcn.tasks import queue

LOG = logging.getLogger(__name__)

_T = typing.TypeVar('_T')

# Seconds for which an incomplete image may still be open, because requests
# of its writer are in flight.
_LANDING = 30
# Times that an image is begun, where others begin and remove it as well.
_ATTEMPTS = 3
# Seconds for which the size of an image that was just published is known.
_FRESH = 60


class Site:
    """Where the images of one store lie.

    :param config: with the pool of its images; an I/O has failed after
        ``io_timeout`` without any progress
    :param order: size of new images' objects, as a power of two
    :param home: of this process; by default, that of ``tasks``
    :param tasks: where writes and deferred work are recorded, if anywhere
    :param read_only: whether the user may only read, as far as is known
    :param on_write: called before an image is written, with its name, the
        site's and the RADOS instance ID of the client that writes it
    :param clock: returns seconds of a monotonic clock
    :ivar connection: to the cluster; pools are opened by :meth:`open_pool`
    :ivar retired: whether it only holds images, and takes no more
    """

    def __init__(self, config: clients.ClusterConfig, order: int,
                 home: homes.Home | None = None,
                 tasks: queue.TaskQueue | None = None,
                 read_only: bool = False,
                 on_write: Callable[[str, str, int], object] | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.name = config.name
        self.pool = config.pool
        self.order = order
        self.io_timeout = config.io_timeout
        self.home = home or (tasks.home if tasks is not None else None)
        self._published: dict[str, tuple[int, float]] = {}
        self.limits = limits.get(self.name)
        self.retired = False
        self._on_write = on_write
        self._clock = clock
        self._identities = process.get(cluster_identity.ClusterIdentities)
        self.connection = process.get(connection.Connections).get(config)
        self.tasks = tasks
        # Images that are being written.
        self._writes: list[intents.Write] = []
        self.access = access.Access(self, config.user, read_only)

    @property
    def fsid(self) -> str | None:
        """fsid of the cluster, which may be asked for it; None if unknown."""
        return self.connection.fsid

    def answering_fsid(self) -> str:
        """Return the fsid of the cluster now; ClusterError if none answers."""
        with self.connection.use() as client:
            return client.get_fsid()

    @property
    def health(self) -> health.Health:
        """Health of the site."""
        found = self.connection.health
        if found.state in (health.UP, health.UNKNOWN):
            fault = self._identities.fault(self)
            if fault:
                return health.Health(health.MISCONFIGURED, found.since,
                                     fault.reason)
        return found

    @property
    def available(self) -> bool:
        """Whether calls are not refused at once; True if it is unknown."""
        return self.health.state in (health.UP, health.UNKNOWN)

    def failed(self, exc: BaseException) -> bool:
        """Learn from what an operation beside :meth:`open_pool` ended with.

        :returns: whether it means that the site is away; calls are refused
            from then on, until it is back
        """
        return self.connection.failed(exc)

    @property
    def instance(self) -> int:
        """RADOS instance ID of this process's client at the site."""
        with self.connection.use() as client:
            return client.get_instance_id()

    def name_lock(self, ioctx: rados.Ioctx, image: str
                  ) -> contextlib.AbstractContextManager[None]:
        """Hold the exclusive right to create or remove an image.

        The client that opened the pool is blocklisted if this process stops.
        """
        return name_lock.hold(self.connection.client_of(ioctx), ioctx, image)

    def removal_lock(self, ioctx: rados.Ioctx, image: str
                     ) -> contextlib.AbstractContextManager[None]:
        """Hold the exclusive right to remove an image from one of its stores.

        Other than the name lock it is held at several sites at a time.
        """
        return name_lock.hold(self.connection.client_of(ioctx), ioctx, image,
                              kind=name_lock.REMOVAL)

    def fence_dead(self, ioctx: rados.Ioctx, image: str,
                   instances: Collection[int]) -> None:
        """Take an image away from clients that are believed dead.

        They are blocklisted: their process may only have been stopped.

        :param instances: RADOS instance IDs of the clients
        :raises glance_dcn.ceph.name_lock.NotLocked,
            glance_dcn.sites.existing.BeingWritten: if one is not blocklisted
        :raises rbd.Error, glance_dcn.ceph.omap.Error: if that is not possible
        """
        client = self.connection.client_of(ioctx)
        name_lock.break_lock(client, ioctx, image, instances)
        if not images.blocklist_watchers(client, ioctx, image, instances):
            raise existing.BeingWritten(existing.inspect(ioctx, image))

    def call(self, function: Callable[..., _T], *args: typing.Any,
             late: Callable[[_T], object] | None = None,
             fence: bool = True) -> _T:
        """Call a function that waits for the site, while that is there.

        See :meth:`glance_dcn.ceph.connection.Connection.call`.
        """
        return self.connection.call(function, *args, late=late, fence=fence)

    def suspect(self) -> None:
        """Have a site checked that has not answered for some seconds."""
        self.connection.lost()

    def require(self) -> None:
        """Raise ClusterError if the site is not available; never wait."""
        self.connection.check()
        fault = self._identities.fault(self)
        if fault:
            raise fault

    @contextlib.contextmanager
    def open_pool(self, pool: str | None = None) -> Iterator[rados.Ioctx]:
        """Open a pool: the site's, or another of its cluster.

        :raises glance_dcn.ceph.errors.ClusterError: if it cannot be used
        """
        self._identities.begin(self)
        # Connecting runs beside the reading of records.
        with self.connection.use():
            self._identities.check(self)
            with self.connection.open_pool(pool or self.pool) as ioctx:
                yield ioctx

    def check_open(self) -> None:
        """Raise Retired if the site takes no new images."""
        if self.retired:
            raise errors.Retired(self.name)

    def begin(self, ioctx: rados.Ioctx, image: str,
              size: int) -> rbd_backend.RBD:
        """Create an RBD image and open it for the engine to write to.

        An incomplete one that no client writes any more is replaced. Of
        several writers that begin the same image at once, one does.

        :param size: bytes
        :returns: for the caller to close
        :raises glance_dcn.sites.existing.Complete: if there is a complete
            one of that name
        :raises glance_dcn.sites.existing.Refused: if there is one that is
            in the way, or this process was stopped for too long
        :raises glance_dcn.ceph.name_lock.NameLockError: if other clients are
            at it for too long
        :raises glance_dcn.tasks.store.NotRecorded: if it cannot be recorded
        :raises glance_dcn.engine.errors.RequestError: if it cannot be opened
        :raises rbd.Error: if it cannot be created. After this or the two
            before, an incomplete image may be there: see :meth:`discard`
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away,
            retired or read-only
        """
        self.check_open()
        self.access.require_write(ioctx)
        if self._on_write is not None:
            self._on_write(image, self.name, self.instance)
        write = self._begin_write(ioctx, image)
        try:
            endpoint = self.call(self._begin, ioctx, image, size, write,
                                 late=rbd_backend.RBD.close)
        except (existing.Refused, name_lock.NotLocked):
            self._end_write(write)
            raise
        if write:
            image_id = endpoint.image.id()
            try:
                write.bind(image_id)
            except BaseException:
                endpoint.close()
                self.discard_or_defer(ioctx, image, image_id)
                raise
        return endpoint

    def _begin(self, ioctx: rados.Ioctx, image: str, size: int,
               write: intents.Write | None) -> rbd_backend.RBD:
        client = self.connection.client_of(ioctx)
        features = client.conf_get('rbd_default_features')
        for _attempt in range(_ATTEMPTS):
            with contextlib.suppress(rbd.ImageExists), \
                    contextlib.ExitStack() as stack:
                with self.name_lock(ioctx, image):
                    images.create(ioctx, image, size, self.order, features)
                    endpoint = stack.enter_context(self._open(
                        ioctx, image, writable=True,
                        open_pool=client.open_ioctx2))
                stack.pop_all()
                return endpoint
            with self.name_lock(ioctx, image):
                if not (write and self.tasks is not None
                        and self.tasks.run_pending_for_image(
                            self, ioctx, image, write)):
                    existing.remove_incomplete(ioctx, image,
                                               self.fence_writers)
        raise existing.BeingWritten(existing.inspect(ioctx, image))

    def fence_writers(self, image: str, image_id: str | None) -> None:
        """Blocklist the clients that have recorded that they write an image.

        None of them has it open any more, but one that was stopped would
        write to its objects when it continues.

        :raises glance_dcn.sites.existing.BeingWritten: if one of them cannot
            be blocklisted
        :raises glance_dcn.ceph.errors.ClusterError,
            glance_dcn.ceph.omap.Error: by the site, or home
        """
        if self.tasks is None:
            return
        addresses = self.tasks.writers_of(self, image, image_id)
        left = self.connection.blocklist(
            addresses - {self.connection.address})
        if left:
            raise existing.BeingWritten(existing.ExistingImage(
                image, image_id, writers=tuple(sorted(left))))

    @contextlib.contextmanager
    def adopting(self, ioctx: rados.Ioctx, image: str,
                 image_id: str) -> Iterator[None]:
        """Answer for a complete image, as for one that is written.

        The task runner removes one whose writer died before Glance had its
        location.

        :raises rbd.Error: if that cannot be recorded
        """
        write = self._begin_write(ioctx, image)
        try:
            if write:
                write.bind(image_id)
            yield
        except BaseException:
            self._end_write(write)
            raise
        if self.tasks is not None:
            self.tasks.cancel_deletes(self, image)

    def _begin_write(self, ioctx: rados.Ioctx,
                     image: str) -> intents.Write | None:
        if self.tasks is None:
            return None
        write = self.tasks.writes.begin(
            self, image, self.connection.address_of(ioctx))
        self._writes.append(write)
        return write

    def _take_write(self, image: str,
                    image_id: str | None) -> intents.Write | None:
        """Return the latest write of an image, and forget it; or None."""
        for write in reversed(self._writes):
            if write.intent.image == image and image_id in (
                    None, write.intent.image_id):
                self._writes.remove(write)
                return write
        return None

    def _end_write(self, write: intents.Write | None) -> None:
        """Drop the record of a write: nothing of the image is left."""
        if write:
            with contextlib.suppress(ValueError):
                self._writes.remove(write)
            write.end()

    def publish(self, endpoint: rbd_backend.RBD,
                record: records.Record | None) -> None:
        """Let an image that was written be read.

        :param record: of its content; None: it is kept with the image already
        :raises rbd.Error, glance_dcn.ceph.errors.Unreachable: if it fails
        """
        endpoint.call(images.publish, record, endpoint.facts())

    def commit(self, image: str, image_id: str | None) -> None:
        """Take the right to tell Glance of a published or adopted image.

        From here on it must not be discarded: Glance may have its location.

        :raises glance_dcn.sites.existing.Gone: if it was given to another
            process to be removed, because this one was stopped for too long
        """
        write = self._take_write(image, image_id)
        if write:
            write.commit()

    def is_committed(self, image: str, image_id: str | None) -> bool:
        """Return whether a writer may be telling Glance of an image."""
        return self.tasks is not None and self.tasks.is_committed(
            self, image, image_id)

    def release_adopted(self, image: str, image_id: str | None) -> None:
        """Stop answering for an adopted image of which Glance is not told.

        It stays, and may be adopted again. If it is not, it is removed once
        Glance is settled without its location.
        """
        # One that was lost is removed already.
        with contextlib.suppress(existing.Gone):
            self.commit(image, image_id)

    def discard_or_defer(self, ioctx: rados.Ioctx, image: str,
                         image_id: str | None = None) -> None:
        """Remove an image whose writer has failed, now or later.

        Nothing is raised: what failed first is what counts. Nothing is done
        where the writing was refused before it was recorded: what has the
        name then is another writer's.
        """
        if image_id is None and self.tasks is not None and image not in [
                write.intent.image for write in self._writes]:
            return
        reason = None
        if self.available:
            try:
                self.call(self.discard, ioctx, image, image_id)
                return
            except rbd.ImageNotFound:
                return
            except Exception as exc:
                self.failed(exc)
                reason = exc
        LOG.warning('RBD image %(image)s cannot be removed from store '
                    '%(store)s now (%(reason)s): it is removed later', {
                        'image': image, 'store': self.name,
                        'reason': reason or 'the site is away'})
        self.connection.blocklist_retired_clients()
        write = self._take_write(image, image_id)
        if write:
            # The client of a site that went away was retired. One that is
            # in use has other work, and nothing of this is in flight.
            write.abandon(fence=write.intent.address
                          != self.connection.address)

    def discard(self, ioctx: rados.Ioctx, image: str,
                image_id: str | None = None) -> None:
        """Remove an image whose writer has failed.

        Another that has its name by now is left as it is.

        :param image_id: internal ID of the image that is meant; None: it is
            not known, and only an incomplete one is meant
        :raises rbd.ImageNotFound: if there is no such image
        :raises glance_dcn.ceph.name_lock.NameLockError,
            glance_dcn.ceph.images.InUse: if it stays in use by other clients
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        """
        deadline = time.monotonic() + _LANDING
        while True:
            # What was opened before the site went away would be waited for.
            self.require()
            try:
                with self.name_lock(ioctx, image):
                    existing.remove(ioctx, image, image_id,
                                    self._note_purge(image))
                self._end_write(self._take_write(image, image_id))
                return
            except rbd.ImageNotFound:
                self._end_write(self._take_write(image, image_id))
                raise
            except images.InUse:
                if time.monotonic() > deadline:
                    raise
                native.sleep(0.1)

    def _note_purge(self, image: str, pool: str | None = None
                    ) -> Callable[[str], None] | None:
        return (None if self.tasks is None
                else self.tasks.note_purge(self, image, pool))

    def removal(self, ioctx: rados.Ioctx, image: str, image_id: str | None,
                snapshot: str | None,
                pool: str | None = None) -> images.Removal:
        """Return the removal of a published image, which is not begun.

        For the holder of its name lock.
        """
        return images.Removal(ioctx, image, image_id, snapshot,
                              trashing=self._note_purge(image, pool))

    def uri(self, image: str, pool: str | None = None) -> str:
        """Return the location of a published image.

        :raises glance_dcn.ceph.errors.ClusterError: if the fsid is not known
        """
        fsid = self.fsid or self.answering_fsid()
        return 'rbd://' + '/'.join(
            urllib.parse.quote(part, safe='')
            for part in (fsid, pool or self.pool, image, images.SNAPSHOT))

    @contextlib.contextmanager
    def reading(self, ioctx: rados.Ioctx, image: str,
                snapshot: str | None = images.SNAPSHOT
                ) -> Iterator[rbd_backend.RBD]:
        """Open a snapshot of an image for the engine to read from.

        :raises glance_dcn.engine.errors.RequestError,
            glance_dcn.ceph.errors.Unreachable: if it cannot be opened
        """
        opening = functools.partial(self._open, snapshot=snapshot)
        with self.call(opening, ioctx, image, late=rbd_backend.RBD.close,
                       fence=False) as endpoint:
            yield endpoint

    def _open(self, ioctx: rados.Ioctx, image: str,
              **options: typing.Any) -> rbd_backend.RBD:
        """Open an image, which keeps the client of its pool until closed."""
        return rbd_backend.RBD(
            ioctx, image, name='%s: %s/%s' % (self.name, self.pool, image),
            hold=functools.partial(self.connection.hold, ioctx),
            cluster=self.connection, meter=self.limits.meter, **options)

    def remember(self, ioctx: rados.Ioctx, image: str, image_id: str | None,
                 record: records.Record) -> None:
        """Keep a record with an image that is published already.

        :param image_id: internal ID of the image whose content it describes:
            another may have taken the name
        :raises rbd.Error, glance_dcn.ceph.errors.Unreachable: if it fails
        """
        self.call(_remember, ioctx, image, image_id, record)

    def published(self, image: str, size: int) -> None:
        """Remember that this process has just published an image.

        Glance asks for the size (bytes) of a location it is given, which
        costs a dozen round trips to open the image again.
        """
        now = self._clock()
        self._published = {name: known for name, known in
                           self._published.items() if known[1] > now}
        self._published[image] = size, now + _FRESH

    def size_of_published(self, image: str) -> int | None:
        """Return what :meth:`published` was told, once; or None."""
        size, until = self._published.pop(image, (0, 0.0))
        return size if self._clock() < until else None


def _remember(ioctx: rados.Ioctx, image: str, image_id: str | None,
              record: records.Record) -> None:
    with rbd.Image(ioctx, image) as opened:
        if opened.id() != image_id:
            raise rbd.ImageNotFound('RBD image %s was removed, and another '
                                    'has its name' % image)
        records.save_unless_later(opened, record)
