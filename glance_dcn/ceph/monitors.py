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

"""Asking whether any monitor of a cluster answers, at next to no cost.

A librados client takes a dozen threads, and seconds to find out that a cluster
is away. A monitor begins each connection with a few bytes of its own, so that
a TCP connection that gets any byte proves that there is something to connect
to; a port that accepts, of a monitor that is stopped or of a link that is cut
behind a gateway, proves nothing. The sockets do not block: one call of the
scheduler polls those of all clusters, so that hundreds that are away take no
threads, and a returned one does not wait for them.
"""

from __future__ import annotations

# Left alone by eventlet: its sockets are those of the hub.
import _socket
import collections
from collections.abc import Callable
import contextlib
import errno
import ipaddress
import logging
import os
import random
import re
import time
import typing

from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers

LOG = logging.getLogger(__name__)

#: Seconds that a monitor has to answer: one lost packet is sent again.
TIMEOUT = 2.0

# Clusters that are asked at a time, at least, and more as long as there are so
# many connections at most: one that answers must not wait for hundreds that do
# not. Monitors of each.
_AT_ONCE, _CONNECTIONS = 32, 240
_MONITORS = 6
# Seconds between two polls: each wakes a thread, however many questions wait.
_PAUSE = 0.5
# Ports of monitors where mon_host names none: msgr2, msgr1.
_PORTS = (3300, 6789)
_LAST_PORT = (1 << 16) - 1
# Brackets are around the addresses of one monitor, or around one of IPv6.
_GROUP = re.compile(r'\[(v[12]:\S*?[:/]\d+)\](?=$|[\s,;])', re.ASCII)
_ADDRESS = re.compile(
    r'(?:v[12]:)?(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>\d+(?:\.\d+){3}))'
    r'(?::(?P<port>\d{1,5}))?(?:/\d+)?', re.ASCII)


# What says that this process cannot ask, whatever the monitors would say.
_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Address(typing.NamedTuple):
    """Of a monitor: a numeric IP address and a port."""

    host: str
    port: int


def parse(mon_host: str) -> list[Address]:
    """Return the addresses that the option ``mon_host`` names.

    :param mon_host: as librados has it
    :returns: those in their order; none if one is a host name, which only
        a blocking question would resolve, or cannot be understood
    """
    found = []
    for text in re.split(r'[\s,;]+', _GROUP.sub(r'\1', mon_host)):
        if not text:
            continue
        match = _ADDRESS.fullmatch(text)
        if match is None:
            return []
        ports = [int(match['port'])] if match['port'] else _PORTS
        host = match['six'] or match['four']
        try:
            ipaddress.ip_address(host)
        except ValueError:
            # connect_ex() would resolve it as a name.
            return []
        if max(ports) > _LAST_PORT:
            return []
        found += [Address(host, port) for port in ports]
    return found


class _Question:
    """To the monitors of one cluster.

    :param then: called with None, or why none has answered
    :ivar reason: why none has answered; None if one has, or that cannot be
        told because this process has no socket to ask by
    """

    def __init__(self, addresses: list[Address],
                 then: Callable[[str | None], object]) -> None:
        self.addresses = (random.sample(addresses, _MONITORS)
                          if len(addresses) > _MONITORS else addresses)
        self.then = then
        self.since = 0.0
        self.sockets: list[_socket.socket] = []
        self.reason: str | None = 'they do not accept connections'

    def begin(self, now: float) -> None:
        """Begin to connect, without waiting."""
        self.since = now
        is_ours = False
        for address in self.addresses:
            connecting = None
            try:
                connecting = _socket.socket(
                    _socket.AF_INET6 if ':' in address.host
                    else _socket.AF_INET,
                    _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
                connecting.setblocking(False)
                code = connecting.connect_ex(address)
            except (OSError, OverflowError, ValueError) as exc:
                # Whatever an address may be: others are asked after it.
                code = getattr(exc, 'errno', None) or errno.EIO
            if connecting is not None and code in (0, errno.EINPROGRESS):
                self.sockets.append(connecting)
                continue
            if connecting is not None:
                connecting.close()
            self.reason = os.strerror(code)
            is_ours = is_ours or code in _OURS
        if is_ours and not self.sockets:
            self.reason = None

    def poll(self, now: float) -> bool:
        """Return whether it is over; :attr:`reason` is final then."""
        for connecting in list(self.sockets):
            try:
                if connecting.recv(1):
                    self.reason = None
                    return True
                self.reason = 'the connection was closed'
            except BlockingIOError:
                continue
            except OSError as exc:
                self.reason = exc.strerror or str(exc)
            self.sockets.remove(connecting)
            connecting.close()
        if self.sockets and now - self.since >= TIMEOUT:
            self.reason = 'no answer within %g s' % TIMEOUT
            return True
        return not self.sockets

    def close(self) -> None:
        """Close all connections."""
        for connecting in self.sockets:
            with contextlib.suppress(OSError):
                connecting.close()


class _Questions:
    """Those of one process.

    :ivar lock: held for moments only
    """

    def __init__(self) -> None:
        self.lock = native.lock()
        self.asked: list[_Question] = []
        self.waiting: collections.deque[_Question] = collections.deque()
        self.is_polled = False


class Monitors:
    """Asks the monitors of many clusters, some clusters at a time.

    Safe for use by many threads, and after a fork.

    :param clock: returns seconds of a monotonic clock
    """

    def __init__(self, scheduler: schedulers.Scheduler | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._scheduler = scheduler or process.get(schedulers.Scheduler)
        self._clock = clock
        self._questions = process.ForkLocal(_Questions)

    def ask(self, addresses: list[Address],
            then: Callable[[str | None], object],
            first: bool = False) -> None:
        """Ask whether any of the monitors of a cluster answers.

        :param first: whether a call waits for it: before all that wait
        :param then: called in a thread of the scheduler with None if one
            does, or with the reason as text; it must not block
        """
        questions = self._questions.get()
        with questions.lock:
            (questions.waiting.appendleft if first
             else questions.waiting.append)(_Question(addresses, then))
            begin = not questions.is_polled
            questions.is_polled = True
        if begin:
            self._scheduler.submit(lambda: self.poll(questions))

    def poll(self, questions: _Questions | None = None) -> None:
        """Begin and end what can be; schedule the next poll if need be."""
        questions = questions or self._questions.get()
        now = self._clock()
        with questions.lock:
            while questions.waiting and (
                    len(questions.asked) < _AT_ONCE
                    or sum(len(question.sockets) for question
                           in questions.asked) < _CONNECTIONS):
                question = questions.waiting.popleft()
                questions.asked.append(question)
                question.begin(now)
            over = [question for question in questions.asked
                    if question.poll(now)]
            questions.asked = [question for question in questions.asked
                               if question not in over]
            questions.is_polled = bool(questions.asked or questions.waiting)
            if questions.is_polled:
                self._scheduler.call_later(
                    _PAUSE, lambda: self.poll(questions))
        for question in over:
            question.close()
            try:
                question.then(question.reason)
            except Exception:
                # Others wait for their answers.
                LOG.exception('What was to follow the question to the '
                              'monitors %s failed', question.addresses)
