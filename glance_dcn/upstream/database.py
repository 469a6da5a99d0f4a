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

"""Images and tasks as Glance's database has them, for the work of the dead.

It is asked as an administrator, and below Glance's domain model: that knows no
way from an import that was interrupted back to a staged image, and tells no
task's status as long as a thread might work on it.

Each function asks in the hub where eventlet has patched Glance
(:mod:`glance_dcn.runtime.green`), and then raises
:class:`glance_dcn.runtime.green.Unavailable` if that does not answer.
"""

from __future__ import annotations

from collections import abc
import contextlib
import datetime
import functools
import typing

from glance.common import exception
from glance import context
from glance import db
from glance.db.sqlalchemy import models
from oslo_config import cfg
import sqlalchemy

from glance_dcn.runtime import green
from glance_dcn.upstream import glance_db

if typing.TYPE_CHECKING:
    # Python 3.9 has none to give.
    _P = typing.ParamSpec('_P')

CONF = cfg.CONF

_T = typing.TypeVar('_T')
#: An image, a task or a location as Glance's database has it.
Row = dict[str, typing.Any]

#: Property that holds the ID of the task that has the image, and only that.
LOCK = glance_db.LOCK
#: Property that tells whose staging folder the image is in.
HOST = 'os_glance_stage_host'
#: Properties that list stores.
IMPORTING = 'os_glance_importing_to_stores'
FAILED = 'os_glance_failed_import'
#: Statuses of tasks that have ended.
ENDED = ('success', 'failure')

_admin = context.get_admin_context

# Seconds for which a native thread waits for a store to remove data.
_REMOVAL = 3600


def _in_hub(function: abc.Callable[_P, _T],
            timeout: float = green.TIMEOUT) -> abc.Callable[_P, _T]:
    """Return a function that is run where Glance's own objects may be used.

    :param timeout: seconds for which a native thread waits for it
    """
    @functools.wraps(function)
    def asked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        found: _T = green.call(functools.partial(function, *args, **kwargs),
                               timeout=timeout)
        return found
    return asked


@_in_hub
def image(image_id: str) -> Row | None:
    """Return an image, or None if it is deleted or unknown.

    ``properties`` is a dict, and ``locations`` have their URLs in clear.
    """
    try:
        found: Row = db.get_api().image_get(_admin(), image_id)
    except exception.NotFound:
        return None
    if found['deleted'] or found['status'] in ('deleted', 'pending_delete'):
        return None
    found['properties'] = {
        item['name']: item['value'] for item in found['properties']
        if not item['deleted']}
    for location in found['locations']:
        location['url'] = glance_db.clear_url(CONF, location)
    return found


@_in_hub
def last_status(image_id: str) -> str | None:
    """Return the status of an image that may be deleted, None if unknown.

    It is ``pending_delete`` while the image may still be given back.
    """
    with contextlib.suppress(exception.NotFound):
        return str(db.get_api().image_get(
            _admin(), image_id, force_show_deleted=True)['status'])
    return None


def located(found: Row) -> set[str | None]:
    """Return the stores that an image is in."""
    return {location['metadata'].get('store')
            for location in found['locations']
            if location['status'] == 'active'}


@_in_hub
def task(task_id: str) -> Row | None:
    """Return a task, or None if it is deleted or unknown."""
    try:
        found: Row = db.get_api().task_get(_admin(), task_id)
    except exception.NotFound:
        return None
    # An administrator is shown deleted ones too.
    return None if found.get('deleted') else found


def save_message(task_id: str, message: str) -> None:
    """Save the message of a task that goes on, and nothing else of it.

    Its status stays as the thread that works on it has just set it.
    """
    _update_task(task_id, {'message': message})


def begin_processing(task_id: str, message: str) -> None:
    """Set a task to processing, with a message."""
    _update_task(task_id, {'status': 'processing', 'message': message})


def fail_task(task_id: str, message: str) -> None:
    """Set a task to failure, unless it has ended."""
    _end(task_id, {'status': 'failure', 'message': message})


def complete_task(task_id: str, image_id: str) -> None:
    """Set a task to success, unless it has ended."""
    _end(task_id, {'status': 'success', 'result': {'image_id': image_id}})


def _end(task_id: str, values: Row) -> None:
    known = task(task_id)
    if known is None or known['status'] in ENDED:
        return
    lives = datetime.timedelta(hours=CONF.task.task_time_to_live)
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    _update_task(task_id, dict(values, expires_at=now + lives))


@_in_hub
def _update_task(task_id: str, values: Row) -> None:
    # It takes out of the dict what it has dealt with.
    db.get_api().task_update(_admin(), task_id, dict(values))


@_in_hub
def update(image_id: str, from_status: str,
           properties: dict[str, str] | None = None,
           **values: typing.Any) -> None:
    """Change attributes and properties of an image of a status.

    :raises glance.common.exception.Conflict: if it has another status
    :raises glance.common.exception.NotFound: if it is gone
    """
    values = dict({'status': from_status}, **values)
    if properties:
        values['properties'] = properties
    db.get_api().image_update(_admin(), image_id, values,
                              from_state=from_status)


@_in_hub
def drop_location(image_id: str, location: Row) -> None:
    """Take a location off an image; its data is not touched."""
    with contextlib.suppress(exception.NotFound):
        db.get_api().image_location_delete(_admin(), image_id,
                                           location['id'], 'deleted')


@_in_hub
def drop_property(image_id: str, name: str, value: str) -> None:
    """Take a property off an image, if it has that value."""
    with contextlib.suppress(exception.NotFound):
        db.get_api().image_delete_property_atomic(image_id, name, value)


def stores(found: Row, prop: str, add: abc.Iterable[str | None] = (),
           remove: abc.Iterable[str | None] = ()) -> str:
    """Return a property that lists stores, with some more and some fewer.

    :param prop: IMPORTING or FAILED
    """
    names = {name for name in found['properties'].get(prop, '').split(',')
             if name}
    return ','.join(sorted((names | set(filter(None, add))) - set(remove)))


def move_stores(found: Row, stores_: abc.Collection[str | None],
                failed: abc.Iterable[str | None]) -> dict[str, str]:
    """Return both properties when an import to some stores has ended.

    :param failed: of the stores, those that did not get the image
    """
    return {IMPORTING: stores(found, IMPORTING, remove=stores_),
            FAILED: stores(found, FAILED, add=failed)}


def may_copy() -> bool:
    """Return whether images may be copied between stores."""
    return bool(CONF.enabled_backends) and (
        'copy-image' in CONF.enabled_import_methods)


@_in_hub
def replace_lock(image_id: str, before: str | None, after: str) -> bool:
    """Give the lock on an image to another task.

    It is locked all the while: Glance's functions could only delete the one
    lock and then set the other, and between them the image would look free.

    :param before: ID of the task that has it, or None if none has
    :param after: ID of the task that shall have it
    :returns: whether that has it; another may have taken it
    """
    api = db.get_api()
    if before is None:
        try:
            api.image_set_property_atomic(image_id, LOCK, after)
        except exception.Duplicate:
            return False
        return True
    table = models.ImageProperty.__table__
    with api.get_engine().begin() as connection:
        return bool(connection.execute(table.update().where(
            table.c.image_id == image_id, table.c.name == LOCK,
            table.c.value == before, table.c.deleted == sqlalchemy.false()
        ).values(value=after)).rowcount == 1)


def own_url() -> str | None:
    """Return the URL by which other workers reach this one, or None."""
    url: str | None = CONF.worker_self_reference_url or CONF.public_endpoint
    return url


@functools.partial(_in_hub, timeout=_REMOVAL)
def remove_data(image_id: str, location: Row) -> None:
    """Have a store remove the data of a location that was dropped.

    :raises Exception: whatever the store raises if it stays
    """
    from glance.common import store_utils
    store_utils.delete_image_location_from_backend(
        _admin(), image_id, {'url': location['url'],
                             'metadata': location['metadata'],
                             'status': 'active'})
