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


"""The only caller of qemu-img.

It runs under limits, sees one local file whose format is declared and never
probed, and is given that file in a notation in which no name can be taken
for an option or a protocol. Files that refer to others are refused before
(see :mod:`.hazards`).
"""

import dataclasses
import json
import os
import re
import subprocess
import time
import typing

from glance_dcn.engine import errors
from glance_dcn.engine import native
from glance_dcn.images import hazards

GIB = 1 << 30

_PERCENT = re.compile(rb'\((\d+(?:\.\d+)?)/100%\)')
_TICK = 0.2
# Each arena of malloc sets aside address space, of which there is a limit.
_ENVIRONMENT = {'LC_ALL': 'C', 'MALLOC_ARENA_MAX': '2'}
# How much of its output is kept, in bytes.
_KEPT = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a run of qemu-img may use.

    :ivar memory: bytes of address space
    :ivar cpu: seconds of CPU time
    :ivar seconds: seconds of time
    :ivar size: bytes that the output file may be long, holes included, or
        None
    :ivar space: bytes that the output file may take on disk, or None
    """

    memory: int = 2 * GIB
    cpu: int = 3600
    seconds: float = 6 * 3600
    size: typing.Optional[int] = None
    space: typing.Optional[int] = None


INFO_LIMITS = Limits(memory=GIB, cpu=30, seconds=60)


def info(path, driver, limits=INFO_LIMITS):
    """Describe a safe image file.

    :param path: absolute path of the file
    :param driver: its declared format, such as 'qcow2'
    :param limits: :class:`Limits`
    :returns: dict as of ``qemu-img info --output=json``; sizes are in bytes
    :raises UnsafeImage: the file must not be used, or has another format
    :raises QemuImgError: qemu-img failed or passed a limit
    :raises OSError: the file cannot be read
    """
    source = _source(path, driver)
    hazards.check_file(path, driver)
    report = _report('info', path, ['info', '--output=json', *source],
                     limits)
    hazards.check_info(path, driver, report)
    return report


def measure(path, driver, output='raw', limits=INFO_LIMITS):
    """Compute what an image will take in another format.

    :param path: absolute path of the file
    :param driver: its declared format
    :param output: the format it would be converted to
    :param limits: :class:`Limits`
    :returns: dict with 'required' and 'fully-allocated', in bytes
    :raises: as :func:`info`
    """
    info(path, driver)
    return _report('measure', path, ['measure', '--output=json', '-O',
                                     output, *_source(path, driver)], limits)


def check(path, driver, limits=INFO_LIMITS):
    """Look whether a file lacks its end, which would be read as zeros.

    :param path: absolute path of the file
    :param driver: its declared format
    :param limits: :class:`Limits`
    :raises: as :func:`info`
    """
    info(path, driver)
    hazards.check_whole(path, driver)
    if driver == 'vmdk':
        # It finds nothing else in a vmdk file; in a qcow2 file it does,
        # such as counters that do no harm to reading.
        _run('check', path, ['check', *_source(path, driver)], limits)


def convert(path, driver, target, output='raw', limits=Limits(),
            progress=None, cancelled=None, in_order=False):
    """Convert an image file into a new, sparse file.

    After any failure there is no target.

    :param path: absolute path of the file
    :param driver: its declared format
    :param target: absolute path of the file to make; it must not exist
    :param output: its format
    :param limits: :class:`Limits`
    :param progress: called with the part that is done, 0 to 1
    :param cancelled: called several times a second; whether to end it
    :param in_order: write it from its beginning to its end
    :raises: as :func:`info`; also :class:`Cancelled`, and FileExistsError
    """
    info(path, driver)
    hazards.check_whole(path, driver)
    _check_path(target)
    if os.path.lexists(target):
        raise FileExistsError(target)
    try:
        _run('convert', path,
             ['convert', '-p', '-m', '16', *([] if in_order else ['-W']),
              '-S', '64k', '-O', output, *_source(path, driver), target],
             limits, target, progress, cancelled)
    except BaseException:
        if os.path.lexists(target):
            os.unlink(target)
        raise


def _check_path(path):
    # Before the first slash there can be neither an option nor a protocol.
    if not os.path.isabs(path) or '\0' in path:
        raise ValueError('%r is not an absolute path' % path)


def _source(path, driver):
    _check_path(path)
    if driver not in hazards.FORMATS:
        raise errors.UnsafeImage(path, ['format %r is not supported'
                                        % driver])
    # Here a comma ends a value, and two stand for one.
    return ['--image-opts', 'driver=%s,file.driver=file,file.filename=%s'
            % (driver, path.replace(',', ',,'))]


def _report(operation, path, arguments, limits):
    output = _run(operation, path, arguments, limits)
    try:
        return json.loads(output)
    except ValueError:
        raise errors.QemuImgError(operation, path, 'its report is no JSON')


def _command(arguments, limits):
    command = ['prlimit', '--core=0', '--as=%d' % limits.memory,
               '--cpu=%d' % limits.cpu]
    if limits.size is not None:
        command.append('--fsize=%d' % limits.size)
    return [*command, '--', 'qemu-img', *arguments]


def _run(operation, path, arguments, limits, target=None, progress=None,
         cancelled=None):
    process = subprocess.Popen(
        _command(arguments, limits), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ, **_ENVIRONMENT))
    watch = _Watch(process, progress)
    deadline = time.monotonic() + limits.seconds
    try:
        while watch.status is None:
            watch.turn()
            if cancelled and cancelled():
                raise errors.Cancelled('qemu-img %s was cancelled.'
                                       % operation)
            _check_limits(operation, path, target, limits, deadline)
    except BaseException:
        process.kill()
        watch.progress = None
        while watch.status is None:
            watch.turn()
        raise
    return _ended(operation, path, watch)


class _Watch:
    """Gathers what a process says, from threads that wait for it."""

    def __init__(self, process, progress):
        self.status = None
        self.output = self.said = b''
        self.progress = progress
        self._events = native.Queue()
        native.start('qemu-img', self._listen, process)

    def turn(self):
        """Wait a moment for the next news."""
        try:
            kind, value = native.get(self._events, _TICK)
        except native.Empty:
            return
        if kind == 'status':
            self.status = value
        elif kind == 'err':
            self.said = (self.said + value)[-_KEPT:]
        else:
            self.output = (self.output + value)[-_KEPT:]
            found = _PERCENT.findall(value)
            if found and self.progress:
                self.progress(float(found[-1]) / 100)

    def _listen(self, process):
        other = native.start('qemu-img', self._pump, process.stderr, 'err')
        self._pump(process.stdout, 'out')
        other.join()
        self._events.put(('status', process.wait()))

    def _pump(self, pipe, kind):
        with pipe:
            while True:
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    return
                self._events.put((kind, data))


def _check_limits(operation, path, target, limits, deadline):
    if time.monotonic() > deadline:
        raise errors.QemuImgError(
            operation, path, 'it took more than %g seconds' % limits.seconds,
            hint='The image may be hostile, or the limit too low.')
    if target is None or limits.space is None:
        return
    try:
        taken = os.stat(target).st_blocks * 512
    except FileNotFoundError:
        return
    if taken > limits.space:
        raise errors.QemuImgError(
            operation, path, 'its output took more than %d bytes'
            % limits.space,
            hint='The image may be hostile, or the limit too low.')


def _ended(operation, path, watch):
    code = watch.status
    if not code:
        return watch.output
    said = watch.said.decode('utf-8', 'replace').strip()[-500:]
    if code < 0:
        reason = 'it was ended by signal %d' % -code
        hint = ('It passed a limit on CPU time or size; the image may be '
                'hostile.')
    else:
        reason = 'it failed with status %d' % code
        hint = 'The image may be damaged, or a limit too low.'
    raise errors.QemuImgError(operation, path, reason, said, hint)
