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

"""Upstream's own tests of images, those of tempest, against the dcn stores.

With what a deployment has besides: several workers, stores of different
weight, the http store for locations of users, and the cache of images.
"""

import os
import re
import secrets
import subprocess
import sys

from keystoneclient.v3 import client as keystone_client
import yaml

from lab import process
from lab import wsgi
from tests.functional.api import base
from tests import releases

# Of tempest.api.image.v2. These make images in several stores, read where they
# are, and what depends on the order in which that is shown; add locations of
# the http store; and fill the cache. All of tempest's take some minutes.
_TESTS = (
    'test_images.ImportImagesTest.test_image_glance_direct_import',
    'test_images.MultiStoresImportImagesTest',
    'test_images.ImageLocationsTest.test_replace_location',
    'test_images.StoreWeightTest',
    'admin.test_images.MultiStoresImagesTest',
    'admin.test_image_caching.ImageCachingTest.test_image_caching_cycle',
)
# (user, project, role). The reader reads what the member has made.
_USERS = (('tempest-member', 'tempest', 'member'),
          ('tempest-reader', 'tempest', 'reader'),
          ('tempest-other', 'tempest-other', 'member'))
_REGION = 'tempest'
# How many tests these are; a later tempest may have more.
_COUNT = 7
# Heaviest first, as tempest's waiter wants them in the order of names.
_WEIGHTS = {'central': 300, 'dcn0': 100, 'dcn1': 100}


# Where lab/requirements.txt is installed.
@releases.since(33)
class TempestTest(base.OwnGlanceTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache = cls.make_folder()
        stores = {name: (kind, dict(options, weight=_WEIGHTS[name]))
                  for name, (kind, options) in base.rbd_stores().items()}
        cls.start_own(dict(stores, web=('http', {})), overrides={
            'DEFAULT': {
                'enabled_import_methods':
                    '[glance-direct,web-download,copy-image]',
                'image_cache_dir': cache, 'image_cache_driver': 'sqlite'},
            'paste_deploy': {'flavor': 'keystone+cachemanagement'},
        }, processes=2)
        base.lab().keystone.register_endpoint(_REGION, cls.own.worker.url)
        cls.addClassCleanup(cls.remove_endpoint)

    @classmethod
    def remove_endpoint(cls):
        keystone = keystone_client.Client(session=base.session())
        for endpoint in keystone.endpoints.list(region_id=_REGION):
            keystone.endpoints.delete(endpoint)
        keystone.regions.delete(_REGION)

    def test_images(self):
        folder = self.make_folder()
        self.configure(folder)
        done = subprocess.run(
            [sys.executable, '-m', 'testtools.run', '-v',
             *('tempest.api.image.v2.%s' % name for name in _TESTS)],
            cwd=folder, capture_output=True, text=True, timeout=300,
            env=dict(os.environ, TEMPEST_CONFIG_DIR=str(folder),
                     TEMPEST_CONFIG='tempest.conf'))
        self.assertEqual(0, done.returncode,
                         done.stdout[-20000:] + done.stderr[-5000:])
        self.assertNotIn('skipped', done.stdout)
        count = int(re.search(r'^Ran (\d+) tests', done.stdout, re.M)[1])
        self.assertGreaterEqual(count, _COUNT)

    def test_image_of_another_store_is_cached(self):
        # All stores are asked for it, and the first one has it not.
        image_id = self.uploaded(self.api, base.random_data(), 'dcn1')
        answer = self.api.request('PUT', '/v2/cache/%s' % image_id)
        self.assertEqual(202, answer.status_code, answer.text)
        process.wait_for('the cache', lambda: image_id in [
            entry['image_id'] for entry in self.api.request(
                'GET', '/v2/cache').json()['cached_images']], 30)

    def configure(self, folder):
        """Write what tempest reads, and make the users it names."""
        image = self.served(self.converted(base.random_data(), 'qcow2'))
        keystone = self.lab.keystone
        accounts = folder / 'accounts.yaml'
        accounts.write_text(yaml.safe_dump(self.make_users() + [{
            'username': 'admin', 'password': keystone.password,
            'project_name': 'admin', 'domain_name': 'Default',
            'types': ['admin'], 'roles': ['admin']}]))
        wsgi.write_conf(folder / 'tempest.conf', {
            'auth': {
                'use_dynamic_credentials': 'false',
                'test_accounts_file': accounts, 'tempest_roles': 'member',
                'admin_username': 'admin', 'admin_project_name': 'admin',
                'admin_password': keystone.password,
                'admin_domain_name': 'Default'},
            'identity': {'uri_v3': keystone.url, 'region': _REGION},
            'image': {
                'region': _REGION, 'build_timeout': 60, 'build_interval': 0,
                'http_image': image, 'http_qcow2_image': image,
                'image_caching_enabled': 'true'},
            'image-feature-enabled': {
                'manage_locations': 'true', 'http_store_enabled': 'true',
                'store_weight_enabled': 'true'},
            'service_available': dict.fromkeys(
                ('cinder', 'neutron', 'nova', 'swift', 'horizon'), 'false'),
            'oslo_concurrency': {'lock_path': folder / 'locks'},
        })

    def make_users(self):
        """Make users, and return them as tempest's file of accounts does."""
        keystone = keystone_client.Client(session=base.session())
        roles = {role.name: role for role in keystone.roles.list()}
        projects, accounts = {}, []
        for name, project, role in _USERS:
            if project not in projects:
                projects[project] = keystone.projects.create(
                    project, 'default')
                self.addCleanup(keystone.projects.delete, projects[project])
            password = secrets.token_hex(12)
            user = keystone.users.create(name, 'default', password=password)
            self.addCleanup(keystone.users.delete, user)
            keystone.roles.grant(roles[role], user=user,
                                 project=projects[project])
            accounts.append({
                'username': name, 'password': password,
                'project_name': project, 'domain_name': 'Default',
                'roles': [role]})
        return accounts
