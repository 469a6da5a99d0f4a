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

"""Taking note of imports as soon as they are accepted.

Between the request and the moment at which Glance makes the flow of an import
the task waits for its turn, for moments or, where many imports go on, for
long; the image is locked for it already. What is heard of it is that the
database writes it down: SQLAlchemy tells the process that does.
"""

from __future__ import annotations

import logging
import typing

from oslo_config import cfg

from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.tasks import task as tasks

LOG = logging.getLogger(__name__)

_conf: cfg.ConfigOpts | None = None


def listen(conf: cfg.ConfigOpts) -> None:
    """Take note of imports from now on; once more does no harm."""
    global _conf
    if _conf is None:
        from glance.db.sqlalchemy import models
        from sqlalchemy import event
        event.listen(models.TaskInfo, 'after_insert', _inserted)
    _conf = conf


def _inserted(_mapper: object, _connection: object, info: typing.Any) -> None:
    """Open the journal; nothing is raised, for Glance would."""
    try:
        _accept(info.task_id, info.input)
    except Exception:
        LOG.exception('Task %s has no journal until it begins', info.task_id)


def _accept(task: str, asked: dict[str, typing.Any] | None) -> None:
    request = asked and asked.get('import_req')
    if _conf is None or not asked or not request:
        # Another type of task, say.
        return
    found = folder.of(_conf)
    if found is None:
        return
    entry = journal.Entry(
        task=task, image=asked['image_id'],
        method=request['method']['name'],
        stores=list(asked['backend']),
        path=folder.staged(_conf, asked['image_id']),
        phase=journal.ACCEPTED, by=tasks.host_and_process())
    active_imports.begin(found, entry)
    if entry.method == 'glance-direct':
        # It is all there, and the import may wait for long.
        active_imports.vouch(entry.image, journal.ACCEPTED, entry.path,
                             journal.AS_STAGED)
