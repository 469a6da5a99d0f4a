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

"""Which site is the home of records, and what is moved there."""

import types
from unittest import mock

import fixtures
from oslotest import base
import rados

from glance_dcn.ceph import errors
from glance_dcn.sites import home as homes
from glance_dcn.tasks import queue
from glance_dcn.tasks import runner
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks


def site(name, available=True):
    return types.SimpleNamespace(name=name, available=available)


class HomeTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.queue = queue.TaskQueue()

    def test_of_the_default_store(self):
        edge, central = site('edge'), site('central')
        self.queue.add(edge, stands_in=False)
        # What were moved home now would be lost.
        self.assertIsNone(self.queue.home.site)
        with self.assertRaisesRegex(errors.ClusterError, 'default_backend'):
            self.queue.home.open().__enter__()
        self.queue.add(central, default=True, stands_in=False)
        self.queue.add(site('other'), stands_in=False)
        self.assertIs(central, self.queue.home.site)

    def test_where_the_default_store_is_of_another_type(self):
        first = site('first')
        self.queue.add(first)
        self.queue.add(site('second'))
        self.assertIs(first, self.queue.home.site)
        again = site('first')
        self.queue.add(again)
        self.assertIs(again, self.queue.home.site)


class EvictedTest(base.BaseTestCase):
    """The cluster has cut off the client that records are written with."""

    def setUp(self):
        super().setUp()
        self.site = mock.MagicMock()
        self.site.name = 'central'
        self.store = stores.TaskStore(homes.Home(self.site))
        self.task = tasks.Task(tasks.Action.DELETE, 'edge', 'image', 'images')
        self.put = self.useFixture(fixtures.MockPatch(
            'glance_dcn.ceph.omap.put')).mock
        self.site.open_pool.return_value.__exit__.return_value = False
        self.site.call.side_effect = lambda function, *args: function(*args)

    def test_once_more_on_a_new_connection(self):
        self.put.side_effect = [rados.ConnectionShutdown('cut off', 108),
                                None]
        self.assertTrue(self.store.put(self.task))
        self.assertEqual(2, self.site.open_pool.call_count)

    def test_no_more_than_once(self):
        self.put.side_effect = rados.ConnectionShutdown('cut off', 108)
        self.assertRaises(stores.NotRecorded, self.store.put, self.task)
        self.assertEqual(2, self.put.call_count)

    def test_of_others(self):
        self.put.side_effect = rados.PermissionError('no', 1)
        error = self.assertRaises(stores.NotRecorded, self.store.put,
                                  self.task)
        self.assertIn(homes.NAMESPACE, str(error))
        self.assertEqual(1, self.put.call_count)


class DrainTest(base.BaseTestCase):
    """What is on the local disk is moved by every process."""

    def run_once(self, available):
        store = mock.Mock(deployment='')
        store.home.site = site('central', available)
        database = mock.Mock(available=False)
        runner.TaskRunner(store, {}.get, database).run()
        return store.drain.call_count

    def test_of_one_that_runs_no_tasks(self):
        self.assertEqual(1, self.run_once(available=True))

    def test_not_while_home_is_away(self):
        self.assertEqual(0, self.run_once(available=False))
