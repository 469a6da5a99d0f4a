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

"""Programs that work on hostile files, run within limits.

The program is run by ``prlimit``, which sets its limits and then becomes it.
Native threads wait for it and read what it says, so that the process that
waits answers requests meanwhile, also where eventlet has patched it; at most
1 MiB of each pipe is kept, whatever the program writes.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import io
import os
import signal
import subprocess
import time
import typing

from glance_dcn.runtime import native

_Pipe = typing.Union[typing.IO[bytes], io.FileIO]

#: Seconds between two calls of a caller's tick.
TICK = 0.2

#: What is different for such a program in its environment. Each arena of
#: malloc sets aside address space, of which there is a limit.
ENVIRONMENT = {'LC_ALL': 'C', 'MALLOC_ARENA_MAX': '2'}
# Bytes of each pipe that are kept.
_KEPT = 1 << 20
# Seconds until a killed program is left to itself.
_PATIENCE = 30


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use.

    :ivar memory: bytes of address space
    :ivar cpu: seconds of CPU time
    :ivar seconds: seconds of time
    :ivar size: bytes that a file it writes may be long, holes included, or
        None
    :ivar space: bytes that its output file may take on disk, or None; the
        caller has to look at that
    """

    memory: int = 2 << 30
    cpu: int = 3600
    seconds: float = 6 * 3600
    size: int | None = None
    space: int | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a program ended.

    :ivar status: its exit status, or minus the number of a signal
    :ivar output: the last of what it wrote to its standard output
    :ivar messages: the last of what it wrote to its standard error
    """

    status: int
    output: bytes
    messages: bytes

    @property
    def used_up_cpu(self) -> bool:
        """Whether it was ended because it had used up its CPU time."""
        return self.status == -signal.SIGXCPU

    def last_messages(self, length: int = 500) -> str:
        """Return the end of its messages, printable, at most of a length."""
        text = self.messages[-2 * length:].decode('utf-8', 'replace').strip()
        return ''.join(char if char.isprintable() or char == '\n' else '?'
                       for char in text[-length:])


class TookTooLong(Exception):
    """A program was ended because its time was over."""


class Process(typing.Protocol):
    """What runs, as :class:`subprocess.Popen` has it, with two pipes."""

    @property
    def stdout(self) -> _Pipe | None:
        """Pipe from its standard output."""

    @property
    def stderr(self) -> _Pipe | None:
        """Pipe from its standard error."""

    def wait(self) -> int:
        """Wait in a native thread; return status, or minus a signal."""

    def kill(self) -> None:
        """End it, whatever it does."""


def run(command: collections.abc.Sequence[str], limits: Limits,
        stdin: int | typing.BinaryIO = subprocess.DEVNULL,
        tick: collections.abc.Callable[[bytes], object] | None = None
        ) -> Outcome:
    """Run a program within limits, and wait for its end.

    :param tick: as for :func:`follow`
    :raises TookTooLong: its time is over
    :raises OSError: it cannot be started
    """
    process = subprocess.Popen(
        [*prefix(limits), *command], stdin=stdin, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=dict(os.environ, **ENVIRONMENT))
    return follow(process, limits, tick)


def follow(process: Process, limits: Limits,
           tick: collections.abc.Callable[[bytes], object] | None = None
           ) -> Outcome:
    """Wait for the end of a process that has its limits, save that of time.

    :param tick: called at once and then several times a second with the end
        of its output so far; what it raises ends the process
    :raises TookTooLong: its time is over
    """
    deadline = time.monotonic() + limits.seconds
    watch = None
    try:
        watch = _Watch(process)
        while True:
            if tick:
                tick(watch.output.last())
            if time.monotonic() > deadline:
                raise TookTooLong()
            if watch.has_ended(TICK):
                break
    except BaseException:
        process.kill()
        # Not for ever: one that waits for a disk that is away may stay.
        if watch:
            watch.has_ended(_PATIENCE)
        raise
    return Outcome(watch.status, watch.output.last(), watch.messages.last())


def prefix(limits: Limits) -> list[str]:
    """Return the command that runs a program within limits."""
    command = ['prlimit', '--core=0', '--as=%d' % limits.memory,
               # SIGXCPU first, which tells what was passed; then SIGKILL.
               '--cpu=%d:%d' % (limits.cpu, limits.cpu + 1)]
    if limits.size is not None:
        command.append('--fsize=%d' % limits.size)
    return [*command, '--']


class _Tail:
    """The end of what comes out of a pipe."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def read(self, pipe: _Pipe) -> None:
        """Read a pipe to its end; in a native thread."""
        with pipe:
            while True:
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    return
                self._kept += data
                # Not for each piece: a flood costs no more than its length.
                if len(self._kept) > 2 * _KEPT:
                    del self._kept[:-_KEPT]

    def last(self) -> bytes:
        """Return what is kept, at most 1 MiB."""
        return bytes(self._kept[-_KEPT:])


class _Watch:
    """Waits for a process, in native threads."""

    def __init__(self, process: Process) -> None:
        self.status = 0
        self.output = _Tail()
        self.messages = _Tail()
        self._ended: native.Queue[int] = native.Queue()
        native.start('limited', self._wait, process)

    def has_ended(self, timeout: float) -> bool:
        """Wait some seconds for the end; return whether it has come."""
        try:
            self.status = native.get(self._ended, timeout)
        except native.Empty:
            return False
        return True

    def _wait(self, process: Process) -> None:
        assert process.stdout is not None and process.stderr is not None
        other = native.start('limited', self.messages.read, process.stderr)
        self.output.read(process.stdout)
        other.join()
        self._ended.put(process.wait())
