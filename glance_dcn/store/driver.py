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
use, and an error names the store it belongs to and what to do.
"""

import contextlib
import logging

from glance_store import capabilities
from glance_store.common import utils
from glance_store import driver
from glance_store import exceptions
from oslo_config import cfg
from oslo_utils import units
import rbd

from glance_dcn.ceph import connection
from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.store import location
from glance_dcn.store import options

LOG = logging.getLogger(__name__)

# glance_store looks for a class of this name in the driver's module.
StoreLocation = location.StoreLocation

# An image of unknown size grows by twice as much each time, up to this.
_MAX_GROWTH = 8 * units.Gi


class Store(driver.Store):
    """A site's store.

    It holds no state of a request, so that glance_store may use one instance
    for all of them.
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
            # A power of two, as objects have: stock rounds down too.
            self.order = (conf.rbd_store_chunk_size
                          * units.Mi).bit_length() - 1
            self.chunk_size = conf.rbd_store_chunk_size * units.Mi
            self.READ_CHUNKSIZE = self.WRITE_CHUNKSIZE = self.chunk_size
            self.thin_provisioning = conf.rbd_thin_provisioning
            self._connection = connection.get(
                self.name, conf.rbd_store_ceph_conf, conf.rbd_store_user,
                connect_timeout=conf.rados_connect_timeout,
                io_timeout=conf.dcn_io_timeout)
        except cfg.ConfigFileValueError as exc:
            raise exceptions.BadStoreConfiguration(store_name=group,
                                                   reason=str(exc))
        self._present_as_rbd()

    def _present_as_rbd(self):
        """Make Glance list this store as one of type ``rbd``.

        ``GET /v2/info/stores/detail`` looks a store's type up in a fixed
        table and fails, for all stores, on a type that is not in it
        (glance.api.v2.discovery, Glance 25 to 33).
        """
        if not self.backend_group:
            return
        backends = dict(self.conf.enabled_backends)
        if backends.get(self.backend_group) == 'dcn':
            backends[self.backend_group] = 'rbd'
            self.conf.set_override('enabled_backends', backends)

    @property
    def url_prefix(self):
        """What all locations of this store begin with.

        Glance finds the store of a location by it, and the fsid it shows.
        """
        fsid = self._connection.fsid
        if not fsid:
            return 'rbd://'
        return location.StoreLocation(
            {'fsid': fsid, 'pool': self.pool, 'image': 'x',
             'snapshot': 'x'}, self.conf).get_uri()[:-len('x/x')]

    @capabilities.check
    def get(self, location, offset=0, chunk_size=None, context=None):
        """Return an image's data and its size.

        :param location: :class:`glance_store.location.Location`
        :param offset: bytes to leave out at the beginning
        :param chunk_size: number of bytes wanted from there; None: all
        :returns: tuple of an iterator over chunks of bytes and the number of
            bytes it will give
        :raises glance_store.exceptions.NotFound: if there is no such image
        :raises glance_store.exceptions.BadStoreUri: if the location is not
            in this store's cluster
        """
        loc = self._checked(location)
        available = max(0, self.get_size(location) - offset)
        length = available if chunk_size is None else min(chunk_size,
                                                          available)
        return self._read(loc, offset, length), length

    def _read(self, loc, offset, length):
        with self._open(loc) as image:
            while length > 0:
                data = image.read(offset, min(length, self.READ_CHUNKSIZE))
                if not data:
                    raise exceptions.BackendException(
                        'store %s: RBD image %s ends %d bytes early'
                        % (self.name, loc.image, length))
                yield data
                offset += len(data)
                length -= len(data)

    def get_size(self, location, context=None):
        """Return an image's size in bytes.

        :param location: :class:`glance_store.location.Location`
        :raises glance_store.exceptions.NotFound: if there is no such image
        :raises glance_store.exceptions.BadStoreUri: if the location is not
            in this store's cluster
        """
        with self._open(self._checked(location)) as image:
            return image.size()

    @driver.back_compat_add
    @capabilities.check
    def add(self, image_id, image_file, image_size, hashing_algo,
            context=None, verifier=None):
        """Store an image.

        The image has no snapshot, and so cannot be read, until all its data
        is there. Whatever goes wrong before, it is removed again.

        :param image_id: UUID of the image
        :param image_file: file-like object or iterable of its data
        :param image_size: bytes; 0 if unknown
        :param hashing_algo: name of a hashlib algorithm for the multihash
        :param verifier: object whose ``update()`` is given all data, or None
        :returns: tuple of location URI, bytes stored, checksum (md5),
            multihash, and metadata of the location
        :raises glance_store.exceptions.Duplicate: if the image exists
        :raises glance_store.exceptions.StorageFull: if it does not fit
        :raises glance_store.exceptions.Invalid: if there is more or less data
            than ``image_size``
        """
        name = str(image_id)
        multihash = utils.get_hasher(hashing_algo, False)
        checksum = utils.get_hasher('md5', False)
        sinks = [multihash, checksum] + ([verifier] if verifier else [])
        with self._open_pool() as (client, ioctx):
            try:
                images.create(ioctx, name, image_size, self.order,
                              client.conf_get('rbd_default_features'))
            except rbd.ImageExists:
                raise exceptions.Duplicate(
                    message='RBD image %s exists already in store %s'
                            % (name, self.name))
            with self._removed_on_failure(ioctx, name):
                with rbd.Image(ioctx, name) as image:
                    written = self._write(image, image_file, image_size,
                                          sinks)
                    images.publish(image)
            uri = location.StoreLocation(
                {'fsid': client.get_fsid(), 'pool': self.pool, 'image': name,
                 'snapshot': images.SNAPSHOT}, self.conf).get_uri()
        metadata = {'store': self.backend_group} if self.backend_group else {}
        return (uri, written, checksum.hexdigest(), multihash.hexdigest(),
                metadata)

    def _write(self, image, image_file, image_size, sinks):
        """Write all data of a stream and return how many bytes it had."""
        written = size = 0
        growth = self.WRITE_CHUNKSIZE
        for chunk in utils.chunkreadable(image_file, self.WRITE_CHUNKSIZE):
            end = written + len(chunk)
            if image_size and end > image_size:
                raise exceptions.Invalid(
                    'Size exceeds: expected %d bytes, got %d bytes'
                    % (image_size, end))
            if not image_size and end > size:
                growth = min(growth * 2, _MAX_GROWTH)
                size = end + growth
                image.resize(size)
            if not self.thin_provisioning or chunk.count(0) != len(chunk):
                image.write(chunk, written)
            for sink in sinks:
                sink.update(chunk)
            written = end
        if image_size and written != image_size:
            raise exceptions.Invalid(
                'Size mismatch: expected %d bytes, got %d bytes'
                % (image_size, written))
        if size != written and not image_size:
            image.resize(written)
        return written

    @contextlib.contextmanager
    def _removed_on_failure(self, ioctx, name):
        """Remove the image if the block fails, and say why in Glance's terms.

        Also when the process is told to end: SystemExit is no Exception.
        """
        try:
            yield
        except BaseException as exc:
            LOG.error('Failed to store image %(image)s in store %(store)s: '
                      '%(error)s', {'image': name, 'store': self.name,
                                    'error': exc or type(exc).__name__})
            try:
                images.remove(ioctx, name, images.SNAPSHOT)
            except Exception:
                # What failed first is what the user must hear of.
                LOG.exception('The half-written RBD image %s stays behind in '
                              'store %s', name, self.name)
            if isinstance(exc, (rbd.NoSpace, rbd.DiskQuotaExceeded)):
                raise exceptions.StorageFull(
                    message='Store %s has no room for image %s: %s'
                            % (self.name, name, exc))
            raise

    @capabilities.check
    def delete(self, location, context=None):
        """Delete an image, or move it to the trash while snapshots remain.

        :param location: :class:`glance_store.location.Location`
        :raises glance_store.exceptions.NotFound: if there is no such image
        :raises glance_store.exceptions.InUseByStore: if it has clones or is
            open elsewhere
        :raises glance_store.exceptions.BadStoreUri: if the location is not
            in this store's cluster
        """
        loc = self._checked(location)
        with self._open_pool(loc.pool) as (_client, ioctx):
            try:
                images.remove(ioctx, loc.image, loc.snapshot)
            except rbd.ImageNotFound:
                raise self._not_found(loc)
            except images.InUse as exc:
                LOG.warning('Store %s: %s', self.name, exc)
                raise exceptions.InUseByStore()

    def _checked(self, location):
        """Return the store location, if it is in this store's cluster."""
        loc = location.store_location
        fsid = self._connection.fsid
        if loc.fsid and fsid and loc.fsid != fsid:
            raise exceptions.BadStoreUri(
                message='%s is not a location of store %s, whose cluster has '
                        'fsid %s' % (loc.get_uri(), self.name, fsid))
        return loc

    @contextlib.contextmanager
    def _open_pool(self, pool=None):
        """Open a pool: context manager that gives (rados.Rados, Ioctx).

        :raises glance_store.exceptions.BadStoreConfiguration: if the cluster
            does not answer or the options do not fit it
        """
        with contextlib.ExitStack() as stack:
            try:
                client = self._connection.client()
                ioctx = stack.enter_context(
                    self._connection.open_pool(pool or self.pool))
            except errors.ClusterError as exc:
                raise exceptions.BadStoreConfiguration(
                    store_name=self.name, reason=str(exc))
            yield client, ioctx

    @contextlib.contextmanager
    def _open(self, loc):
        """Open an image for reading: context manager for the rbd.Image."""
        with self._open_pool(loc.pool) as (_client, ioctx):
            try:
                image = rbd.Image(ioctx, loc.image, snapshot=loc.snapshot,
                                  read_only=True)
            except rbd.ImageNotFound:
                raise self._not_found(loc)
            with image:
                yield image

    def _not_found(self, loc):
        return exceptions.NotFound(
            message='RBD image %s does not exist in store %s'
                    % (loc.get_uri(), self.name))
