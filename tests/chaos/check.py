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

"""What must hold after a randomised run, when all sites are back."""

import collections
import contextlib
import dataclasses
import hashlib
import re
import time
import urllib.parse

import rbd
import requests

from lab import ceph
from tests.chaos import operations
from tests.chaos import records

#: Seconds after the return of all sites in which everything must be settled. A
#: published image that Glance was not told of is removed when its database has
#: been settled without it for a minute.
GRACE = 150
_SNAPSHOT = 'snap'
_CHUNK = 4 << 20
# Objects of an image carry its internal ID in their names.
_OBJECT = re.compile(r'rbd_(?:data|header|object_map)\.([0-9a-f]+)')


@dataclasses.dataclass(frozen=True, order=True)
class Violation:
    """Something that does not hold.

    :ivar kind: of what sort
    :ivar what: what it is about: an image, an object
    :ivar where: site, or '' where it is about Glance's records
    :ivar detail: in words
    """

    kind: str
    what: str
    where: str = ''
    detail: str = ''

    def __str__(self):
        return '%s: %s%s%s' % (self.kind, self.what,
                               self.where and ' at %s' % self.where,
                               self.detail and ': %s' % self.detail)


class Checker:
    """Compares what Glance says with what is in the pools.

    :param stage: :class:`tests.chaos.stage.Stage`
    :param known: dict of :class:`tests.chaos.operations.Known`
    :param log: called with a line of text
    :param forger: :class:`tests.chaos.forge.Forger`, whose records and images
        are left out; None: there is none
    :param read: returns (size, hash) of a snapshot; None: :func:`_read`
    :param find: as :func:`leftovers`; None: that
    :param pending: as :func:`tests.chaos.records.pending`
    """

    def __init__(self, stage, known, log, forger=None, read=None, find=None,
                 pending=records.pending):
        self._read = read or _read
        self._find = find or leftovers
        self._pending = pending
        self._stage = stage
        self._known = known.values()
        self._log = log
        self._forger = forger
        self._clusters = {site: stage.lab.cluster(site)
                          for site in stage.lab.sites}
        self._fsids = {cluster.fsid: site
                       for site, cluster in self._clusters.items()}

    def settle(self, grace=GRACE, held=True):
        """Wait until nothing is amiss any more.

        :param grace: seconds to wait at most
        :param held: whether intents whose location Glance has are amiss: those
            of writers that went away are held for a minute, in which the
            location must last
        :returns: (sorted list of :class:`Violation`, seconds it took)
        """
        started = time.monotonic()
        while True:
            images = self._images()
            found = [*self._unsettled(images), *self._leftovers(images),
                     *self._recorded({} if held else images)]
            spent = time.monotonic() - started
            if not found or spent > grace:
                return sorted(set(found)), spent
            time.sleep(1)

    def contents(self):
        """Read every location, and compare the images with what is known.

        :returns: sorted list of :class:`Violation`
        """
        images = self._images()
        found = [*self._lost(images)]
        for image in images.values():
            for location in image['locations']:
                found += self._compare(image, location['url'])
        return sorted(set(found))

    def _images(self):
        """Return all images by ID, as the central Glance shows them."""
        return {image['id']: image for image
                in self._stage.api('central').images.list(limit=10000)}

    def _unsettled(self, images):
        """Find images that are marked as being imported."""
        for image in images.values():
            if not operations.busy(image):
                continue
            lock = image.get('os_glance_import_task')
            tasks = self._stage.api('central').tasks(image['id'])
            state = tasks[lock]['status'] if lock in tasks else 'no such task'
            yield Violation('stuck lock', image['id'], '', (
                'image is %s, task: %s, importing to: %s' % (
                    image['status'], state if lock else 'none',
                    image.get('os_glance_importing_to_stores') or 'none')))

    def _recorded(self, images):
        """Find records, but those that are held for locations of images."""
        forged = self._forger.keys if self._forger else ()
        located = {(self._fsids.get(fsid), name)
                   for fsid, _pool, name in _located(images)}
        for entry in self._pending(self._stage, forged):
            if entry.is_committed and (entry.site, entry.image) in located:
                continue
            yield Violation('record left', entry.image, entry.site,
                            entry.what)

    def _leftovers(self, images):
        located = _located(images)
        for site, cluster in self._clusters.items():
            for pool in ceph.POOLS:
                with cluster.pool(pool) as ioctx:
                    for entry in self._find(site, cluster.fsid, pool, ioctx,
                                            located):
                        if not (self._forger and self._forger.owns(
                                site, entry.what)):
                            yield entry

    def _lost(self, images):
        """Find images that are not as Glance said, or not where."""
        for known in self._known:
            if not known.id:
                continue
            name = '%d (%s)' % (known.image.number, known.id)
            image = images.get(known.id)
            if image is None:
                if not known.doomed:
                    yield Violation('lost', name, '',
                                    'nobody asked for its deletion')
                continue
            if known.deleted:
                yield Violation('not deleted', name, '', image['status'])
            elif not known.doomed:
                there = operations.stores_of(image)
                for store in known.confirmed - known.removed - there:
                    yield Violation('lost', name, store, (
                        'it was there; now it is %s in %s' % (
                            image['status'],
                            ','.join(sorted(there)) or 'no store')))
            if (image['status'] == 'active'
                    and image['os_hash_value'] != known.digest):
                yield Violation('wrong hash', name, '', 'Glance shows '
                                'another than that of what was imported')

    def _compare(self, image, url):
        """Read one location and compare it with the image's hash."""
        fsid, pool, name, snapshot = _parse(url)
        site = self._fsids.get(fsid)
        if site is None:
            return [Violation('location of no site', image['id'], '', url)]
        try:
            with self._clusters[site].pool(pool) as ioctx:
                size, digest = self._read(ioctx, name, snapshot,
                                          image['os_hash_algo'] or 'sha512')
        except rbd.Error as exc:
            return [Violation('location without data', image['id'], site,
                              '%s; the image is %s' % (exc,
                                                       image['status']))]
        if (size, digest) != (image['size'], image['os_hash_value']):
            return [Violation('wrong data', image['id'], site, (
                '%d bytes, sha512 %s...; Glance says %s, %s...' % (
                    size, digest[:12], image['size'],
                    (image['os_hash_value'] or 'none')[:12])))]
        return []

    def empty(self, grace=GRACE):
        """Delete every image, and see that nothing stays.

        :returns: sorted list of :class:`Violation`
        """
        api = self._stage.api('central')
        found = []
        for image_id in self._images():
            try:
                answer = api.request('DELETE', '/v2/images/%s' % image_id)
            except requests.RequestException as exc:
                found.append(Violation('cannot be deleted', image_id, '',
                                       str(exc)))
                continue
            if answer.status_code not in (204, 404):
                _outcome, detail = operations.refusal(answer)
                found.append(Violation('cannot be deleted', image_id, '',
                                       detail))
        left, _spent = self.settle(grace)
        return sorted(set(found + left))


def leftovers(site, fsid, pool, ioctx, located):
    """Find what no location accounts for in a pool.

    :param site: name of the site, for what is found
    :param fsid: of its cluster
    :param pool: name of the pool
    :param ioctx: rados.Ioctx of the pool
    :param located: set of (fsid, pool, image) that are accounted for
    :returns: iterator over :class:`Violation`
    """
    images = list(rbd.RBD().list2(ioctx))
    trash = list(rbd.RBD().trash_list(ioctx))
    for entry in images:
        name = entry['name']
        if (fsid, pool, name) not in located:
            yield Violation('image without location',
                            '%s/%s' % (pool, name), site,
                            _describe(ioctx, name))
            continue
        with contextlib.suppress(rbd.ImageNotFound), \
                rbd.Image(ioctx, name, read_only=True) as image:
            for snap in image.list_snaps():
                if snap['name'] != _SNAPSHOT:
                    yield Violation(
                        'snapshot left', '%s/%s@%s' % (
                            pool, name, snap['name']), site)
    for entry in trash:
        yield Violation('trash entry left',
                        '%s/%s' % (pool, entry['name']), site)
    ids = {entry['id'] for entry in [*images, *trash]}
    orphans = collections.Counter()
    for item in ioctx.list_objects():
        match = _OBJECT.match(item.key)
        if match and match[1] not in ids:
            orphans[match[1]] += 1
    for name, count in orphans.items():
        yield Violation('objects of no image', '%s/%s' % (pool, name),
                        site, '%d objects' % count)


def staged(stage):
    """Return the paths of the files that are left in staging folders."""
    return [path for site, number in stage.workers
            for path in stage.lab.glance(site, number).staged()]


def _located(images):
    """Return the set of (fsid, pool, image) that images are located in."""
    return {tuple(_parse(location['url'])[:3]) for image in images.values()
            for location in image['locations']}


def _parse(url):
    """Return (fsid, pool, image, snapshot) of a location."""
    return [urllib.parse.unquote(part)
            for part in url[len('rbd://'):].split('/')]


def _describe(ioctx, name):
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return '%d bytes, snapshots: %s, watchers: %d' % (
                image.size(),
                ','.join(snap['name'] for snap in image.list_snaps())
                or 'none', len(list(image.watchers_list())) - 1)
    except rbd.Error as exc:
        return 'cannot be opened: %s' % exc


def _read(ioctx, name, snapshot, algorithm):
    """Return (size, hash) of an image's snapshot."""
    digest = hashlib.new(algorithm)
    with rbd.Image(ioctx, name, read_only=True) as image:
        image.set_snap(snapshot)
        size = image.size()
        for start in range(0, size, _CHUNK):
            digest.update(image.read(start, min(_CHUNK, size - start)))
    return size, digest.hexdigest()
