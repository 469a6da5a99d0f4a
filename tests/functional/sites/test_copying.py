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

"""Copies between real clusters, without Glance."""

import hashlib
import random

import fixtures
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine import transfer
from glance_dcn.sites import copying
from glance_dcn.sites import existing
from glance_dcn.sites import home
from glance_dcn.sites import site
from glance_dcn.sites import sources
from tests.functional import base

MIB = 1 << 20
SIZE = 24 * MIB + 4096 + 7


class CopyingTestCase(base.CephTestCase):
    """Has three sites, and an image of scattered data at central."""

    def setUp(self):
        super().setUp()
        self.image = self.image_name()
        self.home = home.Home()
        self.sites = {name: self.make_site(name)
                      for name in ('central', 'dcn0', 'dcn1')}
        self.home.site = self.sites['central']
        self.data = scattered(self.image, SIZE)
        self.write('central', self.data)
        self.addCleanup(self.clean)

    def make_site(self, name, cluster=None, **options):
        cluster = self.cluster(cluster or name)
        options = dict({'pool': 'images', 'user': 'glance'}, **options)
        return site.Site(clients.ClusterConfig(
            name, conf_file=str(cluster.conf), connect_timeout=10,
            io_timeout=30, **options), 22, home=self.home)

    def clean(self):
        for name in self.sites:
            with self.cluster(name).pool() as ioctx:
                if self.image in rbd.RBD().list(ioctx):
                    with rbd.Image(ioctx, self.image) as image:
                        for snap in list(image.list_snaps()):
                            if image.is_protected_snap(snap['name']):
                                image.unprotect_snap(snap['name'])
                            image.remove_snap(snap['name'])
                    rbd.RBD().remove(ioctx, self.image)

    def write(self, name, data):
        """Write as stock Glance or Nova do: without a record."""
        with self.cluster(name).pool() as ioctx:
            rbd.RBD().create(ioctx, self.image, len(data), order=22,
                             old_format=False,
                             features=rbd.RBD_FEATURE_LAYERING)
            with rbd.Image(ioctx, self.image) as image:
                image.write(data, 0)
                image.create_snap('snap')
                image.protect_snap('snap')

    def read(self, name):
        with self.cluster(name).pool() as ioctx:
            with rbd.Image(ioctx, self.image, read_only=True) as image:
                image.set_snap('snap')
                self.assertTrue(image.is_protected_snap('snap'))
                return image.read(0, image.size())

    def record(self, name):
        with self.cluster(name).pool() as ioctx:
            with rbd.Image(ioctx, self.image, read_only=True) as image:
                return records.load(image)

    def source(self, name='central'):
        return sources.Source(self.sites[name], 'images', self.image, 'snap')

    def copy(self, *targets, sources=('central',), **options):
        options.setdefault('hashes', hashes_of(self.data))
        return copying.Copy(
            self.image, [self.source(name) for name in sources],
            [self.sites[name] for name in targets], **options).run()

    def corrupt(self, name):
        """Flip bytes in one of the image's objects, behind RBD's back.

        :returns: what the image reads as afterwards
        """
        with self.cluster(name).pool() as ioctx:
            with rbd.Image(ioctx, self.image) as image:
                prefix = image.block_name_prefix()
            found = sorted(item.key for item in ioctx.list_objects()
                           if item.key.startswith(prefix))
            data = ioctx.read(found[0], 1, 0)
            ioctx.write(found[0], bytes([data[0] ^ 0xff]), 0)
        return self.read(name)

    def assertAbsent(self, name):
        self.assertNotIn(self.image, self.cluster(name).images())
        self.assertNotIn(self.image, self.cluster(name).trash())


class CopyTest(CopyingTestCase):
    """Copies that come off, and what they leave."""

    def test_to_two_sites(self):
        outcome = self.copy('dcn0', 'dcn1')
        self.assertEqual(['dcn0', 'dcn1'], sorted(outcome.copied))
        self.assertEqual({}, outcome.failed)
        self.assertEqual(('central', SIZE), (outcome.source, outcome.size))
        self.assertLess(outcome.data, SIZE)
        for name in ('dcn0', 'dcn1'):
            self.assertEqual(self.data, self.read(name))

    def publishing(self, name, instead):
        """Have something done instead of the publishing at a site."""
        publish = site.Site.publish

        def at(there, opened, record):
            (instead if there is self.sites[name] else publish)(
                there, opened, record)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.site.Site.publish', at))
        return publish

    def test_nothing_stays_of_what_cannot_be_noted(self):
        def finished(outcome, told):
            self.assertEqual(['dcn0'], outcome.copied)
            self.assertEqual(self.data, self.read('dcn0'))
            raise ZeroDivisionError
        self.assertRaises(ZeroDivisionError, self.copy, 'dcn0',
                          finished=finished)
        self.assertAbsent('dcn0')

    def test_is_noted_before_the_failed_is_removed(self):
        def fail(*_args):
            raise rbd.ReadOnlyImage('it cannot be published')
        self.publishing('dcn1', fail)

        def finished(outcome, told):
            noted.extend([*outcome.copied, *outcome.failed])
            if outcome.failed:
                self.assertIn(self.image, self.cluster('dcn1').images())
            told()
        noted = []
        self.copy('dcn0', 'dcn1', finished=finished)
        self.assertEqual(['dcn0', 'dcn1'], sorted(noted))
        self.assertEqual(self.data, self.read('dcn0'))
        self.assertAbsent('dcn1')

    def test_gone_before_anybody_was_told(self):
        name = self.image_name()

        def lose(there, opened, record):
            publish(there, opened, record)
            with there.open_pool() as ioctx:
                rbd.RBD().rename(ioctx, self.image, name)
        publish = self.publishing('dcn0', lose)
        outcome = self.copy('dcn0', 'dcn1')
        self.assertEqual(['dcn1'], outcome.copied)
        self.assertIsInstance(outcome.failed['dcn0'], existing.Gone)
        with self.cluster('dcn0').pool() as ioctx:
            images.remove(ioctx, name, images.read_image_id(ioctx, name),
                          images.SNAPSHOT)

    def test_digest_is_recorded_everywhere_and_used_for_the_next(self):
        self.assertIsNone(self.record('central'))
        self.copy('dcn0')
        recorded = self.record('central')
        self.assertEqual(hashes_of(self.data), recorded.hashes)
        self.assertEqual(recorded, self.record('dcn0'))
        # No hash needs to be computed now, so a wrong one would not be
        # noticed, were the record not compared with it.
        self.copy('dcn1', sources=['dcn0'])
        self.assertEqual(self.data, self.read('dcn1'))
        self.assertEqual(recorded, self.record('dcn1'))

    def test_without_any_hash(self):
        # As Nova registers snapshots.
        self.copy('dcn0', hashes={})
        self.assertEqual(self.data, self.read('dcn0'))
        self.assertEqual(self.record('central').content,
                         self.record('dcn0').content)

    def test_sizes(self):
        for size in (0, 1, 511, 65536, 4 * MIB, 4 * MIB + 1):
            self.clean()
            self.data = scattered(self.image, size)
            self.write('central', self.data)
            self.copy('dcn0')
            self.assertEqual(self.data, self.read('dcn0'), size)

    def test_all_zeros(self):
        self.clean()
        self.data = bytes(6 * MIB)
        self.write('central', self.data)
        self.assertEqual(0, self.copy('dcn0').data)
        self.assertEqual(self.data, self.read('dcn0'))

    def test_source_without_its_own_data(self):
        # A clone: most of it lies in its parent.
        clone = self.image_name()
        with self.cluster('central').pool() as ioctx:
            rbd.RBD().clone(ioctx, self.image, 'snap', ioctx, clone,
                            features=rbd.RBD_FEATURE_LAYERING)
            self.addCleanup(self.remove_clone, clone)
            with rbd.Image(ioctx, clone) as image:
                image.write(b'changed', 5 * MIB)
                image.create_snap('snap')
        changed = bytearray(self.data)
        changed[5 * MIB:5 * MIB + 7] = b'changed'
        copying.Copy(
            self.image, [sources.Source(self.sites['central'], 'images',
                                        clone, 'snap')],
            [self.sites['dcn0']]).run()
        self.assertEqual(bytes(changed), self.read('dcn0'))

    def remove_clone(self, clone):
        with self.cluster('central').pool() as ioctx:
            with rbd.Image(ioctx, clone) as image:
                image.remove_snap('snap')
            rbd.RBD().remove(ioctx, clone)

    def test_record_is_not_inherited_by_a_clone(self):
        self.copy('dcn0')
        clone = self.image_name()
        with self.cluster('central').pool() as ioctx:
            rbd.RBD().clone(ioctx, self.image, 'snap', ioctx, clone,
                            features=rbd.RBD_FEATURE_LAYERING)
            self.addCleanup(self.remove_clone, clone)
            with rbd.Image(ioctx, clone) as image:
                self.assertIn(records.KEY, dict(image.metadata_list()))
                image.create_snap('snap')
                self.assertIsNone(records.load(image))

    def test_progress_ends_at_all_of_it(self):
        seen = []
        outcome = self.copy('dcn0', progress=seen.append)
        self.assertEqual(1.0, seen[-1].transfer.fraction)
        self.assertEqual([outcome.data],
                         list(seen[-1].transfer.written.values()))


class CopyFaultTest(CopyingTestCase):
    """Copies that fail, and what they leave: nothing."""

    def test_source_that_does_not_have_its_hash(self):
        error = self.assertRaises(copying.CopyFailed, self.copy, 'dcn0',
                                  hashes=hashes_of(b'other'))
        self.assertIn('central', str(error))
        self.assertIn(hashes_of(b'other')['sha512'], str(error))
        self.assertAbsent('dcn0')
        self.assertIsNone(self.record('central'))
        self.assertEqual(self.data, self.read('central'))

    def test_object_corrupted_after_its_digest_was_recorded(self):
        self.copy('dcn0')
        corrupted = self.corrupt('central')
        self.assertNotEqual(self.data, corrupted)
        error = self.assertRaises(copying.CopyFailed, self.copy, 'dcn1')
        self.assertIn('central: images/%s' % self.image, str(error))
        self.assertIn('content digest', str(error))
        self.assertAbsent('dcn1')
        # The source is as it was.
        self.assertEqual(corrupted, self.read('central'))

    def test_next_source_is_taken(self):
        self.copy('dcn0')
        self.corrupt('central')
        outcome = self.copy('dcn1', sources=['central', 'dcn0'])
        self.assertEqual('dcn0', outcome.source)
        self.assertEqual(self.data, self.read('dcn1'))

    def test_next_source_has_other_content(self):
        # No hash is known, and Glance was told of what the first one has.
        other = scattered('other' + self.image, SIZE)
        for recorded in (False, True):
            self.clean()
            self.write('central', self.data)
            self.write('dcn0', other)
            if recorded:
                self.remember('dcn0')
            outcome = self.copy('dcn1', 'central', hashes={}, at_once=1,
                                sources=['central', 'dcn0'],
                                finished=self.lose_source)
            self.assertEqual(['dcn1'], outcome.copied)
            self.assertEqual(self.data, self.read('dcn1'))
            self.assertIn('dcn0', str(outcome.failed['central']))
            self.assertIn('digest', str(outcome.failed['central']))
            self.assertAbsent('central')

    def lose_source(self, outcome, told):
        """Have the image at central removed as soon as it was copied."""
        told()
        central = self.sites['central']
        if outcome.copied:
            with central.open_pool() as ioctx:
                base.delete_image(
                    central, ioctx, self.image,
                    images.read_image_id(ioctx, self.image), images.SNAPSHOT)

    def remember(self, name):
        """Have a record of this deployment's with an image."""
        there = self.sites[name]
        with there.open_pool() as ioctx:
            with there.reading(ioctx, self.image) as endpoint:
                found = transfer.Transfer(endpoint).run()
            there.remember(
                ioctx, self.image, images.read_image_id(ioctx, self.image),
                home.sign(there, self.image, records.Record(
                    found.size, found.content)))

    def test_source_that_is_not_there(self):
        error = self.assertRaises(copying.CopyFailed, self.copy, 'dcn1',
                                  sources=['dcn0'])
        self.assertIn('dcn0', str(error))
        self.assertAbsent('dcn1')

    def test_one_target_fails_and_the_others_go_on(self):
        self.sites['astray'] = self.make_site('astray', 'dcn0', pool='nopool')
        outcome = self.copy('astray', 'dcn1')
        self.assertEqual(['dcn1'], outcome.copied)
        self.assertIn('rbd_store_pool', str(outcome.failed['astray']))
        self.assertEqual(self.data, self.read('dcn1'))
        del self.sites['astray']

    def test_target_that_has_such_an_image(self):
        self.write('dcn0', b'something else')
        outcome = self.copy('dcn0', 'dcn1')
        self.assertEqual(['dcn1'], outcome.copied)
        self.assertIn(self.image, str(outcome.failed['dcn0']))
        self.assertEqual(b'something else', self.read('dcn0'))

    def test_ended_by_its_progress(self):
        class Enough(Exception):
            pass

        def progress(unused):
            raise Enough

        self.assertRaises(Enough, self.copy, 'dcn0', 'dcn1',
                          progress=progress)
        self.assertAbsent('dcn0')
        self.assertAbsent('dcn1')


def scattered(seed, size):
    """Return data with holes, the same for the same seed."""
    source = random.Random(seed)
    data = bytearray(size)
    for _ in range(12 if size > MIB else 1):
        start = source.randrange(size) if size else 0
        piece = source.randbytes(min(300000, size - start))
        data[start:start + len(piece)] = piece
    return bytes(data)


def hashes_of(data):
    """Return the hashes Glance has of an image."""
    return {name: hashlib.new(name, data).hexdigest()
            for name in ('md5', 'sha512')}
