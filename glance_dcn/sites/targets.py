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

"""The targets of a copy, and where each of them stands.

The source is read once for all targets of a wave. How many run at the same
time is bounded by what the process may have of files, threads and memory
(:mod:`glance_dcn.runtime.limits`). Of those, a bounded number are stragglers:
targets that were let go of because they held back the others, and that are
written to their end one by one. Any more than that are put back, to begin
again after the others: those that were put back least often come first, and
make way for those that were not more often.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import time
import typing

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.runtime import limits
from glance_dcn.runtime import process
from glance_dcn.sites import existing

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Sequence
    from concurrent import futures

    import rados

    from glance_dcn.engine.backends import rbd as rbd_backend
    from glance_dcn.engine import transfer
    from glance_dcn.sites import site as sites_

LOG = logging.getLogger(__name__)

#: Targets that are written at the same time, if there is room for them.
AT_ONCE = 16


@dataclasses.dataclass(eq=False)
class Target:
    """The image that is being written at one site.

    Each method waits for the site's cluster alone. All that a thread meets is
    kept in :attr:`error`.

    :param size: bytes
    :param hashes: hex digests over all bytes by hashlib name
    :param memory: bytes of data held at most, to read what is there
    :param adopt: adopts a complete image that is there already
    :ivar error: why it has failed, or None
    :ivar endpoint: for the engine, once it is open, if it is to be written
    :ivar adopted: whether the image was there already
    :ivar image_id: internal ID of the RBD image, once it is known
    :ivar left_at: where it has to be written from on, in bytes, if the others
        do not wait for it; None while they do
    :ivar is_unproven: whether it was given data of which nothing proves that
        it is the image's: where the image has none, some may be
    :ivar part: the part of it that is written by a transfer of its own, 0 to 1
    :ivar began: when that transfer began, by the monotonic clock; None before
    :ivar work: what its threads do or have done
    """

    site: sites_.Site
    image: str
    size: int
    record: records.Record | None
    hashes: dict[str, str]
    memory: int
    adopt: Callable[..., None] = existing.adopt
    error: BaseException | None = None
    endpoint: rbd_backend.RBD | None = None
    adopted: bool = False
    image_id: str | None = None
    left_at: int | None = None
    is_unproven: bool = False
    part: float = 0.0
    began: float | None = None
    work: list[futures.Future[None]] = dataclasses.field(default_factory=list)
    # Not there before open().
    _pool: rados.Ioctx = dataclasses.field(init=False)
    _begun: bool = False
    _told: bool = False
    _closed: bool = False
    _cancelled: bool = False
    _job: transfer.Transfer | None = None
    _keeping: futures.Future[None] | None = None
    _stack: contextlib.ExitStack = dataclasses.field(
        default_factory=contextlib.ExitStack)

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        return self.endpoint is not None and self.error is None

    def open(self) -> None:
        """Create the image and open it for writing, or adopt what is there."""
        try:
            self._pool = self._stack.enter_context(self.site.open_pool())
            self._begin()
        except existing.Refused as exc:
            self.fail(errors.Misconfigured(
                self.site.name, 'it cannot take the image', str(exc)), exc)
        except Exception as exc:
            self.fail(exc)

    def _begin(self) -> None:
        try:
            self._begun = True
            self.endpoint = self.site.begin(self._pool, self.image, self.size)
            self.image_id = self.endpoint.image.id()
        except existing.Complete as exc:
            self._begun = False
            self.adopt(self.site, self._pool, exc.found, self.size,
                       self.record.content if self.record else None,
                       self.hashes, self.memory)
            self.adopted = True
            self.image_id = exc.found.image_id
            self.site.published(self.image, self.size)
        except (existing.Refused, name_lock.NotLocked, errors.ReadOnly):
            self._begun = False
            raise

    def keep(self, record: records.Record,
             executor: futures.Executor) -> None:
        """Begin to keep the record with the image that is being written.

        Its round trips are not waited for then when the image is published.
        """
        if self.endpoint:
            self._keeping = executor.submit(
                self.endpoint.call, records.save, record)

    def run(self, job: transfer.Transfer) -> transfer.Result:
        """Run a transfer to this target alone, which :meth:`cancel` ends."""
        self._job = job
        self.check_cancelled()
        return job.run()

    def record_progress(self, progress: transfer.Progress) -> None:
        """Record how far a transfer to this target alone is."""
        # What is read may be in memory still.
        self.part = progress.fraction * (
            sum(progress.written.values()) / progress.data
            if progress.data else 1)

    def cancel(self) -> None:
        """Have a transfer to this target alone end. Any thread may call it."""
        self._cancelled = True
        if self._job:
            self._job.cancel()

    def check_cancelled(self) -> None:
        """Raise Cancelled if the copy was cancelled."""
        if self._cancelled:
            raise engine_errors.Cancelled('The copy was cancelled.')

    def publish(self, record: records.Record | None) -> None:
        """Let what was written be read."""
        if self.error or self.adopted or not self.endpoint:
            return
        try:
            if self._keeping:
                self._keeping.result()
            self.site.publish(self.endpoint,
                              None if self._keeping else record)
            self.site.published(self.image, self.size)
        except (errors.ClusterError, rbd.Error) as exc:
            self.fail(exc)

    def release(self) -> None:
        """Close the published image, and take the right to tell Glance of it.

        If this process was believed dead meanwhile, the image is removed,
        and Glance must not have its location.
        """
        if self.error:
            return
        if self.endpoint:
            self.endpoint.close()
        try:
            self.site.commit(self.image, self.image_id)
            if self.site.call(images.read_image_id, self._pool,
                              self.image) != self.image_id:
                raise existing.Gone(existing.ExistingImage(self.image))
        except (errors.ClusterError, existing.Gone, omap.Error) as exc:
            self.fail(exc)

    def tell(self) -> None:
        """Record that Glance is told of the image from here on."""
        self._told = True

    def fail(self, error: BaseException,
             cause: BaseException | None = None) -> None:
        """Record the error and stop writing to this target.

        :param cause: what it is counted by, if that is another
        """
        self.site.limits.meter.error(cause or error)
        LOG.error('Image %(image)s was not copied to store %(store)s: '
                  '%(error)s', {'image': self.image,
                                'store': self.site.name, 'error': error})
        self.site.failed(error)
        self.error = error

    def close(self, failed: bool) -> None:
        """Close the target; leave nothing there if it or the copy failed.

        To call it again does nothing, and nothing is raised.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._close(failed)
        except Exception as exc:
            LOG.warning('Store %(store)s: a copied image was not closed: '
                        '%(error)s', {'store': self.site.name, 'error': exc})

    def _close(self, failed: bool) -> None:
        with self._stack:
            endpoint = self.endpoint
            if endpoint and self._keeping and not self._keeping.done():
                # At a site that hangs. librbd has the image in use until then.
                self._keeping.add_done_callback(
                    lambda _done: endpoint.close())
            elif endpoint:
                endpoint.close()
            if self._told or not (self.error or failed):
                return
            if self._begun:
                self.site.discard_or_defer(self._pool, self.image,
                                           self.image_id)
            elif self.adopted:
                self.site.release_adopted(self.image, self.image_id)


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a copy is, with the numbers of targets in each state.

    :ivar transfer: progress of the wave's transfer, as last told, if it was
    :ivar fraction: part of the whole copy that is done, 0 to 1
    :ivar waiting: for a later wave
    :ivar stragglers: names of the sites that continue by themselves
    :ivar left: seconds until it is probably done; None if that is not known
    """

    transfer: transfer.Progress | None
    fraction: float
    done: int
    running: int
    waiting: int
    failed: int
    stragglers: list[str]
    left: float | None


class Waves:
    """The targets of one copy. Not thread-safe.

    :param at_once: targets that run at the same time at most
    :param clock: returns seconds of a monotonic clock
    :ivar waiting: sites that wait for a later wave
    :ivar running: targets that have begun and not ended
    :ivar stragglers: those of them that continue by themselves
    """

    def __init__(self, sites: Iterable[sites_.Site],
                 at_once: int = AT_ONCE,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.waiting = collections.deque(sites)
        self.running: list[Target] = []
        self.stragglers: list[Target] = []
        self._at_once = at_once
        # How often each site was put back, and those of the last wave.
        self._put_back: collections.Counter[sites_.Site] = (
            collections.Counter())
        self._round = 0
        self._done = self._failed = 0
        self._count = len(self.waiting)
        self._began = clock()
        self._progress: transfer.Progress | None = None
        # Speeds of targets, and how many ran at the same time.
        self._speeds: list[tuple[float, int]] = []

    def next(self) -> list[sites_.Site]:
        """Take the sites of the next wave: one at least, if any waits.

        Those that can begin at once come before those that are at the limit
        of their transfers, of which one is waited for at a time; and those
        that were put back come last.
        """
        room = max(1, self._limit() - len(self.running))
        ready = self._ready()
        self._round = min((self._put_back[site] for site in ready), default=0)
        chosen = [site for site in ready if self._put_back[site]
                  == self._round][:room] or list(self.waiting)[:1]
        for site in chosen:
            self.waiting.remove(site)
        return chosen

    def _ready(self) -> list[sites_.Site]:
        """Return the waiting sites that are not at their limit."""
        return [site for site in self.waiting if not site.limits.full]

    def begin(self, targets: Iterable[Target]) -> None:
        """Record that targets run."""
        self._progress = None
        self.running.extend(targets)

    def record_speeds(self, speeds: Iterable[float]) -> None:
        """Record the speeds of targets that run, in bytes per second."""
        self._speeds += [(speed, len(self.running)) for speed in speeds
                         if 0 < speed < float('inf')]

    def expected_speeds(self) -> list[float] | None:
        """Return what is expected of targets that sites wait behind.

        Targets that run at the same time may have a line in common: of more
        than there were before, less is expected of each.

        :returns: bytes per second that each earlier target lets expect; None
            if no site waits whose turn it is, or if it could not begin
            earlier for anything that is known
        """
        if all(self._put_back[site] > self._round for site in self._ready()):
            return None
        found = [speed * min(1, count / max(1, len(self.running)))
                 for speed, count in self._speeds]
        return found if found or self._limit() > 1 else None

    def straggles(self, target: Target) -> bool:
        """Let a target continue by itself; False: it has to be put back."""
        if len(self.stragglers) >= self._limit() // 2:
            return False
        self.stragglers.append(target)
        return True

    def put_back(self, target: Target) -> None:
        """Let the site of a target wait again, of which nothing is left."""
        self._forget(target)
        self._put_back[target.site] += 1
        self.waiting.append(target.site)

    def retry(self, sites: Sequence[sites_.Site]) -> None:
        """Let the sites of a wave be first in the next one."""
        self.running = [target for target in self.running
                        if target.site not in sites]
        self.waiting.extendleft(reversed(sites))

    def end(self, target: Target) -> None:
        """Record that a target has come to its end."""
        self._forget(target)
        self._done += target.error is None
        self._failed += target.error is not None

    def fail_waiting(self) -> list[str]:
        """Fail the sites that wait, and return their names."""
        names = [site.name for site in self.waiting]
        self._failed += len(names)
        self.waiting.clear()
        return names

    def standing(self, progress: transfer.Progress | None = None) -> Standing:
        """Return how far the copy is.

        :param progress: of the wave's transfer; None: as it was told last
        """
        self._progress = progress or self._progress
        shared = len(self.running) - len(self.stragglers)
        ended = (self._done + self._failed
                 + shared * (self._progress.fraction if self._progress else 0))
        alone = sum(target.part for target in self.stragglers)
        return Standing(
            self._progress, (ended + alone) / max(1, self._count), self._done,
            len(self.running), len(self.waiting), self._failed,
            sorted(target.site.name for target in self.stragglers),
            self._left(ended, shared + len(self.waiting)))

    def _left(self, ended: float, count: int) -> float | None:
        """Return the seconds until all is done if speeds do not change."""
        now = self._clock()
        estimates = []
        if count:
            if not ended:
                return None
            remaining = self._count - len(self.stragglers) - ended
            estimates.append((now - self._began) * remaining / ended)
        for target in self.stragglers:
            if not target.part or target.began is None:
                return None
            estimates.append((now - target.began) * (1 - target.part)
                             / target.part)
        return max(estimates, default=0.0)

    def _limit(self) -> int:
        return process.get(limits.ProcessLimits).targets_at_once(
            self._at_once, len(self.running))

    def _forget(self, target: Target) -> None:
        self.running.remove(target)
        if target in self.stragglers:
            self.stragglers.remove(target)
