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

"""The tasks of a process, as sites and the driver use them."""

import pathlib

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.ceph import omap
from glance_dcn.tasks import deployment
from glance_dcn.tasks import intents
from glance_dcn.tasks import queue
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests.unit.tasks import fakes

IMAGE, OTHER = fakes.IMAGE, fakes.OTHER
ADDRESS = '10.0.0.7:0/7'
Action = tasks.Action


class QueueCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.useFixture(fakes.MemoryCluster())
        self.home, self.edge = fakes.Site('home'), fakes.Site('edge')
        self.database = fakes.Database()
        self.queue = queue.TaskQueue('ours')
        self.queue.writes = intents.WriteLog(
            self.queue.store, lambda: self.queue.lead.notify(),
            repeat=fakes.Periodic)
        self.queue.add(self.home, home=True)
        self.queue.add(self.edge)
        self.queue._database = self.database

    def defer(self, action, site, image, pool=None, fsid=None, **fields):
        """Record a task for an image of a site."""
        self.queue.defer([tasks.Task(action, site.name, image,
                                     pool or site.pool, fsid or site.fsid,
                                     **fields)])

    @property
    def left(self):
        return self.queue.store.scan().records


class TestHome(base.BaseTestCase):

    def home(self, *names, home=None):
        made = queue.TaskQueue()
        for name in names:
            made.add(fakes.Site(name), home=name == home)
        return made.home.name

    def test_is_the_one_that_is_said_to_be(self):
        self.assertEqual('none', self.home())
        self.assertEqual('b', self.home('a', 'b', 'c', home='b'))
        self.assertEqual('none', self.home('a', 'b'))

    def test_store_that_is_configured_again(self):
        made = queue.TaskQueue()
        again = fakes.Site('a')
        for site in (fakes.Site('a'), fakes.Site('b'), again):
            made.add(site, home=site.name == 'a')
        self.assertIs(again, made.home.site)

    def test_site_that_is_gone(self):
        made = queue.TaskQueue()
        made.add(fakes.Site('a'))
        made.remove('a')
        made.remove('a')
        self.assertEqual({}, made.sites)


class TestDefer(QueueCase):

    def test_recorded(self):
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='1',
                   snapshot='snap')
        task, = self.left
        self.assertEqual(
            (Action.DELETE, 'edge', IMAGE, 'images', 'f', '1', 'snap'),
            (task.action, task.site, task.image, task.pool, task.fsid,
             task.image_id, task.snapshot))
        self.defer(Action.DELETE, self.edge, OTHER, 'vms', fsid='g')
        task = self.left[-1]
        self.assertEqual(('vms', 'g'), (task.pool, task.fsid))

    def test_leader_is_told(self):
        told = []
        self.queue.lead.on_work(lambda: told.append(len(self.left)))
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='1')
        self.assertEqual([1], told)
        self.queue.writes.begin(self.edge, IMAGE, ADDRESS).abandon()
        self.assertEqual(2, len(told))

    def test_nowhere_to_record(self):
        self.home.away()
        exc = self.assertRaises(queue.NotRecorded, self.defer,
                                Action.DELETE, self.edge, IMAGE)
        self.assertEqual('edge', exc.store)
        # Where no caller could be told of it, it is only logged.
        self.queue.note_purge(self.edge, IMAGE)('1')
        self.assertIn('may stay in the trash', self.log.output)

    def test_purge_is_noted(self):
        self.queue.note_purge(self.edge, IMAGE, 'vms')('1')
        task, = self.left
        self.assertEqual((Action.PURGE, IMAGE, 'vms', '1'), (
            task.action, task.image, task.pool, task.image_id))


class TestAboutToBeWritten(QueueCase):

    def setUp(self):
        super().setUp()
        self.database.says = fakes.IN_USE
        self.edge.add('1')
        # As the writer does, who holds the lock.
        self.edge.locked = {IMAGE}

    def run_pending(self):
        write = self.queue.writes.begin(self.edge, IMAGE, ADDRESS)
        with self.edge.open_pool() as ioctx:
            done = self.queue.run_pending_for_image(self.edge, ioctx, IMAGE,
                                                    write)
        write.end()
        return done

    def test_what_waits_is_done_first(self):
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='1')
        self.assertTrue(self.run_pending())
        self.assertEqual({}, self.edge.images)
        self.assertEqual([], self.left)

    def test_by_the_client_that_holds_the_lock(self):
        # Another is not blocklisted if this process is stopped.
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='1')
        write = self.queue.writes.begin(self.edge, IMAGE, ADDRESS)
        with self.edge.open_pool() as ioctx:
            self.edge.open_pool = lambda pool: self.fail('another client')
            self.assertTrue(self.queue.run_pending_for_image(
                self.edge, ioctx, IMAGE, write))
        self.assertEqual({}, self.edge.images)

    def test_another_pool_has_another_lock(self):
        self.edge.add('2', pool='vms')
        self.defer(Action.DELETE, self.edge, IMAGE, 'vms', image_id='2')
        self.assertFalse(self.run_pending())
        self.assertEqual(2, len(self.edge.images))
        self.assertEqual(1, len(self.left))

    def test_another_writer_is_about_to_tell_glance(self):
        # It has held the image in Glance before this one did.
        self.defer(Action.DELETE, self.edge, IMAGE)
        other = self.queue.writes.begin(self.edge, IMAGE, ADDRESS)
        other.bind('1')
        other.commit()
        self.assertFalse(self.run_pending())
        self.assertEqual(1, len(self.edge.images))

    def test_nothing_waits(self):
        for action, image in ((Action.DELETE, OTHER), (Action.PURGE, IMAGE)):
            self.defer(action, self.edge, image, image_id='1')
        self.assertFalse(self.run_pending())
        self.assertEqual(1, len(self.edge.images))
        self.assertEqual(2, len(self.left))

    def test_void(self):
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='2')
        self.assertFalse(self.run_pending())
        self.assertEqual(1, len(self.edge.images))
        self.assertEqual([], self.left)

    def test_cannot_be_done(self):
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='1')
        for answer in (fakes.NAMED, fakes.UNKNOWN):
            self.database.says = answer
            self.assertFalse(self.run_pending())
        self.database.available = False
        self.assertFalse(self.run_pending())
        self.queue._database = None
        self.assertFalse(self.run_pending())
        self.assertEqual(1, len(self.edge.images))
        self.assertEqual(1, len(self.left))

    def test_of_another_release(self):
        intent = tasks.Intent('edge', IMAGE, 'images', 'f', 'w', ADDRESS, '1')
        kept = fakes.records_of(self.home)
        text = fakes.next_release(self.queue.store.text(intent))
        kept[intent.key] = text
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='1')
        self.assertFalse(self.run_pending())
        self.assertEqual(1, len(self.edge.images))
        # The image may be committed, and its writer cannot be blocklisted.
        self.assertTrue(self.queue.is_committed(self.edge, IMAGE, '1'))
        self.assertRaises(stores.OfOtherRelease, self.queue.writers_of,
                          self.edge, IMAGE, '1')
        self.queue.cancel_deletes(self.edge, IMAGE)
        self.assertEqual(text, kept[intent.key])

    def test_records_that_cannot_be_read(self):
        write = self.queue.writes.begin(self.edge, IMAGE, ADDRESS)
        self.home.away()
        self.assertFalse(self.queue.run_pending_for_image(
            self.edge, None, IMAGE, write))
        self.assertIn('it is away', self.log.output)


class TestWriters(QueueCase):

    def test_of_the_image_of_an_id(self):
        for image_id, address in (('1', 'a'), ('2', 'b'), (None, 'c')):
            write = self.queue.writes.begin(self.edge, IMAGE, address)
            if image_id:
                write.bind(image_id)
        self.queue.writes.begin(self.edge, OTHER, 'd').bind('1')
        self.queue.writes.begin(self.home, IMAGE, 'e').bind('1')
        self.assertEqual({'a'}, self.queue.writers_of(self.edge, IMAGE, '1'))
        self.assertEqual({'c'}, self.queue.writers_of(self.edge, IMAGE, None))

    def test_home_is_away(self):
        self.home.away()
        self.assertRaises(fakes.errors.Unreachable, self.queue.writers_of,
                          self.edge, IMAGE, '1')


class TestCommitted(QueueCase):

    def is_committed(self, image_id='1'):
        return self.queue.is_committed(self.edge, IMAGE, image_id)

    def test_of_the_image_of_an_id(self):
        write = self.queue.writes.begin(self.edge, IMAGE, ADDRESS)
        write.bind('1')
        self.assertFalse(self.is_committed())
        write.commit()
        self.assertTrue(self.is_committed())
        self.assertFalse(self.is_committed('2'))

    def test_home_is_away(self):
        self.home.away()
        self.assertTrue(self.is_committed())


class TestCancelDeletes(QueueCase):

    def test_deletions_of_the_image_and_nothing_else(self):
        kept = [tasks.Task(Action.REMOVE_INCOMPLETE, 'edge', IMAGE, 'images'),
                tasks.Task(Action.PURGE, 'edge', IMAGE, 'images',
                           image_id='1'),
                tasks.Task(Action.DELETE, 'edge', OTHER, 'images'),
                tasks.Task(Action.DELETE, 'home', IMAGE, 'images')]
        for task in kept:
            self.queue.store.put(task)
        self.defer(Action.DELETE, self.edge, IMAGE, image_id='1')
        self.defer(Action.DELETE, self.edge, IMAGE)
        self.queue.cancel_deletes(self.edge, IMAGE)
        self.assertEqual({task.uid for task in kept},
                         {task.uid for task in self.left})

    def test_home_that_cannot_be_asked(self):
        self.defer(Action.DELETE, self.edge, IMAGE)
        for refusal in (fakes.errors.Unreachable('home', 'away', 'wait'),
                        omap.Error('it refuses')):
            self.home.refusal = refusal
            self.queue.cancel_deletes(self.edge, IMAGE)
            self.assertIn(str(refusal), self.log.output)
        self.home.refusal = None
        self.assertEqual(1, len(self.left))


class TestSetup(base.BaseTestCase):

    def conf(self, connection=None, chosen=None):
        conf = cfg.ConfigOpts()
        conf.register_opts(deployment.OPTS, group=deployment.GROUP)
        path = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / 'conf'
        path.write_text('[database]\n' + (
            'connection = %s\n' % connection if connection else ''))
        # As Glance's is while it configures its stores: nothing has had the
        # options of the database known yet.
        conf(['--config-file', str(path)])
        conf.set_override('deployment_id', chosen, group=deployment.GROUP)
        return conf

    def deployment(self, *args, **kwargs):
        return deployment.deployment_id(self.conf(*args, **kwargs))

    def test_of_the_database(self):
        ours = self.deployment('mysql+pymysql://glance:secret@db/glance')
        self.assertRegex(ours, '^[0-9a-f]{16}$')
        # Users and passwords are rotated, and other options are changed.
        for same in ('mysql+pymysql://glance:other@db/glance',
                     'mysql+pymysql://g2:p%40ss@db/glance?charset=utf8',
                     'mysql+pymysql://g2:p?/#:ss@db/glance'):
            self.assertEqual(ours, self.deployment(same))
        for other in ('mysql+pymysql://glance:secret@db/glance2',
                      'mysql+pymysql://glance:secret@db2/glance'):
            self.assertNotEqual(ours, self.deployment(other))

    def test_of_a_file(self):
        self.assertEqual(self.deployment('sqlite:////a.db'),
                         self.deployment('sqlite:////a.db'))
        self.assertNotEqual(self.deployment('sqlite:////a.db'),
                            self.deployment('sqlite:////b.db'))

    def test_of_a_database_without_a_user(self):
        self.assertNotEqual(self.deployment('mysql+pymysql://one/glance'),
                            self.deployment('mysql+pymysql://two/glance'))
        self.assertEqual(self.deployment('mysql+pymysql://one/glance'),
                         self.deployment('mysql+pymysql://u:p@one/glance'))

    def test_chosen(self):
        self.assertEqual('mine', self.deployment('mysql://u@db/g', 'mine'))
        self.assertEqual('mine', self.deployment(None, 'mine'))

    def test_options_of_the_database_that_are_known_already(self):
        conf = self.conf('mysql+pymysql://glance:secret@db/glance')
        before = deployment.deployment_id(conf)
        self.assertEqual(before, deployment.deployment_id(conf))
        conf = self.conf('mysql+pymysql://glance:secret@db/glance')
        conf.register_opts([cfg.StrOpt('connection')], group='database')
        self.assertEqual(before, deployment.deployment_id(conf))

    def test_none(self):
        self.assertEqual('', self.deployment())
        conf = cfg.ConfigOpts()
        conf.register_opts(deployment.OPTS, group=deployment.GROUP)
        conf([])
        self.assertEqual('', deployment.deployment_id(conf))
