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

"""Records of this process on its local disk, while its home is away.

A deletion that was accepted, or a write that was begun, has to be recorded
before it is answered or done. Where the cluster that keeps the records does
not answer, they are kept beside the staged data until it does: one file for
each process, under a lock (flock) that the system takes away from a process
that ends. The next process of the host moves what a dead one has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import typing
import uuid

from glance_dcn.ceph import record_format
from glance_dcn.runtime import native
from glance_dcn.runtime import process

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

LOG = logging.getLogger(__name__)

#: Name of the folder, in the folder of the journal.
FOLDER = 'records'
_SUFFIX = '.json'
_LOCK = '.lock'
# Bytes that a file may have.
_LARGEST = 64 << 20


class _Own:
    """The file of one process.

    :ivar moving: held while its records are written elsewhere
    :ivar lock: descriptor of the locked file, once there is one
    :ivar records: what it holds, texts by key
    """

    def __init__(self) -> None:
        self.guard = native.lock()
        self.moving = native.lock()
        self.uid = uuid.uuid4().hex
        self.lock: int | None = None
        self.records: dict[str, str] = {}


class Spool:
    """The records that this process could not write to its home.

    :param folder: path of the folder; it is made if need be
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        # Files that cannot be read, which were reported.
        self._reported: set[str] = set()
        self._processes = process.ForkLocal(_Own)

    @property
    def _own(self) -> _Own:
        return self._processes.get()

    def put(self, records: dict[str, str]) -> None:
        """Keep records, over earlier ones of their keys: all, or none.

        :raises OSError: if they cannot be written
        """
        with self._own.guard:
            self._write({**self._own.records, **records})

    def swap(self, key: str, before: str, after: str) -> bool:
        """Change a record if it is here and still as before; or return False.

        :raises OSError: if that cannot be written
        """
        with self._own.guard:
            if self._own.records.get(key) != before:
                return False
            self._write({**self._own.records, key: after})
            return True

    def move(self, write: Callable[[str, str], None]) -> None:
        """Have each record written elsewhere, and drop it here.

        One that is changed meanwhile stays. One thread does this at a time:
        another would write once more what may have been changed elsewhere by
        then.

        :param write: called with key and text
        :raises OSError: if it cannot be dropped
        """
        with self._own.moving:
            for key, text in self.items():
                write(key, text)
                self.discard(key, text)

    def discard(self, key: str, text: str | None = None) -> bool:
        """Drop a record; return whether it was kept here.

        :param text: drop it only if this is its text
        :raises OSError: if that cannot be written
        """
        with self._own.guard:
            if (key not in self._own.records
                    or text not in (None, self._own.records[key])):
                return False
            self._write({name: text for name, text in self._own.records.items()
                         if name != key})
            return True

    def items(self) -> list[tuple[str, str]]:
        """Return the records that this process keeps here."""
        return list(self._own.records.items())

    def abandoned(self, check: Callable[[dict[str, str]], None]
                  ) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
        """Yield the records of each process that has ended.

        :param check: called with texts by key; raises ValueError if they are
            not records: their file is reported, and left alone
        :returns: iterator of (texts by key, function that removes them)
        """
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._folder)):
                stem, suffix = os.path.splitext(name)
                if suffix == _SUFFIX and stem != self._own.uid:
                    yield from self._abandoned(
                        os.path.join(self._folder, stem), check)

    def _abandoned(self, stem: str,
                   check: Callable[[dict[str, str]], None]) -> Iterator[
            tuple[dict[str, str], Callable[[], None]]]:
        try:
            lock = os.open(stem + _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            LOG.warning('%(path)s cannot be locked: %(error)s',
                        {'path': stem + _LOCK, 'error': exc})
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _read(stem + _SUFFIX)
            check(found)
            yield found, lambda: _remove(stem)
        except BlockingIOError:
            return
        except FileNotFoundError:
            # Another process has moved them home meanwhile.
            _remove(stem)
        except (OSError, ValueError) as exc:
            self._report(stem + _SUFFIX, exc)
        finally:
            os.close(lock)

    def _report(self, path: str, exc: Exception) -> None:
        """Log that a file cannot be read, as an error once."""
        level = logging.DEBUG if path in self._reported else logging.ERROR
        self._reported.add(path)
        LOG.log(level, 'Records that a process has left in %(path)s cannot '
                'be read: %(error)s; they are left there. Move the file away '
                'once it was looked into', {'path': path, 'error': exc})

    def _write(self, kept: dict[str, str]) -> None:
        stem = os.path.join(self._folder, self._own.uid)
        if self._own.lock is None:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            self._own.lock = os.open(
                stem + _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._own.lock, fcntl.LOCK_EX)
        if kept:
            fd = os.open(stem + '.new', os.O_WRONLY | os.O_CREAT
                         | os.O_TRUNC, 0o600)
            with open(fd, 'w') as file:
                json.dump(kept, file)
                file.flush()
                os.fsync(fd)
            os.replace(stem + '.new', stem + _SUFFIX)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(stem + _SUFFIX)
        _sync(self._folder)
        self._own.records = kept


def _read(path: str) -> dict[str, str]:
    """Return the texts by key that a file holds.

    :raises OSError: if it cannot be read
    :raises ValueError: if it holds something else
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd) as file:
        if os.fstat(fd).st_uid not in (0, os.geteuid()):
            raise ValueError('it belongs to another user than Glance')
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError('it is too large')
    try:
        found = json.loads(text)
    except RecursionError as exc:
        raise ValueError('it is no JSON') from exc
    if not isinstance(found, dict) or not all(
            isinstance(value, str) and len(value) <= record_format.LARGEST
            for value in found.values()):
        raise ValueError('it does not hold records')
    return found


def _remove(stem: str) -> None:
    for suffix in (_SUFFIX, _LOCK):
        with contextlib.suppress(FileNotFoundError):
            os.remove(stem + suffix)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
