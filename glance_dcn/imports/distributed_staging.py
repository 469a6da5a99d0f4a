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
begun, and what would make the import fail is checked: whether each store can
be written to, the staging folder has room, and Glance would save an image of
its size.

A download is as long as its server says. What a conversion takes is measured
by ``dcn_image_conversion`` before it writes any of it, when the image is
there; until then it is taken to be what the image takes, which is about right
for images that are not compressed.
"""

from __future__ import annotations

from collections import abc
from concurrent import futures
import logging
import os
import typing
import urllib.error
import urllib.request

from glance.common import exception
from glance.common import utils as glance_utils
import glance_store
from oslo_config import cfg
from oslo_utils import units
from taskflow.patterns import linear_flow
from taskflow import task

from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import heartbeat
from glance_dcn.imports import journal
from glance_dcn.imports import options
from glance_dcn.imports import recovery
from glance_dcn.runtime import process
from glance_dcn.sites import site as sites
from glance_dcn.tasks import task as tasks
from glance_dcn.upstream import database
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins

CONF = cfg.CONF
CONF.import_opt('image_size_cap', 'glance.common.config')
LOG = logging.getLogger(__name__)

options.register(CONF)

# Seconds a server has for telling the length of a download.
_PATIENCE = 10
_CONVERSIONS = ('dcn_image_conversion', 'image_conversion')
# Formats that are not converted.
_KEPT = ('iso', 'aki', 'ari', 'ami')


def get_flow(**kwargs: typing.Any) -> linear_flow.Flow:
    """Return the flow that records that the image is staged.

    :param kwargs: see :func:`glance_dcn.imports.copy_image.get_flow`
    """
    remove_duplicates(kwargs['backend'])
    going_on = announce(kwargs)
    if going_on is not None:
        check(kwargs, going_on)
    return linear_flow.Flow(kwargs['task_type']).add(
        _Staged(kwargs['task_id'], kwargs['task_type'],
                kwargs['action_wrapper'], kwargs['backend']))


def check(kwargs: dict[str, typing.Any], going_on: active_imports.Import,
          free: abc.Callable[[str], int] = folder.free) -> None:
    """End an import that cannot succeed.

    :param kwargs: see :func:`get_flow`
    :param free: as for :func:`check_room`
    """
    request = kwargs['import_req']
    if going_on.entry.phase == journal.DOWNLOADING:
        going_on.held.note(size=download_size(request['method']))
    try:
        check_room(going_on.entry, free)
        check_access(kwargs['backend'],
                     request.get('all_stores_must_succeed', True))
    except Refused as exc:
        _refuse(kwargs, str(exc))


def announce(kwargs: dict[str, typing.Any]) -> active_imports.Import | None:
    """Open the journal of an import or a copy, and begin its heartbeat.

    :returns: None if the plugin is not used, or no journal can be kept
    """
    found = (journal.of(CONF) if plugins.staging_is_used(CONF)
             and recovery.is_possible() else None)
    if found is None:
        return None
    process.get(heartbeat.Watch).start()
    known = active_imports.get(kwargs['task_id'])
    begun = known or active_imports.begin(found, _entry(kwargs))
    if begun is not None:
        begun.flowing = heartbeat.works_on(kwargs['task_id'])
    if known is None:
        return begun
    # One that was interrupted before this is resumed as staged.
    if known.entry.phase == journal.ACCEPTED or not known.entry.formats:
        entry = _entry(kwargs)
        known.enter(known.entry.phase if known.entry.attempts
                    else entry.phase, formats=entry.formats, size=entry.size)
    return known


def _entry(kwargs: dict[str, typing.Any]) -> journal.Entry:
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
        size=image.get('size'), by=tasks.host_and_process())


def _refuse(kwargs: dict[str, typing.Any], reason: str) -> None:
    """End an import that has not begun, with a message.

    As stock does for quotas: Glance then finds the lock gone, and begins
    nothing; what is staged stays, and the image as it was.
    """
    wrapper = kwargs['action_wrapper']
    LOG.warning('The import of image %(image)s is refused: %(reason)s', {
        'image': wrapper.image_id, 'reason': reason})
    with wrapper as action:
        action.add_failed_stores(kwargs['backend'])
    try:
        wrapper.drop_lock_for_task()
    except exception.NotFound:
        LOG.debug('Task %s had lost its lock', kwargs['task_id'])
    # A user who sees that the task has failed may try again at once.
    database.fail_task(kwargs['task_id'], reason)
    active_imports.end(kwargs['task_id'])


def roll_back(wrapper: typing.Any, stores: abc.Collection[str | None],
              keep: bool = True) -> bool:
    """Return an image to where it was when it had been staged.

    Glance's domain model knows no way from there back to a staged image.

    :param wrapper: ImportActionWrapper of the import
    :param keep: whether the staged data is good; otherwise it is discarded,
        and the image is as before it was staged
    :returns: whether it was done; False where the plugin is not used
    :raises glance.common.exception.NotFound: if the image was deleted
    """
    going_on = active_imports.of(wrapper.image_id)
    if going_on is None:
        return False
    wrapper.assert_task_lock()
    image = database.image(wrapper.image_id)
    if image is None:
        raise exception.ImageNotFound(image_id=wrapper.image_id)
    properties = database.move_stores(image, stores, stores)
    url = database.own_url()
    if keep and url:
        properties[database.HOST] = url
    path = going_on.entry.path
    if not keep:
        folder.discard_staged(path)
    database.update(wrapper.image_id, image['status'], properties,
                    status='uploading' if keep else 'queued',
                    size=folder.size(path))
    return True


class _Staged(task.Task):
    """Records that the staged data is complete."""

    def __init__(self, task_id: str, task_type: str,
                 action_wrapper: typing.Any,
                 stores: abc.Iterable[str | None]) -> None:
        super().__init__(name='%s-Staged-%s' % (task_type, task_id))
        self._action_wrapper = action_wrapper
        self._stores = list(stores)
        self._is_bad = False

    def execute(self) -> None:
        """Record it in the journal, and have the data synced.

        :raises glance.common.exception.UploadException: if the data has the
            wrong length, or may have been lost in a restart of the host
        """
        going_on = active_imports.of(self._action_wrapper.image_id)
        if going_on is None:
            return
        entry = going_on.entry
        image = database.image(entry.image) or {}
        self._check_length(entry, image)
        self._check_age(entry)
        # What is resumed may have been converted before.
        kind, origin = image.get('disk_format'), entry.formats.get(
            'disk_format')
        active_imports.vouch(entry.image, journal.STAGED, entry.path,
                             kind if origin not in (None, kind)
                             else journal.AS_STAGED)

    def _check_length(self, entry: journal.Entry,
                      image: database.Row) -> None:
        found = folder.size(entry.path)
        downloads = entry.method in journal.DOWNLOADS
        # What is resumed was counted before, and may be converted since.
        expected = (image.get('size') if not downloads or entry.attempts
                    else entry.size)
        # Another plugin may have changed it before.
        if (found is None or not expected or found == expected
                or CONF.image_import_opts.image_import_plugins[:1]
                != [plugins.STAGING]):
            return
        LOG.error('Image %(image)s: staged file %(path)s has %(found)d bytes '
                  'instead of %(expected)d; the import ends', {
                      'image': entry.image, 'path': entry.path,
                      'found': found, 'expected': expected})
        self._is_bad = True
        raise exception.UploadException(
            ('The import cannot go on: %d bytes were staged, and %d were '
             'announced by the server of the download. Repeat the import.'
             if downloads else
             'The import cannot go on: %d bytes were staged, and %d were '
             'uploaded. Stage the image again.') % (found, expected))

    def _check_age(self, entry: journal.Entry) -> None:
        """Refuse what was uploaded before the host was restarted."""
        # What is resumed was proven by then.
        if entry.method != 'glance-direct' or entry.attempts:
            return
        try:
            if not folder.is_older_than_boot(entry.path):
                return
        except OSError:
            # Stock says that it is not there.
            return
        LOG.error('Image %(image)s: staged file %(path)s was uploaded before '
                  'this host was restarted, and nothing proves that all of '
                  'it is still there; the import ends', {
                      'image': entry.image, 'path': entry.path})
        self._is_bad = True
        raise exception.UploadException(
            'The import cannot go on: the host was restarted after the image '
            'was uploaded, and nothing proves that its data is still there. '
            'Stage the image again.')

    def revert(self, result: object, **kwargs: object) -> None:
        """Let an uploaded image, which stock leaves importing, be imported."""
        image = database.image(self._action_wrapper.image_id)
        going_on = active_imports.of(self._action_wrapper.image_id)
        if (image is None or going_on is None
                or going_on.entry.method != 'glance-direct'
                or image['status'] != 'importing' or image['locations']
                or folder.size(going_on.entry.path) is None):
            return
        try:
            roll_back(self._action_wrapper, self._stores,
                      keep=not self._is_bad)
        except (exception.NotFound, exception.Conflict,
                exception.TaskAbortedError) as exc:
            LOG.info('Image %(image)s stays as it is: %(error)s', {
                'image': image['id'], 'error': exc})


class Refused(Exception):
    """The import cannot succeed."""


class NoRoom(Refused):
    """The import would not fit."""


class TooLarge(Refused):
    """The image is larger than Glance saves one."""


class NoAccess(Refused):
    """A store cannot be written to by this Glance."""


def site_of(store: str | None) -> sites.Site | None:
    """Return the site of a store by its identifier.

    There is none of other types, nor of the only store of a Glance, which has
    no identifier.
    """
    if not store or not CONF.enabled_backends:
        return None
    try:
        driver = glance_store.get_store_from_store_identifier(store)
    except glance_store.UnknownScheme:
        return None
    found = getattr(driver, 'site', None)
    return found if isinstance(found, sites.Site) else None


def check_access(names: abc.Collection[str | None], all_must_succeed: bool,
                 find: abc.Callable[[str | None], sites.Site | None] = site_of
                 ) -> None:
    """Check that this Glance may write in enough of the stores of an import.

    :param names: of the stores; those of other types than ``dcn`` pass
    :param all_must_succeed: whether all of them are needed, or one
    :param find: returns the site of a store, or None
    :raises NoAccess: if it may only read in too many
    """
    sites = [site for site in map(find, names) if site]
    with futures.ThreadPoolExecutor(max(1, len(sites))) as pool:
        denied = list(filter(None, pool.map(
            lambda site: site.access.refusal(), sites)))
    if denied and (all_must_succeed or len(denied) == len(names)):
        raise NoAccess('; '.join(map(str, denied)))


def check_room(entry: journal.Entry,
               free: abc.Callable[[str], int] = folder.free) -> None:
    """Check that there is room for an import.

    :param free: returns the bytes that are free in a folder
    :raises NoRoom: if there is not
    :raises TooLarge: if the download passes ``image_size_cap``
    """
    staging = os.path.dirname(entry.path)
    try:
        space = free(staging)
        if entry.phase == journal.DOWNLOADING:
            download = image = entry.size or 0
        else:
            download, image = 0, os.stat(entry.path).st_blocks * 512
    except OSError as exc:
        LOG.info('Whether image %(image)s fits cannot be told: %(error)s', {
            'image': entry.image, 'error': exc})
        return
    converts = _converts(entry.formats.get('disk_format'))
    if download > CONF.image_size_cap and not converts:
        raise TooLarge(
            'The download has %d bytes, and an image may have %d '
            '(image_size_cap).' % (download, CONF.image_size_cap))
    conversion = image if converts else 0
    need = download + conversion
    if need > space:
        parts = ', '.join(
            '%s for its %s' % (_mib(size), what) for size, what in (
                (download, 'download'), (conversion, 'conversion')) if size)
        raise NoRoom(
            'There is no room to import the image: %s of staging space are '
            'needed (%s), and %s are free: %d bytes are missing. Try again '
            'later, or ask the operator for more staging space.'
            % (_mib(need), parts, _mib(space), need - space))


def _mib(size: int) -> str:
    return '%d MiB' % -(-size // units.Mi)


def _converts(disk_format: str | None) -> bool:
    plugins = CONF.image_import_opts.image_import_plugins
    group = getattr(CONF, 'image_conversion', None)
    wanted = getattr(group, 'output_format', 'raw')
    return (any(name in plugins for name in _CONVERSIONS)
            and disk_format not in (wanted, *_KEPT))


def _is_allowed(uri: str) -> bool:
    check = getattr(glance_utils, 'validate_uri', None) or getattr(
        glance_utils, 'validate_import_uri', None)
    return check is not None and bool(check(uri))


def download_size(
        method: dict[str, typing.Any],
        is_allowed: abc.Callable[[str], bool] = _is_allowed,
        build_opener: abc.Callable[..., urllib.request.OpenerDirector] = (
            urllib.request.build_opener)) -> int | None:
    """Return the bytes of a download, or None if its server does not tell.

    It is asked under the rules that Glance downloads by, without redirection.

    :param is_allowed: returns whether users may have an address opened
    """
    uri = method.get('uri') or ''
    if (method['name'] != 'web-download'
            or not uri.startswith(('http://', 'https://'))
            # What goes wrong with an address is logged: no password in it.
            or '@' in uri.split('/')[2]
            # Not asked at all is better than asked less safely than Glance
            # itself does it.
            or not glance_interfaces.usable(glance_interfaces.DOWNLOADS)
            or not is_allowed(uri)):
        return None
    opener = build_opener(_StayThere, *glance_interfaces.download_handlers())
    request = urllib.request.Request(uri, method='HEAD')  # noqa: S310
    try:
        with opener.open(request, timeout=_PATIENCE) as answer:
            size = int(answer.headers.get('Content-Length') or 0)
            return size if size > 0 else None
    except (OSError, ValueError, urllib.error.URLError) as exc:
        LOG.info('The length of a download cannot be told: %s', exc)
    except Exception as exc:
        # Whatever is wrong with the server: the download is to say so. What
        # http.client says may have the password of an address in it.
        LOG.info('The server of a download does not answer properly: %s',
                 type(exc).__name__)
    return None


class _StayThere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection."""

    def redirect_request(self, *unused: object) -> None:
        """Return no request: the answer counts as an error."""


def remove_duplicates(stores: list[str | None]) -> None:
    """Remove stores that a list names twice, in place.

    An import cannot begin with two tasks of one name, and two writers of one
    image would fight.
    """
    stores[:] = dict.fromkeys(stores)
