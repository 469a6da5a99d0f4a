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

"""The inspection server of a process: where it is, and asking it.

The server (:mod:`.child`) is started on first use, and ends by itself when it
is idle. A child of a fork starts its own, and leaves that of its parent alone.
Nothing here has a lock, which another thread might hold while the process
forks; two threads that start a server at once have two for a while. What
native threads use is left alone by eventlet.
"""

from __future__ import annotations

import _socket
import array
import collections.abc
import contextlib
import dataclasses
import io
import json
import os
import posix
import subprocess
import typing

from glance_dcn.images import child
from glance_dcn.images import limited
from glance_dcn.runtime import native

#: Seconds without an image after which a server ends.
IDLE = 60

# What the environment of a server has of that of its parent.
_INHERITED = ('PATH', 'LD_LIBRARY_PATH')


class Lost(Exception):
    """There is no server, or it has ended before it has answered."""


@dataclasses.dataclass(frozen=True)
class _Connection:
    """A server that was started, by the process with ID ``pid``.

    :ivar command: program and arguments of the server
    :ivar control: socket for messages
    """

    pid: int
    command: tuple[str, ...]
    control: _socket.socket

    def __del__(self) -> None:
        # All that it was to run is done.
        self.control.close()


class InspectionServer:
    """Runs image files through a server, which it starts when needed."""

    def __init__(self) -> None:
        self._connection: _Connection | None = None

    def start(self, command: collections.abc.Sequence[str]) -> _Connection:
        """Start the server, unless it runs.

        :param command: its program and arguments
        :raises OSError: it cannot be started
        """
        connection = self._connection
        if (connection is None or connection.pid != os.getpid()
                or connection.command != tuple(command)
                or _has_ended(connection.control)):
            # The former one is closed when no thread uses it any more.
            self._connection = connection = _start(command)
        return connection

    def run(self, command: collections.abc.Sequence[str],
            limits: limited.Limits, image: typing.BinaryIO,
            tolerated: collections.abc.Iterable[str] = (),
            tick: collections.abc.Callable[[bytes], object] | None = None
            ) -> limited.Outcome:
        """Have a process of the server inspect an image file.

        :param command: as for :meth:`start`
        :param limits: what the process may use
        :param tolerated: names of checks of partition tables that may fail
        :param tick: as for :func:`glance_dcn.images.limited.follow`
        :raises Lost: the server does not answer; nothing is known of the file
        :raises limited.TookTooLong: its time is over
        """
        message = json.dumps({
            'memory': limits.memory, 'cpu': limits.cpu, 'size': limits.size,
            'tolerated': list(tolerated)})
        try:
            process = _Process(self.start(command).control, message,
                               image.fileno())
        except OSError as exc:
            self._connection = None
            raise Lost(str(exc)) from exc
        outcome = limited.follow(process, limits, tick)
        if process.lost:
            self._connection = None
            raise Lost('the inspection server has ended')
        return outcome


class _Process:
    """A process of a server, as :class:`limited.Process` has it.

    :param image: descriptor of the image file
    :raises OSError: the message cannot be sent
    """

    def __init__(self, control: _socket.socket, message: str, image: int
                 ) -> None:
        self.lost = False
        self._link, link = _socketpair()
        outputs, inputs = zip(*[os.pipe(), os.pipe()])
        self.stdout, self.stderr = [io.FileIO(end) for end in outputs]
        try:
            control.sendmsg(
                [message.encode()],
                [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array(
                    'i', [image, *inputs, link.fileno()]))],
                _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        except OSError:
            for end in (self._link, self.stdout, self.stderr):
                end.close()
            raise
        finally:
            link.close()
            for descriptor in inputs:
                os.close(descriptor)

    def wait(self) -> int:
        """Wait in a native thread; return status, or minus a signal."""
        try:
            data = self._link.recv(child.STATUS.size)
        except OSError:
            data = b''
        self._link.close()
        self.lost = len(data) != child.STATUS.size
        return 0 if self.lost else child.STATUS.unpack(data)[0]

    def kill(self) -> None:
        """Have it killed by the server."""
        # Closing would not be seen while another thread waits for it.
        with contextlib.suppress(OSError):
            self._link.shutdown(_socket.SHUT_RDWR)


def _socketpair() -> tuple[_socket.socket, _socket.socket]:
    pair = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET
                              | _socket.SOCK_CLOEXEC)
    for end in pair:
        end.setblocking(True)
    return pair


def _start(command: collections.abc.Sequence[str]) -> _Connection:
    environment = {name: os.environ[name] for name in _INHERITED
                   if name in os.environ}
    control, theirs = _socketpair()
    try:
        process = subprocess.Popen(
            [*command], stdin=theirs.fileno(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd='/',
            env={**environment, **limited.ENVIRONMENT})
    finally:
        theirs.close()
    native.start('inspection-server', _reap, process)
    return _Connection(os.getpid(), tuple(command), control)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a server; in a native thread."""
    try:
        _pid, status = posix.waitpid(process.pid, 0)
    except ChildProcessError:
        status = 0
    process.returncode = os.waitstatus_to_exitcode(status)


def _has_ended(control: _socket.socket) -> bool:
    """Return whether the other end of a socket was closed."""
    try:
        control.recv(1, _socket.MSG_DONTWAIT | _socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
