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


"""``dcn_distributed_staging``: imports whose end does not hang on a worker.

First in ``image_import_plugins``. Glance asks a plugin for its tasks when it
has just taken up an import and before any of it is done, the download of
``web-download`` included: that is when the journal is opened, the heartbeat
begun, and the room in the staging folder looked at.
"""

import logging

from glance.common import exception
from oslo_config import cfg
from taskflow.patterns import linear_flow
from taskflow import task

from glance_dcn.flows import heartbeat
from glance_dcn.flows import options
from glance_dcn.flows import preflight
from glance_dcn import glance_interfaces
from glance_dcn import plugins
from glance_dcn.sites import owed
from glance_dcn.staging import database
from glance_dcn.staging import folder
from glance_dcn.staging import journal
from glance_dcn.staging import running

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

options.register(CONF)


def get_flow(**kwargs):
    """Return the flow that notes that the image is staged.

    :param task_id: ID of the task
    :param task_type: type of the task
    :param task_repo: repository of tasks
    :param backend: list of target stores
    :param action_wrapper: glance.async_.flows.api_image_import's
        ImportActionWrapper
    :param import_req: body of the request
    """
    going_on = announce(kwargs)
    if going_on is not None and going_on.entry.phase == journal.DOWNLOADING:
        method = kwargs['import_req']['method']
        going_on.held.note(size=preflight.download_size(method))
    try:
        if going_on is not None:
            preflight.check(going_on.entry)
    except preflight.NoRoom as exc:
        _refuse(kwargs, str(exc))
    return linear_flow.Flow(kwargs['task_type']).add(
        _Staged(kwargs['task_id'], kwargs['task_type'],
                kwargs['action_wrapper'], kwargs['backend']))


def announce(kwargs):
    """Open the journal of an import or a copy, and begin its heartbeat.

    :param kwargs: of get_flow()
    :returns: :class:`glance_dcn.staging.running.Import`; None if the plugin
        is not used, or no journal can be kept
    """
    if not (plugins.staging_is_used(CONF)
            and glance_interfaces.usable(glance_interfaces.DATABASE)
            and glance_interfaces.usable(glance_interfaces.IMAGE_LOCK)):
        return None
    found = folder.of(CONF)
    if found is None:
        return None
    heartbeat.watch.start()
    known = running.get(kwargs['task_id'])
    if known is None:
        known = running.begin(found, _entry(kwargs))
        if known is not None:
            known.flowing = heartbeat.works_on(kwargs['task_id'])
        return known
    known.flowing = heartbeat.works_on(kwargs['task_id'])
    # One that was broken off before this is begun again as staged.
    if known.entry.phase == journal.ACCEPTED or not known.entry.formats:
        entry = _entry(kwargs)
        known.enter(known.entry.phase if known.entry.attempts
                    else entry.phase, formats=entry.formats, size=entry.size)
    return known


def _entry(kwargs):
    image_id = kwargs['action_wrapper'].image_id
    method = kwargs['import_req']['method']['name']
    image = database.image(image_id) or {}
    formats = {name: image.get(name)
               for name in ('disk_format', 'container_format')}
    phase = {'glance-direct': journal.STAGED,
             'copy-image': journal.COPYING}.get(method, journal.DOWNLOADING)
    return journal.Entry(
        task=kwargs['task_id'], image=image_id, method=method,
        stores=list(kwargs['backend']),
        path=folder.staged(CONF, image_id), phase=phase, formats=formats,
        size=image.get('size'), by=owed.whoami())


def _refuse(kwargs, reason):
    """End an import that has not begun, with a message.

    As stock does it for quotas. Glance then finds the lock gone, and begins
    nothing; what is staged stays, and the image as it was.
    """
    wrapper = kwargs['action_wrapper']
    LOG.warning('The import of image %(image)s is refused: %(reason)s', {
        'image': wrapper.image_id, 'reason': reason})
    with wrapper as action:
        action.add_failed_stores(kwargs['backend'])
    database.fail(kwargs['task_id'], reason)
    running.end(kwargs['task_id'])
    try:
        wrapper.drop_lock_for_task()
    except exception.NotFound:
        LOG.debug('Task %s had lost its lock', kwargs['task_id'])


def put_back(wrapper, stores):
    """Let an image be as it was when it had been staged.

    For an import that is given up before anything was changed. Glance's
    domain model knows no way from there back to a staged image.

    :param wrapper: ImportActionWrapper of the import
    :param stores: its target stores
    :returns: whether it was done; False where the plugin is not used
    """
    going_on = running.of(wrapper.image_id)
    if going_on is None:
        return False
    wrapper.assert_task_lock()
    image = database.image(wrapper.image_id)
    properties = {
        database.IMPORTING: database.stores(image, database.IMPORTING,
                                            remove=stores),
        database.FAILED: database.stores(image, database.FAILED, add=stores)}
    if database.own_url():
        properties[database.HOST] = database.own_url()
    database.update(wrapper.image_id, image['status'], properties,
                    status='uploading',
                    size=folder.size(going_on.entry.path))
    return True


class _Staged(task.Task):
    """Notes that the staged data is complete."""

    def __init__(self, task_id, task_type, action_wrapper, stores):
        super().__init__(name='%s-Staged-%s' % (task_type, task_id))
        self._action_wrapper = action_wrapper
        self._stores = list(stores)

    def execute(self):
        """Note it in the journal."""
        running.enter(self._action_wrapper.image_id, journal.STAGED)

    def revert(self, result, **kwargs):
        """Let an image that was uploaded be imported again.

        Stock leaves it ``importing`` when no store could take it.
        """
        image = database.image(self._action_wrapper.image_id)
        going_on = running.of(self._action_wrapper.image_id)
        if (image is None or going_on is None
                or going_on.entry.method != 'glance-direct'
                or image['status'] != 'importing' or image['locations']
                or folder.size(going_on.entry.path) is None):
            return
        try:
            put_back(self._action_wrapper, self._stores)
        except (exception.NotFound, exception.Conflict,
                exception.TaskAbortedError) as exc:
            LOG.info('Image %(image)s stays as it is: %(error)s', {
                'image': image['id'], 'error': exc})
