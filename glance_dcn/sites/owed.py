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

"""Work owed to a site, written down where it outlives whoever owes it.

What cannot be done at a site now, because the site is away or because the
one who would do it may be killed first, stands as a record in RADOS until it
is done. Records are kept in two kinds of places, each one object's omap in a
pool of images, so that all workers share them and as many can be kept as
there are images:

* In the pool of the default site, an object for each other site: what is owed
  to sites that cannot be asked.
* In the pool of a site, one object for the site itself: what its own writers
  have begun, and what could not be written to the default site.

What is owed to the default site itself while it is away stands in the pool of
another one, where the work that is owed to sites is kept by those whose
default site that is: an edge records at the central site, and the other way
round.

Doing the work twice does no harm; see :mod:`glance_dcn.sites.jobs`.
"""

import dataclasses
import json
import logging
import os
import socket
import time
import typing
import urllib.parse
import uuid

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import omap

LOG = logging.getLogger(__name__)

#: Remove an image, with its snapshot.
DELETE = 'delete'
#: Remove an image that was not published, unless somebody is writing it.
HALF_WRITTEN = 'half-written'
#: Remove an image from the trash once its last clone is gone.
REAP = 'reap'

#: Name of the object with what a site owes to itself; that of another site
#: has the name of the other one after a dot.
OBJECT = 'glance_dcn.owed'
_VERSION = 1
# Other sites that are asked to keep a record: each may take as long as a
# connection does.
_SPARES = 3


class NotRecorded(errors.ClusterError):
    """Work that is owed could not be written down anywhere."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Work that is owed to a site.

    :ivar job: DELETE, HALF_WRITTEN or REAP
    :ivar image: name of the RBD image
    :ivar pool: name of the pool it is in
    :ivar fsid: fsid of the cluster, or None
    :ivar image_id: the RBD image's internal ID, which no other image ever
        has, or None if it is not known
    :ivar snapshot: name of the snapshot to be removed with it, or None
    :ivar writer: who is writing the image, see
        :mod:`glance_dcn.sites.intents`, or None if nobody is
    :ivar published: when the writer published it, seconds since the epoch, or
        None
    :ivar since: when it was recorded, seconds since the epoch
    :ivar by: host and process that recorded it
    :ivar attempts: how often it was tried
    :ivar tried: when it was tried last, seconds since the epoch, or None
    :ivar error: what it failed with last, or None
    :ivar token: tells it from a later record of the same work
    """

    job: str
    image: str
    pool: str
    fsid: typing.Optional[str] = None
    image_id: typing.Optional[str] = None
    snapshot: typing.Optional[str] = None
    writer: typing.Optional[str] = None
    published: typing.Optional[float] = None
    since: float = dataclasses.field(default_factory=time.time)
    by: str = dataclasses.field(default_factory=lambda: whoami())
    attempts: int = 0
    tried: typing.Optional[float] = None
    error: typing.Optional[str] = None
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def key(self):
        """Key of the record; that of one image begin alike."""
        parts = [self.job]
        if self.job == HALF_WRITTEN:
            parts.append(self.token)
        elif self.job == REAP:
            parts.append(self.image_id)
        return prefix(self.image) + '/'.join(parts)

    def text(self):
        """Return the record as it is kept."""
        return json.dumps(dict(dataclasses.asdict(self), version=_VERSION),
                          sort_keys=True)


def parse(text):
    """Return the record that a text stands for.

    :raises ValueError: if it cannot be understood
    """
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.pop('version', 0) != _VERSION:
        raise ValueError('not a record of version %d' % _VERSION)
    try:
        return Record(**fields)
    except TypeError as exc:
        raise ValueError(str(exc))


def prefix(image):
    """Return what the keys of an image's records begin with."""
    return urllib.parse.quote(image, safe='') + '/'


def whoami():
    """Return the host and process, for people to read."""
    return '%s:%d' % (socket.gethostname(), os.getpid())


@dataclasses.dataclass(frozen=True)
class Place:
    """Where records of work owed to a site are kept.

    :ivar site: :class:`glance_dcn.sites.site.Site` whose pool it is in
    :ivar name: name of the object
    """

    site: typing.Any
    name: str

    def put(self, record):
        """Write a record, over an earlier one of the same work.

        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        :raises glance_dcn.ceph.omap.Error: if the cluster refuses
        """
        with self.site.open_pool() as ioctx:
            omap.put(ioctx, self.name, {record.key: record.text()})

    def drop(self, record):
        """Remove a record, unless a later one has taken its place.

        :raises: as :meth:`put`
        """
        with self.site.open_pool() as ioctx:
            omap.remove(ioctx, self.name, record.key, record.text())

    def replace(self, record, **changes):
        """Write a record with some changes and return it.

        :raises: as :meth:`put`
        """
        changed = dataclasses.replace(record, **changes)
        with self.site.open_pool() as ioctx:
            now = omap.get(ioctx, self.name, record.key)
            # Or it would bring back what another worker has done meanwhile,
            # or take the place of a later one.
            if now == record.text():
                omap.put(ioctx, self.name, {changed.key: changed.text()})
        return changed

    def records(self, image=None):
        """Give the records, or those of an image, in the order of images.

        One that cannot be understood is left out, and left where it is.

        :raises: as :meth:`put`
        """
        with self.site.open_pool() as ioctx:
            for key, text in omap.walk(ioctx, self.name,
                                       prefix(image) if image else ''):
                try:
                    yield parse(text)
                except ValueError as exc:
                    LOG.warning('Store %(store)s: record %(key)s of object '
                                '%(object)s cannot be understood: %(error)s',
                                {'store': self.site.name, 'key': key,
                                 'object': self.name, 'error': exc})


class Ledger:
    """All records of the sites this process knows.

    :ivar sites: dict of :class:`glance_dcn.sites.site.Site` by name
    :ivar default: the default site, or None
    """

    def __init__(self):
        self.sites = {}
        self.default = None
        self._listeners = []

    def add(self, site, default=False):
        """Take a site in.

        :param site: :class:`glance_dcn.sites.site.Site`
        :param default: whether it is the default site
        """
        self.sites[site.name] = site
        if default:
            self.default = site

    def remove(self, name):
        """Forget a site that is gone."""
        self.sites.pop(name, None)

    def on_record(self, function):
        """Have a function called with the site of each new record."""
        self._listeners.append(function)

    def own_place(self, site):
        """Return the place in a site's own pool."""
        return Place(site, OBJECT)

    def places(self, site):
        """Return the places of work owed to a site, the best first."""
        own = self.own_place(site)
        if self.default is None or self.default.name == site.name:
            return [own]
        return [_place_for(site, self.default), own]

    def spare_places(self, site):
        """Return where else there may be work owed to a site, nearest first.

        For the default site, which may be away itself; there are none for
        others. They are far away: they are worth a look when the site has
        come back.
        """
        if self.default is None or self.default.name != site.name:
            return []
        others = [other for other in self.sites.values()
                  if other.name != site.name]
        return [_place_for(site, other) for other in sorted(
            others, key=lambda other: (other.round_trip is None,
                                       other.round_trip))]

    def _places_to_write(self, site):
        yield from self.places(site)
        spares = [place for place in self.spare_places(site)
                  if place.site.available and not place.site.retired]
        yield from spares[:_SPARES]

    def record(self, site, job, image, pool=None, **fields):
        """Write down that work is owed to a site.

        :param site: :class:`glance_dcn.sites.site.Site`
        :param job: DELETE, HALF_WRITTEN or REAP
        :param image: name of the RBD image
        :param pool: name of its pool; None: the site's
        :param fields: further fields of :class:`Record`
        :returns: :class:`Record`
        :raises NotRecorded: if it could not be written anywhere
        """
        record = Record(job, image, pool or site.pool,
                        fsid=fields.pop('fsid', None) or site.fsid, **fields)
        reasons = []
        for place in self._places_to_write(site):
            try:
                place.put(record)
                LOG.info('Recorded in store %(place)s that %(job)s of image '
                         '%(image)s is owed to store %(store)s', {
                             'place': place.site.name, 'job': job,
                             'image': image, 'store': site.name})
                break
            except (errors.ClusterError, omap.Error) as exc:
                reasons.append('%s: %s' % (place.site.name, exc))
        else:
            raise NotRecorded(
                site.name, '%s of image %s cannot be done now, nor be '
                'recorded to be done later (%s)'
                % (job, image, '; '.join(reasons)),
                'try again when the site or the default site is back')
        for listener in self._listeners:
            listener(site)
        return record

    def try_record(self, site, job, image, pool=None, **fields):
        """Like :meth:`record`; where that fails, say so in the log."""
        try:
            self.record(site, job, image, pool, **fields)
        except NotRecorded as exc:
            LOG.error('RBD image %(image)s may stay behind: %(error)s',
                      {'image': image, 'error': exc})


def _place_for(site, keeper):
    """Return the place at one site of what is owed to another."""
    return Place(keeper, '%s.%s' % (OBJECT, site.name))


#: The records of this process's sites.
ledger = Ledger()


def title(record):
    """Return a record in words, for logs."""
    return '%s of image %s (recorded %s by %s)' % (
        record.job, record.image,
        time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(record.since)),
        record.by)


def trashing(site, image, pool=None):
    """Return what is to be called before an image is moved to the trash.

    See :func:`glance_dcn.ceph.images.remove`.
    """
    def note(image_id):
        ledger.try_record(site, REAP, image, pool, image_id=image_id,
                          snapshot=images.SNAPSHOT)
    return note
