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


"""Which process of a worker is its leader.

All processes of a worker share a folder beside what they have staged, on one
host. The leader is the process that has the file ``lead.N`` with the highest
N, the generation of the lead:

* It holds a lock on that file (flock), which the system takes away from a
  process that ends: then the lead is free, and known to be free at once.
* With each heartbeat it writes the next count into that file. The lock of a
  process that is stopped, or whose thread hangs, cannot be taken away. So a
  sibling that has seen no change for some seconds, by its own monotonic clock
  and while it looked, takes the lead all the same.

Either way the sibling makes the file of the next generation. It is written
and locked under another name first, and then linked to its own, which fails
if there is one already: of several siblings one succeeds. Only files of lower
generations are ever removed, so the highest generation never comes down, and
a former leader sees that it has lost the lead, whenever it wakes, by looking
at the names of the files.

Between that look and what is done after it a process may be stopped. What is
written by a leader to where others read it must therefore be fenced as well,
such as by compare-and-swap.
"""

from __future__ import annotations

from collections import abc
import contextlib
import fcntl
import logging
import os
import re
import tempfile
import time
import typing
import uuid

from glance_dcn.runtime import native

LOG = logging.getLogger(__name__)

# What the file of a generation is called. In earlier releases there was one
# file, without a number and empty.
_NAME = re.compile(r'lead(?:\.(\d{1,18}))?', re.ASCII)
# Bytes of it that are read.
_LARGEST = 200


class Leadership:
    """The lead of a worker, as one of its processes sees it.

    Every process that may lead calls :meth:`beat` again and again, at equal
    intervals, and :meth:`acquire` when that returns False. All other methods
    may be called by any thread.

    :param folder: path of the worker's folder; the one that it is in must
        exist
    :param silence: seconds without a heartbeat after which a sibling takes
        the lead; several times the interval of heartbeats
    """

    def __init__(self, folder: str, silence: float,
                 clock: abc.Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._silence = silence
        self._clock = clock
        self._pid = os.getpid()
        self._lock = native.lock()
        self._held: _Lead | None = None
        self._seen: _Seen | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process leads at this moment.

        A process that was stopped finds out here that a sibling has taken the
        lead, or that the folder is another one now. If the folder cannot be
        read, it does not lead.
        """
        held = self._held
        if held is None or self._pid != os.getpid():
            return False
        try:
            return self._newest() == held.generation and os.path.samestat(
                os.stat(self._path(held.generation)), held.stat)
        except OSError:
            return False

    @property
    def generation(self) -> int:
        """The generation of the lead that this process took last, or 0."""
        held = self._held
        return held.generation if held is not None else 0

    def acquire(self) -> bool:
        """Take the lead if it is free or its leader has stopped beating.

        :returns: whether this process leads
        :raises OSError: if the folder cannot be used
        """
        if self._pid != os.getpid():
            self._forget_parent()
        if self.is_held:
            return True
        with self._lock:
            self._drop()
            # Not the folder above it: it may have to be mounted yet.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, mode=0o700)
            newest = self._newest()
            former = self._vacant(newest)
            if former is None or not self._take(newest + 1):
                return False
        if former:
            LOG.warning('Process %(pid)d takes over the lead of its worker: '
                        'the former leader (%(former)s) has not beaten for '
                        '%(silence).0f s. Check whether that process is '
                        'stopped or hangs', {
                            'pid': os.getpid(), 'former': former,
                            'silence': self._silence})
        return True

    def beat(self) -> bool:
        """Prove to the siblings that this process leads and works.

        A full disk does not end the lead: that is logged, and a sibling that
        sees no heartbeat may take over.

        :returns: whether this process still leads
        """
        if not self.is_held:
            return False
        with self._lock:
            if self._held is None:
                return False
            try:
                self._held.write()
            except OSError as exc:
                LOG.warning('Heartbeat cannot be written to %(path)s: '
                            '%(error)s; see that there is room', {
                                'path': self._path(self._held.generation),
                                'error': exc})
        return self.is_held

    def resign(self) -> None:
        """Let a sibling take the lead at once."""
        if self._pid == os.getpid():
            with self._lock:
                self._drop()

    def _forget_parent(self) -> None:
        """Leave the lead to the parent of this process, a child of a fork."""
        # Another thread of the parent may have held the lock at the fork.
        self._lock = native.lock()
        self._pid, self._seen = os.getpid(), None
        # The parent goes on holding its lock.
        self._drop()

    def _drop(self) -> None:
        if self._held is not None:
            self._held.close()
        self._held = None

    def _path(self, generation: int) -> str:
        return os.path.join(self._folder, 'lead.%d' % generation
                            if generation else 'lead')

    def _generations(self) -> list[int]:
        found = map(_NAME.fullmatch, os.listdir(self._folder))
        return [int(match[1] or 0) for match in found if match]

    def _newest(self) -> int:
        """Return the highest generation there is, or 0."""
        return max(self._generations(), default=0)

    def _vacant(self, generation: int) -> str | None:
        """Return whether the lead can be taken.

        :returns: text of a leader that does not beat, empty if there is no
            leader; None: it is led
        """
        try:
            fd = os.open(self._path(generation),
                         os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # There is none yet, or a sibling has just removed it.
            return '' if self._newest() == generation else None
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return ''
            text = ' '.join(os.pread(fd, _LARGEST, 0).decode(
                errors='replace').split())
        finally:
            os.close(fd)
        if not self._is_silent((generation, text)):
            return None
        return text or 'of an earlier release'

    def _is_silent(self, heartbeat: tuple[int, str]) -> bool:
        """Whether a leader has shown the same heartbeat for too long."""
        now = self._clock()
        seen = self._seen
        # A process that was stopped itself has not looked meanwhile.
        if (seen is None or seen.heartbeat != heartbeat
                or now - seen.looked_at > self._silence):
            seen = _Seen(heartbeat, now, now)
        self._seen = seen._replace(looked_at=now)
        return now - seen.since >= self._silence

    def _take(self, generation: int) -> bool:
        """Make the file of a generation.

        :returns: whether this process has done it and leads
        """
        fd, temporary = tempfile.mkstemp(dir=self._folder, prefix='.')
        lead = _Lead(fd, generation)
        try:
            # Before others can see it.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lead.write()
            try:
                os.link(temporary, self._path(generation))
            except FileExistsError:
                lead.close()
                return False
        except BaseException:
            lead.close()
            raise
        finally:
            os.unlink(temporary)
        # A process that was stopped before the link may have made the file of
        # an old generation again.
        if self._newest() != generation:
            lead.close()
            self._remove(generation)
            return False
        self._held, self._seen = lead, None
        for former in self._generations():
            if former < generation:
                self._remove(former)
        return True

    def _remove(self, generation: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(generation))


class _Seen(typing.NamedTuple):
    """When a heartbeat of a sibling was seen first, and looked at last."""

    heartbeat: tuple[int, str]
    since: float
    looked_at: float


class _Lead:
    """The file of the generation that this process leads."""

    def __init__(self, fd: int, generation: int) -> None:
        self._fd = fd
        self._count = 0
        # Process ids of containers are the same after a restart.
        self._instance = uuid.uuid4().hex
        self.generation = generation
        self.stat = os.fstat(fd)

    def write(self) -> None:
        """Write the next heartbeat over the former one, which is as long.

        :raises OSError: if it cannot be written
        """
        self._count += 1
        text = 'pid %-10d instance %s count %-12d\n' % (
            os.getpid(), self._instance, self._count)
        os.pwrite(self._fd, text.encode(), 0)

    def close(self) -> None:
        """Close the file, with which this process's lock on it ends."""
        os.close(self._fd)
