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


import os

import castellan.options
import fixtures
import glance.opts
import hypothesis
from hypothesis import strategies

from glance_dcn.deploy import load
from glance_dcn.deploy import model
from glance_dcn.deploy import options
from glance_dcn.deploy import sitesfile
from tests.unit.deploy import base

_ONE = """\
sites:
- name: %(name)s
  central: true
  cluster:
    fsid: %(fsid)s
    mons: [10.0.0.1]
    key: {file: central.keyring}
"""


def one(name='central', fsid=base.FSIDS[1], **more):
    """Return a sites file of one site, with more keys."""
    return _ONE % {'name': name, 'fsid': fsid} + ''.join(
        '  %s: %s\n' % item for item in more.items())


class TestLoad(base.SitesFileTestCase):

    def test_sites(self):
        found = self.load()
        self.assertEqual(['central', 'dcn0', 'dcn1', 'far'],
                         [site.name for site in found.sites])
        self.assertEqual('central', found.central.name)
        dcn0 = found.site('dcn0')
        self.assertEqual(
            model.Cluster('dcn0', base.FSIDS[2], '172.16.11.61', 'external',
                          dcn0.cluster.key, line=16), dcn0.cluster)
        self.assertEqual(('dcn0', 'images', 'dcn0 RBD store', 14),
                         (dcn0.store, dcn0.pool, dcn0.description, dcn0.line))
        self.assertEqual(model.Limits(4, 50.0), dcn0.limits)
        self.assertIsNone(found.site('dcn9'))

    def test_site_without_a_cluster(self):
        far = self.load().site('far')
        self.assertIsNone(far.cluster)
        self.assertEqual('', far.store)
        self.assertEqual(10 << 30, far.cache_size)

    def test_stores(self):
        found = self.load()
        self.assertEqual(
            {'central': ['central', 'dcn0', 'dcn1'],
             'dcn0': ['dcn0', 'central'], 'dcn1': ['dcn1', 'central'],
             'far': ['central']},
            {site.name: [other.name for other in found.stores_of(site)]
             for site in found.sites})

    def test_defaults_are_merged(self):
        found = self.load(one(limits='{io_timeout: 9}') + (
            'defaults:\n  pool: glance\n'
            '  limits: {io_timeout: 5, max_transfers: 2}\n')).central
        self.assertEqual(model.Limits(2, io_timeout=9), found.limits)
        self.assertEqual('glance', found.pool)

    def test_cluster_of_a_conf_file(self):
        (self.folder / 'dcn9.conf').write_text(
            '[global]\nfsid = %s  # ours\nmon host = [v2:10.0.0.1:3300],\\\n'
            '  10.0.0.2\nms client mode = "secure"\nlog_file = /x\n'
            '[client.external]\nkeyring = /else/where\n'
            % base.FSIDS[5].upper())
        found = self.load(
            'sites:\n- name: central\n  central: true\n'
            '  cluster: {conf: dcn9.conf}\n').central.cluster
        self.assertEqual(base.FSIDS[5], found.fsid)
        self.assertEqual('[v2:10.0.0.1:3300],10.0.0.2', found.mon_host)
        self.assertEqual((('ms_client_mode', 'secure'),), found.settings)

    def test_options_of_glance(self):
        text = base.SITES.replace(
            "  workers: ['http://10.1.0.11:9292']",
            '  glance: {DEFAULT: {debug: true}}')
        options = self.load(text).site('dcn0').options
        self.assertEqual('true', options['DEFAULT', 'debug'])
        self.assertEqual('mysql+pymysql://glance:pa$$s@10.0.0.5/glance',
                         options['database', 'connection'].read())


class TestKeys(base.SitesFileTestCase):

    def key(self):
        cluster = self.load().central.cluster
        return cluster.key.read_key(cluster.user)

    def assertNoKey(self, reason):
        exc = self.assertRaises(sitesfile.Mistake, self.key)
        self.assertIn(reason, exc.reason)
        self.assertEqual(12, exc.line)
        self.assertNotIn(base.KEY, str(exc))

    def test_keyring(self):
        self.write_secret('central.keyring', (
            '[client.admin]\n\tkey = AAAA\n[client.external]\n'
            '    key = %s\n    caps mon = "profile rbd"\n' % base.KEY))
        self.assertEqual(base.KEY, self.key())

    def test_file_with_the_key_alone(self):
        self.write_secret('central.keyring', base.KEY + '\n')
        self.assertEqual(base.KEY, self.key())

    def test_environment(self):
        self.useFixture(fixtures.EnvironmentVariable('CENTRAL', base.KEY))
        cluster = self.load(base.SITES.replace(
            '{file: central.keyring}', '{env: CENTRAL}')).central.cluster
        self.assertEqual(base.KEY, cluster.key.read_key('external'))

    def test_environment_without_it(self):
        cluster = self.load(base.SITES.replace(
            '{file: central.keyring}', '{env: NOT_THERE}')).central.cluster
        exc = self.assertRaises(sitesfile.Mistake, cluster.key.read)
        self.assertIn('NOT_THERE is not set', str(exc))

    def test_of_another_user(self):
        self.write_secret('central.keyring',
                          '[client.admin]\nkey = %s\n' % base.KEY)
        self.assertNoKey('has no key of client.external')

    def test_no_key(self):
        for text in ('hello', base.KEY[:-8], base.KEY + '\nkeyring = /x'):
            self.write_secret('central.keyring', text)
            self.assertNoKey('is no cephx key')

    def test_empty_large_and_binary(self):
        for text, reason in (('', 'is empty'), ('x' * 70000, 'larger than')):
            self.write_secret('central.keyring', text)
            self.assertNoKey(reason)
        (self.folder / 'central.keyring').write_bytes(b'\xff\xfe')
        self.assertNoKey('is no text')

    def test_not_there(self):
        (self.folder / 'central.keyring').unlink()
        self.assertNoKey('No such file')

    def test_world_readable(self):
        (self.folder / 'central.keyring').chmod(0o604)
        self.assertRefused(12, 'everybody may use', base.SITES)

    def test_in_the_sites_file(self):
        for value, reason in ((base.KEY, 'must not stand here itself'),
                              ('{inline: %s}' % base.KEY, 'files of their')):
            self.assertRefused(12, reason, base.SITES.replace(
                '{file: central.keyring}', value))

    def test_in_the_sites_file_on_purpose(self):
        text = 'allow_inline_secrets: true\n' + base.SITES.replace(
            '{file: central.keyring}', '{inline: %s}' % base.KEY)
        self.path.write_text(text)
        self.path.chmod(0o644)
        self.assertRefused(1, 'everybody may use', text)
        self.path.chmod(0o600)
        cluster = self.load(text).central.cluster
        self.assertEqual(base.KEY, cluster.key.read_key('external'))
        self.assertNotIn(base.KEY, repr(cluster))


class TestSecretOptions(base.SitesFileTestCase):

    def test_those_of_glance_are_known_by_their_names(self):
        found = [option for _group, listed in (
            *glance.opts.list_api_opts(), *castellan.options.list_opts())
            for option in listed]
        self.assertEqual([], [
            option.dest for option in found
            if option.secret and not options.is_secret(option.dest)])
        self.assertNotIn('use_user_token', [
            option.dest for option in found
            if options.is_secret(option.dest)])


class TestMistakes(base.SitesFileTestCase):

    def test_unknown_key(self):
        self.assertRefused(
            8, "has no key 'limit' (did you mean 'limits'?)",
            one(limit='{max_transfers: 3}'))
        self.assertRefused(
            2, "has no key 'site' (did you mean 'sites'?)",
            'paths: {}\nsite: []\n')
        self.assertRefused(
            8, "has no key 'max_transfer' (did you mean 'max_transfers'?)",
            one(limits='{max_transfer: 3}'))

    def test_names_given_twice(self):
        self.assertRefused(23, 'the name dcn0', base.SITES.replace(
            'name: dcn1', 'name: dcn0'))
        # oslo.config does not tell these groups apart.
        self.assertRefused(23, 'the name DCN0', base.SITES.replace(
            'name: dcn1', 'name: DCN0'))
        self.assertRefused(23, 'the store dcn0', base.SITES.replace(
            'name: dcn1', 'name: dcn1\n  store: dcn0').replace(
                '- name: dcn0\n', '- name: dcn0\n'))
        self.assertRefused(23, 'a cluster of the name dcn0',
                           base.SITES.replace(
                               'fsid: %s' % base.FSIDS[3],
                               'name: dcn0\n    fsid: %s' % base.FSIDS[3]))

    def test_two_sites_on_one_pool(self):
        self.assertRefused(
            23, 'pool images of the cluster with fsid %s, and so has site '
            'dcn0 (line 14)' % base.FSIDS[2],
            base.SITES.replace(base.FSIDS[3], base.FSIDS[2].upper()))

    def test_two_pools_of_one_cluster(self):
        found = self.load(base.SITES.replace(
            base.FSIDS[3], base.FSIDS[2]).replace(
                '- name: dcn1', '- name: dcn1\n  pool: images1'))
        self.assertEqual('images1', found.site('dcn1').pool)

    def test_one_worker_of_two_sites(self):
        self.assertRefused(23, 'the worker http://10.1.0.11:9292',
                           base.SITES.replace('10.2.0.11', '10.1.0.11'))

    def test_central(self):
        self.assertRefused(6, 'no site is the central one',
                           base.SITES.replace('  central: true\n', ''))
        self.assertRefused(14, 'site dcn0 is central, but so is central',
                           base.SITES.replace('- name: dcn0\n',
                                              '- name: dcn0\n'
                                              '  central: true\n'))
        self.assertRefused(3, 'needs a cluster',
                           'sites:\n- name: a\n  central: true\n')

    def test_names_that_break_something(self):
        for name, reason in (
                ('../../etc', 'cannot be the name'),
                ('a/b', 'cannot be the name'),
                ('"a b"', 'cannot be the name'),
                ('"a]"', 'cannot be the name'),
                ('x' * 65, 'cannot be the name'),
                ('dcn\u00e9', 'cannot be the name'),
                ('default', 'cannot be the name'),
                ('os_glance_staging_store', 'Glance\'s own'),
                ('database', 'the group [database]'),
                ('Glance_Store', 'the group [glance_store]'),
                ('debug', 'the option debug'),
                ('register_opts', 'a word of oslo.config'),
                ('items', 'a word of oslo.config')):
            self.assertRefused(2, reason, one(name))

    def test_store_of_another_name(self):
        self.assertEqual('default_backend', self.load(
            one(store='default_backend')).central.store)
        # A site itself may be called what a store cannot.
        self.assertEqual('database', self.load(
            one('database', store='db')).central.name)
        self.assertRefused(8, 'the group [database]', one(store='database'))

    def test_wrong_types(self):
        for more, reason in (
                ({'pool': '[a]'}, 'pool must be text, but this is a list'),
                ({'pool': '{}'}, 'pool must be text'),
                ({'pool': ''}, 'pool is empty'),
                ({'pool': '"a, profile rbd pool=b"'}, 'characters'),
                ({'description': '"a\\nb"'}, 'one line of printable'),
                ({'description': '~'}, 'is empty'),
                ({'workers': 'http://a'}, 'workers must be a list'),
                ({'workers': '[{}]'}, 'each of workers must be text'),
                ({'workers': '[ftp://a]'}, 'begins with ftp://'),
                ({'workers': '["http://u:p@a"]'}, 'has a user name'),
                ({'workers': '["http://[a"]'}, 'is no URL'),
                ({'workers': '["http://a:x"]'}, 'is no URL'),
                ({'workers': '["http://..:1"]'}, 'has other characters'),
                ({'workers': '["http://.:1"]'}, 'has other characters'),
                ({'limits': '3'}, 'limits must be a mapping'),
                ({'limits': '{max_transfers: many}'}, 'whole number'),
                ({'limits': '{max_transfers: -1}'}, '0 or more'),
                ({'limits': '{max_transfers: 1.5}'}, 'whole number'),
                ({'limits': '{bandwidth_limit: nan}'}, 'number'),
                ({'limits': '{bandwidth_limit: inf}'}, 'number'),
                ({'chunk_size': '0'}, 'from 1 to 1024'),
                ({'staging': 'staging'}, 'absolute path'),
                ({'staging': '/a/../b'}, 'absolute path'),
                ({'staging': '//'}, 'absolute path'),
                ({'staging': '/a$b'}, 'absolute path'),
                ({'staging': '"/a b"'}, 'absolute path'),
                ({'cache_size': '1000000000'}, 'no use for an image cache'),
                ({'operator': '{replicas: 99}'}, 'from 0 to 32'),
                ({'operator': '{storage_request: lots}'}, 'cannot be'),
                ({'glance': '[]'}, 'glance must be a mapping'),
                ({'glance': '{"a]": {b: c}}'}, 'no group of options'),
                ({'glance': '{a: {"b = c": d}}'}, 'is no option'),
                ({'glance': '{DEFAULT: {enabled_backends: x}}'},
                 'follows from the key sites'),
                ({'glance': '{Glance_Store: {default_backend: x}}'},
                 'follows from the key sites'),
                ({'glance': '{a: {rbd_store_pool: x}}'},
                 'follows from the key pool'),
                ({'glance': '{keystone_authtoken: {password: x}}'},
                 'is a secret'),
                ({'glance': '{vault: {root_token_id: x}}'}, 'is a secret'),
                ({'glance': '{database: {connection: "mysql://a:b/@c/d"}}'},
                 'is a secret')):
            self.assertRefused(8, reason, one(**more))
        self.assertRefused(3, 'must be true or false',
                           one().replace('central: true', 'central: 1'))
        self.assertRefused(3, 'must be true or false',
                           one().replace('central: true', 'central: "true"'))

    def test_sites(self):
        self.assertRefused(1, "needs the key 'sites'", 'paths: {}\n')
        self.assertRefused(1, 'must be a list of sites', 'sites: {a: {}}\n')
        self.assertRefused(1, 'must be a list of sites', 'sites: []\n')
        self.assertRefused(2, 'a site must be a mapping', 'sites:\n- a\n')
        self.assertRefused(2, "a site needs the key 'name'",
                           'sites:\n- central: true\n')

    def test_cluster(self):
        self.assertRefused(5, 'is no fsid', one(fsid='ceph'))
        self.assertRefused(5, 'is no fsid', one(fsid=base.FSIDS[0].replace(
            base.FSIDS[0], '00000000-0000-0000-0000-000000000000')))
        self.assertRefused(6, 'addresses of monitors', one().replace(
            '[10.0.0.1]', '["10.0.0.1\\tx"]').replace('\\t', '%'))
        self.assertRefused(5, 'fsid is in the conf file already',
                           one().replace('mons: [10.0.0.1]', 'conf: a.conf'))
        self.assertRefused(4, 'it cannot be read',
                           'sites:\n- name: a\n  cluster:\n    conf: a.conf\n')

    def test_conf_file_without_fsid(self):
        (self.folder / 'a.conf').write_text('[global]\nmon_host = 10.0.0.1\n')
        self.assertRefused(4, 'has no fsid in [global]',
                           'sites:\n- name: a\n  cluster:\n    conf: a.conf\n')

    def test_conf_file_that_is_none(self):
        (self.folder / 'a.conf').write_text('hello\n')
        self.assertRefused(4, 'a.conf:1: this is no line of a Ceph conf file',
                           'sites:\n- name: a\n  cluster:\n    conf: a.conf\n')

    def test_folders_that_are_one(self):
        for paths, line in (('  ceph: /a/b\n  sites: /a//b/\n', 3),
                            ('  sites: /etc/ceph\n', 2),
                            ('  ceph: /etc/glance\n', 2),
                            ('  glance: /etc/ceph\n', 2)):
            self.assertRefused(line, 'cannot be one folder',
                               'paths:\n' + paths + one())

    def test_plugins(self):
        for plugins, reason in (
                ('[dcn_image_conversion, dcn_distributed_staging]',
                 'must be the first plugin'),
                ('[image_conversion, dcn_image_conversion]', 'do the same'),
                ('[a, a]', 'twice'), ('["a,b"]', 'letters')):
            self.assertRefused(1, reason, 'import_plugins: %s\n' % plugins
                               + one())

    def test_methods(self):
        self.assertRefused(1, "(did you mean 'copy-image'?)",
                           'import_methods: [copy_image]\n' + one())

    def test_nothing_is_written(self):
        before = sorted(os.listdir(self.folder))
        self.assertRefused(2, 'cannot be the name', one('../x'))
        self.assertEqual(sorted([*before, 'sites.yaml']),
                         sorted(os.listdir(self.folder)))


class TestAnyText(base.SitesFileTestCase):

    # What an editor, or somebody hostile, may have made of a sites file.
    @hypothesis.settings(max_examples=200, deadline=None)
    @hypothesis.given(strategies.integers(0, len(base.SITES)),
                      strategies.integers(0, 40),
                      strategies.one_of(
                          strategies.text(max_size=20),
                          strategies.sampled_from([
                              ': ', '- ', '{', '}', '[', ']', '\n', ' ', '"',
                              '&a', '*a', '!!int ', '? ', '|\n', '%', '---\n',
                              'null', '.nan', '0x10', '1e999', '9' * 400])))
    def test_is_a_deployment_or_a_mistake(self, start, length, text):
        whole = base.SITES[:start] + text + base.SITES[start + length:]
        try:
            found = load.build(self.path, sitesfile.parse(self.path, whole))
        except sitesfile.Mistake as exc:
            self.assertIsNotNone(exc.line)
        else:
            self.assertTrue(found.central.store)
