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
import contextlib
import dataclasses
import functools
import time
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import monitors
from glance_dcn.ceph import probe
from glance_dcn.ceph import trial
from glance_dcn.checks import subjects
from glance_dcn.engine import native
from glance_dcn.runtime import scheduler as schedulers
from glance_dcn.sites import home as homes
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks

# Sites at a time: each takes a client.
_AT_ONCE = schedulers.Limit('status', 24)


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
    :ivar tasks: numbers of deferred tasks for it, by their actions
    :ivar images: names of RBD images that are to be deleted there
    """

    name: str
    state: str = health.UNKNOWN
    reason: typing.Optional[str] = None
    fsid: typing.Optional[str] = None
    round_trip: typing.Optional[float] = None
    total: typing.Optional[int] = None
    free: typing.Optional[int] = None
    tasks: dict = dataclasses.field(default_factory=dict)
    images: set = dataclasses.field(default_factory=set)


class Looks:
    """Looks at many sites at once, in threads of the scheduler.

    Each takes a client, which has a dozen threads. So first the monitors of
    all are asked, at the cost of a socket each, and what does not answer takes
    none.

    :param targets: list of :class:`glance_dcn.checks.subjects.Target`
    :param deployment: identity of the deployment, whose tasks are counted
    """

    def __init__(self, targets, deployment=''):
        self._deployment = deployment
        self._queue = native.Queue()
        self._states = {target.name: State(target.name)
                        for target in targets}
        # Deferred tasks by the store that they are for.
        self._records = collections.defaultdict(list)
        for target in targets:
            self._begin(subjects.Site(target, None))

    def _begin(self, site):
        addresses = []
        # What is wrong with its files is found by the look itself.
        with contextlib.suppress(errors.ClusterError):
            site.maker.check_files()
            addresses = monitors.parse(site.maker.mon_host)
        if addresses:
            monitors.PROCESS.ask(addresses, functools.partial(
                self._on_answer, site))
        else:
            self._on_answer(site, None)

    def _on_answer(self, site, reason):
        """Go on when the monitors of a site were asked.

        :param reason: why none has answered, or None
        """
        if reason is None:
            schedulers.PROCESS.submit(
                functools.partial(self._look, site), _AT_ONCE)
        else:
            self._queue.put((State(
                site.name, health.DOWN,
                'the monitors do not answer (%s)' % reason), []))

    def _look(self, site):
        state = State(site.name)
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
        if site.keeps_records:
            # Other sites keep their own, and show them there.
            store = stores.TaskStore(homes.Home(site), self._deployment)
            records += [record for record in store.scan().records
                        if isinstance(record, tasks.Task)]

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
            for record in records:
                if record.site in self._states:
                    self._records[record.site].append(record)
        for name in left:
            self._states[name] = State(name, health.DOWN,
                                       'no answer within %d s' % timeout)
        for name, records in self._records.items():
            state = self._states[name]
            state.tasks = dict(collections.Counter(
                record.action.value for record in records))
            state.images = {record.image for record in records}
        return list(self._states.values())


def _state(exc):
    if isinstance(exc, errors.NotDeployed):
        return health.NOT_DEPLOYED
    if isinstance(exc, errors.Misconfigured):
        return health.MISCONFIGURED
    return health.DOWN
