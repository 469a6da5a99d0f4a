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


"""Files that are rendered, and writing them."""

from __future__ import annotations

import dataclasses
import enum
import grp
import os
import re
import stat
import tempfile

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import conf
from glance_dcn.deploy import sitesfile

#: Modes of files: what all may know, what has a secret in it, a secret.
OPEN, INNER, SECRET = 0o644, 0o640, 0o600

#: What the name of the copy of a file ends in that is written over it.
BACKUP = '.bak'

_SECTION = re.compile(r'^[ \t]*\[([^\]\n]+)\]', re.MULTILINE)


class Kind(enum.Enum):
    """What a file has in it."""

    CONF = 'sections of options'
    SITE = 'those of a file of sites_dir'
    CEPH = 'options or keys of a cluster, in which others may have a part'
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
    :ivar secrets: texts in it that nobody may see
    """

    path: str
    text: str = dataclasses.field(repr=False)
    mode: int = OPEN
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    kind: Kind = Kind.CONF


@dataclasses.dataclass(frozen=True)
class Rendering:
    """What is rendered for a node, a stack, or an overlay.

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


def write(folder: str, files: list[File], group: int | None = None,
          dry_run: bool = False) -> list[tuple[File, State]]:
    """Write files into a folder, each of them at once or not at all.

    What others have written into conf files and keyrings of clusters stays
    there. Of a file whose text changes, the one before is kept beside it
    (BACKUP).

    :param folder: path; it is made if it is not there
    :param group: number of the group that gets files others may not read,
                  or None: then secrets are for their owner alone
    :param dry_run: write nothing, and return what would be written
    :raises Error: if a section that others have written would be lost, or
        one cannot be read: nothing is written then; or if one cannot be
        written: those before it are written
    """
    paths = [os.path.join(folder, file.path) for file in files]
    texts = [_merged(path, file) for path, file in zip(paths, files)]
    found = []
    for path, file, text in zip(paths, files, texts):
        try:
            found.append((file, _write(path, file, text, group, dry_run)))
        except OSError as exc:
            raise Error('%s cannot be written: %s' % (
                exc.filename or path, exc.strerror))
    return found


def _merged(path: str, file: File) -> str:
    """Return the text that a file gets, with what others have in it.

    :raises Error: if that cannot be told, or would be lost
    """
    if file.kind is Kind.TEXT or not os.path.isfile(path):
        return file.text
    try:
        if file.kind is Kind.CEPH:
            return cephconf.merge(path, file.text)
        before = sitesfile.read(path)
    except sitesfile.Mistake as exc:
        raise Error('%s is not written over: %s; move it away, or mend it'
                    % (path, exc))
    lost = set(_SECTION.findall(before)) - set(_SECTION.findall(file.text))
    # Of what was rendered, the sections of sites that are gone may go.
    if lost and not before.startswith(conf.MARK):
        raise Error('%s is not written over: it has %s, which was not '
                    'rendered and would be lost; move the file away, or that '
                    'into a file of its own' % (path, ', '.join(
                        '[%s]' % name for name in sorted(lost))))
    return file.text


def mode_of(file: File, group: int | None) -> int:
    """Return the permission bits a file gets."""
    if file.mode == OPEN:
        return OPEN
    # Without a group to name, it would be whichever the writer has.
    return SECRET if group is None else INNER


def _write(path: str, file: File, text: str, group: int | None,
           dry_run: bool) -> State:
    data = text.encode()
    mode = mode_of(file, group)
    if file.mode == OPEN:
        group = None
    state = _state(path, data, mode, group)
    if state is SAME or dry_run:
        return state
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _keep(path, data)
    # There is nothing to lose where there was no file; to wait for the
    # disk for each of thousands takes longer than all the rest.
    replace(path, data, mode, group, wait=state is not NEW)
    return state


def _keep(path: str, data: bytes) -> None:
    """Copy a file that is going to have other contents."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    # What a link leads to stays as it is.
    if not stat.S_ISREG(found.st_mode):
        return
    with open(path, 'rb') as source:
        before = source.read()
    if before != data:
        replace(path + BACKUP, before, stat.S_IMODE(found.st_mode),
                None if found.st_gid == os.getegid() else found.st_gid)


def _state(path: str, data: bytes, mode: int, group: int | None) -> State:
    """Return how a file is, compared with how it should be."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return NEW
    if (not stat.S_ISREG(found.st_mode)
            or stat.S_IMODE(found.st_mode) != mode
            or group not in (None, found.st_gid)
            or found.st_size != len(data)):
        return CHANGED
    with open(path, 'rb') as source:
        return SAME if source.read() == data else CHANGED


def replace(path: str, data: bytes, mode: int, group: int | None = None,
            wait: bool = True) -> None:
    """Write a file under another name, and give it its own at the end.

    Nobody but its owner can read it before it has the right mode.

    :param wait: for the disk, so that a power cut leaves the old file or the
                 new one
    """
    folder = os.path.dirname(path) or '.'
    fd, temporary = tempfile.mkstemp(prefix='.glance-dcn-', dir=folder)
    try:
        with open(fd, 'wb') as target:
            target.write(data)
            if group is not None:
                os.fchown(target.fileno(), -1, group)
            os.fchmod(target.fileno(), mode)
            if wait:
                target.flush()
                os.fsync(target.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
