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

from glance_dcn.runtime import green
from glance_dcn.runtime import process
from glance_dcn.upstream import glance_db
from tests import runtimes
from tests.unit.upstream import hubs

URI = 'rbd://fsid/images/%s/snap'
KEY = '0123456789abcdef'
Location = glance_db.Location


class DatabaseTestCase(base.BaseTestCase):
    """A database in a file, and an image."""

    def setUp(self):
        super().setUp()
        self.image = str(uuid.uuid4())
        self.uri = URI % self.image
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
        self.database = glance_db.of(cfg.CONF)

    def create(self, *uris, status='active', **properties):
        self.api.image_create(self.context, {
            'id': self.image, 'status': status, 'properties': properties,
            'locations': [{'url': uri, 'metadata': {}, 'status': 'active'}
                          for uri in uris]})

    def update(self, **values):
        self.api.image_update(self.context, self.image, values)

    def drop(self, uri, status='deleted'):
        """Drop a location as Glance does."""
        image = self.api.image_get(self.context, self.image)
        known, = (location['id'] for location in image['locations']
                  if location['url'] == uri)
        self.api.image_location_delete(self.context, self.image, known,
                                       status)

    def ask(self, uri=None):
        return self.database.ask(self.image, uri or self.uri)


class TestGlanceDatabase(DatabaseTestCase):

    def assertAnswer(self, location, permits, settled=True, was_named=True,
                     uri=None):
        answer = self.ask(uri)
        self.assertEqual((location, settled, was_named), (
            answer.location, answer.settled, answer.was_named))
        self.assertIs(permits, answer.permits_removal)

    def test_image_that_was_never_there(self):
        self.assertAnswer(Location.UNKNOWN, permits=False, settled=False,
                          was_named=False)

    def test_image_that_was_purged(self):
        # By "glance-manage db purge"; another Glance's looks the same.
        self.create(self.uri)
        self.api.image_destroy(self.context, self.image)
        self.api.purge_deleted_rows(self.context, age_in_days=0, max_rows=9)
        self.api.purge_deleted_rows_from_images(self.context, age_in_days=0,
                                                max_rows=9)
        self.assertAnswer(Location.UNKNOWN, permits=False, settled=False,
                          was_named=False)

    def test_location(self):
        self.create('file:///x', self.uri)
        self.assertAnswer(Location.NAMED, permits=False)

    def test_location_that_was_never_there(self):
        self.create(self.uri)
        for other in (self.uri + 'x', self.uri[:-1], URI % uuid.uuid4()):
            self.assertAnswer(Location.NOT_NAMED, permits=True,
                              was_named=False, uri=other)

    def test_location_that_was_dropped(self):
        self.create(self.uri, 'file:///x')
        self.drop(self.uri)
        self.assertAnswer(Location.NOT_NAMED, permits=True)
        self.assertAnswer(Location.NAMED, permits=False, uri='file:///x')

    def test_location_that_was_dropped_and_added_again(self):
        self.create(self.uri)
        self.drop(self.uri)
        self.api.image_location_add(self.context, self.image, {
            'url': self.uri, 'metadata': {}, 'status': 'active'})
        self.assertAnswer(Location.NAMED, permits=False)

    def test_location_whose_deletion_is_delayed(self):
        self.create(self.uri)
        self.drop(self.uri, 'pending_delete')
        self.assertAnswer(Location.NAMED, permits=False)

    def test_encrypted_location(self):
        cfg.CONF.set_override('metadata_encryption_key', KEY)
        self.create(crypt.urlsafe_encrypt(KEY, self.uri))
        self.assertAnswer(Location.NAMED, permits=False)
        self.assertAnswer(Location.NOT_NAMED, permits=True, was_named=False,
                          uri=self.uri + 'x')

    def test_encrypted_location_that_was_dropped(self):
        cfg.CONF.set_override('metadata_encryption_key', KEY)
        encrypted = crypt.urlsafe_encrypt(KEY, self.uri)
        self.create(encrypted)
        self.drop(encrypted)
        self.assertAnswer(Location.NOT_NAMED, permits=True)

    def test_deleted_image(self):
        self.create(self.uri)
        self.api.image_destroy(self.context, self.image)
        self.assertAnswer(Location.DELETED, permits=True)
        self.assertAnswer(Location.DELETED, permits=True, was_named=False,
                          uri=self.uri + 'x')

    def test_image_that_may_be_given_back(self):
        self.create(self.uri, status='pending_delete')
        self.assertAnswer(Location.NAMED, permits=False)
        # As Glance leaves it where deletion is delayed.
        self.api.image_destroy(self.context, self.image)
        self.assertAnswer(Location.NAMED, permits=False)

    def test_settled_by_status(self):
        self.create()
        for status, settled in (
                ('queued', True), ('saving', False), ('uploading', False),
                ('importing', False), ('active', True), ('killed', True),
                ('deactivated', True)):
            self.update(status=status)
            self.assertAnswer(Location.NOT_NAMED, permits=settled,
                              settled=settled, was_named=False)

    def test_settled_by_the_lock_of_imports(self):
        self.create(os_glance_import_task='task')
        self.assertAnswer(Location.NOT_NAMED, permits=False, settled=False,
                          was_named=False)
        self.api.image_delete_property_atomic(
            self.image, 'os_glance_import_task', 'task')
        self.assertAnswer(Location.NOT_NAMED, permits=True, was_named=False)
        self.api.image_set_property_atomic(
            self.image, 'os_glance_import_task', 'another')
        self.assertAnswer(Location.NOT_NAMED, permits=False, settled=False,
                          was_named=False)

    def test_deleted_image_that_was_locked(self):
        self.create(os_glance_import_task='task')
        self.api.image_destroy(self.context, self.image)
        answer = self.ask()
        self.assertEqual(Location.DELETED, answer.location)
        self.assertTrue(answer.permits_removal)

    def test_database_that_does_not_answer(self):
        self.useFixture(fixtures.MonkeyPatch(
            'glance.db.sqlalchemy.api.image_get', lambda *args, **kwargs:
            1 / 0))
        self.assertRaises(ZeroDivisionError, self.ask)

    def test_process_that_eventlet_has_patched(self):
        # It is asked through the hub, of which there is none here.
        self.useFixture(runtimes.Runtime())
        self.assertTrue(self.database.available)
        process.put(hubs.NoHub(), green.Bridge)
        self.assertRaises(green.Unavailable, self.ask)


class TestOf(base.BaseTestCase):

    def test_not_a_glance(self):
        self.assertIsNone(glance_db.of(cfg.ConfigOpts()))


class TestAnswer(base.BaseTestCase):

    def test_what_permits_a_removal(self):
        permitted = {(location, settled) for location in Location
                     for settled in (True, False)
                     if glance_db.Answer(location, settled).permits_removal}
        self.assertEqual({(Location.NOT_NAMED, True),
                          (Location.DELETED, True),
                          (Location.DELETED, False)}, permitted)


class TestLocations(DatabaseTestCase):

    def setUp(self):
        super().setUp()
        self.create(*('rbd://%s/images/%s/snap' % (store, self.image)
                      for store in ('central', 'dcn0', 'dcn1')))

    def test_dropped(self):
        first, *others = sorted(self.database.location_ids(self.image))
        for _again in range(2):
            self.database.drop_location(self.image, first)
            self.assertEqual(set(others),
                             self.database.location_ids(self.image))

    def test_of_no_image(self):
        self.assertEqual(set(), self.database.location_ids(str(uuid.uuid4())))
