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

"""An existing image, under the name of one that is to be written at a site.

It is complete or incomplete; the snapshot that publishes an image tells. A
complete one is what came of an earlier copy or import, whose location Glance
did not get to note, or was put there by hand. It is adopted if its content is
what is wanted, and otherwise left alone. An incomplete one is being written,
which its watch tells, or its writer died, and then it is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import typing

import rbd

from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine import rbd_layout
from glance_dcn.engine import transfer
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Collection
    from collections.abc import Mapping

    import rados

    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ExistingImage:
    """An RBD image as it was found.

    :ivar image_id: its internal ID; None for one that cannot be opened,
        because its maker died while creating it, or that is not there
    :ivar size: bytes; of the snapshot that publishes it, if there is one
    :ivar protected: whether the snapshot that publishes it is protected
    :ivar writers: addresses of the clients that have it open for writing. A
        dead client's stays for half a minute
    """

    image: str
    image_id: str | None = None
    size: int = 0
    snapshots: tuple[str, ...] = ()
    protected: bool = False
    writers: tuple[str, ...] = ()
    record: records.Record | None = None

    @property
    def complete(self) -> bool:
        """Whether it is published."""
        return images.SNAPSHOT in self.snapshots

    @property
    def being_written(self) -> bool:
        """Whether a client has it open for writing."""
        return bool(self.writers) and not self.protected


class Refused(Exception):
    """The image that is there is in the way."""

    reason = ''

    def __init__(self, found: ExistingImage, reason: str = '') -> None:
        super().__init__('RBD image %s exists already: %s'
                         % (found.image, reason or self.reason))
        self.found = found


class Complete(Refused):
    """A complete image is there; whether it is the right one is open."""

    reason = 'it is complete'


class BeingWritten(Refused):
    """A client is writing it."""

    def __init__(self, found: ExistingImage) -> None:
        super().__init__(
            found, 'it is open for writing by the client at %s; if that has '
            'died, the cluster knows it within half a minute: try again then'
            % (', '.join(found.writers) or 'an address that is not told'))


class Different(Refused):
    """A complete image is there, and its content is not what is wanted."""

    def __init__(self, found: ExistingImage,
                 reason: str = 'its content is another one') -> None:
        super().__init__(
            found, '%s. It is left as it is; see what it is, and remove it if '
            'no image has its location' % reason)


class Gone(Refused):
    """A complete image was there, and is no more."""

    reason = ('it was removed meanwhile, or another one took its place: try '
              'again')


def inspect(ioctx: rados.Ioctx, image: str) -> ExistingImage:
    """Return what there is under the name of an RBD image."""
    try:
        with rbd.Image(ioctx, image, read_only=True) as opened:
            rbd_layout.check(opened)
            snapshots = {snap['name']: snap['size']
                         for snap in opened.list_snaps()}
            published = images.SNAPSHOT in snapshots
            return ExistingImage(
                image, opened.id(),
                snapshots.get(images.SNAPSHOT, opened.size()),
                tuple(snapshots),
                published and opened.is_protected_snap(images.SNAPSHOT),
                tuple(watcher['addr'] for watcher in opened.watchers_list()),
                records.load(opened))
    except rbd.ImageNotFound:
        return ExistingImage(image)


def remove_incomplete(ioctx: rados.Ioctx, image: str,
                      fence: Callable[[str, str | None], object]) -> None:
    """Remove an incomplete image that no client writes any more.

    For the holder of its name lock (see :mod:`glance_dcn.ceph.name_lock`).

    :param fence: called before it is removed, with its name and its internal
        ID, to blocklist clients that may write to it when they continue
    :raises Complete, BeingWritten: if it is
    :raises Different: if it is something else, by its snapshots
    :raises rbd.Error: if it cannot be removed
    """
    found = inspect(ioctx, image)
    if found.being_written:
        raise BeingWritten(found)
    if found.complete:
        raise Complete(found)
    if found.snapshots:
        raise Different(found, 'it has snapshots (%s), but not the one that '
                        'publishes images' % ', '.join(found.snapshots))
    LOG.warning('RBD image %s was left incomplete by a client that is gone: '
                'removing it', image)
    fence(image, found.image_id)
    try:
        with contextlib.suppress(rbd.ImageNotFound):
            images.remove(ioctx, image, found.image_id
                          or images.read_image_id(ioctx, image))
    except images.InUse as exc:
        raise BeingWritten(found) from exc


def remove(ioctx: rados.Ioctx, image: str, image_id: str | None,
           trashing: Callable[[str], object] | None = None) -> None:
    """Remove an image whose writer has failed; not another of its name.

    For the holder of its name lock (see :mod:`glance_dcn.ceph.name_lock`).

    :param image_id: internal ID of the image that is meant; None: it is not
        known, and a complete image or one being written is not meant
    :param trashing: see :func:`glance_dcn.ceph.images.remove`
    :raises rbd.ImageNotFound: if there is none of that name
    :raises glance_dcn.ceph.images.InUse: if it is open elsewhere, or has
        clones
    """
    found = inspect(ioctx, image)
    if (found.snapshots if image_id is None
            else found.image_id not in (image_id, None)):
        LOG.info('RBD image %s is another than the one to be removed: it is '
                 'left as it is', image)
        return
    if image_id is None and found.being_written:
        raise images.InUse(str(BeingWritten(found)))
    images.remove(ioctx, image, found.image_id or image_id
                  or images.read_image_id(ioctx, image), images.SNAPSHOT,
                  trashing)


def strongest(hashes: Mapping[str, str]) -> str:
    """Return the name of the longest hash, which proves the most."""
    return max(hashes, key=lambda name: len(hashes[name]))


def compare(found: ExistingImage, size: int, content: str | None = None,
            hashes: Mapping[str, str] | None = None,
            authentic: bool = False) -> bool | None:
    """Compare a complete image with what is wanted, without reading it.

    :param hashes: hex digests over all bytes by hashlib name
    :param authentic: whether this deployment has made its record, see
        :mod:`glance_dcn.sites.home`; another tells nothing
    :returns: whether it is equal; None if that cannot be told
    """
    record = found.record
    if found.size != size:
        return False
    if not authentic or record is None or record.size != size:
        return None
    if content is not None:
        return record.content == content
    name = strongest(hashes) if hashes else ''
    if not hashes or name not in record.hashes:
        return None
    return record.hashes[name] == hashes[name]


def adopt(site: sites.Site, ioctx: rados.Ioctx, found: ExistingImage,
          size: int, content: str | None = None,
          hashes: Mapping[str, str] | None = None,
          memory: int = transfer.MEMORY) -> None:
    """Adopt a complete image, if it is what is wanted.

    One that has no record of this deployment's, because stock Glance, Nova or
    another site's Glance wrote it, is read and given one.

    :param hashes: hex digests over all bytes by hashlib name
    :param memory: bytes of data held at most
    :raises Different: if it is not, or nothing is known to tell it by
    :raises Gone: if it is there no longer
    :raises glance_dcn.ceph.name_lock.NameLockError: if other clients are at
        it for too long
    :raises glance_dcn.engine.errors.EngineError, rbd.Error: if it cannot be
        read or protected
    """
    # It is complete: it could be opened.
    assert found.image_id is not None
    with site.adopting(ioctx, found.image, found.image_id):
        # Is it still there, now that it is recorded as wanted?
        now = site.call(_inspect_locked, site, ioctx, found.image)
        if (now.image_id, now.complete) != (found.image_id, True):
            raise Gone(found)
        equal = compare(found, size, content, hashes, homes.is_authentic(
            site, found.image, found.record))
        if equal is None:
            if content is None and not hashes:
                raise Different(found, 'neither a digest nor a hash is known '
                                'to compare it with')
            equal = _read_and_compare(site, ioctx, found, content, hashes,
                                      memory)
        if not equal:
            raise Different(found)
        if not found.protected:
            site.call(_protect, ioctx, found.image)
    LOG.info('RBD image %(image)s is in store %(store)s already, complete and '
             'equal: it is taken as it is',
             {'image': found.image, 'store': site.name})


def _protect(ioctx: rados.Ioctx, image: str) -> None:
    with rbd.Image(ioctx, image) as opened:
        opened.protect_snap(images.SNAPSHOT)


def _inspect_locked(site: sites.Site, ioctx: rados.Ioctx,
                    image: str) -> ExistingImage:
    with site.name_lock(ioctx, image):
        return inspect(ioctx, image)


def _read_and_compare(site: sites.Site, ioctx: rados.Ioctx,
                      found: ExistingImage, content: str | None,
                      hashes: Mapping[str, str] | None, memory: int) -> bool:
    name = strongest(hashes) if hashes and content is None else None
    with site.reading(ioctx, found.image) as endpoint:
        result = transfer.Transfer(
            endpoint, hashes=[name] if name else [], memory=memory,
            timeout=site.io_timeout or float('inf')).run()
    # It was read from its beginning.
    assert result.content is not None
    equal = (result.hashes[name] == hashes[name] if hashes and name
             else result.content == content)
    if equal:
        site.remember(ioctx, found.image, found.image_id, homes.sign(
            site, found.image, records.Record(
                result.size, result.content, dict(hashes or {}))))
    return equal


def discard_writes(site: sites.Site, image: str, instances: Collection[int],
                   published: bool, committed: bool = True,
                   look: Callable[[rados.Ioctx, str], ExistingImage] = inspect
                   ) -> bool:
    """Remove what dead clients have written of an image.

    Nothing is done for a site that is away, and nothing is raised: the task
    runner acts on the intent of the dead writer, which is at home.

    :param instances: RADOS instance IDs of the clients, which are dead, or
        are blocklisted because they are believed dead
    :param published: remove it although it is published
    :param committed: and although its writer was about to tell Glance of it,
        which may come to know of it still; else the task runner removes it,
        if Glance does not
    :param look: tells what is there
    :returns: whether nothing of it is left, as far as is known
    """
    if not site.available:
        return False
    try:
        with site.open_pool() as ioctx:
            site.call(site.fence_dead, ioctx, image, instances)
            found = site.call(look, ioctx, image, fence=False)
            if found.complete and not (published and (
                    committed or not site.is_committed(image,
                                                       found.image_id))):
                return True
            if not found.complete:
                site.fence_writers(image, found.image_id)
            site.call(site.discard, ioctx, image, found.image_id)
    except rbd.ImageNotFound:
        return True
    except Exception as exc:
        site.failed(exc)
        LOG.warning('What a dead worker has left of image %(image)s in '
                    'store %(store)s is removed later: %(error)s', {
                        'image': image, 'store': site.name, 'error': exc})
        return False
    return True


def record_published(site: sites.Site, image: str) -> None:
    """Record that a published image is about to lose its location.

    If it is not adopted, it is removed as what a dead writer has published.

    :raises rbd.Error: if that cannot be recorded, or it is not published
    :raises glance_dcn.ceph.errors.ClusterError: if the site is away
    """
    with site.open_pool() as ioctx:
        found = site.call(inspect, ioctx, image, fence=False)
        if found.image_id is None or not found.complete:
            raise rbd.ImageNotFound('%s is not published' % image)
        with site.adopting(ioctx, image, found.image_id):
            pass
        site.commit(image, found.image_id)
