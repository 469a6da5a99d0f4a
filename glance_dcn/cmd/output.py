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

"""What all commands share: arguments, exit statuses and complaints."""

from __future__ import annotations

import argparse
import enum
import math
import sys
import typing
import uuid

from oslo_utils import uuidutils

from glance_dcn.ceph import errors
from glance_dcn.cmd import formats

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# Seconds; more is a slip of the finger.
_LONGEST = 86400


class Exit(enum.IntEnum):
    """Exit statuses of all commands; the help says what they mean there."""

    #: It is done, or all is as it should be.
    GOOD = 0
    #: The answer: something differs, is left, or is not as it should be.
    BAD = 1
    #: Wrong arguments, or a configuration or a file that cannot be used.
    WRONG = 2
    #: What is needed does not answer, or cannot be read, written or removed.
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


def status_of(exc: Exception) -> Exit:
    """Return the exit status of a command that an error ends."""
    if isinstance(exc, Failed):
        return exc.status
    return (Exit.UNABLE if isinstance(exc, errors.ClusterError)
            and not isinstance(exc, errors.Misconfigured) else Exit.WRONG)


def add_group(commands: Subparsers, name: str, summary: str) -> Subparsers:
    """Add a command that has subcommands, and return where to add these."""
    parser = commands.add_parser(name, help=summary)
    return parser.add_subparsers(dest='subcommand', required=True,
                                 metavar='COMMAND')


def add_command(commands: Subparsers, name: str, summary: str,
                description: str, epilog: str,
                columns: formats.Columns | None = None, **defaults: typing.Any
                ) -> argparse.ArgumentParser:
    """Add a subcommand, whose texts are shown as they are written.

    :param columns: of what it lists or shows, in any of the formats
    :param defaults: ``run(args)``, which returns an exit status, and
        ``set_up(args)`` if glance_store need not configure the stores
    """
    parser = commands.add_parser(
        name, help=summary, description=description, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(**defaults)
    if columns is not None:
        parser.set_defaults(columns=columns)
        parser.add_argument('-f', '--format', choices=formats.FORMATS,
                            default=formats.TABLE,
                            help='form of the output (table)')
        parser.add_argument('-c', '--column', action='append', default=[],
                            metavar='COLUMN', help='only this column; may be '
                            'given several times')
    return parser


def complain(reason: object) -> None:
    """Say on standard error, in one line, why a command cannot do its work."""
    print('glance-dcn: %s' % formats.printable(
        ' '.join(str(reason).splitlines())), file=sys.stderr, flush=True)


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
