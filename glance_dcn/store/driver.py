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

"""The ``dcn`` store: images of one site, in the pool of its Ceph cluster.

It does what stock ``rbd`` does, with the same options and outcomes. But the
process keeps one connection to each cluster, made on first use; only data is
written and read, many requests at a time; the hashes are computed once an
image; and an error names the store it belongs to and what to do.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import typing

from glance_store import capabilities
from glance_store import driver
from glance_store import exceptions
from glance_store import location as glance_location
from oslo_config import cfg
from oslo_utils import units
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import client_cache
from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import scan
from glance_dcn.runtime import green
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import hashes
from glance_dcn.sites import home as homes
from glance_dcn.sites import limits
from glance_dcn.sites import site
from glance_dcn.sites import sources
from glance_dcn.store import adding
from glance_dcn.store import callers
from glance_dcn.store import config_watch
from glance_dcn.store import deletion as deletions
from glance_dcn.store import dynamic_stores
from glance_dcn.store import failures
from glance_dcn.store import last_copy
from glance_dcn.store import location
from glance_dcn.store import options
from glance_dcn.store import replicas
from glance_dcn.store import spreading
from glance_dcn.tasks import deployment as deployments
from glance_dcn.tasks import queue
from glance_dcn.upstream import glance_db
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins
from glance_dcn.workers import leader
from glance_dcn.workers import presence

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from glance_dcn.engine.backends import base

LOG = logging.getLogger(__name__)

# glance_store looks for a class of this name in the driver's module.
StoreLocation = location.StoreLocation


class Store(driver.Store):
    """A site's store; without state of a request, so that one serves all.

    :ivar site: for what moves images between sites
    """

    _CAPABILITIES = (capabilities.BitMasks.RW_ACCESS |
                     capabilities.BitMasks.READ_RANDOM |
                     capabilities.BitMasks.DRIVER_REUSABLE)
    # What glance_store registers by itself, in one group with the options of
    # all other drivers where a Glance has a single store: those of stock's
    # names would clash with stock's there, and keep Glance from starting.
    OPTIONS = options.DCN_STORE_OPTS
    EXAMPLE_URL = 'rbd://<FSID>/<POOL>/<IMAGE>/<SNAP>'

    def __init__(self, conf: cfg.ConfigOpts,
                 backend: str | None = None) -> None:
        """Register all options; see :class:`glance_store.driver.Store`."""
        # Releases before 5.0 have no group of defaults for all stores.
        shared = getattr(driver, 'SHARED_CONF_GROUP', None)
        groups = [backend or 'glance_store', *filter(None, [shared])]
        conf.register_opts(options.PROCESS_OPTS, group=options.GROUP)
        for opt in options.STORE_OPTS:
            for group in groups:
                # Stock's, of the same name, serves as well.
                with contextlib.suppress(cfg.DuplicateOptError):
                    conf.register_opt(opt, group=group)
        # glance_store makes stores without a way to pass anything to them.
        self.tasks = process.get(queue.TaskQueue)
        self._identities = process.get(cluster_identity.ClusterIdentities)
        super().__init__(conf, backend)

    def get_schemes(self) -> tuple[str, ...]:
        """Return the store's type and the scheme of its locations."""
        return ('dcn', 'rbd')

    def configure_add(self) -> None:
        """Take over the options; the cluster is not touched.

        :raises exceptions.BadStoreConfiguration: if one has no usable value
        """
        group = self.backend_group or 'glance_store'
        conf = self._options(group)
        try:
            self.name = group
            self.pool = conf.rbd_store_pool
            self.chunk_size = conf.rbd_store_chunk_size * units.Mi
            self.READ_CHUNKSIZE = self.WRITE_CHUNKSIZE = self.chunk_size
            self.thin_provisioning = conf.rbd_thin_provisioning
            self.site = site.Site(
                clients.ClusterConfig(
                    self.name, self.pool, conf.rbd_store_ceph_conf,
                    conf.rbd_store_user, conf.rados_connect_timeout,
                    conf.dcn_io_timeout),
                # A power of two, as objects have: stock rounds down too.
                order=self.chunk_size.bit_length() - 1,
                home=self.tasks.home,
                tasks=self.tasks,
                read_only=conf.dcn_access == 'read-only',
                on_write=active_imports.writes)
            self.take_limits()
        except cfg.ConfigFileValueError as exc:
            raise exceptions.BadStoreConfiguration(store_name=group,
                                                   reason=str(exc))
        self._begin_work(group)

    def _begin_work(self, group: str) -> None:
        """Begin what the process does for its stores beside requests.

        :raises exceptions.BadStoreConfiguration: if no store keeps the records
        """
        # It has to ask Glance's database.
        green.start()
        if glance_interfaces.forks_workers(self.conf):
            periodic.become_master()
        database = self.database
        # First: what is kept of the sites bears the name of the deployment.
        self.conf.register_opts(deployments.OPTS, group=deployments.GROUP)
        self.tasks.configure(
            deployments.deployment_id(self.conf),
            folder.private(self.conf) if database else None, database)
        self._configure_clients(warn=self.tasks.enabled)
        if self.tasks.enabled:
            glance_interfaces.start(self.conf)
        if database and self.tasks.enabled:
            leader.begin(self.conf, self.tasks)
        home = self._home
        is_home = home == group
        self._identities.add(self.site, home=is_home)
        self.tasks.add(self.site, home=is_home)
        if database and self.tasks.enabled:
            self.tasks.start()
            process.get(scan.Scanner).start(self.conf)
            if is_home:
                presence.begin(self.conf)
        self._present_as_rbd()
        plugins.prefer_ours()
        if self.backend_group and self.conf.enabled_backends:
            config_watch.begin(self.conf, type(self), self.tasks)
        if home is None:
            raise self._no_home()

    def _options(self, group: str) -> typing.Any:
        """Return the store's options, as attributes.

        glance_store 5.0 has defaults for all stores, ``[backend_defaults]``.
        """
        shared = getattr(driver, 'BackendGroupConfiguration', None)
        if shared is None:
            return getattr(self.conf, group)
        return shared(options.STORE_OPTS, group, conf=self.conf)

    def _configure_clients(self, warn: bool) -> None:
        """Bound what the process holds of all clusters together.

        Called as each store is set up; the same options have an effect once.
        """
        conf = self.conf[options.GROUP]
        shortages = process.get(client_cache.Caches).configure(
            conf.dcn_client_idle_timeout, conf.dcn_max_clients,
            _process_count(self.conf))
        for shortage in shortages if warn else ():
            LOG.warning('%s', shortage)

    def take_limits(self) -> None:
        """Take over the options that hold for running transfers too."""
        conf = self._options(self.name)
        self.site.limits.set(conf.dcn_max_transfers, conf.dcn_bandwidth_limit)

    @property
    def _home(self) -> str | None:
        """Identifier of the store that keeps the records, or None."""
        if not self.backend_group:
            return self.name
        return homes.choose(self.conf, self.tasks.sites)

    def _no_home(self) -> exceptions.BadStoreConfiguration:
        """Return the error of a store whose writes cannot be recorded."""
        return exceptions.BadStoreConfiguration(
            store_name=self.name, reason='no store is said to keep the '
            'records, which other sites must not be able to write: there are '
            'several of type dcn, and default_backend %s is not one of them. '
            'Let it be of type dcn, or set home_store in [glance_dcn]'
            % self.conf.glance_store.default_backend)

    def _present_as_rbd(self) -> None:
        """Make Glance list this store as one of type ``rbd``.

        ``GET /v2/info/stores/detail`` looks a store's type up in a fixed
        table and fails, for all stores, on a type that is not in it
        (glance.api.v2.discovery, Glance 25 to 33).
        """
        if (self.backend_group and
                self.conf.enabled_backends.get(self.backend_group) == 'dcn'):
            dynamic_stores.set_types(self.conf, {self.backend_group: 'rbd'})

    @property
    def siblings(self) -> dict[str, Store]:
        """All dcn stores of the process by identifier, this one too."""
        known = glance_location.SCHEME_TO_CLS_BACKEND_MAP.get('dcn', {})
        return {name: entry['store'] for name, entry in known.items()
                if isinstance(entry.get('store'), Store)}

    @property
    def database(self) -> glance_db.GlanceDatabase | None:
        """The database of the Glance that this process belongs to."""
        return glance_db.of(self.conf)

    @property
    def url_prefix(self) -> str | None:
        """What all locations of this store begin with, by which it is found.

        None where the fsid is not known: no location can be this store's.
        """
        # Glance asks each store for it when it lists images.
        if (not self.site.connection.known_fsid
                or self._identities.fault(self.site)):
            return None
        return self.site.uri('')[:-len('/snap')]

    @property
    def weight(self) -> float:
        """What Glance sorts the locations of an image by, heaviest first.

        The configured weight, as stock's; for an image that is to be read, a
        fraction is added that orders stores of equal weight: the local one,
        then the nearest, and one that is away after all others. What is shown
        keeps the order of the database. (glance_store 4.6.2 and later.)
        """
        group = self.backend_group or 'glance_store'
        weight = getattr(getattr(self.conf, group), 'weight', 0)
        if callers.is_shown():
            return weight
        if not self.site.available:
            return -math.inf
        shared = getattr(self.conf, 'glance_store', None)
        return weight + sources.preference(
            self.site, getattr(shared, 'default_backend', None))

    @capabilities.check
    def get(self, location: glance_location.Location, offset: int = 0,
            chunk_size: int | None = None,
            context: typing.Any = None) -> tuple[Iterator[bytes], int]:
        """Return an iterator over chunks of an image, and the bytes it gives.

        Should the site that is read go away, reading goes on at another. To
        the thread that fills Glance's cache ahead, which would end with it, an
        error is raised with the first chunk.

        :param offset: bytes to leave out at the beginning
        :param chunk_size: number of bytes wanted from there; None: all
        :raises exceptions.NotFound: if there is no such image
        :raises exceptions.RemoteServiceUnavailable: if the site is away
        :raises failures.Elsewhere: if it is not in this store's cluster
        """
        loc = location.store_location
        try:
            store = self
            if not loc.fsid and callers.is_search():
                store = self._holder(loc)
            self._check_is_here(loc)
            data, size = store._begin_reading(loc, offset, chunk_size)
            return data, size
        except (exceptions.GlanceStoreException,
                exceptions.BackendException) as exc:
            if not callers.is_cached_ahead() or (
                    isinstance(exc, failures.Elsewhere)
                    and not replicas.is_last_answer(self, loc)):
                raise
            return failures.raised_late(exc), 0

    def _holder(self, loc: location.StoreLocation) -> Store:
        """Return the store that has the image of a location without an fsid.

        :raises exceptions.NotFound: if none has it, or another store is the
            one to look for it, so that it is done once
        :raises failures.Away: if that cannot be told
        """
        first = next(name for name in self.conf.enabled_backends
                     if name in self.siblings)
        holder = replicas.holder(self, loc) if first == self.name else None
        if holder is None:
            raise failures.not_found(self.site, loc)
        return holder

    def _check_is_here(self, loc: location.StoreLocation) -> None:
        """Return if a location may be in this store's cluster.

        :raises failures.Elsewhere: if it is not
        """
        if not loc.fsid:
            return
        # Other stores count only where this one cannot tell.
        fsid = self.site.connection.known_fsid
        if (replicas.owner(self, loc) is not self if fsid is None
                else fsid != loc.fsid):
            raise failures.elsewhere(self.site, loc,
                                     self.site.connection.known_fsid)

    @failures.retried_if_blocklisted
    def _begin_reading(self, loc: location.StoreLocation, offset: int,
                       wanted: int | None) -> tuple[Iterator[bytes], int]:
        data = self._read(loc, offset, wanted)
        return data, next(data)

    def _read(self, loc: location.StoreLocation, offset: int,
              wanted: int | None) -> Iterator[typing.Any]:
        """Give the number of bytes there will be, then chunks of them.

        From the first on the image is open, until the generator is closed.
        """
        found = replicas.Replicas(self, loc)
        with found.failover() as failover:
            with failures.explained_opening(self.site, loc):
                source = failover.open()
            with failures.explained(self.site, loc.image):
                failover.record = found.record(source)
            available = max(0, source.size - offset)
            length = available if wanted is None else min(wanted, available)
            yield length
            site_limits = self.site.limits
            with limits.slots([site_limits]):
                yield from self._chunks(loc, sources.chunks(
                    failover, source, offset, length,
                    chunk=self.READ_CHUNKSIZE, rate=site_limits.receiving,
                    timeout=adding.stall_timeout(self.site)))

    def _chunks(self, loc: location.StoreLocation,
                chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Say in glance_store's terms that the image is gone, if it is."""
        try:
            yield from chunks
        except sources.Removed as exc:
            raise failures.not_found(self.site, loc) from exc

    @failures.retried_if_blocklisted
    def get_size(self, location: glance_location.Location,
                 context: typing.Any = None) -> int:
        """Return an image's size in bytes.

        :raises exceptions.NotFound: if there is no such image
        :raises exceptions.BadStoreUri: if it is not in this store's cluster
        """
        loc = self._checked(location)
        if (loc.pool, loc.snapshot) == (self.pool, images.SNAPSHOT):
            size = self.site.size_of_published(loc.image)
            if size is not None:
                return size
        with self._reading(loc) as source:
            return source.size

    @driver.back_compat_add
    @capabilities.check
    def add(self, image_id: str, image_file: typing.Any, image_size: int,
            hashing_algo: str, context: typing.Any = None,
            verifier: typing.Any = None
            ) -> tuple[str, int, str, str, dict[str, str]]:
        """Store an image.

        It has no snapshot, and so cannot be read, until all its data is there;
        if that fails, it is removed again. An existing image is adopted if it
        is complete and equal, and replaced if it is incomplete.

        :param image_file: file-like object or iterable of its data
        :param image_size: bytes; 0 if unknown
        :param hashing_algo: name of a hashlib algorithm for the multihash
        :param verifier: object whose ``update()`` is given all data, or None
        :returns: location URI, bytes stored, checksum (md5), multihash, and
            metadata of the location
        :raises exceptions.Duplicate: if there is an image of that name with
            other content, or it is being written
        :raises exceptions.StorageFull: if it does not fit
        :raises exceptions.Invalid: if its data is not ``image_size`` long
        :raises exceptions.StoreAddDisabled: if the site was taken away
        """
        self._check_open()
        waiting = adding.report_waiting(image_file)
        going_on = active_imports.of(str(image_id))
        spread = spreading.of(going_on, self.conf, self.tasks.sites
                              ) if going_on else None
        if spread:
            spread.prepare(self.site, waiting)
        with self._reason_is_told(str(image_id)), \
                limits.slots([self.site.limits], waiting):
            # It may have been taken away meanwhile.
            self._check_open()
            record = adding.Addition(
                self.site, str(image_id), image_file, image_size,
                hashing_algo, self.WRITE_CHUNKSIZE, verifier).run()
        if spread:
            spread.stored(self.site, record)
        metadata = {'store': self.backend_group} if self.backend_group else {}
        return (self.site.uri(str(image_id)), record.size,
                record.hashes[hashes.CHECKSUM], record.hashes[hashing_algo],
                metadata)

    @capabilities.check
    def delete(self, location: glance_location.Location,
               context: typing.Any = None) -> None:
        """Delete an image, or move it to the trash while snapshots remain.

        If Glance deletes the whole image, it is removed from all its stores at
        once, or from none. Where a site does not answer in time, the removal
        is recorded, and done by the task runner. If Glance does not know the
        store of the location, that store is found.

        :raises exceptions.NotFound: if there is no such image
        :raises exceptions.InUseByStore: if it has clones or is open elsewhere
        :raises failures.LastCopy: if Glance removes it from this store alone
            and no other one is seen to have it
        :raises exceptions.BadStoreUri: if it is not in this store's cluster
        :raises exceptions.TimeoutError: if the site is away and the removal
            cannot be recorded either, or which one has it cannot be told
        :raises failures.DeleteDenied: if this Glance may only read there, or
            in another store of the image
        """
        loc = location.store_location
        store: Store | None = self
        if callers.is_search():
            try:
                store = (replicas.owner(self, loc) if loc.fsid
                         else self._holder(loc))
            except failures.Away as exc:
                raise failures.TimeoutError(str(exc)) from exc
        # Neither an error that ends the search will do, nor one that has
        # Glance drop the location in the end.
        (store or self)._delete(location)

    def _delete(self, location: glance_location.Location) -> None:
        loc = self.checked_for_deletion(location)
        with last_copy.kept(self, loc):
            deletion = process.get(deletions.Requests).delete(self, loc)
            if not deletion.deferred:
                assert deletion.store is not None, 'a request is to a store'
                deletion.store.answer(deletion)

    def answer(self, deletion: deletions.Deletion) -> None:
        """Return if an image was removed from this store.

        :raises: see :meth:`delete`
        """
        loc = deletion.loc
        try:
            error = deletion.refusal or deletion.error
            if error is not None:
                raise error
        except rbd.ImageNotFound:
            raise failures.not_found(self.site, loc)
        except images.InUse as exc:
            LOG.warning('Store %s: %s', self.name, exc)
            raise exceptions.InUseByStore()
        except errors.ReadOnly as exc:
            raise deletions.denial(loc.image, exc)
        except errors.ClusterError as exc:
            raise exceptions.BadStoreConfiguration(store_name=self.name,
                                                   reason=str(exc))
        except (rbd.Error, omap.Error, name_lock.NameLockError) as exc:
            deletions.explain(self, loc, exc)
            if isinstance(exc, omap.Error):
                raise failures.failure(self.site, exc, loc.image,
                                       abs(exc.errno or 0)) from exc
            with failures.explained(self.site, loc.image):
                raise

    @staticmethod
    @contextlib.contextmanager
    def _reason_is_told(image_id: str) -> Iterator[None]:
        """Keep why an image is not stored for the message of its import.

        Of what a store raises Glance tells users of an internal error.
        """
        try:
            yield
        except (exceptions.GlanceStoreException,
                exceptions.BackendException) as exc:
            active_imports.refuse(image_id, str(exc))
            raise

    def _check_open(self) -> None:
        try:
            self.site.check_open()
        except errors.Retired as exc:
            raise exceptions.StoreAddDisabled(message=str(exc))

    def _checked(self, location: glance_location.Location) -> StoreLocation:
        """Return the store location, if it is in this store's cluster."""
        loc: StoreLocation = location.store_location
        fsid = self.site.fsid
        if loc.fsid and fsid and loc.fsid != fsid:
            raise exceptions.BadStoreUri(
                message='%s is not a location of store %s, whose cluster has '
                        'fsid %s' % (loc.get_uri(), self.name, fsid))
        return loc

    def checked_for_deletion(self, location: glance_location.Location
                             ) -> StoreLocation:
        """Return the store location, if what it names is to be deleted.

        :raises exceptions.BadStoreUri: if it is not in this store's cluster
        :raises exceptions.NotFound: if it is in a cluster that was replaced:
            the location is all there is
        """
        try:
            return self._checked(location)
        except exceptions.BadStoreUri as exc:
            loc = location.store_location
            if self._identities.has_replaced(self.site, loc.fsid):
                raise failures.not_found(self.site, loc)
            raise failures.ForeignLocation(
                '%s. Delete it by a Glance that has that cluster in one of '
                'its stores; see "Locations of no store" in the guide if '
                'there is none any more' % exc) from exc

    @contextlib.contextmanager
    def _reading(self, loc: location.StoreLocation) -> Iterator[base.Endpoint]:
        """Open an image for reading: context manager for its endpoint."""
        with failures.open_pool(self.site, loc.pool) as ioctx, \
                contextlib.ExitStack() as stack:
            with failures.explained_opening(self.site, loc):
                source = stack.enter_context(
                    self.site.reading(ioctx, loc.image, loc.snapshot))
            yield source


def _process_count(conf: cfg.ConfigOpts) -> int:
    """Return how many processes there are of this Glance."""
    # That of glance_dcn.runtime.periodic.
    uwsgi = sys.modules.get('uwsgi')
    if uwsgi is not None:
        return max(1, getattr(uwsgi, 'numproc', 1))
    try:
        # Of the standalone glance-api, which registers the option and starts
        # so many if it is not set (glance.common.wsgi.get_num_workers).
        if conf.workers is None:
            return min(8, os.cpu_count() or 1)
        return max(1, int(conf.workers))
    except cfg.NoSuchOptError:
        return 1
