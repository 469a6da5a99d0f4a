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


"""The engine on real Ceph."""

import pathlib
import random
import time

import fixtures
import rados
import rbd as librbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import images
from glance_dcn.engine.backends import rbd
from glance_dcn.engine import errors
from glance_dcn.engine import extents
from glance_dcn.engine import stream
from glance_dcn.engine import transfer
from glance_dcn.sites import figures
from glance_dcn.sites import site
from tests.functional import base
from tests.unit.engine import conformance
from tests.unit.engine import fakes
from tests.unit.engine import memory

BLOCK = extents.BLOCK
MB = 1 << 20
OBJECT = 4 * MB

_PLAIN = librbd.RBD_FEATURE_LAYERING
_MAPPED = (_PLAIN | librbd.RBD_FEATURE_EXCLUSIVE_LOCK
           | librbd.RBD_FEATURE_OBJECT_MAP | librbd.RBD_FEATURE_FAST_DIFF)


class RBDTestCase(base.CephTestCase):
    """Images of its own in the pool of one site."""

    features = _MAPPED

    def setUp(self):
        super().setUp()
        cluster = self.cluster('central')
        client = rados.Rados(
            conffile=str(cluster.conf), name='client.glance',
            conf={'keyring': str(cluster.keyring('glance'))})
        client.connect()
        self.addCleanup(client.shutdown)
        self.ioctx = client.open_ioctx('images')
        self.addCleanup(self.ioctx.close)

    def create(self, size, data=b'', **kwargs):
        """Make an image by librbd's plain means and return its name."""
        name = self.image_name()
        kwargs.setdefault('features', self.features)
        librbd.RBD().create(self.ioctx, name, size, old_format=False,
                            **kwargs)
        self.addCleanup(self.remove, name)
        with librbd.Image(self.ioctx, name) as image:
            for offset, piece in extents.trim(data, 0):
                image.write(piece, offset)
        return name

    def remove(self, name):
        with librbd.Image(self.ioctx, name) as image:
            for snap in list(image.list_snaps()):
                if image.is_protected_snap(snap['name']):
                    image.unprotect_snap(snap['name'])
                image.remove_snap(snap['name'])
        librbd.RBD().remove(self.ioctx, name)

    def open(self, image, **kwargs):
        endpoint = rbd.RBD(self.ioctx, image, **kwargs)
        self.addCleanup(endpoint.close)
        return endpoint

    def plain(self, name, snapshot=None):
        """Read an image by librbd's plain means."""
        with librbd.Image(self.ioctx, name, snapshot,
                          read_only=True) as image:
            return image.read(0, image.size()) if image.size() else b''


class TestRBD(conformance.Suite, RBDTestCase):

    def make(self, size, data=b''):
        return self.open(self.create(size, data, features=_PLAIN),
                         writable=True)

    def content(self, endpoint):
        return self.plain(endpoint.name)

    def test_missing(self):
        for args in (('nosuchimage',), (self.create(MB), 'nosuchsnapshot')):
            error = self.assertRaises(errors.RequestError, rbd.RBD,
                                      self.ioctx, *args)
            self.assertEqual(('open', 2), (error.operation, error.errno))

    def test_counts_what_is_answered(self):
        meter = figures.Meter()
        data = random.Random(7).randbytes(4 * MB)
        source = self.open(self.create(8 * MB, data), meter=meter)
        target = self.open(self.create(8 * MB, features=_PLAIN),
                           writable=True, meter=meter)
        transfer.Transfer(source, [target]).run()
        self.assertEqual(
            {figures.READ: 4 * MB, figures.WRITTEN: 4 * MB}, meter.counts())
        # What fails does not count: the source cannot be written.
        other = self.open(self.create(8 * MB, data))
        [outcome] = transfer.Transfer(other, [source]).run().outcomes
        self.assertIsNotNone(outcome.error)
        self.assertEqual(4 * MB, meter.counts()[figures.WRITTEN])

    def test_read_only(self):
        endpoint = self.open(self.create(MB))
        self.assertEqual(30, self.ask(endpoint.write, 0, b'x').errno)

    def test_names(self):
        endpoint = self.open(self.create(MB), name='dcn0: images/x')
        self.assertIn('dcn0: images/x: read of 5 bytes at offset 9999999',
                      str(self.ask(endpoint.read, 9999999, 5)))


class TestPlainRBD(TestRBD):
    """Without object map."""

    features = _PLAIN


class TestShapes(RBDTestCase):
    """Images of every kind, copied and compared."""

    def check(self, name, snapshot=None):
        """Copy it; check extents, copy, digest and stream."""
        expected = self.plain(name, snapshot)
        source = self.open(name, snapshot=snapshot)
        for extent in source.extents():
            if not extent.data:
                self.assertTrue(extents.is_zero(expected[
                    extent.offset:extent.offset + extent.length]), extent)
        target = self.create(source.size, features=_PLAIN)
        with rbd.RBD(self.ioctx, target, writable=True) as there:
            result = transfer.Transfer(source, [there]).run()
        self.assertIsNone(result.outcomes[0].error)
        self.assertEqual(expected, self.plain(target))
        same = transfer.Transfer(memory.Memory(data=expected)).run()
        self.assertEqual(same.content, result.content)
        self.assertEqual(same.data, result.data)
        self.assertEqual(expected, b''.join(stream.Reader(source)))
        return result

    def clone(self, parent, size=None):
        """Snapshot, protect and clone an image; resize the clone."""
        with librbd.Image(self.ioctx, parent) as image:
            image.create_snap('snap')
            image.protect_snap('snap')
        name = self.image_name()
        librbd.RBD().clone(self.ioctx, parent, 'snap', self.ioctx, name,
                           features=self.features)
        self.addCleanup(self.remove, name)
        if size is not None:
            with librbd.Image(self.ioctx, name) as image:
                image.resize(size)
        return name

    def test_snapshot_is_not_head(self):
        name = self.create(3 * OBJECT + 5000,
                           fakes.scattered(3 * OBJECT + 5000))
        with librbd.Image(self.ioctx, name) as image:
            image.create_snap('snap')
            image.write(b'y' * BLOCK, OBJECT)
            image.discard(0, 2 * MB)
            image.discard(2 * OBJECT, OBJECT)
        self.check(name, 'snap')
        self.check(name)

    def test_clones(self):
        size = 6 * OBJECT + 777
        for seed in range(3):
            chance = random.Random(seed)
            parent = self.create(size, fakes.scattered(size, seed=seed))
            name = self.clone(parent, chance.choice(
                [None, size - OBJECT - 100, size + OBJECT]))
            self.check(name)
            self.scribble(name, chance)
            self.check(name)
            with librbd.Image(self.ioctx, name) as image:
                image.create_snap('snap')
            grandchild = self.clone_of_snap(name)
            self.scribble(grandchild, chance)
            self.check(grandchild)

    def clone_of_snap(self, parent):
        with librbd.Image(self.ioctx, parent) as image:
            image.remove_snap('snap')
        return self.clone(parent)

    def scribble(self, name, chance):
        """Write and discard here and there."""
        with librbd.Image(self.ioctx, name) as image:
            for _ in range(6):
                offset = chance.randrange(image.size())
                length = min(chance.choice([1, BLOCK, OBJECT]),
                             image.size() - offset)
                if chance.random() < .5:
                    image.write(b'z' * length, offset)
                else:
                    image.discard(offset, length)

    def test_shrunk_and_grown(self):
        name = self.create(4 * OBJECT, fakes.scattered(4 * OBJECT, .9))
        with librbd.Image(self.ioctx, name) as image:
            image.resize(OBJECT + 100)
            image.resize(9 * OBJECT + 1)
        self.check(name)

    def test_fancy_striping(self):
        name = self.create(
            40 * MB + 100, fakes.scattered(40 * MB + 100, .3), order=22,
            stripe_unit=BLOCK, stripe_count=3,
            features=self.features | librbd.RBD_FEATURE_STRIPINGV2)
        self.check(name)

    def test_object_sizes(self):
        for order in (12, 16, 23, 25):
            size = min(40 * MB, 300 << order) + 513
            self.check(self.create(size, fakes.scattered(size, .3),
                                   order=order))

    def test_explicit_zeros(self):
        name = self.create(2 * OBJECT)
        with librbd.Image(self.ioctx, name) as image:
            image.write(bytes(OBJECT), 0)
        self.assertEqual(0, self.check(name).data)

    def test_holes_stay_holes(self):
        name = self.create(1 << 40)
        with librbd.Image(self.ioctx, name) as image:
            image.write(b'x', 1 << 39)
        # Without object map each object is asked for, by the comparison and by
        # the removal: these are as large as they may be.
        target = self.create(1 << 40, features=_PLAIN, order=25)
        with rbd.RBD(self.ioctx, target, writable=True) as there:
            result = transfer.Transfer(
                self.open(name), [there]).run()
        self.assertEqual(BLOCK, result.data)
        found = []
        with librbd.Image(self.ioctx, target) as image:
            image.diff_iterate(0, 1 << 40, None,
                               lambda *extent: found.append(extent))
        self.assertEqual(1, len(found))

    def test_stream_of_unknown_size(self):
        data = fakes.scattered(5 * OBJECT + 12345)
        name = self.create(0, features=_PLAIN)
        with rbd.RBD(self.ioctx, name, writable=True) as target:
            with stream.Sink(target, hashes=['sha256']) as sink:
                sink.write_from(data[at:at + 100000]
                                for at in range(0, len(data), 100000))
                sink.finish()
        self.assertEqual(data, self.plain(name))

    def test_close_with_requests_in_flight(self):
        name = self.create(64 * MB, features=_PLAIN)
        endpoint = rbd.RBD(self.ioctx, name, writable=True)
        answers = []
        for number in range(16):
            endpoint.write(number * OBJECT, b'x' * OBJECT, answers.append)
        endpoint.close()
        endpoint.close()
        for _ in range(300):
            if not endpoint.in_flight:
                break
            time.sleep(0.1)
        self.assertEqual([None] * 16, answers)


class TestPlainShapes(TestShapes):
    """Without object map."""

    features = _PLAIN

    def test_holes_stay_holes(self):
        self.skipTest('asking for every object of 1 TiB takes its time')


class TestDataPool(base.CephTestCase):
    """Clusters whose configuration puts data elsewhere."""

    def setUp(self):
        super().setUp()
        cluster = self.cluster('dcn0')
        conf = pathlib.Path(self.useFixture(
            fixtures.TempDir()).path) / 'ceph.conf'
        conf.write_text(
            '%s\n[client.admin]\nkeyring = %s\nrbd_default_data_pool = vms\n'
            'rbd_default_stripe_unit = 65536\nrbd_default_stripe_count = 4\n'
            % (cluster.conf.read_text(),
               cluster.directory / 'ceph.client.admin.keyring'))
        self.site = site.Site(clients.ClusterConfig(
            'dcn0', 'images', str(conf), 'admin', 10, 30), 22)

    def test_written_and_read(self):
        name, data = self.image_name(), fakes.scattered(3 * OBJECT + 5, .9)
        with self.site.open_pool() as ioctx:
            with self.site.begin(ioctx, name, len(data)) as target:
                self.addCleanup(self.remove, name)
                result = transfer.Transfer(memory.Memory(data=data),
                                           [target]).run()
                self.assertIsNone(result.outcomes[0].error)
                self.site.publish(target, None)
            with self.site.reading(ioctx, name) as source:
                self.assertEqual(1, source.image.stripe_count())
                self.assertEqual(data, b''.join(stream.Reader(source)))
                prefix = source.image.block_name_prefix()
            with self.cluster('dcn0').pool('vms', user='admin') as vms:
                self.assertEqual(4, sum(found.key.startswith(prefix)
                                        for found in vms.list_objects()))

    def remove(self, name):
        with self.cluster('dcn0').pool(user='admin') as ioctx:
            images.remove(ioctx, name, images.read_image_id(ioctx, name),
                          'snap')
