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

"""What the user that Glance runs as may do to files.

The command is run by root, who may do everything: a child that has become
Glance's user finds out.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import select
import signal
import typing

#: The user that packages run Glance as.
DEFAULT_USER = 'glance'
# Seconds that the child may take: a file may be on a file system that hangs.
_TIMEOUT = 5


# By path: why it cannot be read, and written to; None: it can.
_Reasons = dict[str, tuple[typing.Optional[str], typing.Optional[str]]]


class NoSuchUser(Exception):
    """There is no user of a name."""


class Access:
    """What one user may do.

    :param user: name of the user; None: ``glance`` where there is one and
        root asks, otherwise the one who asks
    :raises NoSuchUser: if there is none of that name
    """

    def __init__(self, user: str | None = None) -> None:
        self._entry = _find(user)
        self._known: _Reasons = {}

    @property
    def user(self) -> str:
        """Name of the user."""
        return self._entry.pw_name

    def ask(self, paths: list[str]) -> None:
        """Find out about files all at once; the rest is then known."""
        unknown = [path for path in paths if path not in self._known]
        if unknown:
            self._known.update(self._ask_child(unknown))

    def why_unreadable(self, path: str) -> str | None:
        """Return why a file cannot be read, as text, or None if it can."""
        self.ask([path])
        return self._known[path][0]

    def why_unwritable(self, path: str) -> str | None:
        """Return why nothing can be put into a folder, or None."""
        self.ask([path])
        return self._known[path][1]

    def _ask_child(self, paths: list[str]) -> _Reasons:
        if os.geteuid() == self._entry.pw_uid or os.geteuid() != 0:
            return _inspect(paths)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            self._answer(writer, paths)
        os.close(writer)
        try:
            return _receive(reader)
        except ValueError:
            return {path: ('it cannot be told', 'it cannot be told')
                    for path in paths}
        finally:
            os.close(reader)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _answer(self, writer: int, paths: list[str]) -> None:
        """Inspect files as the user; in a child, which ends here."""
        try:
            entry = self._entry
            os.setgroups([group.gr_gid for group in grp.getgrall()
                          if entry.pw_name in group.gr_mem])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            with open(writer, 'w') as stream:
                json.dump(_inspect(paths), stream)
        finally:
            os._exit(0)


def _find(user: str | None) -> pwd.struct_passwd:
    if user is None:
        if os.geteuid() == 0:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(DEFAULT_USER)
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise NoSuchUser('there is no user %s on this node' % user)


def _inspect(paths: list[str]) -> _Reasons:
    return {path: (_why_unreadable(path), _why_unwritable(path))
            for path in paths}


def _why_unreadable(path: str) -> str | None:
    try:
        # Not to wait for the writer of a pipe.
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        return exc.strerror
    return None


def _why_unwritable(path: str) -> str | None:
    if os.access(path, os.W_OK | os.X_OK):
        return None
    return os.strerror(errno.EACCES if os.path.exists(path)
                       else errno.ENOENT)


def _receive(reader: int) -> _Reasons:
    data = b''
    while select.select([reader], [], [], _TIMEOUT)[0]:
        part = os.read(reader, 65536)
        if not part:
            break
        data += part
    found: _Reasons = json.loads(data)
    return found
