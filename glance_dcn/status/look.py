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

"""How sites are at this moment, as seen from this node."""

import collections
import dataclasses
import time
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import probe
from glance_dcn.ceph import trial
from glance_dcn.checks import subjects
from glance_dcn.engine import native
from glance_dcn.sites import intents
from glance_dcn.sites import owed


@dataclasses.dataclass
class State:
    """How a site is.

    :ivar name: of the store
    :ivar state: one of the states of :mod:`glance_dcn.ceph.health`
    :ivar reason: why it is not up, or None
    :ivar fsid: of its cluster, or None
    :ivar round_trip: seconds to one of its OSDs, or None
    :ivar total: bytes that the cluster has, or None
    :ivar free: bytes that are free, or None
    :ivar owed: dict of numbers by job that is owed to it
    :ivar images: names of RBD images that work is owed for
    """

    name: str
    state: str = health.UNKNOWN
    reason: typing.Optional[str] = None
    fsid: typing.Optional[str] = None
    round_trip: typing.Optional[float] = None
    total: typing.Optional[int] = None
    free: typing.Optional[int] = None
    owed: dict = dataclasses.field(default_factory=dict)
    images: set = dataclasses.field(default_factory=set)


class Looks:
    """Looks at all sites at once, each in a thread of its own.

    :param targets: list of :class:`glance_dcn.checks.subjects.Target`
    """

    def __init__(self, targets):
        self._targets = targets
        self._queue = native.Queue()
        self._states = {target.name: State(target.name)
                        for target in targets}
        # Records found in a pool, by the store that they are owed to.
        self._records = collections.defaultdict(list)
        for target in targets:
            native.start('dcn-look-%s' % target.name, self._look, target)

    def _look(self, target):
        site = subjects.Site(target, None)
        state = State(target.name)
        records = []
        try:
            self._ask(site, state, records)
        except errors.ClusterError as exc:
            state.state = _state(exc)
            state.reason = exc.reason
        except Exception as exc:
            state.state, state.reason = health.DOWN, str(exc)
        self._queue.put((state, records))
        # Nobody waits for that.
        site.close()

    def _ask(self, site, state, records):
        site.connect()
        site.open()
        state.fsid = site.fsid
        probe.ask(site.ioctx)
        state.round_trip = trial.round_trip(site.ioctx)
        try:
            state.total, state.free = trial.room(site.client)
        except trial.Error:
            pass
        state.state = health.UP
        records += [(site.name, record) for record in _records(
            site, owed.OBJECT)]
        # Work owed to others is recorded at the default site, and what is owed
        # to that at any other.
        for other in self._targets:
            if other.name != site.name and (site.target.default
                                            or other.default):
                records += [(other.name, record) for record in _records(
                    site, '%s.%s' % (owed.OBJECT, other.name))]

    def wait(self, timeout):
        """Return the list of :class:`State`, in the order of the targets.

        :param timeout: seconds until a site that was silent is called down
        """
        deadline = time.monotonic() + timeout
        left = set(self._states)
        while left:
            try:
                state, records = native.get(
                    self._queue, max(0, deadline - time.monotonic()))
            except native.Empty:
                break
            self._states[state.name] = state
            left.discard(state.name)
            for name, record in records:
                self._records[name].append(record)
        for name in left:
            self._states[name] = State(name, health.DOWN,
                                       'no answer within %d s' % timeout)
        for name, records in self._records.items():
            state = self._states[name]
            state.owed = dict(collections.Counter(
                record.job for record in records))
            state.images = {record.image for record in records}
        return list(self._states.values())


def _records(site, name):
    """Return the records of a place, without what living writers do."""
    return [record for record in owed.Place(site, name).records()
            if record.writer is None
            or not intents.is_alive(site.ioctx, record.writer)]


def _state(exc):
    if isinstance(exc, errors.NotDeployed):
        return health.NOT_DEPLOYED
    if isinstance(exc, errors.Misconfigured):
        return health.MISCONFIGURED
    return health.DOWN
