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

It runs under limits, sees one local file whose format was found out before
(:mod:`.inspection`) and is never probed, and is given that file in a notation
in which no name can be taken for an option or a protocol. Files that refer to
others, or that have changed since, are refused.
"""

from __future__ import annotations

import collections.abc
import json
import os
import re
import typing

from glance_dcn.images import errors
from glance_dcn.images import hazards
from glance_dcn.images import inspection
from glance_dcn.images import limited

GIB = 1 << 30

_PERCENT = re.compile(rb'\((\d{1,3}(?:\.\d{1,2})?)/100%\)')
# Bytes of its output in which the last percentage is.
_LAST = 64

#: What a run of qemu-img may use.
Limits = limited.Limits
INFO_LIMITS = Limits(memory=GIB, cpu=30, seconds=60)
_CONVERT_LIMITS = Limits()
_HOSTILE = 'The image may be hostile, or the limit too low.'

_Cancelled = typing.Optional[collections.abc.Callable[[], bool]]


def info(image: inspection.Image, limits: limited.Limits = INFO_LIMITS,
         cancelled: _Cancelled = None) -> dict[str, typing.Any]:
    """Describe a safe image file.

    :param cancelled: called several times a second; whether to end it
    :returns: as of ``qemu-img info --output=json``; sizes are in bytes
    :raises UnsafeImage: the file must not be used, has another format, or has
        changed
    :raises QemuImgError: qemu-img failed or passed a limit
    :raises Cancelled: ``cancelled`` said so
    :raises OSError: the file cannot be read
    """
    report = _report('info', image, ['info', '--output=json',
                                     *_source(image)], limits, cancelled)
    reasons = hazards.find_in_report(image.driver, report)
    if reasons:
        raise errors.UnsafeImage(image.path, reasons)
    return report


def measure(image: inspection.Image, output: str = 'raw',
            limits: limited.Limits = INFO_LIMITS,
            cancelled: _Cancelled = None) -> dict[str, typing.Any]:
    """Return what an image takes in another format.

    :param output: the format it would be converted to
    :returns: 'required' and 'fully-allocated', in bytes
    :raises: as :func:`info`
    """
    return _report('measure', image, ['measure', '--output=json', '-O',
                                      output, *_source(image)], limits,
                   cancelled)


def check(image: inspection.Image, limits: limited.Limits = INFO_LIMITS,
          cancelled: _Cancelled = None) -> None:
    """Check that a file has its end, which would be read as zeros otherwise.

    :raises: as :func:`info`
    """
    source = _source(image)
    image.check_whole()
    if image.driver in ('vmdk', 'parallels'):
        # It finds nothing else in these files; in a qcow2 file it does,
        # such as counters that do no harm to reading.
        _run('check', image, ['check', *source], limits,
             cancelled=cancelled)


def convert(image: inspection.Image, target: str, output: str = 'raw',
            limits: limited.Limits = _CONVERT_LIMITS,
            progress: collections.abc.Callable[[float], object] | None = None,
            cancelled: _Cancelled = None, in_order: bool = False,
            described: bool = False) -> None:
    """Convert an image file into a new, sparse file; none after a failure.

    :param target: absolute path of the file to make; it must not exist
    :param output: its format
    :param progress: called with the part that is done, 0 to 1
    :param in_order: write it from its beginning to its end
    :param described: whether :func:`info` has found nothing in this very
        image; by default it is called once more
    :raises: as :func:`info`; also FileExistsError
    """
    if not described:
        info(image, cancelled=cancelled)
    image.check_whole()
    _check_path(target)
    if os.path.lexists(target):
        raise FileExistsError(target)
    try:
        _run('convert', image,
             ['convert', '-p', '-m', '16', *([] if in_order else ['-W']),
              '-S', '64k', '-O', output, *_source(image), target],
             limits, target, progress, cancelled)
    except BaseException:
        if os.path.lexists(target):
            os.unlink(target)
        raise


def _check_path(path: str) -> None:
    # Before the first slash there can be neither an option nor a protocol.
    if not os.path.isabs(path) or '\0' in path:
        raise ValueError('%r is not an absolute path' % path)


def _source(image: inspection.Image) -> list[str]:
    _check_path(image.path)
    image.check_safe()
    # Here a comma ends a value, and two stand for one.
    return ['--image-opts', 'driver=%s,file.driver=file,file.filename=%s'
            % (image.driver, image.path.replace(',', ',,'))]


def _report(operation: str, image: inspection.Image, arguments: list[str],
            limits: limited.Limits, cancelled: _Cancelled
            ) -> dict[str, typing.Any]:
    output = _run(operation, image, arguments, limits, cancelled=cancelled)
    try:
        report = json.loads(output)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise errors.QemuImgError(operation, image.path,
                                  'its report is no JSON object')
    return report


def _run(operation: str, image: inspection.Image, arguments: list[str],
         limits: limited.Limits, target: str | None = None,
         progress: collections.abc.Callable[[float], object] | None = None,
         cancelled: _Cancelled = None) -> bytes:

    def tick(output: bytes) -> None:
        if progress:
            _tell(output, progress)
        if cancelled and cancelled():
            raise errors.Cancelled('qemu-img %s was cancelled.' % operation)
        _check_space(operation, image.path, target, limits)

    try:
        outcome = limited.run(['qemu-img', *arguments], limits, tick=tick)
    except limited.TookTooLong:
        raise errors.QemuImgError(
            operation, image.path,
            'it took more than %g seconds' % limits.seconds, hint=_HOSTILE)
    if outcome.status:
        raise _failure(operation, image.path, outcome, limits)
    if progress:
        _tell(outcome.output, progress)
    return outcome.output


def _tell(output: bytes,
          progress: collections.abc.Callable[[float], object]) -> None:
    found = _PERCENT.findall(output[-_LAST:])
    if found:
        progress(float(found[-1]) / 100)


def _check_space(operation: str, path: str, target: str | None,
                 limits: limited.Limits) -> None:
    if target is None or limits.space is None:
        return
    try:
        taken = os.stat(target).st_blocks * 512
    except FileNotFoundError:
        return
    if taken > limits.space:
        raise errors.QemuImgError(
            operation, path,
            'its output took more than %d bytes' % limits.space,
            hint=_HOSTILE)


def _failure(operation: str, path: str, outcome: limited.Outcome,
             limits: limited.Limits) -> errors.QemuImgError:
    if outcome.used_up_cpu:
        reason = 'it took more than %d seconds of CPU time' % limits.cpu
        hint = _HOSTILE
    elif outcome.status < 0:
        reason = 'it was ended by signal %d' % -outcome.status
        hint = 'It passed a limit on size or memory; it may be hostile.'
    else:
        reason = 'it failed with status %d' % outcome.status
        hint = 'The image may be damaged, or a limit too low.'
    return errors.QemuImgError(operation, path, reason,
                               outcome.last_messages(), hint)
