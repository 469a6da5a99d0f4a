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


"""Errors of the data path.

Each error is a class with fields, and its message says what to do next.
"""

from __future__ import annotations

import errno as codes
import os

#: Seconds without any progress after which an endpoint is asked whether it is
#: lost.
QUIET = 3

_HINTS: dict[int | None, str] = {
    codes.ENOSPC: 'The place is full: free or add space, then try again.',
    codes.EDQUOT: 'The pool\'s quota is used up: raise it, then try again.',
    codes.ENOENT: 'The image or snapshot is gone: look whether it was '
                  'deleted meanwhile.',
    codes.EROFS: 'It is open for reading only, or another client holds its '
                 'lock.',
    codes.EPERM: 'The client\'s capabilities do not cover this pool.',
    codes.EACCES: 'The client\'s capabilities do not cover this pool.',
    codes.EIO: 'The storage cannot give the data back: look at the health of '
               'the cluster or disk.',
    codes.ETIMEDOUT: 'The site does not answer: look at its network and at '
                     'the health of its cluster.',
    codes.ESHUTDOWN: 'The client was cut off (blocklisted) by the cluster: '
                     'open the image again.',
}


class EngineError(Exception):
    """Base of the engine's errors."""

    def __init__(self, message: str, hint: str = '') -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return ' '.join(part for part in (self.message, self.hint) if part)


class RequestError(EngineError):
    """A request to an endpoint failed.

    :param operation: 'read', 'write', 'flush', 'resize', 'open', ...
    :param errno: positive error number
    :param offset: where, in bytes
    :param length: how much, in bytes
    :param hint: what to do next; by default it comes from the error number
    """

    def __init__(self, endpoint: str, operation: str,
                 errno: int | None = None, offset: int | None = None,
                 length: int | None = None, hint: str | None = None) -> None:
        self.endpoint = endpoint
        self.operation = operation
        self.errno = errno
        self.offset = offset
        self.length = length
        message = '%s: %s' % (endpoint, operation)
        if length is not None:
            message += ' of %d bytes' % length
        if offset is not None:
            message += ' at offset %d' % offset
        message += ' failed'
        if errno is not None:
            message += ': [errno %d] %s' % (errno, os.strerror(errno))
        super().__init__(message + '.',
                         _HINTS.get(errno, '') if hint is None else hint)


class ShortRead(RequestError):
    """An endpoint gave fewer bytes than it says it has."""


class Stalled(RequestError):
    """An endpoint has not answered for too long.

    :param seconds: how long it was waited for
    """

    def __init__(self, endpoint: str, operation: str, seconds: float,
                 offset: int | None = None) -> None:
        self.seconds = seconds
        super().__init__(
            endpoint, operation, codes.ETIMEDOUT, offset,
            hint='Nothing moved for %g s: look at the site\'s network and at '
                 'the health of its cluster.' % seconds)


class Lost(RequestError):
    """An endpoint that should answer is found to be away."""

    def __init__(self, endpoint: str, reason: object) -> None:
        super().__init__(endpoint, 'wait for an answer', codes.ETIMEDOUT,
                         hint=str(reason))


class Cancelled(EngineError):
    """The caller ended the work before it was done."""


class SizeMismatch(EngineError):
    """What was counted at the end is not what was promised.

    :param expected: bytes that should be there
    :param found: bytes that are
    """

    def __init__(self, endpoint: str, expected: int | None, found: int,
                 what: str = 'size') -> None:
        self.endpoint = endpoint
        self.expected = expected
        self.found = found
        super().__init__(
            '%s: %s is %s bytes and should be %s.'
            % (endpoint, what, found, expected),
            'The copy is not whole: remove it and try again.')


class DigestMismatch(EngineError):
    """The bytes read are not those that were recorded."""

    def __init__(self, endpoint: str, expected: str | None,
                 found: str | None) -> None:
        self.endpoint = endpoint
        self.expected = expected
        self.found = found
        super().__init__(
            '%s: content digest is %s and should be %s.'
            % (endpoint, found, expected),
            'The data of this source is damaged: use the copy of another '
            'site and repair this one.')
