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

"""Copies to clusters that go away or fill up on the way; real clusters."""

import errno
import json
import os
import signal
import threading
import time

import rados
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.engine.backends import rbd as rbd_backend
from glance_dcn.sites import copying
from glance_dcn.sites import home
from glance_dcn.sites import site
from glance_dcn.sites import sources
from lab import process
from tests.functional import base

MIB = 1 << 20
SIZE = 160 * MIB


def written(now):
    """Return the bytes of data that a copy has moved by now.

    :param now: :class:`glance_dcn.sites.targets.Standing`
    """
    return now.transfer.data if now.transfer else 0


class TargetTestCase(base.CephTestCase):
    """Has a source and two targets of its own, to be ill-treated."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.clusters = cls.start_clusters('source', 'good', 'bad')

    def setUp(self):
        super().setUp()
        self.image = self.image_name()
        self.data = os.urandom(SIZE)
        with self.clusters['source'].pool() as ioctx:
            rbd.RBD().create(ioctx, self.image, SIZE)
            with rbd.Image(ioctx, self.image) as image:
                image.write(self.data, 0)
                image.create_snap('snap')
                image.protect_snap('snap')
        own = home.Home()
        self.sites = {
            name: site.Site(clients.ClusterConfig(
                '%s-%s' % (name, self.image), 'images', str(cluster.conf),
                'glance', 5, 8), 22, home=own)
            for name, cluster in self.clusters.items()}
        own.site = self.sites['good']

    def copy(self, ill_treat):
        """Copy to both targets, and ill-treat one when a part is written."""
        done = threading.Event()

        def progress(now):
            if written(now) > 8 * MIB and not done.is_set():
                done.set()
                ill_treat()
        outcome = copying.Copy(
            self.image,
            [sources.Source(self.sites['source'], None, self.image, 'snap')],
            [self.sites['bad'], self.sites['good']],
            memory=16 * MIB, progress=progress, interval=0.01).run()
        self.assertTrue(done.is_set())
        return outcome

    def check(self, outcome):
        """One has failed, by name; the other is complete."""
        self.assertEqual([self.sites['good'].name], outcome.copied)
        self.assertEqual([self.sites['bad'].name], list(outcome.failed))
        with self.clusters['good'].pool() as ioctx:
            with rbd.Image(ioctx, self.image, read_only=True) as image:
                image.set_snap('snap')
                self.assertEqual(self.data, image.read(0, SIZE))
        return str(outcome.failed[self.sites['bad'].name])

    def assertUnpublished(self):
        with self.clusters['bad'].pool() as ioctx:
            if self.image in rbd.RBD().list(ioctx):
                with rbd.Image(ioctx, self.image, read_only=True) as image:
                    self.assertEqual([], list(image.list_snaps()))


class FaultyTargetTest(TargetTestCase):
    """Clusters that go away."""

    def test_target_hangs(self):
        bad = self.clusters['bad']
        self.addCleanup(bad.thaw)
        error = self.check(self.copy(bad.freeze))
        self.assertIn(self.sites['bad'].name, error)
        bad.thaw()
        self.assertUnpublished()

    def test_writer_of_a_target_that_hangs_is_closed(self):
        # Nobody is waited for who could hold the other targets up.
        bad = self.clusters['bad']
        self.addCleanup(bad.thaw)
        with self.sites['bad'].open_pool() as ioctx:
            rbd.RBD().create(ioctx, self.image, SIZE,
                             features=rbd.RBD_FEATURE_LAYERING)
            writer = rbd_backend.RBD(ioctx, self.image, writable=True)
            bad.freeze()
            began = time.monotonic()
            writer.close()
            self.assertLess(time.monotonic() - began, 30)
            bad.thaw()

    def test_what_is_sent_to_one_that_hangs_holds_up_nothing(self):
        # By default librados makes its caller wait when a client has 100 MiB
        # in flight: the thread that writes to all targets of a transfer.
        bad, far = self.clusters['bad'], self.sites['bad']
        self.addCleanup(bad.thaw)
        data = b'x' * (4 * MIB)
        with far.open_pool() as ioctx:
            writer = far.begin(ioctx, self.image, 160 * MIB)
            bad.freeze()
            began = time.monotonic()
            for number in range(40):
                writer.write(number * len(data), data, lambda answer: None)
            self.assertLess(time.monotonic() - began, far.io_timeout)
            bad.thaw()
            writer.close()

    def test_nothing_stays_of_a_write_that_was_given_up(self):
        bad, far = self.clusters['bad'], self.sites['bad']
        self.addCleanup(bad.thaw)
        answers, answered = [], threading.Event()

        def done(answer):
            answers.append(answer)
            answered.set()
        with far.open_pool() as ioctx:
            writer = far.begin(ioctx, self.image, SIZE)
            identity = writer.image.id()
            writer.image.write(b'data', 0)
            bad.osd.signal(signal.SIGSTOP)
            # Its threads stop one by one.
            time.sleep(.5)
            writer.write(64 * MIB, b'x' * MIB, done)
            # Until it was given up here; the cluster may carry it out.
            time.sleep(far.io_timeout + 2)
            bad.thaw()
            self.assertTrue(answered.wait(60))
            self.assertEqual(errno.ETIMEDOUT, answers[0].errno)
            writer.close()
            far.discard_or_defer(ioctx, self.image, identity)
            # Without an object map, each object that there may be is removed.
            self.assertEqual([], [found.key for found in ioctx.list_objects()
                                  if identity in found.key])

    def test_target_is_killed(self):
        bad = self.clusters['bad']
        self.addCleanup(bad.start)
        error = self.check(self.copy(bad.kill))
        self.assertIn(self.sites['bad'].name, error)
        bad.start()
        self.assertUnpublished()

    def test_source_hangs(self):
        source = self.clusters['source']
        self.addCleanup(source.thaw)
        error = self.assertRaises(copying.CopyFailed, self.copy,
                                  source.freeze)
        source.thaw()
        self.assertIn(self.sites['source'].name, str(error))
        for name in ('good', 'bad'):
            self.assertNotIn(self.image, self.clusters[name].images())

    def test_source_hangs_and_another_goes_on(self):
        # With the digest recorded at both, as the first copy does.
        self.run_copy(['source'], ['bad'])
        source = self.clusters['source']
        self.addCleanup(source.thaw)
        done, seen = threading.Event(), []

        def progress(now):
            if written(now) > 8 * MIB and not done.is_set():
                done.set()
                source.freeze()
            seen.append(written(now))
        outcome = self.run_copy(['source', 'bad'], ['good'], progress)
        self.assertTrue(done.is_set())
        self.assertEqual([self.sites['good'].name], outcome.copied)
        self.assertEqual(', then '.join(
            self.sites[name].name for name in ('source', 'bad')),
            outcome.source)
        # It went on where it stopped.
        self.assertEqual(sorted(seen), seen)
        self.assertEqual(SIZE, outcome.data)
        with self.clusters['good'].pool() as ioctx:
            with rbd.Image(ioctx, self.image, read_only=True) as image:
                image.set_snap('snap')
                self.assertEqual(self.data, image.read(0, SIZE))

    def run_copy(self, from_, to, progress=None):
        return copying.Copy(
            self.image,
            [sources.Source(self.sites[name], None, self.image, 'snap')
             for name in from_],
            [self.sites[name] for name in to],
            memory=16 * MIB, progress=progress, interval=0.01).run()


class FullTargetTest(TargetTestCase):
    """A cluster that fills up; of its own, for it is slow to recover."""

    def test_target_fills_up(self):
        bad = self.clusters['bad']
        self.addCleanup(self.set_ratios, bad, .90)
        error = self.check(self.copy(lambda: self.fill(bad)))
        self.assertIn('errno 28', error)
        self.set_ratios(bad, .90)
        self.wait_until_full(bad, False)
        self.assertUnpublished()

    def fill(self, cluster):
        """Have a cluster take itself for full, and wait until it knows."""
        self.set_ratios(cluster, .001)
        self.wait_until_full(cluster, True)

    @staticmethod
    def wait_until_full(cluster, full):
        with cluster.pool() as ioctx:
            # Or requests would wait for room instead of being refused.
            ioctx.set_osdmap_full_try()
            process.wait_for('cluster full: %s' % full,
                             lambda: refuses(ioctx) is full, 60)

    @staticmethod
    def set_ratios(cluster, ratio):
        with cluster.connect() as client:
            for i, kind in enumerate(('nearfull', 'backfillfull', 'full')):
                client.mon_command(json.dumps({
                    'prefix': 'osd set-%s-ratio' % kind,
                    'ratio': ratio + i * .0001}), b'')


def refuses(ioctx):
    """Return whether every placement group refuses to grow."""
    for number in range(32):
        try:
            ioctx.append('probe%d' % number, b'x')
        except rados.NoSpace:
            continue
        return False
    return True
