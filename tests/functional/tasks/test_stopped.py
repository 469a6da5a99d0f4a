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

"""Processes that are stopped, killed, or have a wrong clock.

The real thing each time: SIGSTOP, SIGKILL, and a clock that is stepped.
"""

import contextlib
import dataclasses
import errno
import json
import os
import subprocess
import sys
import time

import fixtures
import rados
import rbd

from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.sites import existing
from glance_dcn.tasks import queue as queues
from glance_dcn.tasks import task as tasks
from lab import clock
from lab import process
from tests.functional.tasks import base

Action = queues.Action

WRITE = ('pool = site.open_pool(); ioctx = pool.__enter__()',
         'target = site.begin(ioctx, image, 1 << 20)',
         'target.image.write(b"x" * 4096, 0)',
         'image_id = target.image.id()')
PUBLISH = ('site.publish(target, records.Record(1 << 20, "digest"))',
           'target.close()')
COMMIT = ('try:',
          '    site.commit(image, image_id)',
          '    say("committed")',
          'except existing.Gone:',
          '    say("lost")')


class WriterTest(base.TasksTestCase):

    def test_killed_while_writing(self):
        self.create(status='saving')
        started = self.start(*WRITE, 'say("written")',
                             'os.kill(os.getpid(), signal.SIGKILL)')
        self.await_line(started, 'written')
        started.wait()
        self.assertIn(self.image, self.cluster('dcn0').images())
        self.settle()
        self.assertGone()

    def test_killed_before_creating(self):
        self.create(status='saving')
        started = self.start(
            'with site.open_pool() as ioctx:',
            '    site._begin_write(ioctx, image)', 'say("begun")',
            'os.kill(os.getpid(), signal.SIGKILL)')
        self.await_line(started, 'begun')
        self.assertEqual(1, len(self.recorded()))
        self.settle()
        self.assertGone()

    def test_killed_while_creating(self):
        self.create(status='saving')
        # The first thing that librbd makes.
        started = self.start(
            'with site.open_pool() as ioctx:',
            '    site._begin_write(ioctx, image)',
            '    ioctx.write_full("rbd_id." + image, b"\\4\\0\\0\\0abcd")',
            'say("begun")', 'os.kill(os.getpid(), signal.SIGKILL)')
        self.await_line(started, 'begun')
        self.settle()
        with self.edge.open_pool() as ioctx:
            self.edge.begin(ioctx, self.image, base.MIB).close()

    def test_recorded_before_data_is_written(self):
        self.create(status='saving')
        with self.edge.open_pool() as ioctx, \
                self.edge.begin(ioctx, self.image, base.MIB) as endpoint:
            self.assertEqual([endpoint.image.id()], [
                record.image_id for record in self.recorded()])

    def test_taken_before_data_is_written(self):
        # As by a runner, when this process was stopped for too long.
        self.create(status='saving')
        create = images.create

        def create_and_take(*args):
            create(*args)
            record, = self.recorded()
            self.assertTrue(self.queue.store.replace(
                record, dataclasses.replace(
                    record, state=tasks.State.REMOVING)))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.images.create', create_and_take))
        with self.edge.open_pool() as ioctx:
            self.assertRaises(existing.Gone, self.edge.begin, ioctx,
                              self.image, base.MIB)
        self.assertGone()

    def test_killed_before_glance_noted_the_location(self):
        self.create(status='importing')
        started = self.start(*WRITE, *PUBLISH, *COMMIT,
                             'os.kill(os.getpid(), signal.SIGKILL)')
        self.await_line(started, 'committed')
        started.wait()
        # Glance may note it as long as the import goes on.
        runner = self.runner()
        until = time.monotonic() + 8
        while time.monotonic() < until:
            runner._attempts.clear()
            runner.run()
            time.sleep(1)
        self.assertThere()
        self.glance.api.image_update(self.glance.context, self.image,
                                     {'status': 'queued'})
        self.settle(runner=runner)
        self.assertGone()

    def test_killed_after_glance_noted_the_location(self):
        started = self.start(*WRITE, *PUBLISH, *COMMIT,
                             'os.kill(os.getpid(), signal.SIGKILL)')
        self.await_line(started, 'committed')
        self.create(located=[self.edge])
        self.settle()
        self.assertThere()
        self.assertWhole()

    def test_stopped_before_it_commits(self):
        # Nothing says that it is dead but that it does not renew its lease.
        for status in ('saving', 'queued'):
            self.image = self.image_name()
            self.addCleanup(self.purge)
            self.create(status=status)
            started = self.start(*WRITE, *PUBLISH, 'stop()', *COMMIT)
            self.await_line(started, 'stopped')
            self.await_death()
            # Exactly one of both: it is told, or it is removed.
            self.assertEqual(['lost'], self.go_on(started))

    def await_death(self):
        """Run tasks until the writer of the image is found dead."""
        runner = self.runner()

        def found():
            runner._attempts.clear()
            runner.run()
            return all(getattr(record, 'state', None)
                       is not tasks.State.WRITING
                       for record in self.recorded())
        process.wait_for('the writer to be found dead', found, 60,
                         interval=1)
        runner._lease.release()

    def test_stopped_after_it_has_committed(self):
        self.create(status='saving')
        started = self.start(*WRITE, *PUBLISH, *COMMIT, 'stop()')
        self.await_line(started, 'committed')
        self.await_line(started, 'stopped')
        runner = self.runner(settled=0)
        until = time.monotonic() + 8
        while time.monotonic() < until:
            runner._attempts.clear()
            runner.run()
            time.sleep(1)
        self.assertThere()
        # Glance notes the location when it goes on.
        self.go_on(started)
        self.locate(self.edge)
        self.settle(runner=runner)
        self.assertWhole()

    def test_a_living_writer_is_left_alone(self):
        self.create(status='saving')
        runner = self.runner(expiry=12)
        made = self.write(publish=False)
        until = time.monotonic() + 25
        while time.monotonic() < until:
            runner._attempts.clear()
            runner.run()
            time.sleep(1)
        self.assertThere(made)
        runner._lease.release()

    def test_host_whose_clock_is_ahead(self):
        stepped = clock.Clock(self.useFixture(fixtures.TempDir()).path)
        stepped.make()
        self.create(status='saving')
        made = self.write(publish=True, commit=False)
        code = base.PREAMBLE + '\n'.join((
            'from glance_dcn.upstream import glance_db',
            'from glance_dcn.tasks import runner as runners',
            'class Database:',
            '    available = True',
            '    def ask(self, image, uri):',
            '        return glance_db.Answer(glance_db.Location.NOT_NAMED)',
            'runner = runners.TaskRunner(queue.store, queue.sites.get,'
            ' Database(), expiry=12, settled=30)',
            'say("%d" % (time.time() - float(sys.argv[6])))',
            'for _ in range(20):',
            '    runner._attempts.clear(); runner.run(); time.sleep(1)',
            'runner._lease.release()'))
        for offset in (660, -660):
            stepped.step(offset)
            done = subprocess.run(
                [sys.executable, '-c', code, self.image, self.deployment,
                 str(self.cluster('central').conf),
                 str(self.cluster('dcn0').conf), self.edge.name,
                 str(time.time())], cwd=base.ROOT, text=True, timeout=120,
                capture_output=True,
                env=dict(os.environ, **stepped.environment))
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertLess(600, abs(int(done.stdout)))
            self.assertThere(made)
        self.assertWhole()

    def test_image_without_exclusive_lock(self):
        # librbd itself does not keep the stopped writer from going on.
        self.create(status='saving')
        started = self.start(
            'site.connection.client().conf_set('
            '"rbd_default_features", "1")', *WRITE, 'say(image_id)',
            'stop()', 'failed = 0', 'for n in range(64):',
            '    try:',
            '        target.image.write(b"y" * 4096, n << 14)',
            '    except rbd.Error as exc:',
            '        failed = exc.errno; break', 'say(failed)',
            'os._exit(0)')
        image_id = started.stdout.readline().strip()
        self.await_line(started, 'stopped')
        with self.cluster('dcn0').pool() as ioctx, rbd.Image(
                ioctx, self.image, read_only=True) as image:
            self.assertEqual(rbd.RBD_FEATURE_LAYERING, image.features())
        self.settle(90)
        self.assertEqual([str(errno.ESHUTDOWN)], self.go_on(started))
        with self.cluster('dcn0').pool() as ioctx:
            self.assertEqual([], [found.key for found in ioctx.list_objects()
                                  if image_id in found.key])

    def test_adopted_after_its_writer_was_killed(self):
        self.create(status='importing')
        started = self.start(*WRITE, *PUBLISH, 'say("published")',
                             'os.kill(os.getpid(), signal.SIGKILL)')
        self.await_line(started, 'published')
        started.wait()
        with self.edge.open_pool() as ioctx:
            found = existing.inspect(ioctx, self.image)
            with self.edge.adopting(ioctx, self.image, found.image_id):
                pass
            # The runner that comes to remove it leaves it to its new owner.
            self.glance.api.image_update(self.glance.context, self.image,
                                         {'status': 'queued'})
            runner = self.runner(expiry=12, settled=3600)
            until = time.monotonic() + 20
            while time.monotonic() < until:
                runner._attempts.clear()
                runner.run()
                time.sleep(1)
            self.assertThere(found.image_id)
            self.edge.commit(self.image, found.image_id)
        self.locate(self.edge)
        self.settle()
        self.assertThere(found.image_id)


class RemovalTest(base.TasksTestCase):
    """A process that is stopped at a removal, which librbd does by name."""

    # Where nothing else can hit the moment: right before librbd is called.
    STOP = ('real = images.rbd.RBD.remove',
            'class RBD(images.rbd.RBD):',
            '    def remove(self, *args):',
            '        stop()',
            '        return super().remove(*args)',
            'images.rbd.RBD = RBD')

    DELETE = (
        'with site.open_pool() as ioctx, site.name_lock(ioctx, image):',
        '    say(site.instance)',
        '    try:',
        '        removal = site.removal(ioctx, image,'
        ' images.read_image_id(ioctx, image), "snap")',
        '        removal.prepare()',
        '        removal.finish()',
        '        say("removed")',
        '    except (rbd.Error, images.InUse) as exc:',
        '        say(type(exc).__name__)',
        '    os._exit(0)')

    def begin(self, *lines):
        """Write an image, and have a process that removes it."""
        first = self.write()
        self.create(status='active', dropped=[self.edge])
        for record in self.recorded():
            self.queue.store.remove(record)
        return first, self.start(*self.STOP, *lines)

    def check(self, first, started, remove):
        """Have the work of a process that was stopped there done meanwhile."""
        self.await_line(started, 'stopped')
        remove()
        self.assertGone()
        second = self.write(data=b'z')
        self.assertNotEqual(first, second)
        said = self.go_on(started)
        self.assertEqual(1, len(said), said)
        self.assertNotEqual('removed', said[0])
        self.assertThere(second)
        self.assertWhole(b'z')
        return said[0]

    def remove(self, first):
        """Have the image removed by another runner."""
        self.defer(Action.DELETE, self.edge, self.image,
                   image_id=first)
        # The name lock is taken from the stopped one, which is blocklisted.
        self.settle(120)

    def test_runner(self):
        first, started = self.begin(*self.DELETE)
        started.stdout.readline()
        self.check(first, started, lambda: self.remove(first))

    def test_taken_over_by_a_peer(self):
        # Its worker has been silent, and nothing else tells that it is dead.
        first, started = self.begin(*self.DELETE)
        instance = int(started.stdout.readline())
        said = self.check(first, started, lambda: self.assertTrue(
            existing.discard_writes(self.edge, self.image, [instance],
                                    published=True)))
        self.assertEqual('ConnectionShutdown', said)

    def test_blocklisted_no_more(self):
        # A virtual machine may be suspended for longer than that lasts.
        first, started = self.begin(*self.DELETE)
        instance = int(started.stdout.readline())

        def remove():
            with self.edge.open_pool() as ioctx:
                held = omap.holder(
                    ioctx, name_lock.OBJECT, name_lock._lock(self.image))
            self.assertEqual(instance, held.instance)
            self.assertTrue(existing.discard_writes(
                self.edge, self.image, [instance], published=True))
            with self.cluster('dcn0').connect() as admin:
                self.assertEqual(0, admin.mon_command(json.dumps({
                    'prefix': 'osd blocklist', 'blocklistop': 'rm',
                    'addr': held.address}), b'')[0])
        self.assertEqual('ImageNotFound', self.check(first, started, remove))

    def test_deletion_in_a_request(self):
        # As Store.delete() does it, in a thread that nobody waits for.
        first, started = self.begin(
            'from types import SimpleNamespace',
            'from glance_dcn.runtime import native',
            'from glance_dcn.store import deletion as deletions',
            'loc = SimpleNamespace(image=image, pool="images",'
            ' snapshot="snap", fsid=None)',
            'outcome = native.Queue()',
            'deletion = deletions.Deletion(site, loc)',
            'deletion.decide(True)',
            'deletion.run(outcome)',
            'error = deletion.error',
            'say(type(error).__name__ if error else "removed")',
            'os._exit(0)')
        self.check(first, started, lambda: self.remove(first))

    def test_abandoned_deletion_begins_no_more(self):
        from types import SimpleNamespace

        from glance_dcn.runtime import native
        from glance_dcn.store import deletion as deletions
        made = self.write()
        loc = SimpleNamespace(image=self.image, pool='images',
                              snapshot='snap', fsid=None)
        deletion = deletions.Deletion(self.edge, loc)
        deletion.abandoned = True
        outcome = native.Queue()
        deletion.run(outcome)
        self.assertIs(deletion, native.get(outcome, 1))
        self.assertTrue(outcome.empty())
        self.assertIsNone(deletion.error)
        self.assertThere(made)
        self.assertEqual(made, deletion.image_id)


class NameLockTest(base.TasksTestCase):

    @contextlib.contextmanager
    def client(self):
        with self.cluster('dcn0').connect('glance') as client, \
                client.open_ioctx('images') as ioctx:
            yield client, ioctx

    def take(self, client, ioctx, **kwargs):
        with name_lock.hold(client, ioctx, self.image, **kwargs):
            pass

    def test_holder_that_renews_is_left_alone(self):
        with self.client() as (client, ioctx), \
                self.client() as (other, pool):
            with name_lock.hold(client, ioctx, self.image):
                self.assertRaises(
                    name_lock.NotLocked, self.take, other, pool,
                    patience=2, expiry=12)
            self.take(other, pool)
            ioctx.write_full('probe-' + self.image, b'')
            ioctx.remove_object('probe-' + self.image)

    def test_holder_that_does_not_is_blocklisted(self):
        with self.client() as (client, ioctx), \
                self.client() as (other, pool):
            held = name_lock._Held(ioctx, self.image)
            held.take()
            found = omap.holder(pool, name_lock.OBJECT, held.lock)
            self.assertEqual(client.get_instance_id(), found.instance)
            self.assertIn(found.address.rpartition('/')[2],
                          client.get_addrs())
            self.assertEqual('beat 1 for %s' % self.image,
                             found.description)
            self.take(other, pool, expiry=1)
            error = self.assertRaises(rados.Error, ioctx.write_full,
                                      'probe-' + self.image, b'')
            self.assertEqual(errno.ESHUTDOWN, error.errno)
            self.assertRaises(rados.Error, held.unlock)

    def lose(self, ioctx):
        """Take the lock from whoever holds it, and hold it no longer."""
        name = name_lock._lock(self.image)
        omap.break_lock(ioctx, name_lock.OBJECT, name,
                        omap.holder(ioctx, name_lock.OBJECT, name))

    def test_lost_lock_is_an_error(self):
        with self.client() as (client, ioctx):
            def lose():
                with name_lock.hold(client, ioctx, self.image):
                    self.lose(ioctx)
            self.assertRaises(name_lock.NameLockError, lose)

    def test_lost_lock_is_not_taken_again_by_a_renewal(self):
        with self.client() as (client, ioctx):
            held = name_lock._Held(ioctx, self.image)
            held.take()
            self.assertTrue(held.renew())
            self.lose(ioctx)
            self.assertFalse(held.renew())
            self.assertRaises(name_lock.NameLockError, held.release)


class CommitTest(base.TasksTestCase):
    """Whose answer is lost."""

    def test_what_glance_may_name_is_not_discarded(self):
        from glance_dcn.sites import copying
        from glance_dcn.sites import sources
        made = self.write(self.home)
        self.create(located=[self.home])

        def lost(outcome, told):
            told()
            self.locate(self.edge)
            raise ConnectionError('the answer of the database is lost')

        copy = copying.Copy(
            self.image, [sources.Source(self.home, None, self.image,
                                        'snap')], [self.edge],
            finished=lost)
        with self.home.open_pool() as ioctx:
            self.home.remember(ioctx, self.image, made,
                               self.record_of(ioctx))
        self.assertRaises(ConnectionError, copy.run)
        self.assertThere()
        self.settle()
        self.assertWhole()

    def record_of(self, ioctx):
        from glance_dcn.engine import transfer
        with self.home.reading(ioctx, self.image) as endpoint:
            result = transfer.Transfer(endpoint).run()
        return records.Record(result.size, result.content)

    def test_what_it_was_not_told_is(self):
        from glance_dcn.sites import copying
        from glance_dcn.sites import sources
        made = self.write(self.home)
        self.create(located=[self.home])

        def refuse(outcome, told):
            raise PermissionError('a quota is exceeded')

        with self.home.open_pool() as ioctx:
            self.home.remember(ioctx, self.image, made,
                               self.record_of(ioctx))
        self.assertRaises(PermissionError, copying.Copy(
            self.image, [sources.Source(self.home, None, self.image,
                                        'snap')], [self.edge],
            finished=refuse).run)
        self.assertGone()
