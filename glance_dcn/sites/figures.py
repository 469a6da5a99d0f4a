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

"""Figures of a site: what transfers have moved there, and what failed.

Each process counts for itself (:class:`Meter`). The counts of a host's
processes are put together, and kept, by :mod:`glance_dcn.workers.counts`.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import errno

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.engine import errors as engine_errors
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.sites import existing


class Operation(str, enum.Enum):
    """What is tried again: reading, writing, or a deferred task."""

    READ = 'read'
    WRITE = 'write'
    TASK = 'task'

    __str__ = str.__str__


class Reason(str, enum.Enum):
    """Why something failed at a site.

    AWAY: the cluster does not answer. BLOCKLISTED: it has cut this client
    off. BUSY: another writer is at the image, or an image is in the way.
    CANCELLED: the transfer was ended. DENIED: the key lacks a right.
    EXHAUSTED: this process has too few threads or files. FULL: there is no
    room. MISCONFIGURED: the store's options or conf file. MISMATCH: bytes or
    their digest are not what they should be. MISSING: the image is gone.
    """

    AWAY = 'away'
    BLOCKLISTED = 'blocklisted'
    BUSY = 'busy'
    CANCELLED = 'cancelled'
    DENIED = 'denied'
    EXHAUSTED = 'exhausted'
    FULL = 'full'
    MISCONFIGURED = 'misconfigured'
    MISMATCH = 'mismatch'
    MISSING = 'missing'
    OTHER = 'other'

    __str__ = str.__str__


#: Keys of counts: bytes, transfers that have begun, and by the values of the
#: enumerations retries and errors.
READ, WRITTEN, TRANSFERS = 'read', 'written', 'transfers'
RETRIES, ERRORS = 'retries/', 'errors/'

# The first that fits counts.
_CLASSES: tuple[tuple[Reason, tuple[type[BaseException], ...]], ...] = (
    (Reason.AWAY, (errors.Unreachable, engine_errors.Stalled,
                   engine_errors.Lost)),
    (Reason.EXHAUSTED, (errors.Exhausted,)),
    (Reason.DENIED, (errors.Refused, errors.ReadOnly)),
    (Reason.MISCONFIGURED, (errors.Misconfigured, errors.Retired)),
    (Reason.MISMATCH, (engine_errors.SizeMismatch,
                       engine_errors.DigestMismatch,
                       engine_errors.ShortRead, existing.Different)),
    (Reason.MISSING, (existing.Gone,)),
    (Reason.BUSY, (existing.Refused, name_lock.NameLockError, images.InUse)),
    (Reason.CANCELLED, (engine_errors.Cancelled, SystemExit, GeneratorExit,
                        KeyboardInterrupt)),
)
_CODES = {
    errno.ETIMEDOUT: Reason.AWAY, errno.EHOSTUNREACH: Reason.AWAY,
    errno.ECONNREFUSED: Reason.AWAY, errno.ENOTCONN: Reason.AWAY,
    errno.ESHUTDOWN: Reason.BLOCKLISTED, errno.EBUSY: Reason.BUSY,
    errno.EEXIST: Reason.BUSY, errno.EPERM: Reason.DENIED,
    errno.EACCES: Reason.DENIED, errno.ENOSPC: Reason.FULL,
    errno.EDQUOT: Reason.FULL, errno.ENOENT: Reason.MISSING}
# How far the causes of an exception are followed.
_DEEPEST = 8
# What is counted is added up so many at a time, if nothing else asks for it.
_LOT = 1000


def reason_of(exc: BaseException | None) -> Reason:
    """Return why something failed, by an exception or by its causes."""
    for _ in range(_DEEPEST):
        if exc is None:
            break
        for reason, classes in _CLASSES:
            if isinstance(exc, classes):
                return reason
        code = getattr(exc, 'errno', None)
        # That of a library may be anything.
        if isinstance(code, int) and abs(code) in _CODES:
            return _CODES[abs(code)]
        exc = exc.__cause__ or exc.__context__
    return Reason.OTHER


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures of one site, as they are kept.

    :ivar counts: by the keys of this module; those of other releases may be
        among them
    :ivar used: slots that transfers have now
    :ivar awaited: transfers that wait for a slot there now
    """

    site: str
    counts: dict[str, int]
    used: int = 0
    awaited: int = 0

    def of(self, key: str) -> int:
        """Return a count, by a key of this module."""
        return self.counts.get(key, 0)

    def __add__(self, other: Figures) -> Figures:
        return Figures(self.site, dict(collections.Counter(self.counts)
                                       + collections.Counter(other.counts)),
                       self.used + other.used, self.awaited + other.awaited)

    @property
    def ended(self) -> Figures:
        """What is left of them when their processes have ended."""
        return Figures(self.site, self.counts)


class _Counts:
    """The counts of one process.

    :ivar added: what is not in them yet
    :ivar lock: for adding that to them
    """

    def __init__(self) -> None:
        self.added: collections.deque[tuple[str, int]] = collections.deque()
        self.lock = native.lock()
        self.values: collections.Counter[str] = collections.Counter()

    def add_up(self) -> None:
        """Add up what was added; with the lock."""
        while self.added:
            key, number = self.added.popleft()
            self.values[key] += number


class Meter:
    """Counts what happens at one site, in this process.

    Any thread may, and never waits: a transfer may end because the garbage
    collector found it, in the middle of anything, even of counting.
    """

    def __init__(self) -> None:
        self._processes = process.ForkLocal(_Counts)

    def count(self, key: str, number: int = 1) -> None:
        """Count something; the keys are those of this module."""
        own = self._processes.get()
        # One step, without a lock.
        own.added.append((key, number))
        if len(own.added) >= _LOT and own.lock.acquire(False):
            try:
                own.add_up()
            finally:
                own.lock.release()

    def moved(self, read: int = 0, written: int = 0) -> None:
        """Count bytes that were moved; see the backend of the engine."""
        if read:
            self.count(READ, read)
        if written:
            self.count(WRITTEN, written)

    def retry(self, operation: Operation) -> None:
        """Count another attempt."""
        self.count(RETRIES + operation.value)

    def error(self, exc: BaseException | None) -> None:
        """Count a failure, by its reason."""
        self.count(ERRORS + reason_of(exc).value)

    def counts(self) -> dict[str, int]:
        """Return what was counted; what was not is left out."""
        own = self._processes.get()
        with own.lock:
            own.add_up()
            return {key: number for key, number in own.values.items()
                    if number}
