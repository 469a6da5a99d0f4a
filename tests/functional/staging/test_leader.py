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


"""The leader of a worker is stopped, and a sibling takes over its heartbeats.

One that is stopped keeps its locks, unlike one that is killed.
"""

from __future__ import annotations

import os
import pathlib
import signal

from glance_dcn.sites import home as homes
from glance_dcn.sites import site as sites
from glance_dcn.workers import place
from glance_dcn.workers import registry
from lab import process
from tests.functional.api import base
from tests.functional.staging import workers

# Seconds; the lead changes after three eighths of it without a heartbeat.
TIMEOUT = 40
PATIENCE = 120


class LeaderTest(workers.WorkersTestCase):

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.workers = workers.Workers(
            2, overrides={'glance_dcn': {'dcn_worker_timeout': TIMEOUT}},
            processes=2)
        cls.workers.setUp()
        cls.addClassCleanup(cls.workers.cleanUp)

    def setUp(self) -> None:
        super().setUp()
        self.use_workers(self.workers)
        self.place = place.Place(str(self.workers.workers[0].staging))
        site = sites.Site(
            self.workers.site, 'images', 22,
            str(base.lab().cluster('central').conf), 'glance', 5, 20)
        self.registry = registry.Registry(
            homes.Home(site), base.deployment_id(self.workers.database_url))

    def leader(self) -> int | None:
        """Return the process ID of the leader, or None."""
        found = list(pathlib.Path(self.place.folder).glob('lead.*'))
        # For a moment there may be two.
        return int(found[0].read_text().split()[1]) if len(
            found) == 1 else None

    def record(self) -> registry.Worker:
        worker, _text = self.registry.worker(self.place.identity())
        return worker

    def wait_for_beats(self, incarnation: str, beats: int) -> None:
        process.wait_for('heartbeats', lambda: (
            self.record().incarnation == incarnation
            and self.record().beat >= beats), PATIENCE)

    def test_interfaces_are_proved(self) -> None:
        for number in range(2):
            process.wait_for('the interfaces of Glance', lambda: (
                'private interfaces that glance_dcn builds on'
                in self.workers.log(number)), PATIENCE)  # noqa: B023
            self.assertNotIn('glance_dcn cannot use',
                             self.workers.log(number))

    def test_stopped_leader(self) -> None:
        process.wait_for('a record', lambda: (
            self.place.known_identity() and self.record()), PATIENCE)
        first, before = self.leader(), self.record()
        # The master of them all has none.
        self.assertIn(first, self.workers.processes(0)[1:])
        os.kill(first, signal.SIGSTOP)
        self.addCleanup(os.kill, first, signal.SIGCONT)
        process.wait_for('another leader', lambda: self.leader() not in (
            None, first), PATIENCE)
        second = self.leader()
        self.assertIn(second, self.workers.processes(0)[1:])
        process.wait_for('another record', lambda: (
            self.record().incarnation != before.incarnation), PATIENCE)
        after = self.record()
        self.assertIn('takes over the lead', self.workers.log(0))
        self.wait_for_beats(after.incarnation, after.beat + 1)
        os.kill(first, signal.SIGCONT)
        beat = self.record().beat
        # The former leader beats in vain meanwhile.
        self.wait_for_beats(after.incarnation, beat + 3)
        self.assertEqual(second, self.leader())
        self.assertNotIn('has the staging folder', self.workers.log(0))
        self.assertIsNone(self.record().taken_by)
