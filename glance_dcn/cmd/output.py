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

"""What all commands share: arguments, exit statuses, tables and JSON."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import math
import sys
import typing
import uuid

from oslo_utils import uuidutils

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: How much is what, for people.
_UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')
# Seconds; more is a slip of the finger.
_LONGEST = 86400


class Exit(enum.IntEnum):
    """Exit statuses; the help of each command says what they mean there."""

    GOOD = 0
    #: Something differs, is left, or is not as it should be.
    BAD = 1
    #: Wrong arguments, or a configuration that cannot be used.
    WRONG = 2
    #: Something cannot be read, written or removed.
    UNABLE = 3
    #: Another process runs the tasks.
    BUSY = 4
    INTERRUPTED = 130
    #: The reader of the output has gone; that of SIGPIPE.
    CLOSED = 141


class Failed(Exception):
    """A command cannot do its work; its text says why."""

    def __init__(self, reason: object, status: Exit = Exit.WRONG) -> None:
        super().__init__(reason)
        self.status = status


def add_group(commands: Subparsers, name: str, summary: str) -> Subparsers:
    """Add a command that has subcommands, and return where to add these."""
    parser = commands.add_parser(name, help=summary)
    return parser.add_subparsers(dest='subcommand', required=True,
                                 metavar='COMMAND')


def add_command(commands: Subparsers, name: str, summary: str,
                description: str, epilog: str, **defaults: typing.Any
                ) -> argparse.ArgumentParser:
    """Add a subcommand, whose texts are shown as they are written.

    :param defaults: ``run(args)``, which returns an exit status, and
        ``set_up(args)`` if glance_store need not configure the stores
    """
    parser = commands.add_parser(
        name, help=summary, description=description, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(**defaults)
    return parser


def complain(reason: object) -> None:
    """Say on standard error why a command cannot do its work."""
    print('glance-dcn: %s' % reason, file=sys.stderr, flush=True)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--format`` to a subcommand."""
    parser.add_argument('--format', choices=('table', 'json'),
                        default='table', help='form of the output (table)')


def show(args: argparse.Namespace, thing: typing.Any, readable: str) -> None:
    """Print a thing as JSON, or as text for people, as ``--format`` says."""
    print(text(thing) if args.format == 'json' else readable)


def seconds(text: str) -> float:
    """Return the seconds of an argument, above 0 and within reason."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    # Neither can NaN be compared.
    if not 0 < number <= _LONGEST:
        raise argparse.ArgumentTypeError('%r is not a number of seconds above '
                                         '0, and at most %d'
                                         % (text, _LONGEST))
    return number


def between(least: float, most: float, unit: str,
            kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """Return a function that converts an argument to a number in bounds."""
    def convert(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            # Within no bounds.
            number = math.nan
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                '%r is not a number of %s from %d to %d' % (
                    text, unit, least, most))
        return number
    return convert


def count(text: str) -> int:
    """Return the number of an argument, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError('%r is no number above 0' % text)
    return int(text)


def image(text: str) -> str:
    """Return the image ID of an argument."""
    if not uuidutils.is_uuid_like(text):
        raise argparse.ArgumentTypeError(
            '%r is not the ID of an image, which is a UUID' % text)
    # It may have been typed without hyphens, or in upper case.
    return str(uuid.UUID(text))


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as text, without a newline at its end.

    :param rows: lists of what is in them; None and '' are shown as ``-``
    """
    lines = [[name.upper() for name in heads]]
    lines += [['-' if cell is None or cell == '' else _printable(str(cell))
               for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join('  '.join(
        text.ljust(width) for text, width in zip(line, widths)).rstrip()
        for line in lines)


def entries(columns: Sequence[str], found: Sequence[dict[str, typing.Any]],
            none: str) -> str:
    """Return a table of dicts as text, or what to say without any."""
    return table(columns, [[entry[name] for name in columns]
                           for entry in found]) if found else none


def _printable(text: str) -> str:
    """Return text that does nothing to a terminal: users name images."""
    if text.isprintable():
        return text
    return ''.join(letter if letter.isprintable() else
                   letter.encode('unicode_escape').decode()
                   for letter in text)


def text(thing: typing.Any, compact: bool = False) -> str:
    """Return a thing of dicts, lists, sets and dataclasses as JSON text.

    :param compact: on one line, which is made much faster
    """
    return json.dumps(thing, indent=None if compact else 1, default=_plain)


def _plain(thing: typing.Any) -> typing.Any:
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return dataclasses.asdict(thing)
    if isinstance(thing, (set, frozenset)):
        return sorted(thing)
    raise TypeError('%s cannot be shown' % type(thing))


def size(count: int | None) -> str:
    """Return a number of bytes for people; None is shown as ``-``."""
    if count is None:
        return '-'
    number = float(count)
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return '%.*f %s' % (0 if unit == 'B' else 1, number, unit)
