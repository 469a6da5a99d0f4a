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

"""Logging by native threads in a process that eventlet has patched.

The locks of the logging module are those of green threads there. One that a
green thread waits for and a native thread gives back wakes nobody: what is
scheduled then is in the hub of the native thread, which ends. Everything that
logs from then on waits, requests first of all.

What the module's own lock guards never waits for anything, so that it may be
a native one: it is held for moments only. oslo.log gives its handlers locks
that serve both kinds of threads (``oslo_log.pipe_mutex``, with oslo.log 5.1
and later); those of others are replaced by native ones, too. A handler that
waits in the hub while it writes, to a socket say, may be entered by another
green thread meanwhile; lines may be mixed then, and nothing hangs.
"""

from __future__ import annotations

import logging
import typing

from glance_dcn.runtime import native


def share_locks() -> None:
    """Let native threads log, if the process is patched.

    For the native thread of the hub, after logging was set up, and before
    there are other native threads; once more does no harm.
    """
    if not native.patched():
        return
    # They are private to it.
    private: typing.Any = logging
    if _is_green(private._lock):
        private._lock = native.rlock()
    for reference in list(private._handlerList):
        handler = reference()
        if handler is not None and _is_green(handler.lock):
            handler.lock = native.rlock()


def _is_green(lock: typing.Any) -> bool:
    """Return whether a lock is a reentrant one of Python's own, patched."""
    # That is made of a lock of eventlet's. A native one is made in C.
    return hasattr(lock, '_block')
