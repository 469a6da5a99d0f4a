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
from tests.unit.tasks import fakes


def site(name, available=True):
    return types.SimpleNamespace(name=name, available=available)


class HomeTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.queue = queue.TaskQueue()

    def test_before_it_is_configured(self):
        edge, central = site('edge'), site('central')
        self.queue.add(edge)
        # What were moved home now would be lost.
        self.assertIsNone(self.queue.home.site)
        with self.assertRaisesRegex(errors.ClusterError, 'default_backend'):
            self.queue.home.open().__enter__()
        self.queue.add(central, home=True)
        self.queue.add(site('other'))
        self.assertIs(central, self.queue.home.site)

    def test_nothing_is_kept_for_a_home_that_there_is_not(self):
        # It would stay on the disk, and never be done.
        spool = mock.Mock()
        store = stores.TaskStore(homes.Home(), spool=spool)
        exc = self.assertRaises(
            stores.NotRecorded, store.put,
            tasks.Task(tasks.Action.DELETE, 'edge', 'image', 'images'))
        self.assertIn('home_store', str(exc))
        spool.put.assert_not_called()


class ChooseTest(base.BaseTestCase):

    def choose(self, enabled, default=None, named=None, configured=()):
        space = types.SimpleNamespace
        return homes.choose(space(
            enabled_backends=enabled,
            glance_store=space(default_backend=default),
            glance_dcn=space(home_store=named)), configured)

    def test_the_default_store(self):
        self.assertEqual('b', self.choose({'a': 'dcn', 'b': 'dcn'}, 'b'))
        # Glance is shown another type once it is configured.
        self.assertEqual('b', self.choose({'a': 'dcn', 'b': 'rbd'}, 'b',
                                          configured=['b']))

    def test_the_only_one(self):
        self.assertEqual('b', self.choose({'a': 'rbd', 'b': 'dcn'}, 'a'))
        self.assertEqual('b', self.choose({'a': 'rbd', 'b': 'rbd'}, 'a',
                                          configured=['b']))

    def test_none_of_several(self):
        # The first one may be that of a site which nobody need trust.
        self.assertIsNone(self.choose(
            {'a': 'rbd', 'b': 'dcn', 'c': 'dcn'}, 'a'))
        self.assertIsNone(self.choose(
            {'a': 'rbd', 'b': 'rbd', 'c': 'dcn'}, 'a', configured=['b']))
        self.assertIsNone(self.choose({'a': 'file'}, 'a'))

    def test_the_one_that_is_named(self):
        self.assertEqual('c', self.choose(
            {'a': 'rbd', 'b': 'dcn', 'c': 'dcn'}, 'a', 'c'))
        self.assertEqual('c', self.choose({'a': 'dcn', 'c': 'dcn'}, 'a', 'c'))


class KeyTest(base.BaseTestCase):
    """The key of the deployment."""

    def setUp(self):
        super().setUp()
        self.useFixture(fakes.MemoryCluster())
        self.site = fakes.Site('central')
        self.kept = fakes.records_of(self.site, 'deployment')

    def test_the_first_process_makes_it(self):
        key = homes.Home(self.site).key()
        self.assertEqual(32, len(key))
        self.assertEqual(key, homes.Home(self.site).key())

    def test_damaged(self):
        for text in ('no hex', 'ab' * 31):
            self.kept['key'] = text
            error = self.assertRaises(errors.Misconfigured,
                                      homes.Home(self.site).key)
            self.assertIn('damaged', str(error))


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
        self.site.call.side_effect = (
            lambda function, *args, **unused: function(*args))

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
