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

"""``copy-image``, straight from cluster to cluster.

It replaces stock's internal plugin of the same name. Targets that are ``dcn``
stores are taken off the list that Glance makes its tasks of, and copied by one
task of ours; the rest is left to stock's own plugin.
"""

from __future__ import annotations

from collections import abc
import logging
import time
import typing

from glance.api import common
from glance.async_.flows._internal_plugins import copy_image as stock
from glance.common import exception
import glance_store
from oslo_config import cfg
from oslo_utils import units
from taskflow.patterns import linear_flow
from taskflow import task
from taskflow.types import failure

from glance_dcn.imports import distributed_staging
from glance_dcn.imports import heartbeat
from glance_dcn.imports import options
from glance_dcn.imports import scan
from glance_dcn.runtime import process
from glance_dcn.sites import copying
from glance_dcn.sites import site as sites
from glance_dcn.sites import sources
from glance_dcn.sites import targets as targets_
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

options.register(CONF)

# The algorithm of Glance's ``checksum``.
_CHECKSUM = 'md5'


class _Taken(dict[str, 'list[str]']):
    """Targets taken over, by task ID, until the task runs.

    Glance may ask for the flow of a task again, with the list already
    shortened.
    """


class _Told(set[str]):
    """What was logged, once in a process."""


def get_flow(**kwargs: typing.Any) -> linear_flow.Flow:
    """Return the flow that gets an image to where stock can go on.

    :param backend: list of target stores; those taken over are removed
    :param action_wrapper: glance's ImportActionWrapper
    """
    flow = linear_flow.Flow(kwargs['task_type'])
    distributed_staging.remove_duplicates(kwargs['backend'])
    distributed_staging.announce(kwargs)
    targets = _take_over(kwargs)
    if targets:
        flow.add(_CopyDirectly(
            kwargs['task_id'], kwargs['task_type'], kwargs['task_repo'],
            kwargs['action_wrapper'], targets,
            kwargs['import_req'].get('all_stores_must_succeed', True),
            alone=not kwargs['backend']))
    if kwargs['backend'] or not targets:
        flow.add(stock.get_flow(**kwargs))
    return flow


def _take_over(kwargs: dict[str, typing.Any]) -> list[str]:
    """Remove the targets that are ours from the list, and return them."""
    wanted, task_id = kwargs['backend'], kwargs['task_id']
    taken = process.get(_Taken)
    if task_id in taken:
        wanted[:] = [store for store in wanted if store not in taken[task_id]]
        _undo_with_lock(kwargs['action_wrapper'], task_id)
        return taken[task_id]
    if not (CONF.glance_dcn.direct_copy
            and glance_interfaces.usable(glance_interfaces.IMPORT_ACTIONS)
            and glance_interfaces.usable(glance_interfaces.IMAGE_LAYERS)):
        return []
    if not plugins.ours_wins('copy_image'):
        _say_once('order', 'Images are copied by stock Glance: its copy_image '
                  'plugin comes after the one of glance_dcn in this process.')
        return []
    targets = [store for store in wanted if distributed_staging.site_of(store)]
    for store in set(wanted) - set(targets):
        _say_once(store, 'Copies to store %s are left to stock Glance: it is '
                  'no dcn store.', store)
    if not targets:
        return []
    with kwargs['action_wrapper'] as action:
        if not _sources(action.image_locations):
            _say_once('source', 'Image %s and others like it are copied by '
                      'stock Glance: they lie in no dcn store of this Glance.',
                      action.image_id)
            return []
        if action._image.size == 0:
            # Glance refuses locations of size 0, save those that it makes
            # by storing something.
            return []
        try:
            glance_interfaces.image_layers(action._image)
        except glance_interfaces.Missing as exc:
            # Its quotas would undo the copy when all data has moved.
            _say_once('layers', 'Images are copied by stock Glance: it is not '
                      'known how to add a location: %s', exc)
            return []
        # It counts for what is asked next.
        action.add_importing_stores(targets)
        size = action._image.size or 0
    if not _stays_within_limits(kwargs, targets, size):
        return []
    with kwargs['action_wrapper'] as action:
        action.remove_failed_stores(targets)
    for store in targets:
        wanted.remove(store)
    taken[task_id] = targets
    _undo_with_lock(kwargs['action_wrapper'], task_id)
    return targets


def _undo_with_lock(wrapper: typing.Any, task_id: str) -> None:
    """Take targets off the image if its lock is dropped before they are used.

    Glance asks for the limits of Keystone once more when the flow is made:
    another request may have reached one meanwhile. It then takes off the
    stores that are left in the list, and drops the lock. So it does where it
    reverts the flow before the task of the targets has run.

    :param wrapper: ImportActionWrapper, of this one flow
    """
    drop_lock = wrapper.drop_lock_for_task

    def undo_and_drop_lock() -> None:
        try:
            targets = process.get(_Taken).pop(task_id, None)
            if targets:
                with wrapper as action:
                    action.remove_importing_stores(targets)
        finally:
            drop_lock()
    wrapper.drop_lock_for_task = undo_and_drop_lock


def _stays_within_limits(kwargs: dict[str, typing.Any], targets: list[str],
                         size: int) -> bool:
    """Return whether a copy may begin; take its targets off if not.

    Stock refuses it then, and takes back only what it has saved itself, and
    nothing where Keystone does not answer: there is no flow yet.
    """
    within = False
    try:
        within = _is_within_limits(kwargs, size)
    finally:
        if not within:
            with kwargs['action_wrapper'] as action:
                action.remove_importing_stores(targets)
    return within


def _is_within_limits(kwargs: dict[str, typing.Any], size: int) -> bool:
    """Return whether the limits of Keystone let an image be copied.

    Stock asks once the flow is made: a flow that it refuses never runs, and
    nothing undoes what was saved for it.
    """
    if not getattr(CONF, 'use_keystone_limits', False):
        return True
    # Not before Glance 24, which has no such option either.
    from glance.quota import keystone
    context = kwargs['context']
    try:
        keystone.enforce_image_staging_total(context, context.owner,
                                             delta=size // units.Mi)
        keystone.enforce_image_count_uploading(context, context.owner)
    except exception.LimitExceeded as exc:
        LOG.info('Image %(image)s is not copied: %(error)s', {
            'image': kwargs['action_wrapper'].image_id, 'error': exc})
        return False
    return True


def _sources(locations: abc.Iterable[typing.Any], conf: typing.Any = CONF,
             find: abc.Callable[[str | None], sites.Site | None] = (
                 distributed_staging.site_of)) -> list[sources.Source]:
    """Return the sources of an image, in the order to try them."""
    found, weights = [], {}
    for location in locations:
        store = location['metadata'].get('store')
        site = find(store)
        if site is None:
            continue
        place = glance_store.location.get_location_from_uri_and_backend(
            location['url'], store).store_location
        weights[store] = getattr(getattr(conf, store), 'weight', 0)
        found.append(sources.Source(site, place.pool, place.image,
                                    place.snapshot))
    return sources.ordered(found, conf.glance_store.default_backend, weights)


def _site(store: str) -> sites.Site:
    """Return the site of a store that was taken over.

    :raises glance.common.exception.UploadException: if the store was removed
    """
    site = distributed_staging.site_of(store)
    if site is None:
        raise exception.UploadException(
            'Copying to store %s failed: it was removed meanwhile' % store)
    return site


def _say_once(key: str, message: str, *arguments: object) -> None:
    told = process.get(_Told)
    if key not in told:
        told.add(key)
        LOG.info(message, *arguments)


class _CopyDirectly(task.Task):
    """Copies an image to all targets that were taken over, in one go.

    :param copy: makes a copy
    """

    def __init__(self, task_id: str, task_type: str, task_repo: typing.Any,
                 action_wrapper: typing.Any, targets: list[str],
                 all_stores_must_succeed: bool, alone: bool = True,
                 copy: abc.Callable[..., copying.Copy] = copying.Copy
                 ) -> None:
        super().__init__(name='%s-CopyDirectly-%s' % (task_type, task_id))
        self._task_id = task_id
        self._action_wrapper = action_wrapper
        self._heartbeat = heartbeat.Heartbeat(task_repo, task_id,
                                              action_wrapper)
        self._targets = targets
        self._all_must_succeed = all_stores_must_succeed
        # Whether stock copies to no further stores after it.
        self._alone = alone
        self._make_copy = copy
        self._located: set[str] = set()
        self._failed: set[str] = set()
        self._message = _Message(targets)
        # Of stores that are done and failed, as users were told last.
        self._counts = 0, 0

    def execute(self) -> None:
        """Copy the image and save its locations, store by store.

        :raises glance.common.exception.UploadException: if it could not be
            copied as asked for
        :raises glance.common.exception.StorageQuotaFull: if a quota forbids
            it, before any data moves
        """
        process.get(_Taken).pop(self._task_id, None)
        try:
            outcome = self._copy()
        except copying.CopyFailed as exc:
            self._failed.update(self._targets)
            raise exception.UploadException(str(exc))
        if outcome.failed and not outcome.copied and self._alone:
            # Nothing of what was asked for was done.
            raise exception.UploadException(_why(outcome.failed))
        self._heartbeat.save(self._message.final(outcome))

    def revert(self, result: typing.Any, **kwargs: object) -> None:
        """Undo what was saved, as stock does for each of its stores.

        A copy that was ended from outside keeps what it has.
        """
        failed = isinstance(result, failure.Failure)
        ended = failed and result.check(exception.TaskAbortedError)
        undone = [store for store in self._targets
                  if not (ended and store in self._located)]
        with self._action_wrapper as action:
            for store in undone:
                action.remove_location_for_store(store)
            action.remove_importing_stores(self._targets)
            if failed:
                action.add_failed_stores(sorted(
                    undone if ended else self._failed or undone))

    def _copy(self) -> copying.Outcome:
        with self._action_wrapper as action:
            _check_quota(action._image)
            hashes = _hashes(action._image)
            size = action._image.size
            sources = _sources(action.image_locations)
        return self._make_copy(
            self._action_wrapper.image_id, sources,
            [_site(store) for store in self._targets],
            hashes={name: value for name, value in hashes.items() if value},
            size=size, wanted=list(hashes),
            memory=CONF.glance_dcn.transfer_memory * units.Mi,
            at_once=CONF.glance_dcn.copy_targets,
            progress=self._progress, waiting=self._waiting,
            finished=self._note).run()

    def _note(self, outcome: copying.Outcome,
              told: abc.Callable[[], object]) -> None:
        """Tell Glance of stores that have come to their end, in one save.

        :param told: to be called right before the save
        :raises glance.common.exception.UploadException: if it was not copied
            as asked for
        """
        self._failed.update(outcome.failed)
        if outcome.failed and self._all_must_succeed:
            raise exception.UploadException(_why(outcome.failed))
        watch = scan.Stopwatch()
        # The end of the block saves the image.
        with self._action_wrapper as action:
            if outcome.copied:
                _describe(action._image, outcome)
            # The wrapper has no action for it. Stock sets the data of an
            # import at this layer as well, below the quotas.
            layer, _quotas = glance_interfaces.image_layers(action._image)
            for store in outcome.copied:
                layer.locations.append({
                    'url': _site(store).uri(action.image_id),
                    'metadata': {'store': store}, 'status': 'active'})
            action.add_failed_stores(sorted(outcome.failed))
            action.remove_importing_stores([*outcome.copied,
                                            *outcome.failed])
            # The save comes next. If its answer is lost, Glance may have the
            # locations all the same.
            told()
        scan.check_saved(watch, self._action_wrapper.image_id,
                         map(_site, outcome.copied))
        self._located.update(outcome.copied)

    def _progress(self, standing: targets_.Standing) -> None:
        message = self._message.update(standing)
        counts = standing.done, standing.failed
        if self._heartbeat.due or (self._heartbeat.takes_news
                                   and counts != self._counts):
            self._counts = counts
            self._heartbeat.save(message)

    def _waiting(self, stores: list[str]) -> None:
        self._heartbeat.save('Waiting for its turn at %s'
                             % (', '.join(stores) or 'its stores'))


def _why(failed: dict[str, BaseException]) -> str:
    """Return why copies failed, as a task tells users."""
    return '; '.join('Copying to store %s failed: %s' % item
                     for item in failed.items())


def _check_quota(image: typing.Any) -> None:
    """Check the owner's quota as stock does, once for any number of stores.

    :raises glance.common.exception.StorageQuotaFull: if it has no room
    """
    _layer, quotas = glance_interfaces.image_layers(image)
    if quotas is not None:
        common.check_quota(quotas.context, image.size, quotas.db_api,
                           image_id=image.image_id)


def _hashes(image: typing.Any) -> dict[str, str | None]:
    """Return the hashes that Glance has of an image, or should have.

    :returns: hex digests by hashlib name; None for a missing one
    """
    found = {_CHECKSUM: image.checksum}
    # It may be the same.
    algorithm = image.os_hash_algo or CONF.hashing_algorithm
    found[algorithm] = image.os_hash_value or found.get(algorithm)
    return found


def _describe(image: typing.Any, outcome: copying.Outcome) -> None:
    """Set the missing attributes of an image, as stock's set_data() does."""
    if image.size is None:
        image.size = outcome.size
    if not image.checksum:
        image.checksum = outcome.hashes.get(_CHECKSUM)
    algorithm = image.os_hash_algo or CONF.hashing_algorithm
    if not image.os_hash_value and algorithm in outcome.hashes:
        image.os_hash_algo = algorithm
        image.os_hash_value = outcome.hashes[algorithm]
    # Stock looks into images of other formats, and finds what these are
    # taken for: just bytes.
    if image.virtual_size is None and (
            image.disk_format, image.container_format) == ('raw', 'bare'):
        image.virtual_size = outcome.size


class _Message:
    """The message of a task: percent, MiB/s, and the state of the stores.

    :param clock: returns seconds of a monotonic clock
    """

    def __init__(self, targets: list[str],
                 clock: abc.Callable[[], float] = time.monotonic) -> None:
        self._targets = targets
        self._clock = clock
        self._started: float | None = None
        # Of the wave.
        self._data = 0

    def update(self, standing: targets_.Standing) -> str:
        """Return the message while the copy runs."""
        progress = standing.transfer
        if progress is not None and (self._started is None
                                     or progress.data < self._data):
            self._started = self._clock()
        self._data = progress.data if progress else 0
        parts = ['Copying: %d %%, %s' % (100 * standing.fraction,
                                         self._rate(self._data)),
                 '%d of %d stores done, %d running, %d waiting, %d failed' % (
                     standing.done, len(self._targets), standing.running,
                     standing.waiting, standing.failed)]
        if standing.left is not None:
            parts.append('about %s left' % _duration(standing.left))
        if progress is not None:
            parts.append(', '.join(
                '%s: %d MiB' % (name.partition(':')[0], count // units.Mi)
                for name, count in progress.written.items()))
        if standing.stragglers:
            parts.append('%s: by themselves, as they are much slower'
                         % ', '.join(standing.stragglers))
        return '; '.join(parts)

    def final(self, outcome: copying.Outcome) -> str:
        """Return the message after the copy."""
        message = 'Copied %d MiB of data from %s to %s, %s' % (
            outcome.data // units.Mi, outcome.source,
            ', '.join(store for store in self._targets
                      if store in outcome.copied) or 'no store',
            self._rate(outcome.data))
        if outcome.adopted:
            message += '; %s had it already' % ', '.join(outcome.adopted)
        for store, error in outcome.failed.items():
            message += '; copying to store %s failed: %s' % (store, error)
        return message

    def _rate(self, data: int) -> str:
        if self._started is None:
            return '0 MiB/s'
        seconds = max(self._clock() - self._started, 0.001)
        return '%.0f MiB/s' % (data / units.Mi / seconds)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return '%d s' % seconds
    if seconds < 6000:
        return '%d min' % (seconds / 60)
    return '%d h' % (seconds / 3600)
