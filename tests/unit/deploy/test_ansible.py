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

"""What is rendered for kolla-ansible and openstack-ansible."""

import stat

from oslo_config import cfg
import yaml

from glance_dcn.deploy import ansible
from glance_dcn.deploy import files
from glance_dcn.deploy import sitesfile
from tests.unit.deploy import base

_IMPORT = 'config/glance/glance-image-import.conf'
_GLOBALS = 'globals.d/glance-dcn.yml'


class AnsibleTestCase(base.SitesFileTestCase):

    form = staticmethod(ansible.kolla)

    def rendered(self, site, text=base.SITES):
        """Return the texts of a site's files by path."""
        found = self.load(text)
        [rendering] = self.form(found, found.site(site))
        self.notes, self.files = rendering.notes, rendering.files
        return {file.path: file.text for file in rendering.files}

    def variables(self, site, path, text=base.SITES):
        return yaml.safe_load(self.rendered(site, text)[path])

    def write(self):
        return files.write(str(self.folder / 'etc'), self.files)

    def assertMistake(self, line, reason, text):
        exc = self.assertRaises(sitesfile.Mistake, self.rendered, 'dcn0',
                                text)
        self.assertEqual(line, exc.line)
        self.assertIn(reason, exc.reason)

    def assertRefused(self, reason):
        """Nothing is written, for a reason."""
        exc = self.assertRaises(files.Error, self.write)
        self.assertIn(reason, str(exc))
        self.assertFalse((self.folder / 'etc/glance-dcn').exists())
        self.assertFalse((self.folder / 'etc' / _GLOBALS).exists())


class TestKolla(AnsibleTestCase):

    def test_variables(self):
        found = self.variables('central', _GLOBALS)
        self.assertEqual(
            [('central', 'dcn', 'central', 'images', 'external', True),
             ('dcn0', 'dcn', 'dcn0', 'images', 'glance-central', True),
             ('dcn1', 'dcn', 'dcn1', 'images', 'glance-central', True)],
            [tuple(each[key] for key in ('name', 'type', 'cluster', 'pool',
                                         'user', 'enabled'))
             for each in found['glance_ceph_backends']])
        self.assertNotIn('enable_glance_image_cache', found)

    def test_edge(self):
        self.assertEqual(['dcn0', 'central'], [
            each['name'] for each in self.variables('dcn0', _GLOBALS)[
                'glance_ceph_backends']])

    def test_cache(self):
        found = self.variables('far', _GLOBALS)
        self.assertEqual((True, str(10 << 30)), (
            found['enable_glance_image_cache'],
            found['glance_cache_max_size']))

    def test_options(self):
        conf = self.folder / 'import.conf'
        conf.write_text(self.rendered('dcn0', base.SITES.replace(
            'glance:\n', 'glance:\n  DEFAULT: {image_size_cap: 5}\n'
            '  cors: {allowed_origin: "$a"}\n', 1))[_IMPORT])
        found = {}
        cfg.ConfigParser(str(conf), found).parse()
        self.assertEqual(
            ['[dcn_distributed_staging,dcn_image_conversion]'],
            found['image_import_opts']['image_import_plugins'])
        self.assertEqual((['5'], ['true'], ['$$a'], ['read-only'], ['4']), (
            found['DEFAULT']['image_size_cap'],
            found['DEFAULT']['show_multiple_locations'],
            found['cors']['allowed_origin'], found['central']['dcn_access'],
            found['dcn0']['dcn_max_transfers']))
        # The deployer's: which stores there are, and the rest.
        self.assertNotIn('enabled_backends', found['DEFAULT'])
        self.assertNotIn('glance_store', found)
        self.assertNotIn('database', found)
        self.assertIn('[database] is left to kolla-ansible', self.notes[0])

    def test_files_of_clusters(self):
        found = self.rendered('dcn0')
        for cluster, user in (('dcn0', 'external'),
                              ('central', 'glance-dcn0')):
            name = '%s.client.%s.keyring' % (cluster, user)
            self.assertIn(base.KEY, found['config/glance/' + name])
            self.assertIn('[client.%s]\nkeyring = /etc/ceph/%s\n' % (
                user, name), found['config/glance/%s.conf' % cluster])
        self.write()
        self.assertEqual({0o600}, {
            stat.S_IMODE(path.stat().st_mode) for path
            in (self.folder / 'etc').rglob('*.keyring')})
        self.assertNotIn(base.KEY, found[_GLOBALS] + found[_IMPORT])

    def test_what_cannot_be(self):
        self.assertMistake(
            14, 'staging of site dcn0 must be there', base.SITES.replace(
                '- name: dcn0', '- name: dcn0\n  staging: /srv'))
        self.assertMistake(
            14, 'client.glance-dcn0 needs a key for the cluster of site '
            'central', base.SITES.replace(
                'at_central: {key: {file: guests.keyring}}', '', 1))

    def test_what_the_deployer_has(self):
        self.rendered('central')
        glance = self.folder / 'etc/config/glance'
        glance.mkdir(parents=True)
        theirs = glance / 'glance-image-import.conf'
        for text, lost in (
                ('[DEFAULT]\nenabled_import_methods = [web-download]\n'
                 '[image_import_opts]\nimage_import_plugins = []\n', None),
                ('[DEFAULT]\nimage_size_cap: 5\n', '[DEFAULT] image_size_cap'),
                ('[inject_metadata_properties]\ninject = a:b\n',
                 '[inject_metadata_properties]')):
            theirs.write_text(text)
            if lost:
                self.assertRefused(lost)
                self.assertEqual(text, theirs.read_text())
                continue
            self.write()
            self.assertEqual(text, theirs.with_suffix(
                '.conf.bak').read_text())
            (self.folder / 'etc' / _GLOBALS).unlink()

    def test_variables_of_a_file_that_is_read_later(self):
        self.rendered('central')
        folder = self.folder / 'etc/globals.d'
        folder.mkdir(parents=True)
        (folder / 'a.yml').write_text('glance_ceph_backends: []\n')
        self.write()
        (folder / 'glance-dcn.yml').unlink()
        (folder / 'z.yml').write_text('x: 1\nglance_ceph_backends: []\n')
        self.assertRefused('z.yml, which is read after it, has '
                           'glance_ceph_backends')


class TestOpenstackAnsible(AnsibleTestCase):

    form = staticmethod(ansible.openstack_ansible)

    def test_stores(self):
        found = self.variables('dcn0', ansible.VARIABLES)
        default = found['glance_default_store']
        self.assertEqual(('dcn0', 'dcn', '/etc/ceph/dcn0.conf', '4'), (
            default['name'], default['type'],
            default['config']['rbd_store_ceph_conf'],
            default['config']['dcn_max_transfers']))
        self.assertEqual([('central', 'read-only')], [
            (each['name'], each['config']['dcn_access'])
            for each in found['glance_dcn_stores']])
        # The deployer's own are not named.
        self.assertNotIn('glance_additional_stores', found)

    def test_options(self):
        found = self.variables('central', ansible.VARIABLES)
        self.assertEqual({
            'DEFAULT': {'enabled_import_methods':
                        '[glance-direct,web-download,copy-image]'},
            'image_import_opts': {
                'image_import_plugins':
                    '[dcn_distributed_staging,dcn_image_conversion]'},
            'image_conversion': {'output_format': 'raw'},
            'os_glance_staging_store': {
                'filesystem_store_datadir':
                    '/var/lib/glance/os_glance_staging_store'},
        }, found['glance_dcn_options'])
        self.assertIn('[database] is left to openstack-ansible',
                      self.notes[0])

    def test_files_of_clusters(self):
        texts = self.rendered('central')
        found = yaml.safe_load(texts[ansible.VARIABLES])
        self.assertEqual(
            ['central', 'dcn0', 'dcn1'],
            [each['dest'][len('/etc/ceph/'):-len('.conf')]
             for each in found['glance_dcn_ceph_confs']])
        for each in found['glance_dcn_ceph_confs']:
            for key in ('src', 'keyring_src'):
                self.assertIn(each[key].replace('{{ glance_dcn_files }}',
                                                'glance-dcn/central'), texts)
        self.assertTrue(found['glance_dcn_files'].endswith(
            '/glance-dcn/central'))
        self.assertNotIn(base.KEY, texts[ansible.VARIABLES])

    def test_cache(self):
        found = self.variables('far', ansible.VARIABLES)
        self.assertEqual(('keystone+cachemanagement', 10 << 30), (
            found['glance_flavor'], found['glance_image_cache_max_size']))

    def test_what_cannot_be(self):
        self.assertMistake(
            14, 'staging of site dcn0 must be there', base.SITES.replace(
                '- name: dcn0', '- name: dcn0\n  staging: /srv'))
        self.assertMistake(
            16, 'writes /etc/ceph/ceph.conf itself', base.SITES.replace(
                "fsid: %s" % base.FSIDS[2],
                "name: ceph\n    fsid: %s" % base.FSIDS[2]))
        for text in ('{{ x }}', '{% x %}', '{# x'):
            self.assertMistake(14, 'beginning of an expression',
                               base.SITES.replace(
                                   '- name: dcn0',
                                   "- name: dcn0\n  description: '%s'" % text))

    def test_what_the_deployer_has(self):
        self.rendered('central')
        folder = self.folder / 'etc'
        folder.mkdir()
        # Read before it, and replaced; read by other programs.
        (folder / 'user_variables.yml').write_text(
            'glance_default_store: rbd\n')
        (folder / 'zzz.yml').write_text('glance_default_store: rbd\n')
        self.write()
        (folder / ansible.VARIABLES).unlink()
        (folder / 'glance-dcn').rename(self.folder / 'away')
        for name, text, reason in (
                ('user_variables.yml', 'ceph_extra_confs:\n- src: x\n',
                 'it would replace ceph_extra_confs of'),
                ('user_variables.yml', 'a: 1\n'
                 'glance_glance_api_conf_overrides: {}\n',
                 'call that glance_api_conf_overrides_of_others'),
                ('user_zzz.yml', 'glance_default_store: rbd\n',
                 'user_zzz.yml, which is read after it, has '
                 'glance_default_store'),
                ('user_variables.yml', '\0', 'this is no text')):
            path = folder / name
            path.write_bytes(text.encode() if text != '\0' else b'\xff')
            self.assertRefused(reason)
            path.unlink()
