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


"""Reading and writing Ceph's conf files and keyrings."""

import re

from glance_dcn.deploy import model
from glance_dcn.deploy import sitesfile

_SECTION = re.compile(r'\[\s*([^\]]+?)\s*\]\s*(?:[#;].*)?')
_COMMENT = re.compile(r'(^|(?<=\s))[#;].*')

# Of [global] and [client], what is for one machine or said anew.
_NOT_TAKEN = (
    'fsid', 'mon_host', 'keyring', 'key', 'keyfile', 'log_file',
    'log_to_file', 'admin_socket', 'run_dir', 'cluster',
    'mon_initial_members', 'public_network', 'cluster_network',
    'public_addr', 'mon_cluster_log_file')
_VALUE = re.compile(r'[^\x00-\x1f\x7f]*')
_MON_HOST = re.compile(r'[A-Za-z0-9_.:\[\],/ -]+', re.ASCII)
_FSID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


def read(path):
    """Return the sections of a conf file: options by name, in their order.

    Names are written with underscores, whatever the file has.

    :raises sitesfile.Mistake: if it is no conf file
    """
    sections, current, held = {}, None, ''
    for number, line in enumerate(sitesfile.read(path).split('\n'), 1):
        line = held + _COMMENT.sub('', line).strip()
        held = ''
        if line.endswith('\\'):
            held = line[:-1]
            continue
        section = _SECTION.fullmatch(line)
        if section:
            current = sections.setdefault(section.group(1), {})
        elif line:
            name, equals, value = line.partition('=')
            if not equals or current is None:
                raise sitesfile.Mistake(
                    path, number, 'this is no line of a Ceph conf file: '
                    'neither a [section] nor an option in one')
            name = re.sub(r'[\s-]+', '_', name.strip())
            current[name] = _unquoted(value.strip())
    return sections


def _unquoted(value):
    if len(value) > 1 and value[0] == value[-1] and value[0] in '"\'':
        return value[1:-1]
    return value


def settings(sections):
    """Return what of a conf file is for all its clients: (name, value)s."""
    found = dict(sections.get('global', {}))
    found.update(sections.get('client', {}))
    return tuple((name, value) for name, value in found.items()
                 if name not in _NOT_TAKEN and _VALUE.fullmatch(value)
                 and re.fullmatch(r'[a-z0-9_]+', name))


def fsid_of(text):
    """Return an fsid in lower case, or None if it is none."""
    text = text.lower()
    return text if (_FSID.fullmatch(text)
                    and text.strip('0-')) else None


def is_mon_host(text):
    """Return whether a text can be the value of mon_host."""
    return bool(_MON_HOST.fullmatch(text))


def conf(cluster, keyring):
    """Return the text of a conf file for the clients of a cluster.

    :param cluster: :class:`glance_dcn.deploy.model.Cluster`
    :param keyring: path of the user's keyring on the node
    """
    lines = ['[global]', 'fsid = %s' % cluster.fsid,
             'mon_host = %s' % cluster.mon_host]
    lines += ['%s = %s' % setting for setting in cluster.settings]
    lines += ['', '[client.%s]' % cluster.user, 'keyring = %s' % keyring, '']
    return '\n'.join(lines)


def keyring(user, key):
    """Return the text of a keyring.

    :param user: without ``client.``
    """
    return '[client.%s]\n\tkey = %s\n' % (user, key)


# Of an image pool, the images alone: a capability without a namespace is for
# all of them, that of the records included.
_IMAGES = "pool=%s namespace=''"


def caps(pools, access=model.Access.OWNER):
    """Return the capabilities that Glance needs, by kind of daemon.

    ``profile rbd`` is for images, and for plain objects and locks in the
    same pool as well. ``profile rbd-read-only`` is not used, as it lets a
    user blocklist other clients (mon), and add and remove the entries by
    which an image knows its clones (osd).

    :param pools: names of the pools
    :param access: :class:`glance_dcn.deploy.model.Access`
    """
    if access is model.Access.READ_ONLY:
        return {'mon': 'profile simple-rados-client',
                'osd': _joined('allow r class-read ' + _IMAGES, pools)}
    if access is model.Access.READ_WRITE:
        return {'mon': 'profile rbd',
                'osd': _joined('profile rbd ' + _IMAGES, pools)}
    return {'mgr': 'profile rbd', 'mon': 'profile rbd',
            'osd': _joined('profile rbd pool=%s', pools)}


def as_arguments(found):
    """Return capabilities as ``ceph auth caps`` takes them in a shell."""
    return ' '.join("%s %s" % (daemon, '"%s"' % cap if "'" in cap
                               else "'%s'" % cap)
                    for daemon, cap in sorted(found.items()))


def _joined(form, pools):
    return ', '.join(form % pool for pool in pools)
