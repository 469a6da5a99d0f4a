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

"""A raw image in a local file that is still being written."""

from __future__ import annotations

import pathlib

from glance_dcn.engine.backends import base
from glance_dcn.engine.backends import file
from glance_dcn.engine import extents
from glance_dcn.runtime import native


# Bytes before the end of what is there that may still be on their way.
_MARGIN = 2 * extents.REQUEST
# Seconds between looks at a file that does not grow.
_PAUSE = 0.05


class Growing(file.File):
    """A file that is written from its beginning to its end, read meanwhile.

    Data says that everything before it is final, holes too::

        -----####---####????.........................
                        |margin|   not written yet

    A writer that goes back makes what is read worthless: prove it against
    what the file has in the end.

    :param size: bytes that it will have
    :raises RequestError: when it cannot be opened
    """

    def __init__(self, path: str | pathlib.Path, size: int) -> None:
        super().__init__(path)
        self.size = size
        self._complete = False
        self._changed: native.Queue[None] = native.Queue()

    def complete(self) -> None:
        """Tell that all of it is there. Any thread may call it."""
        self._complete = True
        self._changed.put(None)

    def close(self) -> None:
        """Close it; who waits for its extents waits no longer."""
        super().close()
        self._changed.put(None)

    def extents(self, offset: int = 0,
                length: int | None = None) -> base.Extents:
        position, end = offset, self._end(offset, length)
        while position < end and not self._closed:
            # To be asked before looking.
            complete = self._complete
            found = list(self._data(position, end))
            final = end if complete else self._final(found)
            if final > position:
                yield from extents.cover(found, position, final)
                position = final
            else:
                self._wait()

    def _final(self, found: list[tuple[int, int]]) -> int:
        """Return where that which is final ends."""
        if not found:
            return 0
        start, length = found[-1]
        return max(0, start + length - _MARGIN) // extents.BLOCK \
            * extents.BLOCK

    def _wait(self) -> None:
        try:
            self._changed.get(timeout=_PAUSE)
        except native.Empty:
            pass
