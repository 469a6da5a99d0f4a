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
hash that Glance knows, over all bytes. An image that this deployment has
stored or verified before has a record of its content digest and hashes, under
a code that no other site can make (:mod:`glance_dcn.sites.proofs`); if the
hashes are those that Glance knows, the content digest is enough, so that the
copy costs its data alone. Any other image is given such a record once it is
proven.

Where Glance knows no hash, as of Nova's snapshots, nothing can prove the bytes
but that the image was still there after all of them had been read. The hashes
are computed then, for Glance to be told.

When the source fails on the way, the copy goes on from another one where it
stopped, if the same digest is recorded there; otherwise it starts again with
another one.
"""

from concurrent import futures
import contextlib
import dataclasses
import functools
import logging

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.engine import transfer
from glance_dcn.sites import leftovers
from glance_dcn.sites import limits
from glance_dcn.sites import proofs
from glance_dcn.sites import reading

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


@dataclasses.dataclass
class Outcome:
    """What a copy came to.

    :ivar source: name of the site that was read; of several, joined by
        ``, then``
    :ivar size: bytes of the image
    :ivar data: bytes of data in it, which is what was moved; 0 if no target
        needed any
    :ivar copied: names of the sites that have the image now
    :ivar failed: exceptions by the name of the site that has not
    :ivar adopted: names of those sites that had it already, complete and
        equal
    :ivar hashes: hex digests over all bytes by hashlib name: those that
        Glance knew, and those that were wanted beside them. These are missing
        if no target needed any data
    """

    source: str
    size: int
    data: int
    copied: list[str]
    failed: dict[str, Exception]
    adopted: list[str] = dataclasses.field(default_factory=list)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)


class Copy:
    """A copy of one image to any number of sites.

    :param image: name of the RBD images at the targets: the image's UUID
    :param sources: list of :class:`glance_dcn.sites.sources.Source`, the one
        to be preferred first
    :param targets: list of :class:`glance_dcn.sites.site.Site`
    :param hashes: what Glance knows: hex digests over all bytes by hashlib
        name
    :param size: bytes of the image, if Glance knows that
    :param wanted: hashlib names of the hashes that Glance should know
    :param memory: bytes of data held at most
    :param progress: called with
        :class:`glance_dcn.engine.transfer.Progress` now and then; an
        exception of its ends the copy
    :param interval: seconds between calls of ``progress``
    :param waiting: called now and then, while its turn at the sites has not
        come, with the names of those it waits for; an exception of its ends
        the copy
    :param finished: called with the :class:`Outcome`, and with a function to
        be called right before Glance is told, before what has failed is
        removed, which may take long. After an exception from before Glance
        was told, nothing that was written stays; after one from then on, all
        of it does, for Glance may have it
    """

    def __init__(self, image, sources, targets, hashes=None, size=None,
                 wanted=(), memory=transfer.MEMORY, progress=None, interval=1,
                 waiting=None, finished=None):
        self._image = image
        self._sources = sources
        self._targets = targets
        self._hashes = dict(hashes or {})
        self._size = size
        self._missing = [name for name in wanted if name not in self._hashes]
        self._memory = memory
        self._progress = progress
        self._interval = interval
        self._waiting = waiting
        self._finished = finished or (lambda outcome, told: told())

    def run(self):
        """Copy, verify and publish.

        A target that fails is given up and the others go on. Nothing is left
        at a target that failed, nor anywhere when an exception is raised.

        :returns: :class:`Outcome`
        :raises CopyFailed: if no source can be read and proven
        """
        reasons = {}
        for number, source in enumerate(self._sources):
            if source.site.name in reasons:
                # It failed already when it was to go on with a copy.
                continue
            relay = reading.Relay(self._image, self._sources[number:])
            try:
                return self._copy_from(relay, source.site)
            except _SourceFailed as exc:
                reasons.update(relay.failed)
                reasons.setdefault(source.site.name, exc.__cause__)
                LOG.warning('Image %(image)s cannot be copied from store '
                            '%(store)s: %(error)s', {
                                'image': self._image,
                                'store': source.site.name,
                                'error': exc.__cause__})
        raise CopyFailed(self._image, reasons)

    def _copy_from(self, relay, preferred):
        with contextlib.ExitStack() as stack:
            stack.enter_context(limits.turn(
                [site.limits for site in (preferred, *self._targets)],
                self._waiting))
            with _blaming_source():
                stack.enter_context(relay)
                endpoint = relay.open()
                self._check_size(endpoint)
                found = relay.source.site.call(
                    records.load, endpoint.image, fence=False)
                record = relay.record = self._proved(relay, endpoint, found)
            hashes = dict(record.hashes if record else {}, **self._hashes)
            targets = [_Target(site, self._image, endpoint.size, record,
                               dict(hashes), self._memory)
                       for site in self._targets]
            stack.push(functools.partial(_close, targets))
            _each(_Target.open, targets)
            if record:
                _keep(record, targets, stack)
            result = self._transfer(relay, endpoint, targets, record)
            # Without a digest, if all targets have failed before the end.
            if record is None and result is not None and result.content:
                hashes.update(result.hashes)
                record = self._record(relay, result, hashes, found)
                _remember(relay, record, found)
            _each(lambda target: target.publish(record), targets)
            _each(_Target.release, targets)
            done = [target for target in targets if not target.error]
            outcome = Outcome(
                ', then '.join(relay.names), endpoint.size,
                result.data if result else 0,
                copied=[target.site.name for target in done],
                failed={target.site.name: target.error for target in targets
                        if target.error},
                adopted=[target.site.name for target in done
                         if target.adopted],
                hashes=hashes)
            self._finished(outcome, lambda: _each(_Target.tell, done))
            return outcome

    def _check_size(self, endpoint):
        if self._size not in (None, endpoint.size):
            raise engine_errors.SizeMismatch(endpoint.name, self._size,
                                             endpoint.size)

    def _proved(self, relay, endpoint, record):
        """Return the source's record, if it may stand for Glance's hashes."""
        return record if proofs.proves(
            relay.source.site, self._image, record, endpoint.size,
            self._hashes, self._missing) else None

    def _record(self, relay, result, hashes, found):
        """Return the record of what was read, verified and hashed.

        :param found: the source's; codes of other deployments stay, if it
            says the same
        """
        record = records.Record(result.size, result.content, hashes)
        if record == found:
            record = found
        return proofs.sign(relay.source.site, self._image, record)

    def _transfer(self, relay, endpoint, targets, record):
        """Move the data, and prove it.

        :returns: :class:`glance_dcn.engine.transfer.Result`, or None if no
            target needs any
        """
        written = {target.endpoint: target for target in targets
                   if target.endpoint and not target.error}
        if not written:
            return None
        known = {} if record else self._strongest_hash()
        sites = [relay.source.site,
                 *(target.site for target in written.values())]
        with _blaming_source():
            job = transfer.Transfer(
                endpoint, list(written),
                hashes=() if record else [*known, *self._missing],
                expected=record.content if record else None,
                memory=self._memory, limits={
                    endpoint: relay.source.site.limits.receiving,
                    **{one.endpoint: one.site.limits.sending
                       for one in written.values()}},
                progress=self._progress, interval=self._interval,
                timeout=min(site.io_timeout or float('inf')
                            for site in sites),
                another=relay.another)
            result = _proven(relay, endpoint, job, known, record)
        for outcome in result.outcomes:
            if outcome.error is not None:
                written[outcome.target].fail(outcome.error)
        return result

    def _strongest_hash(self):
        """Return one of the known hashes."""
        if not self._hashes:
            LOG.info('Image %s has no hash in Glance yet: its copies can be '
                     'compared with what is read only', self._image)
            return {}
        name = leftovers.strongest(self._hashes)
        return {name: self._hashes[name]}


class _Target:
    """The image that is being written at one site.

    :ivar error: why it has failed, or None
    :ivar endpoint: for the engine, once it is open; None if there is nothing
        to write
    :ivar adopted: whether the image was there already
    :ivar identity: internal ID of the RBD image that was begun, once it is
        known
    """

    def __init__(self, site, image, size, record, hashes, memory):
        self.site = site
        self.error = None
        self.endpoint = None
        self.adopted = False
        self.identity = None
        self._image = image
        self._size = size
        self._content = record.content if record else None
        self._hashes = hashes
        self._memory = memory
        self._begun = False
        self._told = False
        self._keeping = None
        self._pool = None
        self._stack = contextlib.ExitStack()

    def open(self):
        """Create the image and open it for writing, or adopt what is there."""
        try:
            self._pool = self._stack.enter_context(self.site.open_pool())
            self._begin()
        except leftovers.Refused as exc:
            self.fail(errors.Misconfigured(
                self.site.name, 'it cannot take the image', str(exc)))
        except (errors.ClusterError, name_lock.NameLockError,
                engine_errors.EngineError, rbd.Error) as exc:
            self.fail(exc)

    def _begin(self):
        try:
            self._begun = True
            self.endpoint = self.site.begin(self._pool, self._image,
                                            self._size)
            self.identity = self.endpoint.image.id()
        except leftovers.Complete as exc:
            self._begun = False
            leftovers.adopt(self.site, self._pool, exc.found, self._size,
                            self._content, self._hashes, self._memory)
            self.adopted = True
            self.identity = exc.found.identity
            self.site.published(self._image, self._size)
        except (leftovers.Refused, name_lock.NotLocked, errors.ReadOnly):
            self._begun = False
            raise

    def keep(self, record, executor):
        """Begin to keep the record with the image that is being written."""
        if self.endpoint:
            self._keeping = executor.submit(
                records.save, self.endpoint.image, record)

    def publish(self, record):
        """Let what was written be read."""
        if self.error or self.adopted:
            return
        try:
            if self._keeping:
                self.site.call(self._keeping.result)
            self.site.publish(self._pool, self._image, self.endpoint.image,
                              None if self._keeping else record)
            self.site.published(self._image, self._size)
        except (errors.ClusterError, rbd.Error) as exc:
            self.fail(exc)

    def release(self):
        """Close the published image, and take the right to tell Glance of it.

        If this process was taken for dead meanwhile, the image is removed,
        and Glance must not have its location.
        """
        if self.error:
            return
        if self.endpoint:
            self.endpoint.close()
        try:
            self.site.commit(self._image, self.identity)
            if self.site.call(images.look_up, self._pool,
                              self._image) != self.identity:
                raise leftovers.Gone(leftovers.Found(self._image))
        except (errors.ClusterError, leftovers.Gone, omap.Error) as exc:
            self.fail(exc)

    def tell(self):
        """Record that Glance is told of the image from here on."""
        self._told = True

    def fail(self, error):
        """Record the error and stop writing to this target."""
        LOG.error('Image %(image)s was not copied to store %(store)s: '
                  '%(error)s', {'image': self._image,
                                'store': self.site.name, 'error': error})
        self.site.failed(error)
        self.error = error

    def close(self, failed):
        """Close it; if this or the whole copy failed, leave nothing there.

        :param failed: whether the whole copy has failed
        """
        with self._stack:
            if self._keeping and not self._keeping.done():
                # At a site that hangs. librbd has the image in use until then.
                self._keeping.add_done_callback(
                    lambda _done: self.endpoint.close())
            elif self.endpoint:
                self.endpoint.close()
            if self._told or not (self.error or failed):
                return
            if self._begun:
                self.site.discard_or_defer(self._pool, self._image,
                                           self.identity)
            elif self.adopted:
                self.site.release_adopted(self._image, self.identity)


def _proven(relay, endpoint, job, known, record):
    """Run a transfer, and prove that what it has read is the image.

    A hash that Glance knows, or a proved content digest, proves it whatever
    has become of the source by then.

    :param known: hex digests that Glance knows, by hashlib name
    :param record: proved record, or None
    :returns: :class:`glance_dcn.engine.transfer.Result`
    """
    try:
        result = job.run()
        for name, value in known.items():
            if result.hashes and result.hashes[name] != value:
                raise engine_errors.DigestMismatch(
                    endpoint.name, '%s:%s' % (name, value),
                    '%s:%s' % (name, result.hashes[name]))
    except engine_errors.DigestMismatch:
        # This tells more, if it is the cause.
        relay.check()
        raise
    if not known and record is None:
        relay.check()
    return result


def _each(work, targets):
    """Do some work for all targets at once: each waits for its own cluster."""
    with futures.ThreadPoolExecutor(max(1, len(targets))) as pool:
        list(pool.map(work, targets))


def _keep(record, targets, stack):
    """Keep the source's record with the copies while the data moves.

    It counts only once they are published, and costs round trips that would
    otherwise have to be waited for.
    """
    executor = futures.ThreadPoolExecutor(max(1, len(targets)))
    stack.callback(executor.shutdown, wait=False)
    for target in targets:
        target.keep(record, executor)


def _close(targets, kind, error, trace):
    """Close all targets, for contextlib.ExitStack.push()."""
    _each(lambda target: target.close(failed=error is not None), targets)


def _remember(relay, record, found):
    """Keep the record of a source that has none of this deployment's.

    :param found: the one it has
    """
    source = relay.source
    if not source.snapshot or found and (
            (found, found.macs) == (record, record.macs)):
        return
    try:
        source.site.remember(relay.ioctx, source.image, relay.identity,
                             record)
    except (errors.ClusterError, rbd.Error) as exc:
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
