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

from concurrent import futures
import contextlib
import dataclasses
import functools
import logging
import typing

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.engine import transfer
from glance_dcn.sites import limits
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
        :class:`glance_dcn.engine.transfer.Progress` now and then; an
        exception of its ends the copy
    :param interval: seconds between calls of ``progress``
    :param waiting: called now and then, while its turn at the sites has not
        come, with the names of those it waits for; an exception of its ends
        the copy
    """

    def __init__(self, image, sources, targets, hashes=None,
                 memory=transfer.MEMORY, progress=None, interval=1,
                 waiting=None):
        self._image = image
        self._sources = sources
        self._targets = targets
        self._hashes = dict(hashes or {})
        self._memory = memory
        self._progress = progress
        self._interval = interval
        self._waiting = waiting

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
            stack.enter_context(limits.turn(
                [site.limits for site in (source.site, *self._targets)],
                self._waiting))
            with _blaming_source():
                pool = stack.enter_context(source.site.open_pool(source.pool))
                endpoint = stack.enter_context(source.site.reading(
                    pool, source.image, source.snapshot))
                record = self._known(source, endpoint)
            targets = [_Target(site, self._image, endpoint.size)
                       for site in self._targets]
            stack.push(functools.partial(_close, targets))
            _each(_Target.open, targets)
            result = self._transfer(source, endpoint, targets, record)
            if record is None:
                record = records.Record(result.size, result.content,
                                        self._hashes)
                if source.snapshot:
                    _remember(pool, source, record)
            _each(lambda target: target.publish(record), targets)
            return Outcome(
                source.site.name, result.size, result.data,
                copied=[target.site.name for target in targets
                        if not target.error],
                failed={target.site.name: target.error for target in targets
                        if target.error})

    def _known(self, source, endpoint):
        """Return the source's record, if it fits what Glance knows."""
        record = records.load(endpoint.image)
        if record is None or record.size != endpoint.size:
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
        written = {target.endpoint: target for target in targets
                   if not target.error}
        sites = [source.site, *(target.site for target in written.values())]
        with _blaming_source():
            job = transfer.Transfer(
                endpoint, list(written), hashes=wanted,
                expected=record.content if record else None,
                memory=self._memory, limits={
                    endpoint: source.site.limits.receiving,
                    **{one.endpoint: one.site.limits.sending
                       for one in written.values()}},
                progress=self._progress, interval=self._interval,
                timeout=min(site.io_timeout or float('inf')
                            for site in sites))
            result = job.run()
            for name, value in wanted.items():
                if result.hashes and result.hashes[name] != value:
                    raise engine_errors.DigestMismatch(
                        endpoint.name, '%s:%s' % (name, value),
                        '%s:%s' % (name, result.hashes[name]))
        for outcome in result.outcomes:
            if outcome.error is not None:
                written[outcome.target].fail(outcome.error)
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


class _Target:
    """The image that is being written at one site.

    :ivar error: why it has failed, or None
    :ivar endpoint: for the engine, once it is open
    """

    def __init__(self, site, image, size):
        self.site = site
        self.error = None
        self.endpoint = None
        self._image = image
        self._size = size
        self._created = False
        self._pool = None
        self._stack = contextlib.ExitStack()

    def open(self):
        """Create the image and open it for writing."""
        try:
            self._pool = self._stack.enter_context(self.site.open_pool())
            self.site.create(self._pool, self._image, self._size)
            self._created = True
            self.endpoint = self._stack.enter_context(
                self.site.writing(self._pool, self._image))
        except rbd.ImageExists:
            self.fail(errors.Misconfigured(
                self.site.name,
                'it holds an RBD image %s already' % self._image,
                'see what it is; remove it from pool %s if no image has its '
                'location' % self.site.pool))
        except (errors.ClusterError, engine_errors.EngineError,
                rbd.Error) as exc:
            self.fail(exc)

    def publish(self, record):
        """Let what was written be read."""
        if self.error:
            return
        try:
            self.site.publish(self._pool, self._image,
                              self.endpoint.image, record)
            self.site.published(self._image, self._size)
        except rbd.Error as exc:
            self.fail(exc)

    def fail(self, error):
        """Give it up."""
        LOG.error('Image %(image)s was not copied to store %(store)s: '
                  '%(error)s', {'image': self._image,
                                'store': self.site.name, 'error': error})
        self.site.failed(error)
        self.error = error

    def close(self, failed):
        """Close it; if it failed, leave nothing there.

        :param failed: whether the whole copy did
        """
        with self._stack:
            if self.endpoint:
                self.endpoint.close()
            if self._created and (self.error or failed):
                self.site.discard_or_owe(self._pool, self._image)


def _each(work, targets):
    """Do some work for all targets at once: each waits for its own cluster."""
    with futures.ThreadPoolExecutor(max(1, len(targets))) as pool:
        list(pool.map(work, targets))


def _close(targets, kind, error, trace):
    """Close all targets, for contextlib.ExitStack.push()."""
    _each(lambda target: target.close(failed=error is not None), targets)


def _remember(pool, source, record):
    """Record the digest of an image that had none."""
    try:
        source.site.remember(pool, source.image, record)
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
