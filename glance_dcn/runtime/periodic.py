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

"""Work that a process does every now and then, beside its requests.

All of it is scheduled by one thread (:mod:`glance_dcn.runtime.scheduler`).
Threads do not survive a fork, and WSGI servers fork after loading the
application: what the parent had started is started again in each child.
uWSGI does not tell Python when it forks, and has a hook of its own; its
master, which serves no requests, starts nothing.
"""

from __future__ import annotations

import logging
import os
import random
import typing

from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers

if typing.TYPE_CHECKING:
    from collections.abc import Callable

try:
    # uWSGI makes this module, in its own processes only.
    import uwsgi
except ImportError:
    uwsgi = None

LOG = logging.getLogger(__name__)

# Parts of the interval by which a pause is longer or shorter, so that the
# workers of a deployment do not do the same thing at the same moment.
_JITTER = 0.2
# Seconds after a fork before anything is begun in the child.
_MOMENT = 1


class _Periodics:
    """All that is started.

    :ivar is_master: whether the process has said that it only forks others
    """

    def __init__(self) -> None:
        self.started: list[Periodic] = []
        self.is_master = process.ForkLocal(bool)


class Periodic:
    """Runs a function again and again, one run after the other.

    What the function raises is logged, and does not end it. It may block: it
    has a thread of the scheduler's pool while it runs, and none in between. It
    is not begun while the process ends and waits for threads, in which time a
    program such as glance-scrubber does its work: executors take nothing new
    by then.

    :param name: name of the work, for messages
    :param interval: seconds from the end of one run to the next, give or take
        a fifth
    """

    def __init__(self, name: str, work: Callable[[], object],
                 interval: float,
                 scheduler: schedulers.Scheduler | None = None) -> None:
        self.name = name
        self.interval = interval
        self._work = work
        self._scheduler = scheduler or process.get(schedulers.Scheduler)
        self._all = process.get(_Periodics)
        self._runs: process.ForkLocal[schedulers.Repetition | None] = (
            process.ForkLocal(lambda: None))

    def start(self) -> None:
        """Run it at once, and from then on; in children of a fork too."""
        if self not in self._all.started:
            self._all.started.append(self)
            self._begin()

    def wake(self) -> None:
        """Run it now, or once more if it is running."""
        runs = self._runs.get()
        if runs is not None:
            runs.wake()

    def stop(self) -> None:
        """Do not run it again. A run that has begun is not waited for."""
        if self in self._all.started:
            self._all.started.remove(self)
        runs = self._runs.get()
        if runs is not None:
            runs.stop(0)
        self._runs.set(None)

    def _begin(self) -> None:
        """Begin to run it, unless this process does already."""
        if self._runs.get() is None and not is_master():
            self._runs.set(schedulers.Repetition(self._scheduler, 0,
                                                 self._pause, self._run))

    def _pause(self) -> float:
        return self.interval * random.uniform(  # noqa: S311
            1 - _JITTER, 1 + _JITTER)

    def _run(self) -> bool:
        """Do the work, unless the process ends; return whether to go on."""
        if native.is_ending():
            return False
        try:
            self._work()
        except Exception:
            if native.is_ending():
                return False
            LOG.exception('%s failed; it is tried again in %s s', self.name,
                          self.interval)
        return True


def become_master() -> None:
    """Start nothing in this process any more, but in children of its forks.

    It serves no requests; those that do are forked from it, now or later.
    """
    process.get(_Periodics).is_master.set(True)


def is_master() -> bool:
    """Return whether this process only forks those that serve requests.

    That is the master of uWSGI, and one that has said so.
    """
    return process.get(_Periodics).is_master.get() or (
        uwsgi is not None and uwsgi.worker_id() == 0)


def _after_fork() -> None:
    native.start('after-fork', _begin_again)


def _begin_again() -> None:
    # Not at once: a child that runs another program, such as qemu-img, is
    # Python for a moment too, and the librados of its parent must not be
    # touched in it. This thread ends with that moment.
    native.sleep(_MOMENT)
    for periodic in list(process.get(_Periodics).started):
        periodic._begin()


def _hook_uwsgi() -> None:
    before = getattr(uwsgi, 'post_fork_hook', None)

    def hook() -> None:
        if before:
            before()
        _after_fork()

    uwsgi.post_fork_hook = hook


os.register_at_fork(after_in_child=_after_fork)
if uwsgi is not None:
    _hook_uwsgi()
