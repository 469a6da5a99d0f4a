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

"""Work owed to sites, done on real clusters."""

from concurrent import futures
import contextlib
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import fixtures
import rbd

from glance_dcn import catalog
from glance_dcn.ceph import images
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.sites import intents
from glance_dcn.sites import jobs
from glance_dcn.sites import leftovers
from glance_dcn.sites import owed
from glance_dcn.sites import site as sites
from glance_dcn.sites import worker
from lab import process
from tests.functional import base

MIB = 1 << 20
_ROOT = pathlib.Path(__file__).parents[3]


class OwedTestCase(base.CephTestCase):
    """Two sites of the lab: central, the default one, and dcn0.

    Their names, under which records are kept, are of this test alone; the
    records of writers are kept under none.
    """

    def setUp(self):
        super().setUp()
        self.image = self.image_name()
        self.ledger = owed.Ledger()
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.owed.ledger', self.ledger))
        self.home = self.site('central')
        self.edge = self.site('dcn0')
        self.ledger.add(self.home, default=True)
        self.ledger.add(self.edge)
        self.addCleanup(self.purge)
        self.say(catalog.NOBODY)

    def site(self, name):
        return sites.Site('%s-%s' % (name, self.image), 'images', 22,
                          str(self.cluster(name).conf), 'glance', 5, 20)

    def purge(self):
        """Leave nothing of the test."""
        for name in ('central', 'dcn0'):
            with self.cluster(name).pool() as ioctx:
                for key, _text in list(omap.walk(
                        ioctx, owed.OBJECT, owed.prefix(self.image))):
                    omap.remove(ioctx, owed.OBJECT, key)
                omap.remove_object(ioctx, '%s.%s' % (owed.OBJECT,
                                                     self.edge.name))
                with contextlib.suppress(rbd.ImageNotFound):
                    with rbd.Image(ioctx, self.image) as image:
                        for snap in image.list_snaps():
                            with contextlib.suppress(rbd.InvalidArgument):
                                image.unprotect_snap(snap['name'])
                            image.remove_snap(snap['name'])
                    rbd.RBD().remove(ioctx, self.image)

    def write(self, site, publish=True):
        """Write an image as the store does; return its internal ID."""
        with site.open_pool() as ioctx:
            with site.begin(ioctx, self.image, MIB) as endpoint:
                endpoint.image.write(b'x' * 4096, 0)
                if publish:
                    site.publish(ioctx, self.image, endpoint.image,
                                 records.Record(MIB, 'digest'))
                return endpoint.image.id()

    def say(self, answer):
        """Have Glance's database say something of the image.

        It does not answer about those of others, whose writers' records are
        in the same place.
        """
        def ask(image, _uri):
            if image != self.image:
                raise RuntimeError('of another test')
            return answer
        self.useFixture(fixtures.MonkeyPatch('glance_dcn.catalog.ask', ask))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.catalog.present', lambda: answer != catalog.NOBODY))

    def owed(self, site=None):
        """Return the records of what is owed for the image."""
        site = site or self.edge
        return [record for place in self.ledger.places(site)
                for record in place.records(self.image)]

    def work(self, site=None, passes=1):
        """Do what is owed, as one worker does."""
        done = worker.Worker(site or self.edge)
        for _ in range(passes):
            done.run()

    def assertGone(self, cluster='dcn0'):
        self.assertNotIn(self.image, self.cluster(cluster).images())
        self.assertNotIn(self.image, self.cluster(cluster).trash())

    def assertThere(self, image_id=None):
        with self.edge.open_pool() as ioctx:
            found = images.identify(ioctx, self.image)
        self.assertIsNotNone(found)
        self.assertIn(image_id, (None, found))

    def old(self, seconds=120):
        """Return the time some time ago."""
        return time.time() - seconds


class DeleteTest(OwedTestCase):

    def test_deleted(self):
        self.write(self.edge)
        self.say(catalog.DELETED)
        self.ledger.record(self.edge, owed.DELETE, self.image)
        self.work()
        self.assertGone()
        self.assertEqual([], self.owed())

    def test_nothing_is_there(self):
        self.ledger.record(self.edge, owed.DELETE, self.image)
        self.work()
        self.assertEqual([], self.owed())

    def test_glance_has_yet_to_drop_the_location(self):
        self.write(self.edge)
        self.say(catalog.NAMED)
        self.ledger.record(self.edge, owed.DELETE, self.image)
        self.work()
        self.assertThere()
        job, = (record for record in self.owed()
                if record.job == owed.DELETE)
        self.assertIn('location', job.error)

    def test_glance_takes_long_to_remove_it_from_other_stores(self):
        self.write(self.edge)
        self.say(catalog.NAMED)
        self.ledger.record(self.edge, owed.DELETE, self.image,
                           since=time.time() + 5)
        with mock.patch('time.time', return_value=time.time() + 4000):
            self.work()
        self.assertThere()
        self.assertEqual(1, len([record for record in self.owed()
                                 if record.job == owed.DELETE]))

    def test_made_anew(self):
        # Glance has a location of it again.
        self.ledger.record(self.edge, owed.DELETE, self.image,
                           since=self.old())
        made = self.write(self.edge)
        self.say(catalog.NAMED)
        self.work()
        self.assertThere(made)
        self.assertEqual([], self.owed())

    def test_made_anew_where_nobody_can_be_asked(self):
        self.ledger.record(self.edge, owed.DELETE, self.image,
                           since=self.old())
        made = self.write(self.edge)
        self.work()
        self.assertThere(made)
        self.assertEqual([], self.owed())

    def test_another_image_than_the_bound_one(self):
        self.say(catalog.NOT_NAMED)
        self.ledger.record(self.edge, owed.DELETE, self.image,
                           image_id='123456')
        made = self.write(self.edge)
        self.work()
        self.assertThere(made)

    def test_not_while_it_is_written_anew(self):
        self.say(catalog.NOT_NAMED)
        self.ledger.record(self.edge, owed.DELETE, self.image)
        made = self.write(self.edge, publish=False)
        self.work()
        self.assertThere(made)
        self.assertEqual([owed.DELETE, owed.HALF_WRITTEN],
                         sorted(record.job for record in self.owed()))

    def test_creation_settles_it_first(self):
        first = self.write(self.edge)
        self.say(catalog.NOT_NAMED)
        self.ledger.record(self.edge, owed.DELETE, self.image)
        second = self.write(self.edge)
        self.assertNotEqual(first, second)
        self.work()
        self.assertThere(second)

    def test_another_cluster(self):
        self.write(self.edge)
        self.ledger.record(self.edge, owed.DELETE, self.image,
                           fsid='5f2b9a54-3c1e-4d0a-9a43-0c7a6d1f0001')
        self.work()
        self.assertThere()
        self.assertEqual([], self.owed())

    def test_two_workers_race(self):
        self.write(self.edge)
        self.say(catalog.DELETED)
        for _ in range(3):
            self.ledger.record(self.edge, owed.DELETE, self.image)
        workers = [worker.Worker(self.edge) for _ in range(4)]
        with futures.ThreadPoolExecutor() as pool:
            list(pool.map(worker.Worker.run, workers))
        self.assertGone()
        self.assertEqual([], self.owed())

    def test_killed_worker_is_succeeded(self):
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.worker._EXPIRY', 3))
        self.write(self.edge)
        self.say(catalog.DELETED)
        self.ledger.record(self.edge, owed.DELETE, self.image)
        place = self.ledger.places(self.edge)[0]
        with place.site.open_pool() as ioctx:
            omap.lock(ioctx, place.name, worker._LOCK, 'of the dead', 3)
        self.work()
        self.assertThere()
        process.wait_for('lock to expire', lambda: (
            self.work() or not self.owed()), 10, interval=.5)
        self.assertGone()

    def test_a_later_record_outlives_the_work(self):
        place = self.ledger.places(self.edge)[0]
        first = self.ledger.record(self.edge, owed.DELETE, self.image)
        second = self.ledger.record(self.edge, owed.DELETE, self.image)
        place.drop(first)
        self.assertEqual([second], self.owed())
        place.drop(second)
        self.assertEqual([], self.owed())


class ReapTest(OwedTestCase):

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
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.worker._IN_USE', (0, 0)))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.worker._PATIENCE', 1e9))
        self.write(self.edge)
        self.say(catalog.DELETED)
        remove = self.clone(clone_format)
        self.ledger.record(self.edge, owed.DELETE, self.image,
                           snapshot='snap')
        self.work()
        # The name is free, the clone is whole.
        self.assertNotIn(self.image, self.cluster('dcn0').images())
        self.assertEqual([owed.REAP], [record.job for record in self.owed()])
        self.work()
        self.assertIn(self.image, self.cluster('dcn0').trash())
        with self.cluster('dcn0').pool('vms') as ioctx:
            with rbd.Image(ioctx, '%s_disk' % self.image) as image:
                self.assertEqual(b'x' * 4096, image.read(0, 4096))
        remove()
        self.work()
        self.assertGone()
        self.assertEqual([], self.owed())

    def test_clone_that_needs_no_protection(self):
        self.check(2)

    def test_clone_that_needs_protection(self):
        self.check(1)


class HalfWrittenTest(OwedTestCase):

    def setUp(self):
        super().setUp()
        for name, value in (('_GRACE', 1), ('_IN_USE', (0, 0)),
                            ('_PATIENCE', 1e9)):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.sites.worker.' + name, value))

    def dying_writer(self, *steps):
        """Start a process that writes an image and is killed then."""
        code = '\n'.join([
            'import os, signal, sys',
            'from glance_dcn.sites import intents, owed',
            'from glance_dcn.sites import site as sites',
            'from glance_dcn.ceph import records',
            'from glance_dcn import catalog',
            'catalog.present = lambda: True',
            'intents.EXPIRY = 3',
            'site = sites.Site(sys.argv[1], "images", 22, sys.argv[2],'
            ' "glance", 5, 20)',
            'owed.ledger.add(site)',
            'with site.open_pool() as ioctx:', *(
                '    ' + step for step in steps),
            '    os.kill(os.getpid(), signal.SIGKILL)'])
        done = subprocess.run(
            [sys.executable, '-c', code, self.edge.name,
             str(self.cluster('dcn0').conf), self.image], cwd=_ROOT,
            capture_output=True, text=True, timeout=60)
        self.assertEqual(-signal.SIGKILL, done.returncode, done.stderr)

    def settle(self, timeout=60):
        """Have the work done by one worker, and say how long it took."""
        began = time.monotonic()
        done = worker.Worker(self.edge)
        process.wait_for('work', lambda: done.run() or not self.owed(),
                         timeout, interval=1)
        return time.monotonic() - began

    WRITE = ('writing = site.begin(ioctx, sys.argv[3], 1 << 20)',
             'image = writing.image',
             'image.write(b"x" * 4096, 0)')
    PUBLISH = ('site.publish(ioctx, sys.argv[3], image,'
               ' records.Record(1 << 20, "digest"))',
               'writing.close()',
               # Its notes are on their way.
               'import time; time.sleep(.5)')

    def test_killed_while_writing(self):
        self.say(catalog.NOT_NAMED)
        self.dying_writer(*self.WRITE)
        self.assertIn(self.image, self.cluster('dcn0').images())
        self.assertLess(self.settle(), 50)
        self.assertGone()

    def test_killed_before_creating(self):
        self.dying_writer('site.writers.begin(ioctx, sys.argv[3])')
        self.assertEqual(1, len(self.owed()))
        self.settle(20)
        self.assertGone()

    def test_killed_while_creating(self):
        # The first thing that librbd makes.
        self.dying_writer(
            'site.writers.begin(ioctx, sys.argv[3])',
            'ioctx.write_full("rbd_id." + sys.argv[3],'
            ' b"\\4\\0\\0\\0abcd")')
        self.settle(20)
        with self.edge.open_pool() as ioctx:
            self.edge.begin(ioctx, self.image, MIB).close()

    def test_killed_before_glance_noted_the_location(self):
        self.say(catalog.NOT_NAMED)
        self.dying_writer(*self.WRITE, *self.PUBLISH)
        self.settle()
        self.assertGone()

    def test_adopted_after_its_writer_was_killed(self):
        self.say(catalog.NOT_NAMED)
        self.dying_writer(*self.WRITE, *self.PUBLISH)
        [dead] = self.owed()
        with self.edge.open_pool() as ioctx:
            found = leftovers.look(ioctx, self.image)
            leftovers.adopt(self.edge, ioctx, found, MIB, 'digest')
            # Whoever comes to remove it now leaves it to the new owner.
            self.assertRaises(jobs.Later, jobs.carry_out, self.edge, dead,
                              patient=True)
            self.assertThere(found.identity)
            # And who finds it removed has not got it.
            self.edge.discard(ioctx, self.image, found.identity)
            self.assertRaises(leftovers.Gone, leftovers.adopt, self.edge,
                              ioctx, found, MIB, 'digest')
        self.assertGone()

    def test_killed_after_glance_noted_the_location(self):
        self.say(catalog.NAMED)
        self.dying_writer(*self.WRITE, *self.PUBLISH)
        self.settle(20)
        self.assertThere()

    def test_image_of_somebody_else(self):
        # Made by Nova, say, after a writer was killed before it created one.
        self.say(catalog.NOT_NAMED)
        self.dying_writer('site.writers.begin(ioctx, sys.argv[3])')
        with self.cluster('dcn0').pool() as ioctx:
            rbd.RBD().create(ioctx, self.image, MIB)
            with rbd.Image(ioctx, self.image) as image:
                image.write(b'y', 0)
        self.settle(20)
        self.assertThere()

    def test_living_writer_is_left_alone(self):
        self.say(catalog.NOT_NAMED)
        for publish in (False, True):
            made = self.write(self.edge, publish)
            self.work(passes=2)
            time.sleep(1.1)
            self.work()
            self.assertThere(made)
            self.assertEqual(1, len(self.owed()))
            with self.edge.open_pool() as ioctx:
                self.edge.discard(ioctx, self.image, made)

    def test_writer_that_is_heard_of_again_is_left_alone(self):
        self.say(catalog.NOT_NAMED)
        made = self.write(self.edge)
        [record] = self.owed()
        # Whoever took it for dead comes too late.
        self.assertRaises(jobs.Later, jobs.carry_out, self.edge, record,
                          patient=True)
        self.assertThere(made)

    def test_writer_that_was_cut_off_says_that_it_lives(self):
        self.say(catalog.NOT_NAMED)
        self.write(self.edge)
        [record] = self.owed()
        name = intents.PRESENCE + record.writer
        with self.edge.open_pool() as ioctx:
            omap.unlock(ioctx, name, intents.LOCK, record.writer)
            later = time.monotonic() + intents.EXPIRY
            with mock.patch('time.monotonic', return_value=later):
                self.edge.writers.begin(ioctx, self.image_name())
            self.assertTrue(intents.is_alive(ioctx, record.writer))

    def test_nobody_is_dead_while_glance_does_not_answer(self):
        self.say(catalog.NOT_NAMED)
        self.write(self.edge)
        [record] = self.owed()
        silent = {record.writer: time.monotonic() - 3600}
        with self.edge.open_pool() as ioctx:
            omap.unlock(ioctx, intents.PRESENCE + record.writer,
                        intents.LOCK, record.writer)
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.catalog.ask',
                mock.Mock(side_effect=OSError('no database'))))
            self.assertIsNone(
                worker._Writers(self.edge, silent).is_dead(record))
            # It is listened for anew from then on.
            self.say(catalog.NOT_NAMED)
            self.assertIsNone(
                worker._Writers(self.edge, silent).is_dead(record))

    def test_nobody_is_asked_where_there_is_no_glance(self):
        self.write(self.edge)
        process.wait_for('record to go', lambda: not self.owed(), 5)

    def test_failed_removal(self):
        self.say(catalog.NOT_NAMED)
        made = self.write(self.edge, publish=False)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.site._LANDING', 0))
        with self.cluster('dcn0').pool() as ioctx, \
                rbd.Image(ioctx, self.image) as image:
            image.write(b'z', 0)
            with self.edge.open_pool() as pool:
                self.edge.discard_or_owe(pool, self.image, made)
            self.assertEqual({(owed.HALF_WRITTEN, made)}, {
                (record.job, record.image_id) for record in self.owed()})
            self.work()
            self.assertThere(made)
        self.settle(20)
        self.assertGone()
