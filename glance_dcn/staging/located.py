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

"""Whether the images that Glance was just told of are still there.

Glance looks whether a task still has the lock of its image, and saves the
image then. A process that is stopped between the two for so long that a peer
takes its task over (``dcn_worker_timeout``) saves all the same when it goes
on, though the peer has removed what the process has copied. Nothing in
Glance's save can be made to depend on that, so the process looks afterwards.
"""

from __future__ import annotations

import collections.abc
import logging
import time

from glance.common import exception

from glance_dcn.ceph import images
from glance_dcn.flows import stores
from glance_dcn.staging import database

LOG = logging.getLogger(__name__)

#: Seconds that a save may take until its outcome is looked at. A peer waits
#: for longer, and an ordinary save takes a fraction of one.
SUSPECT = 5


class Stopwatch:
    """Tells how long something took, by the clock that shows more of it.

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
          saved: collections.abc.Iterable[str]) -> None:
    """Take off an image the locations whose data was removed meanwhile.

    :param watch: made before the save
    :param image_id: ID of the image
    :param saved: stores of the locations that were saved
    :raises glance.common.exception.UploadException: if there were any
    """
    if watch.seconds < SUSPECT:
        return
    gone = [store for store in saved if _is_gone(store, image_id)]
    if not gone:
        return
    for location in (database.image(image_id) or {}).get('locations', ()):
        if location['metadata'].get('store') in gone:
            database.drop_location(image_id, location)
    names = ', '.join(gone)
    LOG.error('Image %(image)s was removed from store %(stores)s while this '
              'process was stopped for %(seconds)d s at saving that it is '
              'there: its locations there are dropped. Copy it once more; '
              'see why the process was stopped', {
                  'image': image_id, 'stores': names,
                  'seconds': watch.seconds})
    raise exception.UploadException(
        'Copying to store %s failed: the process was stopped, and what it had '
        'copied was removed meanwhile; repeat the copy' % names)


def _is_gone(store: str, image_id: str) -> bool:
    """Return whether a store is known to have no image of a name."""
    site = stores.site(store)
    try:
        with site.open_pool() as ioctx:
            return images.look_up(ioctx, image_id) is None
    except Exception as exc:
        LOG.warning('Store %(store)s: whether image %(image)s is still there '
                    'cannot be told: %(error)s; see "glance-dcn check"', {
                        'store': store, 'image': image_id, 'error': exc})
        return False
