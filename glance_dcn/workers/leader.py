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

"""The leader of a host: which process it is, and what it tells the others.

One process of a host does the background work of all: it runs tasks, writes
the heartbeats of the worker, recovers imports, removes orphans, and keeps the
record of sites. The others do none, and have no connection for any.

They share a folder beside the staged data. The leader is the process that has
the file ``lead.N`` with the highest N, the generation of the lead:

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

The folder has two files more:

``wake``
    is touched by a process that has recorded work; the leader sees its time.
``published.NAME``
    is written by the leader for the others to read, such as the sites that
    are recorded at home.

Where the staging folder cannot be used the folder is beside the locks of
oslo.concurrency, or in the folder for temporary files. All processes look for
a usable one in this order with each heartbeat, so that they meet again when a
better one appears. Two never lead by two folders: one that has a leader is
used, whatever fails there; who takes the lead in a later folder leads with
its next heartbeat, if those before cannot be used by then either; and who
takes it in an earlier one leads when it has found no sibling that leads in a
later one.
"""

from __future__ import annotations

from collections import abc
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import socket
import stat
import tempfile
import time
import typing
import uuid

from oslo_config import cfg

from glance_dcn.imports import folder
from glance_dcn.imports import options
from glance_dcn.runtime import lead
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.upstream import glance_interfaces
from glance_dcn.workers import identity

if typing.TYPE_CHECKING:
    from glance_dcn.tasks import queue as queues

LOG = logging.getLogger(__name__)

#: Seconds between two heartbeats of a worker in the registry, at most; such
#: heartbeats in the time after which a silent worker is taken for dead.
BEAT = 10
BEATS = 8
#: Such heartbeats that a leader may leave out until a sibling takes the lead.
MISSING = 3

# Seconds between two heartbeats beside the staged data, and two attempts of
# the other processes to take the lead. Neither asks a cluster.
_INTERVAL = 3
# Seconds between two looks of the leader at the file that is touched.
_POLL = 1
_WAKE = 'wake'
_PUBLISHED = 'published.'
# Bytes of it, and of a heartbeat, that are read.
_LARGEST = 4 << 20
_LARGEST_HEARTBEAT = 200
# What the file of a generation is called. In earlier releases there was one
# file, without a number and empty.
_NAME = re.compile(r'lead(?:\.(\d{1,18}))?', re.ASCII)
# What says that a folder cannot be used at all.
_UNUSABLE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EACCES,
                       errno.EPERM, errno.EROFS))
# What says so as long as there is no leader: no file can be made.
_FAILED = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO))


def begin(conf: cfg.ConfigOpts, queue: queues.TaskQueue,
          lead_of: abc.Callable[..., HostLead] | None = None) -> None:
    """Have this process share the background work of its host.

    Called for each store; the first call for a configuration counts.

    :param lead_of: makes what leads; None: :class:`HostLead`
    """
    if isinstance(queue.lead, HostLead):
        if queue.lead.conf is conf:
            return
        queue.lead.stop()
    options.register(conf)
    queue.lead = (lead_of or HostLead)(
        folders(conf, queue.store.deployment), MISSING * interval(conf),
        # Others that have stores, such as the scrubber, end at any time.
        may_lead=lambda: (glance_interfaces.serves_api(conf)
                          or glance_interfaces.loaded()))
    queue.lead.conf = conf
    queue.lead.start()


def interval(conf: cfg.ConfigOpts) -> float:
    """Return the seconds between two heartbeats of a worker."""
    timeout: int = conf[options.GROUP].dcn_worker_timeout
    return min(BEAT, timeout / BEATS)


def folders(conf: cfg.ConfigOpts, deployment: str) -> list[str]:
    """Return the folders that the processes may share, the best first."""
    staging = folder.path(conf)
    # Those with other staging folders, or at other hosts that share a folder,
    # are no siblings.
    name = 'glance-dcn-%d-%s' % (os.geteuid(), hashlib.sha256(
        '\0'.join((deployment, socket.gethostname(), str(staging))).encode()
    ).hexdigest()[:16])
    group = getattr(conf, 'oslo_concurrency', None)
    locks = getattr(group, 'lock_path', None)
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:
        # None can be written to, as in a container that is read-only.
        temporary = None
    return [os.path.join(os.path.abspath(parent), last)
            for parent, last in ((staging, folder.FOLDER), (locks, name),
                                 (temporary, name)) if parent]


class HostLead(lead.Lead):
    """The lead of a host.

    :param folders: paths that the processes may share, the best first
    :param silence: seconds without a heartbeat after which a sibling takes
        the lead
    """

    def __init__(self, folders: abc.Sequence[str], silence: float,
                 may_lead: abc.Callable[[], bool] = lambda: True,
                 clock: abc.Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.conf: cfg.ConfigOpts | None = None
        self._silence = silence
        self._may_lead = may_lead
        self._clock = clock
        self._leaderships = {path: Leadership(path, silence, clock)
                             for path in folders}
        self._beating = periodic.Periodic('dcn-lead', self.beat,
                                          min(_INTERVAL, silence / 3))
        self._polling = periodic.Periodic('dcn-wake', self._poll, _POLL)
        self._processes = process.ForkLocal(_Process)

    @property
    def _own(self) -> _Process:
        return self._processes.get()

    def start(self) -> None:
        """Take the lead whenever it is free, from now on."""
        self._beating.start()

    def stop(self) -> None:
        """Leave the lead to the siblings."""
        self._beating.stop()
        self._polling.stop()
        self.resign()

    def resign(self) -> None:
        """Let a sibling take the lead at once."""
        self._own.alone = False
        for leadership in self._leaderships.values():
            leadership.resign()

    @property
    def is_held(self) -> bool:
        """Whether this process leads at this moment."""
        own = self._own
        leadership = self._leaderships.get(own.folder or '')
        return own.led and (own.alone or bool(
            leadership and leadership.is_held))

    @property
    def term(self) -> object:
        """What differs between two times that this process leads, or None."""
        folder = self._own.folder
        leadership = self._leaderships.get(folder or '')
        return ((folder, leadership.instance if leadership else '')
                if self.is_held else None)

    def beat(self) -> bool:
        """Prove that this process leads and works, or take a free lead."""
        own = self._own
        with own.lock:
            own.led = self.is_held
            held = self._beat(own)
            taken, own.led = held and not own.led, held
        if taken:
            LOG.info('This process does the background work of its host '
                     '(lead in %s)', own.folder or 'no folder')
            # What was touched before is seen by the first scan.
            own.touched = self._state(_WAKE)
            self._polling.start()
            for function in [*self._beginners, *self._wakers]:
                function()
        elif not held:
            self._polling.stop()
        return held

    def _beat(self, own: _Process) -> bool:
        hung = self._hung(own)
        if hung is not None and own.led:
            LOG.warning('This process leaves the lead of its host to a '
                        'sibling: its background work (%(name)s) has not '
                        'ended for %(seconds).0f s. Check the store that the '
                        'last messages name', {
                            'name': hung.name,
                            'seconds': self._clock() - hung.since})
        if hung is not None or not self._may_lead():
            self.resign()
            return False
        complaint, may_be_alone = '', True
        for place, (path, leadership) in enumerate(self._leaderships.items()):
            try:
                had = leadership.beat()
                held = had or self._acquire(path)
                if held and not own.led:
                    held = (had or not place) and self._is_last(place)
            except OSError as exc:
                complaint = '%s: %s' % (path, exc.strerror)
                if not leadership.is_led and exc.errno in _UNUSABLE | _FAILED:
                    # It may have room again, for a sibling, at any moment.
                    may_be_alone &= exc.errno not in _FAILED
                    continue
                self._complain(own, complaint)
                return False
            self._use(own, path)
            return held
        self._complain(own, complaint)
        self._use(own, None)
        # Those who lead at home have a lease there, all the same.
        own.alone = may_be_alone
        return own.alone

    def _acquire(self, path: str) -> bool:
        if path != next(iter(self._leaderships)):
            _check_own(path)
        return self._leaderships[path].acquire()

    def _is_last(self, place: int) -> bool:
        """Return whether no sibling leads in a folder after this one.

        One that does so resigns with its next heartbeat, as it finds a leader
        here, or loses the lead there when it is silent.
        """
        for path, leadership in list(self._leaderships.items())[place + 1:]:
            try:
                if leadership.exists() and not self._acquire(path):
                    return False
            except OSError as exc:
                if exc.errno not in _UNUSABLE | _FAILED:
                    raise
        return True

    def _use(self, own: _Process, path: str | None) -> None:
        own.alone, own.folder = False, path
        for other, leadership in self._leaderships.items():
            if other != path:
                leadership.resign()

    def _complain(self, own: _Process, text: str) -> None:
        if text != own.complained:
            own.complained = text
            LOG.warning('The processes of this host cannot choose the one '
                        'that does the background work: %s. Give Glance\'s '
                        'user a staging folder with room that it may write '
                        'to', text)

    def _hung(self, own: _Process) -> _Job | None:
        now = self._clock()
        return next((job for job in list(own.jobs)
                     if now - job.since >= job.limit), None)

    @contextlib.contextmanager
    def job(self, name: str, limit: float | None = None) -> abc.Iterator[None]:
        """Do work of the leader, which has no lead while it hangs."""
        jobs = self._own.jobs
        job = _Job(name, self._clock(), limit or self._silence)
        jobs.append(job)
        try:
            yield
        finally:
            jobs.remove(job)

    def notify(self) -> None:
        """Tell the leader that there is work; nothing is raised."""
        if self.is_held:
            self._wake()
            return
        known = self._own.folder
        for path in [known] if known else self._leaderships:
            wake = os.path.join(path, _WAKE)
            try:
                fd = os.open(wake, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
                             | os.O_CLOEXEC, 0o600)
                try:
                    os.utime(fd)
                finally:
                    os.close(fd)
                return
            except OSError as exc:
                # It finds the work with its next scan.
                LOG.debug('The leader is not told of work by %(path)s: '
                          '%(error)s', {'path': wake, 'error': exc})

    def _poll(self) -> None:
        touched = self._state(_WAKE)
        if touched != self._own.touched and self.is_held:
            self._own.touched = touched
            self._wake()

    def publish(self, name: str, text: str) -> None:
        """Leave a text to the siblings; see the base class."""
        folder = self._own.folder
        if folder is None:
            return
        with identity.temporary(folder, text, False) as written:
            os.replace(written, os.path.join(folder, _PUBLISHED + name))

    def published(self, name: str) -> str | None:
        """Return what the leader has left; see the base class."""
        own = self._own
        state = self._state(_PUBLISHED + name)
        if state is None or state == own.read.get(name):
            return None
        try:
            with open(os.path.join(own.folder or '', _PUBLISHED + name),
                      opener=identity.open_at_once) as f:
                text = f.read(_LARGEST)
        except (OSError, ValueError) as exc:
            LOG.debug('What the leader has left cannot be read: %s', exc)
            return None
        own.read[name] = state
        return text

    def _state(self, name: str) -> object:
        """Return what changes with a file of the folder; None: no file."""
        folder = self._own.folder
        with contextlib.suppress(OSError):
            if folder is not None:
                found = os.stat(os.path.join(folder, name))
                return found.st_ino, found.st_mtime_ns, found.st_size
        return None


class _Job(typing.NamedTuple):
    name: str
    since: float
    limit: float


class _Process:
    """What one process has of a lead.

    :ivar lock: for one heartbeat at a time
    :ivar alone: whether no folder can be used, so that this process leads
    :ivar led: whether it led at the last heartbeat
    :ivar touched: state of the file ``wake``, as it was seen last
    :ivar read: states of what was published, as it was read last
    """

    def __init__(self) -> None:
        self.lock = native.lock()
        self.folder: str | None = None
        self.alone = self.led = False
        self.jobs: list[_Job] = []
        self.touched: object = None
        self.read: dict[str, object] = {}
        self.complained: str | None = None


def _check_own(path: str) -> None:
    """Raise PermissionError if a folder is not this user's alone."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid()
            or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise PermissionError(errno.EACCES, 'it is another user\'s', path)


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
        except BaseException:
            held.close()
            raise
        finally:
            os.unlink(temporary)
        # A process that was stopped before the link may have made the file of
        # an old generation again.
        if self._newest() != generation:
            held.close()
            self._remove(generation)
            return False
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
            text = os.pread(self._fd, _LARGEST_HEARTBEAT, 0)
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
