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


import textwrap

import yaml

from glance_dcn.deploy import sitesfile
from glance_dcn.deploy import tripleo
from tests.unit.deploy import base
from tests.unit.deploy import loading


class TripleoTestCase(base.SitesFileTestCase):

    def rendered(self, site, text=base.SITES):
        """Return the parameters of each file of a site's stack."""
        found = self.load(text)
        [rendering] = tripleo.render(found, found.site(site))
        self.notes = rendering.notes
        self.modes = {file.path: file.mode for file in rendering.files}
        return {file.path: yaml.safe_load(file.text)['parameter_defaults']
                for file in rendering.files}


class TestCentral(TripleoTestCase):

    def test_glance(self):
        found = self.rendered('central')['glance.yaml']
        self.assertEqual(True, found['GlanceShowMultipleLocations'])
        self.assertEqual('glance-direct,web-download,copy-image',
                         found['GlanceEnabledImportMethods'])
        self.assertEqual(['dcn_distributed_staging', 'dcn_image_conversion'],
                         found['GlanceImageImportPlugins'])
        self.assertEqual(('rbd', 'central', 'central'), (
            found['GlanceBackend'], found['GlanceBackendID'],
            found['CephClusterName']))
        # The stack's own user is Nova's and Cinder's too.
        self.assertNotIn('CephClientUserName', found)
        self.assertEqual({store: {
            'GlanceBackend': 'rbd',
            'GlanceStoreDescription': '%s RBD store' % store,
            'GlanceRbdPoolName': 'images',
            'CephClientUserName': 'glance-central',
            'CephClusterName': store} for store in ('dcn0', 'dcn1')},
            found['GlanceMultistoreConfig'])

    def test_location_quota(self):
        def options(text):
            return self.rendered('central', text)['glance.yaml'][
                'ExtraConfig']['glance::config::image_import_config']
        self.assertNotIn('DEFAULT/image_location_quota', options(base.SITES))
        self.assertEqual({'value': '100'}, options(self.many(40))[
            'DEFAULT/image_location_quota'])

    def test_clusters(self):
        found = self.rendered('central')['ceph_external.yaml'][
            'CephExternalMultiConfig']
        self.assertEqual(
            [('dcn0', base.FSIDS[2], '172.16.11.61'),
             ('dcn1', base.FSIDS[3], '172.16.11.182')],
            [(item['cluster'], item['fsid'],
              item['external_cluster_mon_ips']) for item in found])
        self.assertEqual({
            'cluster': 'dcn0', 'fsid': base.FSIDS[2],
            'external_cluster_mon_ips': '172.16.11.61',
            'keys': [{'name': 'client.glance-central',
                      'caps': {'mon': 'profile rbd', 'osd':
                               "profile rbd pool=images namespace=''"},
                      'key': base.KEY, 'mode': '0600'}],
            'dashboard_enabled': False,
            'ceph_conf_overrides': {'client': {
                'keyring': '/etc/ceph/dcn0.client.glance-central.keyring'}},
        }, found[0])

    def keys(self, site, text=base.SITES):
        """Return names and capabilities of the users a stack makes."""
        found = self.rendered(site, text)['ceph_keys.yaml']['CephExtraKeys']
        self.assertEqual({(base.KEY, '0600')}, {
            (item['key'], item['mode']) for item in found})
        return {item['name']: item['caps'] for item in found}

    def test_keys_for_edges(self):
        self.assertEqual({'client.glance-%s' % site: {
            'mon': 'profile simple-rados-client',
            'osd': "allow r class-read pool=images namespace=''"}
            for site in ('dcn0', 'dcn1', 'far')}, self.keys('central'))

    def test_keys_for_central(self):
        self.assertEqual({'client.glance-central': {
            'mon': 'profile rbd',
            'osd': "profile rbd pool=images namespace=''"}},
            self.keys('dcn0'))

    def test_edges_that_may_write(self):
        text = 'edge_access: read-write\n' + base.SITES.replace(
            '- name: dcn1\n', '- name: dcn1\n  edge_access: read-only\n')
        found = self.keys('central', text)
        wide = {'mon': 'profile rbd',
                'osd': "profile rbd pool=images namespace=''"}
        self.assertEqual(wide, found['client.glance-dcn0'])
        self.assertEqual('profile simple-rados-client',
                         found['client.glance-dcn1']['mon'])
        # What has its records at central has all of the pool.
        self.assertEqual('profile rbd pool=images',
                         found['client.glance-far']['osd'])

    def test_edges_with_one_user(self):
        text = 'edge_access: read-write\n' + base.SITES.replace(
            'at_central: {key: {file: guests.keyring}}',
            'at_central: {user: shared, key: {file: shared}}').replace(
                '- name: far\n', '- name: far\n  edge_access: read-only\n'
            ).replace('user: shared, key: {file: shared}}\n'
                      "  workers: ['http://10.3",
                      'key: {file: guests.keyring}}\n'
                      "  workers: ['http://10.3")
        self.write_secret('shared', base.KEY)
        self.assertEqual({'client.shared', 'client.glance-far'},
                         set(self.keys('central', text)))

    def test_never_the_own_user_of_a_stack(self):
        # Its capabilities are Nova's and Cinder's too, and TripleO's.
        for text, line in (
                (base.SITES.replace('from_central: {key',
                                    'from_central: {user: external, key'), 20),
                (base.SITES.replace('at_central: {key',
                                    'at_central: {user: external, key'), 19)):
            exc = self.assertRaises(sitesfile.Mistake, self.rendered, 'dcn0',
                                    text)
            self.assertEqual(line, exc.line)
        for site in ('central', 'dcn0', 'dcn1'):
            self.assertNotIn('client.external', self.keys(site))

    def test_modes(self):
        self.rendered('central')
        self.assertEqual({'glance.yaml': 0o644, 'ceph_external.yaml': 0o600,
                          'ceph_keys.yaml': 0o600}, self.modes)

    def test_secrets_of_glance_are_left_out_and_said(self):
        texts = str(self.rendered('central'))
        self.assertNotIn('pa$', texts)
        self.assertIn('[database] is left to the parameters', self.notes[0])


class TestEdge(TripleoTestCase):

    def test_glance(self):
        found = self.rendered('dcn1')['glance.yaml']
        self.assertEqual(('dcn1', 'dcn1', ['central']), (
            found['GlanceBackendID'], found['CephClusterName'],
            list(found['GlanceMultistoreConfig'])))
        self.assertEqual('central', found['GlanceMultistoreConfig'][
            'central']['CephClusterName'])

    def test_only_central_is_foreign(self):
        found = self.rendered('dcn1')['ceph_external.yaml']
        self.assertEqual(['central'], [
            item['cluster'] for item in found['CephExternalMultiConfig']])

    def test_without_a_cluster(self):
        found = self.rendered('far')
        self.assertNotIn('ceph_keys.yaml', found)
        glance = found['glance.yaml']
        self.assertEqual(
            ('central', 'central', 'glance-far', True, 10 << 30, {}),
            (glance['GlanceBackendID'], glance['CephClusterName'],
             glance['CephClientUserName'], glance['GlanceCacheEnabled'],
             glance['GlanceImageCacheMaxSize'],
             glance['GlanceMultistoreConfig']))


class TestType(TripleoTestCase):

    def conf(self, site, text=base.SITES):
        """Return the configuration as TripleO's puppet would write it."""
        glance = self.rendered(site, text)['glance.yaml']
        stores = {glance['GlanceBackendID']: 'rbd', **{
            name: store['GlanceBackend']
            for name, store in glance['GlanceMultistoreConfig'].items()}}
        api = self.folder / 'glance-api.conf'
        api.write_text(textwrap.dedent('''\
            [DEFAULT]
            enabled_backends = %s
            [glance_store]
            default_backend = %s
            ''') % (','.join('%s:%s' % item for item in stores.items()),
                    glance['GlanceBackendID']))
        last = self.folder / 'glance-image-import.conf'
        last.write_text(''.join(
            '[%s]\n%s = %s\n' % (*name.split('/'), option['value'])
            for name, option in glance['ExtraConfig'][
                'glance::config::image_import_config'].items()))
        return loading.conf_of(api, last)

    def test_stores_are_of_ours(self):
        conf = self.conf('central')
        self.assertEqual({'central': 'dcn', 'dcn0': 'dcn', 'dcn1': 'dcn'},
                         {name: kind for name, kind
                          in conf.enabled_backends.items()
                          if name not in loading.RESERVED})
        self.assertEqual((5, 4, 50.0), (conf.dcn0.rados_connect_timeout,
                                        conf.dcn0.dcn_max_transfers,
                                        conf.dcn0.dcn_bandwidth_limit))
        self.assertEqual(
            '/var/lib/glance/os_glance_staging_store',
            conf.os_glance_staging_store.filesystem_store_datadir)

    def test_hiera_takes_nothing_for_its_own(self):
        found = self.rendered('dcn0', base.SITES.replace(
            '- name: dcn0', '- name: dcn0\n  description: a %{b} c'))
        self.assertEqual("a %{literal('%')}{b} c",
                         found['glance.yaml']['GlanceStoreDescription'])

    def test_what_puppet_declares_itself_is_not_declared_again(self):
        glance = self.rendered('dcn0', base.SITES.replace(
            'glance:\n', 'glance:\n'
            '  image_conversion: {output_format: qcow2}\n'
            '  inject_metadata_properties:\n'
            '    inject: "a:b,c:d"\n'
            '    ignore_user_roles: admin\n', 1))['glance.yaml']
        self.assertEqual(('qcow2', 'a:b,c:d', 'admin'), (
            glance['GlanceImageConversionOutputFormat'],
            glance['GlanceInjectMetadataProperties'],
            glance['GlanceIgnoreUserRoles']))
        self.assertEqual([], [name for name in glance['ExtraConfig'][
            'glance::config::image_import_config'] if name.startswith(
                ('image_conversion/', 'inject_metadata_properties/'))])

    def test_oslo_config_takes_nothing_for_its_own(self):
        text = base.SITES.replace(
            '- name: dcn0', '- name: dcn0\n  description: worth $9')
        self.assertEqual(
            'worth $$9', self.rendered('dcn0', text)['glance.yaml'][
                'GlanceStoreDescription'])
        self.assertEqual(
            'worth $$9', self.rendered('central', text)['glance.yaml'][
                'GlanceMultistoreConfig']['dcn0']['GlanceStoreDescription'])


class TestMistakes(TripleoTestCase):

    def assertMistake(self, site, line, reason, text):
        exc = self.assertRaises(sitesfile.Mistake, self.rendered, site, text)
        self.assertEqual(line, exc.line)
        self.assertIn(reason, exc.reason)

    def test_name_of_a_cluster(self):
        text = base.SITES.replace('name: dcn1', 'name: dcn-1')
        self.assertMistake('central', 29, 'letters and digits only', text)
        self.assertMistake('dcn-1', 25, 'letters and digits only', text)
        self.rendered('dcn0', text)
        self.rendered('central', text.replace(
            '  cluster:\n    fsid: %s' % base.FSIDS[3],
            '  cluster:\n    name: dcn1\n    fsid: %s' % base.FSIDS[3]))

    def test_no_key(self):
        self.assertMistake(
            'central', 20, 'client.glance-central needs a key for the '
            'cluster of site dcn0, in from_central',
            base.SITES.replace('from_central: {key: {file: guests.keyring}}',
                               'from_central: {}', 1))
