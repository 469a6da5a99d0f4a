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


"""Faults that cannot be had for real, and a clock that is set by hand."""

import random

from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import pacing
from glance_dcn.runtime import native
from tests.unit.engine import memory

BLOCK = extents.BLOCK


class Clock:
    """Seconds, advanced by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Loop(pacing.Loop):
    """A loop on a fake clock: waiting takes no time, but advances it.

    :ivar timers: [(time, function)] run when their time comes
    """

    def __init__(self):
        super().__init__(Clock())
        self.timers = []

    def later(self, seconds, function):
        """Run a function after fake seconds."""
        self.timers.append((self.clock.now + seconds, function))
        self.timers.sort(key=lambda timer: timer[0])

    def _wait(self, timeout):
        try:
            return self._queue.get_nowait()
        except native.Empty:
            pass
        end = self.clock.now + timeout
        while self.timers and self.timers[0][0] <= end:
            when, function = self.timers.pop(0)
            self.clock.now = max(self.clock.now, when)
            function()
            try:
                return self._queue.get_nowait()
            except native.Empty:
                pass
        self.clock.now = end
        # Threads that compute digests live on the real clock.
        return self._queue.get(timeout=0.0001)


class Faulty(memory.Memory):
    """A memory image whose requests can be late, lost or refused.

    :param loop: a :class:`Loop`, for delays
    :param delay: seconds until a request is answered
    :param fail_at: {operation: number of the request that fails}
    :param stall_at: {operation: number of the request from which on no more
        are answered}
    """

    def __init__(self, *args, loop=None, delay=0, fail_at=None,
                 stall_at=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.loop = loop
        self.delay = delay
        self.fail_at = fail_at or {}
        self.stall_at = stall_at or {}
        self.counts = {'read': 0, 'write': 0, 'flush': 0}
        self.requests = []
        self.stalled = []

    def read(self, offset, length, done):
        self.requests.append(('read', offset, length))
        self._fault('read', offset, done,
                    lambda: super(Faulty, self).read(offset, length, done))

    def write(self, offset, data, done):
        self.requests.append(('write', offset, len(data)))
        self._fault('write', offset, done,
                    lambda: super(Faulty, self).write(offset, data, done))

    def flush(self, done):
        self._fault('flush', None, done,
                    lambda: super(Faulty, self).flush(done))

    def _fault(self, operation, offset, done, request):
        number = self.counts[operation]
        self.counts[operation] += 1
        if number >= self.stall_at.get(operation, number + 1):
            self.stalled.append((done, request))
        elif number == self.fail_at.get(operation):
            done(errors.RequestError(self.name, operation, 5, offset))
        elif self.delay:
            self.loop.later(self.delay, request)
        else:
            request()


class Shuffled(memory.Memory):
    """A memory image that answers its reads out of order."""

    def __init__(self, *args, seed=0, **kwargs):
        super().__init__(*args, **kwargs)
        self._random = random.Random(seed)
        self._late = []

    def read(self, offset, length, done):
        self._late.append(
            lambda: super(Shuffled, self).read(offset, length, done))
        # Always let one go, and at the end all of them.
        self._random.shuffle(self._late)
        self._late.pop()()
        if len(self._late) > 8 or self._last(offset + length):
            while self._late:
                self._late.pop()()

    def _last(self, end):
        return end >= min((max(self.blocks) + 1) * BLOCK, self.size)


def scattered(size, share=0.5, seed=0):
    """Return bytes of an image with runs of data and zeros."""
    chance = random.Random(seed)
    data = bytearray(size)
    at = 0
    while at < size:
        length = min(size - at, chance.randrange(1, 6 * BLOCK))
        if chance.random() < share:
            data[at:at + length] = chance.randbytes(length)
        at += length
    return bytes(data)
