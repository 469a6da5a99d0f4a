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


"""Differences between a rendered configuration and another one.

Secrets are compared, and never shown.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import os
import re
import stat

from oslo_config import iniparser

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import files
from glance_dcn.deploy import options
from glance_dcn.deploy import sitesfile

_LARGEST = 4 << 20
_MASK = '(secret)'
# A cephx key, in any text.
_KEY = re.compile(r'\bA[A-Za-z0-9+/]{37}==')


class ChangeKind(str, enum.Enum):
    """How a file differs from the rendered one, as it is shown."""

    ADDED = 'added'
    REMOVED = 'removed'
    CHANGED = 'changed'
    UNREADABLE = 'unreadable'

    __str__ = str.__str__


ADDED, REMOVED, CHANGED, UNREADABLE = ChangeKind
# Values by section and option.
_Options = dict[tuple[str, str], str]


@dataclasses.dataclass(frozen=True, order=True)
class Change:
    """A file that is not as it is rendered."""

    path: str
    kind: ChangeKind
    details: tuple[str, ...] = ()


def with_folder(rendered: list[files.File], folder: str,
                group: int | None = None) -> list[Change]:
    """Return how the files of a node differ from rendered ones.

    :param folder: path that their paths are relative to
    :param group: number of the group that may read secrets, or None
    :returns: sorted by path
    """
    found = []
    for file in rendered:
        path = os.path.join(folder, file.path)
        try:
            text, mode = _read(path)
        except FileNotFoundError:
            found.append(Change(file.path, ADDED))
            continue
        except (OSError, ValueError) as exc:
            found.append(Change(file.path, UNREADABLE, (
                getattr(exc, 'strerror', None) or str(exc),)))
            continue
        # Others may have a part in files of clusters.
        details = _details(text, file.text, file.kind, file.secrets,
                           whole=file.kind is not files.Kind.CEPH)
        wrong = mode & ~files.mode_of(file, group) & 0o777
        # A group may have been given the right to read it.
        if wrong & ~stat.S_IRGRP:
            details.append('mode is %04o, and should be %04o'
                           % (mode, files.mode_of(file, group)))
        if details:
            found.append(Change(file.path, CHANGED, tuple(details)))
    return sorted(found + _left_over(rendered, folder))


def contradicted(file: files.File, folder: str,
                 names: list[str]) -> list[tuple[str, str]]:
    """Return options that other files set otherwise than a rendered one.

    Which of them counts depends on how Glance is started.

    :param folder: path that the paths of files are relative to
    :returns: pairs of the path and the option with its group
    """
    wanted = _sections(file.text) or {}
    found = []
    for name in names:
        try:
            text, _mode = _read(os.path.join(folder, name))
        except (OSError, ValueError):
            continue
        said = _sections(text) or {}
        found += [(name, '[%s] %s' % option) for option in wanted
                  if option in said and said[option] != wanted[option]]
    return found


def _left_over(rendered: list[files.File], folder: str) -> list[Change]:
    """Return site files that are there, and not rendered."""
    known = {file.path for file in rendered}
    folders = {os.path.dirname(file.path) for file in rendered
               if file.kind is files.Kind.SITE}
    found = []
    for name in folders:
        try:
            entries = os.listdir(os.path.join(folder, name))
        except OSError:
            continue
        found += [Change(os.path.join(name, entry), REMOVED)
                  for entry in entries
                  if entry.endswith('.conf') and not entry.startswith('.')
                  and os.path.join(name, entry) not in known]
    return found


def with_rendered(before: list[files.File],
                  after: list[files.File]) -> list[Change]:
    """Return how one set of rendered files differs from another.

    :returns: sorted by path
    """
    old = {file.path: file for file in before}
    new = {file.path: file for file in after}
    found = [Change(path, ADDED) for path in new.keys() - old.keys()]
    found += [Change(path, REMOVED) for path in old.keys() - new.keys()]
    found += [Change(path, CHANGED, tuple(_details(
        old[path].text, new[path].text, new[path].kind,
        old[path].secrets + new[path].secrets)))
        for path in old.keys() & new.keys()
        if old[path].text != new[path].text]
    return sorted(found)


def _read(path: str) -> tuple[str, int]:
    data, found = sitesfile.read_bytes(path, _LARGEST)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError('it is no regular file')
    if len(data) > _LARGEST:
        raise ValueError('it is larger than %d MiB' % (_LARGEST >> 20))
    try:
        return data.decode(), stat.S_IMODE(found.st_mode)
    except UnicodeDecodeError:
        raise ValueError('it is no text in UTF-8')


def _details(old: str, new: str, kind: files.Kind, secrets: tuple[str, ...],
             whole: bool = True) -> list[str]:
    """Return lines that say how two texts differ.

    :param whole: whether it counts what only the old one has
    """
    if old == new:
        return []
    if kind in (files.Kind.TEXT, files.Kind.VARIABLES):
        return _lines(old, new, secrets)
    before, after = _sections(old), _sections(new) or {}
    if before is None:
        return ['it is no conf file']
    if kind is files.Kind.CEPH:
        before, after = _of_ceph(before), _of_ceph(after)
    names = [*after, *(name for name in before if whole and name not in after)]
    return [_difference(name, before.get(name), after.get(name), secrets)
            for name in names if before.get(name) != after.get(name)]


def _of_ceph(options: _Options) -> _Options:
    """Return options with their names as Ceph compares them."""
    return {(section, cephconf.option_name(name)): value
            for (section, name), value in options.items()}


def _difference(name: tuple[str, str], old: str | None, new: str | None,
                secrets: tuple[str, ...]) -> str:
    what = '[%s] %s' % name
    if any(_is_secret(name[1], value, secrets) for value in (old, new)):
        if old is None or new is None:
            return '%s %s = %s' % ('+' if old is None else '-', what, _MASK)
        return '! %s differs (secret)' % what
    old, new = (value and value.replace('\n', ' ') for value in (old, new))
    if old is None:
        return '+ %s = %s' % (what, new)
    if new is None:
        return '- %s = %s' % (what, old)
    return '! %s = %s, was %s' % (what, new, old)


def _is_secret(option: str, value: str | None,
               secrets: tuple[str, ...]) -> bool:
    return options.is_secret(option) or bool(value and (
        any(secret in value for secret in secrets)
        or _KEY.search(value) or options.has_password(value)))


class _Parser(iniparser.BaseParser):
    """Options of a file by (section, option): the last value counts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: _Options = {}
        self._section = ''

    def new_section(self, section: str) -> None:
        self._section = section

    def assignment(self, key: str, value: list[str]) -> None:
        self.found[self._section, key] = '\n'.join(value)


def _sections(text: str) -> _Options | None:
    lines = text.split('\n')
    # A keyring indents its options, which is no continuation there.
    for each in (lines, [line.strip() for line in lines]):
        parser = _Parser()
        try:
            parser.parse(each)
        except iniparser.ParseError:
            continue
        return parser.found
    return None


def _lines(old: str, new: str, secrets: tuple[str, ...]) -> list[str]:
    """Return the lines that differ, without secrets."""
    old, new = _masked(old, secrets), _masked(new, secrets)
    if old == new:
        return ['! a secret differs']
    return [line for line in difflib.unified_diff(
        old.split('\n'), new.split('\n'), n=0, lineterm='')
        if not line.startswith(('---', '+++', '@@'))]


def _masked(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return _KEY.sub(_MASK, text)
