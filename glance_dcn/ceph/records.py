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
snapshot inherits the disk's: a record therefore names, by its internal ID, the
RBD image it was made for, and counts for that one alone.
"""

import dataclasses
import json
import logging

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


def save(image, record):
    """Keep a record with an image.

    :param image: rbd.Image, open for writing
    :param record: :class:`Record`
    :raises rbd.Error: if it cannot be written
    """
    image.metadata_set(KEY, json.dumps(dict(
        dataclasses.asdict(record), version=_VERSION, image=image.id()),
        sort_keys=True))


def load(image):
    """Return the record of an image, or None.

    :param image: rbd.Image, open at whatever snapshot
    :raises rbd.Error: if it cannot be read
    """
    try:
        fields = json.loads(image.metadata_get(KEY))
        if fields['version'] != _VERSION or fields['image'] != image.id():
            return None
        return Record(int(fields['size']), str(fields['content']),
                      dict(fields['hashes']))
    except KeyError:
        # Also what metadata_get raises where there is none.
        return None
    except (ValueError, TypeError) as exc:
        LOG.warning('The record of RBD image %s cannot be understood and is '
                    'left aside: %s', image.get_name(), exc)
        return None
