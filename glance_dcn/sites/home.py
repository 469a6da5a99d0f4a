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

"""The cluster in which this process keeps its records: that of its own site.

Records (tasks, intents, leases, definitions of sites, cluster identities,
workers) lie in the pool of one store, best the default one, in a RADOS
namespace of this software. Users of other sites have no right to that
namespace, and no process reads what another site keeps in its own: a record
that another site could have written is never acted upon.

What is kept with images, in the pools themselves, may be written by others
too (:mod:`glance_dcn.ceph.records`). It proves something only if it has a
message authentication code under the key of this deployment, which is one of
the records here. Where the key cannot be had, nothing is proved by it, and
bytes are read and hashed instead.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.ceph import records

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Iterator
    from collections.abc import Mapping

    from oslo_config import cfg
    import rados

    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)

#: RADOS namespace of the records, in the pool of the home's store.
NAMESPACE = 'glance-dcn'

# The object with the key of the deployment, and its key in the omap.
_DEPLOYMENT = 'deployment'
_KEY = 'key'
_KEY_BYTES = 32

_T = typing.TypeVar('_T')


class Home:
    """Where this process keeps its records.

    :ivar site: that keeps them, see :func:`choose`; None before it is
        configured
    """

    def __init__(self, site: sites.Site | None = None) -> None:
        self.site = site
        self._key: bytes | None = None

    @property
    def name(self) -> str:
        """Identifier of the store whose pool has the records."""
        return self.site.name if self.site is not None else 'none'

    @contextlib.contextmanager
    def open(self) -> Iterator[rados.Ioctx]:
        """Open the namespace of the records, or raise ClusterError."""
        if self.site is None:
            raise errors.Misconfigured(
                self.name, 'the store whose cluster keeps the records is not '
                'configured', 'see default_backend in [glance_store], '
                'home_store in [glance_dcn], and what is logged of that store')
        with self.site.open_pool() as ioctx:
            ioctx.set_namespace(NAMESPACE)
            yield ioctx
            # The site may go on to use the same one; not after a failure, as
            # a call that was left may still be using it.
            ioctx.set_namespace('')

    def call(self, function: Callable[..., _T], *args: typing.Any,
             fence: bool = True) -> _T:
        """Do as :meth:`glance_dcn.sites.site.Site.call`."""
        # Or open() has refused.
        assert self.site is not None
        return self.site.call(function, *args, fence=fence)

    def run(self, function: Callable[..., _T], *args: typing.Any,
            fence: bool = True) -> _T:
        """Open the namespace, and call a function while the site is there.

        :param function: of an Ioctx and ``args``
        :param fence: False of one that only reads; see :meth:`call`
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        """
        with self.open() as ioctx:
            return self.call(function, ioctx, *args, fence=fence)

    def key(self) -> bytes:
        """Return the secret key of the deployment, 32 bytes.

        Only processes of this home can read it: what is authenticated by it
        cannot have been written by another site. The first process makes it.

        :raises glance_dcn.ceph.errors.ClusterError: if the site is away, or
            the key is damaged
        :raises glance_dcn.ceph.omap.Error: if the cluster refuses
        """
        if self._key is None:
            found = self.run(_make_key)
            key = b''
            with contextlib.suppress(ValueError):
                key = bytes.fromhex(found)
            if len(key) != _KEY_BYTES:
                raise errors.Misconfigured(
                    self.name, 'the key of the deployment, in object %s of '
                    'namespace %s, is damaged, or a later release has made '
                    'it' % (_DEPLOYMENT, NAMESPACE),
                    'unless it was a later release, remove the object: a new '
                    'key is made, and images are hashed once more when they '
                    'are copied next')
            self._key = key
        return self._key


def choose(conf: cfg.ConfigOpts, configured: Iterable[str]) -> str | None:
    """Return the identifier of the store that keeps the records, or None.

    Not just any: the owner of its cluster can have images removed from all
    sites.

    :param configured: identifiers of ``dcn`` stores that are configured, or
        that site files define
    """
    named: str | None = conf.glance_dcn.home_store
    default: str | None = conf.glance_store.default_backend
    ours = {name for name, kind in (conf.enabled_backends or {}).items()
            if kind == 'dcn'}.union(configured)
    if named or default in ours:
        return named or default
    return ours.pop() if len(ours) == 1 else None


def _make_key(ioctx: rados.Ioctx) -> str:
    """Return the key of the deployment; make one if there is none."""
    omap.swap(ioctx, _DEPLOYMENT, _KEY, None, secrets.token_hex(_KEY_BYTES))
    return omap.get(ioctx, _DEPLOYMENT, _KEY) or ''


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
