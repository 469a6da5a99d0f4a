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

"""The journal of a worker's imports, which outlives its processes.

A small file for each task lies in the staging folder, beside the data that it
tells of: it comes, goes and moves with it. Each change is written to another
file, brought to the disk and put in its place, so that what is read after a
crash is what was written last, or what was written before.

Whether a process still holds it is told by a lock on a second file (flock),
which the system takes away from a process that ends, however it ends. Another
process, of the same worker or of one that shares the folder, knows it at
once.

An entry vouches for the staged data with its length and its content digest,
which is noted once the data is on the disk (:mod:`.folder`).
"""

from __future__ import annotations

from collections import abc
import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import math
import os
import re
import stat
import time
import typing

from oslo_config import cfg

from glance_dcn.ceph import record_format
from glance_dcn.imports import folder
from glance_dcn.runtime import native
from glance_dcn.runtime import process

LOG = logging.getLogger(__name__)

#: Phases of an import, in their order. What is kept is the last one begun.
ACCEPTED = 'accepted'
DOWNLOADING = 'downloading'
STAGED = 'staged'
INSPECTED = 'inspected'
CONVERTING = 'converting'
CONVERTED = 'converted'
STORING = 'storing'
#: The phase of a copy; it stages nothing.
COPYING = 'copying'
_PHASES = (ACCEPTED, DOWNLOADING, STAGED, INSPECTED, CONVERTING, CONVERTED,
           STORING, COPYING)

#: Methods of imports that download; the user can repeat them.
DOWNLOADS = ('web-download', 'glance-download')

#: Kind of the staged data that no conversion has made.
AS_STAGED = ''

_VERSION = 2
_RECORD = '.json'
_LOCK = '.lock'
_ATTEMPTS = 20
_PAUSE = 0.05
# Characters that an entry may have, and what its names may be: some of them
# become names of files.
_LARGEST = 1 << 20
_NAME = re.compile(r'[\w-]{1,100}', re.ASCII)
_BOOT = re.compile(r'[0-9a-f-]{0,36}')
_DIGEST = re.compile(r'dcn1:sha256:65536:[0-9a-f]{64}')
_FORMATS = ('disk_format', 'container_format')
# Bounds of its other fields: characters, numbers, and members of lists.
_LONGEST_PATH = 4096
_LONGEST_TEXT = 1024
_LARGEST_NUMBER = (1 << 64) - 1
_MOST_DIGITS = 20
_MOST = 10000
_MOST_PROOFS = 8


class _Refused(set[str]):
    """Paths of journals and entries that were told to be of no use."""


class Busy(Exception):
    """Another process is at work on the task."""


@dataclasses.dataclass(frozen=True)
class Proof:
    """Length of staged data in bytes, and its digest once it is synced."""

    size: int
    digest: str | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of an import or a copy.

    :ivar stores: identifiers of the target stores; None for the only one of a
        Glance with a single store
    :ivar formats: disk format and container format before any conversion
    :ivar begun: RADOS instance IDs of the clients that have begun to write
        the image, by the store they write to
    :ivar size: bytes of the download, or None
    :ivar attempts: how often it was resumed
    :ivar taken: whether it was a peer's, and this worker rolls it back
    :ivar since: when it was begun, seconds since the epoch
    :ivar boot: boot ID of the host that has staged the data, empty if unknown
    :ivar proofs: of the staged data, by the disk format that it was converted
        to; :data:`AS_STAGED` for what was staged
    """

    task: str
    image: str
    method: str
    stores: list[str | None]
    path: str
    phase: str
    formats: dict[str, str | None] = dataclasses.field(default_factory=dict)
    begun: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    size: int | None = None
    attempts: int = 0
    taken: bool = False
    by: str = ''
    since: float = dataclasses.field(default_factory=time.time)
    boot: str = dataclasses.field(default_factory=folder.boot_id)
    proofs: dict[str | None, Proof] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """Return the entry as it is kept."""
        return json.dumps(dict(dataclasses.asdict(self), version=_VERSION),
                          sort_keys=True)


@dataclasses.dataclass(frozen=True)
class OtherReleaseEntry:
    """An entry of another release, and why this one leaves it alone."""

    text: str
    reason: str


def parse(text: str) -> Entry:
    """Return the entry of a text, which others may have written.

    :raises glance_dcn.ceph.record_format.OtherRelease: if it is one of
        another release
    :raises ValueError: if it cannot be understood
    """
    try:
        fields = json.loads(text, parse_int=_integer,
                            parse_constant=_no_number)
    except RecursionError as exc:
        raise ValueError('not an entry') from exc
    if not isinstance(fields, dict):
        raise ValueError('not an entry')
    record_format.check_version(fields.pop('version', None), _VERSION)
    names = {field.name for field in dataclasses.fields(Entry)}
    if set(fields) != names:
        # What is missing must not get a default of this process.
        raise ValueError('it has not the fields of an entry')
    try:
        fields['proofs'] = {kind: Proof(**value)
                            for kind, value in fields['proofs'].items()}
    except (AttributeError, TypeError) as exc:
        raise ValueError('its proofs are not what they may be') from exc
    entry = Entry(**fields)
    for name, fits in _FITS.items():
        if not fits(getattr(entry, name)):
            raise ValueError('its %s is not what it may be' % name)
    return entry


def _integer(text: str) -> int:
    # The time it takes grows with the square of digits.
    if len(text) > _MOST_DIGITS:
        raise ValueError('a number is too large')
    return int(text)


def _no_number(text: str) -> None:
    raise ValueError('%s is no number' % text)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


def _is_text(value: object, longest: int = _LONGEST_TEXT) -> bool:
    return (isinstance(value, str) and len(value) <= longest
            and '\0' not in value)


def _is_number(value: object) -> bool:
    # For Python, truth values are integers.
    return (isinstance(value, int) and not isinstance(value, bool)
            and 0 <= value <= _LARGEST_NUMBER)


def _is_time(value: object) -> bool:
    return _is_number(value) or (
        isinstance(value, float) and math.isfinite(value)
        and 0 <= value <= _LARGEST_NUMBER)


def _is_list(values: object, fits: abc.Callable[[object], bool]) -> bool:
    return (isinstance(values, list) and len(values) <= _MOST
            and all(fits(value) for value in values))


def _are_formats(value: object) -> bool:
    return (isinstance(value, dict) and set(value) <= set(_FORMATS)
            and all(each is None or _is_text(each)
                    for each in value.values()))


def _are_writers(value: object) -> bool:
    return (isinstance(value, dict) and len(value) <= _MOST
            and all(map(_is_text, value))
            and all(_is_list(ids, _is_number) for ids in value.values()))


def _are_proofs(value: dict[object, Proof]) -> bool:
    return len(value) <= _MOST_PROOFS and all(
        _is_text(kind) and _is_number(proof.size)
        and (proof.digest is None or (
            isinstance(proof.digest, str)
            and bool(_DIGEST.fullmatch(proof.digest))))
        for kind, proof in value.items())


# What the fields of an entry may hold.
_FITS: abc.Mapping[str, abc.Callable[[typing.Any], bool]] = {
    'task': _is_name, 'image': _is_name, 'method': _is_name,
    'stores': lambda value: _is_list(
        value, lambda store: store is None or _is_text(store)),
    'path': lambda value: _is_text(value, _LONGEST_PATH),
    'phase': lambda value: isinstance(value, str) and value in _PHASES,
    'formats': _are_formats, 'begun': _are_writers,
    'size': lambda value: value is None or _is_number(value),
    'attempts': _is_number,
    'taken': lambda value: isinstance(value, bool),
    'by': _is_text, 'since': _is_time,
    'boot': lambda value: (isinstance(value, str)
                           and bool(_BOOT.fullmatch(value))),
    'proofs': _are_proofs,
}


def of(conf: cfg.ConfigOpts) -> Journal | None:
    """Return the journal in the staging folder, or None."""
    staging = folder.path(conf)
    return Journal(staging) if staging else None


class Journal:
    """The journal in a staging folder."""

    def __init__(self, staging: str) -> None:
        self.folder = os.path.join(staging, folder.FOLDER)

    def check(self) -> None:
        """Check that no other user can have written what is in the folder.

        :raises OSError: if one can, or there is no folder
        """
        state = os.lstat(self.folder)
        owners = (os.geteuid(), os.stat(os.path.dirname(self.folder)).st_uid)
        if (not stat.S_ISDIR(state.st_mode) or state.st_mode & stat.S_IWOTH
                or state.st_uid not in owners):
            raise PermissionError(
                errno.EPERM, 'others may have written what is in it; remove '
                'it', self.folder)

    def begin(self, entry: Entry) -> Held:
        """Write a new entry, which this process holds.

        :raises Busy: if another process holds it
        :raises OSError: if it cannot be written
        """
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self.check()
        held = Held(self.folder, entry, self._lock_soon(entry.task))
        try:
            held.write(entry)
            folder.sync_folder(self.folder)
        except BaseException:
            held.close()
            raise
        return held

    def take(self, task: str) -> Held | None:
        """Hold and return the entry of a task, unless a process holds it.

        :raises OSError: if it cannot be read
        """
        try:
            lock = self._lock(task)
        except Busy:
            return None
        try:
            entry = self.read(task)
            if entry is not None:
                return Held(self.folder, entry, lock)
            # One of another release stays.
            if not os.path.lexists(self._path(task)):
                _remove(os.path.join(self.folder, task))
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def read(self, task: str) -> Entry | None:
        """Return the entry of a task, or None.

        One that cannot be understood is put aside and counts as none. So does
        one of another release, which stays for that.
        """
        path = self._path(task)
        try:
            entry = parse(_contents(path))
            if entry.task != task:
                raise ValueError('it is of another task')
            return entry
        except FileNotFoundError:
            return None
        except record_format.OtherRelease as exc:
            if path not in process.get(_Refused):
                process.get(_Refused).add(path)
                LOG.error('%(path)s is left alone, and its import is not '
                          'recovered: %(error)s',
                          {'path': path, 'error': exc})
            return None
        except ValueError as exc:
            LOG.error('%(path)s cannot be understood (%(error)s): it is left '
                      'there as .bad, and its import is not recovered',
                      {'path': path, 'error': exc})
            # Another process may have done so.
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, path + '.bad')
            return None

    def tasks(self) -> list[str]:
        """Return the IDs of the tasks that have entries."""
        try:
            self.check()
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except PermissionError as exc:
            refused = process.get(_Refused)
            if self.folder not in refused:
                refused.add(self.folder)
                LOG.error('The imports of dead workers are not recovered: %s',
                          exc)
            return []
        return sorted({os.path.splitext(name)[0] for name in names
                       if name.endswith((_RECORD, _LOCK))})

    def entries(self) -> list[Entry]:
        """Return all entries, held or not."""
        return list(filter(None, map(self.read, self.tasks())))

    def of_other_release(self) -> dict[str, OtherReleaseEntry]:
        """Return the entries of other releases by their paths."""
        found = {}
        for path in map(self._path, self.tasks()):
            try:
                text = _contents(path)
            except (OSError, ValueError):
                continue
            try:
                parse(text)
            except record_format.OtherRelease as exc:
                found[path] = OtherReleaseEntry(text, str(exc))
            except ValueError:
                continue
        return found

    def _path(self, task: str) -> str:
        return os.path.join(self.folder, task + _RECORD)

    def _lock_soon(self, task: str) -> int:
        """Lock as below; one that only reads has the lock for a moment."""
        for _attempt in range(_ATTEMPTS):
            try:
                return self._lock(task)
            except Busy:
                native.sleep(_PAUSE)
        return self._lock(task)

    def _lock(self, task: str) -> int:
        """Return a descriptor of the locked file of a task.

        :raises Busy: if another has it
        """
        path = os.path.join(self.folder, task + _LOCK)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed it meanwhile.
                if os.fstat(fd).st_ino == os.stat(path).st_ino:
                    return fd
            except OSError as exc:
                os.close(fd)
                if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise Busy(task) from exc
                if exc.errno != errno.ENOENT:
                    raise
                continue
            os.close(fd)


class Held:
    """An entry that this process holds.

    :param lock: descriptor of its locked file
    """

    def __init__(self, path: str, entry: Entry, lock: int) -> None:
        self.entry = entry
        self._stem = os.path.join(path, entry.task)
        self._lock: int | None = lock
        # Threads that eventlet does not know of take it too.
        self._writing = native.lock()

    def note(self, **changes: typing.Any) -> bool:
        """Change the entry; see :meth:`change`."""
        return self.change(lambda entry: changes)

    def change(self, function: abc.Callable[[Entry], dict[str, typing.Any]]
               ) -> bool:
        """Change the entry, on the disk too; return whether the disk has it.

        A full disk must not end an import: that is logged, and the former
        entry stays.

        :param function: called with the entry; returns the changed fields
        """
        with self._writing:
            if self._lock is None:
                return False
            changed = dataclasses.replace(self.entry, **function(self.entry))
            if changed == self.entry:
                return True
            try:
                self.write(changed)
                return True
            except OSError as exc:
                LOG.warning('The journal of task %(task)s cannot be written: '
                            '%(error)s', {'task': changed.task, 'error': exc})
                return False

    def write(self, entry: Entry) -> None:
        """Write the entry.

        :raises OSError: if it cannot be written; the former stays
        """
        path = self._stem + _RECORD
        new = path + '.new'
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, 'w') as file:
            file.write(entry.text())
            file.flush()
            os.fdatasync(fd)
        # Should the host lose this after all, with its power, the former is
        # there: from an earlier phase, more is done again.
        os.replace(new, path)
        before, self.entry = self.entry, entry
        if entry.proofs != before.proofs:
            # What it vouches for now may be all there is from here on.
            folder.sync_folder(os.path.dirname(path))

    def close(self) -> None:
        """Remove the entry: nothing is left to do."""
        with self._writing:
            if self._lock is not None:
                _remove(self._stem)
                self._unlock()

    def release(self) -> None:
        """Leave the entry to the next process that takes it."""
        with self._writing:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove(stem: str) -> None:
    for suffix in (_RECORD, _RECORD + '.new', _LOCK):
        with contextlib.suppress(FileNotFoundError):
            os.remove(stem + suffix)


def _contents(path: str) -> str:
    """Return the text of a small file; raise ValueError if it is none."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise ValueError('it is no file')
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd) as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError('it is too large')
    return text
