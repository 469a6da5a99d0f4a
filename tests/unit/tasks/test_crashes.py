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

"""What is tried again, and how, when processes end while they try it."""

from __future__ import annotations

import typing

import fixtures
from oslotest import base

from glance_dcn.runtime import lead as leads
from glance_dcn.tasks import crashes
from glance_dcn.tasks import runner
from tests.unit.tasks import fakes
from tests.unit.tasks import test_runner


class HostLead(leads.Lead):
    """The lead of one of the processes of a host, which has it.

    :param folder: of the host
    """

    def __init__(self, folder: dict[str, str]) -> None:
        super().__init__()
        self._folder = folder
        self._read: str | None = None
        self.generation = 1

    @property
    def term(self) -> object:
        return self, self.generation

    def publish(self, name: str, text: str) -> None:
        self._folder[name] = text

    def published(self, name: str) -> str | None:
        # As that of a real host: what was read is not told again.
        text = self._folder.get(name)
        if text == self._read:
            return None
        self._read = text
        return text


class CrashesTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.folder: dict[str, str] = {}

    def process(self) -> crashes.Crashes:
        found = crashes.Crashes(HostLead(self.folder))
        found.take_over()
        return found

    def test_what_was_tried_is_suspect(self) -> None:
        first = self.process()
        for key in ('a', 'b'):
            first.begin(key)
        first.end('b', True)
        second = self.process()
        self.assertEqual([True, False], [
            second.is_suspect(key) for key in ('a', 'b')])
        # A restart is no fault of what was being done.
        self.assertEqual(0, second.pause('a'))
        self.assertEqual('', self.log.output)

    def test_each_process_makes_it_wait_longer(self) -> None:
        pauses = []
        for _ in range(6):
            process = self.process()
            pauses.append(process.pause('a'))
            process.begin('a')
        self.assertEqual([0, 0, 120, 600, 3600, 3600], pauses)
        self.assertIn('2 processes in a row have ended', self.log.output)

    def test_another_of_that_site_waits_as_well(self) -> None:
        for number in range(3):
            process = self.process()
            process.begin('site/edge/%d/task/delete' % number)
        process = self.process()
        for key, pause in (('site/edge/7/task/delete', 600),
                           ('site/other/7/task/delete', 0)):
            self.assertEqual(pause, process.pause(key))
        # One that was tried in vain proves nothing.
        process.begin('site/edge/1/task/delete')
        process.end('site/edge/1/task/delete', False)
        self.assertTrue(process.is_suspect('site/edge/1/task/delete'))
        process.forget({'site/other/7/task/delete'})
        self.assertEqual(0, process.pause('site/edge/7/task/delete'))

    def test_done_in_the_end(self) -> None:
        for _ in range(3):
            process = self.process()
            process.begin('a')
        process.end('a', True)
        self.assertFalse(self.process().is_suspect('a'))

    def test_records_that_are_gone(self) -> None:
        for _ in range(2):
            self.process().begin('a')
        process = self.process()
        process.forget({'b'})
        process.begin('b')
        self.assertNotIn('"a"', self.folder['trying'])

    def test_lead_that_comes_back(self) -> None:
        for _ in range(2):
            self.process().begin('b')
        lead = HostLead(self.folder)
        process = crashes.Crashes(lead)
        process.take_over()
        process.begin('a')
        lead.generation = 2
        process.take_over()
        # It lives.
        self.assertFalse(process.is_suspect('a'))
        self.assertEqual(120, process.pause('b'))
        # Nothing was written since.
        lead.generation = 3
        process.take_over()
        self.assertEqual(120, process.pause('b'))

    def test_former_leader_writes_nothing(self) -> None:
        former = HostLead(self.folder)
        process = crashes.Crashes(former)
        process.take_over()
        process.begin('a')
        former.generation = 0
        successor = self.process()
        successor.begin('b')
        written = self.folder['trying']
        process.end('a', True)
        self.assertEqual(written, self.folder['trying'])

    def test_what_is_damaged_is_nothing(self) -> None:
        for text in ('', '[]', '{"trying": 3}', '{"ended": {"a": "x"}}',
                     '[' * 100000, '{"ended": ["a"]}', 'null',
                     '{"ended": {"a": Infinity}}'):
            self.folder['trying'] = text
            process = self.process()
            self.assertFalse(process.is_suspect('a'))
            process.begin('a')

    def test_folder_that_cannot_be_written(self) -> None:
        def fail(name: str, text: str) -> None:
            raise OSError('full')
        lead: typing.Any = HostLead(self.folder)
        lead.publish = fail
        process = crashes.Crashes(lead)
        process.begin('a')
        process.end('a', True)


class RunnerTest(test_runner.RunnerCase):
    """A runner whose predecessor has ended while it tried something."""

    def setUp(self) -> None:
        self.folder: dict[str, str] = {}
        super().setUp()

    def process(self) -> typing.Any:
        store, _runner = super().process()
        return store, runner.TaskRunner(
            store, self.sites.get, self.database, self.clock,
            lead=HostLead(self.folder))

    def record(self, number: int, site: str = 'edge') -> typing.Any:
        name = '%d-%s' % (number, fakes.IMAGE)
        self.sites[site].add(str(number), name)
        return self.task(image=name, image_id=str(number), site=site)

    def test_others_are_done_while_it_waits(self) -> None:
        records = [self.record(number, site) for number, site in enumerate(
            ('edge', 'edge', 'home', 'home'))]
        for _ in range(2):
            before = crashes.Crashes(HostLead(self.folder))
            before.take_over()
            before.begin(records[0].key)
        self.runner.run()
        # Those of the same site wait as well.
        self.assertEqual([record.key for record in records[:2]], [
            record.key for record in self.left])
        self.clock.now += 119
        self.runner.run()
        self.assertEqual(2, len(self.left))
        self.run_for(10)
        self.assertEqual([], self.left)
        self.assertFalse(self.runner._crashes.is_suspect(records[0].key))

    def test_suspects_are_tried_alone(self) -> None:
        records = [self.record(number) for number in range(6)]
        before = crashes.Crashes(HostLead(self.folder))
        before.take_over()
        for record in records[::2]:
            before.begin(record.key)
        at_once = []
        do = self.runner._do

        def watch(site: typing.Any, record: typing.Any) -> bool:
            at_once.append((record.key, set(self.runner._own.running)))
            return do(site, record)
        self.runner._do = watch
        self.runner.run()
        self.assertEqual([], self.left)
        suspects = {record.key for record in records[::2]}
        self.assertEqual(6, len(at_once))
        for key, running in at_once:
            if key in suspects:
                self.assertEqual({key}, running)
