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


"""Reading YAML of an operator: its nodes, each with its line.

It is read event by event, so that nothing of it is built before its size,
depth and form are known to be harmless. There are no anchors, aliases or
tags in it, every key of a mapping is there once, and a scalar is the text
that was written: its reader knows the type that it has to have.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import stat
import typing

import yaml

if typing.TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Iterator

_Loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
_Default = typing.TypeVar('_Default')
_Number = typing.TypeVar('_Number', int, float)

Path = typing.Union[str, 'os.PathLike[str]']
_LARGEST = 1 << 20
_DEEPEST = 20
_MOST_NODES = 200000
_FLAGS = {'true': True, 'yes': True, 'on': True,
          'false': False, 'no': False, 'off': False}


class Mistake(Exception):
    """Something is wrong in a file of the operator's.

    :ivar line: number of the line, from 1, or None
    """

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        super().__init__('%s: %s' % (
            path if line is None else '%s:%d' % (path, line), reason))


@dataclasses.dataclass
class Scalar:
    """Text, as it was written.

    :ivar plain: whether it stands there without quotes
    """

    line: int
    text: str
    plain: bool

    kind = 'text'


@dataclasses.dataclass
class Sequence:
    """A list of nodes.

    :ivar end: number of the line on which the next node begins
    :ivar flow: whether it is written in brackets
    """

    line: int
    items: list[Node]
    end: int = 0
    flow: bool = False

    kind = 'a list'


@dataclasses.dataclass
class Mapping:
    """Nodes by key.

    :ivar lines: line of each key
    """

    line: int
    items: dict[str, Node]
    lines: dict[str, int]
    end: int = 0

    kind = 'a mapping'


Node = typing.Union[Scalar, Sequence, Mapping]


def read_bytes(path: Path, most: int) -> tuple[bytes, os.stat_result]:
    """Return the first bytes of a regular file, and its status.

    :param most: number of bytes; if there are more, one more is returned
    :returns: no bytes if it is no regular file
    """
    # Not to wait for the writer of a pipe.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, 'rb') as source:
        found = os.fstat(fd)
        regular = stat.S_ISREG(found.st_mode)
        return source.read(most + 1) if regular else b'', found


def read(path: Path) -> str:
    """Return the text of a file that is small enough to parse.

    :raises Mistake: if it cannot be read, is too large, or is no text
    """
    try:
        data, found = read_bytes(path, _LARGEST)
    except OSError as exc:
        raise Mistake(path, None, 'it cannot be read: %s' % exc.strerror)
    if not stat.S_ISREG(found.st_mode):
        raise Mistake(path, None, 'it is no regular file')
    if len(data) > _LARGEST:
        raise Mistake(path, data.count(b'\n') + 1,
                      'the file is larger than %d KiB' % (_LARGEST >> 10))
    try:
        text = data.decode('utf-8')
    except UnicodeDecodeError as exc:
        raise Mistake(path, data.count(b'\n', 0, exc.start) + 1,
                      'this is no text in UTF-8')
    return text[1:] if text.startswith('\ufeff') else text


def load(path: Path) -> Mapping:
    """Return the root node of a file.

    :raises Mistake: if it cannot be read or is no YAML of the form above
    """
    return parse(path, read(path))


def parse(path: Path, text: str) -> Mapping:
    """Return the root node of a text.

    :raises Mistake: if it is no YAML of the form above
    """
    try:
        root = _Builder(path, yaml.parse(text, Loader=_Loader)).build()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise Mistake(path, mark.line + 1 if mark else None,
                      'this is no YAML: %s' % (exc.problem or exc.context))
    except yaml.reader.ReaderError as exc:
        raise Mistake(path, _line_of(text, exc),
                      'this is no YAML: %s' % exc.reason)
    if not isinstance(root, Mapping):
        raise Mistake(path, root.line if root else 1,
                      'a mapping of keys is expected here')
    return root


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None, 'it was read from a text'
    return event.start_mark.line + 1


def _line_of(text: str, exc: yaml.reader.ReaderError) -> int:
    """Return the line of a character that cannot stand in YAML."""
    # libyaml counts bytes, PyYAML's own reader characters.
    if exc.encoding == 'unicode':
        return text.count('\n', 0, exc.position) + 1
    return text.encode().count(b'\n', 0, exc.position) + 1


class _Builder:
    """Makes nodes of YAML's events."""

    def __init__(self, path: Path, events: Iterator[yaml.Event]) -> None:
        self._path = path
        self._events = events
        self._nodes = 0

    def build(self) -> Node | None:
        root = None
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
            elif root and isinstance(event, yaml.DocumentStartEvent):
                raise Mistake(self._path, _line(event), 'a second document '
                              'begins here; there can be one')
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        """Return the node that begins with an event, and take its events."""
        assert isinstance(event, yaml.NodeEvent), 'keys have values'
        line = _line(event)
        self._check(event, line)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(line, event.value, event.implicit[0])
        if depth >= _DEEPEST:
            raise Mistake(self._path, line, 'it is nested deeper than '
                          '%d levels' % _DEEPEST)
        node = (Sequence(line, [], flow=bool(event.flow_style))
                if isinstance(event, yaml.SequenceStartEvent)
                else Mapping(line, {}, {}))
        for inner in self._events:
            if isinstance(inner, yaml.CollectionEndEvent):
                node.end = _line(inner)
                break
            child = self._node(inner, depth + 1)
            if isinstance(node, Sequence):
                node.items.append(child)
            else:
                key = self._key(node, child)
                node.items[key] = self._node(next(self._events), depth + 1)
        return node

    def _check(self, event: yaml.NodeEvent, line: int) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise Mistake(self._path, line, 'anchors (&) and aliases (*) '
                          'are not taken; write it out')
        tag = getattr(event, 'tag', None)
        if tag not in (None, '!'):
            raise Mistake(self._path, line, 'tags (%s) are not taken'
                          % _short(tag))
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise Mistake(self._path, line, 'it says more than %d things'
                          % _MOST_NODES)

    def _key(self, parent: Mapping, node: Node) -> str:
        if not isinstance(node, Scalar):
            raise Mistake(self._path, node.line, 'a key must be text')
        if node.text in parent.lines:
            raise Mistake(
                self._path, node.line, 'key %r is given twice; the first is '
                'in line %d' % (_short(node.text), parent.lines[node.text]))
        parent.lines[node.text] = node.line
        return node.text


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + '...'


def nearest(word: str, words: Collection[str]) -> str:
    """Return a hint at the word that was probably meant, or ''."""
    found = difflib.get_close_matches(word, words, 1, 0.6)
    return ' (did you mean %r?)' % found[0] if found else ''


class Fields:
    """The keys of a mapping, asked for by name and type.

    :param path: of the file, for messages
    :raises Mistake: if it is none, or has other keys
    """

    def __init__(self, path: Path, node: Node, what: str,
                 known: Collection[str]) -> None:
        self.path = path
        self.line = node.line
        if not isinstance(node, Mapping):
            raise Mistake(path, node.line, '%s must be a mapping of keys, '
                          'but this is %s' % (what, node.kind))
        self._what = what
        self._known = known
        self._items = node.items
        self._lines = node.lines
        for key in node.items:
            if key not in known:
                raise Mistake(
                    path, node.lines[key], '%s has no key %r%s; there are: %s'
                    % (what, _short(key), nearest(key, known),
                       ', '.join(known)))

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def over(self, other: Fields) -> Fields:
        """Return these keys, and those of another that are not here."""
        return Fields(self.path, Mapping(
            self.line, {**other._items, **self._items},
            {**other._lines, **self._lines}), self._what, self._known)

    def line_of(self, key: str) -> int:
        """Return the line of a key, or of the mapping if it is not there."""
        return self._lines.get(key, self.line)

    def mistake(self, key: str, reason: str) -> Mistake:
        """Return the mistake for the value of a key."""
        return Mistake(self.path, self.line_of(key), reason)

    def node(self, key: str) -> Node | None:
        """Return the node of a key, or None."""
        return self._items.get(key)

    def fields(self, key: str, known: Collection[str]) -> Fields:
        """Return the keys of a mapping, which has none if it is not there."""
        node = self._items.get(key) or Mapping(self.line, {}, {})
        return Fields(self.path, node, key, known)

    def require(self, key: str, why: str = '') -> None:
        """Raise Mistake if a key is not there."""
        if key not in self._items:
            raise Mistake(self.path, self.line, '%s needs the key %r%s'
                          % (self._what, key, why))

    def required_text(self, key: str) -> str:
        """Return a value that is one line of text, and must be there."""
        self.require(key)
        return text_of(self.path, self._items[key], key)

    def text(self, key: str, default: _Default) -> str | _Default:
        """Return a value that is one line of text."""
        return self.required_text(key) if key in self._items else default

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a value that is a list of texts, as a tuple."""
        node = self._items.get(key, Sequence(self.line, []))
        if not isinstance(node, Sequence):
            raise Mistake(self.path, node.line, '%s must be a list, but this '
                          'is %s' % (key, node.kind))
        return tuple(text_of(self.path, item, 'each of ' + key)
                     for item in node.items)

    def flag(self, key: str) -> bool:
        """Return a value that is true or false, false without a value."""
        node = self._items.get(key)
        if node is None:
            return False
        word = (node.text.lower()
                if isinstance(node, Scalar) and node.plain else '')
        if word not in _FLAGS:
            raise Mistake(self.path, node.line,
                          '%s must be true or false' % key)
        return _FLAGS[word]

    def number(self, key: str, default: _Default, least: int = 0,
               most: int | None = None) -> int | _Default:
        """Return a value that is a whole number."""
        return (self._number(key, int, least, most) if key in self._items
                else default)

    def fraction(self, key: str) -> float | None:
        """Return a value that is a number from 0, or None."""
        return self._number(key, float) if key in self._items else None

    def _number(self, key: str, kind: type[_Number], least: int = 0,
                most: int | None = None) -> _Number:
        node = self._items[key]
        value: _Number | None = None
        if isinstance(node, Scalar) and node.plain and node.text.isascii():
            try:
                value = kind(node.text.replace('_', 'x'))
            except ValueError:
                pass
        # Neither can NaN be compared.
        if value is None or not (least <= value
                                 <= (1e15 if most is None else most)):
            raise Mistake(self.path, node.line, '%s must be a %snumber, %s'
                          % (key, 'whole ' if kind is int else '',
                             '%s or more' % least if most is None
                             else 'from %s to %s' % (least, most)))
        return value


def text_of(path: Path, node: Node, what: str) -> str:
    """Return the text of a node.

    :raises Mistake: if it is none, is empty, or is more than one line
    """
    if not isinstance(node, Scalar):
        raise Mistake(path, node.line, '%s must be text, but this is %s'
                      % (what, node.kind))
    if not node.text.strip() or (node.plain and node.text in ('~', 'null')):
        raise Mistake(path, node.line, '%s is empty' % what)
    # Neither can stand in the files that are written.
    if not node.text.isprintable():
        raise Mistake(path, node.line, '%s must be one line of printable '
                      'text' % what)
    return node.text
