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


"""Threads and queues that are real ones, whatever has been monkey-patched.

Callbacks of librbd come from threads that the interpreter did not start. In
a process that eventlet has patched (glance-api before release 33), a lock of
``threading`` or ``queue`` belongs to the hub and must not be touched from
such a thread. ``_queue.SimpleQueue`` is written in C, takes no Python lock,
and is left alone by eventlet: it is the only thing that the engine's threads
share.

A native thread that waits by what eventlet has patched gets a hub of its own,
with an open file, and both stay when the thread has ended. So what may run in
native threads waits by :func:`get` and :func:`sleep`; of what other libraries
do there, such as a request by HTTP, the hub is ended with the thread.
"""

from __future__ import annotations

import _queue
from collections.abc import Callable
import ctypes
import sys
import threading
import time
import types
import typing


_T = typing.TypeVar('_T')

Empty = _queue.Empty
Queue = _queue.SimpleQueue

# Attribute of the native threads that are started here.
_MARK = 'is_glance_dcn_native'

# A green thread waits by polling: the shortest and the longest pause.
_SHORTEST = 0.0005
_LONGEST = 0.01

_libc = ctypes.CDLL(None)
_M_ARENA_MAX = -8
# The buffers of a transfer are allocated by one thread and freed by others.
# Left alone, glibc's malloc gives each thread an arena, and each arena keeps
# what was freed in it: several times what is ever in use.
if hasattr(_libc, 'mallopt'):
    _libc.mallopt(_M_ARENA_MAX, 2)


def give_back_memory() -> None:
    """Return what was freed to the system; for the end of a transfer."""
    if hasattr(_libc, 'malloc_trim'):
        _libc.malloc_trim(0)


def patched() -> bool:
    """Whether eventlet has replaced the threads of this process."""
    patcher = sys.modules.get('eventlet.patcher')
    return patcher is not None and patcher.is_monkey_patched('thread')


def _original(module: types.ModuleType) -> typing.Any:
    if patched():
        return sys.modules['eventlet.patcher'].original(module.__name__)
    return module


def start(name: str, function: Callable[..., object],
          *args: typing.Any) -> threading.Thread:
    """Run a function in a native daemon thread.

    :param function: it must raise nothing
    """
    thread: threading.Thread = _original(threading).Thread(
        target=_run, args=(function, *args), name=name, daemon=True)
    setattr(thread, _MARK, True)
    thread.start()
    return thread


def _run(function: Callable[..., object], *args: typing.Any) -> None:
    try:
        function(*args)
    finally:
        _end_hub()


def _end_hub() -> None:
    """End the hub that eventlet has made for this thread, if it has."""
    # To ask eventlet for the hub would make one.
    local = getattr(sys.modules.get('eventlet.hubs'), '_threadlocal', None)
    hub = getattr(local, 'hub', None)
    if hub is not None and hub.running:
        hub.abort(wait=True)


def _may_block() -> bool:
    """Return whether no green threads run in the native thread that runs."""
    return not patched() or hasattr(
        _original(threading).current_thread(), _MARK)


def call(function: Callable[..., _T], *args: typing.Any) -> _T:
    """Call a function that waits, without stopping other green threads.

    It is waited for to its end, so that what it uses may be closed after.

    :raises Exception: what it raises
    """
    if _may_block():
        return function(*args)
    outcome: Queue[tuple[typing.Any, Exception | None]] = Queue()
    result: _T

    def run() -> None:
        try:
            outcome.put((function(*args), None))
        except Exception as error:
            outcome.put((None, error))
    start('call', run)
    result, error = get(outcome, float('inf'))
    if error is not None:
        raise error
    return result


def is_ending() -> bool:
    """Whether the interpreter ends, and waits for its last threads."""
    module = _original(threading)
    # Executors are waited for before the main thread counts as ended.
    return (getattr(module, '_SHUTTING_DOWN', False)
            or not module.main_thread().is_alive())


def thread_id() -> int:
    """Return the ID of the native thread that runs; green threads share one.

    In a child of a fork it is that of the thread that forked.
    """
    return int(_original(threading).get_ident())


def lock() -> threading.Lock:
    """Return a native lock, to be held for moments only."""
    made: threading.Lock = _original(threading).Lock()
    return made


def rlock() -> threading.RLock:
    """Return a native reentrant lock, to be held for moments only.

    Green threads of one native thread are one owner to it.
    """
    made: threading.RLock = _original(threading).RLock()
    return made


def get(queue: Queue[_T], timeout: float) -> _T:
    """Take the next item of a queue, without stopping other green threads.

    :param timeout: seconds to wait
    :raises Empty: when nothing came in time
    """
    if _may_block():
        return take(queue, timeout)
    deadline = time.monotonic() + timeout
    pause = _SHORTEST
    while True:
        try:
            return queue.get_nowait()
        except Empty:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        # The patched sleep: it lets the hub run.
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST)


def sleep(seconds: float) -> None:
    """Wait some seconds, without stopping other green threads."""
    module = _original(time) if _may_block() else time
    module.sleep(seconds)


def take(queue: Queue[_T], timeout: float) -> _T:
    """Take the next item of a queue, in a native thread; as :func:`get`."""
    # First without a timeout: before Python 3.11, one that has run out while
    # get() finds the lock of an empty queue free makes it wait for ever. From
    # here on the lock is taken until something comes.
    try:
        return queue.get_nowait()
    except Empty:
        if timeout <= 0:
            raise
        # It knows no infinity.
        return queue.get(timeout=min(timeout, threading.TIMEOUT_MAX))


class Shared:
    """The uses of something that is open, which is closed after the last.

    The first use is that of its opener. A function that was left by its
    caller, because no answer comes, may still use it in another thread.

    :param close: called once, by the thread that ends the last use
    """

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close
        self._lock = lock()
        self._uses = 1

    def acquire(self) -> bool:
        """Begin a further use, and return True, unless it is closed."""
        with self._lock:
            if self._uses <= 0:
                return False
            self._uses += 1
            return True

    def release(self) -> bool:
        """End a use, and close it after the last one.

        :returns: whether it was the last one
        """
        with self._lock:
            self._uses -= 1
            last = not self._uses
        if last:
            self._close()
        return last
