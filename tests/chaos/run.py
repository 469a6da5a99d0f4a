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

"""A randomised run: operations by some clients, and faults meanwhile."""

import collections
import contextlib
import dataclasses
import os
import queue
import signal
import threading
import time

from lab import faults
from lab import process
from tests.chaos import deleted_source
from tests.chaos import forge
from tests.chaos import operations


@dataclasses.dataclass
class Done:
    """One operation or fault that was carried out.

    :ivar what: :class:`tests.chaos.plan.Operation`, or a Fault
    :ivar outcome: see :mod:`tests.chaos.operations`; of a fault, ``caused``,
        ``impossible`` or ``left out``
    :ivar detail: in words
    :ivar seconds: from its start to its end
    """

    what: object
    outcome: str
    detail: str
    seconds: float


class Run:
    """Carries a plan out.

    :ivar operations: list of :class:`Done`
    :ivar faults: list of :class:`Done`
    :ivar wrong: list of what downloads gave that they should not
    :ivar known: see :class:`tests.chaos.operations.Operations`
    :ivar forger: :class:`tests.chaos.forge.Forger`

    :param stage: :class:`tests.chaos.stage.Stage`
    :param plan: :class:`tests.chaos.plan.Plan`
    :param seed: of the plan
    :param clients: operations at the same time
    :param log: called with a line of text
    """

    def __init__(self, stage, plan, seed, clients, log):
        self._stage = stage
        self._plan = plan
        self._clients = clients
        self._log = log
        self._over = threading.Event()
        self._operations = operations.Operations(
            stage, plan.operations, plan.faults, seed, self._over)
        self._next = iter(plan.operations)
        self._due = collections.defaultdict(list)
        for fault in plan.faults:
            self._due[fault.after].append(fault)
        self._lock = threading.Lock()
        self._queues = {fault.lane: queue.Queue() for fault in plan.faults}
        self.known = self._operations.known
        self.forger = forge.Forger(stage, self._operations)
        self._sources = deleted_source.DeletedSources(stage,
                                                      self._operations)
        self.operations = []
        self.faults = []
        self.wrong = []

    def go(self):
        """Carry the plan out, and bring every site back at the end."""
        clients = [threading.Thread(target=self._client)
                   for _ in range(self._clients)]
        troublers = [threading.Thread(target=self._trouble, args=(lane,))
                     for lane in self._queues]
        for thread in troublers + clients:
            thread.start()
        for thread in clients:
            thread.join()
        self._over.set()
        for waiting in self._queues.values():
            waiting.put(None)
        for thread in troublers:
            thread.join()

    def repeat_deletions(self):
        """Ask once more for deletions that were asked for and refused.

        Glance removes an image from one store after the other. Where that is
        broken off it answers an error and keeps all locations, those of what
        is removed already too, until its user has repeated it.
        """
        self._sources.repair()
        api = self._stage.api(self._stage.lab.sites[0], 0)
        for known in self.known.values():
            if known.doomed and known.id and not known.deleted:
                answer = api.request('DELETE', '/v2/images/%s' % known.id)
                known.deleted = answer.status_code in (204, 404)
                self._log('deletion of image %d repeated: %d' % (
                    known.image.number, answer.status_code))

    def _client(self):
        while True:
            with self._lock:
                operation = next(self._next, None)
                if operation is None:
                    return
                for fault in self._due[operation.number]:
                    self._queues[fault.lane].put(fault)
            self._carry_out(operation)

    def _carry_out(self, operation):
        self._log('begin %s' % operation)
        started = time.monotonic()
        try:
            outcome, detail = self._operations.run(operation)
        except operations.WrongData as exc:
            outcome, detail = 'wrong', str(exc)
            self.wrong.append(detail)
        except Exception as exc:
            # A client that dies would leave the others waiting for its image.
            outcome, detail = 'broken', repr(exc)
            self.wrong.append('%s: %s' % (operation, detail))
        self._note(self.operations, operation, outcome, detail, started)

    def _note(self, done, what, outcome, detail, started):
        seconds = time.monotonic() - started
        done.append(Done(what, outcome, detail, seconds))
        image = getattr(what, 'image', None)
        name = image and self.known[image.number].id
        self._log('end   %s: %s, %.1f s%s%s' % (
            what, outcome, seconds, ' (%s)' % name if name else '',
            '; ' + detail if detail else ''))

    def _trouble(self, lane):
        """Cause the faults of one lane, one after the other."""
        while True:
            fault = self._queues[lane].get()
            if fault is None:
                return
            started = time.monotonic()
            if self._over.wait(fault.delay):
                self._note(self.faults, fault, 'left out', '', started)
                continue
            self._log('begin %s' % fault)
            try:
                outcome, detail = 'caused', self._cause(fault) or ''
            except Exception as exc:
                outcome, detail = 'impossible', str(exc)
            self._note(self.faults, fault, outcome, detail, started)

    def _cause(self, fault):
        """Cause a fault, and return what came of it in words, or None."""
        own = {'kill-glance': self._kill_glance,
               'stop-glance': self._stop_glance,
               'step-clock': self._step_clock,
               'delete-source': self._sources.cause,
               'forge': self.forger.cause}.get(fault.kind)
        if own:
            return own(fault)
        cluster = self._stage.lab.cluster(fault.site)
        try:
            faults.cause(cluster, fault.kind)
            self._over.wait(fault.duration)
        finally:
            heal(cluster)
        return None

    def _pids(self, fault):
        service = self._stage.lab.glance(fault.site, fault.worker).service
        return service.worker_pids()

    def _kill_glance(self, fault):
        for pid in self._pids(fault):
            os.kill(pid, signal.SIGKILL)

    def _stop_glance(self, fault):
        """Stop a worker as a host does that hangs, and let it go on."""
        pids = self._pids(fault)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            self._over.wait(fault.duration)
        finally:
            for pid in pids:
                # It may have been killed meanwhile.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _step_clock(self, fault):
        """Step the time of day of a worker, which keeps it."""
        worker = self._stage.lab.glance(fault.site, fault.worker)
        worker.clock.step(fault.options['offset'])


def heal(cluster):
    """Bring a site back, in a few attempts: the machine may be very busy.

    :raises lab.process.LabError: if it does not come back
    """
    for last in (False, False, True):
        try:
            faults.heal(cluster)
            return
        except Exception as exc:
            if last:
                raise process.LabError('%s does not come back: %s'
                                       % (cluster.name, exc)) from exc
