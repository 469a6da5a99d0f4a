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

"""The figures of a host's processes, put together and kept.

Each process counts for itself (:mod:`glance_dcn.sites.figures`), and one that
ends must not take what it has counted with it: to Prometheus a sum that falls
has begun again at 0. So a process has a file beside the staged data that
outlives it, ``figures.N`` with the lowest N that no living process has, which
a lock on ``figures.N.held`` (flock) tells. It goes on from what it finds
there. There are as many files as there were processes at the same time.

The files are written when something has changed, with the heartbeats, and not
brought to the disk: after a power cut counts may begin again, as they do when
the folder is emptied.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import typing

from glance_dcn.ceph import record_format
from glance_dcn.runtime import process
from glance_dcn.sites import figures
from glance_dcn.sites import limits
from glance_dcn.workers import identity

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

LOG = logging.getLogger(__name__)

# What locks end with: .lock is for what the journal has.
_NAME, _HELD = 'figures.%d', '.held'
# Processes of a host, sites, and bytes of a file that are read at most.
_PROCESSES, _SITES, _LARGEST = 512, 2000, 4 << 20


class _Own:
    """What one process has.

    :ivar fd: that has the lock, which is held until the process ends; None
        before
    :ivar before: what was in its file when it took that, by site
    :ivar written: the text of its file, as this process has written it
    """

    def __init__(self) -> None:
        self.fd: int | None = None
        self.number = 0
        self.before: dict[str, figures.Figures] = {}
        self.written: str | None = None


class _Files:
    """The files that this process has, by folder.

    One of each: what it has counted must not be in two.
    """

    def __init__(self) -> None:
        self._processes: process.ForkLocal[
            dict[str, _Own]] = process.ForkLocal(dict)

    def of(self, folder: str) -> _Own:
        """Return what this process has in a folder."""
        return self._processes.get().setdefault(folder, _Own())


class HostFigures:
    """The figures of the processes that share a folder.

    :param folder: path; it need not be there yet
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def save(self) -> None:
        """Write what this process has counted, if that has changed.

        :raises OSError: if it cannot be written
        """
        own = process.get(_Files).of(self._folder)
        measured = process.get(limits.TransferScheduler).measure()
        if own.fd is None:
            if not measured:
                return
            self._take(own)
        text = _dump(_sum([*own.before.values(), *measured]).values())
        if text == own.written:
            return
        with identity.temporary(self._folder, text, False) as written:
            os.replace(written, self._path(own.number))
        own.written = text

    def total(self) -> dict[str, figures.Figures]:
        """Return the figures of all processes together, by site.

        :raises OSError: if the folder cannot be read
        """
        names = set(os.listdir(self._folder))
        return _sum(one for number in range(_PROCESSES)
                    if _NAME % number in names
                    for one in self._read(number))

    def _take(self, own: _Own) -> None:
        """Take the first file that no living process has."""
        for number in range(_PROCESSES):
            fd = self._lock(number, fcntl.LOCK_EX)
            if fd is None:
                continue
            own.before = {one.site: one.ended for one in self._load(number)}
            own.fd, own.number = fd, number
            return
        raise OSError('all %d files of figures are in use' % _PROCESSES)

    def _lock(self, number: int, kind: int) -> int | None:
        """Return a descriptor that has the lock; None: a process has it."""
        fd = os.open(self._path(number) + _HELD, os.O_RDWR | os.O_CREAT
                     | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _read(self, number: int) -> list[figures.Figures]:
        """Return what a file holds; of a process that ended, what stays."""
        found = self._load(number)
        fd = self._lock(number, fcntl.LOCK_SH)
        if fd is None:
            return found
        os.close(fd)
        return [one.ended for one in found]

    def _load(self, number: int) -> list[figures.Figures]:
        found: dict[str, figures.Figures] = {}
        text, wrong = '', None
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            with open(self._path(number),
                      opener=identity.open_at_once) as f:
                text = f.read(_LARGEST)
        for line in text.splitlines()[:_SITES]:
            try:
                one = record_format.load(figures.Figures, line, '')
            except record_format.RecordError as exc:
                wrong = exc
            else:
                found[one.site] = one
        if wrong is not None:
            LOG.debug('Lines of %(path)s are left out: %(error)s', {
                'path': self._path(number), 'error': wrong})
        return list(found.values())

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, _NAME % number)


def _sum(found: Iterable[figures.Figures]) -> dict[str, figures.Figures]:
    total: dict[str, figures.Figures] = {}
    for one in found:
        known = total.get(one.site)
        total[one.site] = one if known is None else known + one
    return total


def _dump(found: Iterable[figures.Figures]) -> str:
    return ''.join('%s\n' % record_format.dump(one, '') for one in found)
