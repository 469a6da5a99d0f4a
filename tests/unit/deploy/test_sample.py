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

"""The sample of a sites file, rendered, beside what deployers write."""

import pathlib
import shutil

import fixtures
from keystonemiddleware import opts as keystone_opts
from oslo_db import options as db_options
from oslotest import base
import yaml

from glance_dcn.deploy import ansible
from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import render
from tests.unit.deploy import base as deploy_base
from tests.unit.deploy import loading

_ETC = pathlib.Path(__file__).parents[3] / 'etc'
# Of kolla-ansible, puppet-glance and glance-operator alike: each has its own
# Keystone and database, and stores of stock.
_DEPLOYERS = """\
[DEFAULT]
enabled_backends = central:rbd
[database]
connection = mysql+pymysql://glance:db-pass@10.0.0.5/glance
[glance_store]
default_backend = central
[keystone_authtoken]
auth_type = password
auth_url = http://10.0.0.5:5000
username = glance
password = ks-pass
[paste_deploy]
flavor = keystone+cachemanagement
"""
# What the same say in a sites file.
_GIVEN = """\
glance:
  DEFAULT:
    image_size_cap: 2199023255552
    transport_url: {env: TRANSPORT}
  database:
    connection: {env: DATABASE}
  keystone_authtoken:
    auth_type: token
    auth_url: http://192.0.2.5:5000
    username: other
    password: {env: KEYSTONE}
  paste_deploy:
    flavor: keystone
"""


class TestSample(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = self.folder / 'sites.yaml'
        shutil.copy(_ETC / 'sites.yaml.sample', self.path)
        (self.folder / 'keys').mkdir()
        for site, user in (('central', 'glance'), ('dcn0', 'glance'),
                           ('central', 'glance-dcn0'),
                           ('central', 'glance-kiosk'),
                           ('dcn0', 'glance-central')):
            key = self.folder / 'keys' / ('%s.client.%s.keyring'
                                          % (site, user))
            key.write_text('[client.%s]\n\tkey = %s\n'
                           % (user, deploy_base.KEY))
            key.chmod(0o600)
        for name in ('TRANSPORT', 'DATABASE', 'KEYSTONE'):
            self.useFixture(fixtures.EnvironmentVariable(name, 'secret'))

    def merged(self, kind, site, number=0):
        """Return what Glance has of the deployer's files and of ours."""
        deployment = load.load(self.path)
        rendering = render.render(deployment, [deployment.site(site)],
                                  kind)[number][1]
        first = self.folder / 'glance-api.conf'
        first.write_text(_DEPLOYERS)
        last = self.folder / 'last.conf'
        last.write_text(self._text(kind, site, rendering))
        conf = loading.conf_of(first, last)
        conf.register_opts(db_options.database_opts, group='database')
        for group, options in keystone_opts.list_auth_token_opts():
            conf.register_opts(options, group=group)
        return conf

    @staticmethod
    def _text(kind, site, rendering):
        """Return what Glance reads after the deployer's own files."""
        texts = {file.path: file.text for file in rendering.files}
        if kind == 'plain':
            return texts['etc/glance/glance-api.conf.d/glance-dcn.conf']
        if kind == 'kolla':
            found = yaml.safe_load(texts['globals.d/glance-dcn.yml'])
            return _stores(found['glance_ceph_backends']) + texts[
                'config/glance/glance-image-import.conf']
        if kind == 'openstack-ansible':
            found = yaml.safe_load(texts[ansible.VARIABLES])
            known = [found['glance_default_store'],
                     *found['glance_dcn_stores']]
            return _stores(known) + ''.join(
                '[%s]\n%s\n' % (name, '\n'.join(
                    '%s = %s' % item for item in section.items()))
                for name, section in (
                    *found['glance_dcn_options'].items(),
                    *((each['name'], each['config']) for each in known)))
        found = yaml.safe_load(texts['glance.yaml'])
        if kind == 'operator':
            return found['spec']['glance']['template']['glanceAPIs'][site][
                'customServiceConfig']
        return ''.join(
            '[%s]\n%s = %s\n' % (*name.split('/'), option['value'])
            for name, option in found['parameter_defaults']['ExtraConfig'][
                'glance::config::image_import_config'].items())

    def assertMerged(self, kind, site):
        """Authentication and database are the deployer's, stores are ours."""
        conf = self.merged(kind, site)
        self.assertEqual(
            'mysql+pymysql://glance:db-pass@10.0.0.5/glance',
            conf.database.connection)
        self.assertEqual('http://10.0.0.5:5000',
                         _value(conf, 'keystone_authtoken', 'auth_url'))
        self.assertEqual(('password', 'glance', 'ks-pass'), tuple(
            _value(conf, 'keystone_authtoken', option)
            for option in ('auth_type', 'username', 'password')))
        self.assertEqual('keystone+cachemanagement',
                         conf.paste_deploy.flavor)
        self.assertEqual({'dcn'}, {
            type for name, type in conf.enabled_backends.items()
            if name not in loading.RESERVED})
        self.assertEqual(2199023255552, conf.image_size_cap)

    def test_sample(self):
        for kind in render.KINDS:
            for site in ('central', 'dcn0', 'kiosk'):
                self.assertMerged(kind, site)

    def test_sections_of_deployers_in_a_sites_file(self):
        text = self.path.read_text()
        begin = text.index('glance:\n  DEFAULT')
        self.path.write_text(text[:begin] + _GIVEN
                             + text[text.index('\nsites:'):])
        for kind in render.KINDS[1:]:
            self.assertMerged(kind, 'dcn0')

    def test_written_and_again(self):
        deployment = load.load(self.path)
        for kind in render.KINDS:
            made = [file for _rendering, file in render.placed(render.render(
                deployment, deployment.sites, kind))]
            for state in (files.NEW, files.SAME):
                self.assertEqual({state}, {
                    written.state for written in files.write(
                        self.folder / kind, made)})


def _stores(known):
    """Return what the templates of roles make of a list of stores."""
    return ('[DEFAULT]\nenabled_backends = %s\n'
            '[glance_store]\ndefault_backend = %s\n' % (
                ', '.join('%(name)s:%(type)s' % each for each in known),
                known[0]['name']))


def _value(conf, group, option):
    """Return a value of an option that may not be registered."""
    from oslo_config import cfg
    try:
        return conf[group][option]
    except cfg.NoSuchOptError:
        conf.register_opt(cfg.StrOpt(option), group=group)
        return conf[group][option]
