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

"""The forms of output: tables for people, raw values for programs.

A command that lists or shows says once, with :class:`Columns`, which columns
it has, and gives its rows to :func:`show`, which prints them as ``--format``
and ``--column`` say. Both are OpenStack's, as cliff has them. cliff itself is
not used: its commands print one table each, and its formatters let through
what names of images and records of other sites could do to a terminal.

Nothing that is printed here can: JSON and YAML escape it by themselves, and
the other forms have each character that is not printable as an escape
sequence of Python's, ``\\x1b`` say.
"""

from __future__ import annotations

from collections import abc
import csv
import dataclasses
import datetime
import enum
import io
import json
import os
import sys
import typing

import yaml

if typing.TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from collections.abc import Collection
    from collections.abc import Sequence

TABLE, JSON, YAML, CSV, VALUE = FORMATS = ('table', 'json', 'yaml', 'csv',
                                           'value')
#: Values by column, as programs are to have them; others may be there too.
Row = abc.Mapping[str, typing.Any]

# How much is what, for people.
_UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')
_GREEN, _YELLOW, _RED = 32, 33, 31
# By what a cell says, or its first word, in columns of states.
_COLOURS = {
    **dict.fromkeys(('ok', 'present', 'right', 'up', 'used'), _GREEN),
    **dict.fromkeys(('copying', 'deleting', 'unchecked', 'unproved', 'warn'),
                    _YELLOW),
    **dict.fromkeys(('down', 'fail', 'failed', 'lost', 'misconfigured',
                     'not deployed', 'refused', 'silent', 'taken away',
                     'wrong'), _RED)}
_STATES = ('glance', 'level', 'reference', 'state')


class UnknownColumn(Exception):
    """A column was chosen that is not there; its text says which are."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of what a command lists or shows.

    :ivar names: of all that ``--column`` takes
    :ivar shown: those of the table, unless others are chosen; None: all
    :ivar pretty: functions that turn a value into text for people, by column
    :ivar single: whether there is one row, shown as fields and values
    :ivar instead: whether arguments have others in place of these, and those
    """

    names: tuple[str, ...]
    shown: tuple[str, ...] | None = None
    pretty: dict[str, Callable[[typing.Any], str | None]] = dataclasses.field(
        default_factory=dict)
    single: bool = False
    instead: tuple[Callable[[argparse.Namespace], bool], Columns] | None = None

    @property
    def either(self) -> list[Columns]:
        """Return these, and those that other arguments have, if any."""
        return [self, self.instead[1]] if self.instead else [self]

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """Return the columns of some names, in the order of the table.

        :param wanted: as typed: ``Round Trip`` is ``round_trip``
        :raises UnknownColumn: if there is none of a name
        """
        names = {name.lower().replace(' ', '_').replace('-', '_'): name
                 for name in wanted}
        unknown = [name for key, name in names.items()
                   if key not in self.names]
        if unknown:
            raise UnknownColumn('there is no column %s; there are %s' % (
                ', '.join(unknown), ', '.join(self.names)))
        return [name for name in self.names if name in names]

    def table(self, rows: Sequence[Row],
              names: Sequence[str] | None = None) -> Table:
        """Return rows as a table for people, of the usual columns or some."""
        names = names or self.shown or self.names
        cells = [[self._text(name, row) for name in names] for row in rows]
        if self.single:
            return Table(('field', 'value'), [
                (name.replace('_', ' '), cell)
                for line in cells for name, cell in zip(names, line)])
        return Table(names, cells)

    def _text(self, name: str, row: Row) -> object:
        value = row[name]
        if name in self.pretty and value is not None:
            return self.pretty[name](value)
        return _flat(value)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table for people.

    :ivar rows: what is in the cells; None and '' are shown as ``-``
    :ivar states: heads of the columns whose cells may be coloured
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    states: Collection[str] = _STATES

    def text(self, colours: bool = False) -> str:
        """Return it as text, without a newline at its end."""
        lines = [[printable(head).upper().replace('_', ' ')
                  for head in self.heads]]
        lines += [['-' if cell is None or cell == '' else printable(str(cell))
                   for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        painted = [colours and head in self.states for head in self.heads]
        return '\n'.join('  '.join(
            (_painted(cell) if paint and number else cell)
            + ' ' * (width - len(cell))
            for cell, width, paint in zip(line, widths, painted)).rstrip()
            for number, line in enumerate(lines))


def _painted(cell: str) -> str:
    colour = _COLOURS.get(cell) or _COLOURS.get(cell.partition(' ')[0])
    return '\033[%dm%s\033[0m' % (colour, cell) if colour else cell


def columns_of(args: argparse.Namespace) -> Columns | None:
    """Return the columns of what a command lists or shows, if it does."""
    columns: Columns | None = getattr(args, 'columns', None)
    if columns and columns.instead and columns.instead[0](args):
        return columns.instead[1]
    return columns


def check(args: argparse.Namespace) -> None:
    """See that the columns that were chosen are there.

    :raises UnknownColumn: if one is not
    """
    columns = columns_of(args)
    if columns is not None:
        columns.chosen(args.column)


def for_people(args: argparse.Namespace) -> bool:
    """Return whether people are to read the output, as no more is asked."""
    return args.format == TABLE and not args.column


def show(args: argparse.Namespace, document: typing.Any, rows: Sequence[Row],
         people: Sequence[str | Table] | None = None,
         notes: Sequence[str] = (), compact: bool = False) -> None:
    """Print what a command found, as ``--format`` and ``--column`` say.

    :param document: all of it, for JSON and YAML of all columns
    :param rows: the same as rows, for the other forms
    :param people: lines and tables for people, in place of the rows
    :param notes: lines for people, which go to standard error where what is
        printed has no place for them
    :param compact: JSON on one line, which is made much faster
    """
    columns = columns_of(args)
    assert columns is not None, 'the command has no columns'
    names = columns.chosen(args.column)
    if for_people(args):
        parts = [columns.table(rows)] if people is None else people
        print('\n'.join(_text(part) for part in (*parts, *notes)))
        return
    whole = args.format in (JSON, YAML) and not names
    if whole:
        print(yaml_text(document) if args.format == YAML
              else json_text(document, compact))
    else:
        text = _rows(args.format, columns, names or [*columns.names], rows)
        print(text, end='\n' if text else '')
    for note in () if whole else notes:
        print(printable(note), file=sys.stderr, flush=True)


def _text(part: str | Table) -> str:
    return (part.text(has_colours()) if isinstance(part, Table)
            else printable(part))


def _rows(form: str, columns: Columns, names: list[str],
          rows: Sequence[Row]) -> str:
    """Return some columns of rows as text of a form."""
    if form == TABLE:
        return _text(columns.table(rows, names)) if rows else ''
    if form in (JSON, YAML):
        found: typing.Any = [{name: row[name] for name in names}
                             for row in rows]
        if columns.single and found:
            found, = found
        return json_text(found) if form == JSON else yaml_text(found)
    lines = [[_raw(row[name]) for name in names] for row in rows]
    if form == VALUE:
        between = '\n' if columns.single else ' '
        return '\n'.join(between.join(map(str, line)) for line in lines)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n',
                        quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([names, *lines])
    return buffer.getvalue().removesuffix('\n')


def _raw(value: typing.Any) -> object:
    """Return a value as it stands in a line of CSV or of values."""
    flat = _flat(value)
    return printable(flat) if isinstance(flat, str) else flat


def _flat(value: typing.Any) -> object:
    """Return a value as text, unless it is a number or None."""
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, abc.Mapping):
        return ','.join('%s=%s' % (name, _flat(one))
                        for name, one in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ','.join(str(_flat(one)) for one in value)
    return str(value.value if isinstance(value, enum.Enum) else value)


def has_colours() -> bool:
    """Return whether standard output is for people who want colours.

    See https://no-color.org.
    """
    return (sys.stdout.isatty() and not os.environ.get('NO_COLOR')
            and os.environ.get('TERM') != 'dumb')


def printable(text: str) -> str:
    """Return text of one line that does nothing to a terminal."""
    if text.isprintable():
        return text
    return ''.join(letter if letter.isprintable() else
                   letter.encode('unicode_escape').decode()
                   for letter in text)


def json_text(thing: typing.Any, compact: bool = False) -> str:
    """Return a thing of dicts, lists, sets and dataclasses as JSON text."""
    return json.dumps(thing, indent=None if compact else 1, default=_plain)


def yaml_text(thing: typing.Any) -> str:
    """Return the same as YAML text, without a newline at its end."""
    # Of what JSON has, to say the same.
    return yaml.safe_dump(json.loads(json_text(thing, compact=True)),
                          sort_keys=False).removesuffix('\n')


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


def iso_time(seconds: float | None) -> str | None:
    """Return a time in seconds since the epoch as ISO 8601 has it.

    Or the number, if no calendar has it: a record may say anything.
    """
    if seconds is None:
        return None
    try:
        return datetime.datetime.fromtimestamp(
            seconds, datetime.timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
    except (OSError, OverflowError, ValueError):
        return '%g' % seconds


def time(text: str) -> str:
    """Return a time of ISO 8601 for people."""
    return text.replace('T', ' ').replace('Z', ' UTC')
