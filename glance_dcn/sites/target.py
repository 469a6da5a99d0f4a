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

"""One target of a copy: the image that is being written at one site."""

from __future__ import annotations

import contextlib
import logging
import typing

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.sites import existing

if typing.TYPE_CHECKING:
    from concurrent import futures

    import rados

    from glance_dcn.engine.backends import rbd as rbd_backend
    from glance_dcn.engine import transfer
    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)


class Target:
    """The image that is being written at one site.

    Each method waits for the site's cluster alone. All that a thread meets is
    kept in :attr:`error`.

    :param size: bytes
    :param hashes: hex digests over all bytes by hashlib name
    :param memory: bytes of data held at most, to read what is there
    :ivar error: why it has failed, or None
    :ivar endpoint: for the engine, once it is open; None if there is nothing
        to write
    :ivar adopted: whether the image was there already
    :ivar image_id: internal ID of the RBD image that was begun, once it is
        known
    :ivar left_at: where it has to be written from on, in bytes, if the others
        do not wait for it; None while they do
    :ivar part: the part of it that is written by a transfer of its own, 0 to 1
    :ivar began: when that transfer began, by the monotonic clock; None before
    :ivar work: what its threads do or have done
    """

    # Not there before open().
    _pool: rados.Ioctx

    def __init__(self, site: sites.Site, image: str, size: int,
                 record: records.Record | None, hashes: dict[str, str],
                 memory: int) -> None:
        self.site = site
        self.error: BaseException | None = None
        self.endpoint: rbd_backend.RBD | None = None
        self.adopted = False
        self.image_id: str | None = None
        self.left_at: int | None = None
        self.part = 0.0
        self.began: float | None = None
        self.work: list[futures.Future[None]] = []
        self._image = image
        self._size = size
        self._content = record.content if record else None
        self._hashes = hashes
        self._memory = memory
        self._begun = False
        self._told = False
        self._closed = False
        self._cancelled = False
        self._job: transfer.Transfer | None = None
        self._keeping: futures.Future[None] | None = None
        self._stack = contextlib.ExitStack()

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        return self.endpoint is not None and self.error is None

    def open(self) -> None:
        """Create the image and open it for writing, or adopt what is there."""
        try:
            self._pool = self._stack.enter_context(self.site.open_pool())
            self._begin()
        except existing.Refused as exc:
            self.fail(errors.Misconfigured(
                self.site.name, 'it cannot take the image', str(exc)))
        except Exception as exc:
            self.fail(exc)

    def _begin(self) -> None:
        try:
            self._begun = True
            self.endpoint = self.site.begin(self._pool, self._image,
                                            self._size)
            self.image_id = self.endpoint.image.id()
        except existing.Complete as exc:
            self._begun = False
            existing.adopt(self.site, self._pool, exc.found, self._size,
                           self._content, self._hashes, self._memory)
            self.adopted = True
            self.image_id = exc.found.image_id
            self.site.published(self._image, self._size)
        except (existing.Refused, name_lock.NotLocked, errors.ReadOnly):
            self._begun = False
            raise

    def keep(self, record: records.Record,
             executor: futures.Executor) -> None:
        """Begin to keep the record with the image that is being written.

        It counts only once the image is published, and costs round trips
        that would otherwise have to be waited for.
        """
        if self.endpoint:
            self._keeping = executor.submit(
                self.endpoint.call, records.save, record)

    def run(self, job: transfer.Transfer) -> transfer.Result:
        """Run a transfer to this target alone, which :meth:`cancel` ends.

        :raises: as :meth:`glance_dcn.engine.transfer.Transfer.run`
        """
        self._job = job
        self.check_cancelled()
        return job.run()

    def record_progress(self, progress: transfer.Progress) -> None:
        """Record how far a transfer to this target alone is."""
        # What is read may be in memory still.
        self.part = progress.fraction * (
            sum(progress.written.values()) / progress.data
            if progress.data else 1)

    def cancel(self) -> None:
        """Have a transfer to this target alone end. Any thread may call it."""
        self._cancelled = True
        if self._job:
            self._job.cancel()

    def check_cancelled(self) -> None:
        """Return if it was not cancelled.

        :raises glance_dcn.engine.errors.Cancelled: if it was
        """
        if self._cancelled:
            raise engine_errors.Cancelled('The copy was cancelled.')

    def publish(self, record: records.Record | None) -> None:
        """Let what was written be read."""
        if self.error or self.adopted or not self.endpoint:
            return
        try:
            if self._keeping:
                self._keeping.result()
            self.site.publish(self._pool, self._image, self.endpoint,
                              None if self._keeping else record)
            self.site.published(self._image, self._size)
        except (errors.ClusterError, rbd.Error) as exc:
            self.fail(exc)

    def release(self) -> None:
        """Close the published image, and take the right to tell Glance of it.

        If this process was taken for dead meanwhile, the image is removed,
        and Glance must not have its location.
        """
        if self.error:
            return
        if self.endpoint:
            self.endpoint.close()
        try:
            self.site.commit(self._image, self.image_id)
            if self.site.call(images.read_image_id, self._pool,
                              self._image) != self.image_id:
                raise existing.Gone(existing.ExistingImage(self._image))
        except (errors.ClusterError, existing.Gone, omap.Error) as exc:
            self.fail(exc)

    def tell(self) -> None:
        """Record that Glance is told of the image from here on."""
        self._told = True

    def fail(self, error: BaseException) -> None:
        """Record the error and stop writing to this target."""
        LOG.error('Image %(image)s was not copied to store %(store)s: '
                  '%(error)s', {'image': self._image,
                                'store': self.site.name, 'error': error})
        self.site.failed(error)
        self.error = error

    def close(self, failed: bool) -> None:
        """Close it; if this or the whole copy failed, leave nothing there.

        To call it again does nothing, and nothing is raised.

        :param failed: whether the whole copy has failed
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._close(failed)
        except Exception as exc:
            LOG.warning('Store %(store)s: a copied image was not closed: '
                        '%(error)s', {'store': self.site.name, 'error': exc})

    def _close(self, failed: bool) -> None:
        with self._stack:
            endpoint = self.endpoint
            if endpoint and self._keeping and not self._keeping.done():
                # At a site that hangs. librbd has the image in use until then.
                self._keeping.add_done_callback(
                    lambda _done: endpoint.close())
            elif endpoint:
                endpoint.close()
            if self._told or not (self.error or failed):
                return
            if self._begun:
                self.site.discard_or_defer(self._pool, self._image,
                                           self.image_id)
            elif self.adopted:
                self.site.release_adopted(self._image, self.image_id)
