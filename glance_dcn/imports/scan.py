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

"""The background work of a process for its imports.

It begins when the process does, beside its requests: nothing waits for it.
Each process keeps the journal of its own imports; in the leader of a host the
staging folder is scanned.

What a killed worker leaves is the recovery's, as long as there is a journal.
The rest are orphans: files of imports that began without it, or whose image
was deleted while another worker had it. Stock scans once, at its start, for
files of images that are gone. None is removed that may be the only copy of an
image.

Glance checks whether a task still has the lock of its image, and saves the
image then. A process that is stopped between the two for so long that a peer
takes its task over (``dcn_worker_timeout``) saves all the same when it goes
on, though the peer has removed what the process has written. Nothing in
Glance's save can be made to depend on that, so the process checks afterwards.
"""

from __future__ import annotations

from collections import abc
import dataclasses
import logging
import os
import re
import time
import typing

from oslo_config import cfg

from glance_dcn.ceph import images
from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import options
from glance_dcn.imports import recovery
from glance_dcn.runtime import green
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.tasks import queue
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins

if typing.TYPE_CHECKING:
    from glance_dcn.sites import site as sites
    from glance_dcn.tasks import task as tasks

LOG = logging.getLogger(__name__)

# Seconds between scans of the journal, and of all files.
_INTERVAL = 5
_ORPHANS_INTERVAL = 600
# Users may give images IDs in capitals.
_IMAGE_FILE = re.compile(
    r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=$|\.)',
    re.ASCII | re.IGNORECASE)
# Seconds from the last store that was set up to the first scan, and until
# there is one even if Glance has not come up.
_SETTLING = 1
_PATIENCE = 20
_PAUSE = 0.2
#: Seconds that a save may take until its outcome is checked. A peer waits
#: for longer, and an ordinary save takes a fraction of one.
SUSPECT = 5
# Checks, some seconds apart, for which an image is kept in mind: a save comes
# soon after the commit, but for the time that the process is stopped.
_CHECKS = 12
# Seconds between two checks after which the process was stopped: less than it
# takes until what it has committed is removed.
_STOPPED = 30


class Scanner:
    """The background work of one process.

    :param recover: what recovers imports
    :param is_loaded: returns whether Glance has been loaded
    :param clock: returns seconds of a monotonic clock
    :param sleep: waits some seconds
    :ivar gate: is asked each time whether to recover anything, or None
    """

    def __init__(self, recover: abc.Callable[..., object] = recovery.recover,
                 is_loaded: abc.Callable[[], bool] = glance_interfaces.loaded,
                 clock: abc.Callable[[], float] = time.monotonic,
                 sleep: abc.Callable[[float], object] = native.sleep) -> None:
        self._recover, self._is_loaded = recover, is_loaded
        self._clock, self._sleep = clock, sleep
        self.gate: abc.Callable[[], bool] | None = None
        self._tasks = process.get(queue.TaskQueue)
        self._since = 0.0
        self._conf: cfg.ConfigOpts | None = None
        self._periodic: periodic.Periodic | None = None
        self._warned = False
        self._scanned = float('-inf')
        self._commits: Commits | None = None

    def start(self, conf: cfg.ConfigOpts) -> None:
        """Recover what dead processes leave; called for each store."""
        if not self._tasks.enabled:
            return
        options.register(conf)
        self._conf, self._since = conf, self._clock()
        if self._periodic is None:
            _mark_older(conf)
            self._periodic = periodic.Periodic('glance-dcn-recovery',
                                               self.scan, _INTERVAL)
            self._periodic.start()
            self._tasks.lead.on_lead(self._periodic.wake)

    def scan(self) -> None:
        """Do once what is due, when Glance is loaded."""
        conf = self._conf
        assert conf is not None, 'start() sets it, and has this called'
        self._wait_for_glance(conf)
        if glance_interfaces.usable(glance_interfaces.DATABASE):
            # Its stopwatch begins in the process that scans.
            self._commits = self._commits or Commits(
                self._tasks.writes.take_committed, self._tasks.sites.get)
            try:
                self._commits.check()
            except Exception:
                LOG.exception('Whether what this process has written is still '
                              'there cannot be told now')
        found = journal.of(conf)
        if found is None or not recovery.is_possible():
            return
        used = plugins.staging_is_used(conf)
        if used and glance_interfaces.usable(glance_interfaces.TASK_EVENTS):
            green.call(active_imports.listen, conf)
        if not self._tasks.lead.is_held:
            return
        chosen = conf[options.GROUP]
        # A peer that took this worker for gone may roll it back. While nothing
        # is left, the registry is not asked.
        if (self.gate is None
                or all(map(active_imports.get, found.tasks()))
                or self.gate()):
            resumes = chosen.resume_imports and glance_interfaces.usable(
                glance_interfaces.TASK_EXECUTOR)
            self._recover(found, recovery.resume_import if resumes else None)
        if not used:
            return
        if not self._warned:
            self._warned = True
            for sentence in folder.doubts(conf):
                LOG.warning(sentence)
        now = self._clock()
        if now - self._scanned > _ORPHANS_INTERVAL:
            self._scanned = now
            remove_orphans(found, chosen.staging_orphan_age)

    def _wait_for_glance(self, conf: cfg.ConfigOpts) -> None:
        """Wait until Glance is loaded, which must not be disturbed.

        And until its stores are set up: nothing would be known of what a dead
        process has left in another.
        """
        while self._clock() - self._since < _SETTLING or (
                # Each is shown as of another type once it is, see
                # driver._present_as_rbd().
                not (self._is_loaded()
                     and 'dcn' not in (conf.enabled_backends or {}).values())
                and self._clock() - self._since < _PATIENCE):
            self._sleep(_PAUSE)


def _mark_older(conf: cfg.ConfigOpts) -> None:
    """Tell what was staged before the host was restarted from the rest."""
    staging = folder.path(conf)
    # Glance makes it when it is first used.
    if not staging or not os.path.isdir(staging):
        return
    try:
        folder.mark_older(staging)
    except OSError as exc:
        LOG.warning('What was uploaded before this host was restarted cannot '
                    'be told in %(folder)s (%(error)s), and is believed: see '
                    'that it is there and belongs to the user of Glance',
                    {'folder': staging, 'error': exc})


def remove_orphans(found: journal.Journal, age: float,
                   clock: abc.Callable[[], float] = time.time) -> list[str]:
    """Remove orphaned staged files, and return their paths.

    Those stay whose image an entry of another release names anywhere: more is
    not understood of such an entry.

    :param age: seconds for which a file must not have changed
    :param clock: returns seconds since the epoch
    """
    staging = os.path.dirname(found.folder)
    # In this order: an entry may be replaced by one of another release.
    owned = {entry.image for entry in found.entries()}
    others = found.of_other_release()
    removed = []
    for name in sorted(os.listdir(staging)):
        match = _IMAGE_FILE.match(name)
        path = os.path.join(staging, name)
        try:
            state = os.lstat(path)
        except FileNotFoundError:
            continue
        if (match is None or match[0] in owned
                or clock() - max(state.st_mtime, state.st_ctime) <= age
                or not _is_orphan(match[0], name, staging)
                or _is_named(match[0], path, others)):
            continue
        LOG.warning('Staged file %s is an orphan: it is removed', path)
        try:
            folder.discard(path)
        except OSError as exc:
            LOG.warning('Staged file %(path)s cannot be removed: %(error)s',
                        {'path': path, 'error': exc})
            continue
        removed.append(path)
    return removed


class _Left(set[str]):
    """Paths of files of which was told that they stay."""


def _is_named(image_id: str, path: str,
              others: abc.Mapping[str, journal.OtherReleaseEntry]) -> bool:
    """Return whether an entry of another release names an image; log once."""
    for entry, other in others.items():
        if image_id.lower() in other.text.lower():
            told = process.get(_Left)
            if path not in told:
                told.add(path)
                LOG.warning('Staged file %(path)s seems to be an orphan, and '
                            'stays: %(entry)s, which is of another release, '
                            'names its image (%(reason)s); see "glance-dcn '
                            'worker recover"', {
                                'path': path, 'entry': entry,
                                'reason': other.reason})
            return True
    return False


def _is_orphan(image_id: str, name: str, staging: str) -> bool:
    from glance_dcn.upstream import database
    image = database.image(image_id)
    if image is None:
        return True
    if image['properties'].get(database.LOCK):
        return False
    if image['status'] in ('queued', 'active', 'deactivated'):
        # Its data is elsewhere, or it has none; being staged it would be
        # "uploading".
        return True
    # A half conversion: what it was made of is there.
    return (image['status'] == 'uploading' and name != image_id
            and os.path.exists(os.path.join(staging, image_id)))


class Stopwatch:
    """Measures by the clock that shows more of the time.

    One of them stands still while a virtual machine is paused.

    :param clocks: return seconds
    """

    def __init__(self, clocks: abc.Iterable[abc.Callable[[], float]] = (
            time.monotonic, time.time)) -> None:
        self._began = [(clock, clock()) for clock in clocks]

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return max(clock() - began for clock, began in self._began)


def check_saved(watch: Stopwatch, image_id: str,
                saved: abc.Iterable[sites.Site]) -> None:
    """Drop the locations of an image whose data was removed meanwhile.

    :param watch: made before the save
    :param saved: sites of the locations that were saved
    :raises glance.common.exception.UploadException: if there were any
    """
    from glance.common import exception
    gone = [] if watch.seconds < SUSPECT else [
        site for site in saved if _is_gone(site, image_id)]
    if not gone:
        return
    for site in gone:
        _drop(site, image_id, watch.seconds)
    raise exception.UploadException(
        'Copying to store %s failed: the process was stopped, and what it had '
        'copied was removed meanwhile; repeat the copy' % ', '.join(
            site.name for site in gone))


@dataclasses.dataclass
class _Commit:
    """An image that Glance is told of.

    :ivar checks: how often it was checked
    :ivar stopped: seconds for which the process was stopped since, or 0
    """

    site: sites.Site
    image: str
    checks: int = 0
    stopped: float = 0


class Commits:
    """What this process has committed lately.

    :param take: returns the intents committed since it was called last
    :param sites: returns the site of a store by its identifier, or None
    :param stopwatch: makes a stopwatch
    """

    def __init__(self,
                 take: abc.Callable[[], list[tasks.Intent]],
                 sites: abc.Callable[[str], sites.Site | None],
                 stopwatch: abc.Callable[[], Stopwatch] = Stopwatch) -> None:
        self._take = take
        self._sites = sites
        self._kept: list[_Commit] = []
        self._stopwatch = stopwatch
        self._watch = stopwatch()

    def check(self) -> None:
        """Drop locations of what was removed while the process was stopped.

        To be called every few seconds by one thread; nothing is asked as
        long as the process was not stopped.
        """
        passed, self._watch = self._watch.seconds, self._stopwatch()
        for intent in self._take():
            site = self._sites(intent.site)
            if site is not None:
                self._kept.append(_Commit(site, intent.image))
        for commit in self._kept:
            commit.checks += 1
            if passed > _STOPPED:
                commit.checks, commit.stopped = 0, passed
            if commit.stopped and _is_gone(commit.site, commit.image):
                _drop(commit.site, commit.image, commit.stopped)
        self._kept = [commit for commit in self._kept
                      if commit.checks < _CHECKS]


def _drop(site: sites.Site, image_id: str, seconds: float) -> None:
    """Drop the location of an image that is gone, if Glance has it."""
    from glance_dcn.upstream import database
    uri = site.uri(image_id)
    for location in (database.image(image_id) or {}).get('locations', ()):
        if location['url'] == uri and location['status'] == 'active':
            database.drop_location(image_id, location)
            LOG.error('Image %(image)s was removed from store %(store)s while '
                      'this process was stopped for %(seconds)d s at saving '
                      'that it is there: its location there is dropped. Copy '
                      'it once more; see why the process was stopped', {
                          'image': image_id, 'store': site.name,
                          'seconds': seconds})


def _is_gone(site: sites.Site, image_id: str) -> bool:
    """Return whether a site is known to have no image of a name."""
    try:
        with site.open_pool() as ioctx:
            return site.call(images.read_image_id, ioctx, image_id,
                             fence=False) is None
    except Exception as exc:
        LOG.warning('Store %(store)s: whether image %(image)s is still there '
                    'cannot be told: %(error)s; see "glance-dcn check"', {
                        'store': site.name, 'image': image_id, 'error': exc})
        return False
