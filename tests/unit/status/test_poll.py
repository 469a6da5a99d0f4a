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

import contextlib
import errno
import functools
import os
import time
from unittest import mock

import fixtures
from oslotest import base
import rados

from glance_dcn.ceph import health
from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.deploy import model
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import figures
from glance_dcn.sites import home
from glance_dcn.status import cluster as clusters
from glance_dcn.status import poll
from glance_dcn.tasks import leases
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import registry
from tests.unit.tasks import fakes

DELETE, PURGE = tasks.Action.DELETE, tasks.Action.PURGE


class Pool:
    """A pool whose OSDs answer, and a client of its cluster."""

    def stat(self, name):
        raise rados.ObjectNotFound(name)

    def aio_stat(self, name, done):
        return mock.Mock(get_return_value=lambda: -errno.ENOENT)

    def get_cluster_stats(self):
        return {'kb': 2, 'kb_avail': 1}


class Cluster(clusters.Cluster):
    """The cluster of a site in memory.

    :param test: has the sites, and connects
    """

    connected = opened = Pool()

    def __init__(self, test, target, deployment):
        super().__init__(target, deployment)
        self.test = test

    def connect(self):
        self.test.connect(self)

    def open(self):
        pass

    @contextlib.contextmanager
    def open_pool(self):
        with self.test.sites[self.name].open_pool() as ioctx:
            yield ioctx

    def call(self, function, *args, fence=True):
        return self.test.sites[self.name].call(function, *args)

    def close(self):
        self.test.close(self)


class TestLooks(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.cluster = self.useFixture(fakes.MemoryCluster())
        self.sites = {name: fakes.Site(name)
                      for name in ('central', 'dcn0', 'dcn1')}
        self.names = set()
        # What each cluster answers.
        self.fsids = {}

    def connect(self, site):
        site.fsid = self.fsids.get(site.name, 'fsid of ' + site.name)

    def close(self, site):
        pass

    def record(self, home_of, site, image, action=DELETE, deployment='ours'):
        """Record a task at home."""
        store = stores.TaskStore(home.Home(self.sites[home_of]), deployment)
        store.put(tasks.Task(action, site, image, 'images', image_id='1'))

    def poll(self, *targets):
        """Return a poll of some targets, or of all sites."""
        return poll.Poll(targets or [
            clusters.Target(name, 'images', default=name == 'central')
            for name in self.sites], 'ours', functools.partial(Cluster, self),
            lambda ioctx: set(self.names))

    def look(self):
        """Return the states of three sites by name."""
        return {state.name: state for state in self.poll().wait(60)}

    def test_many_sites_take_some_clients_at_a_time(self):
        connected, most = set(), []

        def connect(site):
            connected.add(site.name)
            most.append(len(connected))
            time.sleep(.02)
        self.connect = connect
        self.close = lambda site: connected.discard(site.name)
        for number in range(100):
            self.sites['far%d' % number] = fakes.Site('far%d' % number)
        self.assertEqual({health.UP}, {
            state.state for state in self.look().values()})
        self.assertEqual(103, len(most))
        # Each has a dozen threads.
        self.assertLessEqual(max(most), 24)

    def test_site_whose_monitors_are_silent_takes_none(self):
        folder = self.useFixture(fixtures.TempDir()).path
        conf = os.path.join(folder, 'ceph.conf')
        with open(conf, 'w') as file:
            file.write('[global]\nmon_host = 127.0.0.1:9\n'
                       'auth_client_required = none\n')
        [state] = poll.Poll([clusters.Target(
            'central', 'images', conf_file=conf)]).wait(60)
        self.assertEqual(health.DOWN, state.state)
        self.assertIn('monitors', state.reason)

    def test_no_tasks(self):
        self.assertEqual({(health.UP, ())}, {
            (state.state, tuple(state.tasks))
            for state in self.look().values()})

    def test_tasks_of_this_deployment_by_their_sites(self):
        for site, image, action in (
                ('dcn0', 'a', DELETE), ('dcn0', 'b', DELETE),
                ('dcn0', 'a', PURGE), ('central', 'c', DELETE),
                ('gone', 'd', DELETE)):
            self.record('central', site, image, action)
        self.record('central', 'dcn1', 'e', deployment='theirs')
        # What another site keeps is shown there.
        self.record('dcn1', 'dcn1', 'f')
        self.assertEqual(
            {'central': ({'delete': 1}, {'c'}),
             'dcn0': ({'delete': 2, 'purge': 1}, {'a', 'b'}),
             'dcn1': ({}, set())},
            {name: (state.tasks, state.images)
             for name, state in self.look().items()})

    def test_oldest_tasks(self):
        store = stores.TaskStore(home.Home(self.sites['central']), 'ours')
        for image, action, since in (('a', DELETE, 30), ('b', DELETE, 20),
                                     ('c', PURGE, 10)):
            store.put(tasks.Task(action, 'dcn0', image, 'images',
                                 image_id='1', created_at=since))
        found = self.look()
        self.assertEqual({'delete': 20, 'purge': 10}, found['dcn0'].oldest)
        self.assertEqual({}, found['dcn1'].oldest)

    def test_workers_of_this_deployment(self):
        keeper = home.Home(self.sites['central'])
        ours = registry.Worker('a', 'central', beat=3)
        counted = figures.Figures('dcn0', {'read': 5}, 1)
        registry.Registry(keeper, 'ours').replace(None, ours, [counted])
        registry.Registry(keeper, 'theirs').replace(
            None, registry.Worker('b', 'central'), [counted])
        registry.Registry(home.Home(self.sites['dcn1']), 'ours').replace(
            None, registry.Worker('c', 'dcn1'), [counted])
        self.assertTrue(leases.RunnerLease(
            stores.TaskStore(keeper, 'ours')).acquire())
        # Records whose keys are those of others.
        for key in ('worker/d', 'figures/a/dcn1', 'figures/dcn0'):
            keeper.run(omap.put, registry.OBJECT, {
                key: ours.text('ours') if key == 'worker/d'
                else record_format.dump(counted, 'ours')})
        made = self.poll()
        made.wait(60)
        self.assertEqual(poll.Work([ours], {'a': [counted]}, 1), made.work)

    def test_no_workers(self):
        made = self.poll()
        made.wait(60)
        self.assertEqual(poll.Work([], {}, 0), made.work)

    def test_images_that_are_being_written_are_no_tasks(self):
        stores.TaskStore(home.Home(self.sites['central']), 'ours').put(
            tasks.Intent('dcn0', 'a', 'images', 'f', 'writer', 'address'))
        self.assertEqual({}, self.look()['dcn0'].tasks)

    def test_default_site_that_is_away(self):
        self.record('central', 'dcn0', 'a')
        self.sites['central'].away()
        found = self.look()
        self.assertEqual((health.DOWN, 'it is away'), (
            found['central'].state, found['central'].reason))
        # Nothing was looked at: that is not the same as none.
        self.assertEqual((None, True), (found['dcn0'].tasks,
                                        found['dcn0'].unread))
        made = self.poll()
        made.wait(60)
        self.assertIsNone(made.work)

    def test_records_that_are_refused(self):
        walk = self.cluster.walk

        def refuse(ioctx, name, *args):
            if name == stores.OBJECT:
                raise omap.Error('denied')
            return walk(ioctx, name, *args)
        self.cluster.walk = refuse
        found = self.look()
        self.assertEqual(health.UP, found['central'].state)
        self.assertIn('cannot be read (denied)', found['central'].reason)
        self.assertEqual({(None, True)}, {
            (state.tasks, state.unread) for state in found.values()})

    def test_glance_that_keeps_no_records(self):
        [state] = self.poll(clusters.Target(
            'central', 'images', default=True,
            access=model.Access.READ_ONLY)).wait(60)
        self.assertEqual((None, False), (state.tasks, state.unread))

    def test_home_that_is_not_the_default_store(self):
        self.record('dcn1', 'dcn0', 'a')
        found = {state.name: state for state in self.poll(*(
            clusters.Target(name, 'images', default=name == 'central',
                            home=name == 'dcn1')
            for name in self.sites)).wait(60)}
        self.assertEqual({'delete': 1}, found['dcn0'].tasks)

    def test_cluster_that_is_not_that_of_yesterday(self):
        keeper = home.Home(self.sites['central'])
        keeper.run(cluster_identity.add, 'ours', 'dcn0', 'another')
        keeper.run(cluster_identity.add, 'ours', 'dcn1', 'fsid of dcn1')
        found = self.look()
        self.assertEqual(
            [health.UP, health.MISCONFIGURED, health.UP],
            [found[name].state for name in ('central', 'dcn0', 'dcn1')])
        self.assertIn('has fsid fsid of dcn0, and had fsid another',
                      found['dcn0'].reason)
        self.assertIn('glance-dcn site accept dcn0', found['dcn0'].reason)

    def test_pool_of_another(self):
        self.fsids['dcn1'] = 'fsid of dcn0'
        found = self.look()
        self.assertEqual((health.UP, health.MISCONFIGURED),
                         (found['dcn0'].state, found['dcn1'].state))
        self.assertIn('that of store dcn0 already', found['dcn1'].reason)

    def test_images_that_are_not_where_glance_says(self):
        self.names.add('a')
        state = self.look()['dcn0']
        for uri, lacks in (
                ('rbd://fsid of dcn0/images/a/snap', False),
                ('rbd://fsid of dcn0/images/b/snap', True),
                ('rbd://fsid of dcn1/images/a/snap', True),
                # It may be there, and is not looked for.
                ('rbd://fsid of dcn0/volumes/v/snap', False),
                ('rbd://b', False), ('http://b/c', False)):
            self.assertEqual(lacks, state.lacks(uri), uri)
