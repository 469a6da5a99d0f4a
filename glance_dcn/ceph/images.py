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

"""The life of an image in a pool: created, published, removed.

An image is published by its protected snapshot: Nova and Cinder clone from
it, and Glance reads from it. An image without that snapshot is one that is
still being written, or whose writer died.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import io
import logging
import time
import typing

import rados
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.engine import rbd_layout
from glance_dcn.runtime import native

LOG = logging.getLogger(__name__)

#: Name of the snapshot that publishes an image; Nova, Cinder and stock Glance
#: use the same (glance_store._drivers.rbd.DEFAULT_SNAPNAME).
SNAPSHOT = 'snap'
# Seconds that the cluster has for letting the watches of a blocklisted client
# end, and the pause between checks.
_PATIENCE, _PAUSE = 10, 0.1
# The object that tells the internal ID of the image of a name.
_ID = 'rbd_id.%s'
# Object of the trash, and class of its methods.
_TRASH = 'rbd_trash'
#: Source of an entry whose image is being removed
#: (cls::rbd::TRASH_IMAGE_SOURCE_REMOVING).
REMOVING = 3
# Entries of one reply, bytes of the largest one, and entries that are read at
# most.
_ENTRIES = 512
_ENTRIES_BYTES = 1 << 18
_MOST_ENTRIES = 1 << 16


class InUse(Exception):
    """The image has clones, or is open elsewhere."""


def create(ioctx: rados.Ioctx, name: str, size: int, order: int,
           features: str | int | None) -> None:
    """Create an empty image.

    :param size: bytes
    :param order: size of its objects, as a power of two
    :param features: the cluster's ``rbd_default_features``; those that need an
        exclusive lock are left out, and layering, which clones need, is added
    :raises rbd.ImageExists: if there is one of that name
    """
    # A client that may read an image may notify those that have it open, and
    # librbd of the one that has the lock does what it is asked for: it resizes
    # it, and what was written is lost. An image is written once, by one
    # client. Operators who need these features, for mirroring say, enable
    # them afterwards (rbd feature enable).
    features = ((int(features or 0) & ~rbd_layout.LOCKED)
                | rbd.RBD_FEATURE_LAYERING)
    # Not in stripes, whatever the cluster's configuration says.
    rbd.RBD().create(ioctx, name, size, order, old_format=False,
                     features=features, stripe_unit=1 << order,
                     stripe_count=1)


def publish(image: rbd.Image, record: records.Record | None,
            facts: rbd_layout.Facts) -> None:
    """Make the snapshot of a written image that everybody reads and clones.

    :param image: open for writing
    :param record: of its content; None: it is kept with the image already
    :raises glance_dcn.engine.rbd_layout.Unsafe: if its header has changed
    :raises rbd.Error: if it fails
    """
    rbd_layout.check_unchanged(image, facts)
    if record:
        # First what is known of it: an image that can be read is complete.
        records.save(image, record)
    # No other client has it open: to ask all that have for quiescence would
    # only cost round trips.
    image.create_snap(SNAPSHOT, rbd.RBD_SNAP_CREATE_SKIP_QUIESCE)
    # By now its client has seen all that came before.
    rbd_layout.check_unchanged(image, facts._replace(snapshots=(SNAPSHOT,)))
    image.protect_snap(SNAPSHOT)


class Removal:
    """The removal of an image, in two steps.

    For the holder of its name lock (see :mod:`glance_dcn.ceph.name_lock`):
    librbd removes by name. Between the steps no clone (of format 1) can be
    made of it, and all can be taken back, so that an image can be removed
    from several sites or from none.

    :param image_id: its internal ID; another image of the name is not removed
    :param snapshot: name of the snapshot that publishes it, removed first
    :param trashing: called with the image's internal ID before it is
        moved to the trash
    :param in_use_too: move it to the trash too if it has clones that keep
        its snapshot from being removed
    """

    def __init__(self, ioctx: rados.Ioctx, name: str, image_id: str | None,
                 snapshot: str | None = None,
                 trashing: Callable[[str], object] | None = None,
                 in_use_too: bool = False) -> None:
        self._ioctx = ioctx
        self._name = name
        self._image_id = image_id
        self._snapshot = snapshot
        self._trashing = trashing
        self._in_use_too = in_use_too
        # The image, if it was opened, and its snapshot.
        self._opened: tuple[rbd.Image, str] | None = None
        self._has_snapshot = self._unprotected = self._has_clones = False
        self._was_interrupted = False

    def prepare(self) -> None:
        """Check that nothing is in the way, and let no more clones be made.

        :raises rbd.ImageNotFound: if there is no such image
        :raises InUse: if the snapshot has clones, or the image is open
            elsewhere; it is left as it was
        """
        if not self._has_name():
            self._was_interrupted = (
                self._image_id is not None
                and is_being_removed(self._ioctx, self._name,
                                     self._image_id))
            if self._was_interrupted:
                return
            raise self._not_found()
        if self._snapshot is None:
            return
        try:
            image = rbd.Image(self._ioctx, self._name)
        except rbd.ImageNotFound:
            # One whose maker died while creating it is listed, but cannot be
            # opened; it can be removed.
            return
        self._opened = image, self._snapshot
        try:
            # One of the watchers is this client. To remove the snapshot of an
            # image that then cannot be removed would leave one that cannot be
            # read.
            if len(list(image.watchers_list())) > 1:
                raise rbd.ImageBusy('another client has it open')
            self._unprotect(image, self._snapshot)
        except rbd.ImageBusy as exc:
            self._close()
            if not self._in_use_too:
                raise self._in_use(exc) from exc
            self._has_clones = True
        except BaseException:
            self._close()
            raise

    def finish(self) -> None:
        """Remove the image, or move it to the trash while snapshots remain.

        :raises rbd.ImageNotFound: if there is no such image
        :raises InUse: if it was opened elsewhere meanwhile; it is left as it
            was
        """
        if self._was_interrupted and self._image_id is not None:
            # Its entry may be of a client whose clock was ahead.
            purge(self._ioctx, self._name, self._image_id, self._snapshot,
                  force=True)
            return
        removed = ''
        try:
            if self._has_clones:
                self._trash('has clones')
                return
            if self._opened and self._has_snapshot:
                image, snapshot = self._opened
                removed = snapshot if _remove_snapshot(image, snapshot) else ''
            self._close()
            self._check_name()
            try:
                rbd.RBD().remove(self._ioctx, self._name)
            except rbd.ImageHasSnapshots:
                # Others made snapshots of it, or clones that need no
                # protection (clone format 2): the data goes when the last of
                # them is gone.
                self._trash('has snapshots left')
            except rbd.ImageBusy:
                if not self._in_use_too:
                    raise
                self._trash('is open elsewhere')
        except rbd.ImageBusy as exc:
            if removed:
                _restore_snapshot(self._ioctx, self._name, removed)
            elif self._opened is not None:
                self.undo()
            raise self._in_use(exc) from exc
        finally:
            self._close()

    def undo(self) -> None:
        """Leave the image as it was before it was prepared."""
        try:
            if self._opened and self._unprotected:
                image, snapshot = self._opened
                image.protect_snap(snapshot)
        except rbd.Error as exc:
            LOG.error('RBD image %(image)s is not removed, and its snapshot '
                      '%(snapshot)s cannot be protected again: %(error)s; '
                      'protect it with rbd snap protect', {
                          'image': self._name, 'snapshot': self._snapshot,
                          'error': exc})
        finally:
            self._close()

    def _unprotect(self, image: rbd.Image, snapshot: str) -> None:
        try:
            image.unprotect_snap(snapshot)
            self._unprotected = True
        except rbd.InvalidArgument:
            LOG.debug('Snapshot %s was unprotected already', snapshot)
        except rbd.ImageNotFound:
            LOG.debug('There is no snapshot %s', snapshot)
            return
        self._has_snapshot = True

    def _trash(self, why: str) -> None:
        LOG.warning('RBD image %(image)s %(why)s: moving it to the trash',
                    {'image': self._name, 'why': why})
        if self._trashing and self._image_id is not None:
            self._trashing(self._image_id)
        self._check_name()
        rbd.RBD().trash_move(self._ioctx, self._name)

    def _check_name(self) -> None:
        """Check that the name is that of the image that is meant.

        librbd removes by name, and this process may have been stopped for
        longer than a holder of a name lock stays blocklisted.

        :raises rbd.ImageNotFound: if it is not
        """
        if not self._has_name():
            raise self._not_found()

    def _has_name(self) -> bool:
        return (self._image_id is not None
                and read_image_id(self._ioctx, self._name) == self._image_id)

    def _not_found(self) -> rbd.ImageNotFound:
        return rbd.ImageNotFound('RBD image %s with ID %s'
                                 % (self._name, self._image_id))

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[0].close()

    def _in_use(self, exc: Exception) -> InUse:
        return InUse('RBD image %s is in use: %s' % (self._name, exc))


def remove(ioctx: rados.Ioctx, name: str, image_id: str | None,
           snapshot: str | None = None,
           trashing: Callable[[str], object] | None = None,
           in_use_too: bool = False) -> None:
    """Remove an image, or move it to the trash while snapshots remain.

    An image that is in use is left as it was; see :class:`Removal`.

    :raises rbd.ImageNotFound: if there is no such image
    :raises InUse: if the snapshot has clones, or the image is open elsewhere
    """
    removal = Removal(ioctx, name, image_id, snapshot, trashing, in_use_too)
    removal.prepare()
    removal.finish()


def _restore_snapshot(ioctx: rados.Ioctx, name: str, snapshot: str) -> None:
    """Publish an image again whose removal was refused."""
    try:
        with rbd.Image(ioctx, name) as image:
            image.create_snap(snapshot)
            image.protect_snap(snapshot)
    except rbd.Error as exc:
        LOG.error('RBD image %(image)s cannot be removed, and its snapshot '
                  '%(snapshot)s cannot be made again: %(error)s', {
                      'image': name, 'snapshot': snapshot, 'error': exc})


def is_empty(ioctx: rados.Ioctx) -> bool:
    """Return whether a pool has no images, nor any in its trash.

    :raises rbd.Error, glance_dcn.ceph.omap.Error: if it cannot be told
    """
    return (not rbd.RBD().list(ioctx)
            and next(trash_entries(ioctx), None) is None)


def _remove_snapshot(image: rbd.Image, snapshot: str) -> bool:
    """Remove an unprotected snapshot; return whether it was there."""
    try:
        image.remove_snap(snapshot)
    except rbd.ImageNotFound:
        LOG.debug('Snapshot %s is gone already', snapshot)
        return False
    return True


def purge(ioctx: rados.Ioctx, name: str, image_id: str,
          snapshot: str | None = None, force: bool = False) -> None:
    """Remove an image from the trash.

    :param name: the name it had; another image is not removed
    :param force: also before the time until which it is to be kept
    :raises rbd.ImageNotFound: if it is not in the trash
    :raises InUse: if it still has clones or snapshots, or is open
    """
    if rbd.RBD().trash_get(ioctx, image_id)['name'] != name:
        raise rbd.ImageNotFound('RBD image %s with ID %s in the trash'
                                % (name, image_id))
    if read_image_id(ioctx, name) == image_id:
        # The move was interrupted: the pool would list the name for ever.
        rbd.RBD().trash_move(ioctx, name)
    try:
        if snapshot is not None:
            with contextlib.suppress(rbd.ImageNotFound), \
                    rbd.Image(ioctx, image_id=image_id) as image:
                with contextlib.suppress(rbd.InvalidArgument):
                    image.unprotect_snap(snapshot)
                _remove_snapshot(image, snapshot)
        rbd.RBD().trash_remove(ioctx, image_id, force)
    except (rbd.ImageBusy, rbd.ImageHasSnapshots) as exc:
        raise InUse('RBD image %s in the trash is in use: %s'
                    % (image_id, exc)) from exc


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """What there is under a name.

    :ivar published: whether it has the snapshot :data:`SNAPSHOT`
    :ivar blank: whether it has neither data, snapshots nor a parent
    """

    image_id: str
    published: bool = False
    blank: bool = True


def inspect(ioctx: rados.Ioctx, name: str) -> ImageInfo | None:
    """Return what there is under a name, or None.

    One whose maker died while creating it cannot be opened and counts as
    blank.

    :raises rbd.Error, glance_dcn.ceph.omap.Error: if it cannot be inspected
    """
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            rbd_layout.check(image)
            snapshots = [snap['name'] for snap in image.list_snaps()]
            return ImageInfo(image.id(), SNAPSHOT in snapshots,
                             not snapshots and _is_blank(image))
    except rbd.ImageNotFound:
        image_id = read_image_id(ioctx, name)
        return None if image_id is None else ImageInfo(image_id)


def _is_blank(image: rbd.Image) -> bool:
    if rbd_layout.has_parent(image):
        return False
    found: list[tuple[int, int, bool]] = []
    image.diff_iterate(0, image.size(), None,
                       lambda *extent: found.append(extent),
                       include_parent=False, whole_object=True)
    return not found


def read_image_id(ioctx: rados.Ioctx, name: str) -> str | None:
    """Return the internal ID of an image, or None; one round trip, or two.

    Also of one that is half created, or half removed: librbd lists a name in
    the pool's directory before anything else is there, and as long as
    anything is (CreateRequest and RemoveRequest of librbd).

    :raises glance_dcn.ceph.omap.Error: if the cluster refuses
    """
    found = _read_id_object(ioctx, name)
    if found is not None:
        return found
    try:
        _code, reply = ioctx.execute('rbd_directory', 'rbd', 'dir_get_id',
                                     omap.encode_text(name))
    except rados.ObjectNotFound:
        return None
    return _decode(reply)


def _read_id_object(ioctx: rados.Ioctx, name: str) -> str | None:
    try:
        return _decode(ioctx.read(_ID % name, 1024))
    except rados.ObjectNotFound:
        return None


def check_responsive(ioctx: rados.Ioctx, name: str, timeout: float) -> None:
    """Return if the cluster answers about an image in ``timeout`` seconds.

    Where librbd would wait for as long as any request may take.

    :raises glance_dcn.ceph.omap.Error: if it does not, with ETIMEDOUT
    """
    omap.exists(ioctx, _ID % name, timeout)


def blocklist_watchers(client: rados.Rados, ioctx: rados.Ioctx, image: str,
                       instances: Collection[int]) -> bool:
    """Blocklist dead clients that have an image open.

    So that it can be removed at once: a cluster takes half a minute to find
    out that a client which had an image open has died.

    :param instances: RADOS instance IDs of the dead
    :returns: whether none of them has it open any more
    :raises rbd.Error: if the image cannot be opened
    """
    done: set[str] = set()
    deadline = time.monotonic() + _PATIENCE
    while True:
        watching = _watching(ioctx, image, instances)
        if not watching:
            return True
        left = clients.blocklist(client, watching - done)
        if left:
            return False
        for address in watching - done:
            LOG.info('Client %(address)s, which was writing RBD image '
                     '%(image)s, is dead: it is blocklisted', {
                         'address': address, 'image': image})
        done |= watching
        if time.monotonic() > deadline:
            return False
        native.sleep(_PAUSE)


def _watching(ioctx: rados.Ioctx, image: str,
              instances: Collection[int]) -> set[str]:
    """Return the addresses of those that have the image open."""
    try:
        with rbd.Image(ioctx, image, read_only=True) as opened:
            return {watcher['addr'] for watcher in opened.watchers_list()
                    if watcher['id'] in instances}
    except rbd.ImageNotFound:
        return set()


class Reference(typing.NamedTuple):
    """The image and snapshot that a name meant when it was opened.

    :ivar snapshot: name of the snapshot; None: the image itself
    :ivar snapshot_id: its ID, which no later snapshot gets; None likewise
    """

    name: str
    image_id: str
    snapshot: str | None
    snapshot_id: int | None


def refer(image: rbd.Image, name: str, snapshot: str | None) -> Reference:
    """Return what an open image is, without a round trip."""
    found = {snap['name']: snap['id'] for snap in image.list_snaps()}
    return Reference(name, image.id(), snapshot,
                     None if snapshot is None else found[snapshot])


def is_unchanged(ioctx: rados.Ioctx, reference: Reference) -> bool:
    """Return whether what was opened is still there, at one round trip.

    Objects of a removed image read as zeros, and its extents are listed as
    holes, without an error. Before it touches either, librbd moves the
    snapshot to the trash namespace, which gives it another name. A snapshot
    that has its ID and its name proves that all that was read before saw the
    data. That it is listed does not: its ID is released to the OSDs before.

    Of an image without a snapshot it is the name that goes first, for librbd
    removes images by way of the trash.

    :raises glance_dcn.ceph.omap.Error: if the cluster does not answer
    """
    if reference.snapshot is None or reference.snapshot_id is None:
        return _read_id_object(ioctx, reference.name) == reference.image_id
    try:
        _code, reply = ioctx.execute(
            'rbd_header.%s' % reference.image_id, 'rbd', 'get_snapshot_name',
            reference.snapshot_id.to_bytes(8, 'little'))
    except rados.ObjectNotFound:
        return False
    return reply == omap.encode_text(reference.snapshot)


class TrashEntry(typing.NamedTuple):
    """An image in the trash.

    :ivar image_id: internal ID of the RBD image
    :ivar source: what has put it there, as cls::rbd::TrashImageSource
    :ivar deleted_at: by the clock of the client that did; in UTC, and naive
        as librbd gives times
    """

    image_id: str
    name: str
    source: int
    deleted_at: datetime.datetime


def trash_entries(ioctx: rados.Ioctx) -> Iterator[TrashEntry]:
    """Yield the entries of a pool's trash, by internal ID.

    librbd's own list is not enough: it leaves out what is being removed, and
    its binding for Python raises IndexError at an entry of a source that it
    has no name for, as Ceph 16's does for an image that is being migrated.
    Of very many, the first 65,536 are yielded, and a warning is logged.

    :raises omap.Error: if the cluster refuses
    """
    last = ''
    for _ in range(_MOST_ENTRIES // _ENTRIES):
        try:
            _code, reply = ioctx.execute(
                _TRASH, 'rbd', 'trash_list',
                omap.encode_text(last) + _ENTRIES.to_bytes(8, 'little'),
                _ENTRIES_BYTES)
        except rados.ObjectNotFound:
            return
        stream = io.BytesIO(reply)
        count = _read_number(stream)
        for _ in range(min(count, _ENTRIES)):
            last = _read_text(stream)
            yield _read_entry(stream, last)
        if count != _ENTRIES:
            return
    LOG.warning('The trash of a pool has more than %d entries; those after '
                'them are not seen. Purge it (rbd trash purge)',
                _MOST_ENTRIES)


def is_being_removed(ioctx: rados.Ioctx, name: str, image_id: str) -> bool:
    """Return whether the removal of an image has taken its name, and goes on.

    librbd removes an image by way of the trash: name, data and header go one
    after the other, and its trash entry comes last. If the client or the
    cluster ends meanwhile, all that is left can be found by that entry alone.
    What an operator has moved to the trash is not meant.

    :raises omap.Error: if the cluster refuses
    """
    try:
        _code, reply = ioctx.execute(_TRASH, 'rbd', 'trash_get',
                                     omap.encode_text(image_id))
    except rados.ObjectNotFound:
        return False
    entry = _read_entry(io.BytesIO(reply), image_id)
    return (entry.source, entry.name) == (REMOVING, name)


def find_being_removed(ioctx: rados.Ioctx, name: str) -> str | None:
    """Return the internal ID of an image whose removal has taken its name.

    For those who do not know its ID, see :func:`is_being_removed`.

    :raises omap.Error: if the cluster refuses
    """
    return next((entry.image_id for entry in trash_entries(ioctx)
                 if (entry.source, entry.name) == (REMOVING, name)), None)


def _read_entry(stream: io.BytesIO, image_id: str) -> TrashEntry:
    """Return the next entry; what is damaged is that of no image.

    It is encoded with two versions of a byte each and its length; source, a
    byte, name and time of the deletion come first (cls::rbd::TrashImageSpec).
    """
    stream.read(2)
    spec = io.BytesIO(stream.read(_read_number(stream)))
    source = int.from_bytes(spec.read(1), 'little')
    name = _read_text(spec)
    return TrashEntry(image_id, name, source, datetime.datetime.fromtimestamp(
        _read_number(spec), datetime.timezone.utc).replace(tzinfo=None))


def _decode(data: bytes) -> str:
    """Return a string of Ceph's; what is damaged is the ID of no image."""
    return _read_text(io.BytesIO(data))


def _read_text(stream: io.BytesIO) -> str:
    return stream.read(_read_number(stream)).decode(errors='replace')


def _read_number(stream: io.BytesIO) -> int:
    return int.from_bytes(stream.read(4), 'little')
