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

"""Connections to the Ceph clusters of the sites: one per site and process.

A connection is made on first use, by the process that uses it: librados
threads do not survive a fork, and servers such as uWSGI fork after the
application was loaded. It is then kept, for every operation and every thread;
librados itself finds its way back to a cluster that was away.

This is the only module that imports rados.
"""

import contextlib
import errno
import logging
import os
import threading

import rados

from glance_dcn.ceph import errors

LOG = logging.getLogger(__name__)

#: Seconds to wait for the monitors of a site, where nothing else is said.
CONNECT_TIMEOUT = 5

# What librados reports for a cluster whose conf file names no fsid.
_NO_FSID = '00000000-0000-0000-0000-000000000000'

_registry = {}
_registry_lock = threading.Lock()
# Handles that must not be released. Of one that came over a fork, only the
# parent has the librados threads that would be joined; and one that was given
# up may still be in use by other threads.
_abandoned = []


def get(store, conf_file, user=None, connect_timeout=CONNECT_TIMEOUT,
        io_timeout=0):
    """Return this process's connection for a store.

    :param store: identifier of the store, for messages
    :param conf_file: path of the Ceph conf file, or '' for librados's own
                      search for one
    :param user: cephx user without ``client.``, or None for librados's choice
    :param connect_timeout: seconds to wait for the monitors
    :param io_timeout: seconds one request to an OSD may take; 0: no limit
    :returns: :class:`Connection`
    """
    key = (store, conf_file, user, connect_timeout, io_timeout)
    with _registry_lock:
        if key not in _registry:
            _registry[key] = Connection(store, conf_file, user,
                                        connect_timeout, io_timeout)
        return _registry[key]


class Connection:
    """A connection to one cluster as one user, made on first use.

    For the parameters see :func:`get`. Safe for use by many threads.
    """

    def __init__(self, store, conf_file, user=None,
                 connect_timeout=CONNECT_TIMEOUT, io_timeout=0):
        self.store = store
        self.conf_file = conf_file
        self.user = user
        self._connect_timeout = connect_timeout
        self._io_timeout = io_timeout
        self._lock = threading.Lock()
        self._client = None
        self._pid = None
        self._configured_fsid = None

    @property
    def fsid(self):
        """The cluster's fsid, or None where it cannot be told.

        It is taken from the conf file, without talking to the cluster; a conf
        file that does not name it makes a connection necessary.
        """
        try:
            if self._configured_fsid is None:
                self._configured_fsid = self._make_client().conf_get('fsid')
            if self._configured_fsid not in (None, '', _NO_FSID):
                return self._configured_fsid
            return self.client().get_fsid()
        except errors.ClusterError as exc:
            LOG.warning('The fsid of a cluster is not known: %s', exc)
            return None

    @contextlib.contextmanager
    def open_pool(self, pool):
        """Open a pool for I/O.

        :param pool: name of the pool
        :returns: context manager that gives a rados.Ioctx
        :raises Misconfigured: if the cluster has no such pool, or for the
                               reasons of :meth:`client`
        :raises Unreachable: if the cluster does not answer
        """
        client = self.client()
        try:
            ioctx = client.open_ioctx(pool)
        except rados.ObjectNotFound:
            raise errors.Misconfigured(
                self.store, 'the cluster has no pool %r' % pool,
                'correct rbd_store_pool in [%s] or create the pool'
                % self.store)
        except rados.Error as exc:
            raise self._explain(exc, client)
        # On a full cluster requests fail at once instead of waiting for
        # somebody to make room.
        ioctx.set_osdmap_full_try()
        try:
            yield ioctx
        except Exception as exc:
            if getattr(exc, 'errno', None) == errno.ESHUTDOWN:
                self._drop(client)
            raise
        finally:
            ioctx.close()

    def client(self):
        """Return the connected rados.Rados of this process.

        :raises Misconfigured: if conf file, keyring or user do not fit, or
                               the cluster has another fsid than the conf file
        :raises Unreachable: if the cluster does not answer
        """
        with self._lock:
            if self._client is not None and self._pid != os.getpid():
                _abandoned.append(self._client)
                self._client = None
            if self._client is None:
                self._client = self._connect()
                self._pid = os.getpid()
            return self._client

    def _drop(self, client):
        """Forget a client that the cluster has cut off (blocklisted).

        librados does not come back from that by itself; the next use makes a
        new connection.
        """
        with self._lock:
            if self._client is client:
                LOG.warning('Store %s was cut off by its cluster: making a '
                            'new connection', self.store)
                self._client = None
                _abandoned.append(client)

    def _make_client(self):
        """Return a rados.Rados that has read the conf file, no more."""
        try:
            return rados.Rados(conffile=self.conf_file, rados_id=self.user)
        except (rados.Error, OSError) as exc:
            if self.conf_file and not os.access(self.conf_file, os.R_OK):
                reason = 'the conf file %s cannot be read (%s)' % (
                    self.conf_file, _why_unreadable(self.conf_file))
            else:
                reason = 'the conf file %s is not usable (%s)' % (
                    self._conf_name, exc)
            raise errors.Misconfigured(
                self.store, reason,
                'correct rbd_store_ceph_conf in [%s], or the file'
                % self.store)

    def _connect(self):
        client = self._make_client()
        # Connecting replaces it by the cluster's own.
        configured_fsid = client.conf_get('fsid')
        timeout = str(self._connect_timeout)
        client.conf_set('client_mount_timeout', timeout)
        client.conf_set('rados_mon_op_timeout', timeout)
        # Each byte of an image is written once and read ahead by its reader:
        # a cache and a copy of the buffers would only cost memory and time.
        client.conf_set('rbd_cache', 'false')
        client.conf_set('rbd_disable_zero_copy_writes', 'false')
        if self._io_timeout > 0:
            client.conf_set('rados_osd_op_timeout', str(self._io_timeout))
        try:
            client.connect()
        except (rados.Error, OSError) as exc:
            error = self._explain(exc, client)
            client.shutdown()
            raise error
        self._check_fsid(client, configured_fsid)
        LOG.info('Store %(store)s is connected to cluster %(fsid)s as '
                 'client.%(user)s', {'store': self.store,
                                     'fsid': client.get_fsid(),
                                     'user': client.rados_id})
        return client

    def _check_fsid(self, client, configured):
        actual = client.get_fsid()
        if configured not in (None, '', _NO_FSID, actual):
            client.shutdown()
            raise errors.Misconfigured(
                self.store, 'the cluster that answers has fsid %s, but %s '
                'says %s' % (actual, self.conf_file, configured),
                'rbd_store_ceph_conf in [%s] must name a conf file with the '
                'fsid and mon_host of one cluster' % self.store)

    def _explain(self, exc, client):
        """Return the ClusterError for what librados raised on connecting."""
        code = abs(getattr(exc, 'errno', None) or 0)
        if code not in (errno.EPERM, errno.EACCES, errno.ENOENT,
                        errno.EINVAL):
            return errors.Unreachable(
                self.store, 'the monitors %s do not answer (%s)' % (
                    client.conf_get('mon_host'), exc),
                'see that the site is up and its monitors can be reached, '
                'and mon_host in %s' % self._conf_name)
        user = 'client.%s' % client.rados_id
        keyrings = [path.strip() for path in
                    (client.conf_get('keyring') or '').split(',')]
        if all(_why_unreadable(path) for path in keyrings):
            reason = 'no keyring of %s can be read (%s)' % (
                user, '; '.join('%s: %s' % (path, _why_unreadable(path))
                                for path in keyrings))
        elif code in (errno.EPERM, errno.EACCES):
            reason = 'the cluster refuses %s (%s)' % (user, exc)
        else:
            reason = 'cannot connect as %s (%s)' % (user, exc)
        return errors.Misconfigured(
            self.store, reason,
            'see rbd_store_user in [%s] and, in rbd_store_ceph_conf (%s), '
            'the keyring of that user and mon_host'
            % (self.store, self._conf_name))

    @property
    def _conf_name(self):
        return self.conf_file or 'ceph.conf'


def _why_unreadable(path):
    """Return why a file cannot be read, as text, or None if it can."""
    try:
        with open(path.strip(), 'rb') as f:
            f.read(1)
    except OSError as exc:
        return exc.strerror
    return None
