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

"""Where records are kept, and what becomes of those nobody understands."""

import dataclasses
import threading

import fixtures
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.sites import home
from glance_dcn.tasks import spool
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests.unit.tasks import fakes

IMAGE = fakes.IMAGE


def a_task(site='edge', image=IMAGE, **fields):
    return tasks.Task(tasks.Action.DELETE, site, image, 'images', **fields)


class StoreCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.cluster = self.useFixture(fakes.MemoryCluster())
        self.folder = self.useFixture(fixtures.TempDir()).path
        self.site = fakes.Site('home')
        self.store = self.process()

    def process(self, deployment='ours', spooling=True):
        """Return what another process of the home has."""
        return stores.TaskStore(
            home.Home(self.site), deployment,
            spool.Spool(self.folder) if spooling else None)

    @property
    def kept(self):
        return fakes.records_of(self.site)


class TestStore(StoreCase):

    def test_kept_in_the_namespace_at_home(self):
        task = a_task()
        self.assertTrue(self.store.put(task, others={'lease/1': 'text'}))
        self.assertEqual({task.key: self.store.text(task),
                          'lease/1': 'text'}, self.kept)
        self.assertEqual([('images', 'glance-dcn', 'tasks')],
                         list(self.site.omaps))

    def test_scan(self):
        found = [a_task(image=image) for image in 'ab']
        intent = tasks.Intent('edge', 'c', 'images', 'f', 'w', 'a')
        for record in (intent, *found):
            self.store.put(record, others={'lease/w': 'text',
                                           'runner/ours': 'x'})
        scan = self.store.scan()
        self.assertEqual([*found, intent], scan.records)
        self.assertEqual({'w': 'text'}, scan.leases)
        self.assertEqual([], scan.unreadable)

    def test_records_of_an_image_at_a_site(self):
        task = a_task()
        for other in (task, a_task(image='b'), a_task('edge_2'),
                      a_task('edg')):
            self.store.put(other)
        self.assertEqual([task], self.store.records('edge', IMAGE))

    def test_replaced_only_if_it_is_what_it_was(self):
        task = a_task()
        changed = dataclasses.replace(task, message='x')
        self.assertFalse(self.store.replace(task, changed))
        self.store.put(task)
        self.assertTrue(self.store.replace(task, changed))
        self.assertFalse(self.store.replace(task, changed))
        self.assertFalse(self.store.remove(task))
        self.assertEqual([changed], self.store.scan().records)
        self.assertTrue(self.store.remove(changed))
        self.assertEqual({}, self.kept)

    def test_those_of_another_deployment_are_left_alone(self):
        theirs = self.process('theirs')
        theirs.put(a_task())
        scan = self.store.scan()
        self.assertEqual([], scan.records)
        self.assertEqual([True], [entry.foreign for entry in scan.unreadable])
        self.assertEqual(1, len(theirs.scan().records))

    def test_what_is_not_understood_costs_only_itself(self):
        task = a_task()
        self.store.put(task)
        evil = {
            tasks.prefix('edge', 'a') + 'task/delete': '[' * 10000,
            # A valid one under the key of another.
            tasks.prefix('edge', 'b') + 'task/delete': self.store.text(task),
            tasks.prefix('edge', 'c') + 'intent/1': self.store.text(task),
            tasks.prefix('edge', 'd') + 'other/1': self.store.text(task),
            # Its key could not be written down.
            tasks.prefix('edge', 'e') + 'task/delete': self.store.text(
                task).replace(IMAGE, '\\ud800'),
            'site/x': '{}'}
        self.kept.update(evil, unrelated='x')
        scan = self.store.scan()
        self.assertEqual([task], scan.records)
        self.assertEqual(set(evil), {entry.key for entry in scan.unreadable})
        for entry in scan.unreadable:
            self.assertFalse(entry.foreign)
            self.assertTrue(entry.reason)


class TestHomeAway(StoreCase):

    def test_kept_on_disk_until_it_is_back(self):
        task = a_task()
        self.site.away()
        self.assertFalse(self.store.put(task))
        self.assertRaises(errors.Unreachable, self.store.scan)
        self.site.back()
        # As if it were there.
        self.assertEqual([task], self.store.scan().records)
        self.store.drain()
        self.assertEqual([task.key], list(self.kept))
        self.assertEqual([], self.store.spool.items())
        self.assertEqual([task], self.store.scan().records)

    def test_changed_and_removed_on_disk(self):
        task = a_task()
        changed = dataclasses.replace(task, message='x')
        self.site.away()
        self.store.put(task)
        self.assertTrue(self.store.replace(task, changed))
        self.assertTrue(self.store.replace(changed, task))
        self.site.back()
        self.assertEqual([task], self.store.scan().records)
        self.site.away()
        self.assertTrue(self.store.remove(task))
        self.store.put(task)
        self.store.remove_later(task)
        self.site.back()
        self.assertEqual([], self.store.scan().records)
        self.assertEqual({}, self.kept)

    def test_what_was_changed_while_it_was_moved_stays(self):
        task = a_task()
        changed = dataclasses.replace(task, message='x')
        self.site.away()
        self.store.put(task)
        self.site.back()
        put = self.cluster.put

        def put_slowly(*args, **kwargs):
            self.store.spool.put({task.key: self.store.text(changed)})
            put(*args, **kwargs)
        self.cluster.put = put_slowly
        self.store.drain()
        self.assertEqual([changed], self.store.scan().records)
        self.cluster.put = put
        self.store.drain()
        self.assertEqual({task.key: self.store.text(changed)}, self.kept)

    def test_moved_by_two_threads_at_once(self):
        task = a_task()
        self.site.away()
        self.store.put(task)
        self.site.back()
        put, removed = self.cluster.put, threading.Event()
        writing = threading.Event()

        def put_slowly(*args, **kwargs):
            if threading.current_thread() is thread:
                writing.set()
                # It is away for a while.
                removed.wait(0.5)
            put(*args, **kwargs)
        self.cluster.put = put_slowly
        thread = threading.Thread(target=self.store.drain)
        thread.start()
        self.assertTrue(writing.wait(60))
        self.store.drain()
        self.assertTrue(self.store.remove(task))
        removed.set()
        thread.join()
        # It does not come back.
        self.assertEqual({}, self.kept)

    def test_changed_where_it_was_moved_to(self):
        # Right after it was looked for on the local disk.
        task = a_task()
        taken = dataclasses.replace(task, message='taken')
        self.site.away()
        self.store.put(task)
        self.site.back()
        swap = self.store.spool.swap

        def swap_late(*args):
            self.store.drain()
            self.assertTrue(self.process().replace(task, taken))
            return swap(*args)
        self.store.spool.swap = swap_late
        self.assertFalse(self.store.replace(
            task, dataclasses.replace(task, message='mine')))
        self.assertEqual([taken], self.store.scan().records)

    def test_disk_that_cannot_be_changed(self):
        task = a_task()
        self.site.away()
        self.store.put(task)
        self.useFixture(fixtures.MonkeyPatch('os.fsync', fail))
        for change in (lambda: self.store.remove(task),
                       lambda: self.store.remove_later(task),
                       lambda: self.store.replace(task, task)):
            self.assertRaises(stores.NotRecorded, change)

    def test_nowhere_to_record(self):
        self.site.away()
        exc = self.assertRaises(stores.NotRecorded,
                                self.process(spooling=False).put, a_task())
        for word in ('edge', IMAGE, 'store home', 'it is away',
                     'no staging folder',
                     'see that store home can be used'):
            self.assertIn(word, str(exc))
        self.assertEqual('edge', exc.store)

    def test_disk_that_cannot_be_written(self):
        self.site.away()
        self.store.spool = spool.Spool('/proc/nonsense')
        exc = self.assertRaises(stores.NotRecorded, self.store.put, a_task())
        self.assertIn('local disk', str(exc))


def fail(_fd):
    raise OSError('no space left')
