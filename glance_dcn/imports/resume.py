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

"""Resuming an import, with Glance's own task executor.

The task is the one that was interrupted: its owner and its user, its ID and
with that the lock that it has on the image stay. It begins where the staged
data is complete, whatever way it came there, and goes through every task of
the flow that does not bring it: plugins, stores, the end. Nothing of it
depends on the one who began it but the user's token, which is needed to prove
signatures; images that have one are not resumed.
"""

from __future__ import annotations

from collections import abc
import copy
import logging
import typing

from glance.api import common
from glance.async_ import taskflow_executor
from glance.common import exception
from glance import context
from glance import gateway
from oslo_config import cfg

from glance_dcn.imports import active_imports
from glance_dcn.runtime import green
from glance_dcn.upstream import database

if typing.TYPE_CHECKING:
    from glance_dcn.imports import journal

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

# Seconds for which a native thread of a patched process waits until the import
# has begun. Only a hub that answers nothing at all takes long.
_BEGINNING = 24 * 3600


def begin(held: journal.Held, stores: abc.Sequence[str | None]) -> None:
    """Resume an import, in a thread of Glance's.

    :raises Exception: if it cannot be begun; it is not held any more then
    """
    # Until it is known whether it has begun, the caller holds the entry.
    green.call(_begin, held, stores, timeout=_BEGINNING)


def _begin(held: journal.Held, stores: abc.Sequence[str | None]) -> None:
    entry = held.entry
    # It may have waited for its turn when its worker ended.
    database.begin_processing(entry.task, 'Resumed after its worker had ended')
    task = database.task(entry.task)
    if task is None:
        raise exception.TaskNotFound(task_id=entry.task)
    executor = _executor(task, entry.method, stores)
    active_imports.adopt(held)
    try:
        common.get_thread_pool('tasks_pool').spawn(_run, executor, entry.task)
    except BaseException:
        active_imports.give_up(entry.task)
        raise


def _run(executor: _ResumedExecutor, task_id: str) -> None:
    try:
        executor._run(task_id, 'api_image_import')
    except Exception as exc:
        # Glance has logged it and set the task to failure.
        LOG.debug('Task %(task)s has failed once more: %(error)s', {
            'task': task_id, 'error': exc})


def _executor(task: database.Row, method: str,
              stores: abc.Sequence[str | None]) -> _ResumedExecutor:
    own = _context(task)
    gate = gateway.Gateway()
    copies = method == 'copy-image'
    # However it came there, the data is staged.
    method = method if copies else 'glance-direct'
    return _ResumedExecutor(
        method, stores, own, gate.get_task_repo(own), gate.get_repo(own),
        gate.get_image_factory(own),
        admin_repo=gate.get_repo(_context(task)) if copies else None)


def _context(task: database.Row) -> context.RequestContext:
    """Return the context of a task's owner, with the rights of an admin."""
    return context.RequestContext(
        user_id=task.get('user_id'), project_id=task['owner'],
        request_id=task.get('request_id'), is_admin=True,
        roles=['admin', 'member', 'reader'], overwrite=False)


class _ResumedExecutor(taskflow_executor.TaskExecutor):
    """Runs a task with what is left to do of it.

    :param method: ``glance-direct`` or ``copy-image``
    """

    def __init__(self, method: str, stores: abc.Sequence[str | None],
                 *args: typing.Any, **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        self._method = method
        self._stores = stores

    def _get_flow(self, task: typing.Any) -> typing.Any:
        left = copy.deepcopy(task.task_input)
        left['backend'] = list(self._stores)
        left['import_req']['method'] = {'name': self._method}
        # Not saved: neither Glance nor the heartbeat writes the input.
        task.task_input = left
        return super()._get_flow(task)
