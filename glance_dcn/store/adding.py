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

"""Adding an image to a site out of a stream of bytes.

During an import Glance hands a store's ``add()`` the staged file inside
several readers of its own, which limit, count and inspect what passes. To
read a hole through the page cache costs as much as to read data, so the
innermost of these, which does nothing but read the file, is given a ``read``
that knows holes and answers them from a buffer of zeros. All the others see
every byte as before.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import stat
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import records
from glance_dcn.engine.backends import base
from glance_dcn.engine import extents
from glance_dcn.engine import stream
from glance_dcn.engine import transfer
from glance_dcn.imports import active_imports
from glance_dcn.runtime import process
from glance_dcn.sites import existing
from glance_dcn.sites import hashes
from glance_dcn.sites import home as homes
from glance_dcn.store import failures

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

    import rados

    from glance_dcn.engine.backends import rbd as rbd_backend
    from glance_dcn.engine import pacing
    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)

# Seconds to wait for the hashes another store's addition is computing, before
# computing them a second time.
_PATIENCE = 600
# What Glance's readers call the reader they wrap: _source in
# glance.common.scripts.utils.CallbackIterator and in oslo.utils's
# InspectWrapper; data and fd in glance.common.utils.LimitingReader and
# CooperativeReader.
_INNER = ('_source', 'data', 'fd')
_DEEPEST = 16


class Addition:
    """An image that is to be added to a site.

    :param data: file-like object or iterable of its data
    :param size: bytes; 0 if unknown
    :param algorithm: hashlib name of the multihash
    :param chunk: bytes to read at once
    :param verifier: object whose ``update()`` is given all data, or None
    """

    def __init__(self, site: sites.Site, name: str, data: typing.Any,
                 size: int, algorithm: str, chunk: int,
                 verifier: typing.Any) -> None:
        self._site = site
        self._name = name
        self._data = data
        self._size = size
        self._wanted = (hashes.CHECKSUM, algorithm)
        self._chunk = chunk
        self._verifier = verifier
        # Whether the hashes are computed here, on the way.
        self._leads = False

    def run(self) -> records.Record:
        """Store the image, or adopt what is there; leave nothing incomplete.

        :raises: see :meth:`glance_dcn.store.driver.Store.add`
        """
        skip_holes(self._data)
        self._leads = process.get(hashes.SharedHashes).claim(self._name)
        record = None
        try:
            held, ioctx, begun = self._begin()
            with held:
                record = (self._adopt(ioctx, begun)
                          if isinstance(begun, existing.ExistingImage)
                          else self._store(ioctx, begun))
        except BaseException as exc:
            self._site.limits.meter.error(exc)
            raise
        finally:
            if self._leads and record is not None:
                process.get(hashes.SharedHashes).set_result(self._name, record)
            elif self._leads:
                process.get(hashes.SharedHashes).set_failed(self._name)
        return record

    @failures.retried_if_blocklisted
    def _begin(self) -> tuple[contextlib.ExitStack, rados.Ioctx,
                              rbd_backend.RBD | existing.ExistingImage]:
        """Open the pool and begin an image in it.

        :returns: what closes the pool, the pool, and the open image, or the
            complete one that is there already
        """
        begun: rbd_backend.RBD | existing.ExistingImage
        with contextlib.ExitStack() as stack:
            ioctx = stack.enter_context(failures.open_pool(self._site))
            try:
                with failures.explained(self._site, self._name):
                    begun = self._site.begin(ioctx, self._name, self._size)
            except existing.Complete as exc:
                begun = exc.found
                if self._size and self._size != begun.size:
                    raise failures.duplicate(self._site, existing.Different(
                        begun, 'its size is %d bytes, not %d'
                        % (begun.size, self._size)))
            except existing.Refused as exc:
                raise failures.duplicate(self._site, exc)
            except errors.ReadOnly as exc:
                LOG.error('Image %(image)s cannot be stored: %(error)s',
                          {'image': self._name, 'error': exc})
                raise failures.WriteDenied(str(exc))
            except BaseException as exc:
                self._site.failed(exc)
                if not isinstance(exc.__cause__, name_lock.NotLocked):
                    self._site.discard_or_defer(ioctx, self._name)
                raise
            return stack.pop_all(), ioctx, begun

    def _store(self, ioctx: rados.Ioctx,
               target: rbd_backend.RBD) -> records.Record:
        """Write the stream to a new image and publish it."""
        with self._removed_on_failure(ioctx, target.image.id()), target:
            result = self._write(target, self._site.limits.sending)
            record = homes.sign(self._site, self._name, _record(
                result, self._hashes_of(ioctx, result)))
            self._site.publish(target, record)
            with self._lost_is_duplicate():
                self._site.commit(self._name, target.image.id())
            return record

    @contextlib.contextmanager
    def _lost_is_duplicate(self) -> Iterator[None]:
        """Say in glance_store's terms that the image was taken away."""
        try:
            yield
        except existing.Gone as exc:
            raise failures.duplicate(self._site, exc)

    def _adopt(self, ioctx: rados.Ioctx,
               found: existing.ExistingImage) -> records.Record:
        """Take over a complete image, if it is what the stream brings."""
        with failures.explained(self._site, self._name):
            result = self._write(base.Null(self._name))
            try:
                # Those of the stream, if there are any yet.
                existing.adopt(self._site, ioctx, found, result.size,
                               result.content, result.hashes)
            except existing.Refused as exc:
                raise failures.duplicate(self._site, exc)
            try:
                computed = self._hashes_of(ioctx, result, images.SNAPSHOT)
            except BaseException:
                self._site.release_adopted(self._name, found.image_id)
                raise
        with self._lost_is_duplicate():
            self._site.commit(self._name, found.image_id)
        return _record(result, computed)

    def _write(self, target: base.Endpoint,
               rate: pacing.Rate | None = None) -> transfer.Result:
        """Write the stream to an endpoint."""
        with stream.Sink(
                target, self._size or None,
                hashes=self._wanted if self._leads else (),
                tap=self._tap(),
                timeout=stall_timeout(self._site), rate=rate) as sink:
            sink.write_from(self._data, self._chunk)
            return sink.finish()

    def _tap(self) -> Callable[[bytes], object] | None:
        """Return what all data is shown to: verifier and progress."""
        listeners = [listener for listener in (
            self._verifier and self._verifier.update,
            active_imports.progress_callback(
                self._name, self._site.name, self._size))
            if listener]
        if len(listeners) < 2:
            return listeners[0] if listeners else None

        def tap(data: bytes) -> None:
            for listener in listeners:
                listener(data)
        return tap

    def _hashes_of(self, ioctx: rados.Ioctx, result: transfer.Result,
                   snapshot: str | None = None) -> dict[str, str]:
        """Return the hashes Glance wants of what was written.

        They were computed on the way, or for equal content, or are now.
        """
        if self._leads:
            return result.hashes
        known = process.get(hashes.SharedHashes).wait(self._name, _PATIENCE)
        if (known and set(self._wanted) <= set(known.hashes)
                and (known.size, known.content) == (result.size,
                                                    result.content)):
            return {algorithm: known.hashes[algorithm]
                    for algorithm in self._wanted}
        LOG.info('Image %(image)s in store %(store)s is not what this process '
                 'knows the hashes of: reading it once more to compute them',
                 {'image': self._name, 'store': self._site.name})
        with self._site.reading(ioctx, self._name, snapshot) as source:
            read = transfer.Transfer(
                source, hashes=self._wanted,
                expected=result.content, timeout=stall_timeout(self._site),
                limits={source: self._site.limits.receiving}).run()
        return read.hashes

    @contextlib.contextmanager
    def _removed_on_failure(self, ioctx: rados.Ioctx,
                            image_id: str) -> Iterator[None]:
        """Remove the new image again if the block fails.

        Also when the process is told to end: SystemExit is no Exception.
        """
        try:
            yield
        except BaseException as exc:
            LOG.error('Failed to store image %(image)s in store %(store)s: '
                      '%(error)s', {'image': self._name,
                                    'store': self._site.name,
                                    'error': exc or type(exc).__name__})
            # Or removing it would wait for a site that is away once more.
            self._site.failed(exc)
            self._site.discard_or_defer(ioctx, self._name, image_id)
            with failures.explained(self._site, self._name):
                raise


def _record(result: transfer.Result, computed: dict[str, str]
            ) -> records.Record:
    assert result.content is not None, 'a sink computes the content digest'
    return records.Record(result.size, result.content, computed)


def stall_timeout(site: sites.Site) -> float:
    """Seconds without any progress after which a transfer is cancelled."""
    return site.io_timeout or float('inf')


def skip_holes(data: typing.Any) -> bool:
    """Make the reader of a staged file skip holes; return if it is one."""
    reader = data
    for _ in range(_DEEPEST):
        inner = _inner(reader)
        if inner is None:
            return False
        if _is_file(inner):
            sparse = SparseReader(inner)
            # Glance's CooperativeReader (33) has its read as an attribute of
            # the object: it is one that may be set. Others, before, have but
            # the file.
            if 'read' in vars(reader):
                reader.read = sparse.read
            else:
                _put_inside(reader, sparse)
            return True
        reader = inner
    return False


def report_waiting(data: typing.Any) -> Callable[[list[str]], object] | None:
    """Return what keeps the task of an import alive while it waits.

    :returns: function that ignores its argument, saves the task, so that its
        lock stays fresh, and raises what Glance raises when it was ended
        elsewhere; None where no task is behind the data
    """
    reader = data
    for _ in range(_DEEPEST):
        # glance.common.scripts.utils.CallbackIterator
        callback = getattr(reader, '_callback', None)
        if callable(callback):
            return lambda unused: callback(0, 0)
        reader = _inner(reader)
        if reader is None:
            break
    return None


def _is_file(reader: typing.Any) -> bool:
    """Return whether it reads a file: uploads may come from a socket."""
    if not isinstance(reader, io.BufferedReader):
        return False
    try:
        return stat.S_ISREG(os.fstat(reader.fileno()).st_mode)
    except (OSError, AttributeError):
        # WebOb's reader of a body has a fileno(); eventlet's, that it asks,
        # has none.
        return False


def _inner(reader: typing.Any) -> typing.Any:
    for name in _INNER:
        inner = getattr(reader, name, None)
        if hasattr(inner, 'read') or hasattr(inner, '__next__'):
            return inner
    return None


def _put_inside(reader: typing.Any, inner: SparseReader) -> None:
    """Let a reader read from something else than it was made with."""
    name = next(name for name in _INNER if hasattr(reader, name))
    setattr(reader, name, inner)


class SparseReader:
    """Reads a file in order, and its holes without touching the file.

    What it returns ends at the multiples of the engine's largest request at
    the latest, and a hole from one to the next is ``extents.ZEROS`` itself, in
    which the engine need not search for data.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._fd = file.fileno()
        self._position = file.tell()
        self._data = self._hole = self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        if size is None or size < 0:
            size = max(0, os.fstat(self._fd).st_size - self._position)
        size = min(size, extents.REQUEST - self._position % extents.REQUEST)
        if self._position >= self._hole:
            self._find_data()
        if self._position < self._data:
            count = min(size, self._data - self._position)
            self._position += count
            # All of it is the same object, not a copy.
            return extents.ZEROS[:count]
        data = os.pread(self._fd, min(size, self._hole - self._position),
                        self._position)
        self._position += len(data)
        return data

    def __iter__(self) -> SparseReader:
        return self

    def __next__(self) -> bytes:
        data = self.read(extents.REQUEST)
        if not data:
            raise StopIteration
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find_data(self) -> None:
        """Find the next data, and where it ends."""
        end = os.fstat(self._fd).st_size
        if self._position >= end:
            self._data = self._hole = self._position
            return
        try:
            self._data = os.lseek(self._fd, self._position, os.SEEK_DATA)
            self._hole = os.lseek(self._fd, self._data, os.SEEK_HOLE)
        except OSError as exc:
            # No data follows (ENXIO), or the file system cannot tell.
            self._data = end if exc.errno == errno.ENXIO else self._position
            self._hole = end
