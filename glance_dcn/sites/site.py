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
    :param tasks: where writes and deferred work are recorded; None: nothing
        is recorded
    :param read_only: whether the user may only read, as far as is known
    :param on_write: called before an image is written, with its name, the
        site's and the RADOS instance ID of the client that writes it
    :ivar retired: whether it was taken away: it holds images, and takes no
        more
    """

    def __init__(self, config: clients.ClusterConfig, order: int,
                 home: homes.Home | None = None,
                 tasks: queue.TaskQueue | None = None,
                 read_only: bool = False,
                 on_write: Callable[[str, str, int], object] | None = None
                 ) -> None:
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
        self._connection = connection.get(config)
        self.tasks = tasks
        # What is being written: (image, write).
        self._writes: list[tuple[str, intents.Write]] = []
        self.access = access.Access(self, config.user, read_only)

    @property
    def fsid(self) -> str | None:
        """fsid of the cluster, or None where it cannot be told.

        If the conf file does not name it, the cluster is asked.
        """
        return self._connection.fsid

    @property
    def known_fsid(self) -> str | None:
        """The same, but the cluster is never waited for."""
        return self._connection.known_fsid

    @property
    def connected_fsid(self) -> str | None:
        """fsid of the cluster this process is connected to, or None."""
        return self._connection.connected_fsid

    def answering_fsid(self) -> str:
        """Return the fsid of the cluster that answers now.

        :raises glance_dcn.ceph.errors.ClusterError: if none does
        """
        with self._connection.use() as client:
            return client.get_fsid()

    @property
    def health(self) -> health.Health:
        """Health of the site."""
        found = self._connection.health
        if found.state in (health.UP, health.UNKNOWN):
            fault = cluster_identity.PROCESS.fault(self)
            if fault:
                return health.Health(health.MISCONFIGURED, found.since,
                                     fault.reason)
        return found

    @property
    def available(self) -> bool:
        """Whether calls are not refused at once; True if it is unknown."""
        return self.health.state in (health.UP, health.UNKNOWN)

    def add_up_callback(self, function: Callable[[], object]) -> None:
        """Call a function each time the site is found to be up.

        It is called in a thread of its own, and once at the beginning if the
        site is up. Each process knows only what its own calls have met: a
        site may have been away without it being told.
        """
        self._connection.add_up_callback(function)

    def failed(self, exc: BaseException) -> bool:
        """Learn from what an operation at the site ended with.

        What passes through :meth:`open_pool` is known already.

        :returns: whether it means that the site is away; calls are refused
            from then on, until it is back
        """
        return self._connection.failed(exc)

    @property
    def instance(self) -> int:
        """RADOS instance ID of this process's client at the site."""
        with self._connection.use() as client:
            return client.get_instance_id()

    @property
    def address(self) -> str | None:
        """Address of this process's client at the site, if it has one."""
        return self._connection.address

    def address_of(self, ioctx: rados.Ioctx) -> str:
        """Return the address of the client that opened a pool here."""
        return self._connection.address_of(ioctx)

    def blocklist(self, addresses: Collection[str]) -> set[str]:
        """Blocklist clients of the site's cluster.

        :returns: addresses that could not be blocklisted
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        """
        return self._connection.blocklist(addresses)

    def name_lock(self, ioctx: rados.Ioctx, image: str
                  ) -> contextlib.AbstractContextManager[None]:
        """Hold the exclusive right to create or remove an image.

        :param ioctx: of one of this site's pools, opened by
            :meth:`open_pool`; it is its client that is blocklisted if this
            process stops
        """
        return name_lock.hold(self._connection.client_of(ioctx), ioctx, image)

    def fence_dead(self, ioctx: rados.Ioctx, image: str,
                   instances: Collection[int]) -> None:
        """Take an image away from clients that are believed dead.

        They are blocklisted: their process may only have been stopped.

        :param instances: RADOS instance IDs of the clients
        :raises glance_dcn.ceph.name_lock.NotLocked: if one cannot be
            blocklisted
        :raises glance_dcn.sites.existing.BeingWritten: likewise
        :raises rbd.Error, glance_dcn.ceph.omap.Error: if that is not possible
        """
        client = self._connection.client_of(ioctx)
        name_lock.break_lock(client, ioctx, image, instances)
        if not images.blocklist_watchers(client, ioctx, image, instances):
            raise existing.BeingWritten(existing.inspect(ioctx, image))

    def call(self, function: Callable[..., _T], *args: typing.Any,
             late: Callable[[_T], object] | None = None,
             fence: bool = True) -> _T:
        """Call a function that waits for the site, while that is there.

        For what is done beside requests whose time is bounded. For the
        parameters see :meth:`glance_dcn.ceph.connection.Connection.call`.

        :raises glance_dcn.ceph.errors.Unreachable: if the site is found to be
            away meanwhile
        """
        return self._connection.call(function, *args, late=late, fence=fence)

    def suspect(self) -> None:
        """Have it found out whether the site is away; nothing is waited for.

        For what has had no answer for some seconds.
        """
        self._connection.lost()

    def ask_monitors(self, then: Callable[[str | None], object]) -> None:
        """Ask whether a monitor of the cluster answers, without a client.

        :param then: called with None if one does or that cannot be told, or
            with the reason as text; it must not block
        """
        self._connection.ask_monitors(then)

    def require(self) -> None:
        """Return if the site is available, without any waiting.

        :raises glance_dcn.ceph.errors.ClusterError: if it is not
        """
        self._connection.check()
        fault = cluster_identity.PROCESS.fault(self)
        if fault:
            raise fault

    @property
    def round_trip(self) -> float | None:
        """Seconds a question to the cluster takes; None: not known yet."""
        return self._connection.round_trip

    @contextlib.contextmanager
    def open_pool(self, pool: str | None = None) -> Iterator[rados.Ioctx]:
        """Open a pool.

        :param pool: name of another pool of the cluster
        :raises glance_dcn.ceph.errors.ClusterError: if it cannot be used
        """
        cluster_identity.PROCESS.begin(self)
        # Both go on at the same time.
        with self._connection.use():
            cluster_identity.PROCESS.check(self)
            with self._connection.open_pool(pool or self.pool) as ioctx:
                yield ioctx

    def check_open(self) -> None:
        """Check that the site takes new images.

        :raises glance_dcn.ceph.errors.Retired: if it does not
        """
        if self.retired:
            raise errors.Retired(self.name)

    def begin(self, ioctx: rados.Ioctx, image: str,
              size: int) -> rbd_backend.RBD:
        """Create an RBD image and open it for the engine to write to.

        An incomplete one that no client writes any more is replaced. Of
        several who begin the same image at once, one does. What a dead writer
        leaves of it from now on is found and removed, see
        :mod:`glance_dcn.tasks.intents`.

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
        :raises glance_dcn.ceph.errors.Retired: if it takes no new images
        :raises glance_dcn.ceph.errors.ReadOnly: if this process may only read
            there
        """
        self.check_open()
        self.access.require_write(ioctx)
        if self._on_write is not None:
            self._on_write(image, self.name, self.instance)
        write = self._begin_write(ioctx, image)
        try:
            endpoint = self.call(self._begin, ioctx, image, size, write,
                                 late=_close)
        except (existing.Refused, name_lock.NotLocked):
            self._end_write(image, write)
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
        client = self._connection.client_of(ioctx)
        features = client.conf_get('rbd_default_features')
        for _attempt in range(_ATTEMPTS):
            with contextlib.suppress(rbd.ImageExists), \
                    contextlib.ExitStack() as stack:
                with self.name_lock(ioctx, image):
                    images.create(ioctx, image, size, self.order, features)
                    endpoint = stack.enter_context(rbd_backend.RBD(
                        ioctx, image, writable=True, name=self._title(image),
                        hold=self._holding(ioctx), cluster=self._connection,
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
        write to its objects when it goes on.

        :raises glance_dcn.sites.existing.BeingWritten: if one of them cannot
            be blocklisted
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away, or
            home
        :raises glance_dcn.ceph.omap.Error: if one of them refuses
        """
        if self.tasks is None:
            return
        addresses = self.tasks.writers_of(self, image, image_id)
        left = self.blocklist(addresses - {self.address})
        if left:
            raise existing.BeingWritten(existing.ExistingImage(
                image, image_id, writers=tuple(sorted(left))))

    @contextlib.contextmanager
    def adopting(self, ioctx: rados.Ioctx, image: str,
                 image_id: str) -> Iterator[None]:
        """Answer for a complete image, as for one that is written.

        It may be one whose writer died before Glance had its location, which
        the task runner removes.

        :raises rbd.Error: if that cannot be recorded
        """
        write = self._begin_write(ioctx, image)
        try:
            if write:
                write.bind(image_id)
            yield
        except BaseException:
            self._end_write(image, write)
            raise
        if self.tasks is not None:
            self.tasks.cancel_deletes(self, image)

    def _begin_write(self, ioctx: rados.Ioctx,
                     image: str) -> intents.Write | None:
        if self.tasks is None:
            return None
        write = self.tasks.begin_write(self, image,
                                       self._connection.address_of(ioctx))
        self._writes.append((image, write))
        return write

    def _take_write(self, image: str,
                    image_id: str | None) -> intents.Write | None:
        """Return the latest write of an image, and forget it; or None."""
        for entry in reversed(self._writes):
            if entry[0] == image and image_id in (None,
                                                  entry[1].intent.image_id):
                self._writes.remove(entry)
                return entry[1]
        return None

    def _end_write(self, image: str, write: intents.Write | None) -> None:
        """Drop the record of a write: nothing of the image is left."""
        if write:
            with contextlib.suppress(ValueError):
                self._writes.remove((image, write))
            write.end()

    def publish(self, ioctx: rados.Ioctx, image: str,
                endpoint: rbd_backend.RBD,
                record: records.Record | None) -> None:
        """Let an image that was written be read.

        :param endpoint: what :meth:`begin` has returned
        :param record: of its content; None: it is kept with the image already
        :raises rbd.Error: if it fails
        :raises glance_dcn.ceph.errors.Unreachable: if the site is found to be
            away meanwhile
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
        """Return whether a writer may be telling Glance of an image.

        True as well if that is not known: it is removed later then, if Glance
        does not have its location.
        """
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
        if (image_id is None and self.tasks is not None
                and all(entry[0] != image for entry in self._writes)):
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
        self._connection.blocklist_retired_clients()
        write = self._take_write(image, image_id)
        if write:
            # The client of a site that went away was retired. One that is
            # in use has other work, and nothing of this is in flight.
            write.abandon(fence=write.intent.address != self.address)

    def discard(self, ioctx: rados.Ioctx, image: str,
                image_id: str | None = None) -> None:
        """Remove an image whose writer has failed.

        Another that has its name by now is left as it is.

        :param image_id: internal ID of the image that is meant; None: it is
            not known, and only an incomplete one is meant
        :raises rbd.ImageNotFound: if there is no such image
        :raises glance_dcn.ceph.name_lock.NameLockError: if other clients are
            at it for too long
        :raises glance_dcn.ceph.images.InUse: if it is still open elsewhere
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
                self._end_write(image, self._take_write(image, image_id))
                return
            except rbd.ImageNotFound:
                self._end_write(image, self._take_write(image, image_id))
                raise
            except images.InUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _note_purge(self, image: str, pool: str | None = None
                    ) -> Callable[[str], None] | None:
        return (None if self.tasks is None
                else self.tasks.note_purge(self, image, pool))

    def removal(self, ioctx: rados.Ioctx, image: str, image_id: str | None,
                snapshot: str | None,
                pool: str | None = None) -> images.Removal:
        """Return the removal of a published image, which is not begun.

        For the holder of its name lock.

        :param pool: name of the pool; None: this site's
        """
        return images.Removal(ioctx, image, image_id, snapshot,
                              trashing=self._note_purge(image, pool))

    def delete(self, ioctx: rados.Ioctx, image: str, image_id: str | None,
               snapshot: str | None, pool: str | None = None) -> None:
        """Remove a published image; for the parameters see :meth:`removal`.

        :raises rbd.ImageNotFound: if there is no such image
        :raises glance_dcn.ceph.images.InUse: if it has clones or is open
            elsewhere
        """
        removal = self.removal(ioctx, image, image_id, snapshot, pool)
        removal.prepare()
        removal.finish()

    def uri(self, image: str, pool: str | None = None) -> str:
        """Return the location of a published image.

        :raises glance_dcn.ceph.errors.ClusterError: if the fsid of the
            cluster cannot be told
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

        :raises glance_dcn.engine.errors.RequestError: if it cannot be opened
        :raises glance_dcn.ceph.errors.Unreachable: if the site is found to be
            away meanwhile
        """
        with self.call(self._open_for_reading, ioctx, image, snapshot,
                       late=_close, fence=False) as endpoint:
            yield endpoint

    def _open_for_reading(self, ioctx: rados.Ioctx, image: str,
                          snapshot: str | None) -> rbd_backend.RBD:
        return rbd_backend.RBD(ioctx, image, snapshot=snapshot,
                               name=self._title(image),
                               hold=self._holding(ioctx),
                               cluster=self._connection)

    def _holding(self, ioctx: rados.Ioctx
                 ) -> Callable[[], Callable[[], object]]:
        """Return what keeps the client of a pool while an image is open."""
        return functools.partial(self._connection.hold, ioctx)

    def remember(self, ioctx: rados.Ioctx, image: str, image_id: str | None,
                 record: records.Record) -> None:
        """Keep a record with an image that is published already.

        :param image_id: internal ID of the image whose content it describes:
            another may have taken the name
        :raises rbd.Error: if it fails
        :raises glance_dcn.ceph.errors.Unreachable: if the site is found to be
            away meanwhile
        """
        self.call(_remember, ioctx, image, image_id, record)

    def published(self, image: str, size: int) -> None:
        """Remember that this process has just published an image.

        Glance asks for the size of a location it is given, which costs a
        dozen round trips to open the image again.

        :param size: bytes
        """
        now = time.monotonic()
        self._published = {name: known for name, known in
                           self._published.items() if known[1] > now}
        self._published[image] = size, now + _FRESH

    def size_of_published(self, image: str) -> int | None:
        """Return what :meth:`published` was told, once; or None."""
        size, until = self._published.pop(image, (0, 0.0))
        return size if time.monotonic() < until else None

    def _title(self, image: str) -> str:
        return '%s: %s/%s' % (self.name, self.pool, image)


def _remember(ioctx: rados.Ioctx, image: str, image_id: str | None,
              record: records.Record) -> None:
    with rbd.Image(ioctx, image) as opened:
        if opened.id() != image_id:
            raise rbd.ImageNotFound('RBD image %s was removed, and another '
                                    'has its name' % image)
        records.save(opened, record)


def _close(endpoint: rbd_backend.RBD) -> None:
    endpoint.close()
