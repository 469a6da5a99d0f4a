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

"""Doing at a site what Nova does there: clone an image, snapshot a disk."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib

import rados
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import images

#: What every function of this module raises when the cluster refuses.
Error = (rados.Error, rbd.Error)
#: That which is raised when the user has no right.
Refused = rbd.PermissionError

# Seconds that one request to an OSD may take.
_IO_TIMEOUT = 60
_CHUNK = 8 << 20


class Guest:
    """A site as a compute node uses it; it must be closed.

    :param disks: pool of disks
    :raises glance_dcn.ceph.errors.ClusterError: if the cluster cannot be used
    """

    def __init__(self, config: clients.ClusterConfig, disks: str) -> None:
        self.name = config.name
        self.pool = config.pool
        factory = clients.ClientFactory(dataclasses.replace(
            config, io_timeout=_IO_TIMEOUT))
        with contextlib.ExitStack() as stack:
            client = factory.connect()
            stack.callback(client.shutdown)
            self._images = stack.enter_context(factory.open_pool(
                client, config.pool))
            self._disks = stack.enter_context(factory.open_pool(
                client, disks))
            self.fsid = client.get_fsid()
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Give the connection back."""
        self._stack.close()

    def clone(self, image: str, disk: str) -> tuple[str, str, str]:
        """Clone an image copy-on-write.

        :param disk: name of the clone
        :returns: pool, image and snapshot that are its parent
        """
        rbd.RBD().clone(self._images, image, images.SNAPSHOT, self._disks,
                        disk)
        with rbd.Image(self._disks, disk, read_only=True) as opened:
            return opened.parent_info()

    def write(self, disk: str, data: bytes, offset: int) -> None:
        """Write to a disk, as its guest does."""
        with rbd.Image(self._disks, disk) as opened:
            opened.write(data, offset)

    def digest(self, image: str, disk: bool = False) -> str:
        """Return the SHA-256 of all of an image, or of a disk."""
        digest = hashlib.sha256()
        with rbd.Image(self._disks if disk else self._images, image,
                       read_only=True) as opened:
            if not disk:
                opened.set_snap(images.SNAPSHOT)
            for offset in range(0, opened.size(), _CHUNK):
                digest.update(opened.read(
                    offset, min(_CHUNK, opened.size() - offset)))
        return digest.hexdigest()

    def is_protected(self, image: str) -> bool:
        """Return whether an image is published as clones need it."""
        with rbd.Image(self._images, image, read_only=True) as opened:
            return opened.is_protected_snap(images.SNAPSHOT)

    def snapshot(self, disk: str, name: str, image: str) -> None:
        """Make an image of a disk, as Nova does in direct_snapshot().

        :param name: of the snapshot of the disk, which does not stay
        """
        with rbd.Image(self._disks, disk) as opened:
            opened.create_snap(name)
            opened.protect_snap(name)
        try:
            rbd.RBD().clone(self._disks, disk, name, self._images, image)
            with rbd.Image(self._images, image) as opened:
                opened.flatten()
                opened.create_snap(images.SNAPSHOT)
                opened.protect_snap(images.SNAPSHOT)
        finally:
            with contextlib.suppress(*Error), \
                    rbd.Image(self._disks, disk) as opened:
                opened.unprotect_snap(name)
                opened.remove_snap(name)

    def remove_disk(self, disk: str) -> None:
        """Remove a disk; one that is gone is no error."""
        with contextlib.suppress(rbd.ImageNotFound):
            rbd.RBD().remove(self._disks, disk)

    def remove_image(self, image: str) -> None:
        """Remove an image that Glance does not know of, if it is there."""
        with contextlib.suppress(rbd.ImageNotFound):
            images.remove(self._images, image,
                          images.read_image_id(self._images, image),
                          images.SNAPSHOT)

    def has(self, image: str) -> bool:
        """Return whether there is an image, or one in the trash."""
        return (image in rbd.RBD().list(self._images)
                or any(entry.name == image
                       for entry in images.trash_entries(self._images)))
