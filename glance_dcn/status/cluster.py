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

"""The cluster of a site, as commands reach it from this node."""

from __future__ import annotations

import contextlib
import dataclasses
import typing

from glance_dcn.ceph import client as clients
from glance_dcn.deploy import cephconf
from glance_dcn.deploy import model
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

    import rados

    from glance_dcn.sites import site as sites

_T = typing.TypeVar('_T')


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

    # Seconds that one request to an OSD may take.
    io_timeout: float = 5
    default: bool = False
    fsid: str | None = None
    access: model.Access = model.Access.OWNER
    home: bool | None = None
    order: int = 0


class Cluster:
    """The cluster of a site, and a client apart from those of its store.

    :ivar deployment: identity of the deployment, whose records count
    :ivar fsid: of the cluster that answered, or None
    """

    def __init__(self, target: Target, deployment: str = '') -> None:
        self.name = target.name
        self.target = target
        self.deployment = deployment
        self.factory = clients.ClientFactory(target)
        self.client: rados.Rados | None = None
        self.ioctx: rados.Ioctx | None = None
        self.fsid: str | None = None

    @property
    def connected(self) -> rados.Rados:
        """The client; :meth:`connect` must have been called."""
        assert self.client is not None, 'not connected'
        return self.client

    @property
    def opened(self) -> rados.Ioctx:
        """The pool; :meth:`open` must have been called."""
        assert self.ioctx is not None, 'the pool is not open'
        return self.ioctx

    def connect(self) -> None:
        """Connect to the cluster, or raise ClusterError."""
        self.client = self.factory.connect()
        self.fsid = self.client.get_fsid()

    def open(self) -> None:
        """Open the pool, or raise ClusterError."""
        self.ioctx = self.factory.open_pool(self.connected, self.target.pool)
        self.ioctx.set_osdmap_full_try()

    def close(self) -> None:
        """Close the connection; on a site that hangs it may take long."""
        if self.ioctx is not None:
            self.ioctx.close()
        if self.client is not None:
            self.client.shutdown()
        self.client = self.ioctx = None

    @contextlib.contextmanager
    def open_namespace(self, namespace: str) -> Iterator[rados.Ioctx]:
        """Open a namespace of the pool; see :meth:`open`."""
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

    def call(self, function: Callable[..., _T], *args: typing.Any,
             fence: bool = True) -> _T:
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
