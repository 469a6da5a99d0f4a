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

"""Whether each store of the process is wired to a cluster of its own.

Two stores on one pool would delete each other's images; a store that has come
to another cluster, by a mistake in its conf file or because the site was
rebuilt, would find none of its images there and take it for a loss. Such a
store is refused, and the others go on.

The fsid of each site's cluster is kept at home (see
:mod:`glance_dcn.ceph.fsids`), and in memory. What is kept is read and written
in the background: no call waits for the home's site when it is away.
"""

from __future__ import annotations

import logging
import time
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import fsids
from glance_dcn.ceph import health
from glance_dcn.runtime import periodic
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    import rados

    from glance_dcn.sites import site as sites

    # (fsid, since) by store.
    _Kept = dict[str, tuple[str, float]]

LOG = logging.getLogger(__name__)

# Seconds between looks at what is kept, while something is to be looked for.
_INTERVAL = 10
# Seconds for which, in the life of a process, the first calls wait for what
# is kept: from then on it is in memory.
_PATIENCE = 1
# Seconds for which it is kept which store has which pool.
_MOMENT = 0.2


class Wiring:
    """The stores of one process, and what is known of their clusters."""

    def __init__(self) -> None:
        #: Identity of the deployment, whose records count.
        self.deployment = ''
        # By name, in the order in which they were configured.
        self._sites: dict[str, sites.Site] = {}
        self._home: sites.Site | None = None
        self._complaint: str | None = None
        # As it is kept; None: not read yet.
        self._kept: _Kept | None = None
        # The same, as this process saw it first.
        self._seen: _Kept = {}
        self._deadline: float | None = None
        # Which store has which pool, and when that was looked for.
        self._owners: dict[tuple[str, str], tuple[int, str]] = {}
        self._looked = float('-inf')
        self._work = periodic.Periodic('dcn-wiring', self.synchronise,
                                       _INTERVAL)

    def add(self, site: sites.Site, home: bool = False) -> None:
        """Record a store's site.

        :param home: whether it is that of the store that keeps the records
        """
        self._sites[site.name] = site
        self._looked = float('-inf')
        if home:
            self._home = site

    @property
    def _records(self) -> homes.Home:
        return homes.Home(self._home)

    def remove(self, name: str) -> None:
        """Forget a store."""
        self._sites.pop(name, None)
        self._looked = float('-inf')

    def begin(self, site: sites.Site) -> None:
        """Begin to read what is kept, if a site is used for the first time."""
        if self._minds(site) and self._home is not None:
            self._begin()

    def _begin(self) -> float:
        if self._deadline is None:
            self._deadline = time.monotonic() + _PATIENCE
        self._work.start()
        return self._deadline

    def stop(self) -> None:
        """Do not read or write any more what is kept."""
        self._work.stop()

    def check(self, site: sites.Site) -> None:
        """Return if a site may be used.

        :raises glance_dcn.ceph.errors.Misconfigured: if not
        """
        self._await(site)
        self._ask_claimants(site)
        # The cluster of one may have become known just now.
        self._looked = float('-inf')
        fault = self.fault(site)
        if fault:
            raise fault

    def fault(self, site: sites.Site) -> errors.Misconfigured | None:
        """Return why a site must not be used; without any waiting."""
        if not self._minds(site):
            return None
        fsid = site.known_fsid
        if not fsid:
            return None
        return self._twin(site, fsid) or self._change(site, fsid)

    def accept(self, site: sites.Site) -> tuple[str | None, str]:
        """Take the cluster that a site has now for the right one.

        :returns: the fsid that was kept, and that of now
        :raises glance_dcn.ceph.errors.ClusterError: if the site, or the
            home's, cannot be used
        """
        fsid = site.answering_fsid()
        home = self._home
        if home is None:
            raise errors.Misconfigured(
                site.name, 'no store keeps the records, and so nothing is '
                'kept of the clusters of others', 'restart Glance instead')
        try:
            with self._records.open() as ioctx:
                before = fsids.replace(ioctx, self.deployment, site.name,
                                       fsid)
        except fsids.Error as exc:
            raise errors.Unreachable(
                home.name, 'what is kept of the clusters could not be '
                'written (%s)' % exc, 'see that its cluster is healthy')
        self._seen[site.name] = fsid, time.time()
        return before, fsid

    def has_replaced(self, site: sites.Site, fsid: str) -> bool:
        """Return whether the cluster of a site took the place of another.

        If so, an operator has said that what was in the other one is lost.

        :param fsid: of the other one
        """
        if self._home is None or self.fault(site):
            return False
        try:
            with self._records.open() as ioctx:
                return fsid in fsids.former(ioctx, self.deployment,
                                            site.name)
        except (errors.ClusterError, fsids.Error) as exc:
            LOG.warning('Which clusters store %(store)s had before cannot be '
                        'told: %(error)s', {'store': site.name, 'error': exc})
            return False

    def synchronise(self) -> None:
        """Read what is kept, and keep what is not yet.

        Does nothing while there is nothing to look for.
        """
        home = self._home
        if self._kept is not None and not self._pending(self._kept):
            return
        if home is None or not home.available:
            return
        try:
            with self._records.open() as ioctx:
                kept = self._exchange(ioctx)
        except (errors.ClusterError, fsids.Error) as exc:
            # A site without a cluster may have a key that only reads: once.
            LOG.log(logging.DEBUG if str(exc) == self._complaint
                    else logging.WARNING,
                    'What is kept of the clusters of all stores in the pool '
                    'of store %(store)s cannot be read or written: %(error)s',
                    {'store': home.name, 'error': exc})
            self._complaint = str(exc)
            return
        self._complaint = None
        # An operator may have accepted another cluster.
        self._seen.update(kept)
        self._kept = kept

    def _exchange(self, ioctx: rados.Ioctx) -> _Kept:
        """Add what is not kept yet, and return all that is."""
        kept = self._load(ioctx)
        for name, site in list(self._sites.items()):
            fsid = site.connected_fsid
            if fsid and name not in kept and site is not self._home:
                fsids.add(ioctx, self.deployment, name,
                          self._seen.get(name, (fsid,))[0])
                kept = self._load(ioctx)
        return kept

    def _load(self, ioctx: rados.Ioctx) -> _Kept:
        return {name: (entry.fsid, entry.since) for name, entry
                in fsids.load(ioctx, self.deployment).items()}

    def _minds(self, site: sites.Site) -> bool:
        return self._sites.get(site.name) is site

    def _await(self, site: sites.Site) -> None:
        """Wait for what is kept, in the first moments of the process."""
        home = self._home
        if not self._minds(site) or home is None or home is site:
            return
        deadline = self._begin()
        while (self._kept is None and time.monotonic() < deadline
               and home.health.state in (health.UP, health.UNKNOWN)):
            time.sleep(.01)
        if self._kept is not None and not (
                site.name in self._kept or site.name in self._seen):
            self._work.wake()

    def _pending(self, kept: _Kept) -> bool:
        """Whether a site is refused, or not kept yet."""
        for name, site in list(self._sites.items()):
            if site is self._home or not site.connected_fsid:
                continue
            if kept.get(name, (None,))[0] != site.connected_fsid:
                return True
        return False

    def _ask_claimants(self, site: sites.Site) -> None:
        """Find out whether earlier stores that claim this one's pool have it.

        They are asked at most once, unless they are away: from then on they
        are connected, or known not to be what they claim.
        """
        fsid = site.connected_fsid
        if not fsid or not self._minds(site):
            return
        for other in list(self._sites.values()):
            if other is site:
                return
            if (other.pool == site.pool and other.known_fsid == fsid
                    and not other.connected_fsid and other.available):
                try:
                    other.answering_fsid()
                except errors.ClusterError as exc:
                    LOG.warning('Store %(other)s claims the pool of store '
                                '%(store)s: %(error)s', {
                                    'other': other.name, 'store': site.name,
                                    'error': exc})

    def _twin(self, site: sites.Site,
              fsid: str) -> errors.Misconfigured | None:
        """Return what is wrong if an earlier store has the pool of this one.

        Glance asks for all stores at once, each of which would ask for all
        others: which pools are taken is kept for a moment.
        """
        now = time.monotonic()
        if now - self._looked > _MOMENT:
            self._owners, self._looked = self._find_owners(), now
        order, other = self._owners.get((site.pool, fsid), (0, site.name))
        names = list(self._sites)
        # Only an earlier one counts. This one may be taken away meanwhile.
        if other == site.name or site.name not in names[order:]:
            return None
        return errors.Misconfigured(
            site.name, 'it has pool %s of cluster %s, which is that of store '
            '%s already' % (site.pool, fsid, other),
            'correct rbd_store_ceph_conf or rbd_store_pool in [%s]: each '
            'store needs a pool of its own' % site.name)

    def _find_owners(self) -> dict[tuple[str, str], tuple[int, str]]:
        """Return (position, name) of the first store with each pool.

        By pool and fsid, of those that are connected: what only a conf file
        says may be the very mistake, and others must not suffer for it.
        """
        found: dict[tuple[str, str], tuple[int, str]] = {}
        for order, (name, site) in enumerate(list(self._sites.items())):
            if site.connected_fsid:
                found.setdefault((site.pool, site.connected_fsid),
                                 (order, name))
        return found

    def _change(self, site: sites.Site,
                fsid: str) -> errors.Misconfigured | None:
        seen = self._seen.get(site.name)
        if seen is None:
            if site.connected_fsid == fsid:
                self._seen[site.name] = fsid, time.time()
            return None
        known, since = seen
        if known == fsid:
            return None
        return errors.Misconfigured(
            site.name, 'its cluster has fsid %s, and had fsid %s since %s' % (
                fsid, known, health.format_time(since)),
            'if the site was rebuilt, and what it held is lost, run '
            '"glance-dcn site accept %s"; if not, correct '
            'rbd_store_ceph_conf in [%s]' % (site.name, site.name))


#: Of this process.
PROCESS = Wiring()
