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

"""What users that glance-dcn makes can do at real clusters, and cannot."""

import contextlib
import json
import pathlib
import uuid

import fixtures
import rados
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import records
from glance_dcn.ceph import trial
from glance_dcn.sites import home
from glance_dcn.sites import site
from lab import ceph
from tests.functional import base
from tests.functional.deploy import commands
from tests.functional.deploy import notifier

_SITES = """\
sites:
- name: central
  central: true
  cluster: {conf: %(central)s}
- name: dcn0
  edge_access: %(access)s
  cluster: {conf: %(dcn0)s, user: %(user)s, key: {file: own}}
  at_central: {user: %(user)s-a, key: {file: at_central}}
  from_central: {user: %(user)s-b, key: {file: from_central}}
"""
_DENIED = 1


class RightsTest(base.CephTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.user = 'test-%s' % uuid.uuid4().hex[:8]
        self.image = 'test-%s' % uuid.uuid4().hex
        self.write_sites()

    def write_sites(self, access='read-only'):
        (self.folder / 'sites.yaml').write_text(_SITES % {
            'central': self.cluster('central').conf, 'access': access,
            'dcn0': self.cluster('dcn0').conf, 'user': self.user})

    def make_key(self, site, *argv):
        """Make a user as an operator does, and return its keyring."""
        cluster = self.cluster(site)
        status, out, err = commands.glance_dcn(
            self.folder / 'sites.yaml', 'site', 'key', site, '--format',
            'json', '--ceph-conf', str(cluster.conf), '--keyring',
            str(cluster.directory / 'ceph.client.admin.keyring'), *argv)
        self.assertEqual(0, status, err)
        found = json.loads(out)
        self.addCleanup(self.remove_user, cluster, found['user'])
        return found['user'], found['keyring']

    def remove_user(self, cluster, user):
        with cluster.connect() as client, contextlib.suppress(Exception):
            ceph.command(client, {'prefix': 'auth rm',
                                  'entity': 'client.' + user})

    @contextlib.contextmanager
    def connected(self, site, *argv):
        """Connect as a user that is made, and open the pool."""
        user, keyring = self.make_key(site, *argv)
        client = rados.Rados(
            conffile=str(self.cluster(site).conf), rados_id=user,
            conf={'keyring': str(keyring), 'client_mount_timeout': '20'})
        client.connect()
        try:
            with client.open_ioctx('images') as ioctx:
                yield client, ioctx
        finally:
            client.shutdown()

    def make_image(self, site):
        """Make a published image with 4 KiB of data."""
        with self.cluster(site).pool(user='glance') as ioctx:
            rbd.RBD().create(ioctx, self.image, 1 << 20, old_format=False,
                             features=rbd.RBD_FEATURE_LAYERING
                             | rbd.RBD_FEATURE_EXCLUSIVE_LOCK)
            self.addCleanup(self.remove_image, site)
            with rbd.Image(ioctx, self.image) as image:
                image.write(b'x' * 4096, 0)
                image.create_snap('snap')
                image.protect_snap('snap')
                return 'rbd_header.' + image.id()

    def remove_image(self, site):
        with self.cluster(site).pool(user='glance') as ioctx:
            with rbd.Image(ioctx, self.image) as image:
                image.unprotect_snap('snap')
                image.remove_snap('snap')
            rbd.RBD().remove(ioctx, self.image)

    def write(self, ioctx):
        with rbd.Image(ioctx, self.image) as image:
            image.write(b'y', 0)

    def snapshot(self, ioctx):
        with rbd.Image(ioctx, self.image) as image:
            image.create_snap('other')

    def lock(self, ioctx):
        with rbd.Image(ioctx, self.image) as image:
            image.lock_exclusive('cookie')

    def name_lock(self, ioctx):
        with name_lock.hold(None, ioctx, self.image):
            pass

    def assertDenied(self, function, *args):
        """The cluster denies something for lack of rights."""
        exc = self.assertRaises(
            (rados.Error, rbd.Error, name_lock.NameLockError), function,
            *args)
        self.assertEqual(_DENIED, abs(exc.errno), exc)

    def assertReads(self, ioctx):
        """Images can be listed and read, by librbd and as probes do."""
        self.assertIn(self.image, rbd.RBD().list(ioctx))
        with rbd.Image(ioctx, self.image, read_only=True) as image:
            self.assertEqual(['snap'], [snap['name']
                                        for snap in image.list_snaps()])
            image.set_snap('snap')
            self.assertEqual(b'x' * 4096 + b'\0',
                             image.read(0, 4097))
        list(rbd.RBD().trash_list(ioctx))
        clients.ask_osds(ioctx)

    def assertNoRecords(self, client, site):
        """The records of a site can be neither read nor written."""
        with self.cluster(site).pool(user='glance') as ioctx:
            ioctx.set_namespace(home.NAMESPACE)
            ioctx.write_full(self.image, b'secret')
            self.addCleanup(self.remove_record, site)
        with client.open_ioctx('images') as ioctx:
            ioctx.set_namespace(home.NAMESPACE)
            self.assertDenied(ioctx.read, self.image)
            self.assertDenied(ioctx.stat, self.image)
            self.assertDenied(ioctx.write_full, self.image, b'forged')
            self.assertDenied(ioctx.remove_object, self.image)
            self.assertDenied(ioctx.lock_exclusive, self.image, 'l', 'c')
            self.assertEqual([], list(ioctx.list_objects()))
            self.assertFalse(trial.may_read(ioctx))
            self.assertFalse(trial.may_write(ioctx))

    def remove_record(self, site):
        with self.cluster(site).pool(user='glance') as ioctx:
            ioctx.set_namespace(home.NAMESPACE)
            ioctx.remove_object(self.image)

    def test_an_edge_at_central(self):
        header = self.make_image('central')
        with self.connected('central', '--for', 'dcn0') as (client, ioctx):
            self.assertReads(ioctx)
            self.assertNoRecords(client, 'central')
            self.assertDenied(rbd.RBD().create, ioctx, 'other', 1 << 20)
            self.assertDenied(rbd.RBD().remove, ioctx, self.image)
            self.assertDenied(rbd.RBD().trash_move, ioctx, self.image)
            for function in (self.write, self.snapshot, self.lock,
                             self.name_lock):
                self.assertDenied(function, ioctx)
            self.assertDenied(ioctx.write_full, 'anything', b'1')
            self.assertDenied(ioctx.remove_object, header)
            # By which an image knows its clones.
            for method in ('child_attach', 'child_detach', 'metadata_set'):
                self.assertDenied(ioctx.execute, header, 'rbd', method, b'')
            self.assertDenied(ioctx.watch, header, lambda *unused: None)
            self.assertFalse(trial.may_write(ioctx))
            self.assertFalse(trial.may_blocklist(client))
            self.assertRaises(rados.Error, client.blocklist_add,
                              '192.0.2.1:0/1', 1)
            self.assertDenied(self.clone, client, ioctx)

    def clone(self, client, ioctx):
        with client.open_ioctx('vms') as target:
            rbd.RBD().clone(ioctx, self.image, 'snap', target, self.image)

    def test_reader_has_no_hand_in_what_is_written(self):
        # Whoever may read may notify, and librbd does what it is asked for as
        # the holder of an exclusive lock: data that was written would be gone.
        user, keyring = self.make_key('central', '--for', 'dcn0')
        central = self.cluster('central')
        reader = notifier.Notifier(central.conf, keyring, 'client.' + user)
        self.addCleanup(reader.close)
        writer = site.Site(clients.ClusterConfig(
            'central', 'images', str(central.conf), 'glance', 10, 30), 22)
        size = 16 << 20
        with writer.open_pool() as ioctx:
            self.addCleanup(self.remove_image, 'central')
            with writer.begin(ioctx, self.image, size) as target:
                target.image.write(b'x' * size, 0)
                target.image.flush()
                for asked in (0, size):
                    reader.ask_for_size(target.image.id(), asked)
                writer.publish(target, records.Record(size, 'digest'))
            with writer.reading(ioctx, self.image) as source:
                self.assertEqual(b'x' * size, source.image.read(0, size))

    def test_an_edge_at_central_that_may_write(self):
        self.write_sites('read-write')
        self.make_image('central')
        with self.connected('central', '--for', 'dcn0') as (client, ioctx):
            self.assertReads(ioctx)
            self.write(ioctx)
            self.name_lock(ioctx)
            self.assertTrue(trial.may_write(ioctx))
            self.assertTrue(trial.may_blocklist(client))
            self.assertNoRecords(client, 'central')

    def test_central_at_an_edge(self):
        self.make_image('dcn0')
        with self.connected('dcn0', '--for', 'central') as (client, ioctx):
            self.assertReads(ioctx)
            self.write(ioctx)
            self.name_lock(ioctx)
            self.assertNoRecords(client, 'dcn0')
            # For those who die while they write.
            client.blocklist_add('192.0.2.1:0/1', 1)

    def test_the_own_glance(self):
        with self.connected('dcn0') as (client, ioctx):
            ioctx.set_namespace(home.NAMESPACE)
            ioctx.write_full(self.image, b'record')
            self.assertEqual(b'record', ioctx.read(self.image))
            ioctx.remove_object(self.image)

    def test_narrowed_by_the_command(self):
        self.write_sites('read-write')
        with self.connected('central', '--for', 'dcn0') as (_client, ioctx):
            self.assertTrue(trial.may_write(ioctx))
        self.write_sites('read-only')
        with self.connected('central', '--for', 'dcn0', '--replace-caps') as (
                _client, ioctx):
            self.assertFalse(trial.may_write(ioctx))

    def test_asking_changes_nothing(self):
        with self.cluster('dcn0').connect('glance') as client, \
                client.open_ioctx('images') as ioctx:
            before = {item.key for item in ioctx.list_objects()}
            self.assertTrue(trial.may_write(ioctx))
            self.assertTrue(trial.may_read(ioctx))
            self.assertTrue(trial.may_blocklist(client))
            self.assertEqual([], [
                item.key for item in ioctx.list_objects()
                if 'permission' in item.key and item.key not in before])
