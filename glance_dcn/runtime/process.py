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

"""What one process has one of, and each child of a fork makes again.

Glance and glance_store make drivers and plugins without a way to pass
anything to them. So what a process has one of, a cache of clients say, is held
by its :class:`Runtime`, found by its class, and passed on from there. This is
the one module with such a variable; tests put a runtime of their own in its
place.

WSGI servers fork after loading the application, and not all of them tell
Python when they do. Objects outlive the fork, with what they were configured
with; but locks, connections, threads and what is in flight are those of the
parent. Whatever an object has of these is kept in a :class:`ForkLocal`.
"""

from __future__ import annotations

import os
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Callable

_T = typing.TypeVar('_T')


class ForkLocal(typing.Generic[_T]):
    """A value that each process makes on first use.

    What a parent has is kept and not touched in its children: its locks may
    be held for ever there, and only the parent has the threads that would be
    joined to close it.

    :param make: makes the value, without an effect of its own: of two threads
        that are the first, both may call it, and one value is used
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._values: dict[int, _T] = {}

    def get(self) -> _T:
        """Return the value of this process."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            # Without a lock, which the parent may have held; it is atomic.
            return self._values.setdefault(pid, self._make())

    @property
    def is_made(self) -> bool:
        """Whether this process has made its value."""
        return os.getpid() in self._values

    def set(self, value: _T) -> None:
        """Replace the value of this process."""
        self._values[os.getpid()] = value


class Runtime:
    """What a process has one of, by its class."""

    def __init__(self) -> None:
        self._parts: dict[type, typing.Any] = {}

    def get(self, kind: type[_T]) -> _T:
        """Return the object of a class; the first call makes it.

        :param kind: made without arguments, without an effect of its own
        """
        try:
            part: _T = self._parts[kind]
        except KeyError:
            part = self._parts.setdefault(kind, kind())
        return part

    def find(self, kind: type[_T]) -> _T | None:
        """Return the object of a class, if there is one."""
        return self._parts.get(kind)

    def remove(self, kind: type) -> None:
        """Forget the object of a class."""
        self._parts.pop(kind, None)

    def put(self, part: object, kind: type | None = None) -> None:
        """Have an object returned for its class, or another, from now on."""
        self._parts[kind or type(part)] = part


#: Of this process.
CURRENT = Runtime()


def get(kind: type[_T]) -> _T:
    """Return what this process has one of; see :meth:`Runtime.get`."""
    return CURRENT.get(kind)


def find(kind: type[_T]) -> _T | None:
    """Return it if there is one; see :meth:`Runtime.find`."""
    return CURRENT.find(kind)


def put(part: object, kind: type | None = None) -> None:
    """Replace it; see :meth:`Runtime.put`."""
    CURRENT.put(part, kind)


def remove(kind: type) -> None:
    """Forget it; see :meth:`Runtime.remove`."""
    CURRENT.remove(kind)
