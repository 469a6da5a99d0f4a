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

"""The lead of a folder: which of the processes that share it has it.

The leader is the process that has the file ``lead.N`` with the highest N, the
generation of the lead:

* It holds a lock on that file (flock), which the system takes away from a
  process that ends: then the lead is free, and the next process that locks the
  file has it. That needs no room on the disk and no right to write, so there
  is a leader where the disk is full or has become read-only.
* With each heartbeat it writes the next count into that file, where it has
  room already, or at least the time of the file. The lock of a process that
  is stopped, or whose thread hangs, cannot be taken away. So a sibling that
  has seen no change for some seconds, by its own monotonic clock and while it
  looked, takes the lead all the same.

For that the sibling makes the file of the next generation. It is written
and locked under another name first, and then linked to its own, which fails
if there is one already: of several siblings one succeeds. Only files of lower
generations are ever removed, so the highest generation never comes down, and
a former leader sees that it has lost the lead, whenever it wakes, by looking
at the names of the files. Between that look and what is done after it a
process may be stopped: what a leader writes to where others read it must be
fenced as well, such as by compare-and-swap.
"""

from __future__ import annotations

from collections import abc
import contextlib
import errno
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

# Bytes of a heartbeat that are read.
_LARGEST = 200
# What the file of a generation is called. In earlier releases there was one
# file, without a number and empty.
_NAME = re.compile(r'lead(?:\.(\d{1,18}))?', re.ASCII)


class Leadership:
    """The lead of a folder's processes, as one of them sees it.

    Every process that may lead calls :meth:`beat` at equal intervals, and
    :meth:`acquire` when that returns False. Any thread may call the others.

    :param folder: path of the folder; its parent must exist
    :param silence: seconds without a heartbeat after which a sibling takes
        the lead; several times the interval of heartbeats
    :ivar is_led: whether :meth:`acquire` has found that a sibling leads
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
        self.is_led = False

    @property
    def is_held(self) -> bool:
        """Whether this process leads at this moment.

        A process that was stopped finds out here that a sibling leads, or that
        the folder is another one. If it cannot be read, it does not lead.
        """
        held = self._held
        if held is None or self._pid != os.getpid():
            return False
        try:
            return self._is_newest(held)
        except OSError:
            return False

    @property
    def instance(self) -> str:
        """What differs each time that this process takes the lead."""
        held = self._held
        return held.instance if held is not None else ''

    def exists(self) -> bool:
        """Return whether there is, or was, a leader; OSError: no folder."""
        return bool(self._generations())

    def acquire(self) -> bool:
        """Take the lead if it is free or its leader is silent.

        :returns: whether this process leads
        :raises OSError: if the folder cannot be used
        """
        if self._pid != os.getpid():
            self._forget_parent()
        if self.is_held:
            return True
        with self._lock:
            self._drop()
            self.is_led = False
            # Not the folder above it: it may have to be mounted yet.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, mode=0o700)
            newest = self._newest()
            former = self._replaced(newest)
            if self._held is not None:
                return True
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
        """Write a heartbeat; return whether this process still leads.

        A disk that is read-only does not end the lead: that is logged, and a
        sibling that sees no heartbeat may take over.
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
                            '%(error)s; see that it can be written to', {
                                'path': self._path(self._held.generation),
                                'error': exc})
        return self.is_held

    def resign(self) -> None:
        """Let a sibling take the lead at once."""
        if self._pid == os.getpid():
            with self._lock:
                self._drop()

    def _forget_parent(self) -> None:
        # Another thread of the parent may have held the lock at the fork.
        self._lock = native.lock()
        self._pid, self._seen = os.getpid(), None
        # The parent goes on holding its lock.
        self._drop()

    def _drop(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _path(self, generation: int) -> str:
        return os.path.join(self._folder, 'lead.%d' % generation
                            if generation else 'lead')

    def _generations(self) -> list[int]:
        found = map(_NAME.fullmatch, os.listdir(self._folder))
        return [int(match[1] or 0) for match in found if match]

    def _newest(self) -> int:
        return max(self._generations(), default=0)

    def _is_newest(self, held: _Lead) -> bool:
        """Return whether there is no later generation, nor another file."""
        return self._newest() == held.generation and os.path.samestat(
            os.stat(self._path(held.generation)), held.stat)

    def _replaced(self, generation: int) -> str | None:
        """Take the lead of a generation if that is free.

        :returns: text of a leader to be replaced by a new generation, empty
            if there is none; None: it is led, or was taken
        """
        try:
            found = _Lead(self._open(generation), generation)
        except FileNotFoundError:
            # There is none yet, or a sibling has just removed it.
            return '' if self._newest() == generation else None
        try:
            if found.lock():
                if not generation:
                    # Of an earlier release, which knows no generations.
                    return ''
                if self._is_newest(found):
                    self._hold(found)
                return None
            self.is_led = True
            text, changed = found.read()
        finally:
            if self._held is not found:
                found.close()
        if not self._is_silent((generation, text, changed)):
            return None
        return text or 'unknown: it may be of an earlier release'

    def _open(self, generation: int) -> int:
        path = self._path(generation)
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(path, os.O_RDWR | flags)
        except OSError as exc:
            if exc.errno == errno.EROFS:
                return os.open(path, os.O_RDONLY | flags)
            self.is_led = not isinstance(exc, (FileNotFoundError,
                                               PermissionError))
            raise

    def _hold(self, held: _Lead) -> None:
        # The lock is the lead: what the file says may follow.
        with contextlib.suppress(OSError):
            held.write()
        self._held, self._seen = held, None

    def _is_silent(self, heartbeat: tuple[int, str, int]) -> bool:
        now = self._clock()
        seen = self._seen
        # A process that was stopped itself has not looked meanwhile.
        if (seen is None or seen.heartbeat != heartbeat
                or now - seen.looked_at > self._silence):
            seen = _Seen(heartbeat, now, now)
        self._seen = seen._replace(looked_at=now)
        return now - seen.since >= self._silence

    def _take(self, generation: int) -> bool:
        """Make the file of a generation; return whether this process leads."""
        fd, temporary = tempfile.mkstemp(dir=self._folder, prefix='.')
        held = _Lead(fd, generation)
        try:
            # Before others can see it.
            held.lock()
            with contextlib.suppress(OSError):
                held.write()
            try:
                os.link(temporary, self._path(generation))
            except FileExistsError:
                held.close()
                return False
            # A process that was stopped before the link may have made the
            # file of an old generation again.
            if self._newest() != generation:
                held.close()
                self._remove(generation)
                return False
        except BaseException:
            held.close()
            raise
        finally:
            # What cleans up temporary files may have been faster.
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        self._hold(held)
        for former in self._generations():
            if former < generation:
                self._remove(former)
        return True

    def _remove(self, generation: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(generation))


class _Seen(typing.NamedTuple):
    """When a heartbeat of a sibling was seen first, and looked at last."""

    heartbeat: tuple[int, str, int]
    since: float
    looked_at: float


class _Lead:
    """The file of a generation, which may be that of this process.

    :ivar instance: what differs each time that a process takes a lead
    """

    def __init__(self, fd: int, generation: int) -> None:
        self._fd = fd
        self._count = 0
        # Process ids of containers are the same after a restart.
        self.instance = uuid.uuid4().hex
        self.generation = generation
        self.stat = os.fstat(fd)

    def lock(self) -> bool:
        """Lock the file; return False if another process has it locked."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def read(self) -> tuple[str, int]:
        """Return the text of the last heartbeat, and its time."""
        text = b''
        with contextlib.suppress(OSError):
            text = os.pread(self._fd, _LARGEST, 0)
        return (' '.join(text.decode(errors='replace').split()),
                os.fstat(self._fd).st_mtime_ns)

    def write(self) -> None:
        """Write the next heartbeat over the former one, which is as long.

        Where that fails, as there never was room for it, the file has another
        time at least.
        """
        self._count += 1
        text = 'pid %-10d instance %s count %-12d\n' % (
            os.getpid(), self.instance, self._count)
        try:
            os.pwrite(self._fd, text.encode(), 0)
        except OSError:
            os.utime(self._fd)

    def close(self) -> None:
        """Close the file, with which this process's lock on it ends."""
        os.close(self._fd)
