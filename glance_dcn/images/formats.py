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
"""

import logging

from oslo_utils import units

try:
    from oslo_utils.imageutils import format_inspector as modern
except ImportError:
    modern = None

LOG = logging.getLogger(__name__)

# Bytes that a file is read by.
_CHUNK = 64 * units.Ki
# Bytes that Glance's own inspectors are given at a time. A region that is
# found by what an earlier one says is looked for from the next piece on.
_PIECE = 512

_MISSING = (
    'glance_dcn cannot look into images here, and refuses to convert any: '
    'this Glance has no fix of CVE-2024-32498. Upgrade to Glance 26.1.0, '
    '27.1.0, 28.1.0 or any later release.')


class Refused(Exception):
    """The file must not be used; the message says why, to users."""


def _glances_own():
    """Return the inspectors of Glance 26 to 29, None without the fix."""
    try:
        from glance.common import format_inspector
    except ImportError:
        return None
    fixed = (hasattr(format_inspector, 'detect_file_format')
             and hasattr(format_inspector.FileInspector, 'safety_check'))
    return format_inspector if fixed else None


legacy = None if modern else _glances_own()
if not (modern or legacy):
    LOG.error(_MISSING)


def inspect(path, beat, tolerated=()):
    """Return the format of a file by its content.

    :param path: path of the file
    :param beat: called after each chunk; some files are read to their ends
    :param tolerated: names of checks of partition tables that may fail
    :returns: what Glance calls the format; a disk with a partition table is
        ``raw``
    :raises Refused: if the format is not clear, or the file is not safe
    :raises OSError: if the file cannot be read
    """
    if modern:
        return _inspect(path, beat, set(tolerated))
    if legacy:
        return _inspect_legacy(path, beat)
    LOG.error(_MISSING)
    raise Refused('this Glance cannot inspect images safely; its operator '
                  'must upgrade it')


def _inspect(path, beat, tolerated):
    try:
        inspector = _detect(path, beat)
        inspector.safety_check()
    except modern.SafetyCheckFailed as exc:
        if inspector.NAME != 'gpt' or exc.failures.keys() - tolerated:
            raise _unsafe(exc)
        LOG.warning('%s: non-fatal %s', path, exc)
    except modern.ImageFormatError as exc:
        raise _unclear(exc)
    # A partition table says nothing of the format: the image is raw.
    return 'raw' if str(inspector) == 'gpt' else str(inspector)


def _detect(path, beat):
    """Do what detect_file_format() does, in larger chunks and not in silence.
    """
    with open(path, 'rb') as file:
        wrapper = modern.InspectWrapper(file)
        try:
            while wrapper.format is None and wrapper.read(_CHUNK):
                beat()
        finally:
            wrapper.close()
        return wrapper.format


def _inspect_legacy(path, beat):
    try:
        name, inspector = _detect_legacy(path, beat)
        if not inspector.safety_check():
            raise _unsafe(_why(name, inspector))
    except legacy.ImageFormatError as exc:
        raise _unclear(exc)
    return name


def _why(name, inspector):
    """Return what an inspector that only says no is likely to dislike."""
    failed = [check for check in ('backing_file', 'data_file',
                                  'unknown_features')
              if getattr(inspector, 'has_' + check, False)]
    if name == 'vmdk':
        failed.append('descriptor')
    return ', '.join(failed) or 'format %s' % name


def _detect_legacy(path, beat):
    """Do what detect_file_format() of Glance 29 does, not in silence.

    :returns: tuple of the name of the format and its inspector
    """
    inspectors = {name: kind() for name, kind in legacy.ALL_FORMATS.items()}
    raw, found = inspectors.pop('raw'), []
    with open(path, 'rb') as file:
        for piece in _pieces(file, beat):
            found += _feed(inspectors, piece)
            if all(inspector.complete for inspector in inspectors.values()):
                break
    if len(found) > 1:
        raise legacy.ImageFormatError('multiple formats detected: %s'
                                      % ', '.join(name for name, _ in found))
    return found[0] if found else ('raw', raw)


def _feed(inspectors, piece):
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


def _pieces(file, beat):
    while True:
        chunk = file.read(_CHUNK)
        if not chunk:
            return
        for start in range(0, len(chunk), _PIECE):
            yield chunk[start:start + _PIECE]
        beat()


def _unsafe(what):
    return Refused('it has a disallowed configuration: %s' % what)


def _unclear(exc):
    return Refused('its format is not clear: %s' % exc)
