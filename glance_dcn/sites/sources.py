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

"""The sources of an image: their order, and failover.

An image may be removed while it is read. What a client still reads of it then
is zeros, without an error (see :func:`glance_dcn.ceph.images.is_unchanged`).
So bytes are the image's if something proves them afterwards, a hash of all of
them; or else if its snapshot was still there after they had been read.

A download has no proof at its end, and what was given out cannot be taken
back. Each chunk is therefore given out only when the snapshot was seen after
all of it had been read: one plain RADOS round trip for what has arrived by
then, beside the reads that are in flight. So at any time all that was given
out is the image's, and another source can continue from there, whether the
first one was removed or does not answer. What was read ahead of the first one
is dropped and read again: nothing proves it. In the same way it goes on from
the same site by another client, if its own was retired: it may take hours, and
a site has few clients that wait for their last use.

A site that is gone is found out in some seconds, of which many would make
minutes. So as soon as one source turns out to be away, the monitors of all
others are asked, at once and without a client, which takes two seconds. Those
that do not answer are away from then on, for whatever uses them next; a probe
finds them when they are back. One whose connection is in use is only
suspected, for that may work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging
import math
import time
import typing

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import monitors
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.engine import stream
from glance_dcn.runtime import native
from glance_dcn.sites import figures
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Iterator
    from collections.abc import Mapping

    import rados

    from glance_dcn.engine.backends import rbd as rbd_backend
    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)

#: What it means that a source cannot be read.
FAILURES = (errors.ClusterError, engine_errors.EngineError, rbd.Error)
# Seconds of a round trip up to which sites are equally near; and how many
# times as far another has to be, to be in the next class of distance.
_NEAR = 0.005
_MARGIN = 4


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an image can be read.

    :ivar pool: name of the pool; None: the site's
    :ivar snapshot: name of the snapshot; None: the image itself
    """

    site: sites.Site
    pool: str | None
    image: str
    snapshot: str | None


def ordered(sources: Iterable[Source], local: str | None,
            weights: Mapping[str, float]) -> list[Source]:
    """Return sources in the order in which to try them.

    Sites that are up come before those that are away; then the heaviest, and
    of equal weight as :func:`preference` says.

    :param weights: of stores by name; 0 for those that are not in it
    """
    return sorted(sources, key=lambda source: (
        not source.site.available, -weights.get(source.site.name, 0),
        -preference(source.site, local)))


def preference(site: sites.Site, local: str | None) -> float:
    """Return how much a site is to be preferred, from 0 to less than 1.

    Above all the local site, then those nearer by a wide margin, by the round
    trip that was measured when they were connected to, so that the order does
    not change with each measurement; a site that is away least of all.
    """
    if not site.available:
        return 0
    if site.name == local:
        return 0.9
    seconds = site.connection.round_trip
    if seconds is None:
        # One that was never connected to is as far as can be.
        return 0.1
    distance = math.log(max(seconds, _NEAR) / _NEAR, _MARGIN)
    return 0.1 + 0.7 / (1 + math.ceil(distance))


class Removed(engine_errors.RequestError):
    """The image that is read was removed since it was opened."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(
            endpoint, 'read', errno.ENOENT,
            hint='The image or its snapshot was removed while it was read: '
            'check whether it was deleted, and use the copy of another site.')


class SourceFailover:
    """The sources of one image, of which one at a time is open.

    The first one that was opened is taken on trust; another takes its place
    only if both have the same recorded size and content digest, and its
    record is one that this deployment has made
    (:mod:`glance_dcn.sites.home`). Use it as a context manager: it closes
    what is open.

    :param image: UUID of the image in Glance
    :param sources: preferred first; iterated over as they are needed
    :param patience: seconds that the monitors of all further sources have to
        answer
    :param start: starts the thread that closes a source which was left; see
        :func:`glance_dcn.runtime.native.start`
    :ivar record: what others must have; None: there will be no other
    :ivar image_id: internal ID of the RBD image that is open
    :ivar names: names of the sites that were read, in order
    :ivar failed: exceptions by the name of the site that could not be read
    """

    # Of the open source; not there before open().
    source: Source
    ioctx: rados.Ioctx
    _reference: images.Reference

    def __init__(self, image: str, sources: Iterable[Source],
                 record: records.Record | None = None,
                 patience: float = monitors.TIMEOUT + 1,
                 start: Callable[..., object] = native.start) -> None:
        self.record = record
        self._start = start
        self._patience = patience
        self.endpoint: rbd_backend.RBD | None = None
        self.names: list[str] = []
        # Whether the source cannot be renewed.
        self._stays = False
        self.failed: dict[str, Exception] = {}
        self._image = image
        self._sources = iter(sources)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SourceFailover:
        return self

    def __exit__(self, *exc_info: typing.Any) -> bool | None:
        # What a source failed with is to pass through its pool.
        return self._stack.__exit__(*exc_info)

    @property
    def image_id(self) -> str:
        return self._reference.image_id

    def open(self) -> rbd_backend.RBD:
        """Open the first source that can be opened.

        :raises: what the first one failed with, one of :data:`FAILURES`
        """
        source = next(self._sources, None)
        if source is None:
            raise engine_errors.RequestError(
                'image %s' % self._image, 'read',
                hint='No source is left: each has failed. Look for the '
                'reasons in the messages before this one.')
        self.source = source
        was_available = source.site.available
        try:
            endpoint = self._open()
        except FAILURES as exc:
            endpoint = self.next_source(exc)
            if endpoint is None:
                if was_available and not source.site.available:
                    self._find_silent()
                raise
        # The first one was compared with nothing.
        assert endpoint is not None
        return endpoint

    def next_source(self, error: Exception) -> rbd_backend.RBD | None:
        """Close the source that is open, and open the next one that will do.

        :returns: None if there is none
        """
        failed = self.source.site
        if failed.name not in self.failed:
            self._set_failed(error)
        if self.record is None:
            return None
        left = [source for source in self._sources
                if source.site.name not in self.failed]
        for source in _answering_first(left, self._patience):
            if not source.site.available:
                continue
            self.source = source
            left.remove(source)
            self._sources = iter(left)
            try:
                endpoint = self._open(self.record)
            except FAILURES as exc:
                self._set_failed(exc)
                continue
            if endpoint is not None:
                failed.limits.meter.retry(figures.Operation.READ)
                LOG.warning('Reading of image %(image)s goes on from store '
                            '%(store)s', {'image': source.image,
                                          'store': source.site.name})
                return endpoint
        return None

    def renew(self) -> rbd_backend.RBD | None:
        """Open the source that is open once more, if its client was retired.

        If that fails once, the source stays as it is.

        :returns: None if it stays
        """
        source = self.source
        if (self._stays or not source.site.available
                or not source.site.connection.is_outdated(self.ioctx)):
            return None
        self._stays = True
        try:
            return self._open(same=self._reference)
        except FAILURES as exc:
            LOG.info('Image %(image)s is read on by an earlier connection to '
                     'store %(store)s: %(error)s', {
                         'image': source.image, 'store': source.site.name,
                         'error': exc})
            return None

    def _find_silent(self) -> None:
        """Find out which of the sources that are left are away.

        They are tried next, as the first one each, and not to be waited for
        one after the other.
        """
        left = [source for source in self._sources if source.site.available]
        if len(left) > 1:
            answers = _ask_monitors(left)
            deadline = time.monotonic() + self._patience
            with contextlib.suppress(native.Empty):
                for _source in left:
                    native.get(answers, max(0, deadline - time.monotonic()))

    def check(self) -> None:
        """Prove by one round trip that what was read until now was there.

        :raises Removed: if the image was removed since it was opened
        :raises glance_dcn.engine.errors.RequestError: if the site does not
            tell
        """
        name = '%s: %s' % (self.source.site.name, self._reference.name)
        try:
            unchanged = self.source.site.call(
                images.is_unchanged, self.ioctx, self._reference, fence=False)
        except omap.Error as exc:
            raise engine_errors.RequestError(
                name, 'check whether the image is still there',
                abs(exc.errno or errno.EIO)) from exc
        if not unchanged:
            raise Removed(name)

    def _set_failed(self, error: Exception) -> None:
        source = self.source
        self.failed[source.site.name] = error
        source.site.limits.meter.error(error)
        source.site.failed(error)
        LOG.warning('Image %(image)s cannot be read from store %(store)s: '
                    '%(error)s', {'image': source.image,
                                  'store': source.site.name, 'error': error})

    def _open(self, wanted: records.Record | None = None,
              same: images.Reference | None = None
              ) -> rbd_backend.RBD | None:
        """Open the present source; return None if it is another image.

        :param wanted: the record that it must have
        :param same: what it must be
        """
        source = self.source
        with contextlib.ExitStack() as stack:
            ioctx = stack.enter_context(source.site.open_pool(source.pool))
            endpoint = stack.enter_context(source.site.reading(
                ioctx, source.image, source.snapshot))
            if wanted is not None and not self._is_same(endpoint, wanted):
                return None
            reference = endpoint.call(images.refer, source.image,
                                      source.snapshot, fence=False)
            if same not in (None, reference):
                return None
            left, self._stack = self._stack, stack.pop_all()
        self.ioctx, self._reference = ioctx, reference
        was_open, self.endpoint = self.endpoint is not None, endpoint
        self._stays = False
        if same is None:
            self.names.append(source.site.name)
        if was_open:
            self._close_left(left)
        return endpoint

    def _close_left(self, left: contextlib.ExitStack) -> None:
        """Close the source that was left, as soon as its requests have landed.

        Its client was retired, perhaps, and this may go on for hours.
        """
        def close() -> None:
            try:
                left.close()
            except Exception as exc:
                LOG.warning('A source of image %(image)s is not closed: '
                            '%(error)s', {'image': self._image, 'error': exc})
        try:
            self._start('dcn-close-source', close)
        except RuntimeError:
            # There is no thread for it now.
            self._stack.push(left)

    def _is_same(self, endpoint: rbd_backend.RBD,
                 wanted: records.Record) -> bool:
        found = endpoint.call(records.load, fence=False)
        return (found is not None
                and endpoint.size == found.size == wanted.size
                and found.content == wanted.content
                and homes.is_authentic(self.source.site, self._image, found))


def _answering_first(sources: Iterable[Source],
                     patience: float) -> Iterator[Source]:
    """Give the sources whose monitors answer, in order, then the others.

    Of these, those have not been asked yet that are still available.
    """
    candidates = [source for source in sources if source.site.available]
    if len(candidates) < 2:
        yield from candidates
        return
    answers = _ask_monitors(candidates)
    deadline = time.monotonic() + patience
    reasons: dict[str, str | None] = {}
    silent = []
    for source in candidates:
        name = source.site.name
        with contextlib.suppress(native.Empty):
            while name not in reasons:
                reasons.update([native.get(
                    answers, max(0, deadline - time.monotonic()))])
        if reasons.get(name, 'no answer') is None:
            yield source
        else:
            silent.append(source)
    # Those of very many that were asked later may have answered by now.
    with contextlib.suppress(native.Empty):
        while True:
            reasons.update([answers.get_nowait()])
    yield from sorted(silent, key=lambda source: reasons.get(
        source.site.name, 'no answer') is not None)


def _ask_monitors(sources: Iterable[Source]
                  ) -> native.Queue[tuple[str, str | None]]:
    """Ask the monitors of all sources at once, without a client.

    Where none answers, the site is away from then on, or suspected if its
    connection is in use.

    :returns: is given the name of each site, and None or the reason why none
        answers
    """
    answers: native.Queue[tuple[str, str | None]] = native.Queue()

    def answered(site: sites.Site, reason: str | None) -> None:
        if reason is not None and site.connection.is_in_use:
            site.suspect()
        elif reason is not None:
            site.failed(errors.Unreachable(
                site.name, 'its monitors do not answer (%s)' % reason,
                'see that the site is up and its monitors can be reached'))
        answers.put((site.name, reason))

    for source in sources:
        source.site.connection.ask_monitors(
            functools.partial(answered, source.site))
    return answers


def chunks(failover: SourceFailover, endpoint: rbd_backend.RBD, offset: int,
           length: int, **options: typing.Any) -> Iterator[bytes]:
    """Give an image's bytes in order, from one source after the other.

    None is given out that may have been read of a removed image.

    :param offset: where to begin, in bytes
    :param length: bytes; the image has as many from there
    :param options: for :class:`glance_dcn.engine.stream.Reader`
    :raises: what the last source failed with, one of :data:`FAILURES`
    """
    end = offset + length
    proved = offset
    data = stream.Reader(endpoint, offset, length, **options)
    try:
        while offset < end:
            try:
                chunk = next(data)
                if offset + len(chunk) > proved:
                    arrived = data.arrived
                    failover.check()
                    proved = arrived
            except FAILURES as exc:
                data.close()
                other = failover.next_source(exc)
                if other is None:
                    raise
                data = stream.Reader(other, offset, end - offset, **options)
                proved = offset
                continue
            offset += len(chunk)
            yield chunk
            other = failover.renew()
            if other is not None:
                data.close()
                data = stream.Reader(other, offset, end - offset, **options)
                proved = offset
    finally:
        data.close()
