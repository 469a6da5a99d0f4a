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


"""The contract between the engine and a place where an image is kept.

Requests are asynchronous. ``read``, ``write`` and ``flush`` return at once
and later call ``done(result)`` exactly once, from any thread, maybe from
within the call itself. The result is the bytes read, or None, or an
:class:`~glance_dcn.engine.errors.EngineError`; they raise nothing. ``done``
takes no time and no lock.

Any number of requests may be in flight. There is no order among them.
"""

import itertools

from glance_dcn.engine import errors
from glance_dcn.engine import extents


class Endpoint:
    """One image, open.

    :ivar name: what errors and progress call it, such as 'dcn0: images/ID'
    :ivar size: bytes
    :ivar limit: bytes; requests crossing a multiple of it cost more
    """

    limit = extents.REQUEST

    def __init__(self, name):
        self.name = name
        self.size = 0
        self._tokens = itertools.count()
        # Adding to and discarding from a set are atomic.
        self._flying = set()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    @property
    def in_flight(self):
        """Number of requests that are not answered yet."""
        return len(self._flying)

    def extents(self, offset=0, length=None):
        """Iterate over :class:`~glance_dcn.engine.extents.Extent`.

        They are in order and cover offset to offset + length exactly. It may
        block and is used from a thread of its own, while requests go on.

        :param offset: bytes
        :param length: bytes, or None for all that follows
        :raises RequestError: when they cannot be told
        """
        raise NotImplementedError

    def read(self, offset, length, done):
        """Read; the result is exactly ``length`` bytes."""
        raise NotImplementedError

    def write(self, offset, data, done):
        """Write bytes, which must lie within the size."""
        raise NotImplementedError

    def flush(self, done):
        """Make durable all writes that were answered before."""
        raise NotImplementedError

    def lost(self):
        """Return an error if no answer is to be waited for any more, or None.

        It is asked now and then while there is none, and takes no time.

        :returns: :class:`~glance_dcn.engine.errors.RequestError` or None
        """

    def resize(self, size):
        """Set the size, in bytes, and wait until it is done.

        :raises RequestError: when it fails
        """
        raise NotImplementedError

    def close(self):
        """Close without waiting for requests that are not answered."""

    def _begin(self):
        token = next(self._tokens)
        self._flying.add(token)
        return token

    def _error(self, operation, errno, offset=None, length=None):
        return errors.RequestError(self.name, operation, errno, offset,
                                   length)

    def _end(self, offset, length):
        """The end of a range given to extents()."""
        if length is None:
            return self.size
        return min(self.size, offset + length)
