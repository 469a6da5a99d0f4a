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


"""The leader of a host is killed or stopped, and a sibling takes over.

One that is stopped keeps its locks, unlike one that is killed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import uuid

from glance_dcn.ceph import client as clients
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.sites import home as homes
from glance_dcn.sites import site as sites
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import identity as identities
from glance_dcn.workers import registry
from lab import process
from tests.functional.api import base
from tests.functional.api import client
from tests.functional.staging import workers
from tests.kills import server

# Seconds; the lead changes after three eighths of it without a heartbeat.
TIMEOUT = 40
PATIENCE = 120


class LeaderTest(workers.WorkersTestCase):

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.workers = workers.Workers(
            2, overrides={'glance_dcn': {'dcn_worker_timeout': TIMEOUT},
                          # What is found void is logged so.
                          'DEFAULT': {'debug': True}},
            processes=2)
        cls.workers.setUp()
        cls.addClassCleanup(cls.workers.cleanUp)

    def setUp(self) -> None:
        super().setUp()
        self.use_workers(self.workers)
        self.identity = identities.WorkerIdentity(
            str(self.workers.workers[0].staging))
        site = sites.Site(clients.ClusterConfig(
            self.workers.site, 'images',
            str(base.lab().cluster('central').conf), 'glance', 5, 20), 22)
        deployment = base.deployment_id(self.workers.database_url)
        self.registry = registry.Registry(homes.Home(site), deployment)
        self.tasks = stores.TaskStore(homes.Home(site), deployment)

    def leader(self, number: int = 0) -> int | None:
        """Return the process ID of the leader of a worker, or None."""
        found = list((self.workers.workers[number].staging
                      / folder.FOLDER).glob('lead.*'))
        # For a moment there may be two.
        return int(found[0].read_text().split()[1]) if len(
            found) == 1 else None

    def record(self) -> registry.Worker:
        worker, _text = self.registry.worker(self.identity.uuid())
        return worker

    def wait_for_beats(self, instance_id: str, beats: int) -> None:
        process.wait_for('heartbeats', lambda: (
            self.record().instance_id == instance_id
            and self.record().beat >= beats), PATIENCE)

    def clients(self, pid: int) -> int:
        """Return how many clusters a process is connected to."""
        found = 0
        for task in pathlib.Path('/proc/%d/task' % pid).iterdir():
            # Others end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += task.joinpath(
                    'comm').read_text().strip() == 'ms_dispatch'
        return found

    def test_idle_ones_are_not_connected(self) -> None:
        # There are two stores; the leader needs its home alone.
        process.wait_for('a record', lambda: (
            self.identity.known_uuid() and self.record()), PATIENCE)
        leader = self.leader()
        self.assertEqual(
            {pid: int(pid == leader)
             for pid in self.workers.processes(0)},
            {pid: self.clients(pid) for pid in self.workers.processes(0)})

    def test_interfaces_are_proved(self) -> None:
        for number in range(2):
            process.wait_for('the interfaces of Glance', lambda: (
                'private interfaces that glance_dcn builds on'
                in self.workers.log(number)), PATIENCE)  # noqa: B023
            self.assertNotIn('glance_dcn cannot use',
                             self.workers.log(number))

    def run_task(self) -> int:
        """Record a task, and return the process that has done it."""
        task = tasks.Task(tasks.Action.DELETE, self.workers.site,
                          str(uuid.uuid4()), 'images', image_id='1')
        self.tasks.put(task)
        self.workers.workers[0].staging.joinpath(
            folder.FOLDER, 'wake').touch()
        process.wait_for('the task', lambda: not self.tasks.records(
            task.site, task.image), PATIENCE)

        def doers() -> list[int]:
            return [int(line.split()[2]) for number in range(2)
                    for line in self.workers.log(number).splitlines()
                    if 'delete of image %s' % task.image in line]
        # It says so when the record is gone.
        process.wait_for('its line', doers, PATIENCE)
        [pid] = doers()
        return pid

    def test_killed_leader(self) -> None:
        process.wait_for('leaders', lambda: (
            self.leader(0) and self.leader(1)), PATIENCE)
        # One process of all four, which leads at its host.
        doers = {self.run_task() for _ in range(5)}
        self.assertEqual(1, len(doers))
        [doer] = doers
        [number] = [number for number in range(2)
                    if self.leader(number) == doer]
        os.kill(doer, signal.SIGKILL)
        process.wait_for('another leader', lambda: self.leader(
            number) not in (None, doer), PATIENCE)
        successor = self.run_task()
        self.assertNotEqual(doer, successor)
        self.assertIn(successor, {self.leader(0), self.leader(1)})

    def begin_import(self, but: int, url: str) -> str:
        """Begin an import in another process than one; return its image."""
        worker = self.workers.workers[0]
        staging = worker.staging
        begun = []
        # Which process is asked is not ours to choose; on eventlet it is that
        # which a connection is to.
        while len(begun) < 20:
            api = client.Api(worker.url, base.lab().keystone.session())
            image = self.new_image(api)
            begun.append(image)
            api.images.image_import(image, 'web-download', uri=url,
                                    stores=[self.workers.site])
            [entry] = process.wait_for('the journal', lambda: [
                found for found in journal.Journal(str(staging)).entries()
                if found.image == image], 20)  # noqa: B023
            if int(entry.by.rpartition(':')[2]) != but:
                return image
        raise AssertionError('all imports run in process %d: %s'
                             % (but, begun))

    def test_stopped_leader(self) -> None:
        process.wait_for('a record', lambda: (
            self.identity.known_uuid() and self.record()), PATIENCE)
        first, before = self.leader(), self.record()
        # The master of them all has none.
        self.assertIn(first, self.workers.processes(0)[1:])
        # For longer than the other host waits until it undoes it.
        image = self.begin_import(first, self.useFixture(
            server.SlowServer(os.urandom(1 << 20), TIMEOUT + 20)).url)
        os.kill(first, signal.SIGSTOP)
        self.addCleanup(os.kill, first, signal.SIGCONT)
        process.wait_for('another leader', lambda: self.leader() not in (
            None, first), PATIENCE)
        second = self.leader()
        self.assertIn(second, self.workers.processes(0)[1:])
        process.wait_for('another record', lambda: (
            self.record().instance_id != before.instance_id), PATIENCE)
        after = self.record()
        self.assertIn('takes over the lead', self.workers.log(0))
        self.wait_for_beats(after.instance_id, after.beat + 1)
        os.kill(first, signal.SIGCONT)
        beat = self.record().beat
        # The former leader beats in vain meanwhile.
        self.wait_for_beats(after.instance_id, beat + 3)
        self.assertEqual(second, self.leader())
        self.assertNotIn('has the staging folder', self.workers.log(0))
        self.assertIsNone(self.record().taken_by)
        # The import of the process that never stopped has gone on.
        self.workers.apis[1].wait(image, self.workers.site)
        self.assertNotIn('undoes what it was doing', self.workers.log(1))
        self.assertIsNone(self.record().taken_by)
