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

"""What the header of an RBD image may say.

The owner of a cluster can write anything into its headers, and librbd, which
runs in this process, believes it: it divides by what it finds, and takes a
file or URL that a migration names for the parent of the image. This looks at
an image that is open already; what librbd does to open it comes before.
"""

from __future__ import annotations

import errno
import typing

import rbd

# Of objects, as powers of two: those that "rbd create" takes.
_ORDERS = range(12, 26)
# Stripes that an object set may have, and bytes of an image.
_STRIPES = 1 << 12
# Bytes of a stripe at least.
_LEAST_UNIT = 1 << 12
_LARGEST = 1 << 60


class Unsafe(rbd.InvalidArgument):
    """The header says what librbd cannot bear."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, errno=errno.EINVAL)
        self.reason = reason


def check(image: rbd.Image) -> None:
    """See that an image that was opened is one to work with.

    All of it is known to the client: there is no round trip.

    :raises Unsafe: if it is not
    """
    if image.features() & rbd.RBD_FEATURE_MIGRATING:
        raise Unsafe('The image is being migrated: execute or abort that (rbd '
                     'migration), and try again.')
    stat = image.stat()
    if (stat['order'] not in _ORDERS or stat['obj_size'] != 1 << stat['order']
            or stat['size'] > _LARGEST
            or not 0 < image.stripe_count() <= _STRIPES
            or not _LEAST_UNIT <= image.stripe_unit() <= stat['obj_size']
            or stat['obj_size'] % image.stripe_unit()):
        raise Unsafe(
            'The header of the image is damaged (objects of 2^%d bytes, %d '
            'stripes of %d bytes, %d bytes): see who writes to the cluster.'
            % (stat['order'], image.stripe_count(), image.stripe_unit(),
               stat['size']))


class Facts(typing.NamedTuple):
    """What must not change while an image is written.

    :ivar size: bytes
    """

    size: int
    snapshots: tuple[str, ...]
    features: int
    prefix: str
    data_pool: int
    order: int
    stripe_unit: int
    stripe_count: int


def facts(image: rbd.Image) -> Facts:
    """Return the facts of an image, as its client knows them.

    :raises rbd.Error: if that cannot be told
    """
    stat = image.stat()
    return Facts(
        stat['size'], tuple(snap['name'] for snap in image.list_snaps()),
        image.features(), image.block_name_prefix(), image.data_pool_id(),
        stat['order'], image.stripe_unit(), image.stripe_count())


def check_unchanged(image: rbd.Image, before: Facts) -> None:
    """See that the header of an image is as it was.

    :raises Unsafe: if it is not
    :raises rbd.Error: if that cannot be told
    """
    check(image)
    now = facts(image)
    changed = [name for name, one, other in zip(Facts._fields, before, now)
               if one != other]
    if changed:
        raise Unsafe('The header of the image was changed while it was '
                     'written (%s): see who writes to the cluster.'
                     % ', '.join(changed))


def has_parent(image: rbd.Image) -> bool:
    """Return whether an image is a clone.

    :raises rbd.Error: if that cannot be told
    """
    try:
        image.parent_info()
    except rbd.ImageNotFound:
        return False
    return True
