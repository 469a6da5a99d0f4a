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

"""Copying an image from one site to others, straight and verified.

The source is read once for all targets. What is copied is proven against the
content digest that was recorded when the image was stored; an image that has
none yet, because stock Glance or Nova wrote it, is proven against the hash
that Glance knows, if it knows one, and gets its digest recorded, so that the
next copy costs its data alone.
"""

import contextlib
import dataclasses
import functools
import logging
import typing

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.engine import transfer
from glance_dcn.sites import site as site_module

LOG = logging.getLogger(__name__)


class CopyFailed(Exception):
    """No source could be copied from.

    :ivar reasons: exceptions by the name of the source's site
    """

    def __init__(self, image, reasons):
        super().__init__('image %s could not be read from any of its sites: '
                         '%s' % (image, '; '.join(
                             '%s: %s' % item for item in reasons.items())))
        self.reasons = reasons


class _SourceFailed(Exception):
    """This source is no good; another may be."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an image can be read.

    :ivar site: :class:`glance_dcn.sites.site.Site`
    :ivar pool: name of the pool, or None for the site's
    :ivar image: name of the RBD image
    :ivar snapshot: name of the snapshot, or None for the image itself
    """

    site: site_module.Site
    pool: typing.Optional[str]
    image: str
    snapshot: typing.Optional[str]


@dataclasses.dataclass
class Outcome:
    """What a copy came to.

    :ivar source: name of the site that was read
    :ivar size: bytes of the image
    :ivar data: bytes of data in it, which is what was moved
    :ivar copied: names of the sites that have the image now
    :ivar failed: exceptions by the name of the site that has not
    """

    source: str
    size: int
    data: int
    copied: list[str]
    failed: dict[str, Exception]


class Copy:
    """A copy of one image to any number of sites.

    :param image: name of the RBD images at the targets: the image's UUID
    :param sources: list of :class:`Source`, the one to be preferred first
    :param targets: list of :class:`glance_dcn.sites.site.Site`
    :param hashes: what Glance knows: hex digests over all bytes by hashlib
        name
    :param memory: bytes of data held at most
    :param progress: called with
        :class:`glance_dcn.engine.transfer.Progress` about every second; an
        exception of its ends the copy
    """

    def __init__(self, image, sources, targets, hashes=None,
                 memory=transfer.MEMORY, progress=None):
        self._image = image
        self._sources = sources
        self._targets = targets
        self._hashes = dict(hashes or {})
        self._memory = memory
        self._progress = progress

    def run(self):
        """Copy, verify and publish.

        A target that fails is given up and the others go on. Nothing is left
        at a target that failed, nor anywhere when an exception is raised.

        :returns: :class:`Outcome`
        :raises CopyFailed: if no source can be read and proven
        """
        reasons = {}
        for source in self._sources:
            try:
                return self._copy_from(source)
            except _SourceFailed as exc:
                reasons[source.site.name] = exc.__cause__
                LOG.warning('Image %(image)s cannot be copied from store '
                            '%(store)s: %(error)s', {
                                'image': self._image,
                                'store': source.site.name,
                                'error': exc.__cause__})
        raise CopyFailed(self._image, reasons)

    def _copy_from(self, source):
        with contextlib.ExitStack() as stack:
            with _blaming_source():
                pool = stack.enter_context(source.site.open_pool(source.pool))
                endpoint = stack.enter_context(source.site.reading(
                    pool, source.image, source.snapshot))
                record = self._known(pool, source, endpoint.size)
            targets = _Targets(stack, self._image, endpoint.size)
            for target in self._targets:
                targets.open(target)
            result = self._transfer(source, endpoint, targets, record)
            if record is None:
                record = records.Record(result.size, result.content,
                                        self._hashes)
                if source.snapshot:
                    _remember(pool, source, record)
            targets.publish(record)
            return Outcome(source.site.name, result.size, result.data,
                           targets.published, targets.failed)

    def _known(self, pool, source, size):
        """Return the source's record, if it fits what Glance knows."""
        record = records.load(pool, source.image, source.snapshot)
        if record is None or record.size != size:
            return None
        if any(record.hashes.get(name, value) != value
               for name, value in self._hashes.items()):
            LOG.warning('The record of image %(image)s in store %(store)s '
                        'does not fit the hash Glance has: it is verified '
                        'anew', {'image': self._image,
                                 'store': source.site.name})
            return None
        return record

    def _transfer(self, source, endpoint, targets, record):
        """Move the data, and prove it."""
        wanted = {} if record else self._strongest_hash()
        timeouts = [site.io_timeout or float('inf')
                    for site in (source.site, *targets.sites)]
        with _blaming_source():
            job = transfer.Transfer(
                endpoint, targets.endpoints, hashes=wanted,
                expected=record.content if record else None,
                memory=self._memory, timeout=min(timeouts),
                progress=self._progress)
            result = job.run()
            for name, value in wanted.items():
                if result.hashes and result.hashes[name] != value:
                    raise engine_errors.DigestMismatch(
                        endpoint.name, '%s:%s' % (name, value),
                        '%s:%s' % (name, result.hashes[name]))
        for outcome in result.outcomes:
            if outcome.error is not None:
                targets.fail(outcome.target, outcome.error)
        return result

    def _strongest_hash(self):
        """Return one of the known hashes: the longest proves the most."""
        if not self._hashes:
            LOG.warning('Image %s has neither a recorded digest nor a hash: '
                        'its copies can be proven against each other only',
                        self._image)
            return {}
        name = max(self._hashes, key=lambda name: len(self._hashes[name]))
        return {name: self._hashes[name]}


class _Targets:
    """The images that are being written."""

    def __init__(self, stack, image, size):
        self._stack = stack
        self._image = image
        self._size = size
        # endpoint -> (site, rados.Ioctx)
        self._open = {}
        self._created = {}
        self.published = []
        self.failed = {}

    @property
    def endpoints(self):
        return list(self._open)

    @property
    def sites(self):
        return [site for site, _pool in self._open.values()]

    def open(self, site):
        """Create the image at a site and open it for writing."""
        try:
            pool = self._stack.enter_context(site.open_pool())
            site.create(pool, self._image, self._size)
            self._created[site.name] = pool
            # To be undone after the endpoint is closed, but while the pool
            # is still open.
            self._stack.push(functools.partial(self._undo, site))
            endpoint = self._stack.enter_context(
                site.writing(pool, self._image))
        except rbd.ImageExists:
            self._failed(site, errors.Misconfigured(
                site.name, 'it holds an RBD image %s already' % self._image,
                'see what it is; remove it from pool %s if no image has its '
                'location' % site.pool))
        except (errors.ClusterError, engine_errors.EngineError,
                rbd.Error) as exc:
            self._failed(site, exc)
        else:
            self._open[endpoint] = (site, pool)

    def fail(self, endpoint, error):
        """Give up one that could not be written."""
        site, _pool = self._open.pop(endpoint)
        endpoint.close()
        self._failed(site, error)

    def publish(self, record):
        """Let what was written be read, with its record."""
        for endpoint, (site, pool) in list(self._open.items()):
            try:
                endpoint.close()
                site.publish(pool, self._image)
                records.save(pool, self._image, images.SNAPSHOT, record)
                self.published.append(site.name)
            except rbd.Error as exc:
                self._failed(site, exc)

    def _undo(self, site, kind, error, trace):
        """Leave nothing if the copy failed; for contextlib.ExitStack."""
        if error is not None:
            self._remove(site)

    def _failed(self, site, error):
        LOG.error('Image %(image)s was not copied to store %(store)s: '
                  '%(error)s', {'image': self._image, 'store': site.name,
                                'error': error})
        self.failed[site.name] = error
        self._remove(site)

    def _remove(self, site):
        pool = self._created.pop(site.name, None)
        if pool is None:
            return
        try:
            site.discard(pool, self._image)
        except Exception:
            LOG.exception('A half-written RBD image %s stays behind in store '
                          '%s', self._image, site.name)


def _remember(pool, source, record):
    """Record the digest of an image that had none."""
    try:
        records.save(pool, source.image, source.snapshot, record)
    except rbd.Error as exc:
        # Reading needs no right to write: the next copy verifies once more.
        LOG.warning('The digest of image %(image)s could not be recorded in '
                    'store %(store)s: %(error)s', {
                        'image': source.image, 'store': source.site.name,
                        'error': exc})


@contextlib.contextmanager
def _blaming_source():
    """Turn what goes wrong with the source into _SourceFailed."""
    try:
        yield
    except engine_errors.Cancelled:
        raise
    except (errors.ClusterError, engine_errors.EngineError,
            rbd.Error) as exc:
        raise _SourceFailed() from exc
