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

"""Records: small values in RADOS, as strict JSON with a version.

A record that cannot be understood costs only itself: it is left where it is,
is never acted upon, and is reported. It may be one of another release, of
another deployment that has the same pool and namespace, or damaged.

A release that keeps anything else in a record, or means anything else by it,
counts the version up: what one release wrote no other one half understands.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import typing

#: Bytes that a record may have.
LARGEST = 16384
#: Version of the records that this release understands, and writes.
VERSION = 2
_LONGEST_TEXT = 4096
_CONTROL = re.compile(r'[\x00-\x1f\x7f]')

T = typing.TypeVar('T')


class RecordError(ValueError):
    """A text is not a record that this release can understand."""


class ForeignRecord(RecordError):
    """It is a record of another deployment."""


class OtherRelease(RecordError):
    """It is a record of another release, which has to act upon it.

    :ivar version: that of the record
    """

    def __init__(self, version: int, ours: int) -> None:
        super().__init__(
            'it is of version %d, and this release has version %d: %s release '
            'has to act upon it' % (version, ours, 'a later' if version > ours
                                    else 'an earlier'))
        self.version = version


def check_version(version: object, ours: int) -> None:
    """Return if a record is of the version that is understood.

    :param version: what the record says
    :param ours: the version that is understood
    :raises OtherRelease: if it is of another one
    :raises RecordError: if it does not say of which it is
    """
    if type(version) is not int or not 0 < version < 1 << 31:
        raise RecordError('it does not say of which version it is')
    if version != ours:
        raise OtherRelease(version, ours)


def printable(reason: object, longest: int = 500) -> str:
    """Return a message as a field of a record may have it: one line.

    What comes from elsewhere, such as an error, may have characters that
    :func:`load` refuses.

    :param longest: characters that are kept
    """
    text = ' '.join(_CONTROL.sub(' ', str(reason)).split())
    return text.encode(errors='replace').decode()[:longest]


def dump(record: typing.Any, deployment: str) -> str:
    """Return a record as it is kept.

    :param record: instance of a dataclass whose fields :func:`load` knows
    """
    fields = {field.name: _plain(getattr(record, field.name))
              for field in dataclasses.fields(record)}
    return json.dumps(dict(fields, version=VERSION, deployment=deployment),
                      sort_keys=True)


def load(kind: type[T], text: str, deployment: str) -> T:
    """Return the record that a text stands for.

    Every field must be there, of its type, and no other: what a later release
    has added would be half understood.

    :param kind: dataclass whose fields are annotated with str, int, float,
        bool, an enum, tuple[str, ...], dict[str, str] or dict[str, float], or
        an Optional of these
    :param text: at most :data:`LARGEST` bytes
    :raises ForeignRecord: if it is of another deployment
    :raises OtherRelease: if it is of another release
    :raises RecordError: if it cannot be understood
    """
    fields = _parse(text)
    theirs = fields.pop('deployment', None)
    # Before the version: a pool may be shared with a later release.
    if type(theirs) is str and theirs != deployment:
        raise ForeignRecord('it is of deployment %.80r' % theirs)
    check_version(fields.pop('version', None), VERSION)
    if type(theirs) is not str:
        raise RecordError('it does not say of which deployment it is')
    hints = typing.get_type_hints(kind)
    if set(fields) != set(hints):
        raise RecordError('its fields are not those of a %s' % kind.__name__)
    return kind(**{name: _value(name, value, hints[name])
                   for name, value in fields.items()})


def _parse(text: str) -> dict[str, typing.Any]:
    # Before it is parsed: long numbers take quadratic time.
    if len(text) > LARGEST:
        raise RecordError('it is longer than %d bytes' % LARGEST)
    try:
        fields = json.loads(text, object_pairs_hook=_unique,
                            parse_constant=_refuse)
    except RecordError:
        raise
    except (ValueError, RecursionError) as exc:
        raise RecordError('it is no JSON') from exc
    if not isinstance(fields, dict):
        raise RecordError('it is no JSON object')
    return fields


def _unique(pairs: list[tuple[str, typing.Any]]) -> dict[str, typing.Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise RecordError('it has a field twice')
    return fields


def _refuse(constant: str) -> None:
    raise RecordError('%s is no number' % constant)


def _plain(value: typing.Any) -> typing.Any:
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _value(name: str, value: typing.Any, hint: typing.Any) -> typing.Any:
    try:
        return _checked(value, hint)
    except (TypeError, ValueError, OverflowError) as exc:
        raise RecordError('its %s is not what it may be' % name) from exc


def _checked(value: typing.Any, hint: typing.Any) -> typing.Any:
    """Return a value as its type wants it.

    :raises ValueError, TypeError: if it is of another type
    """
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return None if value is None else _checked(value, arguments[0])
    origin = typing.get_origin(hint) or hint
    if origin is tuple:
        _require(type(value) is list)
        return tuple(_checked(item, arguments[0]) for item in value)
    if origin is dict:
        _require(type(value) is dict)
        return {_text(key): _checked(item, arguments[1])
                for key, item in value.items()}
    if issubclass(origin, enum.Enum):
        # What is nested deeply could not even be put into an error.
        _require(type(value) is str)
        return origin(value)
    if origin is str:
        return _text(value)
    if origin is float:
        _require(type(value) in (int, float))
        number = float(value)
        _require(math.isfinite(number) and number >= 0)
        return number
    # A bool is an int to Python, and not to us.
    _require(type(value) is origin)
    if origin is int:
        _require(0 <= value < 1 << 63)
    return value


def _text(value: object) -> str:
    if (not isinstance(value, str) or len(value) > _LONGEST_TEXT
            or _CONTROL.search(value)):
        raise ValueError
    # Half a surrogate pair, which JSON can spell, fits into no key and no
    # log: UnicodeEncodeError is a ValueError.
    value.encode()
    return value


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
