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


"""What dead processes have left of an image at a site."""

from __future__ import annotations

import logging
import typing

import rbd

from glance_dcn.sites import leftovers

if typing.TYPE_CHECKING:
    from collections.abc import Collection

    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)


def bury(site: sites.Site, image: str, instances: Collection[int],
         published: bool, committed: bool = True) -> bool:
    """Remove what dead clients have written of an image.

    Nothing is done for a site that is away: the intent of the dead writer is
    at home, and the task runner acts on it when the site is back. Nothing is
    raised.

    :param instances: RADOS instance IDs of the clients, which are dead, or
        are blocklisted because they are taken for dead
    :param published: remove it although it is published
    :param committed: and although its writer was about to tell Glance of it,
        which may come to know of it still; else the task runner removes it,
        if Glance does not
    :returns: whether nothing of it is left, as far as is known
    """
    if not site.available:
        return False
    try:
        with site.open_pool() as ioctx:
            site.fence_dead(ioctx, image, instances)
            found = leftovers.look(ioctx, image)
            if found.complete and not (published and (
                    committed or not site.is_committed(image,
                                                       found.identity))):
                return True
            if not found.complete:
                site.fence_writers(image, found.identity)
            site.discard(ioctx, image, found.identity)
    except rbd.ImageNotFound:
        return True
    except Exception as exc:
        site.failed(exc)
        LOG.warning('What a dead worker has left of image %(image)s in '
                    'store %(store)s is removed later: %(error)s', {
                        'image': image, 'store': site.name, 'error': exc})
        return False
    return True


def answer_for(site: sites.Site, image: str) -> None:
    """Answer for a published image that is about to lose its location.

    If it is not adopted, it is removed as what a dead writer has published.

    :raises rbd.Error: if that cannot be recorded, or it is not published
    :raises glance_dcn.ceph.errors.ClusterError: if the site is away
    """
    with site.open_pool() as ioctx:
        found = leftovers.look(ioctx, image)
        if found.identity is None or not found.complete:
            raise rbd.ImageNotFound('%s is not published' % image)
        with site.adopting(ioctx, image, found.identity):
            pass
        site.commit(image, found.identity)
