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


"""Files that are rendered: their texts, and writing them."""

from __future__ import annotations

import dataclasses
import enum
import grp
import os
import re
import stat
import tempfile
import typing

import yaml

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import sitesfile

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Mapping
    from collections.abc import Sequence

#: Values by section and option.
Sections = dict[str, dict[str, str]]
#: First line of every file that is written.
MARK = '# Written by glance-dcn out of the sites file: change it there.'
#: Modes of files: readable by all, with a secret in it, a secret.
OPEN, INNER, SECRET = 0o644, 0o640, 0o600

#: Ending of the name of the copy of a file that is written over.
BACKUP = '.bak'
#: Likewise, where the first name has a copy of a file of the deployer's.
NEXT_BACKUP = '.bak.1'

# Sections that are rendered beside those of stores and of the sites file.
_RENDERED = frozenset((
    'DEFAULT', 'glance_dcn', 'glance_store', 'image_conversion',
    'image_import_opts', 'os_glance_staging_store', 'os_glance_tasks_store',
    'paste_deploy'))
# Options that every section of a store has.
_STORE_OPTION = re.compile(r'^rbd_store_\w+[ \t]*[=:]', re.MULTILINE)
# The name of any option, and that of a variable of ansible.
_OPTION = re.compile(r'^([A-Za-z0-9_]\S*?)[ \t]*[=:]', re.MULTILINE)
_VARIABLE = re.compile(r'^["\']?([A-Za-z_]\w*)["\']?[ \t]*:',
                       re.MULTILINE)
_ACL = 'system.posix_acl_access'
_SECTION = re.compile(r'^[ \t]*\[([^\]\n]+)\]', re.MULTILINE)


class Kind(enum.Enum):
    """Contents of a file."""

    CONF = 'sections of options'
    SHARED = 'those of a file that a deployer may have, too'
    SITE = 'those of a file of sites_dir'
    CEPH = 'options or keys of a cluster, in which others may have a part'
    VARIABLES = 'variables of ansible, which reads others of the folder too'
    TEXT = 'anything else'


class State(str, enum.Enum):
    """How a file was before it is written, as it is shown."""

    NEW = 'new'
    CHANGED = 'changed'
    SAME = 'unchanged'

    __str__ = str.__str__


NEW, CHANGED, SAME = State


class Error(Exception):
    """Files cannot be written; its text says why."""


@dataclasses.dataclass(frozen=True)
class File:
    """A rendered file.

    :ivar path: relative to the folder it is written to
    :ivar secrets: texts in it that are never shown
    :ivar shared: of Kind.VARIABLES, those that no other file may have, and
        the names under which they are taken into this one
    """

    path: str
    text: str = dataclasses.field(repr=False)
    mode: int = OPEN
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    kind: Kind = Kind.CONF
    shared: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rendering:
    """Files for a node, a stack, or an overlay.

    :ivar node: name of the node where a site has several, or ''
    """

    site: str
    node: str
    files: list[File]
    notes: tuple[str, ...] = ()


def gid(name: str) -> int:
    """Return the number of a group.

    :raises Error: if there is none of that name
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Error('there is no group %r' % name)


class Written(typing.NamedTuple):
    """A file that was written, or would be.

    :ivar mode: permission bits it has then
    :ivar withheld: whether Glance may lack the right to read it, as others
        have a part in it and it keeps its owner, its group and its mode
    """

    file: File
    state: State
    mode: int
    withheld: bool


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Contents, owner and rights that a file gets.

    :ivar uid: number of its owner; None: the writer
    :ivar gid: number of its group; None: the writer's
    :ivar acl: access control list in the form of the kernel, if any
    """

    path: str
    file: File
    data: bytes = dataclasses.field(repr=False)
    mode: int
    uid: int | None = None
    gid: int | None = None
    acl: bytes | None = None
    withheld: bool = False


def write(folder: str, files: Sequence[File], group: int | None = None,
          dry_run: bool = False) -> list[Written]:
    """Write files into a folder, each of them at once or not at all.

    What others have written into conf files and keyrings of clusters stays
    there, and such a file keeps its owner. One that they have a part in gets
    no permission bit that it has not, and keeps its group. Of a file whose
    text changes, the one before is kept beside it (BACKUP, NEXT_BACKUP).

    :param folder: path; it is made if it is not there
    :param group: number of the group that gets files others may not read,
                  or None: then secrets are for their owner alone
    :param dry_run: write nothing, and return what would be written
    :raises Error: if a section that others have written would be lost, or
        point to another cluster, or a file cannot be read: nothing is written
        then; or if one cannot be written: those before it are written
    """
    plans = [_plan(os.path.join(folder, file.path), file, group)
             for file in files]
    found = []
    for plan in plans:
        try:
            found.append(Written(plan.file, _write(plan, dry_run), plan.mode,
                                 plan.withheld))
        except OSError as exc:
            raise Error('%s cannot be written: %s' % (
                exc.filename or plan.path, exc.strerror))
    return found


def _plan(path: str, file: File, group: int | None) -> _Plan:
    """Return the plan of a file, or raise Error; nothing is written."""
    text, mode = _merged(path, file), mode_of(file, group)
    if file.mode == OPEN:
        group = None
    plan = _Plan(path, file, text.encode(), mode, gid=group)
    if file.kind is not Kind.CEPH:
        return plan
    try:
        found = os.stat(path)
    except OSError:
        return plan
    if not stat.S_ISREG(found.st_mode):
        return plan
    # Its group may have been given the right to read it.
    kept, acl = found.st_mode & (mode | stat.S_IRGRP), _acl(path)
    plan = dataclasses.replace(plan, uid=found.st_uid)
    if text != file.text:
        return dataclasses.replace(
            plan, mode=kept, gid=found.st_gid, acl=acl, withheld=not acl and (
                bool(mode & ~kept) or group not in (None, found.st_gid)))
    # All of it is ours.
    if group is None:
        plan = dataclasses.replace(plan, gid=found.st_gid, acl=acl)
    return dataclasses.replace(plan, mode=mode | kept)


def _acl(path: str) -> bytes | None:
    try:
        return os.getxattr(path, _ACL)
    except OSError:
        return None


def _merged(path: str, file: File) -> str:
    """Return the text that a file gets, with what others have in it.

    :raises Error: if that cannot be told, or would be lost
    """
    if file.kind is Kind.VARIABLES:
        _check_variables(path, file)
        return file.text
    if file.kind is Kind.TEXT or not os.path.isfile(path):
        return file.text
    try:
        if file.kind is Kind.CEPH:
            return _merged_ceph(path, file)
        before = sitesfile.read(path)
    except sitesfile.Mistake as exc:
        raise Error('%s is not written over: %s; move it away, or mend it'
                    % (path, exc))
    lost = _sections(before).keys() - _sections(file.text).keys()
    if before.startswith(MARK):
        # Of what was rendered, the sections of sites that are gone may go.
        lost = {name for name in lost - _RENDERED
                if not _STORE_OPTION.search(_sections(before)[name])}
    elif not lost and file.kind is Kind.SHARED:
        _check_options(path, _sections(before), _sections(file.text))
    if lost:
        raise Error('%s is not written over: it has %s, which is not '
                    'rendered and would be lost; move the file away, or that '
                    'into a file of its own' % (path, _listed(lost)))
    return file.text


def _sections(text: str) -> dict[str, str]:
    """Return what follows the names of sections, by name."""
    parts = _SECTION.split(text)[1:]
    found: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2]):
        found[name] = found.get(name, '') + body
    return found


def _check_options(path: str, before: dict[str, str],
                   after: dict[str, str]) -> None:
    """Raise Error if an option that others have written would be lost."""
    lost = ['[%s] %s' % (name, option) for name, body in sorted(before.items())
            for option in dict.fromkeys(_OPTION.findall(body))
            if option not in _OPTION.findall(after[name])]
    if lost:
        raise Error('%s is not written over: it has %s, which is not '
                    'rendered and would be lost; write it under "glance:" of '
                    'the sites file, and move the file away'
                    % (path, ', '.join(lost)))


def _check_variables(path: str, file: File) -> None:
    """Raise Error if other files of variables and this one do not agree."""
    try:
        others = other_variables(path, file)
    except sitesfile.Mistake as exc:
        raise Error('%s is not written: %s' % (path, exc)) from None
    for other, names in others.items():
        for name in file.shared.keys() & names:
            raise Error('%s is not written: it would replace %s of %s; call '
                        'that %s, which is taken into it'
                        % (path, name, other, file.shared[name]))
        if os.path.dirname(other) == os.path.dirname(path) and other > path:
            raise Error('%s is not written: %s, which is read after it, has '
                        '%s; take that out there'
                        % (path, other, ', '.join(sorted(names))))


def other_variables(path: str, file: File) -> dict[str, set[str]]:
    """Return which variables of a file other files have, too.

    :param path: of the file of Kind.VARIABLES; those beside it are read, and
        kolla-ansible's globals.yml
    :returns: names of variables by path
    :raises sitesfile.Mistake: if one of them cannot be read
    """
    folder, own = os.path.split(path)
    # openstack-ansible has other files there as well.
    start = 'user_' if own.startswith('user_') else ''
    try:
        found = [os.path.join(folder, name)
                 for name in sorted(os.listdir(folder))
                 if name.startswith(start) and name.endswith('.yml')
                 and name != own]
    except OSError:
        found = []
    above = os.path.join(os.path.dirname(folder), 'globals.yml')
    if not start and os.path.exists(above):
        found.insert(0, above)
    ours = set(_VARIABLE.findall(file.text))
    names = {other: ours & set(_VARIABLE.findall(sitesfile.read(other)))
             for other in found}
    return {other: common for other, common in names.items() if common}


def _merged_ceph(path: str, file: File) -> str:
    before = cephconf.read(path)
    wanted = cephconf.parse(path, file.text)
    # What was rendered for it has the sections that are rendered now.
    strange = before.keys() ^ wanted.keys()
    if strange and cephconf.of_other_cluster(before, wanted):
        others = before.keys() - wanted.keys()
        raise Error(
            '%s is not written over: %s, and %s; move the file away, or name '
            'the cluster otherwise (cluster: name)' % (
                path, 'its fsid is that of another cluster'
                if 'fsid' in before['global']
                else 'it has no fsid, and another mon_host',
                '%s would be pointed to the wrong one' % _listed(others)
                if others else 'others have written it: it has no %s'
                % _listed(strange)))
    return cephconf.merge(path, file.text)


def _listed(names: Iterable[str]) -> str:
    return ', '.join('[%s]' % name for name in sorted(names))


def mode_of(file: File, group: int | None) -> int:
    """Return the permission bits a file gets."""
    if file.mode == OPEN:
        return OPEN
    # Without a group to name, it would be whichever the writer has.
    return SECRET if group is None else INNER


def _write(plan: _Plan, dry_run: bool) -> State:
    state = _state(plan)
    if state is SAME or dry_run:
        return state
    os.makedirs(os.path.dirname(plan.path), exist_ok=True)
    _keep(plan)
    # There is nothing to lose where there was no file; to wait for the
    # disk for each of thousands takes longer than all the rest.
    replace(plan.path, plan.data, plan.mode, plan.gid,
            wait=state is not NEW, owner=plan.uid, acl=plan.acl)
    return state


def _keep(plan: _Plan) -> None:
    """Copy a file that is going to have other contents."""
    try:
        found = os.lstat(plan.path)
    except FileNotFoundError:
        return
    # What a link leads to stays as it is.
    if not stat.S_ISREG(found.st_mode):
        return
    with open(plan.path, 'rb') as source:
        before = source.read()
    if before != plan.data:
        replace(_backup(plan.path), before, stat.S_IMODE(found.st_mode),
                None if found.st_gid == os.getegid() else found.st_gid,
                owner=plan.uid, acl=plan.acl)


def _backup(path: str) -> str:
    """Return the path of the copy of a file.

    What a deployer has written is not replaced by what was rendered since.
    """
    try:
        with open(path + BACKUP, 'rb') as source:
            mark = MARK.encode()
            ours = source.read(len(mark)) == mark
    except FileNotFoundError:
        ours = True
    return path + (BACKUP if ours else NEXT_BACKUP)


def _state(plan: _Plan) -> State:
    try:
        found = os.lstat(plan.path)
    except FileNotFoundError:
        return NEW
    if (not stat.S_ISREG(found.st_mode)
            or stat.S_IMODE(found.st_mode) != plan.mode
            or plan.gid not in (None, found.st_gid)
            or found.st_size != len(plan.data)):
        return CHANGED
    with open(plan.path, 'rb') as source:
        return SAME if source.read() == plan.data else CHANGED


def replace(path: str, data: bytes, mode: int, group: int | None = None,
            wait: bool = True, owner: int | None = None,
            acl: bytes | None = None) -> None:
    """Write a file under another name, and give it its own at the end.

    Only its owner can read it before it has the right mode.

    :param wait: for the disk, so that a power cut leaves the old file or the
                 new one
    :param acl: access control list as the kernel has it
    """
    folder = os.path.dirname(path) or '.'
    fd, temporary = tempfile.mkstemp(prefix='.glance-dcn-', dir=folder)
    try:
        with open(fd, 'wb') as target:
            target.write(data)
            if group is not None or owner is not None:
                os.fchown(target.fileno(), -1 if owner is None else owner,
                          -1 if group is None else group)
            if acl is not None:
                os.setxattr(temporary, _ACL, acl)
            os.fchmod(target.fileno(), mode)
            if wait:
                target.flush()
                os.fsync(target.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def escape(value: str) -> str:
    """Return a value so that oslo.config reads it as it is."""
    # It takes \$ for $$, and so the backslash away.
    return quote(re.sub(
        r'(\\?)\$', lambda found: '\\\\$' if found.group(1) else '$$', value))


def quote(value: str) -> str:
    """Return a value so that oslo.config's parser reads it as it is."""
    # It strips blanks, and takes quotes around a value away.
    if value != value.strip() or (value[:1] in ('"', "'")
                                  and value[0] == value[-1]):
        return '"%s"' % value
    return value


def conf(sections: Sections, written: Callable[[str], str] = escape) -> str:
    """Return the text of a conf file.

    :param written: makes of a value its text in the file
    """
    lines = [MARK]
    for section, options in sections.items():
        lines += ['', '[%s]' % section]
        lines += ['%s = %s' % (option, written(value))
                  for option, value in options.items()]
    return '\n'.join([*lines, ''])


_Base: typing.Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


class _Dumper(_Base):
    """Writes texts of several lines as such."""

    def ignore_aliases(self, data: typing.Any) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar('tag:yaml.org,2002:str', text,
                                   style='|' if '\n' in text else None)


_Dumper.add_representer(str, _represent)


def yaml_file(data: typing.Any) -> str:
    """Return the text of a YAML file."""
    return '%s\n%s' % (MARK, yaml_text(data))


def yaml_text(data: typing.Any) -> str:
    """Return YAML text without the mark of files that are written."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False,
                     default_flow_style=False, width=4096,
                     allow_unicode=True)
