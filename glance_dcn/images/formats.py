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
import os
import struct
import types
import typing

LOG = logging.getLogger(__name__)

# An ISO image that also boots as a disk has a partition table in front, as
# nearly all installers have. Glance takes it for what it is declared to be.
_HYBRID_ISO = {'iso', 'gpt'}
# Incompatible features of a qcow2 file that qemu-img knows and that name no
# other file, by their bits: dirty, corrupt, compression type, extended L2
# entries. The inspectors' mask lacks the last. (Bit 2 is an external data
# file.)
_QCOW2_HARMLESS = 0b11011
_QCOW2_FEATURES = 72
# The footer that ends a VHD file: its cookie, size of the disk, type.
_VHD_FOOTER = 512
_VHD_COOKIE = b'conectix'
_VHD_FIXED = 2
# What a ploop image, or one of Parallels, begins with.
_PLOOP_MAGICS = (b'WithoutFreeSpace', b'WithouFreSpacExt')
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


def _of_oslo_utils() -> types.ModuleType | None:
    """Return the inspectors of oslo.utils, None before 7.3.0."""
    try:
        from oslo_utils.imageutils import format_inspector
    except ImportError:
        return None
    return format_inspector


def _glances_own() -> types.ModuleType | None:
    """Return the inspectors of Glance 26 to 29, None without the fix."""
    try:
        from glance.common import format_inspector
    except ImportError:
        return None
    fixed = (hasattr(format_inspector, 'detect_file_format')
             and hasattr(format_inspector.FileInspector, 'safety_check'))
    return format_inspector if fixed else None


# Any: releases differ in what these have.
modern: typing.Any = _of_oslo_utils()
legacy: typing.Any = None if modern else _glances_own()

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
           tolerated: collections.abc.Iterable[str] = (),
           modern: typing.Any = modern, legacy: typing.Any = legacy) -> str:
    """Return the format of a file by its content.

    :param file: the file, at its beginning; some are read to their ends
    :param tolerated: names of checks of partition tables that may fail
    :param modern: inspectors of oslo.utils, or None
    :param legacy: those of Glance itself, which are used then
    :returns: what Glance calls the format; a disk with a partition table is
        ``raw``
    :raises Refused: the format is not clear, or the file is not safe
    :raises OSError: the file cannot be read
    """
    check_available()
    if modern:
        return _detect(file, set(tolerated), modern)
    return _detect_legacy(file, legacy)


def find_others(file: typing.BinaryIO, detected: str) -> list[str]:
    """Return what else a file may be declared to be, as Glance calls it.

    The inspectors call raw what they do not know: a VHD file of fixed size,
    which is the raw disk and a footer, and a ploop image. Both may be declared
    raw, too.

    :param detected: what :func:`detect` has returned
    :raises OSError: the file cannot be read
    """
    if detected != 'raw':
        return []
    others = ['vhd'] if _is_fixed_vhd(file) else []
    file.seek(0)
    return others + ['ploop'] * (file.read(16) in _PLOOP_MAGICS)


def _is_fixed_vhd(file: typing.BinaryIO) -> bool:
    size = os.fstat(file.fileno()).st_size
    if size < _VHD_FOOTER:
        return False
    file.seek(size - _VHD_FOOTER)
    footer = file.read(_VHD_FOOTER)
    if len(footer) < _VHD_FOOTER or not footer.startswith(_VHD_COOKIE):
        return False
    disk, = struct.unpack_from('>Q', footer, 48)
    kind, = struct.unpack_from('>I', footer, 60)
    # What is cut out of the disk would be read as zeros.
    return bool(kind == _VHD_FIXED and disk <= size - _VHD_FOOTER)


def _detect(file: typing.BinaryIO, tolerated: set[str],
            modern: typing.Any) -> str:
    try:
        inspector = _match(file, modern)
        inspector.safety_check()
    except modern.SafetyCheckFailed as exc:
        failures = set(exc.failures)
        if inspector.NAME == 'qcow2' and _has_harmless_features(inspector):
            failures.discard('unknown_features')
        elif inspector.NAME == 'gpt':
            failures -= tolerated
        if failures:
            raise _unsafe(exc)
        LOG.warning('Tolerated: %s', exc)
    except modern.ImageFormatError as exc:
        raise _unclear(exc)
    # A partition table says nothing of the format: the image is raw.
    return 'raw' if str(inspector) == 'gpt' else str(inspector)


def _match(file: typing.BinaryIO, modern: typing.Any) -> typing.Any:
    """Do what detect_file_format() does, in larger chunks."""
    # Without close(): inspectors close what can be closed.
    wrapper = modern.InspectWrapper(types.SimpleNamespace(read=file.read))
    try:
        while _matching(wrapper, modern) is None and wrapper.read(_CHUNK):
            pass
    finally:
        wrapper.close()
    found = {str(kind): kind for kind in _matching(wrapper, modern) or ()}
    return found['iso'] if found.keys() == _HYBRID_ISO else wrapper.format


def _matching(wrapper: typing.Any,
              modern: typing.Any) -> list[typing.Any] | None:
    """Return the inspectors that match a file, None while that is open."""
    # It came some releases after the inspectors; before, Glance refuses
    # hybrid ISO images itself.
    found: list[typing.Any] | None = (
        wrapper.formats if hasattr(modern.InspectWrapper, 'formats')
        else wrapper.format and [wrapper.format])
    return found


def _has_harmless_features(inspector: typing.Any) -> bool:
    """Return whether a qcow2 file asks for nothing but what is harmless."""
    header = inspector.region('header').data
    version, = struct.unpack_from('>I', header, 4)
    features, = struct.unpack_from('>Q', header, _QCOW2_FEATURES)
    return bool(version == 3 and not features & ~_QCOW2_HARMLESS)


def _detect_legacy(file: typing.BinaryIO, legacy: typing.Any) -> str:
    try:
        name, inspector = _match_legacy(file, legacy)
        if not _is_safe_legacy(name, inspector):
            raise _unsafe(_why(name, inspector))
    except legacy.ImageFormatError as exc:
        raise _unclear(exc)
    return name


def _is_safe_legacy(name: str, inspector: typing.Any) -> bool:
    return bool(inspector.safety_check() or (
        name == 'qcow2' and not inspector.has_backing_file
        and not inspector.has_data_file
        and _has_harmless_features(inspector)))


def _why(name: str, inspector: typing.Any) -> str:
    """Return what an inspector that only says no is likely to dislike."""
    failed = [check for check in ('backing_file', 'data_file',
                                  'unknown_features')
              if getattr(inspector, 'has_' + check, False)]
    if name == 'vmdk':
        failed.append('descriptor')
    return ', '.join(failed) or 'format %s' % name


def _match_legacy(file: typing.BinaryIO,
                  legacy: typing.Any) -> tuple[str, typing.Any]:
    """Do what detect_file_format() of Glance 29 does."""
    inspectors = {name: kind() for name, kind in legacy.ALL_FORMATS.items()}
    raw, found = inspectors.pop('raw'), []
    for piece in _pieces(file):
        found += _feed(inspectors, piece, legacy.ImageFormatError)
        if all(inspector.complete for inspector in inspectors.values()):
            break
    if len(found) > 1:
        raise legacy.ImageFormatError('multiple formats detected: %s'
                                      % ', '.join(name for name, _ in found))
    return found[0] if found else ('raw', raw)


def _feed(inspectors: dict[str, typing.Any], piece: bytes,
          mismatch: type[Exception]) -> list[tuple[str, typing.Any]]:
    """Give a piece to inspectors, and return those that recognise the format.

    :param inspectors: by name; those that are sure are removed
    :param mismatch: raised by one whose format it is not
    """
    found = []
    for name, inspector in list(inspectors.items()):
        try:
            inspector.eat_chunk(piece)
        except mismatch:
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
