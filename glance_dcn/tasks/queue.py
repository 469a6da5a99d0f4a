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

"""The tasks and intents of this process, as the other rooms use them."""

from __future__ import annotations

import logging
import os
import time
import typing

import rbd

from glance_dcn.runtime import lead as leads
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import home as homes
from glance_dcn.tasks import actions
from glance_dcn.tasks import intents
from glance_dcn.tasks import runner as runners
from glance_dcn.tasks import spool as spools
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.upstream import glance_interfaces

if typing.TYPE_CHECKING:
    import rados

    from glance_dcn.sites import site as sites
    from glance_dcn.upstream import glance_db

LOG = logging.getLogger(__name__)

# Seconds in which Glance has been loaded by a process that loads it.
_LOADING = 20
# Tasks of one request that are begun some seconds later, and how many.
_MANY, _PAUSE = 8, 3
_NOT_NOW = (actions.RetryLater, rbd.Error, *stores.AWAY)

Action = tasks.Action
NotRecorded = stores.NotRecorded


class TaskQueue:
    """What a process records, and what it does of it.

    :ivar writes: the images that this process writes
    :ivar runner: None in a process that runs no tasks
    :ivar lead: that of the host: the process that has it runs the tasks, and
        does other background work
    :ivar enabled: whether this process does background work at all; the
        command, which only shows, does none
    """

    def __init__(self, deployment: str = '') -> None:
        self.home = homes.Home()
        self.sites: dict[str, sites.Site] = {}
        self.store = stores.TaskStore(self.home, deployment)
        self.runner: runners.TaskRunner | None = None
        self.lead = leads.Lead()
        self._database: glance_db.GlanceDatabase | None = None
        self.writes = intents.WriteLog(self.store, lambda: self.lead.notify())
        self.enabled = True

    def add(self, site: sites.Site, home: bool = False) -> None:
        """Add a site, which may be the home that keeps the records."""
        self.sites[site.name] = site
        if home:
            self.home.site = site

    def remove(self, name: str) -> None:
        """Forget a site that is gone."""
        self.sites.pop(name, None)

    def configure(self, deployment: str, folder: str | None,
                  database: glance_db.GlanceDatabase | None) -> None:
        """Take over what a configuration says.

        :param folder: path of the folder beside the staged data, where
            records go while home is away, or None
        """
        self.store.deployment = deployment
        process.get(cluster_identity.ClusterIdentities).deployment = deployment
        if folder and self.store.spool is None:
            self.store.spool = spools.Spool(os.path.join(folder,
                                                         spools.FOLDER))
        self._database = database

    def start(self) -> None:
        """Run tasks beside the requests of this process, from now on."""
        if self.runner is None and self._database is not None:
            began = time.monotonic()
            self.runner = runners.TaskRunner(
                self.store, self.sites.get, self._database,
                # Modules of Glance must not be imported while it is loaded.
                ready=lambda: (glance_interfaces.loaded()
                               or time.monotonic() - began > _LOADING),
                lead=self.lead)
            self.runner.start()

    @property
    def can_run(self) -> bool:
        """Whether Glance's database can be asked, without which none runs."""
        return self._database is not None and self._database.available

    def plan(self, record: tasks.Record) -> actions.Decision:
        """Return what would be done about a record now; without any effect.

        Nothing is raised: what cannot be told now is waited for.
        """
        site = self.sites.get(record.site)
        if site is None:
            return actions.Decision(actions.Verdict.WAIT,
                                    'this Glance has no such store')
        assert self._database is not None, 'can_run tells'
        try:
            return actions.Executor(self.store, self._database).plan(site,
                                                                     record)
        except _NOT_NOW as exc:
            return actions.Decision(actions.Verdict.WAIT, str(exc))

    def run_once(self, patience: float) -> bool:
        """Try each record once, as the only process that runs tasks.

        :param patience: seconds to wait for the lease of a process that ended
        :returns: False if another process runs the tasks
        :raises glance_dcn.ceph.errors.ClusterError: if home is away
        :raises glance_dcn.ceph.omap.Error: if the cluster refuses
        """
        assert self._database is not None, 'can_run tells'
        runner = runners.TaskRunner(self.store, self.sites.get,
                                    self._database)
        until = time.monotonic() + patience
        while not runner.run_once():
            if time.monotonic() >= until:
                return False
            native.sleep(_PAUSE)
        return True

    def defer(self, deferred: typing.Sequence[tasks.Task]) -> None:
        """Record tasks at once, to be done as soon as possible.

        :raises NotRecorded: if they cannot be recorded; none of them is then
        """
        if deferred:
            self.store.put(*deferred)
        for task in deferred:
            LOG.info('Store %(store)s: %(action)s of image %(image)s is '
                     'deferred', {'store': task.site, 'image': task.image,
                                  'action': task.action.value})
        if len(deferred) > _MANY:
            # To connect to so many sites would keep the request, which may be
            # this process's, from its end.
            process.get(schedulers.Scheduler).call_later(
                _PAUSE, self.lead.notify)
        elif deferred:
            self.lead.notify()

    def note_purge(self, site: sites.Site, image: str,
                   pool: str | None = None) -> typing.Callable[[str], None]:
        """Return the ``trashing`` of :func:`glance_dcn.ceph.images.remove`."""
        def note(image_id: str) -> None:
            try:
                self.store.put(actions.purge(site, image, pool, image_id))
            except NotRecorded as exc:
                LOG.error('RBD image %(image)s may stay in the trash: '
                          '%(error)s', {'image': image, 'error': exc})
        return note

    def run_pending_for_image(self, site: sites.Site, ioctx: rados.Ioctx,
                              image: str, write: intents.Write) -> bool:
        """Do what waits to be done for an image that is about to be written.

        For the holder of its name lock, who has found one of that name.

        :param ioctx: of the site's pool, by which the name lock is held
        :returns: whether anything was done, so that it is worth another try
        """
        if self._database is None or not self._database.available:
            return False
        done = False
        executor = actions.Executor(self.store, self._database)
        try:
            for task in self._pending(site, image):
                if task.pool != site.pool:
                    # That is another name, and another lock.
                    continue
                decision = executor.execute(
                    site, task, creating=write.intent.uid, ioctx=ioctx)
                self.store.remove(task)
                done |= decision.verdict is actions.Verdict.REMOVE
        except _NOT_NOW as exc:
            LOG.info('Store %(store)s: tasks for image %(image)s cannot be '
                     'done now: %(error)s', {
                         'store': site.name, 'image': image, 'error': exc})
        return done

    def writers_of(self, site: sites.Site, image: str,
                   image_id: str | None) -> set[str]:
        """Return the addresses of clients that have begun to write an image.

        :raises glance_dcn.ceph.errors.ClusterError: if home is away
        :raises glance_dcn.ceph.omap.Error: if the cluster refuses
        """
        return {record.address
                for record in self.store.records(site.name, image)
                if isinstance(record, tasks.Intent) and record.address
                and record.image_id == image_id}

    def is_committed(self, site: sites.Site, image: str,
                     image_id: str | None) -> bool:
        """Return whether an image is committed, or home does not tell."""
        try:
            return any(isinstance(record, tasks.Intent)
                       and record.image_id == image_id
                       and record.state is tasks.State.COMMITTED
                       for record in self.store.records(site.name, image))
        except stores.AWAY as exc:
            LOG.info('Store %(store)s: whether image %(image)s is committed '
                     'cannot be told now: %(error)s', {
                         'store': site.name, 'image': image, 'error': exc})
            return True

    def cancel_deletes(self, site: sites.Site, image: str) -> None:
        """Drop deletions of an adopted image; what stays is void later."""
        try:
            for task in self._pending(site, image):
                if task.action is Action.DELETE:
                    self.store.remove(task)
        except stores.AWAY as exc:
            LOG.info('Store %(store)s: tasks for image %(image)s stay for '
                     'now: %(error)s', {
                         'store': site.name, 'image': image, 'error': exc})

    def _pending(self, site: sites.Site, image: str) -> list[tasks.Task]:
        return [record for record in self.store.records(site.name, image)
                if isinstance(record, tasks.Task)
                and record.action is not Action.PURGE]
