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

"""Other keys, other monitors, another database: while Glance is used.

The commands are those of the guide's page on upgrades.
"""

import json
import os
import threading
import time

import fixtures
import rados
import sqlalchemy

from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.sites import home as homes
from lab import ceph
from lab import glance
from lab import process
from tests.functional.api import base
from tests.functional.api import databases
from tests.functional.operate import base as operate


class Reader(fixtures.Fixture):
    """Reads an image again and again, until the end of the test.

    :ivar failures: what went wrong
    :ivar reads: how often it was read
    """

    def __init__(self, api, image, data):
        super().__init__()
        self._api, self._image, self._data = api, image, data
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.failures, self.reads = [], 0

    def _setUp(self):
        self._thread.start()
        self.addCleanup(self.end)

    def end(self):
        self._over.set()
        self._thread.join()

    def _read(self):
        while not self._over.is_set():
            try:
                if self._api.download(self._image) != self._data:
                    self.failures.append('other data')
            except Exception as exc:
                self.failures.append(repr(exc))
            self.reads += 1
            self._over.wait(.2)


class RotationCase(operate.CommandTestCase):
    """Clusters of the class's own, and a Glance that uses them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.conf = cls.make_folder() / 'ceph'
        cls.clusters = cls.start_clusters('central', 'dcn0', etc=cls.conf)
        cls.sites = cls.make_folder() / 'sites'
        cls.sites.mkdir(mode=0o755)
        cls.write_site_file('glance')
        cls.own = cls.use_for_class(base.OwnGlance(
            {'central': ('dcn', glance.rbd_store(cls.clusters['central']))},
            overrides={'glance_dcn': {'sites_dir': cls.sites}}))

    @classmethod
    def write_site_file(cls, user):
        new = cls.sites / '.dcn0.new'
        options = glance.rbd_store(cls.clusters['dcn0'], rbd_store_user=user)
        new.write_text('[dcn0]\n' + ''.join(
            '%s = %s\n' % item for item in options.items()))
        new.chmod(0o644)
        os.utime(new, (time.time() - 60,) * 2)
        new.rename(cls.sites / 'dcn0.conf')

    def setUp(self):
        super().setUp()
        self.api = self.use_own(self.own)
        process.wait_for('the store of the site file',
                         lambda: 'dcn0' in self.api.stores(), 30)
        self.data = base.random_data()
        self.image = self.uploaded(self.api, self.data, 'dcn0')

    def cluster(self, site):
        return self.clusters[site]

    def discard(self, api, image_id):
        api.request('DELETE', '/v2/images/%s' % image_id)

    def ceph(self, site, *argv):
        """Run ceph as an administrator of a site."""
        cluster = self.cluster(site)
        return process.run([
            'ceph', '--conf', cluster.conf, '--keyring',
            cluster.directory / 'ceph.client.admin.keyring', *argv])

    def connects(self, site, user):
        """Return whether a user can connect."""
        try:
            with self.cluster(site).connect(user, timeout=5):
                return True
        except rados.Error:
            return False

    def assertUsable(self, reader):
        """Writes go on, and no read has failed."""
        before = reader.reads
        made = self.uploaded(self.api, self.data, 'dcn0')
        self.assertSame(self.data, self.api.download(made))
        process.wait_for('reads', lambda: reader.reads > before + 2, 30)
        self.assertEqual([], reader.failures)


class KeysTest(RotationCase):
    """Keys of sites and of the deployment; each test leaves usable ones."""

    def test_key_of_a_site(self):
        """A second user takes over from the first one, without a gap."""
        reader = self.useFixture(Reader(self.api, self.image, self.data))
        keyring = self.conf / 'dcn0.client.glance-central-2.keyring'
        status, out, _seconds = self.run_command(
            self.own.worker.etc, 'site', 'key', 'dcn0', '--ceph-conf',
            self.cluster('dcn0').conf, '--keyring',
            self.cluster('dcn0').directory / 'ceph.client.admin.keyring',
            '--user', 'glance-central-2', '--pool', 'images', '--access',
            'read-write', '--output', keyring,
            env={'GLANCE_DCN_SITES': '/nonsense'})
        self.assertEqual(0, status, out)
        with self.cluster('dcn0').conf.open('a') as conf:
            conf.write('\n[client.glance-central-2]\nkeyring = %s\n'
                       % keyring)
        self.write_site_file('glance-central-2')
        self.addCleanup(self.write_site_file, 'glance')
        self.wait_logged('dcn0', 'rbd_store_user')
        self.assertUsable(reader)
        before = self.ceph('dcn0', 'auth', 'get', 'client.glance')
        saved = self.conf / 'saved.keyring'
        process.write_private(saved, before)
        self.addCleanup(self.ceph, 'dcn0', 'auth', 'import', '-i', saved)
        self.ceph('dcn0', 'auth', 'rm', 'client.glance')
        self.assertFalse(self.connects('dcn0', 'glance'))
        self.assertUsable(reader)

    def wait_logged(self, *words):
        process.wait_for('log: %s' % ' '.join(words), lambda: any(
            all(word in line for word in words)
            for line in self.own.log.splitlines()), 30)

    def test_key_of_the_same_user(self):
        """The key of the home, in place."""
        kept = self.uploaded(self.api, self.data, 'central')
        reader = self.useFixture(Reader(self.api, kept, self.data))
        cluster = self.cluster('central')
        keyring = cluster.keyring('glance')
        before = keyring.read_text()
        new = keyring.with_suffix('.new')
        process.run(['ceph-authtool', '--create-keyring', new, '--gen-key',
                     '-n', 'client.glance', '--cap', 'mon', 'profile rbd',
                     '--cap', 'osd', 'profile rbd pool=images'])
        self.ceph('central', 'auth', 'import', '-i', new)
        new.rename(keyring)
        self.assertNotEqual(before, keyring.read_text())
        self.assertTrue(self.connects('central', 'glance'))
        self.assertUsable(reader)
        # A process that connects with the new key alone.
        code, out, _seconds = self.run_command(
            self.own.worker.etc, 'site', 'show', 'central')
        self.assertEqual(0, code, out)

    def key(self):
        with self.cluster('central').pool() as ioctx:
            ioctx.set_namespace(homes.NAMESPACE)
            return omap.get(ioctx, 'deployment', 'key')

    def test_key_of_the_deployment(self):
        image = self.uploaded(self.api, self.data, 'dcn0')
        self.api.images.image_import(image, 'copy-image', stores=['central'])
        self.api.wait(image, 'central', 'dcn0')
        before = self.key()
        self.assertTrue(before)
        process.run(['rados', '--conf', self.cluster('central').conf, '--id',
                     'glance', '-p', 'images', '-N', 'glance-dcn', 'rm',
                     'deployment'])
        self.own.worker.stop()
        self.own.start()
        # What the old key has signed is read, and signed with the new one.
        self.api.images.delete_from_store('dcn0', image)
        self.api.wait(image, 'central')
        self.api.images.image_import(image, 'copy-image', stores=['dcn0'])
        self.api.wait(image, 'central', 'dcn0')
        after = self.key()
        self.assertNotIn(after, (before, None))
        with self.rbd_image('dcn0', image) as opened:
            self.assertTrue(records.is_authentic(
                records.load(opened), image, bytes.fromhex(after)))


class MonitorsTest(RotationCase):
    """The clusters are of no use afterwards."""

    def test_other_monitors(self):
        """One is added, all conf files name both, and the old one goes."""
        reader = self.useFixture(Reader(self.api, self.image, self.data))
        cluster = self.cluster('dcn0')
        added = self.add_monitor(cluster)
        conf = cluster.conf.read_text()
        old, = [line for line in conf.splitlines() if 'mon_host' in line]
        self.replace(cluster.conf, conf.replace(
            old, '%s,%s' % (old, added)))
        self.assertUsable(reader)
        self.ceph('dcn0', 'mon', 'remove', 'a')
        cluster.mon.stop()
        self.assertUsable(reader)
        self.replace(cluster.conf, conf.replace(old, 'mon_host = %s' % added))
        self.assertUsable(reader)
        code, out, _seconds = self.run_command(
            self.own.worker.etc, 'site', 'show', 'dcn0')
        # That process knows the new one alone.
        self.assertEqual(0, code, out)

    @staticmethod
    def replace(path, text):
        new = path.with_suffix('.new')
        new.write_text(text)
        new.rename(path)

    def add_monitor(self, cluster):
        """Add a second monitor to a cluster; return its address."""
        address = 'v2:%s:%d' % (cluster.address, process.free_port(
            address=cluster.address))
        data = cluster.directory / 'mon-b'
        monmap = cluster.directory / 'monmap-b'
        self.ceph('dcn0', 'mon', 'getmap', '-o', monmap)
        process.run(['ceph-mon', '--mkfs', '-i', 'b', '-c',
                     cluster.directory / 'ceph.conf', '--mon-data', data,
                     '--monmap', monmap, '--keyring',
                     cluster.directory / 'mon.keyring'])
        daemon = process.Daemon('ceph-mon-b', cluster.directory / 'run')
        daemon.start(['ceph-mon', '-f', '-i', 'b', '-c',
                      cluster.directory / 'ceph.conf', '--mon-data', data,
                      '--public-addrv', '[%s]' % address])
        self.addCleanup(daemon.stop)

        def joined():
            with cluster.connect() as client:
                return len(json.loads(ceph.command(client, {
                    'prefix': 'quorum_status'}))['quorum']) == 2
        process.wait_for('the second monitor', joined, 60)
        return address


class BackupTest(operate.CommandTestCase):
    """An older database is restored, and the pools are as they are."""

    def setUp(self):
        super().setUp()
        self.own = self.useFixture(base.OwnGlance(base.rbd_stores()))
        self.api = self.use_own(self.own)
        self.backup = self.useFixture(databases.Database(
            base.lab(), self.useFixture(fixtures.TempDir()).path))

    def copy_tables(self, source, target):
        """Make the tables of a database those of another one.

        It stands for the programs that back a database up and restore it.
        """
        engine = sqlalchemy.create_engine(self.own.database_url,
                                          poolclass=sqlalchemy.pool.NullPool)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text('SET foreign_key_checks = 0'))
            for table, in connection.execute(sqlalchemy.text(
                    'SHOW TABLES FROM %s' % source)).all():
                for statement in (
                        'DROP TABLE IF EXISTS {1}.{2}',
                        'CREATE TABLE {1}.{2} LIKE {0}.{2}',
                        'INSERT INTO {1}.{2} SELECT * FROM {0}.{2}'):
                    connection.execute(sqlalchemy.text(statement.format(
                        source, target, '`%s`' % table)))

    def test_older_database(self):
        data = base.random_data()
        kept, deleted = (self.uploaded(self.api, data, 'central', 'dcn0')
                         for _ in range(2))
        name, backup = (sqlalchemy.engine.make_url(url).database for url in (
            self.own.database_url, self.backup.url))
        self.copy_tables(name, backup)
        # After the backup: one is deleted, one made, and one copied.
        self.api.images.delete(deleted)
        made = self.uploaded(self.api, data, 'dcn1')
        self.api.images.image_import(kept, 'copy-image', stores=['dcn1'])
        self.api.wait(kept, *base.SITES)
        self.own.worker.stop()
        self.copy_tables(backup, name)
        etc = self.own.worker.etc
        for site in ('central', 'dcn0'):
            code, out, _seconds = self.run_command(
                etc, 'check', '--site', site, '--only', 'images')
            self.assertEqual((0, True), (code, deleted in out), out)
        code, out, _seconds = self.run_command(
            etc, 'status', '--all', '--format', 'json')
        shown = {image['id']: image['sites']
                 for image in self.json_of(out)['images']}
        self.assertEqual(1, code)
        self.assertEqual({
            kept: {'central': 'present', 'dcn0': 'present',
                   'dcn1': 'missing'},
            deleted: {'central': 'lost', 'dcn0': 'lost', 'dcn1': 'missing'}},
            shown)
        self.own.start()
        # What is there is adopted.
        self.api.images.image_import(kept, 'copy-image', stores=['dcn1'])
        self.api.wait(kept, *base.SITES)
        self.assertStored(kept, data, *base.SITES)
        # What is lost can be deleted.
        self.api.images.delete(deleted)
        # What Glance does not know stays, until it is taken in again.
        self.assertStored(made, data, 'dcn1')
        self.assertIn(made, self.cluster('dcn1').images())
        again = self.api.images.create(
            id=made, name='again', disk_format='raw', container_format='bare')
        self.addCleanup(self.discard, self.api, again['id'])
        answer = self.api.add_location(made, self.location('dcn1', made),
                                       store='dcn1')
        self.assertEqual(200, answer.status_code, answer.text)
        self.assertSame(data, self.api.download(made))
        code, out, _seconds = self.run_command(
            etc, 'check', '--only', 'images')
        self.assertEqual(0, code, out)
