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


"""Questions of native threads to what belongs to eventlet's hub.

Before release 33 ``glance-api`` may be a process that eventlet has patched:
its locks, sockets and pools of database connections are those of green
threads, which all run in one native thread, that of the hub. Work beside
requests has native threads of its own, which must touch none of them. So a
native thread hands a function over: it is put into a queue, and a byte into a
pipe. A green thread that waits at the other end of the pipe starts another
one for each function, and the result comes back through a queue. Both queues
are ``_queue.SimpleQueue``, which eventlet leaves alone.

``glance-api`` forks its workers after it has set up its stores. Green threads
survive that, and so does the one at the pipe: the child puts a pipe of its
own in the place of the inherited one, under the same descriptor.

In a process that is not patched a function is run by the thread that calls.

What both kinds of threads use all the time is logging, whose locks are those
of green threads there. One that a green thread waits for and a native thread
gives back wakes no thread: what is scheduled then is in the hub of the native
thread, which ends. Everything that logs from then on waits, requests first of
all. So these locks are replaced by native ones. What the module's own lock
guards never waits for anything: it is held for moments only. oslo.log gives
its handlers locks that serve both kinds of threads (``oslo_log.pipe_mutex``,
with oslo.log 5.1 and later); those of others are replaced, too. A handler that
waits in the hub while it writes, to a socket say, may be entered by another
green thread meanwhile; lines may be mixed then, and nothing hangs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import posix
import time
import typing

from glance_dcn.runtime import native
from glance_dcn.runtime import process

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    # Of a function: its result, or its exception.
    _Answer = tuple[typing.Any, typing.Optional[BaseException]]

LOG = logging.getLogger(__name__)

_T = typing.TypeVar('_T')

#: Seconds until a function that was handed over must have returned.
TIMEOUT = 60.0

# Bytes taken out of the pipe at a time; each is one function, or none.
_WAKEUPS = 4096
# Seconds between two checks whether a child of a fork is ready.
_PAUSE = 0.01


class Unavailable(Exception):
    """The hub cannot be asked: the bridge was not started, say."""


class NoAnswer(Unavailable):
    """A function has not returned in time. It may run, or run later."""


@dataclasses.dataclass
class _Call:
    """A function on its way.

    :ivar abandoned: whether the caller waits no more
    """

    function: Callable[..., typing.Any]
    args: tuple[typing.Any, ...]
    answers: native.Queue[_Answer] = dataclasses.field(
        default_factory=native.Queue)
    abandoned: bool = False

    def run(self) -> None:
        """Run the function in a green thread, and answer."""
        if self.abandoned:
            return
        try:
            self.answers.put((self.function(*self.args), None))
        except BaseException as exc:
            self.answers.put((None, exc))


class Bridge:
    """The way from the native threads of a process to its hub."""

    def __init__(self) -> None:
        self._calls: native.Queue[_Call] = native.Queue()
        self._pipe: tuple[int, int] | None = None
        self._hub_thread: int | None = None
        self._pid = os.getpid()

    @property
    def started(self) -> bool:
        """Whether functions can be handed over to the hub."""
        return self._pipe is not None

    def start(self) -> None:
        """Wait for functions in a green thread, if the process is patched.

        Called in the native thread of the hub; once more does no harm.
        """
        if not native.patched() or self._pipe is not None:
            return
        import eventlet
        # What the threads do that ask is logged.
        share_logging_locks()
        self._pid = os.getpid()
        self._hub_thread = native.thread_id()
        self._pipe = _make_pipe()
        os.register_at_fork(after_in_child=self._after_fork)
        eventlet.spawn_n(self._listen, self._pipe[0])

    def call(self, function: Callable[..., _T], *args: typing.Any,
             timeout: float = TIMEOUT) -> _T:
        """Run a function where Glance's own objects may be used.

        In a patched process that is a green thread, which the function must
        not keep from others: what it waits for is patched as well. Elsewhere,
        and in green threads, it is the calling thread itself, and nothing
        bounds the time.

        :param timeout: seconds for which a native thread waits
        :raises Unavailable: if there is no way to the hub
        :raises NoAnswer: if the function has not returned in time
        :raises Exception: what the function raises
        """
        if not native.patched() or self._hub_thread == native.thread_id():
            return function(*args)
        if self._pipe is None:
            raise Unavailable('this process is patched by eventlet, and '
                              'nothing waits for questions in its hub')
        deadline = time.monotonic() + timeout
        self._wait_for_fork(deadline)
        call = _Call(function, args)
        self._calls.put(call)
        # Full of bytes that have not been seen is as good as one more.
        with contextlib.suppress(BlockingIOError):
            posix.write(self._pipe[1], b'.')
        result: _T
        try:
            result, error = native.take(call.answers,
                                        deadline - time.monotonic())
        except native.Empty:
            call.abandoned = True
            raise NoAnswer('the hub of eventlet has not answered within '
                           '%.0f s: it is busy, or what was asked takes '
                           'longer' % timeout) from None
        if error is not None:
            raise error
        return result

    def _wait_for_fork(self, deadline: float) -> None:
        """Wait until a child has a pipe of its own.

        Threads that others start in a child may be there before it has.
        """
        pause: native.Queue[None] = native.Queue()
        while self._pid != os.getpid() and time.monotonic() < deadline:
            with contextlib.suppress(native.Empty):
                native.take(pause, _PAUSE)

    def _listen(self, descriptor: int) -> None:
        """Start a green thread for each function; never return."""
        import eventlet
        from eventlet import hubs
        while True:
            try:
                hubs.trampoline(descriptor, read=True)
                with contextlib.suppress(BlockingIOError):
                    posix.read(descriptor, _WAKEUPS)
                while True:
                    eventlet.spawn_n(self._calls.get_nowait().run)
            except native.Empty:
                continue
            except Exception:
                LOG.exception('Questions to the hub of eventlet were not '
                              'taken up; they are taken up again in 1 s')
                eventlet.sleep(1)

    def _after_fork(self) -> None:
        """Part from the parent of this process."""
        if self._pipe is None:
            return
        # What the parent's threads have asked is for the parent.
        self._calls = native.Queue()
        reading, writing = _make_pipe()
        old_reading, old_writing = self._pipe
        os.dup2(reading, old_reading, inheritable=False)
        os.close(reading)
        os.close(old_writing)
        self._pipe = old_reading, writing
        self._pid = os.getpid()


def _make_pipe() -> tuple[int, int]:
    """Return the two ends of a pipe at which nothing blocks."""
    pipe = os.pipe()
    for descriptor in pipe:
        os.set_blocking(descriptor, False)
    return pipe


def share_logging_locks() -> None:
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


def start() -> None:
    """Start the bridge of this process; see :meth:`Bridge.start`."""
    process.get(Bridge).start()


def call(function: Callable[..., _T], *args: typing.Any,
         timeout: float = TIMEOUT) -> _T:
    """Call a function over that bridge; see :meth:`Bridge.call`."""
    return process.get(Bridge).call(function, *args, timeout=timeout)
