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

"""Asking a Glance database; a real one, in a file."""

import pathlib
import uuid

import fixtures
from glance.common import config
from glance.common import crypt
from glance import context
from glance import db
from glance.db.sqlalchemy import models
from oslo_config import cfg
from oslo_db import options as db_options
from oslotest import base

from glance_dcn import catalog

URI = 'rbd://fsid/images/%s/snap'
KEY = '0123456789abcdef'


class TestCatalog(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch('glance_dcn.catalog._conf',
                                             None))
        self.image = str(uuid.uuid4())
        self.uri = URI % self.image

    def use_glance(self):
        """Set a database up as Glance has it."""
        config.parse_args(args=[], default_config_files=[])
        self.addCleanup(cfg.CONF.reset)
        self.addCleanup(cfg.CONF.clear_override, 'connection', 'database')
        self.addCleanup(cfg.CONF.clear_override, 'metadata_encryption_key')
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        db_options.set_defaults(cfg.CONF)
        cfg.CONF.set_override('connection', 'sqlite:///%s/glance.db' % folder,
                              group='database')
        from glance.db.sqlalchemy import api
        # The latter in Glance 26.
        for name in ('_main_context_manager', '_FACADE'):
            if hasattr(api, name):
                self.useFixture(fixtures.MonkeyPatch(
                    'glance.db.sqlalchemy.api.' + name, None))
        self.api = db.get_api()
        models.register_models(api.get_engine())
        self.context = context.get_admin_context()
        self.assertTrue(catalog.use(cfg.CONF))

    def create(self, *uris, status='active'):
        self.api.image_create(self.context, {
            'id': self.image, 'status': status, 'locations': [
                {'url': uri, 'metadata': {}, 'status': 'active'}
                for uri in uris]})

    def ask(self):
        return catalog.ask(self.image, self.uri)

    def test_not_a_glance(self):
        self.assertFalse(catalog.use(cfg.ConfigOpts()))
        self.assertFalse(catalog.present())
        self.assertEqual(catalog.NOBODY, self.ask())

    def test_image_that_was_never_there(self):
        self.use_glance()
        self.assertEqual(catalog.UNKNOWN, self.ask())

    def test_location(self):
        self.use_glance()
        self.create('file:///x', self.uri)
        self.assertEqual(catalog.NAMED, self.ask())
        self.assertEqual(catalog.NOT_NAMED,
                         catalog.ask(self.image, self.uri + 'x'))

    def test_location_that_was_dropped(self):
        self.use_glance()
        self.create(self.uri)
        image = self.api.image_get(self.context, self.image)
        self.api.image_location_delete(
            self.context, self.image, image['locations'][0]['id'], 'deleted')
        self.assertEqual(catalog.NOT_NAMED, self.ask())

    def test_encrypted_location(self):
        self.use_glance()
        cfg.CONF.set_override('metadata_encryption_key', KEY)
        self.create(crypt.urlsafe_encrypt(KEY, self.uri))
        self.assertEqual(catalog.NAMED, self.ask())

    def test_deleted_image(self):
        self.use_glance()
        self.create(self.uri)
        self.api.image_destroy(self.context, self.image)
        self.assertEqual(catalog.DELETED, self.ask())

    def test_image_that_may_be_given_back(self):
        self.use_glance()
        self.create(self.uri, status='pending_delete')
        self.assertEqual(catalog.NAMED, self.ask())
        # As Glance leaves it where deletion is delayed.
        self.api.image_destroy(self.context, self.image)
        self.assertEqual(catalog.NAMED, self.ask())

    def test_database_that_does_not_answer(self):
        self.use_glance()
        self.useFixture(fixtures.MonkeyPatch(
            'glance.db.sqlalchemy.api.image_get', lambda *args, **kwargs:
            1 / 0))
        self.assertRaises(ZeroDivisionError, self.ask)
