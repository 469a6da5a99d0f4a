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

"""Subjects of checks: clusters, a node's configuration, Glances."""

from __future__ import annotations

import threading
import typing

from oslo_config import cfg

from glance_dcn.status import cluster
from glance_dcn.status import inventory

if typing.TYPE_CHECKING:
    from glance_dcn.ceph import errors
    from glance_dcn.checks import access
    from glance_dcn.sites import cluster_identity

#: Name under which findings about this node's configuration are shown.
THIS_NODE = 'node'


class Located:
    """Where Glance has its images; read once for all sites.

    :param stores: names of all stores of this node
    :param timeout: seconds that the database has for all of them
    :param locations: asks the database
    """

    def __init__(self, stores: typing.Iterable[str], timeout: float = 120,
                 locations: typing.Callable[[], dict[str, set[str]]] = (
                     inventory.locations)) -> None:
        self._locations = locations
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
        return inventory.Database().ask(self._locations, self._timeout)


class Subject:
    """A subject of checks.

    :ivar name: as shown in findings
    :ivar figures: measurements: dicts by name of the check
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: dict[str, dict[str, float]] = {}
        self.stopped = False

    @property
    def fields(self) -> dict[str, object]:
        """Values that any fault of this subject may name."""
        return {'site': self.name}

    def measured(self, check: str, **figures: float) -> None:
        """Record the measurements of a check."""
        self.figures[check] = figures

    def going_on(self) -> bool:
        """Return whether the checks are still wanted."""
        return not self.stopped


class Site(cluster.Cluster, Subject):
    """The cluster of a site; the checks fill in what they find.

    :ivar access: what Glance's user may do to files; None where no check asks
    :ivar kept: clusters by store, as kept at this home, or None
    :ivar error: why there is no client, or None
    :ivar located: where Glance has its images; None where that is not asked
    """

    def __init__(self, target: cluster.Target, access: access.Access | None,
                 deployment: str = '') -> None:
        Subject.__init__(self, target.name)
        cluster.Cluster.__init__(self, target, deployment)
        self.access = access
        self.kept: dict[str, cluster_identity.ClusterIdentity] | None = None
        self.error: errors.ClusterError | None = None
        self.located: Located | None = None

    @property
    def fields(self) -> dict[str, object]:
        return {**super().fields, 'user': self.user, 'caps': self.caps,
                'pool': self.target.pool, 'fsid': self.fsid}


class Sites(Subject):
    """All clusters together, once each was looked at, seen from one.

    :ivar others: those that come before it
    """

    def __init__(self, site: Site, others: list[Site],
                 kept: cluster_identity.ClusterIdentity | None) -> None:
        super().__init__(site.name)
        self.site = site
        self.others = others
        self.kept = kept

    @property
    def fields(self) -> dict[str, object]:
        return self.site.fields


class Node(Subject):
    """The configuration of the Glance on this node.

    :ivar room: bytes that the staging folder shall have free
    """

    def __init__(self, conf: cfg.ConfigOpts, access: access.Access,
                 room: int) -> None:
        super().__init__(THIS_NODE)
        self.conf = conf
        self.access = access
        self.room = room


class Glance(Subject):
    """A Glance that serves somewhere."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name)
        self.url = url

    @property
    def fields(self) -> dict[str, object]:
        return {**super().fields, 'url': self.url}
