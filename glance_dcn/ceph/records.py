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

"""What is known of an image's content, kept with the image in its pool.

A record says which content digest, size, checksum and multihash the published
content of an RBD image has. It lies in the image's own metadata, so that it
goes when the image goes. Clones inherit their parent's metadata, and a disk's
snapshot inherits the disk's: a record therefore names the RBD image and the
snapshot it was made for, and counts for these alone.
"""

import dataclasses
import json
import logging

import rbd

LOG = logging.getLogger(__name__)

#: Key in the metadata of the RBD image.
KEY = 'glance_dcn.record'
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of an image's content.

    :ivar size: bytes
    :ivar content: content digest, see :mod:`glance_dcn.engine.digests`
    :ivar hashes: hex digests over all bytes by hashlib name, such as
        ``md5`` (Glance's checksum) and ``sha512``; those that are known
    """

    size: int
    content: str
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)


def save(ioctx, name, snapshot, record):
    """Keep a record with a published image.

    :param ioctx: rados.Ioctx of the pool
    :param name: name of the RBD image
    :param snapshot: name of the snapshot whose content it describes
    :param record: :class:`Record`
    :raises rbd.Error: if it cannot be written
    """
    with rbd.Image(ioctx, name) as image:
        image.metadata_set(KEY, json.dumps(dict(
            dataclasses.asdict(record), version=_VERSION,
            subject=_subject(image, snapshot)), sort_keys=True))


def load(ioctx, name, snapshot):
    """Return the record of a published image, or None.

    :param ioctx: rados.Ioctx of the pool
    :param name: name of the RBD image
    :param snapshot: name of the snapshot whose content is asked for
    :raises rbd.Error: if the image cannot be opened
    """
    with rbd.Image(ioctx, name, read_only=True) as image:
        try:
            fields = json.loads(image.metadata_get(KEY))
            if (fields['version'] != _VERSION
                    or fields['subject'] != _subject(image, snapshot)):
                return None
            return Record(int(fields['size']), str(fields['content']),
                          dict(fields['hashes']))
        except KeyError:
            # Also what metadata_get raises where there is none.
            return None
        except (ValueError, TypeError) as exc:
            LOG.warning('The record of RBD image %s cannot be understood and '
                        'is left aside: %s', name, exc)
            return None


def _subject(image, snapshot):
    """Return what identifies an image's snapshot within its pool."""
    for snap in image.list_snaps():
        if snap['name'] == snapshot:
            return [image.id(), snap['id']]
    return [image.id(), None]
