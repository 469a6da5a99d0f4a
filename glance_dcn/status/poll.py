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

"""How sites are at this moment, as seen from this node."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import typing

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import monitors
from glance_dcn.ceph import omap
from glance_dcn.ceph import trial
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import figures as figures_
from glance_dcn.sites import home as homes
from glance_dcn.status import cluster as clusters
from glance_dcn.tasks import leases
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import registry

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    import rados

# Sites at a time: each takes a client.
_AT_ONCE = schedulers.Limit('status', 24)
#: What URIs of images in Ceph begin with.
SCHEME = 'rbd://'


@dataclasses.dataclass
class SiteStatus:
    """How a site is.

    :ivar state: one of the states of :mod:`glance_dcn.ceph.health`
    :ivar reason: why it is not up, or None
    :ivar round_trip: seconds to one of its OSDs, or None
    :ivar total: bytes that the cluster has, or None
    :ivar free: bytes that are free, or None
    :ivar tasks: numbers of deferred tasks for it, by their actions; None
        where they cannot be read, or are kept elsewhere
    :ivar oldest: when the oldest of them was recorded, in seconds since the
        epoch by the clock of its creator, by the same
    :ivar unreadable: number of records about it that cannot be understood
    :ivar images: names of RBD images that are to be deleted there
    :ivar unread: whether tasks should be known, and cannot be read
    :ivar names: names of all RBD images in its pool, or None
    :ivar expected: fsid that Glance takes its cluster to have, or None
    :ivar refused: whether it is up, and Glance refuses it
    """

    name: str
    state: str = health.UNKNOWN
    reason: str | None = None
    fsid: str | None = None
    round_trip: float | None = None
    total: int | None = None
    free: int | None = None
    tasks: dict[str, int] | None = dataclasses.field(default_factory=dict)
    oldest: dict[str, float] = dataclasses.field(default_factory=dict)
    images: set[str] = dataclasses.field(default_factory=set)
    unread: bool = False
    unreadable: int = 0
    pool: str | None = None
    names: set[str] | None = dataclasses.field(default=None, repr=False)
    expected: str | None = None
    refused: bool = False

    @property
    def prefix(self) -> str | None:
        """What URIs of its images begin with, or None if not known."""
        fsid = self.fsid or self.expected
        return '%s%s/%s' % (SCHEME, fsid, self.pool) if fsid else None

    def refuse(self, reason: str) -> None:
        """Call a site misconfigured that is up and that Glance refuses."""
        if self.state == health.UP:
            self.state = health.MISCONFIGURED
            self.reason = 'Glance refuses it: ' + reason
            self.refused = True

    def lacks(self, uri: str | None) -> bool:
        """Return whether an image cannot be there whose location says so.

        Those in other pools of its cluster are not looked for.
        """
        if self.prefix is None or not uri or not uri.startswith(SCHEME):
            return False
        fsid, pool, image = (uri[len(SCHEME):].split('/') + ['', ''])[:3]
        if not image:
            return False
        if fsid != (self.fsid or self.expected):
            return True
        return (self.names is not None and pool == self.pool
                and image not in self.names)


@dataclasses.dataclass
class Work:
    """Who does the work of a home, and what they have counted.

    :ivar workers: those with this default store
    :ivar figures: of their sites, by identity of the worker
    :ivar runner_beat: of the lease of the process that runs tasks; 0: none
    """

    workers: list[registry.Worker]
    figures: dict[str, list[figures_.Figures]]
    runner_beat: int


class Poll:
    """A poll of many sites at once, in threads of the scheduler.

    A client of librados has a dozen threads. So the monitors of all sites are
    asked first, over a socket each; only sites that answer take a client.

    :param cluster_of: makes what connects to a site
    :param list_images: returns the names of the RBD images in a pool
    """

    def __init__(self, targets: list[clusters.Target], deployment: str = '',
                 cluster_of: Callable[[clusters.Target, str],
                                      clusters.Cluster] = clusters.Cluster,
                 list_images: Callable[[rados.Ioctx], set[str]] = trial.names
                 ) -> None:
        self._deployment = deployment
        self._list_images = list_images
        self._queue: native.Queue[tuple[SiteStatus, _Kept]] = native.Queue()
        self._targets = {target.name: target for target in targets}
        self._states = {target.name: SiteStatus(target.name)
                        for target in targets}
        # Clusters as they are kept at home, by store; None: not read.
        self.kept: dict[str, cluster_identity.ClusterIdentity] | None = None
        #: None: not read.
        self.work: Work | None = None
        self._has_home = False
        for target in targets:
            site = cluster_of(target, deployment)
            self._has_home |= site.keeps_records
            self._begin(site)

    def _begin(self, site: clusters.Cluster) -> None:
        addresses = []
        # What is wrong with its files is found by the poll itself.
        with contextlib.suppress(errors.ClusterError):
            site.factory.check_files()
            addresses = monitors.parse(site.factory.settings.mon_host)
        if addresses:
            process.get(monitors.Monitors).ask(addresses, functools.partial(
                self._on_monitors, site))
        else:
            self._on_monitors(site, None)

    def _on_monitors(self, site: clusters.Cluster, reason: str | None) -> None:
        """Poll a site unless there is a reason why no monitor answered."""
        if reason is None:
            process.get(schedulers.Scheduler).submit(
                functools.partial(self._poll_site, site), _AT_ONCE)
        else:
            self._queue.put((SiteStatus(
                site.name, health.DOWN,
                'the monitors do not answer (%s)' % reason,
                expected=_expected(site), pool=site.target.pool), _Kept()))

    def _poll_site(self, site: clusters.Cluster) -> None:
        state = SiteStatus(site.name, pool=site.target.pool,
                           expected=_expected(site))
        kept = _Kept()
        try:
            self._read(site, state, kept)
        except errors.ClusterError as exc:
            state.state, state.reason = health.state_of(exc), exc.reason
        except Exception as exc:
            state.state, state.reason = health.DOWN, str(exc)
        self._queue.put((state, kept))
        # After the answer, for it may take long.
        site.close()

    def _read(self, site: clusters.Cluster, state: SiteStatus,
              kept: _Kept) -> None:
        site.connect()
        site.open()
        state.fsid = site.fsid
        clients.ask_osds(site.opened)
        state.round_trip = trial.round_trip(site.opened)
        with contextlib.suppress(*trial.Error):
            state.total, state.free = trial.room(site.connected)
        with contextlib.suppress(*trial.Error):
            state.names = self._list_images(site.opened)
        state.state = health.UP
        if site.keeps_records:
            # Other sites keep their own, and show them there.
            try:
                kept.clusters = site.home.run(cluster_identity.load,
                                              self._deployment)
                store = stores.TaskStore(site.home, self._deployment)
                kept.tasks = store.scan()
                workers = registry.Registry(site.home, self._deployment)
                kept.work = Work([worker for worker, _text
                                  in workers.workers()], workers.figures(),
                                 leases.runner_beat(store))
            except omap.Error as exc:
                state.reason = ('the records of Glance in namespace %s of '
                                'pool %s cannot be read (%s); see "glance-dcn '
                                'check --site %s"' % (
                                    homes.NAMESPACE, site.target.pool, exc,
                                    site.name))

    def wait(self, timeout: float) -> list[SiteStatus]:
        """Return the states in the order of the targets.

        :param timeout: seconds until a silent site is called down
        """
        deadline = time.monotonic() + timeout
        left = set(self._states)
        records: stores.Scan | None = None
        while left:
            try:
                state, kept = native.get(
                    self._queue, max(0, deadline - time.monotonic()))
            except native.Empty:
                break
            self._states[state.name] = state
            left.discard(state.name)
            if kept.tasks is not None:
                records, self.kept = kept.tasks, kept.clusters
                self.work = kept.work
        for name in left:
            self._states[name] = SiteStatus(name, health.DOWN,
                                            'no answer within %d s' % timeout,
                                            pool=self._targets[name].pool)
        if records is None:
            for state in self._states.values():
                state.tasks, state.unread = None, self._has_home
        if records is not None:
            self._count(records)
        self._refuse_changed_clusters()
        self._refuse_shared_pools()
        return list(self._states.values())

    def _count(self, scan: stores.Scan) -> None:
        for record in scan.records:
            found = self._states.get(record.site)
            if (isinstance(record, tasks.Task) and found is not None
                    and found.tasks is not None):
                action = record.action.value
                found.tasks[action] = found.tasks.get(action, 0) + 1
                found.oldest[action] = min(
                    record.created_at, found.oldest.get(action, float('inf')))
                found.images.add(record.image)
        for entry in scan.own_unreadable:
            found = self._states.get(entry.site or '')
            if found is not None:
                found.unreadable += 1

    def _refuse_changed_clusters(self) -> None:
        """Find the sites that Glance refuses: their clusters were others."""
        for name, state in self._states.items():
            entry = (self.kept or {}).get(name)
            if entry and entry.fsid != state.fsid:
                state.refuse(
                    'its cluster has fsid %s, and had fsid %s since %s; if '
                    'the site was rebuilt, and what it held is lost, run '
                    '"glance-dcn site accept %s"' % (
                        state.fsid, entry.fsid,
                        health.format_time(entry.since), name))

    def _refuse_shared_pools(self) -> None:
        """Find the sites that Glance refuses: others have their pools."""
        owners: dict[tuple[str, str], str] = {}
        for target in sorted(self._targets.values(),
                             key=lambda target: target.order):
            state = self._states[target.name]
            if state.fsid is None:
                continue
            owner = owners.setdefault((state.fsid, target.pool), target.name)
            if owner != target.name:
                state.refuse(
                    'it has pool %s of cluster %s, which is that of store %s '
                    'already; correct rbd_store_ceph_conf or rbd_store_pool '
                    'in [%s]' % (target.pool, state.fsid, owner, target.name))


@dataclasses.dataclass
class _Kept:
    """What is kept at home; None where it was not read."""

    tasks: stores.Scan | None = None
    clusters: dict[str, cluster_identity.ClusterIdentity] | None = None
    work: Work | None = None


def _expected(site: clusters.Cluster) -> str | None:
    """Return the fsid that the conf file of a site names, or None."""
    try:
        return site.target.fsid or site.factory.settings.fsid
    except errors.ClusterError:
        return None
