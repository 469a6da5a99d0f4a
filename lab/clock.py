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

"""A clock of its own for a process of the lab, which can be stepped.

Of libfaketime's means, changing the time of day alone makes Python's
``time.sleep()`` fail; a time namespace changes the monotonic clocks alone.
"""

import pathlib
import struct

from lab import process

_SOURCE = pathlib.Path(__file__).with_name('clock.c')
_SECOND = 10 ** 9


class Clock:
    """The time of day of some processes: the machine's, and an offset.

    :param directory: where its files are kept
    """

    def __init__(self, directory):
        self._directory = pathlib.Path(directory)
        self._file = self._directory / 'clock'
        self._library = self._directory / 'clock.so'

    def make(self):
        """Make its files, unless they are there.

        :raises process.LabError: if there is no C compiler
        """
        if self._library.exists():
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        self.step(0)
        process.run(['cc', '-O2', '-Wall', '-shared', '-fPIC', '-o',
                     self._library, _SOURCE, '-ldl'])

    @property
    def environment(self):
        """Environment variables of a process that is to have it."""
        return {'LD_PRELOAD': str(self._library),
                'LAB_CLOCK': str(self._file)}

    @property
    def offset(self):
        """Seconds that it is ahead of the machine's, or behind if negative."""
        return struct.unpack('=q', self._file.read_bytes())[0] / _SECOND

    def step(self, offset):
        """Set it; that counts at once.

        :param offset: seconds ahead of the machine's
        """
        # Written in place: those who have the file mapped must see it.
        mode = 'r+b' if self._file.exists() else 'wb'
        with self._file.open(mode) as file:
            file.write(struct.pack('=q', int(offset * _SECOND)))
