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


"""From what kolla-ansible and openstack-ansible deploy by themselves to ours.

The deployer makes its files of stock variables, with one store of type rbd,
and of these and what glance-dcn renders beside them. A Glance is started with
each. The commands between the two are those of the guide, at most five.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import tempfile
import unittest

import fixtures

from lab import deployment
from lab import process
from lab import wsgi
from tests.functional.api import base
from tests.functional.api import client
from tests.functional.api import databases
from tests.functional.deploy import commands
from tests.functional.deploy import playbooks

_GUIDE = pathlib.Path(__file__).parents[3] / 'doc/source/install'
# What follows it are the commands.
_HEADING = 'From stock in five commands'
_FOLDERS = ('/etc/ceph', '/var/lib/glance', '/var/log/kolla/glance',
            '/run/lock')


def guide_commands(page):
    """Return the commands that a page of the guide shows for it, as lists."""
    text = (_GUIDE / page).read_text().partition(_HEADING)[2]
    block = re.search(r'code-block:: console\n\n((?:   .*\n)+)', text).group(1)
    return [shlex.split(line)[1:] for line in re.sub(
        r'\\\n\s+', '', block).replace('   #', 'root').splitlines()]


@unittest.skipUnless((wsgi.BIN / 'ansible-playbook').exists(),
                     'deployers are installed with the newest Glance alone')
class Deployed:
    """A deployer, with stock configuration before, and ours after it.

    :cvar kind: :class:`playbooks.KollaAnsible` or another one of that module
    :cvar page: of the guide
    :cvar reconfigure: begins the last command, which the class of playbooks
        stands for
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        temporary = tempfile.TemporaryDirectory(prefix='ansible-')
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = pathlib.Path(temporary.name)
        cls.database = databases.Database(base.lab(), cls.folder)
        cls.database.setUp()
        cls.addClassCleanup(cls.database.cleanUp)
        cls.made = False
        cls.port = process.free_port()
        cls.deployer = cls.kind(cls.folder)
        keystone = base.lab().keystone
        cls.deployer.prepare(*cls.variables(keystone.url,
                                            keystone.service_password))
        cls.copy_ceph()
        cls.deployer.reconfigure()

    def setUp(self):
        super().setUp()
        self.addOnException(self._attach)

    def assertStores(self, api, *others):
        """There is the store of stock, which is the default, and others."""
        self.assertEqual({'rbd': 'true', **dict.fromkeys(others)}, {
            name: store.get('default') for name, store
            in api.stores().items()})

    def assertImports(self, api):
        """An image is imported to both stores, and converted."""
        self.assertStores(api, 'dcn0', 'http')
        data = base.random_data()
        image = self.uploaded(api, self.converted(data, 'qcow2'), 'rbd',
                              'dcn0', disk_format='qcow2')
        self.assertStored(image, data, 'central', 'dcn0')
        self.assertEqual('raw', api.images.get(image)['disk_format'])

    def follow_the_guide(self):
        """Run the commands of the guide, whose names are the lab's here."""
        found = guide_commands(self.page)
        self.assertLessEqual(len(found), 5)
        names = self.names()
        for command in found[:-1]:
            self.assertEqual('glance-dcn', command[0])
            argv = command[1:]
            for name, ours in names.items():
                argv = [word.replace(name, str(ours)) for word in argv]
            status, out, err = commands.glance_dcn(
                self.folder / 'sites.yaml', *argv)
            self.assertEqual((0, ''), (status, err), out)
        self.assertEqual(list(self.reconfigure), found[-1][
            :len(self.reconfigure)])
        self.deployer.reconfigure()

    def names(self):
        """Return what stands for names of the guide here, in order."""
        lab = base.lab()
        return {
            '/root/central.conf': lab.cluster('central').conf,
            '/root/dcn0.conf': lab.cluster('dcn0').conf,
            '/root/dcn0.client.admin.keyring':
                lab.cluster('dcn0').directory / 'ceph.client.admin.keyring',
            '/root/dcn0.client.glance.keyring':
                lab.cluster('dcn0').keyring('glance'),
            self.deployer.name: self.deployer.etc,
        }

    def start(self, name):
        """Start a Glance as the deployer's, with the lab's addresses.

        :returns: its :class:`client.Api`
        """
        # Its own, as a container is: made of what the deployer has written.
        root = self.folder / name
        shutil.copytree(self.deployer.container, root)
        for folder in _FOLDERS:
            (root / folder[1:]).mkdir(parents=True, exist_ok=True)
        for path in root.rglob('*.conf'):
            path.write_text(self.own(root, path.read_text()))
        etc = root / 'etc/glance'
        # It comes with the image.
        shutil.copy(wsgi.BIN.parent / 'etc/glance/glance-api-paste.ini', etc)
        if not self.made:
            type(self).made = True
            if 'sqlite' in self.database.url:
                process.run([wsgi.BIN / 'glance-manage', '--config-dir', etc,
                             'db_sync'])
            else:
                self.database.make_tables()
        self.etc = etc
        self.service = wsgi.Service(
            'ansible-%s' % name, 'glance.wsgi.api:application', root / 'run',
            self.port, env={'OS_GLANCE_CONFIG_DIR': str(etc)})
        self.addCleanup(self.service.stop)
        # Glance looks for glance.conf.d there as it does in /etc/glance.
        with fixtures.EnvironmentVariable('HOME', str(etc)):
            self.service.start('/healthcheck')
        return client.Api(self.service.url, base.session())

    def own(self, root, text):
        """Return the text of a conf file with paths and addresses of here."""
        for folder in _FOLDERS:
            text = text.replace(folder + '/', '%s%s/' % (root, folder))
        # The lab has no journal of systemd.
        text = text.replace('use_journal = True', 'use_journal = False')
        return re.sub(r'(?m)^connection = mysql.*', lambda _found:
                      'connection = ' + self.database.url.replace('$', '$$'),
                      text)

    def _attach(self, _exc_info):
        from testtools import content
        for path in (*self.folder.rglob('glance-api.conf'),
                     *self.folder.rglob('glance-api.log')):
            if path.is_file():
                self.addDetail(str(path.relative_to(self.folder)),
                               content.text_content(path.read_text(
                                   errors='replace')[-20000:]))
        if hasattr(self, 'service'):
            self.addDetail('uwsgi', content.text_content(
                self.service.daemon.tail(20000)))


class TestKollaAnsible(Deployed, base.ApiTestCase):

    kind = playbooks.KollaAnsible
    page = 'kolla-ansible.rst'
    reconfigure = ('kolla-ansible', 'reconfigure')

    def test(self):
        data = base.random_data()
        api = self.start('stock')
        self.assertStores(api, 'http')
        image = self.new_image(api)
        api.upload(image, data, 'rbd')
        self.service.stop()
        self.follow_the_guide()
        api = self.start('ours')
        self.assertImports(api)
        # What stock has stored.
        self.assertSame(data, api.download(image))
        api.images.image_import(image, 'copy-image', stores=['dcn0'])
        api.wait(image, 'rbd', 'dcn0')
        self.assertStored(image, data, 'central', 'dcn0')
        # All is in order.
        status, out, err = commands.glance_dcn(
            self.folder / 'sites.yaml', 'check', '--staging-room', '1',
            '--timeout', '60', '--format', 'json', env=dict(
                base.lab().environment(), OS_GLANCE_CONFIG_DIR=str(self.etc),
                HOME=str(self.etc)))
        self.assertEqual((0, ''), (status, err), out)
        self.assertEqual({'ok'}, {finding['level'] for finding
                                  in json.loads(out)['checks']})

    @classmethod
    def variables(cls, keystone, password):
        """Return stock variables and secrets of a deployer."""
        return {
            'kolla_internal_vip_address': '127.0.0.1',
            'network_interface': 'lo',
            'keystone_internal_url': keystone,
            'keystone_public_url': keystone,
            'openstack_region_name': deployment.CENTRAL,
            'glance_api_port': str(cls.port),
            'glance_backend_ceph': 'yes',
        }, {
            'glance_database_password': 'secret', 'rabbitmq_password': 'none',
            'glance_keystone_password': password,
            'memcache_secret_key': 'none',
        }

    @classmethod
    def copy_ceph(cls):
        folder = cls.deployer.etc / 'config/glance'
        cluster = base.lab().cluster('central')
        keyring = 'ceph.client.glance.keyring'
        # As kolla-ansible's guide has it.
        (folder / 'ceph.conf').write_text(
            '[global]\nfsid = %s\nkeyring = /etc/ceph/%s\nmon_host = %s\n'
            % (cluster.fsid, keyring, re.search(
                r'(?m)^mon_host *= *(.*)', pathlib.Path(
                    cluster.conf).read_text()).group(1)))
        shutil.copy(cluster.keyring('glance'), folder / keyring)


class TestOpenstackAnsible(Deployed, base.ApiTestCase):

    kind = playbooks.OpenstackAnsible
    page = 'openstack-ansible.rst'
    reconfigure = ('openstack-ansible', 'openstack.osa.glance')

    def test(self):
        conf = self.deployer.container / 'etc/glance/glance-api.conf'
        self.assertIn('enabled_backends = rbd:rbd,http:http\n',
                      conf.read_text())
        self.follow_the_guide()
        self.assertImports(self.start('ours'))

    @classmethod
    def variables(cls, keystone, password):
        """Return stock variables and secrets of a deployer."""
        return {
            'glance_default_store': 'rbd',
            'glance_additional_stores': [{'name': 'http', 'type': 'http'}],
            'openstack_service_bind_address': '127.0.0.1',
            'glance_api_service_port': cls.port,
            'galera_address': '127.0.0.1',
            'keystone_service_adminuri': keystone,
            # What the role itself takes from the variables of groups.
            'debug': False, 'memcached_servers': '',
            'keystone_service_adminurl': keystone,
            'keystone_service_publicuri': keystone,
            'keystone_service_internaluri': keystone,
            'keystone_service_internaluri_insecure': False,
            'service_region': deployment.CENTRAL,
            'keystone_service_region': deployment.CENTRAL,
            'external_lb_vip_address': '127.0.0.1',
            'internal_lb_vip_address': '127.0.0.1',
        }, {
            'memcached_encryption_key': 'none',
            'glance_oslomsg_rpc_password': 'none',
            'glance_container_mysql_password': 'secret',
            'glance_service_password': password,
        }

    @classmethod
    def copy_ceph(cls):
        """What ceph_client does with the cluster of ceph_conf_file."""
        cluster = base.lab().cluster('central')
        folder = cls.deployer.container / 'etc/ceph'
        keyring = 'ceph.client.glance.keyring'
        text = pathlib.Path(cluster.conf).read_text()
        (folder / 'ceph.conf').write_text(
            text + '\n[client.glance]\nkeyring = /etc/ceph/%s\n' % keyring)
        shutil.copy(cluster.keyring('glance'), folder / keyring)
        keyrings = cls.deployer.etc / 'ceph-keyrings'
        keyrings.mkdir()
        shutil.copy(cluster.keyring('glance'), keyrings / 'glance.keyring')
        os.chmod(keyrings / 'glance.keyring', 0o600)
