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

"""Keeps the task of an import alive, and shows users its progress.

A task that was not saved for an hour is taken for dead, and another request
may steal its lock on the image; users see the message that is saved with it.
"""

from __future__ import annotations

from collections import abc
import logging
import math
import sys
import time
import types
import typing

from glance.common import exception
from glance.common.scripts import utils as script_utils
from glance.common import utils as glance_utils

from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.upstream import database
from glance_dcn.upstream import glance_interfaces

LOG = logging.getLogger(__name__)

# Seconds between saves.
EVERY = 10
# Seconds between saves of what has changed for users.
_NEWS = 2
# Seconds without a save after which the watch saves a task: those who save
# it themselves say more, and are not to be overwritten.
_SILENCE = 20
# Seconds between checks of the watch.
_CHECK = 3
# Checks in a row that see no thread work on an import until it is abandoned.
_MISSES = 3

# Glance 33 and later try again when the database is locked.
_patiently = getattr(glance_utils, 'retry_on_db_lock', lambda save: save())


class Heartbeat:
    """Saves one task again and again.

    :param action_wrapper: glance's ImportActionWrapper of the task's image
    :param clock: returns seconds of a monotonic clock
    """

    def __init__(self, task_repo: typing.Any, task_id: str,
                 action_wrapper: typing.Any,
                 clock: abc.Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._task_repo = task_repo
        self._task_id = task_id
        self._action_wrapper = action_wrapper
        self._saved = -math.inf

    @property
    def due(self) -> bool:
        """Whether it is time to save the task."""
        return self._clock() - self._saved >= EVERY

    @property
    def takes_news(self) -> bool:
        """Whether it is time to save the task, if there is news for users."""
        return self._clock() - self._saved >= _NEWS

    def save(self, message: str) -> None:
        """Save the task.

        :raises glance.common.exception.TaskAbortedError: if another process
            has ended the task, or taken over the image
        :raises glance.common.exception.NotFound: if either is gone
        """
        self._action_wrapper.assert_task_lock()
        found = script_utils.get_task(self._task_repo, self._task_id)
        if found is None:
            raise exception.TaskNotFound(task_id=self._task_id)
        if found.status != 'processing':
            raise exception.TaskAbortedError()
        found.message = message
        _patiently(lambda: self._task_repo.save(found))
        self._saved = self._clock()
        active_imports.saved(self._task_id)


def works_on(task: str) -> bool:
    """Return whether a thread of this process is seen to execute a task.

    Green threads, and threads of executors that are not Glance's, are not.
    """
    module = sys.modules.get('glance.async_.taskflow_executor')
    if (module is None or native.patched()
            or not glance_interfaces.usable(glance_interfaces.TASK_EXECUTOR)):
        return False
    code = module.TaskExecutor._run.__code__
    for top in sys._current_frames().values():
        frame: types.FrameType | None = top
        while frame is not None:
            if frame.f_code is code and frame.f_locals.get('task_id') == task:
                return True
            frame = frame.f_back
    return False


class Watch:
    """Saves tasks of this process's imports that were not saved for a while.

    It closes the journal of those that have ended.

    :param is_worked_on: returns whether a thread executes a task
    """

    def __init__(self, is_worked_on: abc.Callable[[str], bool] = works_on
                 ) -> None:
        self._is_worked_on = is_worked_on
        self._periodic = periodic.Periodic('glance-dcn-heartbeat',
                                           self.check, _CHECK)
        self.start = self._periodic.start

    def check(self) -> None:
        """Check each import once."""
        for going_on in active_imports.all_imports():
            try:
                self._check(going_on)
            except Exception as exc:
                LOG.warning('Task %(task)s cannot be saved now: %(error)s', {
                    'task': going_on.entry.task, 'error': exc})

    def _check(self, going_on: active_imports.Import) -> None:
        entry = going_on.entry
        task = database.task(entry.task)
        if task is None and time.time() - entry.since < _SILENCE:
            # It is just being written.
            return
        if task is None or task['status'] in database.ENDED:
            self._ended(going_on, task)
            return
        if (task['status'] != 'processing' or self._is_abandoned(going_on)
                or time.monotonic() - going_on.saved < _SILENCE):
            return
        image = database.image(entry.image)
        if image and image['properties'].get(database.LOCK) == entry.task:
            database.save_message(entry.task, going_on.message())
            active_imports.saved(entry.task)

    def _is_abandoned(self, going_on: active_imports.Import) -> bool:
        """Return whether no thread works on an import, and give it up then.

        Glance's thread may have ended while the database was away. Saved on
        and on, the task would keep its lock on the image.
        """
        if not going_on.flowing or self._is_worked_on(going_on.entry.task):
            going_on.missed = 0
            return False
        going_on.missed += 1
        if going_on.missed < _MISSES:
            return False
        LOG.error('No thread works on task %(task)s of image %(image)s, and '
                  'it has not ended: it is taken for interrupted', {
                      'task': going_on.entry.task,
                      'image': going_on.entry.image})
        active_imports.give_up(going_on.entry.task)
        return True

    def _ended(self, going_on: active_imports.Import,
               task: dict[str, typing.Any] | None) -> None:
        """Close the journal of an import, unless it has left the image locked.

        Glance does that where the flow could not be made, or rolling it back
        failed halfway; the recovery completes it.
        """
        entry = going_on.entry
        refusal, going_on.refusal = going_on.refusal, None
        if (refusal and task and task['status'] == 'failure'
                and refusal not in (task['message'] or '')):
            # Undoing it failed as well, which is all that Glance tells then.
            database.save_message(entry.task, refusal)
        image = database.image(entry.image)
        lock = image and image['properties'].get(database.LOCK)
        # It was deleted on the way, where that staged file was not known. Or a
        # limit refused the import: Glance leaves the file, and refuses to
        # stage the image again while it is there.
        if image is None or (image['status'] == 'queued' and not lock):
            folder.discard_staged(entry.path)
        if lock == entry.task:
            # Glance may be about to unlock it.
            going_on.missed = (0 if self._is_worked_on(entry.task)
                               else going_on.missed + 1)
            if going_on.missed >= _MISSES:
                LOG.error('Task %(task)s has ended and left image %(image)s '
                          'locked: the recovery rolls it back', {
                              'task': entry.task, 'image': entry.image})
                active_imports.give_up(entry.task)
            return
        if image is not None and not lock:
            self._clear_stores(entry, image)
        active_imports.end(entry.task)

    def _clear_stores(self, entry: journal.Entry,
                      image: database.Row) -> None:
        """Take off an image what was saved for a flow that never ran."""
        listed = image['properties'].get(database.IMPORTING) or ''
        if set(listed.split(',')).intersection(filter(None, entry.stores)):
            database.update(image['id'], image['status'], {
                database.IMPORTING: database.stores(
                    image, database.IMPORTING, remove=entry.stores)})
