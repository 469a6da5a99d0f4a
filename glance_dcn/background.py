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

Threads do not survive a fork, and WSGI servers fork after loading the
application: what the parent had started is started again in each child.
uWSGI does not tell Python when it forks, and has a hook of its own; its
master, which serves nobody, starts nothing.
"""

import logging
import os
import random
import time

from glance_dcn.engine import native

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

_started = []
_hooks = []
# ID of the process that said that others are forked from it to serve.
_master = None


class Periodic:
    """Runs a function again and again, in a thread of its own.

    What the function raises is logged, and does not end it. It is not begun
    while the process ends and waits for threads, in which time a program such
    as glance-scrubber does its work: executors take nothing new by then.

    :param name: name of the thread
    :param work: function without arguments
    :param interval: seconds from the end of one run to the next, give or take
        a fifth
    """

    def __init__(self, name, work, interval):
        self.name = name
        self.interval = interval
        self._work = work
        self._events = None
        self._pid = None

    def start(self):
        """Run it at once, and from then on; in children of a fork too."""
        if self not in _started:
            _started.append(self)
            self._begin()

    def wake(self):
        """Run it now, or once more if it is running."""
        events = self._events
        if events is not None:
            events.put(True)

    def stop(self):
        """Do not run it again. A run that has begun is not waited for."""
        if self in _started:
            _started.remove(self)
        if self._events is not None:
            self._events.put(False)
        self._events = self._pid = None

    def _begin(self):
        """Start the thread, unless this process has it already."""
        if self._pid == os.getpid() or is_master():
            return
        self._pid = os.getpid()
        # A new queue: the lock of the parent's may be held for ever here.
        self._events = native.Queue()
        native.start(self.name, self._run, self._events)

    def _run(self, events):
        go_on = True
        while go_on and not native.is_ending():
            try:
                self._work()
            except Exception:
                if native.is_ending():
                    return
                LOG.exception('%s failed; it is tried again in %s s',
                              self.name, self.interval)
            go_on = self._pause(events)

    def _pause(self, events):
        """Wait for the next run; return whether there is to be one."""
        try:
            jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            go_on = events.get(timeout=self.interval * jitter)
            while go_on:
                go_on = events.get_nowait()
            return go_on
        except native.Empty:
            return True


def after_fork(function):
    """Have a function called in each child of a fork.

    :param function: without arguments
    """
    _hooks.append(function)


def become_master():
    """Start nothing in this process any more, but in children of its forks.

    It serves no requests; those that do are forked from it, now or later.
    """
    global _master
    _master = os.getpid()


def is_master():
    """Return whether this process only forks those that serve requests.

    That is the master of uWSGI, and one that has said so.
    """
    return _master == os.getpid() or (
        uwsgi is not None and uwsgi.worker_id() == 0)


def _after_fork():
    native.start('after-fork', _begin_again)


def _begin_again():
    # Not at once: a child that runs another program, such as qemu-img, is
    # Python for a moment too, and the librados of its parent must not be
    # touched in it. This thread ends with that moment.
    time.sleep(_MOMENT)
    for periodic in list(_started):
        periodic._begin()
    for function in list(_hooks):
        function()


def _hook_uwsgi():
    before = getattr(uwsgi, 'post_fork_hook', None)

    def hook():
        if before:
            before()
        _after_fork()

    uwsgi.post_fork_hook = hook


os.register_at_fork(after_in_child=_after_fork)
if uwsgi is not None:
    _hook_uwsgi()
