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

"""Locations that Glance has of images that were removed meanwhile.

Glance looks whether a task still has the lock of its image, and saves the
image then. A process that is stopped between the two for so long that a peer
takes its task over (``dcn_worker_timeout``) saves all the same when it goes
on, though the peer has removed what the process has written. Nothing in
Glance's save can be made to depend on that, so the process looks afterwards.
"""

from __future__ import annotations

from collections import abc
import dataclasses
import logging
import time
import typing

from glance.common import exception

from glance_dcn.ceph import images
from glance_dcn.upstream import database

if typing.TYPE_CHECKING:
    from glance_dcn.sites import site as sites
    from glance_dcn.tasks import task as tasks

LOG = logging.getLogger(__name__)

#: Seconds that a save may take until its outcome is looked at. A peer waits
#: for longer, and an ordinary save takes a fraction of one.
SUSPECT = 5
# Looks, of some seconds each, for which an image is kept in mind: a save comes
# soon after the commit, but for the time that the process is stopped.
_LOOKS = 12
# Seconds between two looks after which the process was stopped: less than it
# takes until what it has committed is removed.
_STOPPED = 30


class Stopwatch:
    """Measures by the clock that shows more of the time.

    One of them stands still while a virtual machine is paused.
    """

    def __init__(self) -> None:
        self._began = time.monotonic(), time.time()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        monotonic, wall = self._began
        return max(time.monotonic() - monotonic, time.time() - wall)


def check(watch: Stopwatch, image_id: str,
          saved: abc.Iterable[sites.Site]) -> None:
    """Drop the locations of an image whose data was removed meanwhile.

    :param watch: made before the save
    :param saved: sites of the locations that were saved
    :raises glance.common.exception.UploadException: if there were any
    """
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

    :ivar looks: how often it was looked after
    :ivar stopped: seconds for which the process was stopped since, or 0
    """

    site: sites.Site
    image: str
    looks: int = 0
    stopped: float = 0


class Commits:
    """What this process has committed lately.

    :param take: returns the intents committed since it was called last
    :param sites: returns the site of a store by its identifier, or None
    """

    def __init__(self,
                 take: abc.Callable[[], list[tasks.Intent]],
                 sites: abc.Callable[[str], sites.Site | None]) -> None:
        self._take = take
        self._sites = sites
        self._kept: list[_Commit] = []
        self._watch = Stopwatch()

    def check(self) -> None:
        """Drop locations of what was removed while the process was stopped.

        To be called every few seconds by one thread; nothing is asked as
        long as the process was not stopped.
        """
        passed, self._watch = self._watch.seconds, Stopwatch()
        for intent in self._take():
            site = self._sites(intent.site)
            if site is not None:
                self._kept.append(_Commit(site, intent.image))
        for commit in self._kept:
            commit.looks += 1
            if passed > _STOPPED:
                commit.looks, commit.stopped = 0, passed
            if commit.stopped and _is_gone(commit.site, commit.image):
                _drop(commit.site, commit.image, commit.stopped)
        self._kept = [commit for commit in self._kept
                      if commit.looks < _LOOKS]


def _drop(site: sites.Site, image_id: str, seconds: float) -> None:
    """Drop the location of an image that is gone, if Glance has it."""
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
            return images.read_image_id(ioctx, image_id) is None
    except Exception as exc:
        LOG.warning('Store %(store)s: whether image %(image)s is still there '
                    'cannot be told: %(error)s; see "glance-dcn check"', {
                        'store': site.name, 'image': image_id, 'error': exc})
        return False
