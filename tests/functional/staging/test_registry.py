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

"""The registry of workers on a real cluster."""

import dataclasses
import uuid

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import omap
from glance_dcn.imports import journal
from glance_dcn.sites import figures
from glance_dcn.sites import home as homes
from glance_dcn.sites import site as sites
from glance_dcn.workers import registry
from tests.functional import base


class RegistryTest(base.CephTestCase):

    def setUp(self):
        super().setUp()
        self.site = sites.Site(clients.ClusterConfig(
            'central-%s' % uuid.uuid4(), 'images',
            str(self.cluster('central').conf), 'glance', 5, 20), 22)
        self.home = homes.Home(self.site)
        self.registry = registry.Registry(self.home)
        self.worker = registry.Worker(
            str(uuid.uuid4()), self.site.name, url='http://wörker:9292',
            host='host', faults=('a fault',))
        self.identity = self.worker.identity
        self.addCleanup(self.purge)

    def purge(self):
        with self.home.open() as ioctx:
            omap.remove(ioctx, registry.OBJECT, self.worker.key)
            for entry in self.registry.tasks(self.identity):
                self.registry.forget(self.identity, entry.task)
            omap.remove_object(ioctx, registry.ACTING + self.identity)

    def entry(self, **fields):
        return journal.Entry(**dict(
            {'task': str(uuid.uuid4()), 'image': self.image_name(),
             'method': 'copy-image', 'stores': ['dcn0'], 'path': '/s/i',
             'phase': journal.COPYING, 'begun': {'dcn0': [4242]}}, **fields))

    def kept(self):
        return [worker for worker, _text in self.registry.workers()
                if worker.identity == self.identity]

    def test_a_worker(self):
        self.assertEqual((None, None), self.registry.worker(self.identity))
        self.assertTrue(self.registry.replace(None, self.worker))
        # Another who believes to be the first.
        self.assertFalse(self.registry.replace(None, self.worker))
        self.assertEqual((self.worker, self.worker.text()),
                         self.registry.worker(self.identity))
        self.assertEqual([self.worker], self.kept())

    def test_only_over_what_is_known(self):
        self.registry.replace(None, self.worker)
        spoken = dataclasses.replace(self.worker, beat=1)
        taken = dataclasses.replace(self.worker, taken_by='peer')
        self.assertTrue(self.registry.replace(self.worker.text(), spoken))
        self.assertFalse(self.registry.replace(self.worker.text(), taken))
        self.registry.remove(self.worker, self.worker.text())
        self.assertEqual([spoken], self.kept())
        self.registry.remove(spoken, spoken.text())
        self.assertEqual([], self.kept())
        # Nor does it come back.
        self.assertFalse(self.registry.replace(spoken.text(), taken))

    def test_in_an_object_that_is_not_there_yet(self):
        name = 'glance_dcn.test.%s' % uuid.uuid4()
        with self.home.open() as ioctx:
            self.assertFalse(omap.swap(ioctx, name, 'key', 'text', 'other'))
            self.assertTrue(omap.swap(ioctx, name, 'key', None, 'text'))
            self.assertTrue(omap.swap(ioctx, name, 'key', 'text', 'other'))
            self.assertEqual('other', omap.get(ioctx, name, 'key'))
            omap.remove_object(ioctx, name)

    def test_figures(self):
        def kept():
            return self.registry.figures().get(self.identity, [])
        first = figures.Figures('dcn/0', {'read': 1})
        second = figures.Figures('dcn1', {'errors/away': 2}, 1, 2)
        self.assertTrue(self.registry.replace(None, self.worker,
                                              [first, second]))
        self.assertEqual([first, second], kept())
        spoken = dataclasses.replace(self.worker, beat=1)
        later = figures.Figures('dcn/0', {'read': 5})
        # None without the heartbeat.
        self.assertFalse(self.registry.replace('other', spoken, [later]))
        self.assertEqual([first, second], kept())
        self.assertTrue(self.registry.replace(self.worker.text(), spoken,
                                              [later]))
        self.assertEqual([later, second], kept())
        # Nor of one that is forgotten.
        self.registry.remove(spoken, spoken.text())
        self.assertEqual([], kept())

    def test_what_cannot_be_understood(self):
        with self.home.open() as ioctx:
            omap.put(ioctx, registry.OBJECT, {self.worker.key: '{'})
        self.assertEqual([], self.kept())
        self.assertEqual((None, '{'), self.registry.worker(self.identity))
        # Its owner writes it anew.
        self.assertTrue(self.registry.replace('{', self.worker))

    def test_of_a_later_release(self):
        text = self.worker.text().replace('"beat"', '"more": 1, "beat"')
        with self.home.open() as ioctx:
            omap.put(ioctx, registry.OBJECT, {self.worker.key: text})
        # It would be half understood.
        self.assertEqual([], self.kept())
        self.assertEqual((None, text),
                         self.registry.worker(self.identity))

    def test_tasks(self):
        first, second = self.entry(), self.entry()
        self.assertEqual([], self.registry.tasks(self.identity))
        for entry in (first, second):
            self.registry.note(self.identity, entry)
        changed = dataclasses.replace(first, phase=journal.STORING)
        self.registry.note_later(self.identity, changed)
        self.registry.forget(self.identity, second.task)
        self.registry.forget(self.identity, second.task)
        self.assertEqual([changed], self.registry.tasks(self.identity))
        self.assertEqual([], self.registry.tasks(str(uuid.uuid4())))

    def test_all_in_one_walk(self):
        self.registry.replace(None, self.worker,
                              [figures.Figures('dcn/0', {})])
        entry = self.entry()
        self.registry.note(self.identity, entry)
        later = 'task/%s/later' % self.identity
        with self.home.open() as ioctx:
            omap.put(ioctx, registry.OBJECT, {
                later: entry.text().replace('"version": 2', '"version": 3')})
        self.addCleanup(self.registry.forget, self.identity, 'later')
        found = self.registry.scan()
        self.assertIn(self.worker, found.workers)
        self.assertEqual([entry], found.tasks[self.identity])
        self.assertIn('version 3', found.unreadable[later])
        self.assertEqual(([entry], {'later'}),
                         self.registry.journal_of(self.identity))

    def test_right_to_act(self):
        self.assertTrue(self.registry.hold(self.identity, 'one', 30))
        other = registry.Registry(homes.Home(sites.Site(
            clients.ClusterConfig(
                'other-%s' % uuid.uuid4(), 'images',
                str(self.cluster('central').conf), 'glance', 5, 20), 22)))
        self.assertFalse(other.hold(self.identity, 'two', 30))
        self.assertTrue(self.registry.hold(self.identity, 'one', 30))
        self.registry.release(self.identity, 'one')
        self.registry.release(self.identity, 'one')
        self.assertTrue(other.hold(self.identity, 'two', 30))
        other.release(self.identity, 'two')
