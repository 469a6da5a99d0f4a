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

"""Making a client of a site's cluster out of a store's options.

What goes wrong here is mostly a matter of options and files, and said so.
Nothing here keeps a connection: that is :mod:`glance_dcn.ceph.connection`.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import errno
import json
import logging
import os
import time
import typing
import uuid

import rados

from glance_dcn.ceph import errors
from glance_dcn.runtime import native

LOG = logging.getLogger(__name__)

#: Seconds to wait for the monitors of a site, where nothing else is said.
CONNECT_TIMEOUT = 5
#: Seconds for which they are waited for at most, whatever the options say:
#: nothing waits longer than 15 s for a site that is gone.
LONGEST_CONNECT_TIMEOUT = 14

# Seconds for which a client stays blocklisted. Its process may have been
# stopped with a virtual machine that is suspended over weeks: when it goes on,
# the request that it was about to send is to fail. An entry of the OSDs' map
# has some 50 bytes; Ceph's own default is an hour.
_BLOCKLISTED = 90 * 24 * 3600
# Objects asked for, so that several placement groups, and with them OSDs,
# have to answer. They need not exist: that they do not is an answer.
_SPREAD = 7
# What every listing and creation of images goes to.
_DIRECTORY = 'rbd_directory'
# What librados reports for a cluster whose conf file names no fsid.
_NO_FSID = '00000000-0000-0000-0000-000000000000'


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """What the options of a store say about its cluster.

    :ivar name: identifier of the store, which is the site's name
    :ivar pool: name of the pool of its images, whose OSDs must answer for the
        cluster to be up
    :ivar conf_file: path of the Ceph conf file; '': librados searches for one
    :ivar user: cephx user without ``client.``; None: librados's choice
    :ivar connect_timeout: seconds to wait for the monitors; what is below 0
        becomes :data:`CONNECT_TIMEOUT`; 0, which is no limit to librados, and
        what is above it become :data:`LONGEST_CONNECT_TIMEOUT`
    :ivar io_timeout: seconds one request to an OSD may take; 0: no limit
    """

    name: str
    pool: str
    conf_file: str = ''
    user: str | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    io_timeout: float = 0

    def __post_init__(self) -> None:
        timeout = (CONNECT_TIMEOUT if self.connect_timeout < 0
                   else self.connect_timeout or LONGEST_CONNECT_TIMEOUT)
        object.__setattr__(self, 'connect_timeout',
                           min(timeout, LONGEST_CONNECT_TIMEOUT))


class Settings(typing.NamedTuple):
    """What a conf file says.

    :ivar fsid: None: it names none
    :ivar user: cephx user, with ``client.``
    :ivar keyrings: paths one of which must be there; none if no keyring is
        needed
    """

    fsid: str | None
    user: str
    keyrings: list[str]
    mon_host: str


class ClientFactory:
    """Makes clients of one cluster as one user."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.store = config.name
        self.conf_file = config.conf_file
        # State of the conf file, and what it says.
        self._read: tuple[tuple[int, ...] | None, Settings | None] = (
            None, None)

    @property
    def settings(self) -> Settings:
        """What the conf file says, which is read again when it has changed.

        :raises Misconfigured: if the conf file cannot be read
        """
        state = self._state()
        known, settings = self._read
        if settings is None or known != state:
            client = self._make()
            try:
                settings = _settings_of(client)
            finally:
                # One that is only dropped leaks 350 KiB.
                client.shutdown()
            self._read = (state, settings)
        return settings

    @property
    def is_up_to_date(self) -> bool:
        """Whether the conf file is what it was when it was last read."""
        known, settings = self._read
        return settings is not None and known == self._state()

    def check_files(self) -> None:
        """Return if conf file and keyring are there, at next to no cost.

        :raises NotDeployed: if one is not
        :raises Misconfigured: if the conf file cannot be read
        """
        settings = self.settings
        if settings.keyrings and not any(
                os.path.exists(path) for path in settings.keyrings):
            raise self._no_keyring(
                errors.NotDeployed, settings.user, settings.keyrings)

    def connect(self) -> rados.Rados:
        """Return a new client that is connected.

        :raises NotDeployed: if conf file or keyring are not there
        :raises Misconfigured: if conf file, keyring or user do not fit, or
                               the cluster has another fsid than the conf file
        :raises Unreachable: if the cluster does not answer
        """
        self.check_files()
        client = self._make()
        # Connecting replaces it by the cluster's own.
        configured_fsid = client.conf_get('fsid')
        timeout = str(self.config.connect_timeout)
        client.conf_set('client_mount_timeout', timeout)
        client.conf_set('rados_mon_op_timeout', timeout)
        # Each byte of an image is written once, past librbd, and read ahead by
        # its reader: a cache would only cost memory and time.
        client.conf_set('rbd_cache', 'false')
        # A process may have dozens of clients, and what one of them moves is
        # bounded by other things. (librados_thread_count stays at 2: from Ceph
        # 17 on librbd blocks one of these threads while it looks at a pool
        # that was never initialized, and needs another for the answer.)
        client.conf_set('ms_async_op_threads', '1')
        # What is in flight is bounded for each transfer. Where the client has
        # a bound of its own, librados waits in the thread that writes to all
        # targets while one of them hangs.
        client.conf_set('objecter_inflight_op_bytes', str(1 << 40))
        client.conf_set('objecter_inflight_ops', str(1 << 20))
        if self.config.io_timeout > 0:
            client.conf_set('rados_osd_op_timeout',
                            str(self.config.io_timeout))
            # By default librbd goes on where the update of an object map is
            # not answered in time, and marks the map as invalid. If that is
            # not answered either, the map lacks what is then written: it
            # would stay when the image is removed, and clones would read
            # zeros. So the write fails.
            client.conf_set('rbd_invalidate_object_map_on_timeout', 'false')
        try:
            client.connect()
        except (rados.Error, OSError) as exc:
            error = self.explain(exc, client)
            client.shutdown()
            raise error
        self._check_fsid(client, configured_fsid)
        return client

    def open_pool(self, client: rados.Rados, pool: str) -> rados.Ioctx:
        """Open a pool by a connected client.

        :raises Misconfigured: if the cluster has no such pool
        :raises Unreachable: if the cluster does not answer
        """
        try:
            ioctx = client.open_ioctx(pool)
        except rados.ObjectNotFound:
            raise errors.Misconfigured(
                self.store, 'the cluster has no pool %r' % pool,
                'correct rbd_store_pool in [%s] or create the pool'
                % self.store)
        except rados.Error as exc:
            raise self.explain(exc, client)
        # Threads of librados take it as well, where eventlet has patched what
        # it is by default.
        ioctx.lock = native.lock()
        return ioctx

    def check_pool(self, client: rados.Rados) -> None:
        """Return if the OSDs of the configured pool answer a client.

        :raises Misconfigured: if there is no such pool, or it refuses the user
        :raises Unreachable: if the cluster does not answer
        """
        pool = self.config.pool
        with self.open_pool(client, pool) as ioctx:
            try:
                ask_osds(ioctx)
            except rados.Error as exc:
                if errors.is_denied(exc):
                    raise errors.Misconfigured(
                        self.store, 'pool %s refuses the user (%s)' % (
                            pool, exc), 'see rbd_store_pool and '
                        'rbd_store_user in [%s], and the osd caps of that '
                        'user' % self.store)
                raise errors.Unreachable(
                    self.store, 'the OSDs of pool %s do not answer (%s)' % (
                        pool, exc), 'see that the site\'s cluster is '
                    'healthy and its OSDs can be reached')

    def explain(self, exc: Exception,
                client: rados.Rados) -> errors.ClusterError:
        """Return the ClusterError for what librados raised on connecting."""
        if errors.code(exc) not in (*errors.DENIED, errno.ENOENT,
                                    errno.EINVAL, errno.EIO):
            return errors.Unreachable(
                self.store, 'the monitors %s do not answer (%s)' % (
                    client.conf_get('mon_host'), exc),
                'see that the site is up and its monitors can be reached, '
                'and mon_host in %s' % self._conf_name)
        user = 'client.%s' % client.rados_id
        keyrings = _paths(client.conf_get('keyring'))
        if all(_why_unreadable(path) for path in keyrings):
            return self._no_keyring(errors.Refused, user, keyrings)
        if errors.is_denied(exc):
            return errors.Refused(
                self.store, 'the cluster refuses %s (%s)' % (user, exc),
                self._user_remedy)
        if errors.code(exc) == errno.EIO:
            # Of librados's parser; a cluster that is away times out.
            return errors.Misconfigured(
                self.store, 'this host\'s Ceph cannot read the key of %s in '
                '%s (%s)' % (user, ', '.join(keyrings), exc),
                'correct it; see rbd_store_user in [%s]. Keys of type '
                'aes256k, which Ceph 20 makes unless it is told another type, '
                'need Ceph 20 at this host as well' % self.store)
        return errors.Misconfigured(
            self.store, 'cannot connect as %s (%s)' % (user, exc),
            self._user_remedy)

    def _state(self) -> tuple[int, ...] | None:
        """Return what changes when the conf file does; None: cannot tell."""
        try:
            stat = os.stat(self.conf_file)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _make(self) -> rados.Rados:
        """Return a rados.Rados that has read the conf file, no more."""
        if self.conf_file and not os.path.exists(self.conf_file):
            raise self._bad_conf_file(errors.NotDeployed, 'cannot be read '
                                      '(%s)' % _why_unreadable(self.conf_file))
        client = rados.Rados(rados_id=self.config.user)
        try:
            # Empty: librados's own search.
            client.conf_read_file(self.conf_file or None)
            return client
        except (rados.Error, OSError) as exc:
            client.shutdown()
            if self.conf_file and not os.access(self.conf_file, os.R_OK):
                reason = 'cannot be read (%s)' % _why_unreadable(
                    self.conf_file)
            else:
                reason = 'is not usable (%s)' % exc
            raise self._bad_conf_file(errors.Misconfigured, reason)

    def _bad_conf_file(self, kind: type[errors.ClusterError],
                       reason: str) -> errors.ClusterError:
        return kind(self.store, 'the conf file %s %s' % (self._conf_name,
                                                         reason),
                    'correct rbd_store_ceph_conf in [%s], or the file'
                    % self.store)

    def _check_fsid(self, client: rados.Rados, configured: str | None) -> None:
        actual = client.get_fsid()
        if configured not in (None, '', _NO_FSID, actual):
            client.shutdown()
            raise errors.WrongCluster(
                self.store, 'the cluster that answers has fsid %s, but %s '
                'says %s' % (actual, self.conf_file, configured),
                'rbd_store_ceph_conf in [%s] must name a conf file with the '
                'fsid and mon_host of one cluster' % self.store)

    def _no_keyring(self, kind: type[errors.ClusterError], user: str,
                    keyrings: list[str]) -> errors.ClusterError:
        return kind(
            self.store, 'no keyring of %s can be read (%s)' % (
                user, '; '.join('%s: %s' % (path, _why_unreadable(path))
                                for path in keyrings)), self._user_remedy)

    @property
    def _user_remedy(self) -> str:
        return ('see rbd_store_user in [%s] and, in rbd_store_ceph_conf (%s), '
                'the keyring of that user and mon_host'
                % (self.store, self._conf_name))

    @property
    def _conf_name(self) -> str:
        return self.conf_file or 'ceph.conf'


def ask_osds(ioctx: rados.Ioctx) -> None:
    """Return when the OSDs of a pool have answered.

    That the monitors answer says nothing about them. All are asked at once: of
    a site that is far away each takes several round trips to connect to.

    :param ioctx: its client's timeout for requests counts
    :raises rados.Error: if one does not
    """
    names = [_DIRECTORY] + ['glance_dcn.probe.%s' % uuid.uuid4()
                            for _i in range(_SPREAD)]
    asked = [ioctx.aio_stat(name, _ignore) for name in names]
    # Until there are all, the pool must not be closed: librados would abort.
    for completion in asked:
        completion.wait_for_complete_and_cb()
    for name, completion in zip(names, asked):
        code = -completion.get_return_value()
        if code not in (0, errno.ENOENT):
            raise rados.OSError('object %s: %s' % (name, os.strerror(code)),
                                code)


def _ignore(*_answer: object) -> None:
    """Take an answer of which the return value says enough."""


def blocklist(client: rados.Rados, addresses: Iterable[str]) -> set[str]:
    """Blocklist clients whose work must not continue, by their addresses.

    What they send from then on fails, and their watches end at once. What
    they have in flight is carried out before anything that this client asks
    for from now on, or not at all: librados waits for the map of OSDs that has
    the blocklist, and each OSD takes that map from the next request.
    ``profile rbd`` of the monitors' capabilities allows it.

    :param addresses: as rados.Rados.get_addrs() returns them
    :returns: those that could not be blocklisted
    """
    left = set()
    for address in addresses:
        try:
            client.blocklist_add(address, _BLOCKLISTED)
        except rados.Error as exc:
            LOG.warning('Client %(address)s, which was retired, cannot be '
                        'blocklisted (%(error)s): what it has in flight may '
                        'still be written', {'address': address,
                                             'error': exc})
            left.add(address)
    return left


def round_trip(client: rados.Rados) -> float:
    """Return the seconds that a question takes which costs nothing else."""
    began = time.monotonic()
    client.mon_command(json.dumps({'prefix': 'fsid'}), b'')
    return time.monotonic() - began


def _settings_of(client: rados.Rados) -> Settings:
    fsid = client.conf_get('fsid')
    needs_none = (
        client.conf_get('key') or client.conf_get('keyfile')
        or 'cephx' not in (client.conf_get('auth_client_required') or ''))
    return Settings(
        None if fsid in ('', _NO_FSID) else fsid,
        'client.%s' % client.rados_id,
        [] if needs_none else _paths(client.conf_get('keyring')),
        client.conf_get('mon_host') or '')


def _paths(text: str | None) -> list[str]:
    return [path.strip() for path in (text or '').split(',') if path.strip()]


def _why_unreadable(path: str) -> str | None:
    """Return why a file cannot be read, or None if it can."""
    try:
        with open(path.strip(), 'rb') as f:
            f.read(1)
    except OSError as exc:
        return exc.strerror
    return None
