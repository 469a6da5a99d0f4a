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

"""What the system lets this process have: files, threads and memory.

librados ends the process (SIGABRT) where the system refuses it a thread or a
file while it makes a client. So what is left is compared with what a client
takes before one is made, and how many targets a copy writes at a time follows
from it.

Limits are those of the process (``RLIMIT_NOFILE``, ``RLIMIT_NPROC``) and of
its control groups (``pids.max``, ``memory.max``), versions 1 and 2, each
group above it included. A control group may be shared with other processes:
what they take is counted as used.
"""

from __future__ import annotations

# Left alone by eventlet.
import _socket
import dataclasses
import errno
import logging
import os
import pathlib
import re
import resource
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

LOG = logging.getLogger(__name__)

_MIB = 1 << 20
# A limit of version 1 that is this large is none.
_NO_MEMORY_LIMIT = 1 << 60
# Clients of a copy that are not targets: of its source, and of the default
# store, which keeps the records.
_OTHER_CLIENTS = 2
# Clients that a process makes use of, however low its limits are.
_FEWEST_CLIENTS = 4


@dataclasses.dataclass(frozen=True)
class Amount:
    """Threads, files, and bytes of memory; None: without limit."""

    threads: int | None = None
    files: int | None = None
    memory: int | None = None

    def times(self, count: int) -> Amount:
        """Return the amount that so many of them are."""
        return Amount(*(None if value is None else value * count
                        for value in dataclasses.astuple(self)))

    def holds(self, other: Amount) -> int | None:
        """Return how many times another amount fits in; None: no limit."""
        fits = [max(mine, 0) // its for mine, its in zip(
            dataclasses.astuple(self), dataclasses.astuple(other))
            if mine is not None and its]
        return min(fits) if fits else None


#: What a connected client of a cluster takes (Ceph 16.2, measured): 10 threads
#: and three more from its first image on; 4 files, and one for each OSD that
#: it has talked to.
CLIENT = Amount(threads=13, files=16, memory=2 * _MIB)
#: Threads of a client that begin with its first image.
IMAGE_THREADS = 3
#: What a target of a copy takes besides its client.
TARGET = Amount(threads=2, files=1, memory=4 * _MIB)
#: What is left to Glance, its WSGI server and the database driver.
RESERVE = Amount(threads=16, files=32, memory=64 * _MIB)
#: What a process of Glance takes without any client, with its requests and a
#: transfer that runs.
PROCESS_NEED = Amount(threads=64, files=64, memory=384 * _MIB)


class Turn:
    """The right to take of what is short, until it is closed."""

    def __init__(self, bound: _socket.socket) -> None:
        self._bound = bound

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next process that asks have it."""
        self._bound.close()


def take_turn() -> Turn | None:
    """Return the right that one process of a host has at a time, or None.

    It ends with the process, however that ends: it is the name of a socket.
    """
    try:
        bound = _socket.socket(_socket.AF_UNIX,
                               _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    except OSError:
        # There is no file left for it.
        return None
    try:
        bound.bind(b'\0glance-dcn-client-%d' % os.geteuid())
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            bound.close()
            return None
        # Where such names are refused nobody has one: there are no turns.
    return Turn(bound)


@dataclasses.dataclass(frozen=True)
class Shortage:
    """A limit of the system that is lower than what a process may need.

    :ivar remedy: what sets it
    :ivar found: what it is, in ``unit``
    :ivar processes: how many processes share it
    :ivar clients: how many clients can be used with it
    """

    limit: str
    remedy: str
    found: int
    wanted: int
    unit: str
    processes: int
    clients: int

    def __str__(self) -> str:
        shared = ('' if self.processes == 1
                  else ', which %d processes share' % self.processes)
        return ('%s allows %d %s%s, and %d may be needed: no more than %d '
                'connections to clusters are used at a time by each process; '
                'raise it to %d (%s), or lower dcn_max_clients in [glance_dcn]'
                % (self.limit, self.found, self.unit, shared, self.wanted,
                   self.clients, self.wanted, self.remedy))


class ProcessLimits:
    """The limits of this process, and what is left of them.

    Safe for use by many threads; reads the system each time it is asked.

    :param proc: folder where procfs is mounted
    :param pid: ID of another process, whose limits it is about then
    :ivar max_clients: connected clients that the process should have at most;
        no more than the system has room for
    :ivar processes: that share the limits of the control group
    :ivar reclaimable: function that returns how many connected clients would
        be closed for the sake of others
    """

    def __init__(self, proc: str = '/proc', pid: int | None = None) -> None:
        self.max_clients = 32
        self.processes = 1
        self.reclaimable: Callable[[], int] = lambda: 0
        self._proc = pathlib.Path(proc)
        self._pid = pid
        self._folder = self._proc / str(pid or 'self')

    def limit(self) -> Amount:
        """Return what the process could have if it were alone."""
        return Amount(_least(most for most, _used in self._threads()),
                      _file_limit(self._pid),
                      _least(most for most, _used in self._memory()))

    def left(self) -> Amount:
        """Return what the process can still take."""
        files = _file_limit(self._pid)
        return Amount(
            _least(most - used for most, used in self._threads()),
            None if files is None
            else files - self._count(self._folder / 'fd'),
            _least(most - used for most, used in self._memory()))

    def room_for_clients(self, reserved: int = 0) -> int | None:
        """Return how many more clients can be made; None: no limit.

        :param reserved: threads that there are not yet and will be
        """
        return _sum(self._spare(), Amount(-reserved, 0, 0)).holds(CLIENT)

    def targets_at_once(self, at_most: int, running: int = 0) -> int:
        """Return how many targets a copy may write at the same time.

        To be asked before each wave.

        :param at_most: how many it would write if there were no limits
        :param running: how many it writes already, with what they take
        :returns: from 1 to ``at_most``
        """
        left = _sum(self._spare(), CLIENT.times(self.reclaimable()))
        fits = left.holds(_sum(CLIENT, TARGET))
        if fits is not None:
            at_most = min(at_most, fits + running - _OTHER_CLIENTS)
        return max(1, min(at_most, self.max_clients - _OTHER_CLIENTS))

    def configure(self, max_clients: int, processes: int = 1
                  ) -> list[Shortage]:
        """Have so many clients at most, or as many as there is room for.

        The soft limit of open files is raised as far as needed and allowed.

        :param max_clients: connected clients of a process
        :param processes: those that share the limits of the control group
        :returns: the limits that are too low for it
        """
        self._raise_file_limit(self.need(max_clients).files or 0)
        found = self.shortages(max_clients, processes)
        self.processes = processes
        self.max_clients = min([max_clients,
                                *(one.clients for one in found)])
        return found

    def shortages(self, max_clients: int,
                  processes: int = 1) -> list[Shortage]:
        """Return the limits that are too low; see :meth:`configure`."""
        return list(self._shortages(self.limit(), self.need(max_clients),
                                    processes))

    @staticmethod
    def need(max_clients: int) -> Amount:
        """Return what one process takes when it is at its busiest."""
        targets = max(1, max_clients - _OTHER_CLIENTS)
        return _sum(_sum(PROCESS_NEED, CLIENT.times(max_clients)),
                    TARGET.times(targets))

    def _shortages(self, limit: Amount, need: Amount,
                   processes: int) -> Iterator[Shortage]:
        each = _sum(CLIENT, TARGET)
        for name, title, remedy, unit, scale, sharing in (
                ('threads', 'pids.max of the control group, or RLIMIT_NPROC,',
                 'TasksMax of the service, pids_limit of the container',
                 'threads', 1, processes),
                ('files', 'RLIMIT_NOFILE',
                 'LimitNOFILE of the service, nofile of the container',
                 'open files', 1, 1),
                ('memory', 'memory.max of the control group, or the memory of '
                 'this machine,', 'MemoryMax of the service, memory of the '
                 'container', 'MiB', _MIB, processes)):
            most, wanted = getattr(limit, name), getattr(need, name)
            if most is None or most >= wanted * sharing:
                continue
            fits = ((most // sharing - getattr(PROCESS_NEED, name))
                    // getattr(each, name))
            yield Shortage(title, remedy, most // scale,
                           -(-wanted * sharing // scale), unit, sharing,
                           max(fits, _FEWEST_CLIENTS))

    @staticmethod
    def _raise_file_limit(wanted: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if resource.RLIM_INFINITY in (soft, hard) and soft == hard:
            return
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or most <= soft:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError) as exc:
            LOG.warning('The limit of open files cannot be raised from '
                        '%(soft)d to %(most)d: %(error)s', {
                            'soft': soft, 'most': most, 'error': exc})

    def _spare(self) -> Amount:
        return _sum(self.left(), RESERVE.times(-1))

    def _threads(self) -> Iterator[tuple[int, int]]:
        """Give (limit, used) of threads, for each limit that there is."""
        for group in self._groups('pids'):
            most = _number(group / 'pids.max')
            if most is not None:
                yield most, _number(group / 'pids.current') or 0
        soft, _hard = resource.getrlimit(resource.RLIMIT_NPROC)
        # The kernel does not apply it to root.
        if soft != resource.RLIM_INFINITY and os.getuid():
            yield soft, self._threads_of_user()

    def _memory(self) -> Iterator[tuple[int, int]]:
        """Give (limit, used) of memory in bytes, for each limit."""
        for group in self._groups('memory'):
            for limit, used in (('memory.max', 'memory.current'),
                                ('memory.limit_in_bytes',
                                 'memory.usage_in_bytes')):
                most = _number(group / limit)
                if most is not None and most < _NO_MEMORY_LIMIT:
                    # The page cache is given back when it is needed.
                    yield most, ((_number(group / used) or 0)
                                 - _inactive_file(group / 'memory.stat'))
        info = _table(self._proc / 'meminfo')
        total = info.get('MemTotal')
        if total is not None:
            yield total << 10, (total - info.get('MemAvailable', total)) << 10

    def _groups(self, controller: str) -> Iterator[pathlib.Path]:
        """Give the folders of a controller's groups, innermost first."""
        mounts = _mounts(_text(self._folder / 'mountinfo'))
        for line in _text(self._folder / 'cgroup').splitlines():
            names, path = line.split(':', 2)[1:]
            # Version 2 has one hierarchy, without a name.
            if names and controller not in names.split(','):
                continue
            root, point = mounts.get(controller if names else '',
                                     (None, None))
            if point is None:
                continue
            # In a container the root of the mount may be the group itself.
            inside = os.path.relpath(path, root)
            parts = () if inside.startswith('..') else pathlib.PurePosixPath(
                inside).parts
            for depth in range(len(parts), -1, -1):
                yield pathlib.Path(point, *parts[:depth])

    def _threads_of_user(self) -> int:
        """Return the threads of all processes of this process's user."""
        user = os.getuid()
        count = 0
        for folder in self._proc.glob('[0-9]*'):
            try:
                if folder.stat().st_uid == user:
                    count += len(os.listdir(folder / 'task'))
            except OSError:
                # It has ended.
                continue
        return count

    @staticmethod
    def _count(folder: pathlib.Path) -> int:
        try:
            return len(os.listdir(folder))
        except OSError:
            return 0


def _sum(first: Amount, second: Amount) -> Amount:
    return Amount(*(None if one is None or other is None else one + other
                    for one, other in zip(dataclasses.astuple(first),
                                          dataclasses.astuple(second))))


def _least(values: Iterator[int]) -> int | None:
    return min(values, default=None)


def _file_limit(pid: int | None) -> int | None:
    soft, _hard = (resource.getrlimit(resource.RLIMIT_NOFILE) if pid is None
                   else resource.prlimit(pid, resource.RLIMIT_NOFILE))
    return None if soft == resource.RLIM_INFINITY else soft


def _mounts(text: str) -> dict[str, tuple[str, str]]:
    """Return (root, mount point) of the mounted control groups.

    :param text: content of mountinfo
    :returns: by the name of the controller; '' is version 2
    """
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        before, _separator, after = line.partition(' - ')
        fields, kind = before.split(' '), after.split(' ')
        if kind[0] == 'cgroup2':
            found.setdefault('', (fields[3], fields[4]))
        elif kind[0] == 'cgroup':
            names = kind[2].split(',')
            for name in names:
                found.setdefault(name, (fields[3], fields[4]))
    return found


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ''


def _number(path: pathlib.Path) -> int | None:
    """Return the number in a file; None: it has none, or says "max"."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _table(path: pathlib.Path) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(
        r'^(\S+?):?\s+(\d+)', _text(path), re.MULTILINE)}


def _inactive_file(path: pathlib.Path) -> int:
    table = _table(path)
    return table.get('total_inactive_file', table.get('inactive_file', 0))
