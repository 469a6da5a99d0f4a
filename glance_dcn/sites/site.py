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

import contextlib
import logging
import time
import urllib.parse

import rbd

from glance_dcn import catalog
from glance_dcn.ceph import claims
from glance_dcn.ceph import connection
from glance_dcn.ceph import errors
from glance_dcn.ceph import fencing
from glance_dcn.ceph import health
from glance_dcn.ceph import images
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.engine.backends import rbd as rbd_backend
from glance_dcn.sites import access
from glance_dcn.sites import intents
from glance_dcn.sites import jobs
from glance_dcn.sites import leftovers
from glance_dcn.sites import limits
from glance_dcn.sites import owed
from glance_dcn.sites import wiring
from glance_dcn.staging import running

LOG = logging.getLogger(__name__)

# Seconds for which a half-written image may still be open, because requests
# of its writer are in flight.
_LANDING = 30
# Times that an image is begun, where others begin and remove it as well.
_ATTEMPTS = 3
# Seconds for which the size of an image that was just published is known.
_FRESH = 60


class Site:
    """Where the images of one store lie.

    :param name: identifier of the store, which is the site's name
    :param pool: name of the pool
    :param order: size of new images' objects, as a power of two
    :param conf_file: path of the cluster's conf file, or ''
    :param user: cephx user without ``client.``, or None
    :param connect_timeout: seconds; below 0: the default of
        :mod:`glance_dcn.ceph.connection`
    :param io_timeout: seconds without any progress after which an I/O has
        failed; 0: no limit
    :ivar writers: :class:`glance_dcn.sites.intents.Writers` of this process
    :ivar access: :class:`glance_dcn.sites.access.Access` of this process
    :ivar limits: :class:`glance_dcn.sites.limits.Limits` of the site
    :ivar retired: whether it was taken away: it holds images, and takes no
        more
    """

    def __init__(self, name, pool, order, conf_file, user,
                 connect_timeout=-1, io_timeout=0):
        if connect_timeout < 0:
            connect_timeout = connection.CONNECT_TIMEOUT
        self.name = name
        self.pool = pool
        self.order = order
        self.io_timeout = io_timeout
        self._published = {}
        self.conf_file = conf_file
        self.limits = limits.get(name)
        self.retired = False
        self._connection = connection.get(name, conf_file, user,
                                          connect_timeout, io_timeout, pool)
        self.writers = intents.Writers(self)
        self.access = access.Access(self, user)

    @property
    def fsid(self):
        """fsid of the cluster, or None where it cannot be told.

        If the conf file does not name it, the cluster is asked.
        """
        return self._connection.fsid

    @property
    def known_fsid(self):
        """The same, but the cluster is never waited for."""
        return self._connection.known_fsid

    @property
    def connected_fsid(self):
        """fsid of the cluster this process is connected to, or None."""
        return self._connection.connected_fsid

    def answering_fsid(self):
        """Return the fsid of the cluster that answers now.

        :raises glance_dcn.ceph.errors.ClusterError: if none does
        """
        return self._connection.client().get_fsid()

    @property
    def health(self):
        """How the site is: :class:`glance_dcn.ceph.health.Health`."""
        found = self._connection.health
        if found.state in (health.UP, health.UNKNOWN):
            fault = wiring.PROCESS.fault(self)
            if fault:
                return health.Health(health.MISCONFIGURED, found.since,
                                     fault.reason)
        return found

    @property
    def available(self):
        """Whether calls are not refused at once; True if it is unknown."""
        return self.health.state in (health.UP, health.UNKNOWN)

    @property
    def down_since(self):
        """Since when it is not available, in seconds since the epoch.

        None while it is.
        """
        found = self.health
        if found.state in (health.UP, health.UNKNOWN):
            return None
        return found.since

    def when_back(self, function):
        """Have a function called each time the site is found to be up.

        It is called in a thread of its own, and once at the beginning if the
        site is up. Each process knows only what its own calls have met: a
        site may have been away without it being told.

        :param function: without arguments
        """
        self._connection.when_up(function)

    def failed(self, exc):
        """Take note of what an operation at the site ended with.

        What passes through :meth:`open_pool` is known already.

        :param exc: exception
        :returns: whether it means that the site is away; calls are refused
            from then on, until it is back
        """
        return self._connection.failed(exc)

    @property
    def instance(self):
        """RADOS instance ID of this process's client at the site."""
        return self._connection.client().get_instance_id()

    def cut_off(self, ioctx, image, instances):
        """Take an image away from dead clients.

        :param ioctx: of this site's pool
        :param image: name of the RBD image
        :param instances: RADOS instance IDs of the clients
        :raises rbd.Error, glance_dcn.ceph.omap.Error: if that is not possible
        """
        claims.break_claim(ioctx, image, instances)
        fencing.cut_off(self._connection.client(), ioctx, image, instances)

    def require(self):
        """Return if the site is available, without any waiting.

        :raises glance_dcn.ceph.errors.ClusterError: if it is not
        """
        self._connection.check()
        fault = wiring.PROCESS.fault(self)
        if fault:
            raise fault

    @property
    def round_trip(self):
        """Seconds a question to the cluster takes; None: not known yet."""
        return self._connection.round_trip

    @contextlib.contextmanager
    def open_pool(self, pool=None):
        """Open a pool: context manager that gives a rados.Ioctx.

        :param pool: name of another pool of the cluster
        :raises glance_dcn.ceph.errors.ClusterError: if it cannot be used
        """
        wiring.PROCESS.begin(self)
        # Both go on at the same time.
        self._connection.client()
        wiring.PROCESS.check(self)
        with self._connection.open_pool(pool or self.pool) as ioctx:
            yield ioctx

    def check_open(self):
        """See that the site takes new images.

        :raises glance_dcn.ceph.errors.Retired: if it does not
        """
        if self.retired:
            raise errors.Retired(self.name)

    def begin(self, ioctx, image, size):
        """Create an RBD image and open it for the engine to write to.

        A half-written one that nobody writes any more is replaced. Of several
        who begin the same image at once, one does. What a dead writer leaves
        of it from now on is found and removed, see
        :mod:`glance_dcn.sites.intents`.

        :param ioctx: of this site's pool
        :param image: its name
        :param size: bytes
        :returns: engine endpoint, for the caller to close
        :raises glance_dcn.sites.leftovers.Complete: if there is a complete
            one of that name
        :raises glance_dcn.sites.leftovers.Refused: if there is one that is
            in the way
        :raises glance_dcn.ceph.claims.ClaimError: if others are at it for
            too long
        :raises glance_dcn.engine.errors.RequestError: if it cannot be opened
        :raises rbd.Error: if it cannot be created. After this or the two
            before, a half-written image may be there: see :meth:`discard`
        :raises glance_dcn.ceph.errors.Retired: if it takes no new images
        :raises glance_dcn.ceph.errors.ReadOnly: if this process may only read
            there
        """
        self.check_open()
        self.access.require_write(ioctx)
        running.writes(image, self.name, self.instance)
        begun = self._intend(ioctx, image)
        try:
            return self._begin(ioctx, image, size, begun)
        except (leftovers.Refused, claims.NotClaimed):
            self.writers.end(ioctx, image, begun)
            raise

    def _begin(self, ioctx, image, size, begun):
        features = self._connection.client().conf_get('rbd_default_features')
        for _attempt in range(_ATTEMPTS):
            with contextlib.suppress(rbd.ImageExists), \
                    contextlib.ExitStack() as stack:
                with claims.claim(ioctx, image):
                    images.create(ioctx, image, size, self.order, features)
                    endpoint = stack.enter_context(rbd_backend.RBD(
                        ioctx, image, writable=True, name=self._title(image)))
                self.writers.bind(ioctx, image, endpoint.image.id())
                stack.pop_all()
                return endpoint
            # It may take long: a claim of its own.
            with claims.claim(ioctx, image, must_last=False):
                if not jobs.settle(self, image, begun):
                    leftovers.clear(ioctx, image)
        raise leftovers.BeingWritten(leftovers.look(ioctx, image))

    @contextlib.contextmanager
    def adopting(self, ioctx, image, identity):
        """Answer for a complete image, as for one that is written.

        It may be one whose writer died before Glance had its location, which
        is removed by those who do what is owed.

        :param ioctx: of this site's pool
        :param image: its name
        :param identity: its internal ID
        :raises rbd.Error: if that cannot be recorded
        """
        begun = self._intend(ioctx, image)
        try:
            self.writers.bind(ioctx, image, identity)
            yield
        except BaseException:
            self.writers.end(ioctx, image, begun)
            raise
        jobs.forgive(self, image)
        self._wait_for_location(ioctx, image)

    def _intend(self, ioctx, image):
        try:
            return self.writers.begin(ioctx, image)
        except omap.Error as exc:
            raise rbd.OSError('cannot record that image %s is going to be '
                              'written: %s' % (image, exc),
                              errno=exc.errno) from exc

    def publish(self, ioctx, image, opened, record):
        """Let an image that was written be read.

        :param ioctx: of this site's pool
        :param image: its name
        :param opened: rbd.Image, open for writing
        :param record: :class:`glance_dcn.ceph.records.Record` of its content;
            None: it is kept with the image already
        :raises rbd.Error: if it fails
        """
        images.publish(opened, record)
        self._wait_for_location(ioctx, image)

    def _wait_for_location(self, ioctx, image):
        """Leave a published image to those who see whether it is located."""
        if catalog.present():
            self.writers.published(ioctx, image)
        else:
            self.writers.end(ioctx, image)

    def discard_or_owe(self, ioctx, image, identity=None):
        """Remove an image whose writer has failed, now or later.

        Nothing is raised: what failed first is what counts.

        :param identity: see :meth:`discard`
        """
        reason = None
        if self.available:
            try:
                self.discard(ioctx, image, identity)
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
        self._connection.forsake()
        known = self.writers.abandon(image)
        owed.ledger.try_record(self, owed.HALF_WRITTEN, image,
                               image_id=identity or known)

    def discard(self, ioctx, image, identity=None):
        """Remove an image whose writer has failed.

        Another that has its name by now is left as it is.

        :param identity: internal ID of the image that is meant; None: it is
            not known, and only a half-written one is meant
        :raises rbd.ImageNotFound: if there is no such image
        :raises glance_dcn.ceph.claims.ClaimError: if others are at it for
            too long
        :raises glance_dcn.ceph.images.InUse: if it is still open elsewhere
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        """
        deadline = time.monotonic() + _LANDING
        while True:
            # What was opened before the site went away would be waited for.
            self.require()
            try:
                with claims.claim(ioctx, image, must_last=False):
                    leftovers.remove(ioctx, image, identity,
                                     owed.trashing(self, image))
                self.writers.end(ioctx, image)
                return
            except rbd.ImageNotFound:
                self.writers.end(ioctx, image)
                raise
            except images.InUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def uri(self, image, pool=None):
        """Return the location of a published image."""
        return 'rbd://' + '/'.join(
            urllib.parse.quote(part, safe='')
            for part in (self.fsid, pool or self.pool, image,
                         images.SNAPSHOT))

    @contextlib.contextmanager
    def reading(self, ioctx, image, snapshot=images.SNAPSHOT):
        """Open a snapshot of an image for the engine to read from.

        :returns: context manager that gives an engine endpoint
        :raises glance_dcn.engine.errors.RequestError: if it cannot be opened
        """
        with rbd_backend.RBD(ioctx, image, snapshot=snapshot,
                             name=self._title(image)) as endpoint:
            yield endpoint

    def remember(self, ioctx, image, record):
        """Keep a record with an image that is published already.

        :param record: :class:`glance_dcn.ceph.records.Record`
        :raises rbd.Error: if it fails
        """
        with rbd.Image(ioctx, image) as opened:
            records.save(opened, record)

    def published(self, image, size):
        """Take note that this process has just published an image.

        Glance looks at the size of a location it is given, which costs a
        dozen round trips to open the image again.

        :param image: its name
        :param size: bytes
        """
        now = time.monotonic()
        self._published = {name: known for name, known in
                           self._published.items() if known[1] > now}
        self._published[image] = size, now + _FRESH

    def size_of_published(self, image):
        """Return what :meth:`published` was told, once; or None."""
        size, until = self._published.pop(image, (None, 0))
        return size if time.monotonic() < until else None

    def _title(self, image):
        return '%s: %s/%s' % (self.name, self.pool, image)
