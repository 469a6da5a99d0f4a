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

"""Glance as the glance-operator runs it, with the deployer's own files.

What openstack-operator's sample for Ceph says is changed by the commands of
the guide; the files of its Secrets are volumes as the kubelet has them, which
Glance sees mounted read-only. A site comes to it while it runs.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest
import uuid

import fixtures
import yaml

from lab import ceph
from lab import glance
from lab import process
from lab import wsgi
from tests.functional.api import base
from tests.functional.api import client
from tests.functional.api import databases
from tests import volumes

_ROOT = pathlib.Path(__file__).parents[3]
_SAMPLE = _ROOT / 'tests/unit/deploy/data/openstackcontrolplane-ceph.yaml'
# What the glance-operator writes (templates/common/config/00-config.conf) of
# an external GlanceAPI with a backend that it does not know.
_OPERATORS = """\
[DEFAULT]
show_image_direct_url=false
show_multiple_locations=false
enabled_import_methods=[web-download,glance-direct]
log_file = %(folder)s/log/glance-default-external.log
enabled_backends=default_backend:file
use_keystone_limits = False
[database]
connection = %(database)s
max_retries = -1
db_max_retries = -1
[file]
filesystem_store_datadir = %(folder)s/glance/images
[glance_store]
default_backend=default_backend
[keystone_authtoken]
www_authenticate_uri=%(keystone)s
auth_url=%(keystone)s
auth_type = password
username = glance
password = %(password)s
project_domain_name = Default
user_domain_name = Default
project_name = service
service_type = image
[oslo_middleware]
enable_proxy_headers_parsing=True
[paste_deploy]
flavor = keystone
config_file = %(share)s/etc/glance/glance-api-paste.ini
[os_glance_staging_store]
filesystem_store_datadir = %(folder)s/glance/os_glance_staging_store/
[os_glance_tasks_store]
filesystem_store_datadir = %(folder)s/glance/os_glance_tasks_store/
[oslo_concurrency]
lock_path = %(folder)s/glance/tmp
[oslo_policy]
enforce_new_defaults = true
enforce_scope = true
[image_import_opts]
image_import_plugins = ['no_op']
"""
# What is of this machine, where the sample's site files are followed too.
_MORE = """
[glance_dcn]
sites_dir = %(folder)s/sites
[task]
work_dir = %(folder)s/glance/work
[wsgi]
python_interpreter = %(python)s
"""
_CAPS = ['mon', 'profile rbd', 'osd', 'profile rbd pool=images']
_GROUP = 42415
_USER = 'test-%s' % uuid.uuid4().hex[:8]


class OperatorTest(base.ApiTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if os.geteuid():
            raise unittest.SkipTest('the volumes have another group')
        temporary = tempfile.TemporaryDirectory(prefix='op-')
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = pathlib.Path(temporary.name)
        for name in ('log', 'glance/os_glance_staging_store', 'glance/work',
                     'glance/os_glance_tasks_store', 'glance/tmp'):
            (cls.folder / name).mkdir(parents=True)
        cls.files = {}
        cls.ceph = volumes.SecretVolume(cls.folder / 'ceph', _GROUP)
        cls.add_cluster('ceph', 'central')
        cls.sites = volumes.SecretVolume(cls.folder / 'sites', _GROUP, 0o440)
        cls.sites.put({})
        cls.configure()
        cls.service = wsgi.Service(
            'operator', glance.application(), cls.folder / 'run', cls.port,
            env={'OS_GLANCE_CONFIG_DIR': str(cls.folder / 'etc')},
            processes=2,
            prefix=cls.pod())
        cls.addClassCleanup(cls.service.stop)
        # One of the folders in which Glance looks for glance.conf.d.
        with fixtures.EnvironmentVariable('HOME', str(cls.folder / 'etc')):
            cls.service.start('/healthcheck')

    @classmethod
    def pod(cls):
        """Return what a command begins with to see the pod's volumes."""
        return volumes.mounted({cls.ceph.path: '/etc/ceph',
                                cls.sites.path: cls.sites.path})

    @classmethod
    def add_cluster(cls, name, site):
        """Have the Secret hold the files of a cluster, as deployers do."""
        cluster = base.lab().cluster(site)
        with cluster.connect() as rados:
            ceph.command(rados, {'prefix': 'auth get-or-create',
                                 'entity': 'client.' + _USER, 'caps': _CAPS})
            key = ceph.command(rados, {'prefix': 'auth print-key',
                                       'entity': 'client.' + _USER})
        cls.addClassCleanup(cls._remove_user, cluster)
        # It does not say where the keyring is: librados knows.
        cls.files.update({
            '%s.conf' % name: pathlib.Path(cluster.conf).read_text(),
            '%s.client.%s.keyring' % (name, _USER):
                '[client.%s]\nkey = %s\n' % (_USER, key)})
        cls.ceph.put(cls.files)

    @staticmethod
    def _remove_user(cluster):
        with cluster.connect() as rados:
            ceph.command(rados, {'prefix': 'auth del',
                                 'entity': 'client.' + _USER})

    @classmethod
    def configure(cls):
        """Write the files of /etc/glance/glance.conf.d."""
        database = databases.Database(base.lab(), cls.folder)
        database.setUp()
        cls.addClassCleanup(database.cleanUp)
        cls.port = process.free_port()
        keystone = base.lab().keystone
        values = {'folder': cls.folder, 'keystone': keystone.url,
                  'database': database.url.replace('$', '$$'),
                  'password': keystone.service_password,
                  'share': wsgi.BIN.parent, 'python': wsgi.BIN / 'python'}
        etc = cls.folder / 'etc' / 'glance.conf.d'
        etc.mkdir(parents=True)
        for name, text in {
                '00-config.conf': _OPERATORS % values,
                '01-config.conf': '[DEFAULT]\nworker_self_reference_url='
                                  'http://127.0.0.1:%d\n' % cls.port,
                '02-config.conf': cls.custom() + _MORE % values,
                '03-config.conf': ''}.items():
            process.write_private(etc / name, text)
        # That of the container image.
        process.write_private(cls.folder / 'etc' / 'glance-api.conf',
                              '[DEFAULT]\n')
        shutil.copy(wsgi.BIN.parent / 'etc/glance/glance-api-paste.ini',
                    cls.folder / 'etc')
        process.run([wsgi.BIN / 'glance-manage', '--config-dir', etc,
                     'db_sync'])

    @classmethod
    def custom(cls):
        """Return customServiceConfig after the guide's commands."""
        changed = subprocess.run(
            ['sed', '-E', '-f', _ROOT / 'packaging/rbd-to-dcn.sed', _SAMPLE],
            check=True, text=True, capture_output=True).stdout
        spec = yaml.safe_load(changed)['spec']
        # A user of this test alone.
        return spec['glance']['template']['customServiceConfig'].replace(
            '= openstack\n', '= %s\n' % _USER)

    def setUp(self):
        super().setUp()
        self.addOnException(self._attach)
        self.api = client.Api(self.service.url, base.session())
        self.data = base.random_data()

    def command(self, *argv):
        """Run glance-dcn in the pod."""
        etc = str(self.folder / 'etc')
        return subprocess.run(
            [*self.pod(), wsgi.BIN / 'glance-dcn', *argv], check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120,
            env=dict(os.environ, OS_GLANCE_CONFIG_DIR=etc, HOME=etc)).stdout

    def _attach(self, _exc_info):
        from testtools import content
        for path in (*(self.folder / 'log').iterdir(),
                     self.service.daemon.log):
            self.addDetail(path.name, content.text_content(
                path.read_text(errors='replace')[-20000:]))

    def test_sample_and_then_a_site(self):
        self.use_sample()
        self.add_site()

    def use_sample(self):
        """The sample works as the guide's commands leave it."""
        self.assertEqual(['default_backend'], list(self.api.stores()))
        image = self.uploaded(self.api, self.converted(self.data, 'qcow2'),
                              'default_backend', disk_format='qcow2')
        found = self.api.images.get(image)
        # The operator would have turned that on for a backend it knows.
        self.assertEqual('raw', found['disk_format'])
        # Those are told by the internal GlanceAPI.
        self.assertNotIn('locations', found)
        self.assertStored(image, self.data, 'central')
        self.clone('central', image)()
        self.api.images.delete(image)
        self.assertNoTrace(image, 'central')

    def add_site(self):
        """A site comes by its Secrets."""
        self.add_cluster('az1', 'dcn0')
        self.sites.put({'az1.conf': (
            '[az1]\nrbd_store_ceph_conf = /etc/ceph/az1.conf\n'
            'rbd_store_user = %s\nrbd_store_pool = images\n'
            'store_description = az1 RBD backend\n' % _USER)})
        process.wait_for('the store of the new site', lambda: all(
            'az1' in self.api.stores() for _ in range(10)), 30)
        for store, site in (('default_backend', 'central'),
                            ('az1', 'dcn0')):
            self.assertEqual('%s: up, fsid %s, pool images\n' % (
                store, self.cluster(site).fsid),
                self.command('site', 'show', store))
        image = self.uploaded(self.api, self.data, 'default_backend')
        self.api.images.image_import(image, 'copy-image', stores=['az1'])
        self.api.wait(image, 'default_backend', 'az1')
        self.assertStored(image, self.data, 'dcn0')
        self.api.images.delete(image)
        self.assertNoTrace(image, 'central', 'dcn0')
