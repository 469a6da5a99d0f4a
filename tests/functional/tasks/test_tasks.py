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

"""Deferred tasks, done on real clusters."""

from concurrent import futures
import contextlib

import rbd

from glance_dcn.sites import existing
from glance_dcn.tasks import leases
from glance_dcn.tasks import queue as queues
from glance_dcn.tasks import runner as runners
from glance_dcn.tasks import task as tasks
from lab import process
from tests.functional import base as functional
from tests.functional.tasks import base

Action = queues.Action


class DeleteTest(base.TasksTestCase):

    def test_deleted(self):
        self.write()
        self.create(dropped=[self.edge])
        self.destroy()
        self.defer(Action.DELETE, self.edge, self.image)
        self.settle()
        self.assertGone()

    def test_planned_and_run_without_a_runner(self):
        made = self.write()
        self.create(dropped=[self.edge])
        self.destroy()
        self.defer(Action.DELETE, self.edge, self.image)
        before = self.recorded()
        self.assertEqual({'remove'}, {self.queue.plan(record).verdict.value
                                      for record in before})
        # Nothing was done.
        self.assertEqual(before, self.recorded())
        self.assertThere(made)
        self.assertTrue(self.queue.run_once(30))
        self.assertGone()

    def test_removed_from_one_store(self):
        self.write()
        self.create(located=[self.home], dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image)
        self.settle()
        self.assertGone()

    def test_there_is_no_such_image(self):
        self.create()
        self.defer(Action.DELETE, self.edge, self.image)
        self.run_tasks()
        self.assertEqual([], self.recorded())

    def test_glance_still_has_the_location(self):
        made = self.write()
        self.create(located=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image)
        self.run_tasks(2)
        self.assertThere(made)
        # Beside the intent, until the location has lasted.
        task, = (record for record in self.recorded()
                 if isinstance(record, tasks.Task))
        self.assertIn('location', task.message)
        self.assertEqual(0, task.retry_attempts)

    def test_glance_is_about_to_note_a_location(self):
        made = self.write()
        for status in ('saving', 'importing', 'uploading'):
            image = self.image_name()
            self.create(status=status, image=image)
            self.assertFalse(self.database.ask(
                image, self.edge.uri(image)).permits_removal)
        self.create(dropped=[self.edge])
        self.glance.api.image_set_property_atomic(
            self.image, 'os_glance_import_task', 'of-a-copy')
        self.defer(Action.DELETE, self.edge, self.image)
        self.run_tasks(2)
        self.assertThere(made)
        self.glance.api.image_delete_property_atomic(
            self.image, 'os_glance_import_task', 'of-a-copy')
        self.settle()
        self.assertGone()

    def test_image_that_glance_does_not_know(self):
        made = self.write()
        self.defer(Action.DELETE, self.edge, self.image)
        self.run_tasks(3)
        self.assertThere(made)
        [task] = [record for record in self.recorded()
                  if hasattr(record, 'action')]
        self.assertIn('does not know', task.message)

    def test_another_image_than_the_one_that_was_meant(self):
        made = self.write()
        self.create(dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image,
                   image_id='123456')
        self.run_tasks()
        self.assertThere(made)
        self.assertFalse([record for record in self.recorded()
                          if hasattr(record, 'action')])

    def test_not_while_it_is_written_again(self):
        self.create(dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image)
        made = self.write(publish=False)
        self.run_tasks(2)
        self.assertThere(made)

    def test_creation_does_it_first(self):
        first = self.write()
        # Glance had its location.
        for record in self.recorded():
            self.queue.store.remove(record)
        self.create(status='saving', dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image)
        second = self.write(data=b'y')
        self.assertNotEqual(first, second)
        self.assertWhole(b'y')

    def test_creation_leaves_what_another_has_just_written(self):
        made = self.write()
        self.create(status='saving', dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image)
        self.assertRaises(existing.Complete, self.write, data=b'y')
        self.assertThere(made)
        self.assertWhole()

    def test_another_cluster(self):
        made = self.write()
        self.create(dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image,
                   fsid='5f2b9a54-3c1e-4d0a-9a43-0c7a6d1f0001')
        self.run_tasks()
        self.assertThere(made)

    def test_runners_race(self):
        self.write()
        self.create(dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image)
        runners_ = [self.runner() for _ in range(4)]
        with futures.ThreadPoolExecutor() as pool:
            list(pool.map(runners.TaskRunner.run, runners_))
        self.settle(runner=next(one for one in runners_
                                if one._lease._own.text))
        self.assertGone()

    def test_dead_runner_is_succeeded(self):
        self.write()
        self.create(dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image)
        dead, clock = self.runner(), [0.0]
        self.assertTrue(dead._lease.acquire())
        heir = self.runner(clock=lambda: clock[0])
        for seconds in (0, 10, leases.RunnerLease.EXPIRY - 1):
            clock[0] = seconds
            heir.run()
            self.assertThere()
        clock[0] += 2
        heir.run()
        self.assertGone()
        # It finds out before it does anything that cannot be undone.
        dead._lease._own.renewed = float('-inf')
        self.assertRaises(leases.LeaseLost, dead._lease.check)

    def test_a_runner_that_was_stopped_does_not_act(self):
        clock = [0.0]
        lease = leases.RunnerLease(self.queue.store, lambda: clock[0])
        self.assertTrue(lease.acquire())
        lease.check()
        # It goes on after half a minute, and no other has come.
        clock[0] = 31
        lease.check()
        other = leases.RunnerLease(self.queue.store, lambda: clock[0])
        self.assertFalse(other.acquire())
        # What was in between is not known where it did not look.
        clock[0] += 60
        self.assertFalse(other.acquire())
        clock[0] += leases.RunnerLease.EXPIRY
        self.assertTrue(other.acquire())
        self.assertRaises(leases.LeaseLost, lease.check)


class PurgeTest(base.TasksTestCase):

    def clone(self, clone_format):
        """Clone the image into pool vms; return what removes the clone."""
        name = '%s_disk' % self.image
        cluster = self.cluster('dcn0')
        with cluster.connect('openstack') as client:
            client.conf_set('rbd_default_clone_format', str(clone_format))
            with client.open_ioctx('images') as source, \
                    client.open_ioctx('vms') as target:
                rbd.RBD().clone(source, self.image, 'snap', target, name)

        def remove():
            with cluster.pool('vms') as ioctx, contextlib.suppress(
                    rbd.ImageNotFound):
                rbd.RBD().remove(ioctx, name)
        self.addCleanup(remove)
        return remove

    def check(self, clone_format):
        self.write()
        self.create(dropped=[self.edge])
        self.destroy()
        remove = self.clone(clone_format)
        self.defer(Action.DELETE, self.edge, self.image,
                   snapshot='snap')
        runner = self.runner()
        process.wait_for('the name to be free', lambda: (
            runner._attempts.clear() or runner.run()
            or self.image not in self.cluster('dcn0').images()), 30)
        self.assertIn(Action.PURGE, [
            record.action for record in self.recorded()
            if hasattr(record, 'action')])
        self.assertIn(self.image, self.cluster('dcn0').trash())
        with self.cluster('dcn0').pool('vms') as ioctx:
            with rbd.Image(ioctx, '%s_disk' % self.image) as image:
                self.assertEqual(b'x' * 4096, image.read(0, 4096))
        remove()
        self.settle(runner=runner)
        self.assertGone()

    def test_clone_that_needs_no_protection(self):
        self.check(2)

    def test_clone_that_needs_protection(self):
        self.check(1)

    def test_not_in_the_trash_yet(self):
        made = self.write()
        self.create(dropped=[self.edge])
        self.queue.note_purge(self.edge, self.image)(made)
        self.run_tasks()
        self.assertThere(made)
        self.assertIn(Action.PURGE, [
            record.action for record in self.recorded()
            if hasattr(record, 'action')])


class RefusedDeletionTest(base.TasksTestCase):
    """An image that cannot be removed stays as it was."""

    def test_open_elsewhere(self):
        made = self.write()
        with self.cluster('dcn0').pool() as ioctx, \
                rbd.Image(ioctx, self.image):
            with self.edge.open_pool() as pool, \
                    self.edge.name_lock(pool, self.image):
                self.assertRaises(
                    base.images.InUse, functional.delete_image, self.edge,
                    pool, self.image, made, 'snap')
            self.assertWhole()

    def test_opened_between_the_snapshot_and_the_image(self):
        made = self.write()
        real = base.images._remove_snapshot
        with contextlib.ExitStack() as stack:
            ioctx = stack.enter_context(self.cluster('dcn0').pool())

            def remove(image, snapshot):
                removed = real(image, snapshot)
                stack.enter_context(rbd.Image(ioctx, self.image))
                return removed
            self.useFixture(base.fixtures.MonkeyPatch(
                'glance_dcn.ceph.images._remove_snapshot', remove))
            with self.edge.open_pool() as pool, \
                    self.edge.name_lock(pool, self.image):
                self.assertRaises(
                    base.images.InUse, functional.delete_image, self.edge,
                    pool, self.image, made, 'snap')
        self.assertWhole()
