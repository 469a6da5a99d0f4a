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

"""Keeps the task of an import alive, and tells users how far it is.

A task that was not saved for an hour is taken for dead, and another request
may steal its lock on the image; users see the message that is saved with it.
"""

import time

from glance.common import exception
from glance.common.scripts import utils as script_utils
from glance.common import utils as glance_utils

# Seconds between saves.
EVERY = 10

# Glance 33 and later do not give up at once when the database is locked.
_patiently = getattr(glance_utils, 'retry_on_db_lock', lambda save: save())


class Heartbeat:
    """Saves one task again and again.

    :param task_repo: repository of tasks
    :param task_id: ID of the task
    :param action_wrapper: glance.async_.flows.api_image_import's
        ImportActionWrapper, of the image the task works on
    """

    def __init__(self, task_repo, task_id, action_wrapper):
        self._task_repo = task_repo
        self._task_id = task_id
        self._action_wrapper = action_wrapper
        self._saved = None

    @property
    def due(self):
        """Whether it is time to save the task."""
        return (self._saved is None
                or time.monotonic() - self._saved >= EVERY)

    def save(self, message):
        """Save the task.

        :param message: what users are told
        :raises glance.common.exception.TaskAbortedError: if somebody else
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
        self._saved = time.monotonic()
