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

"""What the checks may find, put into words for the guide and the terminal.

``python -m glance_dcn.checks.guide FILE`` writes the part of the guide that
lists all of them.
"""

from __future__ import annotations

import pathlib
import re
import sys
import textwrap
import typing

from glance_dcn.checks import registry
from glance_dcn.checks import runner  # noqa: F401, all checks are known then

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

_FIELD = re.compile(r'%\((\w+)\)(?:\.\d)?[sdfr]')
_HEAD = """\
.. Written by "python -m glance_dcn.checks.guide doc/source/admin/checks.inc";
   a test compares it with the checks.

"""
_SCOPES = {
    registry.NODE: 'Of this node',
    registry.SITE: 'Of each site',
    registry.ALL: 'Of all sites together',
    registry.GLANCE: 'Of each Glance that is named with ``--glance``',
}


def filled(text: str) -> str:
    """Return a message with words in capitals for what is filled in."""
    return _FIELD.sub(lambda match: match.group(1).upper(), text)


def _faults(check: registry.Check) -> Iterator[tuple[str, str, str]]:
    """Give (level, message, remedy) of what a check may find."""
    for fault in check.faults.values():
        yield fault.level, filled(fault.text), filled(fault.remedy)


def plain(check: registry.Check) -> str:
    """Return what a check may find, as plain text."""
    lines = ['%s: %s' % (check.name, check.title)]
    for level, text, remedy in _faults(check):
        lines += textwrap.wrap('%s: %s' % (level, text), 76,
                               initial_indent='  ',
                               subsequent_indent='        ')
        lines += textwrap.wrap(remedy, 76, initial_indent='        -> ',
                               subsequent_indent='           ')
    return '\n'.join(lines) + '\n'


def rst() -> str:
    """Return all checks as reStructuredText."""
    parts = [_HEAD]
    for scope, title in _SCOPES.items():
        parts.append('%s\n%s\n\n' % (title, '~' * len(title)))
        parts += [_section(check) for check in registry.of(scope)]
    parts.append(_common())
    return ''.join(parts).rstrip() + '\n'


def _section(check: registry.Check) -> str:
    lines = ['``%s``' % check.name]
    lines += _wrapped(check.title + '.', 4)
    lines.append('')
    for level, text, remedy in _faults(check):
        lines += _wrapped('* *%s*: ``%s``' % (level, text), 4, 6)
        lines.append('')
        lines += _wrapped(_escaped(_sentence(remedy)), 6)
        lines.append('')
    return '\n'.join(lines) + '\n'


def _common() -> str:
    title = 'Of any check'
    lines = [title, '~' * len(title), '']
    for text, remedy in ((registry.LATE, registry.LATE_REMEDY),
                         (registry.BROKEN, registry.BROKEN_REMEDY)):
        lines += _wrapped('* *fail*: ``%s``' % filled(text), 0, 2) + ['']
        lines += _wrapped(_escaped(_sentence(filled(remedy))), 2) + ['']
    return '\n'.join(lines)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ('' if text.endswith('.') else '.')


def _escaped(text: str) -> str:
    return re.sub(r'([*`_|\\])', r'\\\1', text)


def _wrapped(text: str, indent: int, hanging: int | None = None) -> list[str]:
    return textwrap.wrap(
        text, 79, initial_indent=' ' * indent,
        subsequent_indent=' ' * (indent if hanging is None else hanging),
        break_on_hyphens=False, break_long_words=False)


if __name__ == '__main__':
    pathlib.Path(sys.argv[1]).write_text(rst())
