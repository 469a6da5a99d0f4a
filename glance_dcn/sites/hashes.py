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

"""Hashes that are computed once an image, however many stores it goes to.

Glance gives each store of an import the same data and wants the checksum and
the multihash from each. The first ``add()`` of an image in this process
computes them, or even the conversion before it, while the image is being
written to the staging folder; the others compute the content digest alone,
which costs only the data, and take over the hashes when it proves equal
content.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import time
import typing

from glance_dcn.ceph import records
from glance_dcn.engine.backends import file
from glance_dcn.engine import errors
from glance_dcn.engine import transfer
from glance_dcn.runtime import native
from glance_dcn.runtime import process

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

LOG = logging.getLogger(__name__)

# The algorithm of Glance's ``checksum``.
CHECKSUM = 'md5'

# Images whose hashes are remembered; a record takes well under 1 KiB.
_REMEMBERED = 256

# Bytes of buffers that hashing ahead holds, beside those of a transfer.
_AHEAD_MEMORY = 32 << 20
# Seconds between checks for a file that is not there yet.
_PAUSE = 0.05


class SharedHashes:
    """The hashes of the images that this process has stored lately.

    Native threads give them to those that wait, which may be green threads.
    """

    def __init__(self) -> None:
        # None: being computed.
        self._images: collections.OrderedDict[
            str, records.Record | None] = collections.OrderedDict()
        self._lock = native.lock()
        # Of those that wait for a change.
        self._waiting: list[native.Queue[bool]] = []

    def claim(self, image_id: str) -> bool:
        """Claim to compute the hashes of an image.

        :returns: True: compute, then call :meth:`set_result` or
            :meth:`set_failed`. False: they are known, or are being computed;
            see :meth:`wait`
        """
        with self._lock:
            if image_id in self._images:
                return False
            self._images[image_id] = None
            return True

    def set_result(self, image_id: str, record: records.Record) -> None:
        """Give the hashes that were computed to those that wait."""
        with self._lock:
            self._images[image_id] = record
            self._images.move_to_end(image_id)
            while len(self._images) > _REMEMBERED:
                oldest = next(iter(self._images))
                if self._images[oldest] is None:
                    break
                del self._images[oldest]
            self._tell()

    def set_failed(self, image_id: str) -> None:
        """Let another one compute the hashes of an image."""
        with self._lock:
            self._images.pop(image_id, None)
            self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for queue in waiting:
            queue.put(True)

    def wait(self, image_id: str,
             timeout: float) -> records.Record | None:
        """Return the record of an image, or None after so many seconds."""
        deadline = time.monotonic() + timeout
        while True:
            changed: native.Queue[bool] = native.Queue()
            with self._lock:
                if self._images.get(image_id, True) is not None:
                    return self._images.get(image_id)
                self._waiting.append(changed)
            try:
                native.get(changed, deadline - time.monotonic())
            except native.Empty:
                with self._lock, contextlib.suppress(ValueError):
                    self._waiting.remove(changed)
                return None


@dataclasses.dataclass(eq=False)
class BackgroundHasher:
    """Computes the hashes of a file while it is being written in order.

    A store that is given the file takes them over, if what it stores is what
    was hashed.

    :param path: of the file, which need not be there yet
    :param size: bytes that it will have
    :param algorithms: hashlib names
    """

    image_id: str
    path: str
    size: int
    algorithms: Sequence[str]
    _shared: SharedHashes = dataclasses.field(
        default_factory=lambda: process.get(SharedHashes))
    _source: file.Growing | None = None
    _job: transfer.Transfer | None = None
    _complete: bool = False
    _cancelled: bool = False

    def start(self) -> bool:
        """Begin in a thread, unless the hashes are known or being computed."""
        claimed = self._shared.claim(self.image_id)
        if claimed:
            native.start('hash-ahead', self._run)
        return claimed

    def complete(self) -> None:
        """Tell that all of the file is there."""
        self._complete = True
        if self._source:
            self._source.complete()

    def cancel(self) -> None:
        """Stop, if it is not done yet."""
        self._cancelled = True
        if self._job:
            self._job.cancel()

    def _run(self) -> None:
        try:
            self._shared.set_result(self.image_id, self._compute())
            return
        except (errors.EngineError, OSError) as exc:
            LOG.info('The hashes of image %(image)s are not computed ahead: '
                     '%(error)s', {'image': self.image_id, 'error': exc})
        except Exception:
            LOG.exception('Cannot compute the hashes of image %s ahead',
                          self.image_id)
        self._shared.set_failed(self.image_id)

    def _compute(self) -> records.Record:
        with self._open() as source:
            self._job = transfer.Transfer(
                source, hashes=self.algorithms, memory=_AHEAD_MEMORY,
                timeout=float('inf'))
            self._source = source
            # What was told before the source was there.
            if self._complete:
                source.complete()
            if self._cancelled:
                self._job.cancel()
            result = self._job.run()
        # It was read from its beginning.
        assert result.content is not None
        return records.Record(result.size, result.content, result.hashes)

    def _open(self) -> file.Growing:
        while True:
            gone = self._complete or self._cancelled
            try:
                return file.Growing(self.path, self.size)
            except errors.RequestError:
                if gone:
                    raise
            native.sleep(_PAUSE)
