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

"""``glance-dcn complete``: completion of the command by bash."""

from __future__ import annotations

import argparse
import shlex
import typing

from glance_dcn.cmd import formats
from glance_dcn.cmd import output

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

_DESCRIPTION = """\
Prints what has bash complete commands, options and their values. The RPM
package installs it; it is for shells that have glance-dcn from elsewhere.
"""
_EPILOG = """\
examples:
  source <(glance-dcn complete)
  glance-dcn complete > ~/.local/share/bash-completion/completions/glance-dcn

exit status:
  0  it is printed
  2  wrong arguments
"""
# A word is a command, an option, or the value of the option before it. Bash
# makes three words of --format=csv.
_SCRIPT = """\
# Completion of glance-dcn by bash, made by "glance-dcn complete".
_glance_dcn()
{
    local current=${COMP_WORDS[COMP_CWORD]} path= takes= words= word i
    [ "$current" = = ] && current=
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [ "$word" = = ] && continue
        if [ "$takes" ] && [[ $word != -* ]]; then
            takes=
            continue
        fi
        takes=
        case "$path$word" in
%(takes)s
        esac
        case "$path$word" in
%(paths)s
            path="$path$word " ;;
        esac
    done
    [[ $current = -* ]] && takes=
    case $takes in
    '')
        case $path in
%(words)s
        esac ;;
    FILE) compopt -o default 2> /dev/null ;;
    VALUE) ;;
    *) words=$takes ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _glance_dcn glance-dcn
"""
# How the placeholders of files and folders are called.
_FILES = ('FILE', 'DIR', 'FOLDER', 'OLD')


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    output.add_command(
        subparsers, 'complete', 'print the completion script for bash',
        _DESCRIPTION, _EPILOG, run=run, set_up=lambda args: None)


def run(args: argparse.Namespace) -> int:
    """Print the script and return the exit status."""
    print(script(args.parser), end='')
    return output.Exit.GOOD


def script(parser: argparse.ArgumentParser) -> str:
    """Return the script for a parser and the parsers of its subcommands."""
    takes: dict[str, list[str]] = {}
    words, paths = [], []
    for path, below in _walk(parser, ''):
        paths.append(path)
        words.append(_case([path], 'words=%s' % shlex.quote(
            ' '.join(_words(below))), 8))
        for action in below._actions:
            if action.option_strings and action.nargs != 0:
                takes.setdefault(_values(action, below), []).extend(
                    path + option for option in action.option_strings)
    return _SCRIPT % {
        'takes': '\n'.join(_case(names, 'takes=%s' % shlex.quote(values), 8)
                           for values, names in takes.items()),
        'paths': '        %s)' % _names([path[:-1] for path in paths[1:]], 8),
        'words': '\n'.join(words)}


def _walk(parser: argparse.ArgumentParser, path: str
          ) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Give (words with a blank after each, parser) of each command."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _walk(below, '%s%s ' % (path, name))


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Give subcommands and options."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices
        yield from (option for option in action.option_strings
                    if option.startswith('--'))


def _values(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Return the values of an option, or which kind they are of."""
    if action.dest == 'column':
        columns: formats.Columns = parser.get_default('columns')
        return ' '.join(dict.fromkeys(name for either in columns.either
                                      for name in either.names))
    if action.choices:
        return ' '.join(map(str, action.choices))
    return 'FILE' if action.metavar in _FILES else 'VALUE'


def _case(names: list[str], command: str, indent: int) -> str:
    return '%s%s)\n%s%s ;;' % (' ' * indent, _names(names, indent),
                               ' ' * (indent + 4), command)


def _names(names: list[str], indent: int) -> str:
    return (' |\\\n' + ' ' * indent).join(map(shlex.quote, names))
