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

"""Whether each store of the process has a cluster and pool of its own.

Two stores on one pool would delete each other's images; a store that has come
to another cluster, by a mistake in its conf file or because the site was
rebuilt, would find none of its images there and take it for a loss. Such a
store is refused, and the others continue.

The fsid of each site's cluster is recorded at home, in an omap with a key for
each store, and in memory. Records are read and written in the background: no
call waits for the home's site when it is away.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    import rados

    from glance_dcn.sites import site as sites

LOG = logging.getLogger(__name__)

#: What functions that are given an Ioctx, that of the home's namespace, raise
#: when the cluster refuses.
Error = omap.Error
#: Name of the RADOS object.
OBJECT = 'fsids'

# Seconds between readings of the records, while one is missing or differs:
# at first, and at most. Each reading that tells nothing new doubles them.
_INTERVAL, _LONGEST_INTERVAL = 10, 60
# Seconds for which, in the life of a process, the first calls wait for the
# records: from then on they are in memory.
_PATIENCE = 1
# Seconds for which it is remembered which store has which pool.
_MOMENT = 0.2


@dataclasses.dataclass(frozen=True)
class ClusterIdentity:
    """Which cluster a store has, as it is recorded.

    :ivar since: when that was recorded, seconds since the epoch
    :ivar former: fsids of the clusters that it had before
    """

    fsid: str
    since: float
    former: tuple[str, ...] = ()


def load(ioctx: rados.Ioctx, deployment: str,
         tell: Callable[[str], object] = LOG.warning
         ) -> dict[str, ClusterIdentity]:
    """Return the recorded identities by store, without unreadable ones.

    :param tell: called with a sentence about each that is not understood
    """
    found = {}
    for store, text in omap.walk(ioctx, OBJECT):
        try:
            found[store] = _parse(text, deployment)
        except record_format.RecordError as exc:
            tell('The record of the cluster of store %s cannot be understood '
                 'and is left alone: %s' % (store, exc))
    return {store: entry for store, entry in found.items() if entry}


def add(ioctx: rados.Ioctx, deployment: str, store: str, fsid: str) -> bool:
    """Record the cluster of a store, unless there is a record already."""
    return omap.swap(ioctx, OBJECT, store, None, record_format.dump(
        ClusterIdentity(fsid, time.time()), deployment))


def replace(ioctx: rados.Ioctx, deployment: str, store: str,
            fsid: str) -> str | None:
    """Record the cluster of a store; return the fsid recorded before.

    :raises glance_dcn.ceph.record_format.OtherRelease: if that is recorded by
        another release: which clusters the store had before would be lost
    """
    before = _known(ioctx, deployment, store)
    gone = {*before.former, before.fsid} - {fsid} if before else set()
    omap.put(ioctx, OBJECT, {store: record_format.dump(ClusterIdentity(
        fsid, time.time(), tuple(sorted(gone))), deployment)})
    return before.fsid if before else None


def former(ioctx: rados.Ioctx, deployment: str, store: str) -> set[str]:
    """Return the fsids of the clusters that a store had before."""
    try:
        entry = _known(ioctx, deployment, store)
    except record_format.OtherRelease:
        return set()
    return set(entry.former) if entry else set()


def _known(ioctx: rados.Ioctx, deployment: str,
           store: str) -> ClusterIdentity | None:
    """Return what is recorded of a store; None if that is damaged.

    :raises glance_dcn.ceph.record_format.OtherRelease: if another release has
        recorded it
    """
    try:
        return _parse(omap.get(ioctx, OBJECT, store), deployment)
    except record_format.OtherRelease:
        raise
    except record_format.RecordError:
        return None


def _parse(text: str | None, deployment: str) -> ClusterIdentity | None:
    """Return the identity that a text stands for; None: of another one."""
    if not text:
        return None
    try:
        return record_format.load(ClusterIdentity, text, deployment)
    except record_format.ForeignRecord:
        return None


class ClusterIdentities:
    """The stores of one process, and the identities of their clusters.

    The parameters read and write the records, as the functions of this module
    do.
    """

    def __init__(
            self,
            load: Callable[..., dict[str, ClusterIdentity]] = load,
            add: Callable[..., bool] = add,
            replace: Callable[..., str | None] = replace,
            former: Callable[..., set[str]] = former) -> None:
        self._load, self._add = load, add
        self._replace, self._former = replace, former
        #: Identity of the deployment, whose records count.
        self.deployment = ''
        # By name, in the order in which they were configured.
        self._sites: dict[str, sites.Site] = {}
        self._home = homes.Home()
        self._complaint: str | None = None
        self._told: set[str] = set()
        # None: not read yet.
        self._recorded: dict[str, ClusterIdentity] | None = None
        # The same, as this process saw it first.
        self._seen: dict[str, ClusterIdentity] = {}
        self._deadline: float | None = None
        # (position, name) of the first store with each (pool, fsid), and when
        # that was found out.
        self._owners: dict[tuple[str, str], tuple[int, str]] = {}
        self._owners_since = float('-inf')
        # fsids of other clusters that the log has told of, by store.
        self._reported: dict[str, str] = {}
        self._work = periodic.Periodic('dcn-cluster-identity',
                                       self.synchronise, _INTERVAL)

    def add(self, site: sites.Site, home: bool = False) -> None:
        """Add a store's site, which may be the home of the records."""
        self._sites[site.name] = site
        self._owners_since = float('-inf')
        if home:
            self._home = homes.Home(site)

    def remove(self, name: str) -> None:
        """Forget a store."""
        self._sites.pop(name, None)
        self._owners_since = float('-inf')

    def begin(self, site: sites.Site) -> None:
        """Begin to read the records, if a site is used for the first time."""
        if self._has(site) and self._home.site is not None:
            self._begin()

    def _begin(self) -> float:
        if self._deadline is None:
            self._deadline = time.monotonic() + _PATIENCE
        self._work.start()
        return self._deadline

    def stop(self) -> None:
        """Stop reading and writing records."""
        self._work.stop()

    def check(self, site: sites.Site) -> None:
        """Raise Misconfigured if a site must not be used."""
        self._wait_for_records(site)
        self._verify_claims(site)
        # The cluster of one may have become known just now.
        self._owners_since = float('-inf')
        fault = self.fault(site)
        if fault:
            raise fault

    def fault(self, site: sites.Site) -> errors.Misconfigured | None:
        """Return why a site must not be used; without any waiting."""
        fsid = site.connection.known_fsid if self._has(site) else None
        if not fsid:
            return None
        return (self._find_pool_conflict(site, fsid)
                or self._find_other_cluster(site, fsid))

    def accept(self, site: sites.Site) -> tuple[str | None, str]:
        """Take the cluster that a site has now for the right one.

        :returns: the fsid that was recorded, and that of now
        :raises glance_dcn.ceph.errors.ClusterError: by the site, or home
        """
        fsid = site.answering_fsid()
        if self._home.site is None:
            raise errors.Misconfigured(
                site.name, 'no store keeps the records, and so the clusters '
                'of others are not recorded', 'restart Glance instead')
        try:
            before = self._home.run(self._replace, self.deployment, site.name,
                                    fsid)
        except record_format.OtherRelease as exc:
            raise errors.Misconfigured(
                site.name, 'its former clusters are recorded in a form that '
                'this release does not know (%s)' % exc, 'run the command of '
                'that release')
        except Error as exc:
            raise errors.Unreachable(
                self._home.name, 'the record of the clusters could not be '
                'written (%s)' % exc, 'see that its cluster is healthy')
        self._seen[site.name] = ClusterIdentity(fsid, time.time())
        return before, fsid

    def has_replaced(self, site: sites.Site, fsid: str) -> bool:
        """Return whether the cluster of a site took the place of another.

        If so, an operator has said that what was in the other one is lost.
        """
        if self._home.site is None or self.fault(site):
            return False
        try:
            return fsid in self._home.run(self._former, self.deployment,
                                          site.name, fence=False)
        except (errors.ClusterError, Error) as exc:
            LOG.warning('Which clusters store %(store)s had before cannot be '
                        'told: %(error)s', {'store': site.name, 'error': exc})
            return False

    def synchronise(self) -> None:
        """Read the records, and add missing ones; unless all are right."""
        if self._recorded is not None and not self._pending(self._recorded):
            self._work.interval = _INTERVAL
            return
        if self._home.site is None or not self._home.site.available:
            return
        try:
            with self._home.open() as ioctx:
                recorded = self._exchange(ioctx)
        except (errors.ClusterError, Error) as exc:
            # A site without a cluster may have a key that only reads: once.
            LOG.log(logging.DEBUG if str(exc) == self._complaint
                    else logging.WARNING,
                    'The record of the clusters of all stores in the pool of '
                    'store %(store)s cannot be read or written: %(error)s',
                    {'store': self._home.name, 'error': exc})
            self._complaint = str(exc)
            return
        self._complaint = None
        # An operator may have accepted another cluster.
        self._seen.update(recorded)
        self._work.interval = (
            min(2 * self._work.interval, _LONGEST_INTERVAL)
            if recorded == self._recorded else _INTERVAL)
        self._recorded = recorded

    def _exchange(self, ioctx: rados.Ioctx) -> dict[str, ClusterIdentity]:
        """Add the records that are missing, and return all."""
        recorded = self._read(ioctx)
        is_missing = False
        for name, site in list(self._sites.items()):
            fsid = site.connection.connected_fsid
            if fsid and name not in recorded and site is not self._home.site:
                seen = self._seen.get(name)
                is_missing = True
                self._home.call(self._add, ioctx, self.deployment, name,
                                seen.fsid if seen else fsid)
        return self._read(ioctx) if is_missing else recorded

    def _read(self, ioctx: rados.Ioctx) -> dict[str, ClusterIdentity]:
        return self._home.call(self._load, ioctx, self.deployment, self._tell,
                               fence=False)

    def _tell(self, text: str) -> None:
        LOG.log(logging.DEBUG if text in self._told else logging.WARNING, text)
        self._told.add(text)

    def _has(self, site: sites.Site) -> bool:
        return self._sites.get(site.name) is site

    def _wait_for_records(self, site: sites.Site) -> None:
        """Wait for the records, in the first moments of the process."""
        home = self._home.site
        if not self._has(site) or home is None or home is site:
            return
        deadline = self._begin()
        while (self._recorded is None and home.available
               and time.monotonic() < deadline):
            native.sleep(.01)
        if self._recorded is not None and not (
                site.name in self._recorded or site.name in self._seen):
            self._work.wake()

    def _pending(self, recorded: dict[str, ClusterIdentity]) -> bool:
        """Return whether a site is refused, or not recorded yet."""
        return any(
            site.connection.connected_fsid and site is not self._home.site
            and (name not in recorded
                 or recorded[name].fsid != site.connection.connected_fsid)
            for name, site in list(self._sites.items()))

    def _verify_claims(self, site: sites.Site) -> None:
        """Connect to earlier stores that claim this one's pool.

        At most once, unless they are away: from then on they are connected,
        or known not to be what they claim.
        """
        fsid = site.connection.connected_fsid
        if not fsid or not self._has(site):
            return
        for other in list(self._sites.values()):
            if other is site:
                return
            connection = other.connection
            if (other.pool == site.pool and connection.known_fsid == fsid
                    and not connection.connected_fsid and other.available):
                try:
                    other.answering_fsid()
                except errors.ClusterError as exc:
                    LOG.warning('Store %(other)s claims the pool of store '
                                '%(store)s: %(error)s', {
                                    'other': other.name, 'store': site.name,
                                    'error': exc})

    def _find_pool_conflict(self, site: sites.Site,
                            fsid: str) -> errors.Misconfigured | None:
        """Return what is wrong if an earlier store has the pool of this one.

        Glance asks for all stores at once, each of which would compare all
        others: the owners of pools are remembered for a moment.
        """
        now = time.monotonic()
        if now - self._owners_since > _MOMENT:
            # Of those that are connected: what only a conf file says may be
            # the very mistake, and others must not suffer for it.
            owners: dict[tuple[str, str], tuple[int, str]] = {}
            for order, (name, one) in enumerate(list(self._sites.items())):
                known = one.connection.connected_fsid
                if known:
                    owners.setdefault((one.pool, known), (order, name))
            self._owners, self._owners_since = owners, now
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

    def _find_other_cluster(self, site: sites.Site,
                            fsid: str) -> errors.Misconfigured | None:
        """Return what is wrong if a site had another cluster before."""
        seen = self._seen.get(site.name)
        if seen is None and site.connection.connected_fsid == fsid:
            self._seen[site.name] = ClusterIdentity(fsid, time.time())
        if seen is None or seen.fsid == fsid:
            return None
        fault = errors.Misconfigured(
            site.name, 'its cluster has fsid %s, and had fsid %s since %s' % (
                fsid, seen.fsid, health.format_time(seen.since)),
            'if the site was rebuilt, and what it held is lost, run '
            '"glance-dcn site accept %s"; if not, correct '
            'rbd_store_ceph_conf in [%s]' % (site.name, site.name))
        if self._reported.get(site.name) != fsid:
            # Perhaps no request asks for the site before somebody looks.
            self._reported[site.name] = fsid
            LOG.error('%s', fault)
        return fault
