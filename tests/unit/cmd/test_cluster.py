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


import json
import os
from unittest import mock

import fixtures

from glance_dcn.ceph import errors
from glance_dcn.ceph import users
from tests.unit.cmd import test_config
from tests.unit.deploy import base
from tests.unit.deploy import test_site_entry


class TestImport(test_config.CommandTestCase):

    def setUp(self):
        super().setUp()
        self.export = self.folder / 'export.yaml'
        self.export.write_text(test_site_entry._EXPORT)
        self.keys = self.folder / 'keys'

    def site_import(self, *argv):
        return self.run_command('site', 'import', *argv)

    def test_export_printed(self):
        self.assertEqual(0, self.site_import('--export', self.export))
        self.assertIn('- name: dcn5\n', self.out)
        self.assertIn('fsid: %s' % base.FSIDS[5], self.out)
        self.assertFalse(self.keys.exists())
        self.assertEqual(base.SITES, self.path.read_text())

    def test_export_added(self):
        self.assertEqual(0, self.site_import('--export', self.export,
                                             '--add'), self.err)
        text = self.path.read_text()
        self.assertTrue(text.startswith(base.SITES))
        cluster = self.load(text).site('dcn5').cluster
        self.assertEqual(('openstack', base.KEY), (
            cluster.user, cluster.key.read_key(cluster.user)))
        self.assertEqual(0o600, (
            self.keys / 'dcn5.client.openstack.keyring').stat().st_mode
            & 0o777)

    def test_export_keeps_what_the_user_of_the_stack_may_do(self):
        self.export.write_text(test_site_entry._EXPORT.replace(
            'pool=vms', 'pool=vms, profile rbd pool=vms, allow rwx pool '
            'cephfs_data, profile rbd pool=volumes.ssd'))
        self.assertEqual(0, self.site_import('--export', self.export,
                                             '--add'), self.err)
        cluster = self.load(self.path.read_text()).site('dcn5').cluster
        self.assertEqual(('vms', 'cephfs_data', 'volumes.ssd'),
                         cluster.extra_pools)
        self.useFixture(fixtures.MockPatchObject(
            users, 'make_key', return_value=(base.KEY, None)))
        self.assertEqual(0, self.run_command(
            'site', 'key', 'dcn5', '--ceph-conf', 'a.conf'), self.err)
        osd = users.make_key.call_args.args[6]['osd']
        for pool in ('vms', 'cephfs_data', 'volumes.ssd', 'images'):
            self.assertIn('profile rbd pool=%s' % pool, osd)

    def test_export_without_capabilities(self):
        self.export.write_text(''.join(
            line for line in test_site_entry._EXPORT.splitlines(keepends=True)
            if not any(word in line for word in (
                'caps:', 'mgr:', 'mon:', 'osd:'))).replace(
                    '      key: ', '    - key: ').replace(
                    '    - \n', ''))
        self.assertEqual(0, self.site_import('--export', self.export,
                                             '--add'), self.err)
        self.assertEqual((), self.load(
            self.path.read_text()).site('dcn5').cluster.extra_pools)

    def test_keys_of_guests(self):
        """What the guide says next makes and renders them."""
        self.assertEqual(0, self.site_import('--export', self.export,
                                             '--add'), self.err)
        self.assertIn('glance-dcn site key dcn5 --for central', self.out)
        deployment = self.load(self.path.read_text())
        site = deployment.site('dcn5')
        self.assertEqual(
            [('glance-dcn5', 'keys/central.client.glance-dcn5.keyring'),
             ('glance-central', 'keys/dcn5.client.glance-central.keyring')],
            [(login.user, os.path.relpath(login.key.file, self.folder))
             for login in (site.at_central, site.from_central)])
        self.useFixture(fixtures.MockPatchObject(
            users, 'make_key', mock.Mock(return_value=(base.KEY, None))))
        for cluster, guest in (('dcn5', 'central'), ('central', 'dcn5')):
            self.assertEqual(0, self.run_command(
                'site', 'key', cluster, '--for', guest, '--ceph-conf', 'x'),
                self.err)
        output = self.folder / 'output'
        self.assertEqual(0, self.run_command(
            'config', 'render', '--as', 'plain', '--site', 'dcn5', '--output',
            output), self.err)
        self.assertEqual(
            ['central.client.glance-dcn5.keyring',
             'dcn5.client.openstack.keyring'],
            sorted(path.name for path in output.rglob('*.keyring')))

    def test_central_has_no_guests(self):
        self.assertEqual(0, self.site_import('dcn5', '--export', self.export,
                                             '--central'))
        self.assertNotIn('at_central', self.out)

    def test_as_json(self):
        keyring = str(self.keys / 'dcn5.client.openstack.keyring')
        for argv, added in (((), False), (('--add',), True)):
            self.assertEqual(0, self.site_import(
                'dcn5', '--export', self.export, '--format', 'json', *argv))
            found = json.loads(self.out)
            self.assertEqual(
                (str(self.path), added, [keyring]),
                (found['sites_file'], found['added'], found['keyrings']))
            [site] = found['sites']
            self.assertEqual(
                ('dcn5', base.FSIDS[5], 'openstack', {'file': keyring}),
                (site['name'], *(site['cluster'][name] for name in
                                 ('fsid', 'user', 'key'))))
            self.assertEqual(added, self.keys.exists())
        self.assertIsNotNone(self.load(self.path.read_text()).site('dcn5'))

    def test_refused_writes_nothing(self):
        self.export.write_text(test_site_entry._EXPORT.replace(
            base.FSIDS[5], base.FSIDS[2]))
        self.assertEqual(2, self.site_import('--export', self.export,
                                             '--add'))
        self.assertIn('site dcn5 has pool images', self.err)
        self.assertFalse(self.keys.exists())
        self.assertEqual(base.SITES, self.path.read_text())

    def test_another_key_is_not_overwritten(self):
        self.keys.mkdir()
        path = self.write_secret('keys/dcn5.client.openstack.keyring',
                                 'another')
        self.assertEqual(2, self.site_import('--export', self.export,
                                             '--add'))
        self.assertIn('is there already, with another key', self.err)
        self.assertEqual('another', path.read_text())
        self.assertEqual(base.SITES, self.path.read_text())

    def test_one_of_an_export(self):
        self.assertEqual(2, self.site_import('dcn6', '--export',
                                             self.export))
        self.assertIn('has no cluster dcn6', self.err)
        self.assertEqual(0, self.site_import('dcn5', '--export',
                                             self.export))

    def describe(self, **found):
        found = dict({'fsid': base.FSIDS[6], 'mons': ['[v2:10.0.0.1:3300]'],
                      'pools': ['images', 'vms']}, **found)
        self.useFixture(fixtures.MockPatchObject(
            users, 'describe', mock.Mock(return_value=found)))

    def test_running_cluster(self):
        self.describe()
        self.assertEqual(0, self.site_import(
            'dcn6', '--ceph-conf', 'c.conf', '--keyring', '/k',
            '--user', 'glance', '--worker', 'http://10.9.0.1:9292',
            '--add'), self.err)
        users.describe.assert_called_once_with('dcn6', 'c.conf', 'glance',
                                               '/k')
        site = self.load(self.path.read_text()).site('dcn6')
        self.assertEqual(
            (base.FSIDS[6], '[v2:10.0.0.1:3300]', 'glance', '/k'),
            (site.cluster.fsid, site.cluster.mon_host, site.cluster.user,
             site.cluster.key.file))

    def test_pool_that_is_not_there(self):
        self.describe()
        self.assertEqual(2, self.site_import('dcn6', '--ceph-conf', 'c.conf',
                                             '--pool', 'image'))
        self.assertIn("no pool 'image'; it has: images, vms", self.err)

    def test_cluster_that_does_not_answer(self):
        self.useFixture(fixtures.MockPatchObject(
            users, 'describe', side_effect=errors.Unreachable(
                'dcn6', 'no answer', 'look')))
        self.assertEqual(3, self.site_import('dcn6', '--ceph-conf', 'c.conf'))
        self.assertIn('no answer; look', self.err)

    def test_wrong_arguments(self):
        for argv, reason in (
                ([], 'give either --ceph-conf'),
                (['--ceph-conf', 'a', '--export', 'b'], 'give either'),
                (['--ceph-conf', 'a'], 'how the site is called'),
                (['--export', 'not-there'], 'cannot be read')):
            self.assertEqual(2, self.site_import(*argv))
            self.assertIn(reason, self.err)


class TestKey(test_config.CommandTestCase):

    def setUp(self):
        super().setUp()
        self.make_key = self.useFixture(fixtures.MockPatchObject(
            users, 'make_key', return_value=(base.KEY, None))).mock

    def key(self, *argv):
        return self.run_command('site', 'key', *argv, '--ceph-conf', 'a.conf')

    def test_of_the_sites_file(self):
        keyring = self.folder / 'dcn0.keyring'
        keyring.unlink()
        self.assertEqual(0, self.key('dcn0', '--format', 'json'), self.err)
        self.make_key.assert_called_once_with(
            'dcn0', 'a.conf', 'admin', None, base.FSIDS[2], 'external',
            {'mgr': 'profile rbd', 'mon': 'profile rbd',
             'osd': 'profile rbd pool=images'}, False)
        self.assertEqual('[client.external]\n\tkey = %s\n' % base.KEY,
                         keyring.read_text())
        self.assertEqual(0o600, keyring.stat().st_mode & 0o777)
        self.assertEqual(('made', 'new'), tuple(
            json.loads(self.out)[name] for name in ('what', 'state')))

    def test_for_another_site(self):
        for cluster, guest, user, mon in (
                ('dcn0', 'central', 'glance-central', 'profile rbd'),
                ('central', 'dcn0', 'glance-dcn0',
                 'profile simple-rados-client')):
            self.make_key.reset_mock()
            self.assertEqual(0, self.key(cluster, '--for', guest), self.err)
            arguments = self.make_key.call_args.args
            self.assertEqual((cluster, user, mon), (
                arguments[0], arguments[5], arguments[6]['mon']))
            self.assertIn("namespace=''", arguments[6]['osd'])
            self.assertNotIn('mgr', arguments[6])
            # The keys of others in it stay.
            found = (self.folder / 'guests.keyring').read_text()
            for name in (user, 'glance-far'):
                self.assertIn('[client.%s]\n\tkey = %s\n'
                              % (name, base.KEY), found)

    def test_of_one_access(self):
        target = self.folder / 'x.keyring'
        self.assertEqual(0, self.key(
            'dcn9', '--user', 'x', '--pool', 'a', '--access', 'read-only',
            '--output', target), self.err)
        self.assertIn('for pools a, read-only;', self.out)
        self.assertEqual("allow r class-read pool=a namespace=''",
                         self.make_key.call_args.args[6]['osd'])

    def test_without_one(self):
        self.path.unlink()
        target = self.folder / 'x.keyring'
        self.assertEqual(0, self.key(
            'dcn9', '--user', 'glance', '--pool', 'a', '--pool', 'b',
            '--output', target, '--replace-caps'), self.err)
        self.assertEqual(
            (None, 'glance', 'profile rbd pool=a, profile rbd pool=b', True),
            (*self.make_key.call_args.args[4:6],
             self.make_key.call_args.args[6]['osd'],
             self.make_key.call_args.args[7]))
        self.assertIn(base.KEY, target.read_text())

    def test_refused(self):
        self.make_key.side_effect = errors.Misconfigured(
            'dcn0', 'client.external is there already', 'name another')
        before = (self.folder / 'dcn0.keyring').read_text()
        self.assertEqual(2, self.key('dcn0'))
        self.assertIn('is there already; name another', self.err)
        self.assertEqual(before, (self.folder / 'dcn0.keyring').read_text())

    def test_wrong_arguments(self):
        self.path.write_text(base.SITES.replace('{file: dcn1.keyring}',
                                                '{env: X}'))
        for argv, reason in (
                (['dcn9'], "no site 'dcn9'"), (['far'], 'has no cluster'),
                (['dcn1'], 'name one with --output'),
                (['dcn0', '--for', 'dcn1'], 'the Glance of site dcn1 has no '
                 'store of dcn0'),
                (['dcn0', '--for', 'dcn9'], "no site 'dcn9'"),
                (['dcn0', '--access', 'owner'], 'are all needed'),
                (['dcn0', '--user', 'x'], 'are all needed')):
            self.assertEqual(2, self.key(*argv))
            self.assertIn(reason, self.err)
            self.make_key.assert_not_called()
