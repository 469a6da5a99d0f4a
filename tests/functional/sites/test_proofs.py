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

"""What is copied is the image, whatever becomes of its source.

The sources of these copies are removed while they are read, or rewritten
together with their records by someone who has the key of their pool.
"""

import os

import fixtures
import rbd

from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine import transfer
from glance_dcn.sites import copying
from glance_dcn.sites import home
from tests.functional.sites import test_copying

MIB = test_copying.MIB
# Bytes of buffers: so few that most is read after the first has come.
_MEMORY = 8 * MIB
_BOTH = ('md5', 'sha512')


class RemovedTest(test_copying.CopyingTestCase):
    """The source is removed, as Glance removes images, while it is read."""

    def setUp(self):
        super().setUp()
        self.clean()
        self.data = os.urandom(40 * MIB)
        self.write('central', self.data)

    def remove(self, name='central'):
        with self.cluster(name).pool() as ioctx:
            images.remove(ioctx, self.image,
                          images.read_image_id(ioctx, self.image),
                          images.SNAPSHOT)

    def copy_of_removed(self, when=lambda progress: progress.bytes_read,
                        instead=None, **options):
        """Copy to dcn0, and remove the source once.

        :param when: told the progress of the transfer; whether it is to be
            removed now
        :param instead: data of another image that takes its name
        """
        pending = [True]

        def progress(now):
            if pending and now.transfer and when(now.transfer):
                pending.clear()
                self.remove()
                if instead is not None:
                    self.write('central', instead)
        try:
            return self.copy('dcn0', progress=progress, interval=0,
                             memory=_MEMORY, **options)
        finally:
            self.assertEqual([], pending)

    def check_fails(self, **options):
        error = self.assertRaises(copying.CopyFailed, self.copy_of_removed,
                                  **options)
        self.assertIn('central: central: %s' % self.image, str(error))
        self.assertIn('removed while it was read', str(error))
        self.assertAbsent('dcn0')

    def test_without_any_hash(self):
        self.check_fails(hashes={}, wanted=_BOTH)

    def test_with_a_hash(self):
        self.check_fails()

    def test_with_a_record(self):
        self.copy('dcn1')
        self.check_fails()

    def test_another_has_its_name(self):
        self.check_fails(hashes={}, instead=os.urandom(40 * MIB))
        self.assertIsNone(self.record('central'))

    def test_other_sources_are_tried(self):
        self.write('dcn1', self.data)
        outcome = self.copy_of_removed(
            hashes={}, wanted=_BOTH, sources=('central', 'dcn1'))
        self.assertEqual('dcn1', outcome.source)
        self.assertEqual(self.data, self.read('dcn0'))
        self.assertEqual(test_copying.hashes_of(self.data), outcome.hashes)

    def test_proven_by_its_hash_before(self):
        # What was read is the image; the other is given no record.
        other = os.urandom(40 * MIB)
        self.copy_of_removed(
            lambda now: now.listed and now.bytes_read == now.planned,
            instead=other)
        self.assertEqual(self.data, self.read('dcn0'))
        self.assertEqual(other, self.read('central'))
        self.assertIsNone(self.record('central'))

    def test_moved_to_the_trash_with_its_data(self):
        # A clone keeps its data; the check cannot tell, and takes no risk.
        clone = self.image_name()
        with self.cluster('central').connect('openstack') as client, \
                client.open_ioctx('images') as ioctx:
            client.conf_set('rbd_default_clone_format', '2')
            rbd.RBD().clone(ioctx, self.image, 'snap', ioctx, clone)
        try:
            self.check_fails(hashes={}, wanted=_BOTH)
        finally:
            with self.cluster('central').pool() as ioctx:
                rbd.RBD().remove(ioctx, clone)
                for entry in rbd.RBD().trash_list(ioctx):
                    if entry['name'] == self.image:
                        rbd.RBD().trash_remove(ioctx, entry['id'])


class ReferenceTest(test_copying.CopyingTestCase):
    """Whether what was opened is still there."""

    def setUp(self):
        super().setUp()
        pool = self.cluster('central').pool()
        self.ioctx = self.useFixture(_Entered(pool)).value
        image = rbd.Image(self.ioctx, self.image, read_only=True)
        self.addCleanup(image.close)
        self.reference, self.unnamed = (
            images.refer(image, self.image, one)
            for one in (images.SNAPSHOT, None))

    def check(self, expected):
        self.assertEqual(expected, (
            images.is_unchanged(self.ioctx, self.reference),
            images.is_unchanged(self.ioctx, self.unnamed)))

    def test_unchanged(self):
        self.check((True, True))
        with rbd.Image(self.ioctx, self.image) as image:
            image.create_snap('other')
            self.check((True, True))
            image.remove_snap('other')

    def test_snapshot_made_again(self):
        with rbd.Image(self.ioctx, self.image) as image:
            image.unprotect_snap('snap')
            self.check((True, True))
            image.remove_snap('snap')
            self.check((False, True))
            image.create_snap('snap')
            self.check((False, True))
            image.protect_snap('snap')

    def test_removed(self):
        images.remove(self.ioctx, self.image,
                      images.read_image_id(self.ioctx, self.image),
                      images.SNAPSHOT)
        self.check((False, False))
        self.write('central', self.data)
        self.check((False, False))


class ForgedTest(test_copying.CopyingTestCase):
    """A site whose pool is written to by an attacker."""

    def setUp(self):
        super().setUp()
        self.copy('dcn0')

    def digest(self, name):
        """Return the content digest of the image at a site."""
        with self.sites[name].open_pool() as ioctx, self.sites[name].reading(
                ioctx, self.image) as endpoint:
            return transfer.Transfer(endpoint).run().content

    def forge(self, name='dcn0', sign=lambda record: record):
        """Tamper with the data, and have the record tell that it is right."""
        tampered = self.corrupt(name)
        record = self.record(name)
        forged = sign(records.Record(record.size, self.digest(name),
                                     record.hashes, record.macs))
        with self.cluster(name).connect('glance') as client, \
                client.open_ioctx('images') as ioctx, \
                rbd.Image(ioctx, self.image) as image:
            records.save(image, forged)
        self.assertEqual(forged.macs, self.record(name).macs)
        return tampered

    def check_not_copied(self):
        error = self.assertRaises(copying.CopyFailed, self.copy, 'dcn1',
                                  sources=['dcn0'])
        self.assertIn(test_copying.hashes_of(self.data)['sha512'],
                      str(error))
        self.assertAbsent('dcn1')

    def test_code_of_the_true_content(self):
        self.forge()
        self.check_not_copied()

    def test_no_code(self):
        self.forge(sign=lambda record: records.Record(
            record.size, record.content, record.hashes))
        self.check_not_copied()

    def test_invented_code(self):
        key_id = records.key_id(self.home.key())
        self.forge(sign=lambda record: records.Record(
            record.size, record.content, record.hashes,
            {key_id: os.urandom(32).hex()}))
        self.check_not_copied()

    def test_code_for_another_image(self):
        self.forge(sign=lambda record: records.sign(
            record, 'another', self.home.key()))
        self.check_not_copied()

    def test_code_of_another_deployment(self):
        other = home.Home(self.sites['dcn0'])
        self.assertNotEqual(other.key(), self.home.key())
        self.forge(sign=lambda record: records.sign(
            record, self.image, other.key()))
        self.check_not_copied()

    def test_next_source_is_taken(self):
        self.forge()
        outcome = self.copy('dcn1', sources=['dcn0', 'central'])
        self.assertEqual('central', outcome.source)
        self.assertEqual(self.data, self.read('dcn1'))

    def test_tampered_target_is_not_adopted(self):
        tampered = self.forge(sign=lambda record: records.Record(
            record.size, self.record('central').content, record.hashes))
        for hashes in (test_copying.hashes_of(self.data), {}):
            outcome = self.copy('dcn0', hashes=hashes)
            self.assertEqual([], outcome.copied)
            self.assertIn('content', str(outcome.failed['dcn0']))
            self.assertEqual(tampered, self.read('dcn0'))

    def test_text_that_is_no_record(self):
        for text in ('', '[' * 100000, '{}', '[]', 'null', 'x' * 100000,
                     '\u2014', '{"version": 1, "size": 1e999}'):
            with self.cluster('dcn0').pool() as ioctx, \
                    rbd.Image(ioctx, self.image) as image:
                image.metadata_set(records.KEY, text)
            self.assertIsNone(self.record('dcn0'))
            self.copy('dcn1', sources=['dcn0'])
            self.assertEqual(self.data, self.read('dcn1'))
            self.assertIsNotNone(self.record('dcn0'))
            with self.cluster('dcn1').pool() as ioctx:
                images.remove(ioctx, self.image,
                              images.read_image_id(ioctx, self.image),
                              images.SNAPSHOT)


class ProvedTest(test_copying.CopyingTestCase):
    """What this deployment has proved once is not hashed a second time."""

    def authentic(self, name, key=None):
        return records.is_authentic(self.record(name), self.image,
                                    key or self.home.key())

    def test_records_have_a_code(self):
        self.copy('dcn0')
        self.assertTrue(self.authentic('central'))
        self.assertTrue(self.authentic('dcn0'))
        self.copy('dcn1', sources=['dcn0'])
        self.assertTrue(self.authentic('dcn1'))

    def test_hashes_that_glance_has_not(self):
        expected = test_copying.hashes_of(self.data)
        outcome = self.copy('dcn0', hashes={}, wanted=_BOTH)
        self.assertEqual(expected, outcome.hashes)
        self.assertEqual(expected, self.record('dcn0').hashes)
        # Where Glance was not told, they come from the record.
        hashed = self.count_hashes()
        outcome = self.copy('dcn1', hashes={}, wanted=_BOTH)
        self.assertEqual(expected, outcome.hashes)
        self.assertEqual([()], hashed)
        self.assertEqual(self.data, self.read('dcn1'))

    def count_hashes(self):
        """Have it noted which hashes transfers compute, and return that."""
        computed = []

        class Noting(transfer.Transfer):
            def __init__(self, *args, hashes=(), **options):
                computed.append(tuple(hashes))
                super().__init__(*args, hashes=hashes, **options)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.engine.transfer.Transfer', Noting))
        return computed

    def test_one_of_two_hashes_is_missing(self):
        known = {'md5': test_copying.hashes_of(self.data)['md5']}
        outcome = self.copy('dcn0', hashes=known, wanted=_BOTH)
        self.assertEqual(test_copying.hashes_of(self.data), outcome.hashes)

    def test_hashed_once(self):
        hashed = self.count_hashes()
        self.copy('dcn0')
        self.copy('dcn1')
        self.assertEqual([('sha512',), ()], hashed)

    def test_another_deployment_verifies_once(self):
        self.copy('dcn0')
        self.home.site, self.home._key = self.sites['dcn1'], None
        hashed = self.count_hashes()
        self.copy('dcn1')
        self.assertEqual([('sha512',)], hashed)
        # Both have their codes now.
        mine = self.home.key()
        self.assertTrue(self.authentic('central', mine))
        self.assertTrue(self.authentic(
            'central', home.Home(self.sites['central']).key()))

    def test_key_cannot_be_had(self):
        self.copy('dcn0')
        away = self.make_site('away', 'dcn0', pool='nopool')
        self.home.site, self.home._key = away, None
        hashed = self.count_hashes()
        outcome = self.copy('dcn1')
        self.assertEqual(['dcn1'], outcome.copied)
        self.assertEqual([('sha512',)], hashed)
        self.assertEqual(self.data, self.read('dcn1'))

    def test_size_is_not_what_glance_has(self):
        error = self.assertRaises(copying.CopyFailed, self.copy, 'dcn0',
                                  size=len(self.data) - 1)
        self.assertIn('size', str(error))
        self.assertAbsent('dcn0')


class _Entered(fixtures.Fixture):
    """A context manager, entered until the test ends.

    :ivar value: what it gave
    """

    def __init__(self, manager):
        super().__init__()
        self._manager = manager

    def _setUp(self):
        self.value = self._manager.__enter__()
        self.addCleanup(self._manager.__exit__, None, None, None)
