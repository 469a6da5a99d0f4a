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

"""What checks look at: clusters, a node's configuration, Glances."""

from __future__ import annotations

import contextlib
import dataclasses
import typing

from oslo_config import cfg

from glance_dcn.ceph import client as clients
from glance_dcn.deploy import cephconf
from glance_dcn.deploy import model
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

    import rados

    from glance_dcn.ceph import errors
    from glance_dcn.checks import access
    from glance_dcn.checks import images
    from glance_dcn.sites import cluster_identity
    from glance_dcn.sites import site as sites

#: Name under which findings about this node's configuration are shown.
THIS_NODE = 'node'

_T = typing.TypeVar('_T')

# Seconds that one request to an OSD may take.
_IO_TIMEOUT = 5


@dataclasses.dataclass(frozen=True)
class Target(clients.ClusterConfig):
    """Where the images of a site lie, and how to get there.

    :ivar fsid: what the cluster's fsid must be, or None where only the conf
        file tells
    :ivar access: what the user should be able to do there
    :ivar home: whether it is the store that keeps the records of this node's
        Glance; None: the default store does
    :ivar order: among the stores as they are configured: of two with one pool,
        the first one counts
    """

    io_timeout: float = _IO_TIMEOUT
    default: bool = False
    fsid: str | None = None
    access: model.Access = model.Access.OWNER
    home: bool | None = None
    order: int = 0


class Subject:
    """What checks are about.

    :ivar name: as shown in findings
    :ivar figures: what was measured: dicts by name of the check
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: dict[str, dict[str, float]] = {}
        self.stopped = False

    def measured(self, check: str, **figures: float) -> None:
        """Keep what a check has measured."""
        self.figures[check] = figures

    def going_on(self) -> bool:
        """Whether the checks are still wanted."""
        return not self.stopped


class Site(Subject):
    """The cluster of a site; the checks fill in what they find.

    It makes a client of its own, apart from those of this process's stores,
    and looks after nothing.

    :ivar access: what Glance's user may do to files; None where no check asks
    :ivar deployment: identity of the deployment, whose records count
    :ivar fsid: of the cluster that answered, or None
    :ivar kept: clusters by store, as kept at this home, or None
    :ivar error: why there is no client, or None
    :ivar located: where Glance has its images; None where that is not asked
    """

    def __init__(self, target: Target, access: access.Access | None,
                 deployment: str = '') -> None:
        super().__init__(target.name)
        self.target = target
        self.deployment = deployment
        self.access = access
        self.factory = clients.ClientFactory(target)
        self.client: rados.Rados | None = None
        self.ioctx: rados.Ioctx | None = None
        self.fsid: str | None = None
        self.kept: dict[str, cluster_identity.ClusterIdentity] | None = None
        self.error: errors.ClusterError | None = None
        self.located: images.Located | None = None

    @property
    def connected(self) -> rados.Rados:
        """The client, once there is one."""
        assert self.client is not None, 'a check needs check monitors'
        return self.client

    @property
    def opened(self) -> rados.Ioctx:
        """The pool, once it is open."""
        assert self.ioctx is not None, 'a check needs check pool'
        return self.ioctx

    def connect(self) -> None:
        """Connect to the cluster.

        :raises glance_dcn.ceph.errors.ClusterError: if that fails
        """
        self.client = self.factory.connect()
        self.fsid = self.client.get_fsid()

    def open(self) -> None:
        """Open the pool.

        :raises glance_dcn.ceph.errors.ClusterError: if there is none
        """
        self.ioctx = self.factory.open_pool(self.connected, self.target.pool)
        self.ioctx.set_osdmap_full_try()

    def close(self) -> None:
        """Give the connection back; on a site that hangs it may take long."""
        if self.ioctx is not None:
            self.ioctx.close()
        if self.client is not None:
            self.client.shutdown()
        self.client = self.ioctx = None

    @contextlib.contextmanager
    def open_namespace(self, namespace: str) -> Iterator[rados.Ioctx]:
        """Open a namespace of the pool for a while.

        :raises glance_dcn.ceph.errors.ClusterError: if there is no such pool
        """
        with self.factory.open_pool(self.connected, self.target.pool) as ioctx:
            ioctx.set_osdmap_full_try()
            ioctx.set_namespace(namespace)
            yield ioctx

    @contextlib.contextmanager
    def open_pool(self) -> Iterator[rados.Ioctx]:
        """Give the pool, for what asks a site for it."""
        ioctx = self.opened
        try:
            yield ioctx
        finally:
            # There is but one: a namespace is not for the next check.
            ioctx.set_namespace('')

    def call(self, function: Callable[..., _T], *args: typing.Any) -> _T:
        """Call a function that asks the site; its client has timeouts."""
        return function(*args)

    @property
    def caps(self) -> str:
        """The capabilities its user should have, for ``ceph auth caps``."""
        return cephconf.as_arguments(cephconf.caps([self.target.pool],
                                                   self.target.access))

    @property
    def keeps_records(self) -> bool:
        """Whether this node's Glance keeps its records here.

        A site without a cluster, whose key of central may only read, keeps
        none.
        """
        home = self.target.home
        return ((self.target.default if home is None else home)
                and self.target.access is model.Access.OWNER)

    @property
    def home(self) -> homes.Home:
        """What reads the records that are kept here."""
        # It asks a site for no more than this one has as well.
        return homes.Home(typing.cast('sites.Site', self))

    @property
    def user(self) -> str:
        """The user in full, as Ceph writes it."""
        return 'client.%s' % (self.target.user or 'admin')


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
