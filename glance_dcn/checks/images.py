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

"""Whether the images that Glance has at a site are there."""

from __future__ import annotations

import threading
import typing

from glance_dcn.ceph import trial
from glance_dcn.checks import registry
from glance_dcn.status import inventory
from glance_dcn.status import look
from glance_dcn.status import subjects

_SHOWN = 5


class Located:
    """Where Glance has its images; read once for all sites.

    :param stores: names of all stores of this node
    :param timeout: seconds that the database has for all of them
    """

    def __init__(self, stores: typing.Iterable[str],
                 timeout: float = 120) -> None:
        self.stores = frozenset(stores)
        self._timeout = timeout
        self._error: inventory.DatabaseUnavailable | None = None
        self._lock = threading.Lock()
        self._found: dict[str, set[str]] | None = None

    def get(self) -> dict[str, set[str]]:
        """Return the URIs of all usable images, by store.

        :raises glance_dcn.status.inventory.DatabaseUnavailable: if the
            database does not answer
        """
        with self._lock:
            if self._error is not None:
                # Other sites need not wait for it again.
                raise self._error
            if self._found is None:
                try:
                    self._found = self.read()
                except inventory.DatabaseUnavailable as exc:
                    self._error = exc
                    raise
            return self._found

    def read(self) -> dict[str, set[str]]:
        """Return them as they are now; see :meth:`get`."""
        return inventory.Database().ask(inventory.locations, self._timeout)


@registry.check(
    'images', registry.SITE, 'The images that Glance has there are there',
    needs=('pool',),
    lost=(registry.WARN, '%(number)d images are not in pool %(pool)s, where '
          'Glance has locations of them: %(which)s', 'Glance cannot read them '
          'there: if its database is older than the pool, bring it up to '
          'date; otherwise take the locations away with "glance stores-delete '
          '--store %(site)s IMAGE", and copy the images there again'),
    other=(registry.WARN, '%(number)d locations of this store name another '
           'cluster than it has (%(fsid)s): %(which)s', 'those images are '
           'not at this site: take the locations away with "glance '
           'stores-delete --store %(site)s IMAGE", and copy the images there '
           'again'),
    strays=(registry.WARN, 'images have locations in stores that this Glance '
            'had, and has no more: %(stores)s', 'delete those images, or '
            'their locations, or set the stores up again, under their old '
            'names: one whose site file was removed serves them until it is '
            'empty, of any other Glance can read nothing'),
    unread=(registry.WARN, 'not compared, as the database cannot be read '
            '(%(error)s)', 'see connection in [database], and that the '
            'database is up; until then it is not known whether images are '
            'lost'),
    unlisted=(registry.WARN, 'not compared, as pool %(pool)s cannot be listed '
              '(%(error)s)', 'see with "ceph -s" whether the cluster is '
              'healthy, and run "ceph auth caps %(user)s %(caps)s" if the '
              'user may not list the pool; until then it is not known whether '
              'images are lost'))
def images(site: subjects.Site) -> str:
    """Compare the locations in Glance's database with the pool."""
    assert site.located is not None, 'it is that of a check'
    found = _read(site.located.get)
    wanted = found.get(site.name, set())
    # After the database: what came since is not missed.
    try:
        names = trial.names(site.opened)
    except trial.Error as exc:
        raise registry.Found('unlisted', error=exc, pool=site.target.pool,
                             user=site.user, caps=site.caps)
    state = look.State(site.name, fsid=site.fsid, pool=site.target.pool,
                       names=names)
    lacking = {uri for uri in wanted if state.lacks(uri)}
    if lacking:
        # What was deleted since is not lost.
        lacking &= _read(site.located.read).get(site.name, set())
    cluster = '%s%s/' % (look.SCHEME, site.fsid)
    for fault, uris in (
            ('lost', [uri for uri in lacking if uri.startswith(cluster)]),
            ('other', [uri for uri in lacking
                       if not uri.startswith(cluster)])):
        if uris:
            raise registry.Found(fault, number=len(uris), fsid=site.fsid,
                                 pool=site.target.pool, which=_some(
                                     uri.split('/')[4] for uri in uris))
    strays = {store: len(uris) for store, uris in found.items()
              if store in (site.kept or ()) and store not in
              site.located.stores}
    if strays:
        raise registry.Found('strays', stores=_some(
            '%s (%d)' % item for item in strays.items()))
    return '%d locations, all of them there' % len(wanted)


def _read(locations: typing.Callable[[], dict[str, set[str]]]
          ) -> dict[str, set[str]]:
    """Return what a function reads from the database.

    :raises glance_dcn.checks.registry.Found: if the database does not answer
    """
    try:
        return locations()
    except inventory.DatabaseUnavailable as exc:
        raise registry.Found('unread', error=exc)


def _some(texts: typing.Iterable[str]) -> str:
    ordered = sorted(texts)
    return ', '.join(ordered[:_SHOWN]) + (
        ' and %d more' % (len(ordered) - _SHOWN)
        if len(ordered) > _SHOWN else '')
