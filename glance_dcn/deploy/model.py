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


"""The sites of a deployment, as a sites file describes them, checked.

Every object here is right by itself and beside the others: names, clusters
and URLs are each one's own, and there is one central site. Only keys have not
been read yet; see :class:`Secret`.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import os
import re
import stat
import typing

from glance_dcn.deploy import sitesfile

#: Order matters: data are staged before the other plugin reads them.
IMPORT_PLUGINS = ('dcn_distributed_staging', 'dcn_image_conversion')
IMPORT_METHODS = ('glance-direct', 'web-download', 'copy-image')
# Of a secret, in bytes.
_LARGEST = 64 << 10
# Of a keyring.
_SECTION = re.compile(r'\[\s*([^\]]+?)\s*\]\s*')
_KEY = re.compile(r'key\s*=\s*(\S+)\s*')


@dataclasses.dataclass(frozen=True)
class Secret:
    """Where a secret is to be found.

    :ivar path: of the sites file
    :ivar line: on which it refers to the secret
    """

    path: str
    line: int
    file: str | None = None
    env: str | None = None
    value: str | None = dataclasses.field(default=None, repr=False)

    def check(self) -> None:
        """Raise Mistake if others may read the file; it need not be there."""
        if self.file is None:
            return
        try:
            found = os.stat(self.file)
        except OSError:
            return
        self._check_mode(found)

    def read(self) -> str:
        """Return the secret, as text without the blanks around it.

        :raises sitesfile.Mistake: if it cannot be had
        """
        if self.value is not None:
            return self.value
        if self.file is not None:
            return self._read_file(self.file)
        text = os.environ.get(self.env or '', '').strip()
        if not text:
            raise self._mistake('the environment variable %s is not set'
                                % self.env)
        return text

    def read_line(self) -> str:
        """Return the secret, which must be one line.

        :raises sitesfile.Mistake: if it is not, or cannot be had
        """
        text = self.read()
        # It becomes a value in a conf file.
        if not text.isprintable():
            raise self._mistake('what %s has is not one line of text'
                                % self._place)
        return text

    def read_key(self, user: str) -> str:
        """Return a cephx key, out of a keyring or a file with nothing else.

        :param user: without ``client.``
        :raises sitesfile.Mistake: if there is none
        """
        text = self.read()
        key = _key_of(text, 'client.%s' % user) if '[' in text else text
        if key is None:
            raise self._mistake('%s has no key of client.%s'
                                % (self._place, user))
        if not is_key(key):
            raise self._mistake('%s is no cephx key' % (
                'what %s has' % self._place if self.value is None
                else 'this'))
        return key

    @property
    def _place(self) -> str:
        return self.file or 'the environment variable %s' % self.env

    def _mistake(self, reason: str) -> sitesfile.Mistake:
        return sitesfile.Mistake(self.path, self.line, reason)

    def _check_mode(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise self._mistake('%s is no regular file' % self.file)
        if found.st_mode & stat.S_IRWXO:
            raise self._mistake(
                'everybody may use %s (mode %o); take that right away with '
                'chmod o-rwx, and if others may have read the key, make '
                'another one' % (self.file, stat.S_IMODE(found.st_mode)))

    def _read_file(self, path: str) -> str:
        try:
            data, found = sitesfile.read_bytes(path, _LARGEST)
        except OSError as exc:
            raise self._mistake('%s cannot be read: %s'
                                % (path, exc.strerror))
        self._check_mode(found)
        if len(data) > _LARGEST:
            raise self._mistake('%s is larger than %d KiB'
                                % (path, _LARGEST >> 10))
        try:
            text = data.decode().strip()
        except UnicodeDecodeError:
            raise self._mistake('%s is no text' % path)
        if not text:
            raise self._mistake('%s is empty' % path)
        return text


def _key_of(text: str, entity: str) -> str | None:
    """Return the key of an entity in the text of a keyring, or None."""
    current = key = None
    for line in text.splitlines():
        section = _SECTION.fullmatch(line.strip())
        if section:
            current = section.group(1)
        elif current == entity:
            found = _KEY.fullmatch(line.strip())
            key = found.group(1) if found else key
    return key


def is_key(text: str) -> bool:
    """Return whether a text has the form of a cephx key."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    # Type, time and length of the secret come before it.
    return len(data) > 12 and len(data) - 12 == int.from_bytes(data[10:12],
                                                               'little')


class Access(enum.Enum):
    """Rights of a cephx user of a Glance in the pool of a store."""

    #: All of it, with the records of the site: the site's own Glance.
    OWNER = 'owner'
    #: Read, write and remove images; the records are out of reach.
    READ_WRITE = 'read-write'
    #: Read images; nothing can be changed.
    READ_ONLY = 'read-only'


#: Values by (group, option).
Options = dict[tuple[str, str], typing.Union[str, Secret]]
#: Rights that an edge may have at central.
EDGE_ACCESS = (Access.READ_ONLY, Access.READ_WRITE)


@dataclasses.dataclass(frozen=True)
class Paths:
    """Where the files of a node are, all absolute.

    :ivar glance: folder of glance-api.conf
    :ivar ceph: folder of conf files and keyrings
    :ivar state: folder of staging, tasks and image cache
    :ivar sites: folder of site files ([glance_dcn] sites_dir), or None
    """

    glance: str = '/etc/glance'
    ceph: str = '/etc/ceph'
    state: str = '/var/lib/glance'
    sites: str | None = None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Ceph cluster, as its clients know it.

    :ivar name: beginning of the names of its files
    :ivar fsid: in lower case
    :ivar mon_host: text for the option of that name
    :ivar settings: further options of [global], (name, value)
    :ivar extra_pools: pools that the user's key is good for as well
    """

    name: str
    fsid: str
    mon_host: str
    user: str
    key: Secret | None = None
    settings: tuple[tuple[str, str], ...] = ()
    extra_pools: tuple[str, ...] = ()
    access: Access = Access.OWNER
    line: int = 0


@dataclasses.dataclass(frozen=True)
class Login:
    """The cephx user of a Glance at the cluster of another site.

    :ivar user: without ``client.``
    """

    user: str
    key: Secret | None = None
    line: int = 0


@dataclasses.dataclass(frozen=True)
class Limits:
    """Options of a site's store; None: Glance's default.

    :ivar bandwidth_limit: MiB per second
    :ivar connect_timeout: seconds, as is io_timeout
    """

    max_transfers: int | None = None
    bandwidth_limit: float | None = None
    connect_timeout: int | None = None
    io_timeout: int | None = None


@dataclasses.dataclass(frozen=True)
class Operator:
    """Settings for the operators on Kubernetes alone.

    :ivar api: name of the GlanceAPI; None: that of the site
    :ivar layout: of the central GlanceAPI, ``split`` or ``single``
    :ivar replicas: number of pods; None: as an existing GlanceAPI has it
    :ivar storage_request: size of a replica's volume, as Kubernetes writes it;
        None: as an existing GlanceAPI has it
    """

    api: str | None = None
    layout: str = 'split'
    replicas: int | None = 3
    storage_class: str | None = None
    storage_request: str | None = '10G'
    networks: tuple[str, ...] = ()
    internal_address: str | None = None
    address_pool: str = 'internalapi'


@dataclasses.dataclass(frozen=True)
class Site:
    """A site with its Glance.

    :ivar store: name of its store at every Glance; '' without a cluster
    :ivar workers: URLs by which other workers reach its Glance processes
    :ivar cache_size: bytes of stock's image cache, or None without one
    :ivar edge_access: rights of its Glance at central, one of EDGE_ACCESS
    :ivar at_central: of the Glance of the site at the cluster of central;
        None for central
    :ivar from_central: of the central Glance at the cluster of the site; None
        for central, and without a cluster
    """

    name: str
    line: int
    description: str
    central: bool = False
    store: str = ''
    cluster: Cluster | None = None
    pool: str = 'images'
    chunk_size: int | None = None
    weight: int | None = None
    workers: tuple[str, ...] = ()
    staging: str = '/var/lib/glance/os_glance_staging_store'
    cache_size: int | None = None
    limits: Limits = Limits()
    operator: Operator = Operator()
    options: Options = dataclasses.field(default_factory=dict, compare=False)
    edge_access: Access = Access.READ_ONLY
    at_central: Login | None = None
    from_central: Login | None = None
    path: str = ''

    @property
    def ceph(self) -> Cluster:
        """The cluster of a site that has a store."""
        assert self.cluster is not None, 'site %s has no store' % self.name
        return self.cluster


@dataclasses.dataclass(frozen=True)
class Deployment:
    """All sites of a sites file, and their common settings.

    :ivar sites: all, in the order of the file
    """

    path: str
    sites: tuple[Site, ...]
    paths: Paths = Paths()
    import_methods: tuple[str, ...] = IMPORT_METHODS
    import_plugins: tuple[str, ...] = IMPORT_PLUGINS

    @property
    def central(self) -> Site:
        """The central site."""
        return next(site for site in self.sites if site.central)

    def site(self, name: str) -> Site | None:
        """Return the site of a name, or None."""
        return next((site for site in self.sites if site.name == name), None)

    def stores_of(self, site: Site) -> list[Site]:
        """Return the sites whose stores a site's Glance has, default first.

        That of the central site has all; any other its own and central's.
        The cluster of another site has the user, the key and the access that
        the Glance of this one has there.
        """
        if site.central:
            return [site, *(_seen(other, other.from_central,
                                  Access.READ_WRITE) for other in self.sites
                            if other.store and not other.central)]
        if site.store:
            return [site, _seen(self.central, site.at_central,
                                site.edge_access)]
        # The store of central is its default one, with its records.
        return [_seen(self.central, site.at_central,
                      Access.READ_ONLY if site.edge_access is Access.READ_ONLY
                      else Access.OWNER)]

    def guests_of(self, site: Site) -> list[tuple[Site, Site]]:
        """Return (their site, site) for each other Glance that sees a site."""
        return [(other, seen) for other in self.sites if other is not site
                for seen in self.stores_of(other) if seen.name == site.name]


def _seen(site: Site, login: Login | None, access: Access) -> Site:
    """Return a site with the user that another site's Glance has there."""
    assert login is not None, 'only central has no login'
    return dataclasses.replace(site, cluster=dataclasses.replace(
        site.ceph, user=login.user, key=login.key, extra_pools=(),
        access=access, line=login.line))
