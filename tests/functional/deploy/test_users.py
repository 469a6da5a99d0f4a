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


"""Sites for a sites file, out of running clusters, and keys for Glance."""

import contextlib
import json
import pathlib
import re
import uuid

import fixtures
import rados
import rbd

from glance_dcn.deploy import load
from lab import ceph
from tests.functional import base
from tests.functional.deploy import commands

# In which Ceph writes keys.
_KEY = re.compile(r'AQ[A-Za-z0-9+/]{36}==')


class UsersTest(base.CephTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = self.folder / 'sites.yaml'
        self.user = 'test-%s' % uuid.uuid4().hex[:8]
        self.dcn0 = self.cluster('dcn0')
        self.addCleanup(self._remove_user)

    def _remove_user(self):
        with self.dcn0.connect() as client:
            ceph.command(client, {'prefix': 'auth del',
                                  'entity': 'client.' + self.user})

    def run_command(self, *argv, status=0):
        """Run glance-dcn, which shows no key, and return what it says."""
        found, out, err = commands.glance_dcn(self.path, *map(str, argv))
        self.assertEqual(status, found, out + err)
        self.assertNotRegex(out + err, _KEY)
        return out + err

    def make_key(self, *argv, status=0):
        return self.run_command(
            'site', 'key', 'dcn0', '--ceph-conf', self.dcn0.conf,
            '--keyring', self.dcn0.directory / 'ceph.client.admin.keyring',
            *argv, status=status)

    def write_sites(self, fsid=None, pool='images'):
        self.path.write_text(
            'sites:\n'
            '- name: dcn0\n'
            '  central: true\n'
            '  pool: %s\n'
            '  cluster:\n'
            '    fsid: %s\n'
            '    mons: [10.0.0.1]\n'
            '    user: %s\n'
            '    key: {file: keys/dcn0.keyring}\n'
            % (pool, fsid or self.dcn0.fsid, self.user))
        return self.folder / 'keys' / 'dcn0.keyring'

    @contextlib.contextmanager
    def pool(self, name, keyring):
        """Open a pool as the user that was made."""
        client = rados.Rados(
            conffile=str(self.dcn0.conf), rados_id=self.user,
            conf={'keyring': str(keyring), 'client_mount_timeout': '10'})
        client.connect()
        try:
            with client.open_ioctx(name) as ioctx:
                yield ioctx
        finally:
            client.shutdown()

    def test_import_of_a_running_cluster(self):
        keyring = self.dcn0.keyring('glance')
        self.run_command(
            'site', 'import', 'dcn0', '--ceph-conf', self.dcn0.conf,
            '--keyring', keyring, '--central', '--add')
        site = load.load(self.path).central
        self.assertEqual((self.dcn0.fsid, 'glance', 'images'),
                         (site.cluster.fsid, site.cluster.user, site.pool))
        self.assertEqual(str(keyring), site.cluster.key.file)
        self.assertIn(self.dcn0.address, site.cluster.mon_host)
        # Whom the entry names answers.
        conf = self.folder / 'dcn0.conf'
        conf.write_text('[global]\nmon_host = %s\n' % site.cluster.mon_host)
        self.assertIn('name: again', self.run_command(
            'site', 'import', 'again', '--ceph-conf', conf,
            '--keyring', keyring))

    def test_import_with_a_wrong_key(self):
        keyring = self.folder / 'wrong.keyring'
        keyring.write_text(
            '[client.glance]\n\tkey = '
            'AQD29WteAAAAABAAphgOjFD7nyjdYe8Lz0mQ5Q==\n')
        keyring.chmod(0o600)
        text = self.run_command(
            'site', 'import', 'dcn0', '--ceph-conf', self.dcn0.conf,
            '--keyring', keyring, '--add', status=2)
        self.assertIn('cannot connect as client.glance', text)
        self.assertFalse(self.path.exists())

    def test_import_from_a_pool_that_is_not_there(self):
        text = self.run_command(
            'site', 'import', 'dcn0', '--ceph-conf', self.dcn0.conf,
            '--keyring', self.dcn0.keyring('glance'), '--pool', 'imags',
            status=2)
        self.assertIn('no pool', text)

    def test_key_is_good_for_what_glance_does(self):
        keyring = self.write_sites()
        self.assertIn('client.%s is made' % self.user, self.make_key())
        self.assertEqual(0o600, keyring.stat().st_mode & 0o777)
        name = self.image_name()
        with self.pool('images', keyring) as ioctx:
            rbd.RBD().create(ioctx, name, 1 << 20)
            with rbd.Image(ioctx, name) as image:
                image.write(b'data', 0)
                image.create_snap('snap')
                image.protect_snap('snap')
                image.unprotect_snap('snap')
                image.remove_snap('snap')
            rbd.RBD().trash_move(ioctx, name)
            [entry] = [entry for entry in rbd.RBD().trash_list(ioctx)
                       if entry['name'] == name]
            rbd.RBD().trash_remove(ioctx, entry['id'])
            # Records and locks of ours.
            ioctx.write_full(name, b'record')
            ioctx.lock_exclusive(name, 'lock', 'cookie', duration=10)
            ioctx.unlock(name, 'lock', 'cookie')
            ioctx.remove_object(name)
        with self.pool('vms', keyring) as ioctx:
            self.assertRaises(rados.Error, ioctx.write_full, name, b'no')

    def test_key_stays_the_same(self):
        keyring = self.write_sites()
        self.make_key()
        before = keyring.read_text()
        self.assertIn('is there', self.make_key())
        self.assertEqual(before, keyring.read_text())

    def test_capabilities_of_others_are_left_alone(self):
        keyring = self.write_sites()
        self.make_key()
        before = keyring.read_text()
        self.write_sites(pool='volumes')
        text = self.make_key(status=2)
        self.assertIn('is there already, with the capabilities', text)
        with self.pool('images', keyring) as ioctx:
            ioctx.write_full(self.user, b'still')
            ioctx.remove_object(self.user)
        self.assertIn('given other capabilities',
                      self.make_key('--replace-caps'))
        self.assertEqual(before, keyring.read_text())
        with self.pool('volumes', keyring) as ioctx:
            ioctx.write_full(self.user, b'now')
            ioctx.remove_object(self.user)

    def test_administrators_keep_their_capabilities(self):
        # Nobody might be left who could give them back.
        chief = 'chief-%s' % self.user
        with self.dcn0.connect() as client:
            caps = {'mon': 'allow *', 'osd': 'allow *'}
            ceph.command(client, {
                'prefix': 'auth get-or-create', 'entity': 'client.' + chief,
                'caps': [part for item in caps.items() for part in item]})
            self.addCleanup(self.remove, chief)
            for user in ('admin', chief):
                before = self.caps(client, user)
                text = self.run_command(
                    'site', 'key', 'dcn0', '--ceph-conf', self.dcn0.conf,
                    '--keyring', self.dcn0.directory
                    / 'ceph.client.admin.keyring', '--user', user, '--pool',
                    'images', '--output', self.folder / 'out',
                    '--replace-caps', status=2)
                self.assertIn('client.%s administers' % user, text)
                self.assertEqual(before, self.caps(client, user))
        self.assertFalse((self.folder / 'out').exists())

    def caps(self, client, user):
        return json.loads(ceph.command(client, {
            'prefix': 'auth get', 'entity': 'client.' + user,
            'format': 'json'}))[0]['caps']

    def remove(self, user):
        with self.dcn0.connect() as client:
            ceph.command(client, {'prefix': 'auth rm',
                                  'entity': 'client.' + user})

    def test_wrong_cluster(self):
        keyring = self.write_sites(fsid=self.cluster('dcn1').fsid)
        self.assertIn('has fsid %s, but the sites file says'
                      % self.dcn0.fsid, self.make_key(status=2))
        self.assertFalse(keyring.exists())

    def test_user_that_may_not_make_others(self):
        keyring = self.write_sites()
        text = self.run_command(
            'site', 'key', 'dcn0', '--ceph-conf', self.dcn0.conf,
            '--admin', 'glance', status=2)
        self.assertIn('the monitors refuse', text)
        self.assertFalse(keyring.exists())
