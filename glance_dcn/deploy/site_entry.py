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


"""Adding sites to a sites file, whose other bytes stay as they are.

Also read here: what ``openstack overcloud export ceph`` has written.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import typing

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import model
from glance_dcn.deploy import sitesfile


def prepare(path: sitesfile.Path,
            entries: list[dict[str, typing.Any]]) -> tuple[str, int]:
    """Return a sites file with more sites; nothing is written.

    :param path: of the sites file, which need not be there
    :returns: its text, and the mode it has or is to have
    :raises sitesfile.Mistake: if it would not be right any more
    """
    new = files.yaml_text(entries)
    # What a link points to is replaced, not the link.
    target = os.path.realpath(path)
    whole, mode = 'sites:\n' + new, 0o640
    if os.path.lexists(target):
        whole = _with(path, sitesfile.read(target), new)
        mode = stat.S_IMODE(os.stat(target).st_mode)
    load.build(os.fspath(path), sitesfile.parse(path, whole))
    return whole, mode


def write(path: sitesfile.Path, text: str, mode: int) -> None:
    """Replace a sites file; the group it belongs to stays.

    :raises glance_dcn.deploy.files.Error: if it cannot be written
    """
    target = os.path.realpath(path)
    try:
        group = os.stat(target).st_gid if os.path.exists(target) else None
        files.replace(target, text.encode(), mode, group)
    except OSError as exc:
        raise files.Error('%s cannot be written: %s' % (path, exc.strerror))


def _with(path: sitesfile.Path, before: str, new: str) -> str:
    """Return the text of a sites file with entries after its last site."""
    sites = sitesfile.parse(path, before).items.get('sites')
    if not isinstance(sites, sitesfile.Sequence) or sites.flow:
        raise sitesfile.Mistake(
            path, sites.line if sites else 1, 'sites are not listed line by '
            'line here: nothing can be added; see what is printed without '
            '--add')
    lines = before.splitlines(keepends=True)
    first = lines[sites.items[0].line - 1]
    indent = first[:len(first) - len(first.lstrip(' '))]
    if not first.lstrip(' ').startswith('-'):
        raise sitesfile.Mistake(path, sites.line, 'the first site does not '
                                'begin in the line of its dash: nothing can '
                                'be added')
    # The next key begins there; blank lines and comments before it belong
    # to it.
    end = min(sites.end - 1, len(lines))
    while end and (not lines[end - 1].strip()
                   or lines[end - 1].startswith('#')):
        end -= 1
    if not lines[end - 1].endswith('\n'):
        lines[end - 1] += '\n'
    lines[end:end] = [indent + line
                      for line in new.splitlines(keepends=True)]
    return ''.join(lines)


@dataclasses.dataclass(frozen=True)
class Found:
    """A cluster, as an export describes it.

    :ivar user: without ``client.``
    :ivar pools: names of the pools that its capabilities are for
    """

    name: str
    fsid: str
    mons: list[str]
    user: str
    key: str = dataclasses.field(repr=False)
    pools: tuple[str, ...] = ()


_Node = typing.TypeVar('_Node', sitesfile.Scalar, sitesfile.Sequence,
                       sitesfile.Mapping)
# In a capability of OSDs.
_POOL = re.compile(r'\bpool[= ]\s*"?([A-Za-z0-9_][A-Za-z0-9_.-]*)')


def read_export(path: str) -> list[Found]:
    """Return the clusters of an export.

    :raises sitesfile.Mistake: if it is none
    """
    parameters = _get(path, sitesfile.load(path), 'parameter_defaults',
                      sitesfile.Mapping)
    clusters = _get(path, parameters, 'CephExternalMultiConfig',
                    sitesfile.Sequence)
    return [_cluster(path, node) for node in clusters.items]


def _get(path: str, node: sitesfile.Node, key: str,
         kind: type[_Node]) -> _Node:
    found = node.items.get(key) if isinstance(
        node, sitesfile.Mapping) else None
    if not isinstance(found, kind):
        raise sitesfile.Mistake(
            path, node.line, 'there is no %s here that is %s; this is not '
            'what "openstack overcloud export ceph" writes'
            % (key, kind.kind))
    return found


def _text(path: str, node: sitesfile.Node, key: str) -> str:
    return sitesfile.text_of(path, _get(path, node, key, sitesfile.Scalar),
                             key)


def _cluster(path: str, node: sitesfile.Node) -> Found:
    fsid = cephconf.fsid_of(_text(path, node, 'fsid'))
    mons = _text(path, node, 'external_cluster_mon_ips')
    if fsid is None or not cephconf.is_mon_host(mons):
        raise sitesfile.Mistake(path, node.line, 'fsid or '
                                'external_cluster_mon_ips is none')
    keys = _get(path, node, 'keys', sitesfile.Sequence)
    if len(keys.items) != 1:
        raise sitesfile.Mistake(path, keys.line, 'one key is expected, but '
                                'there are %d' % len(keys.items))
    entity = _text(path, keys.items[0], 'name')
    key = _text(path, keys.items[0], 'key')
    if not entity.startswith('client.') or not model.is_key(key):
        raise sitesfile.Mistake(path, keys.line, 'this is not the key of a '
                                'client')
    return Found(_text(path, node, 'cluster'), fsid, split_mon_host(mons),
                 entity[len('client.'):], key, _pools(path, keys.items[0]))


def _pools(path: str, node: sitesfile.Node) -> tuple[str, ...]:
    """Return the pools of a key's capabilities, in their order."""
    if not isinstance(node, sitesfile.Mapping) or 'caps' not in node.items:
        return ()
    caps = _get(path, node, 'caps', sitesfile.Mapping)
    if 'osd' not in caps.items:
        return ()
    return tuple(dict.fromkeys(_POOL.findall(_text(path, caps, 'osd'))))


def split_mon_host(mon_host: str) -> list[str]:
    """Return the addresses of mon_host one by one.

    The commas between those of one monitor, in brackets, do not count.
    """
    found, depth = [''], 0
    for letter in mon_host:
        depth += {'[': 1, ']': -1}.get(letter, 0)
        if letter == ',' and not depth:
            found.append('')
        else:
            found[-1] += letter
    return [text.strip() for text in found if text.strip()]
