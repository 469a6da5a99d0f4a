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

import contextlib
import dataclasses
import typing

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import connection
from glance_dcn.deploy import cephconf
from glance_dcn.deploy import model

#: Name under which findings about this node's configuration are shown.
THIS_NODE = 'node'

# Seconds that one request to an OSD may take.
_IO_TIMEOUT = 5


@dataclasses.dataclass(frozen=True)
class Target:
    """Where the images of a site lie, and how to get there.

    :ivar name: of the store, which is the site's name
    :ivar pool: name of the pool
    :ivar conf_file: path of the cluster's conf file, or ''
    :ivar user: cephx user without ``client.``, or None
    :ivar connect_timeout: seconds
    :ivar default: whether it is the default store of this node
    :ivar fsid: what the cluster's fsid must be, or None where only the conf
        file tells
    :ivar access: what the user should be able to do there, a
        :class:`glance_dcn.deploy.model.Access`
    :ivar home: whether it is the store that keeps the records of this node's
        Glance; None: the default store does
    :ivar order: among the stores as they are configured: of two with one pool,
        the first one counts
    """

    name: str
    pool: str
    conf_file: str = ''
    user: typing.Optional[str] = None
    connect_timeout: int = connection.CONNECT_TIMEOUT
    default: bool = False
    fsid: typing.Optional[str] = None
    access: model.Access = model.Access.OWNER
    home: typing.Optional[bool] = None
    order: int = 0


class Subject:
    """What checks are about.

    :ivar name: as shown in findings
    :ivar figures: what was measured: dicts by name of the check
    """

    def __init__(self, name):
        self.name = name
        self.figures = {}
        self.stopped = False

    def measured(self, check, **figures):
        """Keep what a check has measured."""
        self.figures[check] = figures

    def going_on(self):
        """Whether the checks are still wanted."""
        return not self.stopped


class Site(Subject):
    """The cluster of a site; the checks fill in what they find.

    It makes a client of its own, apart from those of this process's stores,
    and looks after nothing.

    :ivar target: :class:`Target`
    :ivar access: :class:`Access`, of what Glance's user may do to files
    :ivar deployment: identity of the deployment, whose records count
    :ivar maker: :class:`glance_dcn.ceph.client.Maker`
    :ivar client: connected rados.Rados, or None
    :ivar ioctx: rados.Ioctx of the pool, or None
    :ivar fsid: of the cluster that answered, or None
    :ivar kept: dict of :class:`glance_dcn.ceph.fsids.Entry` by store, as kept
        at this home, or None
    :ivar error: :class:`glance_dcn.ceph.errors.ClusterError` why there is no
        client, or None
    :ivar located: :class:`glance_dcn.checks.images.Located`, where Glance has
        its images, or None where that is not asked
    """

    def __init__(self, target, access, deployment=''):
        super().__init__(target.name)
        self.target = target
        self.deployment = deployment
        self.access = access
        self.maker = clients.Maker(target.name, target.conf_file, target.user,
                                   target.connect_timeout)
        self.client = self.ioctx = self.fsid = self.kept = self.error = None
        self.located = None

    def connect(self):
        """Connect to the cluster.

        :raises glance_dcn.ceph.errors.ClusterError: if that fails
        """
        self.client = self.maker.connect(_IO_TIMEOUT)
        self.fsid = self.client.get_fsid()

    def open(self):
        """Open the pool.

        :raises glance_dcn.ceph.errors.ClusterError: if there is none
        """
        self.ioctx = self.maker.open_pool(self.client, self.target.pool)
        self.ioctx.set_osdmap_full_try()

    def close(self):
        """Give the connection back; on a site that hangs it may take long."""
        if self.ioctx is not None:
            self.ioctx.close()
        if self.client is not None:
            self.client.shutdown()
        self.client = self.ioctx = None

    @contextlib.contextmanager
    def open_namespace(self, namespace):
        """Open a namespace of the pool: context manager for its rados.Ioctx.

        :raises glance_dcn.ceph.errors.ClusterError: if there is no such pool
        """
        with self.maker.open_pool(self.client, self.target.pool) as ioctx:
            ioctx.set_osdmap_full_try()
            ioctx.set_namespace(namespace)
            yield ioctx

    @contextlib.contextmanager
    def open_pool(self):
        """Give the pool, for what asks a site for it."""
        try:
            yield self.ioctx
        finally:
            # There is but one: a namespace is not for the next check.
            self.ioctx.set_namespace('')

    def call(self, function, *args):
        """Call a function that asks the site; its client has timeouts."""
        return function(*args)

    @property
    def caps(self):
        """The capabilities its user should have, for ``ceph auth caps``."""
        return cephconf.as_arguments(cephconf.caps([self.target.pool],
                                                   self.target.access))

    @property
    def keeps_records(self):
        """Whether this node's Glance keeps its records here.

        A site without a cluster, whose key of central may only read, keeps
        none.
        """
        home = self.target.home
        return ((self.target.default if home is None else home)
                and self.target.access is model.Access.OWNER)

    @property
    def user(self):
        """The user in full, as Ceph writes it."""
        return 'client.%s' % (self.target.user or 'admin')


class Sites(Subject):
    """All clusters together, once each was looked at, seen from one.

    :ivar site: :class:`Site` that it is about
    :ivar others: the :class:`Site` of those that come before it
    :ivar kept: :class:`glance_dcn.ceph.fsids.Entry` of it, or None
    """

    def __init__(self, site, others, kept):
        super().__init__(site.name)
        self.site = site
        self.others = others
        self.kept = kept


class Node(Subject):
    """The configuration of the Glance on this node.

    :ivar conf: oslo.config object
    :ivar access: :class:`glance_dcn.checks.access.Access`
    :ivar room: bytes that the staging folder shall have free
    """

    def __init__(self, conf, access, room):
        super().__init__(THIS_NODE)
        self.conf = conf
        self.access = access
        self.room = room


class Glance(Subject):
    """A Glance that serves somewhere.

    :ivar url: its URL
    """

    def __init__(self, name, url):
        super().__init__(name)
        self.url = url
