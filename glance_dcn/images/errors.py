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

"""Errors of image files, and of inspecting them.

The reasons of an error are for users: they name neither paths nor programs'
options. Its text, for the log, does.
"""

from __future__ import annotations

import collections.abc

from glance_dcn.engine import errors

Cancelled = errors.Cancelled


class UnsafeImage(errors.EngineError):
    """An image file that refers to other files, or is not what it claims."""

    def __init__(self, path: str,
                 reasons: collections.abc.Sequence[str]) -> None:
        self.path = path
        self.reasons = list(reasons)
        super().__init__('%s is refused: %s.' % (path, '; '.join(reasons)),
                         'Make the image self-contained and of the format '
                         'it is declared to be.')


class InspectionFailed(errors.EngineError):
    """An image file could not be inspected within its limits, or at all.

    :param reason: why, for users
    :param details: what only operators are told
    """

    def __init__(self, path: str, reason: str, details: str = '',
                 hint: str = '') -> None:
        self.path = path
        self.reasons = [reason]
        self.details = details
        message = '%s cannot be inspected: %s' % (path, reason)
        super().__init__('%s: %s' % (message, details) if details
                         else message + '.', hint)


class QemuImgError(errors.EngineError):
    """qemu-img failed, or was ended because it passed a limit.

    :param operation: 'info', 'measure', 'check' or 'convert'
    :param output: last lines of what it said
    """

    def __init__(self, operation: str, path: str, reason: str,
                 output: str = '', hint: str = '') -> None:
        self.operation = operation
        self.path = path
        self.reason = reason
        self.output = output
        message = 'qemu-img %s of %s: %s' % (operation, path, reason)
        super().__init__('%s: %s' % (message, output) if output
                         else message + '.', hint)
