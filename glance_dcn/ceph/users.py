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


"""What an operator asks of a cluster: who it is, and a key for Glance.

Each call connects with the files it is given, and leaves again.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import json
import typing

import rados

from glance_dcn.ceph import errors

# Seconds to wait for the monitors.
_TIMEOUT = 15


def describe(name: str, conf: str, user: str,
             keyring: str | None = None) -> dict[str, typing.Any]:
    """Return what clients of a cluster need to know of it.

    :param name: what the cluster is called in messages
    :param keyring: path; None: as the conf file says
    :returns: fsid, mons (list of texts) and pools (list of names)
    :raises glance_dcn.ceph.errors.ClusterError: if it does not answer
    """
    with _connected(name, conf, user, keyring) as client:
        monmap = json.loads(_command(client, name, {
            'prefix': 'mon dump', 'format': 'json'}))
        return {'fsid': client.get_fsid(),
                'mons': [_address(mon) for mon in monmap['mons']],
                'pools': client.list_pools()}


def _address(mon: Mapping[str, typing.Any]) -> str:
    """Return how a monitor stands in mon_host."""
    vector = mon.get('public_addrs', {}).get('addrvec') or []
    if not vector:
        return str(mon['public_addr'].partition('/')[0])
    return '[%s]' % ','.join('%s:%s' % (entry['type'], entry['addr'])
                             for entry in vector)


def make_key(name: str, conf: str, admin: str, keyring: str | None,
             fsid: str | None, user: str, caps: Mapping[str, str],
             replace: bool) -> tuple[str, dict[str, str] | None]:
    """Return the key of a user that has some capabilities.

    The user is made if it is not there. One that is keeps its key.

    :param name: what the cluster is called in messages
    :param admin: cephx user, without ``client.``, that may make others
    :param keyring: path of the admin's keyring; None: as the conf file says
    :param fsid: that the cluster must have; None: any
    :param user: whose key it is, without ``client.``
    :param caps: capabilities by kind of daemon
    :param replace: whether a user that has others may be given these
    :returns: (key, what the user's capabilities were before; None: it is new)
    :raises glance_dcn.ceph.errors.ClusterError: if that cannot be had
    """
    entity = 'client.%s' % user
    flat = [part for item in sorted(caps.items()) for part in item]
    with _connected(name, conf, admin, keyring) as client:
        actual = client.get_fsid()
        if fsid not in (None, actual):
            raise errors.Misconfigured(
                name, 'the cluster of %s has fsid %s, but the sites file '
                'says %s' % (conf, actual, fsid),
                'give the conf file of the right cluster')
        try:
            before = _auth(client, name, 'auth get', entity)
        except _NoSuchUser:
            return _auth(client, name, 'auth get-or-create', entity,
                         caps=flat)['key'], None
        if before['caps'] != caps:
            if user == admin or any('*' in part.split()
                                    for part in before['caps'].values()):
                # There may be no other administrator to give them back.
                raise errors.Misconfigured(
                    name, '%s administers the cluster; its capabilities are '
                    'not replaced' % entity, 'name another user for Glance')
            if not replace:
                raise errors.Misconfigured(
                    name, '%s is there already, with the capabilities %s'
                    % (entity, ', '.join('%s %r' % item for item in sorted(
                        before['caps'].items()))),
                    'name another user, or replace them with --replace-caps '
                    'if nobody else needs them')
            _command(client, name, {'prefix': 'auth caps', 'entity': entity,
                                    'caps': flat})
        return before['key'], before['caps']


def _auth(client: rados.Rados, name: str, prefix: str, entity: str,
          **more: object) -> dict[str, typing.Any]:
    """Return key and capabilities of a user, as a command tells them."""
    return dict(json.loads(_command(client, name, dict(
        more, prefix=prefix, entity=entity, format='json')))[0])


class _NoSuchUser(errors.ClusterError):
    """The monitors do not know it."""


@contextlib.contextmanager
def _connected(name: str, conf: str, user: str,
               keyring: str | None) -> Iterator[rados.Rados]:
    options = {'client_mount_timeout': str(_TIMEOUT),
               'rados_mon_op_timeout': str(_TIMEOUT)}
    if keyring:
        options['keyring'] = keyring
    try:
        client = rados.Rados(conffile=conf, rados_id=user, conf=options)
    except (rados.Error, OSError) as exc:
        raise errors.Misconfigured(
            name, 'the conf file %s is not usable (%s)' % (conf, exc),
            'see that it is there, and can be read')
    try:
        try:
            client.connect()
        except (rados.Error, OSError) as exc:
            raise _explain(exc, name, conf, user, client)
        yield client
    finally:
        client.shutdown()


def _explain(exc: Exception, name: str, conf: str, user: str,
             client: rados.Rados) -> errors.ClusterError:
    if errors.code(exc) in (*errors.DENIED, errno.ENOENT, errno.EINVAL):
        return errors.Misconfigured(
            name, 'cannot connect as client.%s (%s)' % (user, exc),
            'see that its key is in %s' % client.conf_get('keyring'))
    return errors.Unreachable(
        name, 'the monitors %s do not answer (%s)' % (
            client.conf_get('mon_host'), exc),
        'see that they can be reached from here, and mon_host in %s' % conf)


def _command(client: rados.Rados, name: str,
             request: dict[str, typing.Any]) -> str:
    """Return the output of a monitor command.

    Neither it nor what it was given is in an error: it may be a key.
    """
    try:
        code, data, status = client.mon_command(
            json.dumps(request), b'', timeout=_TIMEOUT)
    except rados.Error as exc:
        raise errors.Unreachable(name, '"%s" failed (%s)'
                                 % (request['prefix'], exc), 'try again')
    if not code:
        return data.decode()
    if code == -errno.ENOENT:
        raise _NoSuchUser(name, 'there is no %s' % request.get('entity'),
                          'see "ceph auth ls" there')
    raise errors.Misconfigured(
        name, 'the monitors refuse "%s" (%s)' % (
            request['prefix'],
            status or errno.errorcode.get(-code, str(code))),
        'the user that asks needs the capability mon "allow *"')
