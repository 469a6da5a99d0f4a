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

"""What copies find at their targets, on real clusters."""

from concurrent import futures
import contextlib
import hashlib
import time

import fixtures
import rados
import rbd

from glance_dcn.ceph import name_lock
from glance_dcn.ceph import records
from glance_dcn.sites import copying
from glance_dcn.sites import existing
from tests.functional.sites import test_copying

MIB = test_copying.MIB


class LeftOverTestCase(test_copying.CopyingTestCase):

    def identity(self, name):
        """Return the internal ID of the image at a site."""
        with self.opened(name, read_only=True) as image:
            return image.id()

    @contextlib.contextmanager
    def opened(self, name, **kwargs):
        """Open the image at a site, as another client than the copy's."""
        with self.cluster(name).pool() as ioctx:
            with rbd.Image(ioctx, self.image, **kwargs) as image:
                yield image

    def half_write(self, name):
        """Leave a half-written image at a site, as a dead writer does."""
        with self.cluster(name).pool() as ioctx:
            rbd.RBD().create(ioctx, self.image, len(self.data))
        with self.opened(name) as image:
            image.write(b'half', 0)

    def refused(self, name, **options):
        """Copy to a site that refuses it, and return the reason as text."""
        outcome = self.copy(name, **options)
        self.assertEqual([], outcome.copied)
        return str(outcome.failed[name])


class AdoptedTest(LeftOverTestCase):
    """Complete and equal images are taken as they are."""

    def check_adopted(self, name, record=True, **options):
        before = self.identity(name)
        outcome = self.copy(name, **options)
        self.assertEqual({}, outcome.failed)
        self.assertEqual(([name], [name], 0), (
            outcome.copied, outcome.adopted, outcome.data))
        self.assertEqual(before, self.identity(name))
        self.assertEqual(self.data, self.read(name))
        self.assertEqual(record, self.record(name) is not None)

    def test_of_an_earlier_copy(self):
        self.copy('dcn0')
        self.check_adopted('dcn0')

    def test_nothing_is_read_of_either(self):
        self.copy('dcn0')
        # A copy that read it would notice.
        corrupted = self.corrupt('dcn0')
        self.assertEqual(['dcn0'], self.copy('dcn0').adopted)
        self.assertEqual(corrupted, self.read('dcn0'))

    def test_written_by_stock_and_proven_by_the_digest(self):
        self.copy('dcn1')
        self.write('dcn0', self.data)
        self.check_adopted('dcn0')
        self.assertEqual(self.record('central'), self.record('dcn0'))

    def test_written_by_stock_and_proven_by_the_hash(self):
        self.write('dcn0', self.data)
        self.assertIsNone(self.record('central'))
        self.check_adopted('dcn0')
        # What was learnt is kept.
        self.assertEqual(test_copying.hashes_of(self.data),
                         self.record('dcn0').hashes)

    def test_beside_a_target_that_needs_the_data(self):
        self.copy('dcn0')
        before = self.identity('dcn0')
        outcome = self.copy('dcn0', 'dcn1')
        self.assertEqual(['dcn0', 'dcn1'], sorted(outcome.copied))
        self.assertEqual(['dcn0'], outcome.adopted)
        self.assertEqual(before, self.identity('dcn0'))
        self.assertEqual(self.data, self.read('dcn1'))

    def test_not_protected_yet(self):
        # Its maker died between the two.
        self.copy('dcn0')
        with self.opened('dcn0') as image:
            image.unprotect_snap('snap')
        self.check_adopted('dcn0')

    def test_open_elsewhere(self):
        self.copy('dcn0')
        with self.opened('dcn0'):
            self.check_adopted('dcn0')

    def test_is_left_when_another_copy_is_ended(self):
        class Enough(Exception):
            pass

        def progress(unused):
            raise Enough

        self.copy('dcn0')
        self.assertRaises(Enough, self.copy, 'dcn0', 'dcn1',
                          progress=progress)
        self.assertEqual(self.data, self.read('dcn0'))
        self.assertAbsent('dcn1')


class RefusedTest(LeftOverTestCase):
    """What is not equal, or being written, is left as it is."""

    def test_other_content_with_a_record(self):
        self.copy('dcn0')
        with self.opened('dcn0') as image:
            record = records.load(image)
            records.save(image, records.sign(records.Record(
                record.size, record.content[::-1], record.hashes),
                self.image, self.home.key()))
        self.assertIn('content', self.refused('dcn0'))
        self.assertEqual(self.data, self.read('dcn0'))

    def test_other_content_with_a_record_of_anybody(self):
        # It tells nothing; the image is read, and given one of ours.
        self.copy('dcn0')
        with self.opened('dcn0') as image:
            record = records.load(image)
            records.save(image, records.Record(
                record.size, record.content[::-1], record.hashes))
        self.assertEqual(['dcn0'], self.copy('dcn0').adopted)
        self.assertEqual(record, self.record('dcn0'))
        self.assertTrue(records.is_authentic(
            self.record('dcn0'), self.image, self.home.key()))

    def test_other_content_without_a_record(self):
        other = bytearray(self.data)
        other[5 * MIB] ^= 1
        self.write('dcn0', bytes(other))
        for recorded in (False, True):
            self.assertEqual(recorded, self.record('central') is not None)
            self.assertIn('content', self.refused('dcn0'))
            self.assertEqual(bytes(other), self.read('dcn0'))
            self.assertIsNone(self.record('dcn0'))
            self.copy('dcn1')

    def test_nothing_known_to_compare_it_with(self):
        self.write('dcn0', self.data)
        self.assertIn('neither', self.refused('dcn0', hashes={}))
        self.assertEqual(self.data, self.read('dcn0'))

    def test_other_snapshots(self):
        # It is no left-over of ours.
        self.half_write('dcn0')
        with self.opened('dcn0') as image:
            image.create_snap('mirror')
        self.assertIn('mirror', self.refused('dcn0'))
        with self.opened('dcn0', read_only=True) as image:
            self.assertEqual(b'half', image.read(0, 4))

    def test_live_writer(self):
        self.half_write('dcn0')
        with self.cluster('dcn0').connect('openstack') as client, \
                client.open_ioctx('images') as ioctx, \
                rbd.Image(ioctx, self.image):
            outcome = self.copy('dcn0', 'dcn1')
            self.assertEqual(['dcn1'], outcome.copied)
            # It says by whom it is written.
            self.assertIn(client.get_addrs().strip('[]').split(':', 1)[-1]
                          .split(',')[0].rsplit('/')[-1],
                          str(outcome.failed['dcn0']))
        with self.opened('dcn0', read_only=True) as image:
            self.assertEqual(b'half', image.read(0, 4))
        # Once it has gone.
        self.assertEqual(['dcn0'], self.copy('dcn0').copied)
        self.assertEqual(self.data, self.read('dcn0'))


class ReplacedTest(LeftOverTestCase):
    """Half-written images without a writer are replaced."""

    def check_replaced(self):
        outcome = self.copy('dcn0')
        self.assertEqual((['dcn0'], []), (outcome.copied, outcome.adopted))
        self.assertLess(0, outcome.data)
        self.assertEqual(self.data, self.read('dcn0'))

    def test_half_written(self):
        self.half_write('dcn0')
        self.check_replaced()

    def test_record_but_no_snapshot(self):
        self.half_write('dcn0')
        with self.opened('dcn0') as image:
            records.save(image, records.Record(len(self.data), 'x', {}))
        self.check_replaced()

    def test_half_created(self):
        # Its name is listed, but there is nothing to open.
        self.half_write('dcn0')
        identity = self.identity('dcn0')
        with self.cluster('dcn0').pool() as ioctx:
            ioctx.remove_object('rbd_header.%s' % identity)
        self.check_replaced()

    def test_listed_and_nothing_else(self):
        # Where librbd begins to create an image, and ends to remove one.
        self.half_write('dcn0')
        with self.cluster('dcn0').pool() as ioctx:
            for name in ('rbd_header.%s' % self.identity('dcn0'),
                         'rbd_id.%s' % self.image):
                ioctx.remove_object(name)
        self.check_replaced()

    def test_failed_copy_removes_its_own_image_only(self):
        # While it was failing, somebody else has replaced its image.
        site = self.sites['dcn0']
        with site.open_pool() as pool:
            with site.begin(pool, self.image, MIB) as endpoint:
                mine = endpoint.image.id()
            site.discard(pool, self.image, mine)
            self.assertAbsent('dcn0')
            self.copy('dcn0')
            site.discard(pool, self.image, mine)
            site.discard(pool, self.image)
            self.assertEqual(self.data, self.read('dcn0'))
            site.discard(pool, self.image, self.identity('dcn0'))
        self.assertAbsent('dcn0')


class RaceTest(LeftOverTestCase):
    """Several workers begin the same image at once."""

    def setUp(self):
        super().setUp()
        # Each with a connection of its own, as processes have.
        self.workers = [self.make_site('worker%d' % number, 'dcn0')
                        for number in range(4)]

    def begin(self, site):
        """Begin the image; return the endpoint or why not."""
        pool = self.pools.enter_context(site.open_pool())
        try:
            return self.pools.enter_context(
                site.begin(pool, self.image, MIB))
        except existing.Refused as exc:
            return exc

    def test_one_wins(self):
        for round_ in range(6):
            if round_ % 2:
                self.half_write('dcn0')
            with contextlib.ExitStack() as self.pools, \
                    futures.ThreadPoolExecutor(4) as executor:
                found = list(executor.map(self.begin, self.workers))
                winners = [one for one in found
                           if not isinstance(one, Exception)]
                self.assertEqual(1, len(winners), found)
                for one in found:
                    if one is not winners[0]:
                        self.assertIsInstance(one, existing.BeingWritten)
                # It is the winner's image that is there.
                self.assertEqual(winners[0].image.id(),
                                 self.identity('dcn0'))
            self.clean()

    def test_copies(self):
        # Each has the image in the end, or was refused; and it is whole.
        def run(site):
            return copying.Copy(
                self.image, [self.source()], [site],
                hashes=test_copying.hashes_of(self.data)).run()

        with futures.ThreadPoolExecutor(4) as executor:
            outcomes = list(executor.map(run, self.workers))
        written = [outcome for outcome in outcomes
                   if outcome.copied and not outcome.adopted]
        self.assertEqual(1, len(written), outcomes)
        self.assertEqual(self.data, self.read('dcn0'))


class NameLockTest(LeftOverTestCase):
    """The lock by which one of several begins an image."""

    def setUp(self):
        super().setUp()
        self.pool = self.useFixture(Pool(self.cluster('dcn0')))

    def hold(self, pool=None, **options):
        pool = pool or self.pool
        return name_lock.hold(pool.client, pool.ioctx, self.image, **options)

    def take(self, **options):
        with self.hold(**options):
            pass

    def test_excludes_others(self):
        # For longer than a holder that is dead would be let alone.
        with self.hold():
            error = self.assertRaises(name_lock.NotLocked, self.take,
                                      patience=.1)
            self.assertIn(self.image, str(error))
        self.take(patience=.1)

    def test_others_wait(self):
        with futures.ThreadPoolExecutor() as executor:
            with self.hold():
                other = executor.submit(self.take)
                time.sleep(.2)
                self.assertFalse(other.done())
            other.result(5)

    def test_of_the_dead_is_taken(self):
        dead = self.useFixture(Pool(self.cluster('dcn0')))
        # It never renews it.
        held = name_lock._Held(dead.ioctx, self.image)
        held.take()
        self.take(expiry=1)
        # Whatever it sends when it goes on fails.
        self.assertRaises(rados.Error, dead.ioctx.write_full, self.image,
                          b'x')
        self.assertRaises(name_lock.NameLockError, held.release)

    def test_of_another_name_stays_with_its_holder(self):
        other = self.useFixture(Pool(self.cluster('dcn0')))
        with name_lock.hold(other.client, other.ioctx, self.image):
            name_lock.break_lock(self.pool.client, self.pool.ioctx,
                                 self.image, [4242])
            self.assertRaises(
                rados.ObjectBusy,
                name_lock._Held(self.pool.ioctx, self.image).take)

    def test_ends_when_the_block_fails(self):
        def fail():
            with self.hold():
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, fail)
        self.take(patience=.1)

    def test_leaves_no_trace_of_names(self):
        # Attributes stay: there must not be one for each image.
        name = 'lock.name.%d' % hashlib.sha256(
            self.image.encode()).digest()[0]
        self.take()
        with self.cluster('dcn0').pool() as ioctx:
            found = dict(ioctx.get_xattrs(name_lock.OBJECT))
        self.assertIn(name, found)
        self.assertLessEqual(len(found), 256)


class Pool(fixtures.Fixture):
    """A pool opened by a client of its own, until the test ends.

    :ivar client: rados.Rados
    :ivar ioctx: rados.Ioctx
    """

    def __init__(self, cluster):
        super().__init__()
        self._cluster = cluster

    def _setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.client = stack.enter_context(self._cluster.connect('glance'))
        self.ioctx = stack.enter_context(self.client.open_ioctx('images'))
