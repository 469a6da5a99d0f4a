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

"""The program that inspects one image file, in a process of its own.

:mod:`.inspection` runs it, by the path of this file::

    python -I -S -B child.py REQUEST < IMAGE

REQUEST is a JSON object: ``version``, what Python the caller is; ``path``,
its ``sys.path``, for an interpreter that is started so has none but the
standard library; ``inspectors``, whose inspectors it uses; ``tolerated``, see
:func:`examine`. The answer is one JSON object on standard output:
what :func:`examine` returns, or ``{"error": ...}``, for the log.

To start costs several times the CPU time that most images take. So with
``idle``, a number of seconds, in REQUEST the program becomes a server after it
has imported what it needs, and forks a process for each image, until none has
come for that time. A server has one thread, so that to fork it takes a few
milliseconds. Its standard input is a socket (``AF_UNIX``, ``SOCK_SEQPACKET``).
Each message is a JSON object, ``memory`` and ``size`` (bytes, or null),
``cpu`` (seconds) and ``tolerated``, and comes with four descriptors: the image
file, a pipe for the answer, one for messages, and a socket, the link. When the
process has ended, its status is sent over the link (four bytes; minus the
number of a signal). When the other end of the link is closed, the process is
killed.

Nothing of an image comes into the server itself. A process that it forks sets
its own limits and closes all descriptors but its own image and pipes before it
reads. The server ends when no image has come for some time; and when the other
end of its socket is closed, after the processes whose links are still open.
"""

from __future__ import annotations

import _socket
import array
import collections.abc
import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import traceback
import typing

# Characters of a reason that are handed on.
_LONGEST_REASON = 500
#: Bytes that a message may have.
LONGEST_MESSAGE = 1 << 16
#: The form of a status.
STATUS = struct.Struct('i')
#: How many descriptors come with a message.
DESCRIPTORS = 4

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# Seconds between two checks whether a process has ended, should that not be
# told.
_POLL = 1
# Descriptors that a server may have open: one for each image, and a few.
_MOST_FILES = 1024
_INT = array.array('i').itemsize

_Work = typing.Callable[[typing.List[str]], None]  # noqa: UP006


def examine(file: typing.BinaryIO,
            tolerated: collections.abc.Iterable[str] = ()
            ) -> dict[str, typing.Any]:
    """Find out what format an image file has, and what is wrong with it.

    :param file: the file, at its beginning
    :param tolerated: names of checks of partition tables that may fail
    :returns: ``format``, with ``others`` (formats that it may be declared to
        have as well), ``hazards`` (why qemu-img must not see it) and
        ``missing`` (what it lacks), lists of reasons; or ``refused``, a
        reason; or ``errno``, if it cannot be read; or ``memory``, True, if
        there is not enough
    """
    from glance_dcn.images import formats
    from glance_dcn.images import hazards
    try:
        name = formats.detect(file, tolerated)
        others = formats.find_others(file, name)
        driver = hazards.DRIVERS.get(name, name)
        unsafe = hazards.find(file, driver)
        missing = [] if unsafe else hazards.find_missing(file, driver)
    except formats.Refused as exc:
        return {'refused': _printable(str(exc))}
    except OSError as exc:
        return {'errno': exc.errno or 0}
    except MemoryError:
        return {'memory': True}
    except Exception:
        # Inspectors are not made for all that can be in a file.
        traceback.print_exc()
        return {'refused': 'its format cannot be inspected'}
    return {'format': _printable(name), 'others': others,
            'hazards': [_printable(reason) for reason in unsafe],
            'missing': [_printable(reason) for reason in missing]}


def _printable(text: str) -> str:
    return ''.join(char if char.isprintable() else '?'
                   for char in text[:_LONGEST_REASON])


def _load(request: dict[str, typing.Any]) -> str:
    """Import what inspecting needs; return why that is impossible, or ''."""
    version = list(sys.version_info[:2])
    if version != request['version']:
        return '%s is Python %d.%d, and Glance runs in %d.%d' % (
            sys.executable, *version, *request['version'])
    sys.path.extend(path for path in request['path'] if path not in sys.path)
    from glance_dcn.images import formats
    from glance_dcn.images import hazards  # noqa: F401
    if request['inspectors'] != formats.INSPECTORS:
        return 'it has no inspectors of %s in %s' % (request['inspectors'],
                                                     sys.path)
    return ''


def _tell(answer: dict[str, typing.Any]) -> None:
    sys.stdout.write(json.dumps(answer) + '\n')
    sys.stdout.flush()


def _inspect(tolerated: collections.abc.Iterable[str]) -> None:
    """Inspect the image at standard input and write the answer."""
    # From here on the image has a say: no file is opened any more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    # What a server has as sys.stdin is made for its socket.
    with open(0, 'rb', closefd=False) as file:
        _tell(examine(file, tolerated))


class _Server:
    """Forks for the messages that come in at a socket.

    :param work: see :func:`serve`
    """

    def __init__(self, control: _socket.socket, work: _Work) -> None:
        self._control = control
        self._work = work
        self._links: dict[_socket.socket, int] = {}
        self._killed: set[int] = set()
        self._ended, self._signals = os.pipe()
        for descriptor in (self._ended, self._signals):
            os.set_blocking(descriptor, False)
        # A handler of Python's is what makes the system tell.
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)

    def run(self, idle: float) -> None:
        """Fork until nothing has come for some seconds, or will come."""
        takes = True
        while takes or self._links:
            readers: list[int | _socket.socket] = [
                self._ended, *self._links, *[self._control] * takes]
            ready, _, _ = select.select(
                readers, [], [], _POLL if self._links else idle)
            if not ready and not self._links:
                return
            if self._ended in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._ended, 4096)
            self._report()
            for link in ready:
                if link in self._links:
                    # It says nothing: its other end was closed.
                    self._kill(link)
            if self._control in ready:
                takes = self._take()

    def _report(self) -> None:
        """Send the status of each process that has ended."""
        for link, pid in list(self._links.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._links[link]
                with contextlib.suppress(OSError):
                    link.send(STATUS.pack(os.waitstatus_to_exitcode(status)))
                link.close()
        self._killed = {pid for pid in self._killed
                        if os.waitpid(pid, os.WNOHANG) == (0, 0)}

    def _kill(self, link: _socket.socket) -> None:
        # It may stay for as long as a disk that is away: it is not waited for.
        pid = self._links.pop(link)
        os.kill(pid, signal.SIGKILL)
        self._killed.add(pid)
        link.close()

    def _take(self) -> bool:
        """Fork a process for a message; return whether more may come."""
        data, ancillary, _flags, _address = self._control.recvmsg(
            LONGEST_MESSAGE, _socket.CMSG_SPACE(DESCRIPTORS * _INT))
        descriptors = array.array('i')
        for _level, _kind, content in ancillary:
            descriptors.frombytes(content[:len(content) // _INT * _INT])
        if not data:
            return False
        if len(descriptors) != DESCRIPTORS:
            raise OSError('too many descriptors are open')
        *files, link = descriptors
        try:
            pid = os.fork()
            if not pid:
                _become(files, json.loads(data), self._work)
        finally:
            for descriptor in files:
                os.close(descriptor)
        self._links[_socket.socket(fileno=link)] = pid
        return True


def serve(idle: float, work: _Work) -> None:
    """Fork a process for each image that comes in at standard input.

    :param idle: seconds without an image after which the server ends
    :param work: what such a process does about its image, its standard
        input; called with the tolerated checks
    """
    os.chdir('/')
    # It is started by a thread that may have blocked all signals, as those of
    # uWSGI have: neither SIGCHLD would come, nor SIGXCPU.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = _MOST_FILES if most < 0 else min(most, _MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # What it has imported stays where it is, in memory that all share.
    gc.collect()
    gc.freeze()
    control = _socket.socket(fileno=os.dup(0))
    _Server(control, work).run(idle)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _limit(limit: int, soft: int, hard: int) -> None:
    """Set a limit, to what it is already if that is less."""
    most = resource.getrlimit(limit)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(limit, (soft, hard))


def _become(files: collections.abc.Sequence[int],
            message: dict[str, typing.Any], work: _Work) -> None:
    """Do the work in the process that was forked, and end it."""
    status = 1
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(files):
            os.dup2(descriptor, number)
        # Among them those of the server, and of others that run.
        os.closerange(len(files), _MOST_FILES)
        _limit(resource.RLIMIT_CORE, 0, 0)
        if message['size'] is not None:
            _limit(resource.RLIMIT_FSIZE, message['size'], message['size'])
        _limit(resource.RLIMIT_AS, message['memory'], message['memory'])
        # SIGXCPU first, which tells what was passed; then SIGKILL.
        _limit(resource.RLIMIT_CPU, message['cpu'], message['cpu'] + 1)
        work(message['tolerated'])
        sys.stdout.flush()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Answer the request on the command line, or become a server."""
    # The thread that started it may have blocked SIGXCPU, as those of uWSGI
    # have.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    request = json.loads(sys.argv[1])
    error = _load(request)
    if error:
        _tell({'error': error})
    elif 'idle' in request:
        serve(request['idle'], _inspect)
    else:
        _inspect(request['tolerated'])


if __name__ == '__main__':
    main()
