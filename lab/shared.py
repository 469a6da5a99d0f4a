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


"""Many edges on one machine: pools of one real cluster stand for them.

A site is what its Glance's key reaches. Here each has a pool of its own, a
user whose rights end at that pool, and a conf file and keyring as an edge
would have, so that drivers, connections and records are those of as many
clusters. What it does not have is daemons of its own: sites of one cluster
fail together. Central has a cluster to itself, so that what is asked of other
sites can be counted, and all of these can fail at once. Sites to be slowed
down or cut off have their pools in a further cluster, which is behind a
:class:`lab.wan.Link` as a whole: clients of RADOS go to the addresses that its
maps name, so that a link stands before a cluster and not before a pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import concurrent.futures
import contextlib
import json
import pathlib
import typing

import rados
import rbd

from glance_dcn.ceph import images
from glance_dcn.deploy import cephconf
from glance_dcn.deploy import model
from lab import ceph
from lab import process

# Placement groups that an OSD may have: each pool has one at least.
_MOST_GROUPS = 2000
# Commands to the monitor at once; it writes those of a moment together.
_AT_ONCE = 16


class SharedSite:
    """A site whose images lie in a pool of a cluster that it shares.

    It stands where a :class:`lab.ceph.Cluster` does.

    :param name: of the site
    :param cluster: the :class:`lab.ceph.Cluster` that holds its pool
    :param access: what its user may do there: that of the Glance which keeps
        its records there, or of another one
    """

    def __init__(self, name: str, cluster: ceph.Cluster,
                 access: model.Access = model.Access.READ_WRITE) -> None:
        self.name = name
        self._access = access
        self.cluster = cluster
        #: Name of its pool.
        self.images_pool = 'images-%s' % name
        #: User of its Glance.
        self.user = 'glance-%s' % name
        self.guests: dict[str, str] = {}
        self.link = cluster.link
        self.mon, self.osd = cluster.mon, cluster.osd

    @property
    def conf(self) -> pathlib.Path:
        """The conf file for its clients."""
        return self.cluster.etc / ('%s.conf' % self.name)

    @property
    def fsid(self) -> str:
        """The fsid of its cluster."""
        return self.cluster.fsid

    @property
    def options(self) -> dict[str, str]:
        """Options of its store, besides those of each store of the lab."""
        return {'rbd_store_user': self.user,
                'rbd_store_pool': self.images_pool}

    def keyring(self, user: str) -> pathlib.Path:
        """Return the path of a client's keyring."""
        return self.cluster.etc / ('%s.client.%s.keyring' % (self.name, user))

    def connect(self, user: str = 'admin', timeout: int = 30
                ) -> typing.ContextManager[rados.Rados]:
        """Connect to its cluster, see :meth:`lab.ceph.Cluster.connect`."""
        return self.cluster.connect(user, timeout)

    @contextlib.contextmanager
    def pool(self, name: str = 'images',
             user: str = 'admin') -> Iterator[rados.Ioctx]:
        """Open its pool: context manager that gives a rados.Ioctx."""
        with self.connect(user) as client:
            with client.open_ioctx(
                    self.images_pool if name == 'images' else name) as ioctx:
                yield ioctx

    def images(self) -> list[str]:
        """Return the sorted names of its RBD images."""
        with self.pool() as ioctx:
            return sorted(rbd.RBD().list(ioctx))

    def trash(self) -> list[str]:
        """Return the sorted names of the RBD images in its trash."""
        with self.pool() as ioctx:
            return sorted(entry.name for entry in images.trash_entries(ioctx)
                          if entry.source != images.REMOVING)

    def start(self) -> None:
        """Do nothing: its cluster is started."""

    def stop(self) -> None:
        """Do nothing: its cluster is ended."""

    def make(self, client: rados.Rados) -> None:
        """Make its pool, user, conf file and keyring, unless they are there.

        :param client: connected as the administrator of its cluster
        :raises lab.process.LabError: if the monitor refuses
        """
        if self.conf.exists():
            return
        ceph.command(client, {'prefix': 'osd pool create',
                              'pool': self.images_pool, 'pg_num': 1,
                              'pgp_num': 1})
        with client.open_ioctx(self.images_pool) as ioctx:
            rbd.RBD().pool_init(ioctx, True)
        caps = cephconf.caps([self.images_pool], self._access)
        answer = ceph.command(client, {
            'prefix': 'auth get-or-create', 'format': 'json',
            'entity': 'client.%s' % self.user,
            'caps': [part for item in caps.items() for part in item]})
        keyring = self.keyring(self.user)
        process.write_private(keyring, '[client.%s]\n\tkey = %s\n' % (
            self.user, json.loads(answer)[0]['key']))
        text = self.cluster.conf.read_text().partition('\n[client.')[0]
        self.conf.write_text('%s\n[client.%s]\nkeyring = %s\n' % (
            text, self.user, keyring))


def make_sites(cluster: ceph.Cluster, sites: Iterable[SharedSite]) -> None:
    """Make sites in a cluster that runs.

    :raises lab.process.LabError: if the monitor refuses
    """
    with cluster.connect() as client:
        ceph.command(client, {
            'prefix': 'config set', 'who': 'global',
            'name': 'mon_max_pg_per_osd', 'value': str(_MOST_GROUPS)})
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda site: site.make(client), sites))


def images_at(sites: Iterable[SharedSite]) -> dict[str, list[str]]:
    """Return the names of RBD images, those in the trash included, by site.

    One client is made for each cluster, not for each site. A site without any
    is left out.
    """
    found = {}
    with contextlib.ExitStack() as stack:
        clients: dict[pathlib.Path, rados.Rados] = {}
        for site in sites:
            key = site.cluster.directory
            if key not in clients:
                clients[key] = stack.enter_context(site.connect())
            with clients[key].open_ioctx(site.images_pool) as ioctx:
                names = rbd.RBD().list(ioctx) + [
                    entry.name for entry in images.trash_entries(ioctx)
                    if entry.source != images.REMOVING]
            if names:
                found[site.name] = sorted(names)
    return found
