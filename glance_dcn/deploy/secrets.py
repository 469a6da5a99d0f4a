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


"""Secrets, which a sites file refers to and does not contain."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
import re
import stat

from glance_dcn.deploy import sitesfile

_LARGEST = 64 << 10
_SECTION = re.compile(r'\[\s*([^\]]+?)\s*\]\s*')
_KEY = re.compile(r'key\s*=\s*(\S+)\s*')


@dataclasses.dataclass(frozen=True)
class Secret:
    """Where a secret is to be found.

    :ivar path: of the sites file
    :ivar line: on which it refers to the secret
    """

    path: str
    line: int
    file: str | None = None
    env: str | None = None
    value: str | None = dataclasses.field(default=None, repr=False)

    def check(self) -> None:
        """Raise Mistake if others may read the file; it need not be there.

        :raises sitesfile.Mistake: which names the sites file
        """
        if self.file is None:
            return
        try:
            found = os.stat(self.file)
        except OSError:
            return
        self._check_mode(found)

    def read(self) -> str:
        """Return the secret, as text without the blanks around it.

        :raises sitesfile.Mistake: if it cannot be had
        """
        if self.value is not None:
            return self.value
        if self.file is not None:
            return self._read_file(self.file)
        text = os.environ.get(self.env or '', '').strip()
        if not text:
            raise self._mistake('the environment variable %s is not set'
                                % self.env)
        return text

    def read_line(self) -> str:
        """Return the secret, which must be one line.

        :raises sitesfile.Mistake: if it is not, or cannot be had
        """
        text = self.read()
        # It becomes a value in a conf file.
        if not text.isprintable():
            raise self._mistake('what %s has is not one line of text'
                                % self._place)
        return text

    def read_key(self, user: str) -> str:
        """Return a cephx key, out of a keyring or a file with nothing else.

        :param user: without ``client.``
        :raises sitesfile.Mistake: if there is none
        """
        text = self.read()
        key = _key_of(text, 'client.%s' % user) if '[' in text else text
        if key is None:
            raise self._mistake('%s has no key of client.%s'
                                % (self._place, user))
        if not is_key(key):
            raise self._mistake('%s is no cephx key' % (
                'what %s has' % self._place if self.value is None
                else 'this'))
        return key

    @property
    def _place(self) -> str:
        return self.file or 'the environment variable %s' % self.env

    def _mistake(self, reason: str) -> sitesfile.Mistake:
        return sitesfile.Mistake(self.path, self.line, reason)

    def _check_mode(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise self._mistake('%s is no regular file' % self.file)
        if found.st_mode & stat.S_IRWXO:
            raise self._mistake(
                'everybody may use %s (mode %o); take that right away with '
                'chmod o-rwx, and if others may have read the key, make '
                'another one' % (self.file, stat.S_IMODE(found.st_mode)))

    def _read_file(self, path: str) -> str:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, 'rb') as source:
                self._check_mode(os.fstat(fd))
                data = source.read(_LARGEST + 1)
        except OSError as exc:
            raise self._mistake('%s cannot be read: %s'
                                % (path, exc.strerror))
        if len(data) > _LARGEST:
            raise self._mistake('%s is larger than %d KiB'
                                % (path, _LARGEST >> 10))
        try:
            text = data.decode().strip()
        except UnicodeDecodeError:
            raise self._mistake('%s is no text' % path)
        if not text:
            raise self._mistake('%s is empty' % path)
        return text


def _key_of(text: str, entity: str) -> str | None:
    """Return the key of an entity in the text of a keyring, or None."""
    current = key = None
    for line in text.splitlines():
        section = _SECTION.fullmatch(line.strip())
        if section:
            current = section.group(1)
        elif current == entity:
            found = _KEY.fullmatch(line.strip())
            key = found.group(1) if found else key
    return key


def is_key(text: str) -> bool:
    """Return whether a text has the form of a cephx key."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    # Type, time and length of the secret come before it.
    return len(data) > 12 and len(data) - 12 == int.from_bytes(data[10:12],
                                                               'little')
