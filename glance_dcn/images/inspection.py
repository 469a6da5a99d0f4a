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

"""Inspects image files, in a limited process.

A hostile file may make those who read its header work for hours, or need more
memory than there is; a thread of Python that does holds up all others. So
each file is inspected by a process of its own (:mod:`.child`), once, within
limits that follow from how much there is to read. It answers with a few words
of JSON, which are believed in no more than the file is. The process is forked
from a server (:mod:`.inspection_server`) in a few milliseconds; without one,
and when the server is lost, a program is started.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import stat
import sys
import typing

from glance_dcn.images import errors
from glance_dcn.images import formats
from glance_dcn.images import hazards
from glance_dcn.images import inspection_server
from glance_dcn.images import limited

LOG = logging.getLogger(__name__)

# See limited.run().
_Run = collections.abc.Callable[..., limited.Outcome]

_GIB = 1 << 30
# To start the program takes 0.1 s of CPU time, to inspect any ordinary image
# another 0.1 s, and to read one to its end 0.5 s for each GiB (a compressed
# VMDK). A machine may be ten times slower.
_MEMORY = 512 << 20
_CPU, _CPU_PER_GIB = 10, 5
# A staging folder gives 10 MiB/s at least.
_SECONDS, _SECONDS_PER_GIB = 120, 100
# Bytes of an answer, and characters and number of its reasons.
_LONGEST_ANSWER = 1 << 16
_LONGEST_REASON = 500
_MOST_REASONS = 16
_FORMAT = re.compile(r'[a-z0-9]{1,16}')
_PYTHON = re.compile(r'python(\d+(\.\d+)?)?')
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                        'child.py')
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(_PROGRAM)))


@dataclasses.dataclass(frozen=True)
class Image:
    """An image file that was inspected.

    :ivar path: absolute
    :ivar format: what Glance calls its format
    :ivar hazards: why it must not be given to qemu-img; empty if it may be
    :ivar missing: what it lacks; empty if it is whole, or has hazards
    :ivar identity: which file it was, and as of when
    :ivar others: formats that it may be declared to have as well
    """

    path: str
    format: str
    hazards: tuple[str, ...]
    missing: tuple[str, ...]
    identity: tuple[int, ...]
    others: tuple[str, ...] = ()

    @property
    def driver(self) -> str:
        """What qemu-img calls its format."""
        return hazards.DRIVERS.get(self.format, self.format)

    def declared(self, name: str) -> Image:
        """Return the image as one of the format that it is declared to have.

        :returns: the same where the file cannot have that format
        """
        if name not in self.others:
            return self
        return dataclasses.replace(self, format=name, others=())

    def check_safe(self) -> None:
        """Check that qemu-img may be given the file.

        :raises UnsafeImage: it must not be, or has changed since
        :raises OSError: it is gone
        """
        if self.hazards:
            raise errors.UnsafeImage(self.path, self.hazards)
        if _identity(os.stat(self.path)) != self.identity:
            raise errors.UnsafeImage(
                self.path, ['it has changed since it was inspected'])

    def check_whole(self) -> None:
        """Check that the file has its end.

        :raises UnsafeImage: it has not
        """
        if self.missing:
            raise errors.UnsafeImage(self.path, self.missing)


def inspect(path: str,
            beat: collections.abc.Callable[[], object] | None = None,
            tolerated: collections.abc.Iterable[str] = (),
            interpreter: str | None = None,
            server: inspection_server.InspectionServer | None = None,
            limits: limited.Limits | None = None,
            run: _Run = limited.run) -> Image:
    """Inspect an image file.

    :param beat: called several times a second; what it raises ends it
    :param tolerated: names of checks of partition tables that may fail
    :param interpreter: path or name of a Python interpreter of the version
        that this process has; by default it is looked for
    :param server: what inspects it; by default, a program that is started
    :param limits: what that may use; by default, see :func:`limits_of`
    :param run: starts the program
    :raises formats.Refused: the format is not clear, or the file is not safe;
        the message says why, to users
    :raises InspectionFailed: it passed a limit, or there is no interpreter
    :raises OSError: it cannot be read
    """
    path = os.path.abspath(path)
    formats.check_available()
    with open(path, 'rb', opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise errors.UnsafeImage(path, ['it is no regular file'])
        limits = limits or limits_of(status)
        try:
            outcome = _run(file, limits, sorted(tolerated),
                           find_interpreter(path, interpreter), server,
                           beat and (lambda _output: beat()), run)
        except limited.TookTooLong:
            raise _passed(path, '%g s' % limits.seconds)
    answer = _parse(path, outcome, limits)
    if outcome.messages:
        LOG.warning('Inspecting %(path)s: %(messages)s', {
            'path': path,
            'messages': ' | '.join(outcome.last_messages().splitlines())})
    if 'refused' in answer:
        raise formats.Refused(answer['refused'])
    if 'errno' in answer:
        raise OSError(answer['errno'], os.strerror(answer['errno']), path)
    if 'memory' in answer:
        raise _passed(path, '%d MiB of memory' % (limits.memory >> 20))
    return Image(path, answer['format'], tuple(answer['hazards']),
                 tuple(answer['missing']), _identity(status),
                 tuple(answer['others']))


def prepare(server: inspection_server.InspectionServer,
            interpreter: str | None = None) -> None:
    """Have a server ready; if it cannot be started, inspecting says why."""
    with contextlib.suppress(errors.InspectionFailed, OSError):
        if formats.INSPECTORS:
            server.start(_server_command(find_interpreter('', interpreter)))


def limits_of(status: os.stat_result) -> limited.Limits:
    """Return what inspecting a file may use.

    Holes count for nothing: no ordinary image that has them is read to its
    end.
    """
    taken = min(status.st_size, 512 * status.st_blocks or status.st_size)
    share = -(-taken // _GIB)
    return limited.Limits(
        memory=_MEMORY, cpu=_CPU + _CPU_PER_GIB * share,
        seconds=_SECONDS + _SECONDS_PER_GIB * share, size=0)


def find_interpreter(path: str, configured: str | None = None,
                     python: typing.Any = sys) -> str:
    """Return the path of a Python interpreter like that of this process.

    A program that has Python built in, such as uWSGI, is the executable of its
    process: what it would do as an interpreter is unknown.

    :param path: path of the image file that it is for
    :param configured: ``[wsgi] python_interpreter``
    :param python: what tells where this process has its Python
    :raises InspectionFailed: none is found
    """
    if configured:
        candidates = [configured]
    else:
        candidates = [python.executable or ''] * bool(_PYTHON.fullmatch(
            os.path.basename(python.executable or '')))
        for prefix in (python.prefix, python.exec_prefix, python.base_prefix,
                       python.base_exec_prefix):
            for version in ('%d.%d' % sys.version_info[:2], '3'):
                candidates.append(os.path.join(prefix, 'bin',
                                               'python' + version))
    for candidate in candidates:
        found = shutil.which(candidate)
        if found:
            return os.path.abspath(found)
    raise errors.InspectionFailed(
        path, 'this Glance cannot inspect images; its log says why',
        'no Python interpreter is there: %s' % ', '.join(
            dict.fromkeys(candidates)),
        'Set [wsgi] python_interpreter to the one that Glance is installed '
        'for.')


def _run(file: typing.BinaryIO, limits: limited.Limits, tolerated: list[str],
         interpreter: str, server: inspection_server.InspectionServer | None,
         tick: collections.abc.Callable[[bytes], object] | None,
         run: _Run) -> limited.Outcome:
    if server:
        try:
            return server.run(_server_command(interpreter), limits, file,
                              tolerated, tick)
        except inspection_server.Lost as exc:
            LOG.info('Starting a program to inspect %(path)s: %(reason)s',
                     {'path': file.name, 'reason': exc})
    return run(_command(interpreter, tolerated=tolerated), limits,
               stdin=file, tick=tick)


def _server_command(interpreter: str) -> list[str]:
    return _command(interpreter, idle=inspection_server.IDLE)


def _command(interpreter: str, **request: object) -> list[str]:
    return [interpreter, '-I', '-S', '-B', _PROGRAM,
            json.dumps(dict(_request(), **request))]


def _request() -> dict[str, typing.Any]:
    # What is relative would be looked for in the working directory.
    paths = [path for path in sys.path if os.path.isabs(path)]
    return {'version': list(sys.version_info[:2]), 'path': [*paths, _ROOT],
            'inspectors': formats.INSPECTORS}


def _open(path: str, flags: int) -> int:
    # Opening a pipe would wait for one that writes into it.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _passed(path: str, what: str) -> errors.InspectionFailed:
    return errors.InspectionFailed(
        path, 'inspecting it took more than %s; it may be hostile' % what)


def _parse(path: str, outcome: limited.Outcome, limits: limited.Limits
           ) -> dict[str, typing.Any]:
    """Return the answer of the program.

    :raises InspectionFailed: it gave none that can be understood
    """
    if outcome.used_up_cpu:
        raise _passed(path, '%d s of CPU' % limits.cpu)
    if outcome.status < 0:
        raise errors.InspectionFailed(
            path, 'inspecting it was ended by signal %d; it may be hostile'
            % -outcome.status, outcome.last_messages())
    try:
        if outcome.status or len(outcome.output) > _LONGEST_ANSWER:
            raise ValueError('the program failed')
        answer = json.loads(outcome.output)
        if not _is_valid(answer):
            raise ValueError('its answer is malformed')
        if 'error' in answer:
            raise ValueError(answer['error'])
    except (ValueError, RecursionError) as exc:
        raise errors.InspectionFailed(
            path, 'its format cannot be inspected', '%s (status %d). %s' % (
                exc, outcome.status, outcome.last_messages()),
            '[wsgi] python_interpreter must name the interpreter that Glance '
            'is installed for, if it is set.')
    return answer


def _is_valid(answer: object
              ) -> typing.TypeGuard[dict[str, typing.Any]]:
    """Return whether an answer has a form that :mod:`.child` names."""
    if not isinstance(answer, dict):
        return False
    keys = answer.keys()
    if keys == {'format', 'others', 'hazards', 'missing'}:
        return (isinstance(answer['others'], list)
                and len(answer['others']) <= _MOST_REASONS
                and all(map(_is_format, (answer['format'],
                                         *answer['others'])))
                and all(map(_are_reasons, (answer['hazards'],
                                           answer['missing']))))
    if keys == {'refused'}:
        return _are_reasons([answer['refused']])
    if keys == {'errno'}:
        return type(answer['errno']) is int and 0 <= answer['errno'] < 4096
    if keys == {'error'}:
        return isinstance(answer['error'], str)
    return answer == {'memory': True}


def _is_format(value: object) -> bool:
    return isinstance(value, str) and bool(_FORMAT.fullmatch(value))


def _are_reasons(values: object) -> bool:
    return (isinstance(values, list) and len(values) <= _MOST_REASONS
            and all(isinstance(value, str) and value.isprintable()
                    and len(value) <= _LONGEST_REASON for value in values))
