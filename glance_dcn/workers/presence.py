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

"""Presence: the heartbeats of this worker, for its peers.

One process of a worker writes them for all, its leader (see
:mod:`glance_dcn.workers.leader`), and another one when that ends or stops
beating. Everything is done beside requests. While the default site is away,
none are written; the peers cannot read any either then, and take nothing over.
"""

from __future__ import annotations

from collections import abc
import dataclasses
import functools
import importlib.metadata
import logging
import socket
import time
import uuid

from oslo_config import cfg

from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import options
from glance_dcn.imports import recovery
from glance_dcn.imports import scan
from glance_dcn.runtime import lead as leads
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.sites import figures
from glance_dcn.tasks import queue
from glance_dcn.upstream import glance_interfaces
from glance_dcn.workers import counts
from glance_dcn.workers import identity as identities
from glance_dcn.workers import leader
from glance_dcn.workers import registry
from glance_dcn.workers import takeover

LOG = logging.getLogger(__name__)

# Seconds between two looks at the self reference while it is right, and while
# it is not.
_CHECK, _CHECK_AGAIN = 120, 20
# Seconds after the start until the self reference is looked at: Glance has to
# listen first.
_SETTLE = 5
# Looks in a row that find nobody at the address until that is said.
_PATIENCE = 2


def begin(conf: cfg.ConfigOpts) -> None:
    """Have this worker known to its peers, under the queue's lead."""
    former = process.find(Presence)
    if former is not None:
        former.stop()
        process.remove(Presence)
    staging = folder.path(conf)
    # The scrubber and others have stores, and are no workers.
    if not staging or not glance_interfaces.serves_api(conf):
        return
    options.register(conf)
    identity = identities.WorkerIdentity(staging)
    identities.begin(identity)
    active_imports.on_begin(announce)
    process.get(scan.Scanner).gate = may_recover
    tasks = process.get(queue.TaskQueue)
    presence = Presence(conf, registry.Registry(
        tasks.home, tasks.store.deployment), identity, tasks.lead)
    process.put(presence)
    presence.start()


def announce(entry: journal.Entry) -> None:
    """Tell the peers what this worker begins; wait for nothing, raise nothing.

    What does not get there, and its phase, follows with a heartbeat.
    """
    presence = process.find(Presence)
    if presence is not None:
        presence.announce(entry)


def may_recover() -> bool:
    """Return whether this worker may recover what it has left itself."""
    presence = process.find(Presence)
    return presence is None or presence.may_recover()


class Presence:
    """The worker that this process belongs to, in the registry.

    :param clock: returns seconds of a monotonic clock
    :param judge: :func:`glance_dcn.workers.identity.judge`
    :param roll_back: :func:`glance_dcn.workers.takeover.roll_back`
    """

    def __init__(self, conf: cfg.ConfigOpts, records: registry.Registry,
                 identity: identities.WorkerIdentity,
                 lead: leads.Lead,
                 clock: abc.Callable[[], float] = time.monotonic,
                 judge: abc.Callable[..., identities.Verdict] = (
                     identities.judge),
                 roll_back: abc.Callable[
                     [cfg.ConfigOpts, registry.Worker, journal.Entry],
                     object] = takeover.roll_back) -> None:
        self._conf = conf
        self._clock = clock
        self._judge = judge
        self._roll_back = roll_back
        self._registry = records
        self._identity = identity
        self._journal = journal.Journal(identity.staging)
        self._figures = counts.HostFigures(identity.folder)
        self._lead = lead
        self._reset()
        self._timeout = conf[options.GROUP].dcn_worker_timeout
        often = leader.interval(conf)
        self._beating = periodic.Periodic('dcn-worker', self.beat, often)
        self._reading = periodic.Periodic('dcn-peers', self.read_peers, often)
        self._checking = periodic.Periodic('dcn-self-reference', self.check,
                                           _SETTLE)

    def _reset(self) -> None:
        # As it was written last.
        self._written: registry.Worker | None = None
        self._told: dict[str, figures.Figures] = {}
        self._instance_id = uuid.uuid4().hex
        self._since = time.time()
        self._began = self._clock()
        self._verdict = identities.Verdict(registry.UNCHECKED, [])
        self._misses = 0
        self._complained = ''
        # The time of the lead that all this is of.
        self._term = self._lead.term
        self.peers: takeover.Peers | None = None

    def start(self) -> None:
        """Write heartbeats, read those of peers and check, beside requests."""
        for work in (self._beating, self._reading, self._checking):
            work.start()
        self._lead.on_lead(self._beating.wake)

    def stop(self) -> None:
        """Do so no more."""
        for work in (self._beating, self._reading, self._checking):
            work.stop()
        self._lead.resign()

    def beat(self) -> None:
        """Write a heartbeat of the worker, if this process leads it.

        Each process saves its figures; the leader writes those of all.
        """
        try:
            self._figures.save()
        except OSError as exc:
            LOG.debug('The figures of this process are not saved: %s', exc)
        if not self._leads() or not self._registry.site.available:
            return
        try:
            with self._lead.job('heartbeat of the worker'):
                self._write_heartbeat()
        except (errors.ClusterError, omap.Error) as exc:
            LOG.debug('The heartbeat of this worker was not written: %s', exc)

    def announce(self, entry: journal.Entry) -> None:
        """Write down what this worker begins, without waiting."""
        site = self._registry.site
        # Not where it would have to be connected to first.
        if not site.connection.connected_fsid or not site.available:
            return
        try:
            self._registry.note_later(self._identity.uuid(), entry)
        except Exception as exc:
            LOG.debug('The peers of this worker are not told of the import of '
                      'image %s: %s', entry.image, exc)

    def may_recover(self) -> bool:
        """Return whether no peer is at what this worker has left.

        That cannot be known while the default site is away; the locks of the
        images tell then.
        """
        if not self._registry.site.available:
            return True
        try:
            known, _text = self._registry.worker(self._identity.uuid())
        except (errors.ClusterError, omap.Error, OSError, ValueError):
            return True
        return known is None or known.taken_by is None

    def read_peers(self) -> None:
        """Read the records of the peers, if this process is the one to."""
        found = self.peers
        if (found is None or not self._lead.is_held
                or not self._registry.site.available):
            return
        try:
            found.scan()
        except (errors.ClusterError, omap.Error) as exc:
            # What cannot be read now is not to be taken for silence.
            found.forget()
            LOG.debug('Heartbeats of peers cannot be read: %s', exc)

    def check(self) -> None:
        """Check the self reference, if this process is the one to."""
        self._checking.interval = _CHECK_AGAIN
        found = self.peers
        if (found is None or not self._lead.is_held
                or self._clock() - self._began < _SETTLE):
            self._checking.interval = _SETTLE
            return
        # What eventlet has patched is not for this thread to use.
        verdict = self._judge(
            self._conf.worker_self_reference_url, self._conf.public_endpoint,
            self._identity, found.alive(), ask=not native.patched())
        self._misses = self._misses + 1 if verdict.passing else 0
        if 0 < self._misses < _PATIENCE:
            return
        if verdict.state == registry.RIGHT:
            self._checking.interval = _CHECK
        self._take(verdict)

    def _leads(self) -> bool:
        if not self._lead.beat():
            # A sibling has the lead, or it was that of the parent of a fork.
            self.peers = None
            return False
        try:
            # It may have had the lead before, and others meanwhile.
            if self.peers is None or self._term != self._lead.term:
                own = self._identity.uuid()
                self._reset()
                self.peers = takeover.Peers(
                    self._registry, own, self._timeout,
                    functools.partial(self._roll_back, self._conf),
                    may_act=lambda: self._lead.is_held,
                    may_roll_back=recovery.is_possible, clock=self._clock)
        except (OSError, ValueError) as exc:
            self._complain('Nothing can be kept beside the staging folder %s, '
                           'so that other workers do not know of this one, '
                           'and it does not check its %s: %s' % (
                               self._identity.staging, identities.OPTION, exc))
            return False
        return True

    def _write_heartbeat(self) -> None:
        worker = self._worker()
        if self._written is not None:
            before: str | None = self._written.text(self._registry.deployment)
        else:
            known, before = self._registry.worker(worker.identity)
            # What another release has written may say that it was, too.
            if ((known.taken_by if known else before)
                    and not self._accept_takeover(
                        worker.identity, known.taken_by if known else None)):
                return
        # This process may have been stopped since it looked.
        if not self._lead.is_held:
            return
        changed = self._changed_figures()
        if self._registry.replace(before, worker, changed.values()):
            self._written = worker
            self._told.update(changed)
            self._copy_journal(worker.identity)
            return
        # It is not what it should be: see what it is, at the next beat.
        self._written = None
        known, _text = self._registry.worker(worker.identity)
        if (known and known.instance_id != self._instance_id
                and self._lead.is_held):
            self._complain(
                'Another worker, at host %s, has the staging folder %s too, '
                'or a copy of %s. Each worker needs a staging folder of its '
                'own' % (known.host, self._identity.staging,
                         self._identity.folder))

    def _changed_figures(self) -> dict[str, figures.Figures]:
        """Return the figures of the host that the registry has not, by site.

        Those that cannot be read now are written another time.
        """
        try:
            return {site: one for site, one in self._figures.total().items()
                    if self._told.get(site) != one}
        except OSError as exc:
            LOG.debug('The figures of this host cannot be read: %s', exc)
            return {}

    def _copy_journal(self, identity: str) -> None:
        """Have the registry know what the journal has."""
        # First what is known, for what is announced is in the journal by
        # then, unless it has ended.
        entries, unreadable = self._registry.journal_of(identity)
        known = {entry.task: entry for entry in entries}
        going_on = {entry.task: entry for entry in self._journal.entries()}
        # Those of another release are its own, as long as they are there.
        unreadable.difference_update(self._journal.tasks())
        # What its successor has written since is not to be undone.
        if not self._lead.is_held:
            return
        for task, entry in going_on.items():
            if known.get(task) != entry:
                self._registry.note(identity, entry)
        for task in unreadable.union(known).difference(going_on):
            self._registry.forget(identity, task)

    def _accept_takeover(self, identity: str, taken_by: str | None) -> bool:
        """Let go of what a peer has taken over; return whether it did.

        :param taken_by: name of the peer; None: another release has written
            whether there is one
        """
        with takeover.acting(self._registry, identity,
                             self._instance_id) as held:
            if not held:
                return False
            if taken_by is None:
                return True
            for entry in self._registry.tasks(identity):
                self._registry.forget(identity, entry.task)
        LOG.warning('Store %(store)s got no heartbeat of this worker for too '
                    'long: worker %(peer)s has taken its locks off images '
                    'and rolled its imports back', {
                        'store': self._registry.site.name,
                        'peer': taken_by})
        return True

    def _worker(self) -> registry.Worker:
        """Return the record of this worker as it is to be now."""
        former = self._written or registry.Worker(
            self._identity.uuid(), self._registry.site.name,
            host=socket.gethostname(), staging=self._identity.staging,
            release=_release(), instance_id=self._instance_id,
            since=self._since, beat=-1)
        return dataclasses.replace(
            former, beat=former.beat + 1, seen=time.time(),
            url=self._conf.worker_self_reference_url or None,
            reference=self._verdict.state,
            faults=tuple(map(record_format.printable, self._verdict.faults)))

    def _take(self, verdict: identities.Verdict) -> None:
        before, self._verdict = self._verdict, verdict
        if verdict == before:
            return
        for fault in verdict.faults:
            if fault not in before.faults:
                LOG.log(logging.WARNING if verdict.state == registry.UNPROVED
                        else logging.ERROR, '%s', fault)
        if verdict.state == registry.RIGHT:
            LOG.info('%(option)s %(url)s leads to this worker', {
                'option': identities.OPTION,
                'url': self._conf.worker_self_reference_url})
        self._beating.wake()

    def _complain(self, text: str) -> None:
        if text != self._complained:
            self._complained = text
            LOG.error('%s', text)


def _release() -> str:
    try:
        return importlib.metadata.version('glance-dcn')
    except importlib.metadata.PackageNotFoundError:
        return ''
