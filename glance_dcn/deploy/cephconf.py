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

from __future__ import annotations

import re

from glance_dcn.deploy import model
from glance_dcn.deploy import sitesfile

_SECTION = re.compile(r'\[\s*([^\]]+?)\s*\]\s*(?:[#;].*)?')
_COMMENT = re.compile(r'(^|(?<=\s))[#;].*')

# Of [global] and [client], options that are for one machine or written by us.
_NOT_TAKEN = (
    'fsid', 'mon_host', 'keyring', 'key', 'keyfile', 'log_file',
    'log_to_file', 'admin_socket', 'run_dir', 'cluster',
    'mon_initial_members', 'public_network', 'cluster_network',
    'public_addr', 'mon_cluster_log_file')
_VALUE = re.compile(r'[^\x00-\x1f\x7f]*')
_MON_HOST = re.compile(r'[A-Za-z0-9_.:\[\],/ -]+', re.ASCII)
_FSID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


def read(path: str) -> dict[str, dict[str, str]]:
    """Return the sections of a conf file: options by name, in their order.

    Names are written with underscores, whatever the file has.

    :raises sitesfile.Mistake: if it is no conf file
    """
    return parse(path, sitesfile.read(path))


def parse(path: str, text: str) -> dict[str, dict[str, str]]:
    """Return the sections of the text of a conf file, as :func:`read` does."""
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    held = ''
    for number, line in enumerate(text.split('\n'), 1):
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
            value = value.strip()
            quoted = (len(value) > 1 and value[0] == value[-1]
                      and value[0] in '"\'')
            current[option_name(name)] = value[1:-1] if quoted else value
    return sections


def option_name(text: str) -> str:
    """Return the name of an option as Ceph compares it."""
    return re.sub(r'[\s-]+', '_', text.strip())


def settings(sections: dict[str, dict[str, str]]
             ) -> tuple[tuple[str, str], ...]:
    """Return the options for all clients of a conf file: (name, value)s."""
    found = {**sections.get('global', {}), **sections.get('client', {})}
    return tuple((name, value) for name, value in found.items()
                 if name not in _NOT_TAKEN and _VALUE.fullmatch(value)
                 and re.fullmatch(r'[a-z0-9_]+', name))


def fsid_of(text: str) -> str | None:
    """Return an fsid in lower case, or None if it is none."""
    text = text.lower()
    return text if _FSID.fullmatch(text) and text.strip('0-') else None


def of_other_cluster(before: dict[str, dict[str, str]],
                     after: dict[str, dict[str, str]]) -> bool:
    """Return whether the sections of two conf files name two clusters.

    One that names no fsid is of the cluster whose monitors it names.
    """
    old, new = before.get('global', {}), after.get('global', {})
    if 'fsid' in old and 'fsid' in new:
        return old['fsid'].lower() != new['fsid'].lower()
    return ('mon_host' in old and 'mon_host' in new
            and old['mon_host'] != new['mon_host'])


def is_mon_host(text: str) -> bool:
    """Return whether a text can be the value of mon_host."""
    return bool(_MON_HOST.fullmatch(text))


def conf(cluster: model.Cluster, keyring: str) -> str:
    """Return the text of a conf file for the clients of a cluster.

    :param keyring: path of the user's keyring on the node
    """
    return '\n'.join([
        '[global]', 'fsid = %s' % cluster.fsid,
        'mon_host = %s' % cluster.mon_host,
        *('%s = %s' % setting for setting in cluster.settings), '',
        '[client.%s]' % cluster.user, 'keyring = %s' % keyring, ''])


def merge(path: str, text: str) -> str:
    """Return the text of a conf file with the options of another one in it.

    Its other options, sections and comments stay as they are.

    :param text: as :func:`conf` makes it
    :raises sitesfile.Mistake: if it is no conf file
    """
    read(path)
    wanted = _Sections(text)
    result = _Sections(sitesfile.read(path))
    for section, options in wanted.options.items():
        for name, line in options.items():
            result.set(section, name, line)
    return result.text()


class _Sections:
    """Lines of a conf file by section, to be changed one by one."""

    def __init__(self, text: str) -> None:
        # (name of the section or None, list of (option or None, line)).
        self._parts: list[tuple[str | None, list[tuple[str | None, str]]]] = [
            (None, [])]
        self.options: dict[str, dict[str, str]] = {}
        held = None
        for line in text.rstrip('\n').split('\n'):
            plain = _COMMENT.sub('', line).strip()
            section = _SECTION.fullmatch(plain)
            if held is not None:
                # A line that is continued, and the next one, are one.
                name, line = held[0], '%s\n%s' % (held[1], line)
                self._parts[-1][1].pop()
            elif section:
                self._parts.append((section.group(1), []))
                name = None
            else:
                name, equals, _value = plain.partition('=')
                name = option_name(name) if equals else None
            self._parts[-1][1].append((name, line))
            held = (name, line) if plain.endswith('\\') else None
            if name and self._parts[-1][0]:
                self.options.setdefault(self._parts[-1][0], {})[name] = line

    def set(self, section: str, name: str, line: str | None) -> None:
        """Let a section have an option once, as a line says it."""
        parts = [lines for title, lines in self._parts if title == section]
        if not parts:
            if self._parts[-1][1] and self._parts[-1][1][-1][1].strip():
                self._parts[-1][1].append((None, ''))
            parts = [[(None, '[%s]' % section)]]
            self._parts.append((section, parts[0]))
        for lines in parts:
            for number in reversed(range(len(lines))):
                if lines[number][0] != name:
                    continue
                if line is None:
                    del lines[number]
                else:
                    lines[number] = (name, line)
                    # The first ones of a name do not count.
                    line = None
        if line is not None:
            end = len(parts[-1])
            while end > 1 and not parts[-1][end - 1][1].strip():
                end -= 1
            parts[-1].insert(end, (name, line))

    def text(self) -> str:
        """Return the text of the conf file."""
        return '\n'.join([line for _title, lines in self._parts
                          for _name, line in lines] + [''])


def keyring(user: str, key: str) -> str:
    """Return the text of the keyring of a user, given without ``client.``."""
    return '[client.%s]\n\tkey = %s\n' % (user, key)


# Of an image pool, the images alone: a capability without a namespace is for
# all of them, that of the records included.
_IMAGES = "pool=%s namespace=''"


def caps(pools: list[str],
         access: model.Access = model.Access.OWNER) -> dict[str, str]:
    """Return the capabilities that Glance needs, by kind of daemon.

    ``profile rbd`` is for images, and for plain objects and locks in the
    same pool as well. ``profile rbd-read-only`` is not used, as it lets a
    user blocklist other clients (mon), and add and remove the entries by
    which an image knows its clones (osd).
    """
    if access is model.Access.READ_ONLY:
        return {'mon': 'profile simple-rados-client',
                'osd': _joined('allow r class-read ' + _IMAGES, pools)}
    if access is model.Access.READ_WRITE:
        return {'mon': 'profile rbd',
                'osd': _joined('profile rbd ' + _IMAGES, pools)}
    return {'mgr': 'profile rbd', 'mon': 'profile rbd',
            'osd': _joined('profile rbd pool=%s', pools)}


def as_arguments(found: dict[str, str]) -> str:
    """Return capabilities as ``ceph auth caps`` takes them in a shell."""
    return ' '.join("%s %s" % (daemon, '"%s"' % cap if "'" in cap
                               else "'%s'" % cap)
                    for daemon, cap in sorted(found.items()))


def _joined(form: str, pools: list[str]) -> str:
    return ', '.join(form % pool for pool in pools)
