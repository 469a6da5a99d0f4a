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

"""The folder of site files: sites that come and go while Glance runs.

A file ``dcn7.conf`` describes the store ``dcn7``, in one section ``[dcn7]``
with the options that the section of a store in glance-api.conf has. There is
no substitution of ``$name`` in it: what it says may be shown to users.

What a file says decides where images go and which files librados reads, so it
is only taken from those who may change glance-api.conf too. One that cannot
be used is left alone, with one line in the log; what it said before holds.

The folder may be a volume of Kubernetes, made of a Secret or a ConfigMap: the
mode of its folder allows all users to write (1777, or 0777), but it is mounted
read-only, and its files are symbolic links by way of ``..data``, which is
replaced when the Secret changes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import stat
import time
import typing

from oslo_config import iniparser

if typing.TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

_SUFFIX = '.conf'
_LARGEST = 64 << 10
# Letters and digits of ASCII: the name becomes part of options, log lines and
# URLs.
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]{0,63}', re.ASCII)
# Seconds for which a file must have been left alone: before, it may still be
# being written.
_SETTLING = 2


# Of a file: what of its status changes with it, or why there is none (errno).
_State = typing.Union[tuple[int, ...], int, None]


class Mistake(Exception):
    """A file cannot be used; its text says why."""


@dataclasses.dataclass
class Contents:
    """Contents of the folder.

    :ivar sites: options as text, by name of the site; of a file that has
        become unusable, those that it had
    :ivar present: names of all site files, usable or not
    :ivar mistakes: why files cannot be used, by name of the site
    """

    sites: dict[str, dict[str, str]]
    present: frozenset[str]
    mistakes: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Known:
    """A site file: its state when it was read, and its options."""

    state: _State = None
    since: float = 0
    read: _State = None
    options: dict[str, str] | None = None
    mistake: str | None = None


class Folder:
    """Reads the site files of a folder, each when it has changed.

    :param check: called with the name and the options of a site; it raises
        :class:`Mistake` where they are no good
    :param tell: log what cannot be used
    :ivar mistake: why the folder cannot be used, or None
    """

    def __init__(self, path: str,
                 check: Callable[[str, dict[str, str]], object]
                 = lambda name, options: None, tell: bool = True) -> None:
        self.path = path
        self._logs = tell
        self.mistake: str | None = None
        self._check = check
        self._files: dict[str, _Known] = {}

    def read(self, settled: bool = True) -> Contents | None:
        """Return the contents of the folder, or None if it cannot be used.

        :param settled: leave files alone that were changed a moment ago
        """
        mistake = None
        try:
            _check_folder(self.path)
            names = sorted(
                entry[:-len(_SUFFIX)] for entry in os.listdir(self.path)
                if entry.endswith(_SUFFIX) and not entry.startswith('.'))
        except (OSError, Mistake) as exc:
            mistake = _reason(exc)
        is_new, self.mistake = mistake != self.mistake, mistake
        if mistake:
            if is_new and self._logs:
                LOG.error('The folder of site files %s cannot be used: %s. '
                          'Sites stay as they are.', self.path, mistake)
            return None
        self._files = {name: self._files.get(name, _Known()) for name in names}
        for name, known in self._files.items():
            self._read_file(name, known, settled)
        return Contents(
            {name: known.options for name, known in self._files.items()
             if known.options is not None},
            frozenset(names),
            {name: known.mistake for name, known in self._files.items()
             if known.mistake})

    def _read_file(self, name: str, known: _Known, settled: bool) -> None:
        path = os.path.join(self.path, name + _SUFFIX)
        state: _State
        try:
            state = _state(os.stat(path))
        except OSError as exc:
            if not os.path.lexists(path):
                # It went away since the folder was listed.
                return
            state = exc.errno
        now = time.monotonic()
        if state != known.state:
            known.state, known.since = state, now
        if state == known.read:
            return
        if settled and now - known.since < _SETTLING and _is_new(path):
            return
        known.read, known.mistake = state, None
        try:
            options = _parse(name, _contents(path))
            self._check(name, options)
            known.options = options
        except (OSError, Mistake) as exc:
            known.mistake = _reason(exc)
        # Not while the exception is there: oslo.log would add it.
        if known.mistake and self._logs:
            LOG.error('Site file %(path)s is not taken: %(reason)s.%(rest)s',
                      {'path': path, 'reason': known.mistake,
                       'rest': '' if known.options is None else
                       ' What it said before holds.'})


def _reason(exc: OSError | Mistake) -> str:
    return getattr(exc, 'strerror', None) or str(exc)


def _state(found: os.stat_result) -> tuple[int, ...]:
    # With ctime: some tools put old times on new files. It changes with
    # owner and mode as well.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns,
            found.st_ctime_ns)


def _is_new(path: str) -> bool:
    try:
        return abs(time.time() - os.stat(path).st_mtime) < _SETTLING
    except OSError:
        return False


def _check_folder(path: str) -> None:
    """Raise Mistake if others could have put files into a folder."""
    found = os.stat(path)
    _check_owner(found, 'folder')
    # Mounted read-only, it is written to by no user, whatever its mode.
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        _check_mode(found)


def _check_owner(found: os.stat_result, what: str) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise Mistake('its owner is user %d; a %s must be root\'s or that of '
                      'the user Glance runs as' % (found.st_uid, what))


def _check_mode(found: os.stat_result) -> None:
    """Raise Mistake if others may write a file or folder."""
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Mistake('others may write it (mode %o); take that right away '
                      'with chmod go-w' % stat.S_IMODE(found.st_mode))


def _contents(path: str) -> str:
    """Return the text of a file that is safe to use."""
    # Opening a pipe would wait for one that writes into it.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Mistake('it is no regular file')
        _check_owner(found, 'file')
        _check_mode(found)
        # Enough to see that it is too large.
        with open(fd, 'rb', closefd=False) as file:
            data = file.read(_LARGEST + 1)
    finally:
        os.close(fd)
    if len(data) > _LARGEST:
        raise Mistake('it is larger than %d KiB' % (_LARGEST >> 10))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Mistake('it is no text in UTF-8')
    if '\0' in text:
        raise Mistake('it is no text')
    return text


def check_name(name: str) -> None:
    """Raise :class:`Mistake` if a name cannot be that of a site."""
    if not _NAME.fullmatch(name) or name.lower() == 'default':
        raise Mistake('%r cannot be the name of a store: it must be letters, '
                      'digits, _ and -, at most 64' % name)
    if name.startswith('os_glance_'):
        raise Mistake('names that begin with os_glance_ are Glance\'s own')


def _parse(name: str, text: str) -> dict[str, str]:
    """Return the options of a site file."""
    check_name(name)
    parser = _Parser()
    try:
        # Not splitlines(): a form feed ends no line.
        parser.parse(text.split('\n'))
    except iniparser.ParseError as exc:
        # Not the line itself: it may be anything.
        raise Mistake('line %d: %s' % (exc.lineno, exc.msg))
    if list(parser.sections) != [name]:
        raise Mistake('it must have one section, [%s], named like the file; '
                      'it has %s' % (name, ', '.join(
                          '[%s]' % section for section in parser.sections)
                          or 'none'))
    return parser.sections[name]


class _Parser(iniparser.BaseParser):
    """Sections of a file as glance-api.conf is one: the last value counts."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, dict[str, str]] = {}
        self._section: dict[str, str] | None = None

    def new_section(self, section: str) -> None:
        self._section = self.sections.setdefault(section, {})

    def assignment(self, key: str, value: list[str]) -> None:
        if self._section is None:
            raise Mistake('option %r stands before any section' % key)
        self._section[key] = '\n'.join(value)
