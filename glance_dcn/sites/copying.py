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

The source is read once for all targets of a wave (:mod:`.targets`). What is
copied is proven against the hash that Glance knows, over all bytes. An image
that this deployment has stored or verified before has a record of its content
digest and hashes, under a code that no other site can make
(:mod:`glance_dcn.sites.home`); if the hashes are those that Glance knows,
the content digest is enough, so that the copy costs its data alone. Any other
image is given such a record once it is proven.

Where Glance knows no hash, as of Nova's snapshots, nothing can prove the bytes
but that the image was still there after all of them had been read. The hashes
are computed then, for Glance to be told.

When the source fails on the way, the copy continues from another one where it
stopped, if the same digest is recorded there; otherwise it starts again with
another one.

Each target is published when it has all data, and Glance is told of it then,
whatever the others do. No target holds up others: one that is opened late, or
is let go of because it trickles, reads the source again by itself, from where
it was left, and is proven by the chunks of the content digest.
"""

from __future__ import annotations

from concurrent import futures
import contextlib
import dataclasses
import logging
import time
import typing

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import records
from glance_dcn.engine import digests
from glance_dcn.engine import errors as engine_errors
from glance_dcn.engine import transfer
from glance_dcn.runtime import native
from glance_dcn.sites import existing
from glance_dcn.sites import figures
from glance_dcn.sites import home as homes
from glance_dcn.sites import limits
from glance_dcn.sites import sources as sources_
from glance_dcn.sites import targets as targets_

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Mapping
    from collections.abc import Sequence

    from glance_dcn.engine.backends import base
    from glance_dcn.engine.backends import rbd as rbd_backend
    from glance_dcn.sites import site as sites_

LOG = logging.getLogger(__name__)

# How many times as long as most targets others may take to be opened or
# published.
_TIMES = 3
# Bytes of an image for each of which an open target waits a second more.
_SIZE_OF_A_SECOND = 1 << 30
# Seconds between checks whether a target has ended.
_TICK = 0.5
# Bytes of data held by a transfer to one target that was left by the others.
_ALONE = 16 << 20


class CopyFailed(Exception):
    """No source could be copied from.

    :ivar reasons: exceptions by the name of the source's site
    """

    def __init__(self, image: str, reasons: dict[str, Exception]) -> None:
        super().__init__('image %s could not be read from any of its sites: '
                         '%s' % (image, '; '.join(
                             '%s: %s' % item for item in reasons.items())))
        self.reasons = reasons


class _SourceFailed(Exception):
    """This source is no good; another may be."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclasses.dataclass
class Outcome:
    """What a copy came to, or what some of its targets came to.

    :ivar source: name of the site that was read; of several, joined by
        ``, then``
    :ivar data: bytes that were moved to a target; 0 if none needed any
    :ivar copied: names of the sites that have the image now
    :ivar failed: exceptions by the name of the site that has not
    :ivar adopted: names of those sites that had it already
    :ivar hashes: hex digests over all bytes by hashlib name: those that
        Glance knew, and those that were wanted beside them, unless no target
        needed any data
    """

    source: str
    size: int
    data: int
    copied: list[str]
    failed: dict[str, BaseException]
    adopted: list[str] = dataclasses.field(default_factory=list)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Content:
    """Known facts of the image that is copied.

    :ivar size: bytes
    :ivar chunks: (number, digest) of its content digest's chunks
    :ivar data: bytes of data in it; 0: not known
    :ivar hashes: hex digests over all bytes by hashlib name
    """

    size: int
    record: records.Record | None
    hashes: dict[str, str]
    chunks: list[tuple[int, bytes]] | None = None
    data: int = 0


class Copy:
    """A copy of one image to any number of sites.

    :param image: name of the RBD images at the targets: the image's UUID
    :param sources: the one to be preferred first
    :param hashes: what Glance knows: hex digests over all bytes by hashlib
        name
    :param size: bytes of the image, if Glance knows that
    :param wanted: hashlib names of the hashes that Glance should know
    :param memory: bytes of data held at most by a wave
    :param at_once: targets that are written at the same time at most
    :param progress: called every ``interval`` seconds
    :param waiting: called with the names of sites whose slots are waited for
    :param finished: called each time that targets have ended, with the
        :class:`Outcome` of these, and with a function to be called right
        before Glance is told, before what has failed is removed, which may
        take long. After an exception from before Glance was told, nothing of
        these targets stays; after one from then on, all of it does, for
        Glance may have it. Exceptions of all three end the copy
    :param late: seconds after which a target is late at the earliest
    :param latest: seconds after which it is late in any case, unless none is
        open by then
    :param waves: makes the waves of the targets, of which so many run at once
    """

    def __init__(self, image: str, sources: Sequence[sources_.Source],
                 targets: Iterable[sites_.Site],
                 hashes: Mapping[str, str] | None = None,
                 size: int | None = None, wanted: Iterable[str] = (),
                 memory: int = transfer.MEMORY,
                 at_once: int = targets_.AT_ONCE,
                 progress: Callable[[targets_.Standing], None] | None = None,
                 interval: float = 1,
                 waiting: Callable[[list[str]], None] | None = None,
                 finished: Callable[..., None] | None = None,
                 late: float = 0.5, latest: float = 15,
                 waves: Callable[[Iterable[sites_.Site], int],
                                 targets_.Waves] = targets_.Waves) -> None:
        self._image = image
        self._late, self._latest = late, latest
        self._sources = sources
        self._hashes = dict(hashes or {})
        self._size = size
        self._missing = [name for name in wanted if name not in self._hashes]
        self._memory = memory
        self._waves = waves(targets, at_once)
        self._progress = progress
        self._interval = interval
        self._told = time.monotonic()
        self._waiting = waiting
        self._finished = finished or (lambda outcome, told: told())
        self._outcome = Outcome('', 0, 0, [], {})
        self._content = _Content(0, None, {})
        # What the source that is open has kept, and the sources.
        self._found: records.Record | None = None
        self._failover = sources_.SourceFailover(image, ())
        # Targets whose threads have ended; what closes them.
        self._ended: native.Queue[
            tuple[targets_.Target, bool]] = native.Queue()
        self._closings: list[futures.Future[None]] = []
        # For each target one that works, and one that keeps the record.
        self._threads = futures.ThreadPoolExecutor(4 * at_once, 'dcn-copy')

    def run(self) -> Outcome:
        """Copy, verify and publish.

        When a target fails, nothing is left there, and the others continue.
        When an exception is raised, nothing is left at any target but those
        of which Glance was told.

        :raises CopyFailed: if no source can be read and proven, and no target
            has the image
        """
        try:
            self._run()
        except BaseException:
            running = list(self._waves.running)
            for target in running:
                target.cancel()
            self._close_now(running)
            raise
        finally:
            futures.wait(self._closings)
            self._threads.shutdown(wait=False)
        return self._outcome

    def _run(self) -> None:
        reasons: dict[str, Exception] = {}
        failed: sites_.Site | None = None
        for number, source in enumerate(self._sources):
            if source.site.name in reasons:
                # It failed already when it was to continue a copy.
                continue
            if failed is not None:
                failed.limits.meter.retry(figures.Operation.READ)
            self._failover = sources_.SourceFailover(
                self._image, self._sources[number:])
            try:
                with self._failover:
                    while self._waves.waiting:
                        self._run_wave(source.site)
                        self._settle(until_waiting=True)
                return
            except _SourceFailed as exc:
                failed = source.site
                if failed.name not in self._failover.failed:
                    failed.limits.meter.error(exc.reason)
                reasons.update(self._failover.failed)
                reasons.setdefault(source.site.name, exc.reason)
                LOG.warning('Image %(image)s cannot be copied from store '
                            '%(store)s: %(error)s', {
                                'image': self._image,
                                'store': source.site.name,
                                'error': exc.reason})
        failure = CopyFailed(self._image, reasons)
        if not (self._outcome.copied or self._waves.running):
            raise failure
        self._fail_waiting(failure)
        self._settle()

    def _run_wave(self, preferred: sites_.Site) -> None:
        # Those that have ended make room.
        self._note_ended()
        sites = self._waves.next()
        wave: list[targets_.Target] = []
        try:
            with limits.slots([site.limits for site in (preferred, *sites)],
                              self._wait_for_slots):
                self._inspect()
                content = self._content
                wave += [targets_.Target(
                    site, self._image, content.size, content.record,
                    dict(content.hashes), self._memory) for site in sites]
                self._waves.begin(wave)
                opened = self._open(wave)
                self._transfer(opened)
        except _SourceFailed:
            self._close_now(wave)
            self._waves.retry(sites)
            raise
        for target in wave:
            if target not in opened:
                target.left_at = 0
        self._wait_for_most([
            self._start(target, self._finish, target)
            for target in wave if target.left_at is None])
        for target in wave:
            if target.left_at is not None:
                self._straggle(target)

    def _inspect(self) -> None:
        """Open the source, unless that is done, and learn what it holds."""
        failover = self._failover
        if failover.endpoint is None:
            with _blaming_source():
                endpoint = failover.open()
                self._found = endpoint.call(records.load, fence=False)
                # It may stand for Glance's hashes.
                proved = homes.proves(
                    failover.source.site, self._image, self._found,
                    endpoint.size, self._hashes, self._missing)
                self._content = self._expect(
                    endpoint, self._found if proved else None)
            failover.record = self._content.record

    def _expect(self, endpoint: rbd_backend.RBD,
                record: records.Record | None) -> _Content:
        """Return what a source that was opened has to hold.

        What was proven with an earlier one holds for this one, too: Glance
        may have been told of it.
        """
        proven = self._content.record
        size = self._size if proven is None else proven.size
        if size not in (None, endpoint.size):
            raise engine_errors.SizeMismatch(endpoint.name, size,
                                             endpoint.size)
        if proven is None:
            return _Content(endpoint.size, record, dict(
                record.hashes if record else {}, **self._hashes))
        if record is not None and record.content != proven.content:
            raise engine_errors.DigestMismatch(
                endpoint.name, proven.content, record.content)
        return self._content

    def _open(self, wave: list[targets_.Target]) -> list[targets_.Target]:
        """Open the targets of a wave; return those that are not late."""
        work = [self._start(target, target.open) for target in wave]
        # To read a large source once more costs more than to wait.
        self._wait_for_most(
            work, 1, self._content.size / _SIZE_OF_A_SECOND,
            lambda number: wave[number].error is None)
        opened = [target for target, opening in zip(wave, work)
                  if opening.done()]
        for target in opened:
            if self._content.record and target.writes:
                target.keep(self._content.record, self._threads)
        return opened

    def _transfer(self, opened: list[targets_.Target]) -> None:
        """Move the data, and prove it."""
        written: dict[base.Endpoint, targets_.Target] = {
            target.endpoint: target for target in opened
            if target.endpoint is not None and target.writes}
        if not written:
            return
        failover, source = self._failover, self._failover.endpoint
        # _inspect() has opened it.
        assert source is not None
        content = self._content
        known = {} if content.record else self._strongest_hash()
        hashes = () if content.record else [*known, *self._missing]
        with _blaming_source():
            job = transfer.Transfer(
                source, list(written), hashes=hashes,
                expected=content.record.content if content.record else None,
                memory=self._memory, progress=self._tell_progress,
                interval=self._interval, next_source=failover.next_source,
                lets_go=True, behind=self._waves.expected_speeds(),
                **_pace(failover.source.site, source, written))
            result = _proven(failover, source.name, job, known, content.record)
        self._waves.record_speeds(outcome.speed for outcome in result.outcomes
                                  if outcome.error is None)
        for outcome in result.outcomes:
            target = written[outcome.target]
            if outcome.error is not None:
                target.fail(outcome.error)
            elif outcome.left_at is not None:
                # What was not read to its end is not proven.
                target.is_unproven = not result.content and outcome.written > 0
                target.left_at = (outcome.left_at - outcome.left_at
                                  % digests.CHUNK if result.content else 0)
        self._learn(result)

    def _learn(self, result: transfer.Result) -> None:
        """Keep what a transfer has proven of the image."""
        if result.content is None:
            # All targets have failed before the end.
            return
        content = self._content
        content.chunks, content.data = result.chunks, result.data
        if content.record is not None:
            return
        content.hashes.update(result.hashes)
        record = records.Record(result.size, result.content,
                                dict(content.hashes))
        if record == self._found:
            # Codes of other deployments stay.
            record = self._found
        record = homes.sign(self._failover.source.site, self._image, record)
        _remember(self._failover, record, self._found)
        content.record = self._failover.record = record

    def _strongest_hash(self) -> dict[str, str]:
        """Return one of the known hashes."""
        if not self._hashes:
            LOG.info('Image %s has no hash in Glance yet: its copies can be '
                     'compared with what is read only', self._image)
            return {}
        name = existing.strongest(self._hashes)
        return {name: self._hashes[name]}

    def _straggle(self, target: targets_.Target) -> None:
        """Let a target continue by itself, or put it back."""
        if (self._content.record is not None and not target.is_unproven
                and self._waves.straggles(target)):
            LOG.warning(
                'Store %(store)s is much slower than the others that image '
                '%(image)s is copied to: it goes on by itself', {
                    'store': target.site.name, 'image': self._image})
            self._start(target, self._write_straggler, target)
            return
        LOG.warning('Store %(store)s takes image %(image)s later: as many as '
                    'there may be are being written by themselves', {
                        'store': target.site.name, 'image': self._image})
        self._start(target, self._withdraw, target)

    # What threads do for one target.

    def _finish(self, target: targets_.Target) -> None:
        """Publish a target that has all data."""
        try:
            target.publish(self._content.record)
            target.release()
        except BaseException as exc:
            target.fail(exc)
        self._ended.put((target, False))

    def _write_straggler(self, target: targets_.Target) -> None:
        """Write a target to its end that was left by the others."""
        try:
            # It may still be being opened.
            target.work[0].result()
            if target.endpoint is not None and target.writes:
                with limits.slots([target.site.limits],
                                  lambda _names: target.check_cancelled(), 1):
                    self._write_alone(target, target.endpoint)
        except BaseException as exc:
            target.fail(exc)
        self._finish(target)

    def _write_alone(self, target: targets_.Target,
                     endpoint: rbd_backend.RBD) -> None:
        content = self._content
        # _straggle() has seen that there is one.
        assert content.record is not None
        begin = (target.left_at or 0) if content.chunks is not None else 0
        sources = [source for source in self._sources
                   if source.site.name not in self._failover.failed]
        with sources_.SourceFailover(self._image, sources,
                                     content.record) as failover:
            opened = failover.open()
            job = transfer.Transfer(
                opened, [endpoint], memory=_ALONE,
                offset=begin, chunks=None if content.chunks is None else [
                    chunk for chunk in content.chunks
                    if chunk[0] >= begin // digests.CHUNK],
                expected=None if begin else content.record.content,
                progress=target.record_progress,
                next_source=failover.next_source,
                **_pace(failover.source.site, opened, {endpoint: target}))
            target.began = time.monotonic()
            error = target.run(job).outcomes[0].error
        if error is not None:
            target.fail(error)

    def _withdraw(self, target: targets_.Target) -> None:
        """Remove what was written of a target that is to begin again."""
        # It may still be being opened.
        futures.wait(target.work[:1])
        target.close(True)
        self._ended.put((target, True))

    # For targets that have ended, in the caller's thread.

    def _note_ended(self, timeout: float = 0) -> None:
        """Tell of the targets that have ended, or do within ``timeout``."""
        ended = []
        with contextlib.suppress(native.Empty):
            ended.append(native.get(self._ended, timeout))
            while True:
                ended.append(self._ended.get_nowait())
        noted = []
        for target, withdrawn in ended:
            # If it could not be opened at all, it would not be the next time.
            if withdrawn and target.error is None:
                target.site.limits.meter.retry(figures.Operation.WRITE)
                self._waves.put_back(target)
            else:
                noted.append(target)
        if noted:
            self._note(noted)
        if time.monotonic() - self._told >= self._interval:
            self._tell_now()

    def _note(self, targets: list[targets_.Target]) -> None:
        content = self._content
        done = [target for target in targets if not target.error]
        outcome = Outcome(
            self._source_names(), content.size, content.data,
            copied=[target.site.name for target in done],
            failed={target.site.name: target.error for target in targets
                    if target.error},
            adopted=[target.site.name for target in done if target.adopted],
            hashes=dict(content.hashes))
        self._report(outcome, done)
        for target in targets:
            self._waves.end(target)
            self._closings.append(self._threads.submit(target.close, False))

    def _fail_waiting(self, error: CopyFailed) -> None:
        """Tell that the targets have failed that have not begun."""
        names = self._waves.fail_waiting()
        if names:
            outcome = Outcome(self._source_names(), self._content.size, 0, [],
                              dict.fromkeys(names, error))
            self._report(outcome)

    def _report(self, outcome: Outcome,
                done: Sequence[targets_.Target] = ()) -> None:
        def told() -> None:
            for target in done:
                target.tell()

        self._finished(outcome, told)
        known = self._outcome
        known.source, known.size = outcome.source, outcome.size
        known.data = max(known.data, outcome.data)
        known.copied += outcome.copied
        known.adopted += outcome.adopted
        known.failed.update(outcome.failed)
        known.hashes.update(outcome.hashes)

    def _source_names(self) -> str:
        return ', then '.join(self._failover.names)

    def _settle(self, until_waiting: bool = False) -> None:
        """Wait until no target runs any more, or until one waits."""
        while self._waves.running and not (until_waiting
                                           and self._waves.waiting):
            self._note_ended(_TICK)

    def _close_now(self, targets: Sequence[targets_.Target]) -> None:
        """Close targets, and leave nothing there but what Glance has."""
        futures.wait([work for target in targets for work in target.work])
        futures.wait([self._threads.submit(target.close, True)
                      for target in targets])

    # Waiting, and telling of it.

    def _start(self, target: targets_.Target, function: Callable[..., None],
               *args: typing.Any) -> futures.Future[None]:
        work = self._threads.submit(function, *args)
        target.work.append(work)
        return work

    def _wait_for_most(
            self, work: list[futures.Future[None]], least: int = 0,
            patience: float = 0,
            counts: Callable[[int], bool] = lambda number: True) -> None:
        """Wait until work is done, but not long for a few that take longer.

        :param least: how much of it must be done in any case
        :param patience: seconds to wait in any case, but for :attr:`_latest`
        :param counts: whether work of a number counts for these
        """
        began = time.monotonic()
        half = None
        patience = max(self._late, patience)
        while not all(one.done() for one in work):
            seconds = time.monotonic() - began
            done = sum(one.done() and counts(number)
                       for number, one in enumerate(work))
            if half is None and 2 * done >= len(work):
                half = seconds
            if half is not None:
                patience = max(patience, _TIMES * half)
            if done >= least and seconds > self._latest or (
                    half is not None and seconds > patience):
                return
            futures.wait([one for one in work if not one.done()], _TICK,
                         futures.FIRST_COMPLETED)
            self._note_ended()

    def _wait_for_slots(self, names: list[str]) -> None:
        self._note_ended()
        if self._waiting:
            self._waiting(names)

    def _tell_progress(self, progress: transfer.Progress) -> None:
        self._note_ended()
        self._tell_now(progress)

    def _tell_now(self, progress: transfer.Progress | None = None) -> None:
        self._told = time.monotonic()
        if self._progress:
            self._progress(self._waves.standing(progress))


def _pace(site: sites_.Site, source: base.Endpoint,
          written: dict[base.Endpoint, targets_.Target]
          ) -> dict[str, typing.Any]:
    """Return the limits of a transfer's sites, and its time-out."""
    sites = [site, *(target.site for target in written.values())]
    return {
        'limits': {source: site.limits.receiving,
                   **{endpoint: target.site.limits.sending
                      for endpoint, target in written.items()}},
        'timeout': min(site.io_timeout or float('inf') for site in sites)}


def _proven(failover: sources_.SourceFailover, name: str,
            job: transfer.Transfer, known: dict[str, str],
            record: records.Record | None) -> transfer.Result:
    """Run a transfer, and prove that what it has read is the image.

    A hash that Glance knows, or a proved content digest, proves it whatever
    has become of the source by then.
    """
    try:
        result = job.run()
        for algorithm, value in known.items():
            if result.hashes and result.hashes[algorithm] != value:
                raise engine_errors.DigestMismatch(
                    name, '%s:%s' % (algorithm, value),
                    '%s:%s' % (algorithm, result.hashes[algorithm]))
    except engine_errors.DigestMismatch:
        # This tells more, if it is the cause.
        failover.check()
        raise
    if not known and record is None:
        failover.check()
    return result


def _remember(failover: sources_.SourceFailover, record: records.Record,
              found: records.Record | None) -> None:
    """Keep a record with a source, in place of the one that was found."""
    source = failover.source
    if not source.snapshot or found and (
            (found, found.macs) == (record, record.macs)):
        return
    try:
        source.site.remember(failover.ioctx, source.image, failover.image_id,
                             record)
    except (errors.ClusterError, rbd.Error) as exc:
        # Reading needs no right to write: the next copy verifies once more.
        LOG.warning('The digest of image %(image)s could not be recorded in '
                    'store %(store)s: %(error)s', {
                        'image': source.image, 'store': source.site.name,
                        'error': exc})


@contextlib.contextmanager
def _blaming_source() -> typing.Iterator[None]:
    """Turn what goes wrong with the source into _SourceFailed."""
    try:
        yield
    except engine_errors.Cancelled:
        raise
    except (errors.ClusterError, engine_errors.EngineError,
            rbd.Error) as exc:
        raise _SourceFailed(exc) from exc
