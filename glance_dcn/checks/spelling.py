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

"""Whether what stands in Glance's files is what it knows."""

from __future__ import annotations

import contextlib
import difflib
import glob
import os
import typing

from glance_store import driver
from oslo_config import cfg
from oslo_config import iniparser

from glance_dcn.checks import registry
from glance_dcn.checks import subjects
from glance_dcn.upstream import plugins

# Namespaces of options that Glance and its libraries have.
_NAMESPACES = ('glance', 'oslo', 'keystonemiddleware', 'osprofiler')
_STORES = 'glance.multi_store'
_OURS = 'glance_dcn'
# Groups of which our own chapters in the guide tell, beside those of stores.
_JUDGED = ('DEFAULT', 'glance_store', 'image_import_opts', 'image_conversion',
           'os_glance_staging_store', 'os_glance_tasks_store')
# Groups without which Glance does not work.
_OTHERS = (*_JUDGED[1:], 'database', 'keystone_authtoken', 'paste_deploy')
_OF_STORES = ('rbd_store_', 'dcn_')
# How like a name must be to be taken for a slip of the finger.
_LIKE = .8
# The same of names of stores, which are short.
_SHORT = .7


class _Parser(iniparser.BaseParser):
    """Names of options by section."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[str]] = {}
        self._section = 'DEFAULT'

    def new_section(self, section: str) -> None:
        self._section = section
        self.found.setdefault(section, set())

    def assignment(self, key: str, value: list[str]) -> None:
        self.found.setdefault(self._section, set()).add(key)


@registry.check(
    'spelling', registry.NODE, 'Sections and options are spelt as Glance '
    'knows them', needs=('stores',),
    section=(registry.WARN, 'section [%(section)s] in %(path)s is not known'
             '%(like)s: what it says is not read',
             'correct its name, or take it out'),
    value=(registry.FAIL, 'option %(option)s in [%(section)s] cannot have the '
           'value that it is given: %(error)s', 'correct it: Glance does not '
           'start with it, or fails when it is used'),
    option=(registry.WARN, 'option %(option)s in [%(section)s] in %(path)s is '
            'not known%(like)s: it is not read',
            'correct its name, or take it out'))
def spelling(node: subjects.Node) -> str:
    """Compare names in the files that are read with those that are known."""
    groups, of_stores = _known(node.conf)
    lower = {name.lower(): name for name in groups}
    ours = {name for name, kind in node.conf.enabled_backends.items()
            if kind == 'dcn'}.union([_OURS])
    _try_values(node.conf, ours)
    count = 0
    for path in _files(node.conf):
        for section, options in sorted(_read(path).items()):
            count += len(options)
            name = lower.get(section.lower())
            if name is None:
                like = (difflib.get_close_matches(section, ours, 1, _SHORT)
                        or difflib.get_close_matches(section, _OTHERS, 1,
                                                     _LIKE))
                if like or any(option.startswith(_OF_STORES)
                               for option in options):
                    raise registry.Found(
                        'section', section=section, path=path,
                        like=' (did you mean [%s]?)' % like[0] if like
                        else '')
                continue
            known = groups[name] | (of_stores if name in ours else set())
            for option in sorted(options - known):
                like = difflib.get_close_matches(option, known, 1, _LIKE)
                if name in ours or name in _JUDGED and like:
                    raise registry.Found(
                        'option', section=section, option=option, path=path,
                        like=' (did you mean %s?)' % like[0] if like else '')
    return '%d options' % count


def _try_values(conf: cfg.ConfigOpts, ours: set[str]) -> None:
    """Read the values of all options of some groups.

    :raises glance_dcn.checks.registry.Found: if one is no value
    """
    for group in (*sorted(ours), *_JUDGED):
        found = conf if group == 'DEFAULT' else conf[group]
        for option in found:
            try:
                found[option]
            except ValueError as exc:
                raise registry.Found('value', option=option, section=group,
                                     error=exc) from exc
            except cfg.Error:
                # One that must be set, or refers to another.
                continue


def _files(conf: cfg.ConfigOpts) -> list[str]:
    """Return the paths of the files that are read."""
    found = list(conf.config_file or ())
    folders = conf.config_dir or ()
    for folder in [folders] if isinstance(folders, str) else folders:
        found += sorted(glob.glob(os.path.join(folder, '*.conf')))
    return found


def _read(path: str) -> dict[str, set[str]]:
    parser = _Parser()
    # Glance has read it: it is no longer there, say.
    with contextlib.suppress(OSError, UnicodeDecodeError,
                             iniparser.ParseError), open(path) as source:
        parser.parse(source.read().split('\n'))
    return parser.found


def _known(conf: cfg.ConfigOpts) -> tuple[dict[str, set[str]], set[str]]:
    """Return the names of options by group, and those of any store."""
    groups: dict[str, set[str]] = {'DEFAULT': set()}
    # What stores of all types have is in no namespace.
    of_stores = set(_names(getattr(driver, '_MULTI_BACKEND_OPTS', ())))
    for name in conf:
        try:
            value = conf[name]
        except (cfg.Error, ValueError):
            # An option whose value is told by others.
            value = None
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            groups.setdefault(name, set()).update(value)
        else:
            groups['DEFAULT'].add(name)
    for point in plugins.entry_points('oslo.config.opts'):
        if point.name.split('.')[0] not in (*_NAMESPACES, _OURS):
            continue
        # Of a library that lacks another one, say.
        with contextlib.suppress(Exception):
            for group, options in point.load()():
                names = set(_names(options))
                groups.setdefault(str(getattr(group, 'name', group)
                                      or 'DEFAULT'), set()).update(names)
                if point.name == _STORES:
                    of_stores.update(names)
    return groups, of_stores


def _names(options: typing.Iterable[typing.Any]) -> typing.Iterator[str]:
    for option in options:
        for name in (option.name, *(each.name for each
                                    in option.deprecated_opts)):
            if name:
                yield name
                yield name.replace('-', '_')
