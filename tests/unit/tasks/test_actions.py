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

"""What is decided about tasks, and that only this is done."""

import dataclasses

from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.sites import home
from glance_dcn.tasks import actions
from glance_dcn.tasks import leases
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests.unit.tasks import fakes

IMAGE = fakes.IMAGE
DELETE, INCOMPLETE, PURGE = (
    tasks.Action.DELETE, tasks.Action.REMOVE_INCOMPLETE, tasks.Action.PURGE)
NAMED, DROPPED, NEVER_NAMED, IN_USE, DELETED, UNKNOWN = (
    fakes.NAMED, fakes.DROPPED, fakes.NEVER_NAMED, fakes.IN_USE,
    fakes.DELETED, fakes.UNKNOWN)
IN_USE_NEW = dataclasses.replace(IN_USE, was_named=False)
DELETED_NEW = dataclasses.replace(DELETED, was_named=False)
COMPLETE = images.ImageInfo('1', published=True, blank=False)
PARTIAL = images.ImageInfo('1', published=False, blank=False)
BLANK = images.ImageInfo('1')
DAY = 24 * 3600


def a_task(action=DELETE, image_id='1', pool='images', **fields):
    return tasks.Task(action, 'edge', IMAGE, pool, image_id=image_id,
                      **fields)


class PlanTest(base.BaseTestCase):

    def assertPlan(self, verdict, task, info, *answers, **kwargs):
        for answer in answers:
            decision = actions.plan(task, 'images', info, answer, **kwargs)
            self.assertEqual(verdict, decision.verdict.value,
                             (task.action, info, answer, decision.reason))
            self.assertTrue(decision.reason)
            # An image is removed by its internal ID, or not at all.
            self.assertEqual(
                '1' if verdict in ('remove', 'purge') else None,
                decision.image_id)

    def test_deletion(self):
        for image_id in ('1', None):
            for info in (COMPLETE, PARTIAL, BLANK):
                for verdict, answers in (
                        ('remove', (DROPPED, NEVER_NAMED, DELETED,
                                    DELETED_NEW)),
                        ('wait', (NAMED, IN_USE, IN_USE_NEW)),
                        ('refuse', (UNKNOWN,))):
                    self.assertPlan(verdict, a_task(image_id=image_id), info,
                                    *answers)

    def test_deletion_of_what_is_gone(self):
        self.assertPlan('drop', a_task(), None, NAMED, DROPPED, NEVER_NAMED,
                        IN_USE, DELETED, UNKNOWN)

    def test_location_that_glance_keeps(self):
        for waited, verdict in ((0, 'wait'), (DAY, 'wait'),
                                (DAY + 1, 'drop')):
            self.assertPlan(verdict, a_task(), COMPLETE, NAMED,
                            waited=waited)
        # Those that wait for something else wait on.
        self.assertPlan('wait', a_task(), COMPLETE, IN_USE, waited=DAY + 1)
        self.assertPlan('refuse', a_task(), COMPLETE, UNKNOWN,
                        waited=DAY + 1)
        self.assertPlan('remove', a_task(), COMPLETE, DROPPED,
                        waited=DAY + 1)

    def test_incomplete(self):
        task = a_task(INCOMPLETE)
        for info in (PARTIAL, BLANK):
            self.assertPlan('drop', task, info, NAMED)
            # A copy to another site may have the image in use.
            self.assertPlan('remove', task, info, DROPPED, NEVER_NAMED,
                            IN_USE, IN_USE_NEW, DELETED, DELETED_NEW)
            self.assertPlan('refuse', task, info, UNKNOWN)
        self.assertPlan('drop', task, None, NAMED, DROPPED, UNKNOWN)

    def test_incomplete_that_is_published(self):
        task = a_task(INCOMPLETE)
        self.assertPlan('drop', task, COMPLETE, NAMED)
        self.assertPlan('remove', task, COMPLETE, DROPPED, NEVER_NAMED,
                        DELETED)
        self.assertPlan('wait', task, COMPLETE, IN_USE, IN_USE_NEW)
        self.assertPlan('refuse', task, COMPLETE, UNKNOWN)

    def test_incomplete_of_unknown_id(self):
        # Its writer died before it wrote the ID down.
        task = a_task(INCOMPLETE, None)
        self.assertPlan('remove', task, BLANK, NEVER_NAMED, IN_USE_NEW,
                        DELETED)
        self.assertPlan('refuse', task, BLANK, UNKNOWN)
        self.assertPlan('drop', task, BLANK, NAMED)
        for info in (PARTIAL, COMPLETE):
            self.assertPlan('drop', task, info, NAMED, DROPPED, NEVER_NAMED,
                            IN_USE, DELETED, UNKNOWN)

    def test_another_image_of_the_name(self):
        for action in (DELETE, INCOMPLETE):
            for info in (COMPLETE, PARTIAL, BLANK):
                self.assertPlan('drop', a_task(action, '2'), info, NAMED,
                                DROPPED, NEVER_NAMED, IN_USE, DELETED,
                                UNKNOWN)

    def test_another_pool(self):
        for action in (DELETE, INCOMPLETE, PURGE):
            task = a_task(action, pool='vms')
            for info in (COMPLETE, PARTIAL, BLANK, None):
                self.assertPlan('refuse', task, info, NEVER_NAMED,
                                IN_USE_NEW, DELETED_NEW, UNKNOWN)
        # The store had that pool before, and Glance knows what was there.
        self.assertPlan('remove', a_task(pool='vms'), COMPLETE, DROPPED,
                        DELETED)
        self.assertPlan('wait', a_task(pool='vms'), COMPLETE, NAMED, IN_USE)
        self.assertPlan('purge', a_task(PURGE, pool='vms'), None, DROPPED)

    def test_trash(self):
        for info in (COMPLETE, None):
            self.assertPlan('purge', a_task(PURGE), info, DROPPED,
                            NEVER_NAMED, IN_USE, DELETED)
        # The ID is proof enough where another has the name now.
        self.assertPlan('purge', a_task(PURGE), images.ImageInfo('2'), NAMED)
        # It may have to be restored.
        for info in (COMPLETE, None):
            self.assertPlan('wait', a_task(PURGE), info, NAMED)
        self.assertPlan('refuse', a_task(PURGE), None, UNKNOWN)
        self.assertPlan('drop', a_task(PURGE, None), None, NAMED, DROPPED,
                        UNKNOWN)

    def test_asked_by_who_writes_it_anew(self):
        # It holds the image in Glance, which is not settled because of that.
        self.assertPlan('remove', a_task(), COMPLETE, IN_USE, IN_USE_NEW,
                        DROPPED, creating=True)
        self.assertPlan('remove', a_task(INCOMPLETE), COMPLETE, IN_USE,
                        creating=True)
        self.assertPlan('wait', a_task(), COMPLETE, NAMED, creating=True)
        self.assertPlan('refuse', a_task(), COMPLETE, UNKNOWN, creating=True)
        self.assertPlan('refuse', a_task(pool='vms'), COMPLETE, IN_USE_NEW,
                        creating=True)

    def test_nothing_unknown_is_ever_removed(self):
        for action in tasks.Action:
            for image_id in ('1', '2', None):
                for pool in ('images', 'vms'):
                    for info in (COMPLETE, PARTIAL, BLANK, None):
                        for creating in (False, True):
                            for waited in (0, 400 * DAY):
                                verdict = actions.plan(
                                    a_task(action, image_id, pool), 'images',
                                    info, UNKNOWN, creating, waited).verdict
                                self.assertNotIn(verdict.value,
                                                 ('remove', 'purge'))


class ExecutorTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.cluster = self.useFixture(fakes.MemoryCluster())
        self.home, self.edge = fakes.Site('home'), fakes.Site('edge')
        self.store = stores.TaskStore(home.Home(self.home), 'ours')
        self.database = fakes.Database()
        self.lost = False
        self.executor = actions.Executor(self.store, self.database,
                                         self.check_lease)

    def check_lease(self):
        if self.lost:
            raise leases.LeaseLost('another has it')

    def execute(self, task=None, **kwargs):
        return self.executor.execute(self.edge, task or a_task(),
                                     **kwargs).verdict.value

    def later(self, task=None, expected=True, words='', **kwargs):
        exc = self.assertRaises(actions.RetryLater, self.executor.execute,
                                self.edge, task or a_task(), **kwargs)
        self.assertIs(expected, exc.expected)
        self.assertIn(words, str(exc))

    def test_cluster_that_is_not_known(self):
        # The database of Glance is not to blame.
        def refuse(image, pool=None):
            raise errors.Unreachable('edge', 'it is away', 'wait')
        self.edge.uri = refuse
        self.assertRaises(errors.Unreachable, self.executor.ask, self.edge,
                          a_task())

    def assertLeft(self, *image_ids):
        self.assertEqual(sorted(image_ids), sorted(
            info.image_id for info in self.edge.images.values()))

    def test_removed(self):
        self.edge.add('1')
        self.edge.add('2', fakes.OTHER)
        self.edge.add('3', pool='vms')
        self.assertEqual('remove', self.execute())
        self.assertLeft('2', '3')
        self.assertEqual('drop', self.execute())
        self.assertLeft('2', '3')
        self.assertEqual(set(), self.edge.locked)

    def test_another_release_has_a_record_of_the_image(self):
        self.edge.add('1')
        intent = tasks.Intent('edge', IMAGE, 'images', 'f', 'w', 'a', '1')
        kept = fakes.records_of(self.home)
        kept[intent.key] = fakes.next_release(self.store.text(intent))
        exc = self.assertRaises(stores.OfOtherRelease, self.execute)
        self.assertIn('a later release has to act upon it', str(exc))
        self.assertLeft('1')
        # Of another image, of another deployment, or no record at all.
        for key, text in (
                (intent.key.replace(IMAGE, fakes.OTHER), kept[intent.key]),
                (intent.key, '{"version": 3, "deployment": "theirs"}'),
                (intent.key, '{"version": 3')):
            self.edge.add('1')
            kept.clear()
            kept[key] = text
            self.assertEqual('remove', self.execute())
            self.assertEqual({key: text}, kept)

    def test_left_alone(self):
        self.edge.add('1')
        self.database.says = NAMED
        self.later(words='still has')
        self.database.says = UNKNOWN
        self.later(expected=False, words='does not know')
        self.assertEqual('drop', self.execute(a_task(image_id='2')))
        self.database.says = NEVER_NAMED
        self.later(a_task(pool='vms'), False, 'pool vms')
        self.assertLeft('1')

    def test_each_location_is_asked_about(self):
        self.edge.add('1')
        self.database.answers[self.edge.uri(IMAGE)] = NAMED
        self.later(words='still has')
        # A location in the other pool says nothing of this one.
        self.database.answers = {self.edge.uri(IMAGE, 'vms'): NAMED}
        self.assertEqual('remove', self.execute())

    def test_database_that_does_not_answer(self):
        self.edge.add('1')
        for refusal in (ZeroDivisionError('broken'), RuntimeError('no')):
            self.database.refusal = refusal
            self.later(expected=False, words=str(refusal))
        self.assertLeft('1')

    def test_cluster_that_was_replaced(self):
        self.edge.add('1')
        self.assertEqual('drop', self.execute(a_task(fsid='former')))
        self.assertLeft('1')
        self.assertEqual('remove', self.execute(a_task(fsid='f')))

    def test_site_that_is_away(self):
        self.edge.away()
        self.assertRaises(errors.Unreachable, self.execute)

    def test_clients_are_blocklisted_first(self):
        self.edge.add('1')
        task = a_task(INCOMPLETE, addresses=('10.0.0.7:0/7', '10.0.0.8:0/8'))
        self.edge.cannot_blocklist = {'10.0.0.8:0/8'}
        self.later(task, False, '10.0.0.8:0/8')
        self.assertLeft('1')
        self.edge.cannot_blocklist = set()
        self.assertEqual('remove', self.execute(task))
        self.assertEqual(set(task.addresses), self.edge.blocklisted)

    def test_name_lock_that_others_hold(self):
        self.edge.add('1')
        self.edge.locked = {IMAGE}
        self.later(words='another client holds it')
        self.assertLeft('1')

    def test_lease_that_is_lost(self):
        self.edge.add('1')
        self.lost = True
        self.assertRaises(leases.LeaseLost, self.execute)
        self.edge.trash['images', IMAGE] = '2'
        self.assertRaises(leases.LeaseLost, self.execute,
                          a_task(PURGE, '2'))
        self.assertLeft('1')
        self.assertEqual(set(), self.edge.locked)

    def test_what_changes_before_the_lock_is_held(self):
        def name_again():
            self.database.says = NAMED

        def replace():
            self.edge.add('2')

        def use():
            self.database.says = IN_USE
        for change, words in ((name_again, 'still has its location'),
                              (use, 'in use by an import')):
            self.edge.add('1')
            self.database.says = DROPPED
            self.change_before_lock(change)
            self.later(words=words)
            self.assertEqual(1, len(self.edge.images))
        self.database.says = DROPPED
        self.change_before_lock(replace)
        self.edge.add('1')
        self.assertEqual('drop', self.execute())
        self.edge.add('1')
        self.later(a_task(image_id=None), words='another image has got its')
        self.assertLeft('2')

    def change_before_lock(self, change):
        """Have something changed right before a name lock is taken."""
        lock = type(self.edge).name_lock

        def locked(ioctx, image):
            change()
            return lock(self.edge, ioctx, image)
        self.edge.name_lock = locked

    def test_another_has_removed_it_before_the_lock_is_held(self):
        self.edge.add('1')
        self.change_before_lock(self.edge.images.clear)
        self.assertEqual('drop', self.execute())

    def test_image_that_is_being_written_here(self):
        self.edge.add('1')
        intent = tasks.Intent('edge', IMAGE, 'images', 'f', 'w', 'a', '1')
        self.store.put(intent)
        self.later(words='being written')
        # That of the one who asks.
        self.assertEqual('remove', self.execute(
            a_task(INCOMPLETE, uid=intent.uid)))
        for changes in ({'state': tasks.State.COMMITTED},
                        {'state': tasks.State.REMOVING}, {'image_id': '2'},
                        {'image_id': None}):
            self.edge.add('1')
            self.store.put(dataclasses.replace(intent, **changes))
            self.assertEqual('remove', self.execute())

    def test_for_who_writes_it_anew(self):
        self.edge.add('1')
        self.database.says = IN_USE
        intent = tasks.Intent('edge', IMAGE, 'images', 'f', 'w', 'a', '1')
        self.store.put(intent)
        # It has the lock.
        self.edge.locked = {IMAGE}
        with self.edge.open_pool() as ioctx:
            self.assertEqual('remove', self.execute(creating=intent.uid,
                                                    ioctx=ioctx))
        self.assertEqual({IMAGE}, self.edge.locked)

    def test_image_with_clones(self):
        self.edge.add('1')
        self.edge.in_use = {'1'}
        # It keeps its name, unless Glance has deleted it.
        self.later(a_task(INCOMPLETE))
        self.assertLeft('1')
        self.assertEqual('remove', self.execute())
        self.assertLeft()
        purge, = self.store.scan().records
        self.assertEqual((PURGE, '1', 'edge', 'images', 'f', 'snap'), (
            purge.action, purge.image_id, purge.site, purge.pool, purge.fsid,
            purge.snapshot))
        self.later(purge)
        self.edge.in_use = set()
        # Of the database of Glance nobody knows how the deletion ended.
        self.database.says = NAMED
        self.later(purge, words='still has its location')
        self.assertEqual({('images', IMAGE): '1'}, self.edge.trash)
        # Another has its name by now, and Glance has its location.
        self.edge.add('2')
        self.assertEqual('purge', self.execute(purge))
        self.assertEqual({}, self.edge.trash)
        self.assertLeft('2')
        self.assertEqual('purge', self.execute(purge))

    def test_trash_of_what_is_not_there_yet(self):
        # Its remover has recorded it, and was stopped before it moved it.
        self.edge.add('1')
        self.later(a_task(PURGE), words='not in the trash yet')
        self.assertLeft('1')

    def test_unrecorded_is_not_moved_to_the_trash(self):
        self.edge.add('1')
        self.edge.in_use = {'1'}

        def refuse(*args, **kwargs):
            raise stores.omap.Error('full')
        self.cluster.put = refuse
        self.assertRaises(stores.NotRecorded, self.execute)
        self.assertLeft('1')
        self.assertEqual({}, self.edge.trash)
