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


"""Reads the data of one source, many requests at a time.

The source's extents are listed by a thread of its own, a bounded number of
requests ahead of the reads.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
import itertools
import typing

from glance_dcn.engine.backends import base
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import pacing
from glance_dcn.runtime import native


# The lister hands over this many requests at a time ...
_BATCH = 64
# ... and is this many batches ahead at most.
_AHEAD = 16


class Request(typing.NamedTuple):
    """A read: its place in the order of all, and its range in bytes."""

    sequence: int
    offset: int
    length: int


class SourceReader:
    """Reads one source, which can be replaced by another of the same content.

    What is asked of the source that failed is then asked of the other, in the
    same order, and the listing goes on where it stopped. What the first one
    still answers is left aside.

    :param arrived: called in the loop's thread with each request and its
        bytes, in any order
    :param offset: where to begin, in bytes
    :param length: bytes, or None for all that follows
    :param timeout: seconds without progress after which it is given up
    :ivar listed: whether all extents are known
    :ivar planned: bytes of the requests listed so far
    :ivar bytes_read: bytes of the requests answered so far
    :ivar reserved: bytes of the requests in flight
    """

    def __init__(self, loop: pacing.Loop, source: base.Endpoint,
                 arrived: Callable[[Request, bytes], object],
                 offset: int = 0, length: int | None = None,
                 timeout: float = 60, rate: pacing.Rate | None = None) -> None:
        self._loop = loop
        self._source = source
        self._arrived = arrived
        self._range = offset, length
        self._timeout = timeout
        self.rate = rate or pacing.Rate()
        self._ready: collections.deque[Request] = collections.deque()
        self._in_flight: dict[int, Request] = {}
        self._sequence = itertools.count()
        self._taken = 0
        self._credits: native.Queue[None] = native.Queue()
        # Stands for the present source, in what comes from it.
        self._token: object | None = object()
        self._error: Exception | None = None
        self._last_progress = loop.clock()
        self.listed = False
        self.planned = self.bytes_read = self.reserved = 0
        # Everything below it is read, or a hole; below the other, listed.
        self._end = self._listed_to = offset

    def start(self) -> None:
        """Begin to list the source's extents."""
        for _ in range(_AHEAD):
            self._credits.put(None)
        native.start('extents', self._list, self._source, self._range,
                     self._token, self._credits)

    def stop(self) -> None:
        """Let the lister end. Requests in flight are left alone."""
        self._token = None
        self._credits.put(None)

    def replace(self, source: base.Endpoint) -> None:
        """Continue with another source, which must have the same content."""
        self._credits.put(None)
        self._token, self._error = object(), None
        self._source = source
        self._ready.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()
        self.reserved = 0
        self._last_progress = self._loop.clock()
        if self.listed:
            return
        offset, length = self._range
        if length is not None:
            length -= self._listed_to - offset
        self._range = self._listed_to, length
        self._credits = native.Queue()
        self.start()

    @property
    def finished(self) -> bool:
        """Whether all data has been read."""
        return self.listed and not self._ready and not self._in_flight

    @property
    def low_watermark(self) -> int:
        """Offset in bytes below which nothing is still to come."""
        if self._in_flight:
            return next(iter(self._in_flight.values())).offset
        if self._ready:
            return self._ready[0].offset
        return self._end

    def is_blocked(self, room: Callable[[int], bool]) -> bool:
        """Return whether nothing but memory keeps it from reading on."""
        return (bool(self._ready) and not room(self._ready[0].length)
                and not self.rate.delay())

    def submit(self, room: Callable[[int], bool]) -> None:
        """Start the reads that rate and memory allow.

        :param room: called with a length in bytes; returns whether so much
            may be read now
        """
        while self._ready and room(self._ready[0].length):
            if self.rate.delay():
                break
            request = self._ready.popleft()
            self._in_flight[request.sequence] = request
            self.reserved += request.length
            self._end = request.offset + request.length
            self._last_progress = self._loop.clock()
            # Now, not when it arrives: by then all others would be on their
            # way. The bytes of holes in it are given back.
            self.rate.charge(request.length)
            self._taken += 1
            if self._taken % _BATCH == 0:
                self._credits.put(None)
            self._source.read(request.offset, request.length,
                              self._loop.callback(
                                  self._read, (self._token, request)))

    def check(self) -> None:
        """Check that the source makes progress.

        :raises EngineError: its error
        :raises Stalled: it makes no progress
        :raises Lost: its site does not answer
        """
        if self._error is not None:
            raise self._error
        now = self._loop.clock()
        if not self._in_flight and (self._ready or self.listed):
            # There is nothing to wait for.
            self._last_progress = now
        elif now - self._last_progress > self._timeout:
            raise errors.Stalled(
                self._source.name,
                'read' if self._in_flight else 'list extents', self._timeout,
                self.low_watermark)
        elif now - self._last_progress > errors.QUIET:
            error = self._source.lost()
            if error is not None:
                raise error

    def _read(self, asked: tuple[object, Request],
              result: bytes | Exception) -> None:
        token, request = asked
        if token is not self._token:
            # A source that was replaced answers after all.
            return
        if isinstance(result, Exception):
            self._fail(result)
            return
        if len(result) != request.length:
            self._fail(errors.ShortRead(self._source.name, 'read', None,
                                        request.offset, request.length))
            return
        del self._in_flight[request.sequence]
        self._last_progress = self._loop.clock()
        self.reserved -= request.length
        self.bytes_read += request.length
        self._arrived(request, result)

    def _fail(self, error: Exception) -> None:
        # The first is the cause; the others follow from it.
        self._error = self._error or error

    def _list(self, source: base.Endpoint, range_: tuple[int, int | None],
              token: object, credits_: native.Queue[None]) -> None:
        tell = self._loop.callback(self._listed, token)
        try:
            found = extents.requests(source.extents(*range_), source.size,
                                     source.limit)
            while token is self._token:
                batch = list(itertools.islice(found, _BATCH))
                credits_.get()
                tell(batch)
                if not batch:
                    break
        except Exception as error:
            tell(error)

    def _listed(self, token: object,
                batch: list[tuple[int, int]] | Exception) -> None:
        if token is not self._token:
            return
        if isinstance(batch, Exception):
            self._fail(batch)
            return
        self._last_progress = self._loop.clock()
        if not batch:
            self.listed = True
        for offset, length in batch:
            self.planned += length
            self._listed_to = offset + length
            self._ready.append(Request(next(self._sequence), offset, length))
