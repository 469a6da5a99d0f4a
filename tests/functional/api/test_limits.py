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

"""Limits that Keystone has for a project: what they refuse leaves nothing."""

import uuid

from keystoneclient.v3 import client as keystone_client

from lab import process
from tests.functional.api import base
from tests.functional.api import client
from tests import releases

_REGION = 'limits'
_MANY = 1000
_NAMES = ('image_size_total', 'image_stage_total', 'image_count_total',
          'image_count_uploading')


@releases.since(33)
class KeystoneLimitsTest(base.OwnGlanceTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        lab = base.lab()
        # Glance reads the identity of its endpoint at its start, and what URL
        # that has is not asked.
        lab.keystone.register_endpoint(_REGION, 'http://127.0.0.1:9/%s'
                                       % uuid.uuid4())
        cls.addClassCleanup(cls.forget)
        cls.keystone = keystone_client.Client(session=base.session())
        endpoint = cls.keystone.endpoints.list(
            region_id=_REGION, interface='public')[0]
        cls.limits = {name: cls.keystone.registered_limits.create(
            endpoint.service_id, name, _MANY, region=_REGION)
            for name in _NAMES}
        cls.start_own(base.rbd_stores(), overrides={
            'DEFAULT': {'use_keystone_limits': 'true'},
            'image_import_opts': {
                'image_import_plugins': '[dcn_distributed_staging]'},
            'oslo_limit': {
                'auth_type': 'password', 'auth_url': lab.keystone.url,
                'username': 'admin', 'password': lab.keystone.password,
                'user_domain_name': 'Default', 'system_scope': 'all',
                'endpoint_id': endpoint.id}})

    @classmethod
    def forget(cls):
        for limit in cls.keystone.registered_limits.list(region=_REGION):
            cls.keystone.registered_limits.delete(limit)
        for endpoint in cls.keystone.endpoints.list(region_id=_REGION):
            cls.keystone.endpoints.delete(endpoint)
        cls.keystone.regions.delete(_REGION)

    def limit(self, name, value):
        """Set a limit until the end of the test."""
        self.keystone.registered_limits.update(self.limits[name],
                                               default_limit=value)
        if value != _MANY:
            self.addCleanup(self.limit, name, _MANY)

    def usage(self):
        """Return what Glance counts of the project, by limit."""
        found = self.api.request('GET', '/v2/info/usage').json()['usage']
        return {name: each['usage'] for name, each in found.items()}

    def assertIdle(self, image_id, *stores):
        image = self.api.images.get(image_id)
        for name in ('os_glance_importing_to_stores', 'os_glance_import_task'):
            self.assertFalse(image.get(name), image)
        self.assertEqual(set(stores), client.stores_of(image))
        usage = self.usage()
        self.assertEqual((0, 0), (usage['image_stage_total'],
                                  usage['image_count_uploading']))
        self.assertEqual([], self.own.worker.staged())

    def refused(self, image_id, **kwargs):
        """Ask for an import that is over a limit."""
        answer = self.api.request(
            'POST', '/v2/images/%s/import' % image_id, json=kwargs)
        self.assertIn(answer.status_code, (202, 413), answer.text)
        self.wait_for_tasks(image_id)

    def wait_for_tasks(self, image_id):
        process.wait_for('tasks', lambda: {
            task['status'] for task in self.api.tasks(image_id).values()}
            <= {'success', 'failure'}, 30)

    def test_copy(self):
        data = base.random_data(3 * base.MiB)
        image_id = self.uploaded(self.api, data, 'central')
        for name, value in (('image_stage_total', 1),
                            ('image_count_uploading', 0)):
            self.limit(name, value)
            self.refused(image_id, method={'name': 'copy-image'},
                         stores=['dcn0', 'dcn1'])
            self.assertIdle(image_id, 'central')
            self.limit(name, _MANY)
        self.api.images.image_import(image_id, 'copy-image',
                                     stores=['dcn0', 'dcn1'])
        self.api.wait(image_id, 'central', 'dcn0', 'dcn1')
        self.assertIdle(image_id, 'central', 'dcn0', 'dcn1')

    def test_staged_import(self):
        image_id = self.new_image(self.api)
        self.api.stage(image_id, base.random_data(3 * base.MiB))
        self.limit('image_size_total', 1)
        self.refused(image_id, method={'name': 'glance-direct'},
                     stores=['central', 'dcn0'])
        # It is queued again, and has to be staged again.
        process.wait_for('the staged file to be removed',
                         lambda: not self.own.worker.staged(), 30)
        self.assertIdle(image_id)
        self.limit('image_size_total', _MANY)
        self.api.stage(image_id, base.random_data(3 * base.MiB))
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=['central', 'dcn0'])
        self.api.wait(image_id, 'central', 'dcn0')
        self.assertIdle(image_id, 'central', 'dcn0')
