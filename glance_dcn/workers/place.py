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

"""What a Glance worker keeps with what it has staged.

A worker is all processes that share a staging folder: those of one uWSGI
master, or of one glance-api. It is known by a name that it gives itself once,
and that lasts as long as the volume of its staging folder does: when a worker
comes back on another host, with that volume, it is still the same.
"""

from __future__ import annotations

from collections import abc
import contextlib
import os
import re
import secrets
import tempfile
import time
import uuid

from glance_dcn.imports import durable
from glance_dcn.imports import journal

_IDENTITY = 'identity'
_CHALLENGE = 'challenge'
# Seconds after which a challenge is nobody's any more.
_PATIENCE = 120
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


class Place:
    """The folder of one worker."""

    def __init__(self, staging: str) -> None:
        self.staging = os.path.abspath(staging)
        self.folder = os.path.join(self.staging, journal.FOLDER)

    def identity(self) -> str:
        """Return the name of the worker, a UUID; it is made if need be.

        :raises OSError: if it can be neither read nor written
        :raises ValueError: if the file holds something else
        """
        known = self.known_identity()
        if known is not None:
            return known
        self._make()
        path = os.path.join(self.folder, _IDENTITY)
        temporary = self._write(str(uuid.uuid4()) + '\n')
        try:
            # Of several processes that make one, one has made it.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
        durable.sync_folder(self.folder)
        return _read_identity(path)

    def known_identity(self) -> str | None:
        """Return the name of the worker, or None if it has none yet.

        :raises OSError: if it cannot be read
        :raises ValueError: if the file holds something else
        """
        try:
            return _read_identity(os.path.join(self.folder, _IDENTITY))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def challenge(self) -> abc.Iterator[str]:
        """Have all processes of the worker know a new secret meanwhile.

        :returns: context manager that gives the secret, as text
        :raises OSError: if it cannot be written
        """
        secret = secrets.token_hex(16)
        self._make()
        path = os.path.join(self.folder, _CHALLENGE)
        os.replace(self._write(secret), path)
        try:
            yield secret
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def challenged(self) -> str | None:
        """Return the secret of the moment, or None."""
        try:
            with open(os.path.join(self.folder, _CHALLENGE),
                      opener=open_at_once) as f:
                age = time.time() - os.fstat(f.fileno()).st_mtime
                return f.read(64) if age < _PATIENCE else None
        except (OSError, ValueError):
            return None

    def _make(self) -> None:
        # Not the staging folder itself: it may have to be mounted yet.
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, mode=0o700)

    def _write(self, text: str) -> str:
        """Write a temporary file in the folder and return its path."""
        fd, path = tempfile.mkstemp(dir=self.folder, prefix='.')
        with open(fd, 'w') as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        return path


def open_at_once(path: str, flags: int) -> int:
    """Open what may be no file: a pipe would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _read_identity(path: str) -> str:
    with open(path, opener=open_at_once) as f:
        text = f.read(100).strip()
    if not _UUID.fullmatch(text):
        raise ValueError('%s does not hold the name of a worker; remove it, '
                         'and it is made anew' % path)
    return text
