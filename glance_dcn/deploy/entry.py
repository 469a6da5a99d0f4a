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


"""Adding a site to a sites file, whose other bytes stay as they are."""

from __future__ import annotations

import os
import stat
import typing

from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import sitesfile
from glance_dcn.deploy import texts

_MODE = 0o640


def text(entries: list[dict[str, typing.Any]]) -> str:
    """Return entries of the list of sites, as text."""
    return texts.yaml_text(entries)


def prepare(path: sitesfile.Path,
            entries: list[dict[str, typing.Any]]) -> tuple[str, int]:
    """Return a sites file with more sites; nothing is written.

    :param path: of the sites file, which need not be there
    :returns: its text, and the mode it has or is to have
    :raises sitesfile.Mistake: if it would not be right any more
    """
    new = text(entries)
    # What a link points to is replaced, not the link.
    target = os.path.realpath(path)
    mode = _MODE
    if os.path.lexists(target):
        before = sitesfile.read(target)
        whole = _with(path, before, new)
        mode = stat.S_IMODE(os.stat(target).st_mode)
    else:
        whole = 'sites:\n' + new
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
    # What follows the sites begins there; blank lines and comments before
    # it belong to it.
    end = min(sites.end - 1, len(lines))
    while end and (not lines[end - 1].strip()
                   or lines[end - 1].startswith('#')):
        end -= 1
    if not lines[end - 1].endswith('\n'):
        lines[end - 1] += '\n'
    lines[end:end] = [indent + line
                      for line in new.splitlines(keepends=True)]
    return ''.join(lines)
