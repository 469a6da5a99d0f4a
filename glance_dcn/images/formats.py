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

"""What format a file has by its content, and whether it is safe.

The inspectors are those of oslo.utils (7.3.0 and later), which Glance uses
from release 30 on. Where there are none, those that Glance itself has up to
release 29 are used, in the way of release 29, the strictest: all of them look
at the file, and it must be of one format. Releases without the fix of
CVE-2024-32498 have neither, and nothing is taken for safe there.

They read a file once, but a hostile one may make them spend milliseconds on
each piece of it. They belong into a limited process, see :mod:`.inspection`.
"""

from __future__ import annotations

import collections.abc
import logging
import types
import typing

try:
    from oslo_utils.imageutils import format_inspector as modern
except ImportError:
    modern = None

LOG = logging.getLogger(__name__)

# Bytes that a file is read by.
_CHUNK = 64 << 10
# Bytes that Glance's own inspectors are given at a time. A region that is
# found by what an earlier one says is looked for from the next piece on.
_PIECE = 512

_MISSING = (
    'glance_dcn cannot look into images here, and refuses to convert any: '
    'this Glance has no fix of CVE-2024-32498. Upgrade to Glance 26.1.0, '
    '27.1.0, 28.1.0 or any later release.')


class Refused(Exception):
    """The file must not be used; the message says why, to users."""


def _glances_own() -> types.ModuleType | None:
    """Return the inspectors of Glance 26 to 29, None without the fix."""
    try:
        from glance.common import format_inspector
    except ImportError:
        return None
    fixed = (hasattr(format_inspector, 'detect_file_format')
             and hasattr(format_inspector.FileInspector, 'safety_check'))
    return format_inspector if fixed else None


legacy = None if modern else _glances_own()


#: Whose inspectors are used; empty if there are none.
INSPECTORS = 'oslo.utils' if modern else 'Glance' if legacy else ''
if not INSPECTORS:
    # Operators learn of it before the first import.
    LOG.error(_MISSING)


def check_available() -> None:
    """Check that there are inspectors.

    :raises Refused: there are none
    """
    if not (modern or legacy):
        LOG.error(_MISSING)
        raise Refused('this Glance cannot inspect images safely; its '
                      'operator must upgrade it')


def detect(file: typing.BinaryIO,
           tolerated: collections.abc.Iterable[str] = ()) -> str:
    """Return the format of a file by its content.

    :param file: the file, at its beginning; some are read to their ends
    :param tolerated: names of checks of partition tables that may fail
    :returns: what Glance calls the format; a disk with a partition table is
        ``raw``
    :raises Refused: the format is not clear, or the file is not safe
    :raises OSError: the file cannot be read
    """
    check_available()
    if modern:
        return _detect(file, set(tolerated))
    return _detect_legacy(file)


def _detect(file: typing.BinaryIO, tolerated: set[str]) -> str:
    try:
        inspector = _match(file)
        inspector.safety_check()
    except modern.SafetyCheckFailed as exc:
        if inspector.NAME != 'gpt' or exc.failures.keys() - tolerated:
            raise _unsafe(exc)
        LOG.warning('Tolerated, as gpt_safety_checks_nonfatal says: %s', exc)
    except modern.ImageFormatError as exc:
        raise _unclear(exc)
    # A partition table says nothing of the format: the image is raw.
    return 'raw' if str(inspector) == 'gpt' else str(inspector)


class _Source:
    """A file as inspectors need it: they close what can be closed."""

    def __init__(self, file: typing.BinaryIO) -> None:
        self.read = file.read


def _match(file: typing.BinaryIO) -> modern.FileInspector:
    """Do what detect_file_format() does, in larger chunks."""
    wrapper = modern.InspectWrapper(_Source(file))
    try:
        while wrapper.format is None and wrapper.read(_CHUNK):
            pass
    finally:
        wrapper.close()
    return wrapper.format


def _detect_legacy(file: typing.BinaryIO) -> str:
    try:
        name, inspector = _match_legacy(file)
        if not inspector.safety_check():
            raise _unsafe(_why(name, inspector))
    except legacy.ImageFormatError as exc:
        raise _unclear(exc)
    return name


def _why(name: str, inspector: legacy.FileInspector) -> str:
    """Return what an inspector that only says no is likely to dislike."""
    failed = [check for check in ('backing_file', 'data_file',
                                  'unknown_features')
              if getattr(inspector, 'has_' + check, False)]
    if name == 'vmdk':
        failed.append('descriptor')
    return ', '.join(failed) or 'format %s' % name


def _match_legacy(file: typing.BinaryIO
                  ) -> tuple[str, legacy.FileInspector]:
    """Do what detect_file_format() of Glance 29 does.

    :returns: tuple of the name of the format and its inspector
    """
    inspectors = {name: kind() for name, kind in legacy.ALL_FORMATS.items()}
    raw, found = inspectors.pop('raw'), []
    for piece in _pieces(file):
        found += _feed(inspectors, piece)
        if all(inspector.complete for inspector in inspectors.values()):
            break
    if len(found) > 1:
        raise legacy.ImageFormatError('multiple formats detected: %s'
                                      % ', '.join(name for name, _ in found))
    return found[0] if found else ('raw', raw)


def _feed(inspectors: dict[str, legacy.FileInspector], piece: bytes
          ) -> list[tuple[str, legacy.FileInspector]]:
    """Give a piece to inspectors, and return those that recognise the format.

    :param inspectors: dict of them by name; those that are sure are removed
    :returns: list of (name, inspector)
    """
    found = []
    for name, inspector in list(inspectors.items()):
        try:
            inspector.eat_chunk(piece)
        except legacy.ImageFormatError:
            del inspectors[name]
            continue
        if inspector.format_match and inspector.complete:
            found.append((name, inspectors.pop(name)))
    return found


def _pieces(file: typing.BinaryIO) -> collections.abc.Iterator[bytes]:
    while True:
        chunk = file.read(_CHUNK)
        if not chunk:
            return
        for start in range(0, len(chunk), _PIECE):
            yield chunk[start:start + _PIECE]


def _unsafe(what: object) -> Refused:
    return Refused('it has a disallowed configuration: %s' % what)


def _unclear(exc: Exception) -> Refused:
    return Refused('its format is not clear: %s' % exc)
