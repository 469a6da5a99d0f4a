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

"""Records that were forged or damaged: none is a command."""

import json
import pathlib

import fixtures
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import definitions
from glance_dcn.ceph import omap
from glance_dcn.imports import journal
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import home as homes
from glance_dcn.store import driver  # noqa: F401, options of stores
from glance_dcn.tasks import queue as queues
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import registry
from lab import process
from tests.functional.tasks import base

Action = queues.Action


class HomeTest(base.TasksTestCase):
    """What stands in the home itself, and is not what it should be."""

    def forge(self, text, key):
        with self.home_pool() as ioctx:
            omap.put(ioctx, stores.OBJECT, {key: text})

    def forge_task(self, **fields):
        task = tasks.Task(**dict({
            'action': Action.DELETE, 'site': self.edge.name,
            'image': self.image, 'pool': 'images'}, **fields))
        self.forge(self.queue.store.text(task), task.key)
        return task

    def volume(self, pool='volumes'):
        """Make what Cinder has made, in a pool that Glance's user has."""
        name = 'volume-%s' % self.image
        with self.cluster('dcn0').pool(pool, 'admin') as ioctx:
            rbd.RBD().create(ioctx, name, base.MIB)

        def remove():
            with self.cluster('dcn0').pool(pool, 'admin') as ioctx:
                self.remove_image(ioctx, name)
        self.addCleanup(remove)
        return name

    def is_there(self, name, pool):
        return name in self.cluster('dcn0').images(pool)

    def give_glance_the_pool(self, pool):
        """Let Glance's user have the pool, as in some deployments."""
        with self.cluster('dcn0').connect() as client:
            code, found, _ = client.mon_command(json.dumps({
                'prefix': 'auth get', 'entity': 'client.glance',
                'format': 'json'}), b'')
            self.assertEqual(0, code)
            before = json.loads(found)[0]['caps']

            def set_caps(client, caps):
                code, _out, said = client.mon_command(json.dumps({
                    'prefix': 'auth caps', 'entity': 'client.glance',
                    'caps': [part for item in caps.items()
                             for part in item]}), b'')
                self.assertEqual(0, code, said)
            set_caps(client, dict(before, osd=before['osd']
                                  + ', profile rbd pool=%s' % pool))

        def restore():
            with self.cluster('dcn0').connect() as client:
                set_caps(client, before)
        self.addCleanup(restore)

    def test_volume_of_cinder(self):
        self.give_glance_the_pool('volumes')
        name = self.volume()
        # Glance knows an image of that name, even.
        self.create()
        for action in (Action.DELETE, Action.REMOVE_INCOMPLETE):
            self.forge_task(action=action, image=name, pool='volumes')
        self.forge_task(image=name)
        self.run_tasks(3)
        self.assertTrue(self.is_there(name, 'volumes'))
        for record in self.queue.store.records(self.edge.name, name):
            if record.pool == 'volumes':
                self.assertIn('never had a location', record.message)

    def test_image_of_another_glance(self):
        made = self.write()
        for action in Action:
            self.forge_task(action=action, image_id=made)
        self.run_tasks(3)
        self.assertThere(made)
        self.assertWhole()

    def test_image_with_a_location(self):
        made = self.write()
        self.create(located=[self.edge])
        for action in Action:
            self.forge_task(action=action, image_id=made)
        self.forge_task()
        self.run_tasks(3)
        self.assertThere(made)
        self.assertWhole()

    def test_image_in_the_trash_with_its_snapshot(self):
        other = self.image_name()
        with self.cluster('dcn0').pool() as ioctx:
            rbd.RBD().create(ioctx, other, base.MIB)
            with rbd.Image(ioctx, other) as image:
                image.create_snap('snap')
                image.protect_snap('snap')
                image_id = image.id()
            rbd.RBD().trash_move(ioctx, other)

        def remove():
            with self.cluster('dcn0').pool() as ioctx:
                rbd.RBD().trash_restore(ioctx, image_id, other)
                self.remove_image(ioctx, other)
        self.addCleanup(remove)
        self.create()
        self.destroy()
        # Under a name that Glance knows, and under its own.
        for name in (self.image, other):
            self.forge_task(action=Action.PURGE, image=name, snapshot='snap',
                            image_id=image_id)
        self.run_tasks(3)
        self.assertIn(other, self.cluster('dcn0').trash())

    def test_image_of_a_living_writer(self):
        made = self.write(publish=False)
        self.create(status='saving')
        intent, = self.recorded()
        for action in (Action.DELETE, Action.REMOVE_INCOMPLETE):
            self.forge_task(action=action, image_id=made)
        self.forge_task()
        self.run_tasks(3)
        self.assertThere(made)

    def test_unreadable_ones_cost_only_themselves(self):
        good = self.image_name()
        self.create(image=good, dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, good)
        text = self.queue.store.text(self.forge_task())
        key = tasks.prefix(self.edge.name, self.image)
        for number, bad in enumerate((
                text.replace('"retry_attempts": 0', '"retry_attempts": "x"'),
                text.replace('"version": 2', '"version": 3'),
                text.replace('"action": "delete"', '"action": "explode"'),
                '[' * 16000, '{"a":' * 3000, '', 'null', 'x' * 20000,
                text.replace('"fsid": null', '"fsid": NaN'),
                text[:-1] + ', "more": 1}')):
            self.forge(bad, '%stask/bad%d' % (key, number))
        self.forge(text, key + 'task/of-another-key')
        self.forge(text, 'site/x/y')
        self.run_tasks(2)
        self.assertEqual([], self.queue.store.records(self.edge.name, good))
        unreadable = [entry for entry in self.queue.store.scan().unreadable
                      if entry.key.startswith(key)]
        self.assertEqual(11, len(unreadable))
        # They are there still, for an operator to see.
        self.run_tasks()
        self.assertEqual(11, len([
            entry for entry in self.queue.store.scan().unreadable
            if entry.key.startswith(key)]))

    def test_another_deployment(self):
        made = self.write()
        self.create(dropped=[self.edge])
        other = stores.TaskStore(self.queue.home, 'another')
        other.put(tasks.Task(Action.DELETE, self.edge.name, self.image,
                             'images'))
        self.addCleanup(self.drop_foreign)
        self.run_tasks(3)
        self.assertThere(made)
        [entry] = [entry for entry in self.queue.store.scan().unreadable
                   if self.image in entry.key]
        self.assertTrue(entry.foreign)

    def drop_foreign(self):
        with self.home_pool() as ioctx:
            for key, _text in list(omap.walk(
                    ioctx, stores.OBJECT, tasks.prefix(self.edge.name))):
                omap.remove(ioctx, stores.OBJECT, key)


class OtherSiteTest(base.TasksTestCase):
    """What stands where other sites can write."""

    def test_nothing_is_read_there(self):
        made = self.write()
        at_home = self.write(self.home)
        self.create(dropped=[self.edge, self.home])
        hostile = [tasks.Task(Action.DELETE, site.name, self.image, 'images')
                   for site in (self.edge, self.home)]
        old = json.dumps({'version': 1, 'job': 'delete', 'image': self.image,
                          'pool': 'images', 'since': 0, 'by': 'x',
                          'token': 'x'})
        self.addCleanup(self.clean)
        # In the default namespace of both, by what was read once; and in the
        # edge's own namespace.
        for cluster in ('central', 'dcn0'):
            with self.cluster(cluster).pool(user='glance') as ioctx:
                for site in ('', '.central', '.dcn0', '.' + self.home.name,
                             '.' + self.edge.name):
                    omap.put(ioctx, 'glance_dcn.owed' + site, {
                        '%s/delete' % self.image: old})
                for task in hostile:
                    omap.put(ioctx, stores.OBJECT, {
                        task.key: self.queue.store.text(task)})
        with self.home_pool('dcn0') as ioctx:
            for task in hostile:
                omap.put(ioctx, stores.OBJECT,
                         {task.key: self.queue.store.text(task)})
        # Not by the intents of what was written, which are in order here.
        self.run_tasks(3, self.runner(settled=3600))
        self.assertThere(made)
        self.assertThere(at_home, 'central')

    def clean(self):
        for cluster in ('central', 'dcn0'):
            with self.cluster(cluster).pool(user='admin') as ioctx:
                for site in ('', '.central', '.dcn0', '.' + self.home.name,
                             '.' + self.edge.name):
                    omap.remove_object(ioctx, 'glance_dcn.owed' + site)
                omap.remove_object(ioctx, stores.OBJECT)
                ioctx.set_namespace(homes.NAMESPACE)
                for site in (self.edge, self.home):
                    key = tasks.Task(Action.DELETE, site.name, self.image,
                                     'images').key
                    omap.remove(ioctx, stores.OBJECT, key)

    def test_forged_site_and_fsid(self):
        with self.cluster('central').pool(user='glance') as ioctx:
            omap.put(ioctx, 'glance_dcn.sites', {
                'site/evil': json.dumps({'rbd_store_user': 'admin'})})
            omap.put(ioctx, 'glance_dcn.fsids', {
                self.edge.name: json.dumps({'fsid': 'x', 'since': 0})})
            self.addCleanup(self.remove_forged)
        with self.queue.home.open() as ioctx:
            known = definitions.Definitions('central', ioctx,
                                            self.deployment).load().sites
            self.assertNotIn('evil', known)
            self.assertNotIn(self.edge.name,
                             cluster_identity.load(ioctx, self.deployment))

    def test_forged_worker(self):
        worker = registry.Worker('gone', self.home.name, staging='/')
        entry = journal.Entry(
            task=self.image_name(), image=self.image, method='glance-direct',
            stores=['dcn0'], path='/', phase=journal.STAGED)
        for cluster in ('central', 'dcn0'):
            with self.cluster(cluster).pool(user='glance') as ioctx:
                for name in ('glance_dcn.workers', registry.OBJECT):
                    omap.put(ioctx, name, {
                        worker.key: worker.text(self.deployment),
                        'task/gone/%s' % entry.task: entry.text()})
        self.addCleanup(self.remove_workers)
        known = registry.Registry(self.queue.home, self.deployment)
        self.assertEqual([], known.workers())
        self.assertEqual([], known.tasks('gone'))

    def remove_workers(self):
        for cluster in ('central', 'dcn0'):
            with self.cluster(cluster).pool(user='admin') as ioctx:
                for name in ('glance_dcn.workers', registry.OBJECT):
                    omap.remove_object(ioctx, name)

    def remove_forged(self):
        with self.cluster('central').pool(user='admin') as ioctx:
            for name in ('glance_dcn.sites', 'glance_dcn.fsids'):
                omap.remove_object(ioctx, name)


class SpoolTest(base.TasksTestCase):
    """Home is away: records go to the local disk."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.clusters = cls.start_clusters('home')

    def setUp(self):
        super().setUp()
        conf = str(self.clusters['home'].conf)
        self.folder = pathlib.Path(self.useFixture(
            fixtures.TempDir()).path) / 'records'
        self.queue = queues.TaskQueue(self.deployment)
        self.queue.configure(self.deployment, str(self.folder.parent),
                             self.database)
        self.home = base.sites.Site(clients.ClusterConfig(
            'home-%s' % self.image, 'images', conf, 'glance', 3, 3), 22,
            tasks=self.queue)
        self.edge = self.site('dcn0')
        self.queue.add(self.home, home=True)
        self.queue.add(self.edge)
        with self.home.open_pool():
            pass

    def purge(self):
        self.queue.writes._periodic.stop()
        with self.cluster('dcn0').pool() as ioctx:
            self.remove_image(ioctx, self.image)

    def freeze(self):
        self.clusters['home'].freeze()
        self.addCleanup(self.clusters['home'].thaw)

    def thaw(self):
        self.clusters['home'].thaw()
        process.wait_for('home to be back',
                         lambda: self.home.available, 60)

    def test_deletion_and_write(self):
        self.write()
        self.settle_intents()
        self.create(dropped=[self.edge])
        self.freeze()
        self.defer(Action.DELETE, self.edge, self.image)
        self.assertTrue(list(self.folder.glob('*.json')))
        # A write goes on as well.
        other = self.image
        self.image = self.image_name()
        self.addCleanup(self.purge)
        made = self.write()
        self.assertWhole()
        self.image, written = other, self.image
        self.thaw()
        process.wait_for('records to be moved', lambda: (
            self.queue.writes.renew()
            or not list(self.folder.glob('*.json'))), 60)
        self.settle()
        self.assertGone()
        self.assertEqual(made, self.identify(name=written))
        self.image = written

    def settle_intents(self):
        for record in self.recorded():
            self.queue.store.remove(record)

    def test_process_that_died_meanwhile(self):
        self.create(dropped=[self.edge])
        self.write()
        self.settle_intents()
        self.freeze()
        started = self.start_here(
            'queue.defer([tasks.Task(queues.Action.DELETE, name, image,'
            '                        site.pool, fsid=site.fsid)])',
            'say("deferred")', 'os.kill(os.getpid(), signal.SIGKILL)')
        self.await_line(started, 'deferred')
        started.wait()
        self.assertEqual(1, len(list(self.folder.glob('*.json'))))
        self.thaw()
        process.wait_for('records to be moved', lambda: (
            self.queue.store.drain()
            or not list(self.folder.glob('*.json'))), 60)
        self.settle()
        self.assertGone()

    def start_here(self, *lines):
        import subprocess
        import sys
        code = base.PREAMBLE + '\n'.join((
            'queue.configure(deployment, %r, None)' % str(self.folder.parent),
            *lines))
        started = subprocess.Popen(
            [sys.executable, '-c', code, self.image, self.deployment,
             str(self.clusters['home'].conf),
             str(self.cluster('dcn0').conf), self.edge.name],
            cwd=base.ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.addCleanup(self.end, started)
        return started
