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

import types
from unittest import mock

import fixtures
from glance.common import exception
from oslotest import base

from glance_dcn.flows import heartbeat


class HeartbeatTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.flows.heartbeat.time',
            types.SimpleNamespace(monotonic=lambda: self.now)))
        self.task = types.SimpleNamespace(status='processing', message='')
        self.repo = mock.Mock(**{'get.return_value': self.task})
        self.wrapper = mock.Mock(unsafe=True)
        self.heartbeat = heartbeat.Heartbeat(self.repo, 'task', self.wrapper)

    def test_is_due_at_once_and_well_within_30_seconds(self):
        due = []
        for _ in range(31):
            if self.heartbeat.due:
                self.heartbeat.save('message')
                due.append(self.now - 1000)
            self.now += 1
        self.assertEqual([0, 10, 20, 30], due)

    def test_saves_the_message(self):
        self.heartbeat.save('Copying')
        self.assertEqual('Copying', self.task.message)
        self.repo.save.assert_called_once_with(self.task)

    def test_ended_by_somebody(self):
        self.task.status = 'failure'
        self.assertRaises(exception.TaskAbortedError, self.heartbeat.save, '')
        self.repo.save.assert_not_called()

    def test_image_taken_over_by_another_task(self):
        self.wrapper.assert_task_lock.side_effect = exception.TaskAbortedError
        self.assertRaises(exception.TaskAbortedError, self.heartbeat.save, '')
        self.repo.save.assert_not_called()

    def test_task_is_gone(self):
        self.repo.get.side_effect = exception.NotFound
        self.assertRaises(exception.NotFound, self.heartbeat.save, '')
