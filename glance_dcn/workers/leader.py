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

They share a folder beside the staged data, in which one of them has the lead
(:mod:`glance_dcn.workers.leadership`).

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
import hashlib
import logging
import os
import socket
import stat
import tempfile
import time
import typing

from oslo_config import cfg

from glance_dcn.imports import folder
from glance_dcn.imports import options
from glance_dcn.runtime import lead
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.upstream import glance_interfaces
from glance_dcn.workers import identity
from glance_dcn.workers import leadership as leaderships

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
# Bytes of it that are read.
_LARGEST = 4 << 20
# What says that a folder cannot be used at all.
_UNUSABLE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES,
                       errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS,
                       errno.EOPNOTSUPP))
# What says so as long as there is no leader: no file can be made.
_FAILED = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE,
                     errno.ENOTCONN))


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
        self._leaderships = {path: leaderships.Leadership(
            path, silence, clock) for path in folders}
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
            except OSError:
                # Whatever it is: in a folder that cannot be looked into there
                # is no leader that a sibling could see.
                if leadership.is_led:
                    return False
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
