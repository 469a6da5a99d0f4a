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

"""An image whose header whoever owns the cluster has written."""

import json
import pathlib

import fixtures
import rados
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.engine.backends import rbd as backend
from glance_dcn.engine import errors
from glance_dcn.engine import rbd_layout
from glance_dcn.engine import stream
from glance_dcn.sites import existing
from glance_dcn.sites import site
from lab import process
from tests.functional import base
from tests.functional.deploy import notifier

MIB = 1 << 20


class HeaderTestCase(base.CephTestCase):
    """An image of the test's own at dcn0, and another one."""

    def setUp(self):
        super().setUp()
        self.name, self.other = self.image_name(), self.image_name()
        pool = self.cluster('dcn0').pool('images')
        self.ioctx = pool.__enter__()
        self.addCleanup(pool.__exit__, None, None, None)


class MigratingTest(HeaderTestCase):
    """One that is being migrated: librbd would read from where that says."""

    def setUp(self):
        super().setUp()
        rbd.RBD().create(self.ioctx, self.other, 8 * MIB)
        rbd.RBD().migration_prepare(self.ioctx, self.other, self.ioctx,
                                    self.name)
        self.addCleanup(rbd.RBD().remove, self.ioctx, self.other)
        self.addCleanup(rbd.RBD().migration_abort, self.ioctx, self.name)

    def test_neither_read_nor_written(self):
        for writable in (False, True):
            error = self.assertRaises(
                errors.RequestError, backend.RBD, self.ioctx, self.name,
                writable=writable)
            self.assertIn('being migrated', str(error))

    def test_not_looked_into(self):
        # It ended the process, which divided by zero.
        self.assertRaises(rbd.InvalidArgument, images.inspect, self.ioctx,
                          self.name)
        self.assertRaises(rbd.InvalidArgument, existing.inspect, self.ioctx,
                          self.name)


class ChangedMeanwhileTest(HeaderTestCase):
    """The owner of a cluster changes the header of what is being written."""

    def setUp(self):
        super().setUp()
        self.writer = site.Site(clients.ClusterConfig(
            'dcn0', 'images', str(self.cluster('dcn0').conf), 'glance', 10,
            30), 22)

    def migration(self, path):
        """Return the record of a migration from a file."""
        rbd.RBD().migration_prepare_import(json.dumps({
            'type': 'raw', 'stream': {'type': 'file', 'file_path': str(path)},
        }), self.ioctx, self.other)
        self.addCleanup(rbd.RBD().migration_abort, self.ioctx, self.other)
        with rados.ReadOpCtx() as op:
            found, _code = self.ioctx.get_omap_vals_by_keys(
                op, ('migration',))
            self.ioctx.operate_read_op(
                op, 'rbd_header.' + images.read_image_id(
                    self.ioctx, self.other))
            return {**dict(found), 'features': (
                rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_MIGRATING
                ).to_bytes(8, 'little')}

    def change(self, image_id, values):
        with rados.WriteOpCtx() as op:
            self.ioctx.set_omap(op, tuple(values), tuple(values.values()))
            self.ioctx.operate_write_op(op, 'rbd_header.' + image_id)
        cluster = self.cluster('dcn0')
        teller = notifier.Notifier(cluster.conf, cluster.keyring('glance'),
                                   'client.glance')
        self.addCleanup(teller.close)
        self.assertEqual(0, teller.tell_of_header(image_id))

    def test_no_file_of_this_host_is_copied_there(self):
        secret = pathlib.Path(self.useFixture(
            fixtures.TempDir()).path) / 'glance-api.conf'
        secret.write_bytes(b'password = secret' + bytes(8 * MIB))
        migration = self.migration(secret)
        data, answers = b'x' * 65536, []
        with self.writer.open_pool() as ioctx, self.writer.begin(
                ioctx, self.name, 8 * MIB) as target:
            image_id = target.image.id()
            self.addCleanup(self.remove, image_id)
            self.change(image_id, migration)
            # The rest of that object is not written to.
            target.write(2 * MIB, data, answers.append)
            process.wait_for('the write', lambda: not target.in_flight, 30)
            target.call(rbd.Image.flush)
            self.assertEqual(
                bytes(2 * MIB) + data, self.ioctx.read(
                    'rbd_data.%s.%016x' % (image_id, 0), 4 * MIB))
            self.assertRaises(
                rbd_layout.Unsafe, self.writer.publish,
                target, records.Record(8 * MIB, 'digest'))
        self.assertEqual([None], answers)

    def test_nor_when_it_is_cut_to_size(self):
        secret = pathlib.Path(self.useFixture(
            fixtures.TempDir()).path) / 'glance-api.conf'
        secret.write_bytes(b'password = secret' * MIB)
        migration = self.migration(secret)
        size = 6 * MIB + 100
        with self.writer.open_pool() as ioctx, self.writer.begin(
                ioctx, self.name, 0) as target:
            image_id = target.image.id()
            self.addCleanup(self.remove, image_id)
            with stream.Sink(target) as sink:
                sink.write(b'x' * (4 * MIB))
                sink.write(bytes(size - 4 * MIB))
                self.change(image_id, migration)
                sink.finish()
            self.assertEqual(size, target.image.size())
            self.assertRaises(
                rbd_layout.Unsafe, self.writer.publish,
                target, records.Record(size, 'digest'))
        # It has zeros alone, and is not there.
        self.assertRaises(rados.ObjectNotFound, self.ioctx.stat,
                          'rbd_data.%s.%016x' % (image_id, 1))

    def test_features_that_are_enabled_meanwhile(self):
        # A map of the objects would not know what is written.
        with self.writer.open_pool() as ioctx, self.writer.begin(
                ioctx, self.name, MIB) as target:
            self.addCleanup(rbd.RBD().remove, self.ioctx, self.name)
            with rbd.Image(self.ioctx, self.name) as image:
                image.update_features(rbd.RBD_FEATURE_EXCLUSIVE_LOCK, True)
            error = self.assertRaises(
                rbd_layout.Unsafe, self.writer.publish,
                target, None)
            self.assertIn('features', str(error))

    def test_snapshot_that_is_made_meanwhile(self):
        # It would have what is written after it.
        with self.writer.open_pool() as ioctx, self.writer.begin(
                ioctx, self.name, MIB) as target:
            self.addCleanup(rbd.RBD().remove, self.ioctx, self.name)
            with rbd.Image(self.ioctx, self.name) as image:
                self.addCleanup(self.remove_snapshot)
                image.create_snap('backup')
            error = self.assertRaises(
                rbd_layout.Unsafe, self.writer.publish,
                target, None)
            self.assertIn('snapshots', str(error))

    def remove_snapshot(self):
        with rbd.Image(self.ioctx, self.name) as image:
            image.remove_snap('backup')

    def remove(self, image_id):
        """Remove what librbd cannot open."""
        for name in ('rbd_data.%s.%016x' % (image_id, 0),
                     'rbd_header.' + image_id, 'rbd_id.' + self.name):
            self.ioctx.remove_object(name)
        with rados.WriteOpCtx() as op:
            self.ioctx.remove_omap_keys(op, (
                'name_' + self.name, 'id_' + image_id))
            self.ioctx.operate_write_op(op, 'rbd_directory')
