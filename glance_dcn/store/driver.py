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

Everything stock ``rbd`` does, with the same options and outcomes. What is
different: the process keeps one connection to each cluster, made on first
use; only data is written and read, many requests at a time; the hashes are
computed once an image; and an error names the store it belongs to and what
to do.
"""

import contextlib
import errno
import functools
import logging

from glance_store import capabilities
from glance_store import driver
from glance_store import exceptions
from oslo_config import cfg
from oslo_utils import units
import rbd

from glance_dcn import catalog
from glance_dcn.ceph import claims
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import images
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.engine.backends import null
from glance_dcn.engine import errors as engine_errors
from glance_dcn.engine import reader
from glance_dcn.engine import stream
from glance_dcn.engine import transfer
from glance_dcn import plugins
from glance_dcn.sites import hashes
from glance_dcn.sites import leftovers
from glance_dcn.sites import limits
from glance_dcn.sites import owed
from glance_dcn.sites import site
from glance_dcn.sites import sources
from glance_dcn.sites import wiring
from glance_dcn.sites import worker
from glance_dcn.staging import running
from glance_dcn.staging import watch as staging_watch
from glance_dcn.store import backends
from glance_dcn.store import location
from glance_dcn.store import options
from glance_dcn.store import replicas
from glance_dcn.store import staged
from glance_dcn.store import watch

LOG = logging.getLogger(__name__)

# glance_store looks for a class of this name in the driver's module.
StoreLocation = location.StoreLocation

# Seconds to wait for the hashes another store's add() is computing, before
# computing them a second time.
_PATIENCE = 600
# Seconds a site has to answer before a deletion is recorded instead.
_ANSWER = 5
# Glance answers 503 to this one; older releases of glance_store lack it.
_TimeoutError = getattr(exceptions, 'TimeoutError',
                        exceptions.BackendException)


class _Evicted(exceptions.BackendException):
    """The cluster has cut this client off (blocklisted it)."""

    errno = errno.ESHUTDOWN


class _Away(exceptions.RemoteServiceUnavailable,
            exceptions.BadStoreConfiguration):
    """The site does not answer.

    Glance answers a download 503 on the former, if no location is left. The
    latter is what stock rbd raises.
    """


def _survives_eviction(method):
    """Do it once more, on a new connection, if the cluster cut off this one.

    Stock, which connects anew for each operation, does not notice either.
    """
    @functools.wraps(method)
    def survivor(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except _Evicted:
            return method(self, *args, **kwargs)
    return survivor


class Store(driver.Store):
    """A site's store.

    It holds no state of a request, so that glance_store may use one instance
    for all of them.

    :ivar site: :class:`glance_dcn.sites.site.Site`, for whoever moves images
        between sites
    """

    _CAPABILITIES = (capabilities.BitMasks.RW_ACCESS |
                     capabilities.BitMasks.READ_RANDOM |
                     capabilities.BitMasks.DRIVER_REUSABLE)
    OPTIONS = options.STORE_OPTS
    EXAMPLE_URL = 'rbd://<FSID>/<POOL>/<IMAGE>/<SNAP>'

    def get_schemes(self):
        """Return the store's type and the scheme of its locations."""
        return ('dcn', 'rbd')

    def configure_add(self):
        """Take over the options; the cluster is not touched.

        :raises glance_store.exceptions.BadStoreConfiguration: if an option
            has no usable value
        """
        group = self.backend_group or 'glance_store'
        conf = driver.BackendGroupConfiguration(
            self.OPTIONS, group, conf=self.conf)
        try:
            self.name = group
            self.pool = conf.rbd_store_pool
            self.chunk_size = conf.rbd_store_chunk_size * units.Mi
            self.READ_CHUNKSIZE = self.WRITE_CHUNKSIZE = self.chunk_size
            self.thin_provisioning = conf.rbd_thin_provisioning
            self.site = site.Site(
                self.name, self.pool,
                # A power of two, as objects have: stock rounds down too.
                order=self.chunk_size.bit_length() - 1,
                conf_file=conf.rbd_store_ceph_conf, user=conf.rbd_store_user,
                connect_timeout=conf.rados_connect_timeout,
                io_timeout=conf.dcn_io_timeout)
            self.take_limits()
        except cfg.ConfigFileValueError as exc:
            raise exceptions.BadStoreConfiguration(store_name=group,
                                                   reason=str(exc))
        wiring.PROCESS.add(self.site, default=self._is_default)
        owed.ledger.add(self.site, default=self._is_default)
        if catalog.use(self.conf):
            worker.start(self.site)
            staging_watch.start(self.conf)
        self._present_as_rbd()
        plugins.prefer_ours()
        if self.backend_group and self.conf.enabled_backends:
            watch.begin(self.conf, type(self))

    def take_limits(self):
        """Take over the options that hold for running transfers too."""
        conf = driver.BackendGroupConfiguration(
            self.OPTIONS, self.name, conf=self.conf)
        self.site.limits.set(conf.dcn_max_transfers, conf.dcn_bandwidth_limit)

    @property
    def _is_default(self):
        """Whether Glance uses this store where it is told of no other."""
        if not self.backend_group:
            return True
        return self.backend_group == self.conf.glance_store.default_backend

    def _present_as_rbd(self):
        """Make Glance list this store as one of type ``rbd``.

        ``GET /v2/info/stores/detail`` looks a store's type up in a fixed
        table and fails, for all stores, on a type that is not in it
        (glance.api.v2.discovery, Glance 25 to 33).
        """
        if (self.backend_group and
                self.conf.enabled_backends.get(self.backend_group) == 'dcn'):
            backends.change(self.conf, {self.backend_group: 'rbd'})

    @property
    def url_prefix(self):
        """What all locations of this store begin with.

        Glance finds the store of a location by it, and the fsid it shows.
        None where the fsid is not known: no location can be this store's.
        """
        # Glance asks each store for it when it lists images.
        if not self.site.known_fsid or wiring.PROCESS.fault(self.site):
            return None
        return self.site.uri('')[:-len('/snap')]

    @property
    def weight(self):
        """What Glance sorts the locations of an image by, heaviest first.

        The configured weight, a whole number, and a fraction that orders
        stores of equal weight: the local one, then the nearest, and those
        that are away last. (glance_store 4.6.2 and later.)
        """
        conf = getattr(self.conf, self.backend_group or 'glance_store')
        group = getattr(self.conf, 'glance_store', None)
        return getattr(conf, 'weight', 0) + sources.preference(
            self.site, getattr(group, 'default_backend', None))

    @capabilities.check
    def get(self, location, offset=0, chunk_size=None, context=None):
        """Return an image's data and its size.

        :param location: :class:`glance_store.location.Location`
        :param offset: bytes to leave out at the beginning
        :param chunk_size: number of bytes wanted from there; None: all
        :returns: tuple of an iterator over chunks of bytes and the number of
            bytes it will give
        :raises glance_store.exceptions.NotFound: if there is no such image
        :raises glance_store.exceptions.RemoteServiceUnavailable: if the site
            is away
        :raises glance_store.exceptions.BadStoreUri: if the location is not
            in this store's cluster

        Should the site that is read go away, reading goes on at another.
        """
        loc = self._checked(location)
        relay, size = self._plan(loc)
        available = max(0, size - offset)
        length = available if chunk_size is None else min(chunk_size,
                                                          available)
        return self._read(loc, relay, offset, length), length

    def _read(self, loc, relay, offset, length):
        with relay:
            with self._explained_reading(loc):
                source = relay.open()
            burden = relay.source.site.limits
            with limits.turn([burden]), reader.Reader(
                    source, offset, length, chunk=self.READ_CHUNKSIZE,
                    timeout=self._stall_timeout, rate=burden.receiving,
                    another=relay.another) as data:
                yield from data

    @_survives_eviction
    def _plan(self, loc):
        """Look where an image is to be read.

        :returns: tuple of a :class:`glance_dcn.sites.reading.Relay` and the
            image's size in bytes
        """
        found = replicas.Replicas(self, loc)
        with self._reading(loc) as endpoint, self._explained(loc.image):
            return found.relay(endpoint), endpoint.size

    @_survives_eviction
    def get_size(self, location, context=None):
        """Return an image's size in bytes.

        :param location: :class:`glance_store.location.Location`
        :raises glance_store.exceptions.NotFound: if there is no such image
        :raises glance_store.exceptions.BadStoreUri: if the location is not
            in this store's cluster
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
    def add(self, image_id, image_file, image_size, hashing_algo,
            context=None, verifier=None):
        """Store an image.

        The image has no snapshot, and so cannot be read, until all its data
        is there. Whatever goes wrong before, it is removed again. What an
        earlier attempt left behind is taken over if it is complete and equal,
        and replaced if it is half-written.

        :param image_id: UUID of the image
        :param image_file: file-like object or iterable of its data
        :param image_size: bytes; 0 if unknown
        :param hashing_algo: name of a hashlib algorithm for the multihash
        :param verifier: object whose ``update()`` is given all data, or None
        :returns: tuple of location URI, bytes stored, checksum (md5),
            multihash, and metadata of the location
        :raises glance_store.exceptions.Duplicate: if there is an image of
            that name with other content, or somebody is writing it
        :raises glance_store.exceptions.StorageFull: if it does not fit
        :raises glance_store.exceptions.Invalid: if there is more or less data
            than ``image_size``
        :raises glance_store.exceptions.StoreAddDisabled: if the site was
            taken away
        """
        self._check_open()
        with limits.turn([self.site.limits],
                         staged.report_waiting(image_file)):
            # It may have been taken away meanwhile.
            self._check_open()
            return self._add(image_id, image_file, image_size, hashing_algo,
                             verifier)

    def _add(self, image_id, image_file, image_size, hashing_algo, verifier):
        name = str(image_id)
        staged.skip_holes(image_file)
        wanted = (hashes.CHECKSUM, hashing_algo)
        leads = hashes.shared.claim(name)
        record = None
        try:
            held, ioctx, begun = self._begin(name, image_size)
            with held:
                take = (self._adopt if isinstance(begun, leftovers.Found)
                        else self._store)
                record = take(ioctx, begun, name, wanted, leads,
                              functools.partial(
                                  self._write, image_file, image_size,
                                  wanted if leads else (),
                                  self._tap(name, image_size, verifier)))
        finally:
            if leads and record is not None:
                hashes.shared.share(name, record)
            elif leads:
                hashes.shared.give_up(name)
        metadata = {'store': self.backend_group} if self.backend_group else {}
        return (self.site.uri(name), record.size,
                record.hashes[hashes.CHECKSUM], record.hashes[hashing_algo],
                metadata)

    @_survives_eviction
    def _begin(self, name, size):
        """Open the pool and begin an image in it.

        :returns: tuple of a context manager that closes the pool, its
            rados.Ioctx, and the open image, an engine endpoint, or what there
            is instead, a complete :class:`glance_dcn.sites.leftovers.Found`
        """
        with contextlib.ExitStack() as stack:
            ioctx = stack.enter_context(self._open_pool())
            try:
                with self._explained(name):
                    begun = self.site.begin(ioctx, name, size)
            except leftovers.Complete as exc:
                begun = exc.found
                if size and size != begun.size:
                    raise self._duplicate(leftovers.Different(
                        begun, 'its size is %d bytes, not %d'
                        % (begun.size, size)))
            except leftovers.Refused as exc:
                raise self._duplicate(exc)
            except BaseException as exc:
                self.site.failed(exc)
                if not isinstance(exc.__cause__, claims.NotClaimed):
                    self.site.discard_or_owe(ioctx, name)
                raise
            return stack.pop_all(), ioctx, begun

    def _duplicate(self, exc):
        return exceptions.Duplicate(message='Store %s: %s' % (self.name, exc))

    def _tap(self, name, size, verifier):
        """Return what all data is shown to: verifier and progress."""
        listeners = [listener for listener in (
            verifier and verifier.update,
            running.meter(name, self.name, size)) if listener]
        if len(listeners) < 2:
            return listeners[0] if listeners else None

        def tap(data):
            for listener in listeners:
                listener(data)
        return tap

    def _write(self, image_file, image_size, wanted, tap, target,
               rate=None):
        """Write a stream to an endpoint.

        :param wanted: hashlib names of the hashes to compute on the way
        :param tap: called with all data, or None
        :param rate: :class:`glance_dcn.engine.rates.Rate`, or None
        :returns: :class:`glance_dcn.engine.transfer.Result`
        """
        with stream.Sink(
                target, image_size or None, hashes=wanted,
                tap=tap, timeout=self._stall_timeout, rate=rate) as sink:
            sink.write_from(image_file, self.WRITE_CHUNKSIZE)
            return sink.finish()

    def _store(self, ioctx, target, name, wanted, leads, write):
        """Write a stream to a new image and publish it.

        :param target: engine endpoint of the image
        :param wanted: hashlib names of the hashes Glance wants
        :param leads: whether they are computed on the way
        :param write: function that writes the stream to an endpoint
        :returns: :class:`glance_dcn.ceph.records.Record`
        """
        with self._removed_on_failure(ioctx, name, target.image.id()), target:
            result = write(target, self.site.limits.sending)
            computed = result.hashes if leads else self._hashes_of(
                ioctx, name, result, wanted)
            record = records.Record(result.size, result.content, computed)
            self.site.publish(ioctx, name, target.image, record)
            return record

    def _adopt(self, ioctx, found, name, wanted, leads, write):
        """Take over a complete image, if it is what the stream brings.

        :param found: :class:`glance_dcn.sites.leftovers.Found`

        The others are those of :meth:`_store`.
        """
        with self._explained(name):
            result = write(null.Null(name))
            try:
                leftovers.adopt(self.site, ioctx, found, result.size,
                                result.content)
            except leftovers.Refused as exc:
                raise self._duplicate(exc)
            computed = result.hashes if leads else self._hashes_of(
                ioctx, name, result, wanted, images.SNAPSHOT)
        return records.Record(result.size, result.content, computed)

    def _hashes_of(self, ioctx, name, result, wanted, snapshot=None):
        """Take over the hashes of equal content, or compute them."""
        known = hashes.shared.wait(name, _PATIENCE)
        if (known and set(wanted) <= set(known.hashes)
                and (known.size, known.content) == (result.size,
                                                    result.content)):
            return {algorithm: known.hashes[algorithm]
                    for algorithm in wanted}
        LOG.info('Image %(image)s in store %(store)s is not what this process '
                 'knows the hashes of: reading it once more to compute them',
                 {'image': name, 'store': self.name})
        with self.site.reading(ioctx, name, snapshot) as source:
            return transfer.Transfer(
                source, content=False, hashes=wanted,
                timeout=self._stall_timeout,
                limits={source: self.site.limits.receiving}).run().hashes

    @contextlib.contextmanager
    def _removed_on_failure(self, ioctx, name, identity):
        """Remove the new image again if the block fails.

        Also when the process is told to end: SystemExit is no Exception.
        """
        try:
            yield
        except BaseException as exc:
            LOG.error('Failed to store image %(image)s in store %(store)s: '
                      '%(error)s', {'image': name, 'store': self.name,
                                    'error': exc or type(exc).__name__})
            # Or removing it would wait for a site that is away once more.
            self.site.failed(exc)
            self.site.discard_or_owe(ioctx, name, identity)
            with self._explained(name):
                raise

    @contextlib.contextmanager
    def _explained(self, name):
        """Say what Ceph and the engine raise in glance_store's terms.

        Those that say something about the image itself are left alone.
        """
        try:
            yield
        except (rbd.ImageExists, rbd.ImageNotFound):
            raise
        except engine_errors.SizeMismatch as exc:
            raise exceptions.Invalid(
                'Size mismatch: expected %s bytes, got %s bytes'
                % (exc.expected, exc.found))
        except (engine_errors.RequestError, claims.ClaimError,
                rbd.OSError) as exc:
            raise self._failure(exc, name, exc.errno) from exc

    def _failure(self, exc, name, code):
        if code in (errno.ENOSPC, errno.EDQUOT):
            return exceptions.StorageFull(
                message='Store %s has no room for image %s: %s'
                        % (self.name, name, exc))
        if code in (errno.EPERM, errno.EACCES):
            return exceptions.BadStoreConfiguration(
                store_name=self.name, reason='pool %s refuses the user (%s); '
                'see rbd_store_pool and rbd_store_user in [%s], and the osd '
                'caps of that user' % (self.pool, exc, self.name))
        if code == errno.ESHUTDOWN:
            return _Evicted(str(exc))
        return exceptions.BackendException(
            'Store %s failed with image %s: %s' % (self.name, name, exc))

    @capabilities.check
    @_survives_eviction
    def delete(self, location, context=None):
        """Delete an image, or move it to the trash while snapshots remain.

        If the site is away, its removal is recorded, and done when the site
        is back.

        :param location: :class:`glance_store.location.Location`
        :raises glance_store.exceptions.NotFound: if there is no such image
        :raises glance_store.exceptions.InUseByStore: if it has clones or is
            open elsewhere
        :raises glance_store.exceptions.BadStoreUri: if the location is not
            in this store's cluster
        :raises glance_store.exceptions.TimeoutError: if the site is away and
            the removal cannot be recorded either
        """
        loc = self._checked(location)
        try:
            with self.site.open_pool(loc.pool) as ioctx:
                self._remove(ioctx, loc)
        except rbd.ImageNotFound:
            raise self._not_found(loc)
        except images.InUse as exc:
            LOG.warning('Store %s: %s', self.name, exc)
            raise exceptions.InUseByStore()
        except (errors.Unreachable, errors.NotDeployed) as exc:
            self._owe(loc, exc)
        except errors.ClusterError as exc:
            raise exceptions.BadStoreConfiguration(store_name=self.name,
                                                   reason=str(exc))
        except (rbd.Error, omap.Error) as exc:
            # What a cluster answers, a refusal say, is none the less an
            # answer: only what is not answered is owed.
            if self.site.health.state == health.DOWN:
                self._owe(loc, exc)
                return
            if isinstance(exc, omap.Error):
                raise self._failure(exc, loc.image,
                                    abs(exc.errno or 0)) from exc
            with self._explained(loc.image):
                raise

    def _remove(self, ioctx, loc):
        # A site that has just gone away, or hangs, is not to be waited for as
        # long as other requests are.
        images.knock(ioctx, loc.image, _ANSWER)
        images.remove(ioctx, loc.image, loc.snapshot,
                      trashing=owed.trashing(self.site, loc.image, loc.pool))
        self.site.writers.end(ioctx, loc.image)

    def _owe(self, loc, reason):
        """Record that an image is to be removed when its site is back."""
        try:
            owed.ledger.record(
                self.site, owed.DELETE, loc.image, loc.pool, fsid=loc.fsid,
                snapshot=loc.snapshot, error=str(reason))
        except owed.NotRecorded as exc:
            # Not one that makes Glance drop the location all the same, as it
            # does after NotFound and StoreDeleteNotSupported.
            raise _TimeoutError('Image %s stays: %s' % (loc.image, exc))

    def _check_open(self):
        try:
            self.site.check_open()
        except errors.Retired as exc:
            raise exceptions.StoreAddDisabled(message=str(exc))

    def _checked(self, location):
        """Return the store location, if it is in this store's cluster."""
        loc = location.store_location
        fsid = self.site.fsid
        if loc.fsid and fsid and loc.fsid != fsid:
            raise exceptions.BadStoreUri(
                message='%s is not a location of store %s, whose cluster has '
                        'fsid %s' % (loc.get_uri(), self.name, fsid))
        return loc

    @property
    def _stall_timeout(self):
        """Seconds without any progress after which a transfer is given up."""
        return self.site.io_timeout or float('inf')

    @contextlib.contextmanager
    def _open_pool(self, pool=None):
        """Open a pool: context manager that gives a rados.Ioctx.

        :raises glance_store.exceptions.BadStoreConfiguration: if the cluster
            does not answer or the options do not fit it
        """
        with contextlib.ExitStack() as stack:
            try:
                ioctx = stack.enter_context(self.site.open_pool(pool))
            except errors.ClusterError as exc:
                raise self._unusable(exc) from exc
            yield ioctx

    @contextlib.contextmanager
    def _reading(self, loc):
        """Open an image for reading: context manager for its endpoint."""
        with self._open_pool(loc.pool) as ioctx, contextlib.ExitStack() as stk:
            with self._explained_reading(loc):
                source = stk.enter_context(
                    self.site.reading(ioctx, loc.image, loc.snapshot))
            yield source

    @contextlib.contextmanager
    def _explained_reading(self, loc):
        """Say in glance_store's terms why an image cannot be opened."""
        try:
            yield
        except errors.ClusterError as exc:
            raise self._unusable(exc) from exc
        except engine_errors.RequestError as exc:
            if exc.errno == errno.ENOENT:
                raise self._not_found(loc) from exc
            if exc.errno == errno.ETIMEDOUT:
                raise _Away(message=str(exc)) from exc
            raise self._failure(exc, loc.image, exc.errno) from exc

    def _unusable(self, exc):
        if isinstance(exc, errors.Unreachable):
            return _Away(message=str(exc))
        return exceptions.BadStoreConfiguration(store_name=self.name,
                                                reason=str(exc))

    def _not_found(self, loc):
        return exceptions.NotFound(
            message='RBD image %s does not exist in store %s'
                    % (loc.get_uri(), self.name))
