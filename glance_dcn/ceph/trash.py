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

"""The trash of a pool, as its OSDs list it.

librbd's own list is not enough: it leaves out what is being removed, and its
binding for Python raises IndexError at an entry of a source that it has no
name for, as Ceph 16's does for an image that is being migrated.
"""

from __future__ import annotations

import datetime
import io
import logging
import typing

import rados

from glance_dcn.ceph import omap

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger(__name__)

# Object of the trash, and class of its methods.
_OBJECT, _CLASS = 'rbd_trash', 'rbd'
#: Source of an entry whose image is being removed
#: (cls::rbd::TRASH_IMAGE_SOURCE_REMOVING).
REMOVING = 3
# Entries of one reply, bytes of the largest one, and entries that are read at
# most.
_ENTRIES = 512
_ENTRIES_BYTES = 1 << 18
_MOST_ENTRIES = 1 << 16


class Entry(typing.NamedTuple):
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


def entries(ioctx: rados.Ioctx) -> Iterator[Entry]:
    """Yield the entries of a pool's trash, by internal ID.

    Of very many, the first 65,536 are yielded, and a warning is logged.

    :raises glance_dcn.ceph.omap.Error: if the cluster refuses
    """
    last = ''
    for _ in range(_MOST_ENTRIES // _ENTRIES):
        try:
            _code, reply = ioctx.execute(
                _OBJECT, _CLASS, 'trash_list',
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

    :raises glance_dcn.ceph.omap.Error: if the cluster refuses
    """
    try:
        _code, reply = ioctx.execute(_OBJECT, _CLASS, 'trash_get',
                                     omap.encode_text(image_id))
    except rados.ObjectNotFound:
        return False
    entry = _read_entry(io.BytesIO(reply), image_id)
    return (entry.source, entry.name) == (REMOVING, name)


def find_being_removed(ioctx: rados.Ioctx, name: str) -> str | None:
    """Return the internal ID of an image whose removal has taken its name.

    For those who do not know its ID, see :func:`is_being_removed`.

    :raises glance_dcn.ceph.omap.Error: if the cluster refuses
    """
    return next((entry.image_id for entry in entries(ioctx)
                 if (entry.source, entry.name) == (REMOVING, name)), None)


def _read_entry(stream: io.BytesIO, image_id: str) -> Entry:
    """Return the next entry; what is damaged is that of no image.

    It is encoded with two versions of a byte each and its length; source, a
    byte, name and time of the deletion come first (cls::rbd::TrashImageSpec).
    """
    stream.read(2)
    spec = io.BytesIO(stream.read(_read_number(stream)))
    source = int.from_bytes(spec.read(1), 'little')
    name = _read_text(spec)
    return Entry(image_id, name, source, datetime.datetime.fromtimestamp(
        _read_number(spec), datetime.timezone.utc).replace(tzinfo=None))


def decode(data: bytes) -> str:
    """Return a string of Ceph's; what is damaged is the ID of no image."""
    return _read_text(io.BytesIO(data))


def _read_text(stream: io.BytesIO) -> str:
    return stream.read(_read_number(stream)).decode(errors='replace')


def _read_number(stream: io.BytesIO) -> int:
    return int.from_bytes(stream.read(4), 'little')
