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

"""What proves that the bytes of an image are those that Glance has hashed.

Records in a site's pool (:mod:`glance_dcn.ceph.records`) are written by all
who can write to the pool. A record proves something only if it has a message
authentication code under the key of this deployment, which is kept in the
cluster of the own site (:mod:`glance_dcn.sites.home`). Where the key cannot
be had, nothing is proved by a record, and bytes are read and hashed instead.
"""

from __future__ import annotations

import logging
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.ceph import records

if typing.TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping

    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)


def sign(site: sites.Site, image: str,
         record: records.Record) -> records.Record:
    """Return a record with a code of this deployment, if the key can be had.

    Only for content that this process has computed or verified.

    :param site: any of this process
    :param image: UUID of the image in Glance
    """
    key = _key(site)
    return record if key is None else records.sign(record, image, key)


def is_authentic(site: sites.Site, image: str,
                 record: records.Record | None) -> bool:
    """Return whether this deployment has made a record, for this image."""
    if record is None or not record.macs:
        return False
    key = _key(site)
    return key is not None and records.is_authentic(record, image, key)


def proves(site: sites.Site, image: str, record: records.Record | None,
           size: int, hashes: Mapping[str, str],
           wanted: Iterable[str] = ()) -> bool:
    """Return whether a record may stand for the hashes that Glance has.

    Then bytes of its content digest are those of the image.

    :param size: bytes of the RBD image that has the record
    :param hashes: what Glance knows: hex digests over all bytes by hashlib
        name
    :param wanted: hashlib names of hashes that Glance does not know and is to
        be told; the record must have them
    """
    if (record is None or record.size != size
            or not {*hashes, *wanted} <= set(record.hashes)
            or not is_authentic(site, image, record)):
        return False
    if any(record.hashes[name] != value for name, value in hashes.items()):
        LOG.warning('Store %(store)s: the record of image %(image)s has other '
                    'hashes than Glance: its content is read and hashed', {
                        'store': site.name, 'image': image})
        return False
    return True


def _key(site: sites.Site) -> bytes | None:
    """Return the key of the deployment, or None where it cannot be had."""
    home = site.home
    if home is None or home.site is None:
        return None
    try:
        return home.key()
    except (errors.ClusterError, omap.Error) as exc:
        LOG.warning('Store %(store)s: the key of the deployment cannot be '
                    'read (%(error)s): records of images prove nothing '
                    'meanwhile, and copies are verified by hashing all '
                    'bytes', {'store': home.site.name, 'error': exc})
        return None
