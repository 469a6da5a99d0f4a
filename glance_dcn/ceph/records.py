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

A client that can write to the pool can rewrite an image and its record alike.
A record therefore carries message authentication codes (HMAC-SHA256), one for
each deployment that has computed or verified the content itself: made with a
key that no other site can read, and named by a fingerprint of that key. What
a deployment has no code of its own for is a hint, never a proof.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import logging
import re

import rbd

from glance_dcn.ceph import record_format

LOG = logging.getLogger(__name__)

#: Key in the metadata of the RBD image.
KEY = 'glance_dcn.record'
_VERSION = 1

# What a record may have: characters of its text, hashes, and codes. One of
# ours has less than 1 KiB, and a code is 90 bytes.
_LONGEST = 16384
_MOST_HASHES = 16
_MOST_CODES = 16
_LARGEST = 1 << 63

_DIGEST = re.compile(r'[0-9a-z:]{1,256}')
_HASH_NAME = re.compile(r'[0-9A-Za-z_/-]{1,32}')
_HASH = re.compile(r'[0-9a-f]{1,512}')
_KEY_ID = re.compile(r'[0-9a-f]{16}')
_CODE = re.compile(r'[0-9a-f]{64}')


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of an image's content.

    :ivar size: bytes
    :ivar content: content digest, see :mod:`glance_dcn.engine.digests`
    :ivar hashes: hex digests over all bytes by hashlib name, such as
        ``md5`` (Glance's checksum) and ``sha512``; those that are known
    :ivar macs: message authentication codes, hex, by the fingerprint of the
        key they were made with; they are no part of what is compared
    """

    size: int
    content: str
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    macs: dict[str, str] = dataclasses.field(default_factory=dict,
                                             compare=False)


def sign(record: Record, name: str, key: bytes) -> Record:
    """Return a record with a code of this key, beside those that it has.

    Only for content that this process has computed or verified.

    :param name: name of the image that has the content: its UUID
    """
    others = {one: mac for one, mac in record.macs.items()
              if one != key_id(key)}
    kept = sorted(others.items())[:_MOST_CODES - 1]
    return dataclasses.replace(record, macs=dict(
        kept, **{key_id(key): _mac(record, name, key)}))


def is_authentic(record: Record, name: str, key: bytes) -> bool:
    """Return whether a record has a code of this key, and it is right.

    :param name: name of the image that is to have the content: its UUID
    """
    found = record.macs.get(key_id(key))
    return found is not None and hmac.compare_digest(
        found, _mac(record, name, key))


def key_id(key: bytes) -> str:
    """Return the fingerprint by which a record names a key."""
    return hmac.new(key, b'glance_dcn key', hashlib.sha256).hexdigest()[:16]


def _mac(record: Record, name: str, key: bytes) -> str:
    # As JSON it is clear where each field ends.
    text = json.dumps(['glance_dcn record', _VERSION, name, record.size,
                       record.content, sorted(record.hashes.items())])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def save(image: rbd.Image, record: Record) -> None:
    """Keep a record with an image, over an earlier one.

    :param image: open for writing
    :raises rbd.Error: if it cannot be written
    """
    image.metadata_set(KEY, compose(record, image.id()))


def save_unless_later(image: rbd.Image, record: Record) -> None:
    """Keep a record with an image, unless a later release has kept one.

    That release would have to read the image for what it knows now.

    :param image: open for writing
    :raises rbd.Error: if it cannot be written
    """
    try:
        parse(_read(image) or '', image.id())
    except record_format.OtherRelease as exc:
        if exc.version > _VERSION:
            LOG.info('RBD image %(image)s: its record (metadata %(key)s) '
                     'stays: %(error)s', {'image': image.get_name(),
                                          'key': KEY, 'error': exc})
            return
    except ValueError:
        # There is none, or it is of no use.
        pass
    save(image, record)


def _read(image: rbd.Image) -> str | None:
    try:
        text: str = image.metadata_get(KEY)
        return text
    except KeyError:
        return None
    except ValueError:
        # It is not UTF-8.
        return ''


def load(image: rbd.Image) -> Record | None:
    """Return the record of an image, or None.

    :param image: open at any snapshot
    :raises rbd.Error: if it cannot be read
    """
    text = _read(image)
    if text is None:
        return None
    try:
        return parse(text, image.id())
    except ValueError as exc:
        LOG.warning('RBD image %(image)s: its record (metadata %(key)s) is '
                    'not valid and is ignored: %(error)s', {
                        'image': image.get_name(), 'key': KEY, 'error': exc})
        return None


def compose(record: Record, image_id: str) -> str:
    """Return a record as text.

    :param image_id: internal ID of the RBD image that it is made for
    """
    return json.dumps(dict(dataclasses.asdict(record), version=_VERSION,
                           image=image_id), sort_keys=True)


def parse(text: str, image_id: str) -> Record | None:
    """Return the record that a text is, or None if it is made for another.

    :param image_id: internal ID of the RBD image that has the text
    :raises glance_dcn.ceph.record_format.OtherRelease: if it is one of another
        release
    :raises ValueError: if it is no record; any client may have written it
    """
    if len(text) > _LONGEST:
        raise ValueError('it has more than %d characters' % _LONGEST)
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deep')
    if not isinstance(fields, dict):
        raise ValueError('it is no object')
    if fields.get('image') != image_id:
        return None
    record_format.check_version(fields.get('version'), _VERSION)
    size = fields.get('size')
    # True is an int, too.
    if type(size) is not int or not 0 <= size < _LARGEST:
        raise ValueError('its size is no number of bytes')
    return Record(
        size,
        _checked(fields.get('content'), _DIGEST, 'content digest'),
        _table(fields.get('hashes'), _HASH_NAME, _HASH, _MOST_HASHES,
               'hashes'),
        _table(fields.get('macs', {}), _KEY_ID, _CODE, _MOST_CODES, 'macs'))


def _checked(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError('its %s is not valid' % what)
    return value


def _table(value: object, names: re.Pattern[str], values: re.Pattern[str],
           most: int, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > most:
        raise ValueError('its %s are not a table of at most %d' % (what, most))
    return {_checked(one, names, 'name in ' + what):
            _checked(text, values, 'value in ' + what)
            for one, text in value.items()}
