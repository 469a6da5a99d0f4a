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

"""What is read of Glance's database: its own tables, on sqlite."""

import datetime
import json
import types
import uuid

import fixtures
from glance.db.sqlalchemy import models
from oslo_config import fixture as config
from oslotest import base
import sqlalchemy

from glance_dcn.engine import transfer
from glance_dcn.imports import active_imports
from glance_dcn.imports import copy_image
from glance_dcn.imports import journal
from glance_dcn.sites import targets as targets_
from glance_dcn.status import inventory

_SOME_TIME = datetime.datetime(2026, 11, 21, 14, 0)


class Database(fixtures.Fixture):
    """A Glance database in memory, which is the one that is asked."""

    def _setUp(self):
        self.engine = sqlalchemy.create_engine(
            'sqlite://', poolclass=sqlalchemy.pool.StaticPool)
        self.addCleanup(self.engine.dispose)
        models.BASE.metadata.create_all(self.engine)
        self.useFixture(fixtures.MonkeyPatch(
            'glance.db.sqlalchemy.api.get_engine', lambda: self.engine))

    def insert(self, model, **values):
        with self.engine.begin() as connection:
            connection.execute(model.__table__.insert().values(
                created_at=_SOME_TIME, deleted=values.pop('deleted', False),
                **values))

    def add(self, *stores, name='fedora', status='active', size=10,
            deleted=False, importing=(), failed=(), **more):
        """Add an image and return its ID."""
        image = more.pop('id', None) or str(uuid.uuid4())
        self.insert(models.Image, id=image, name=name, status=status,
                    size=size, visibility='private', os_hidden=False,
                    min_disk=0, min_ram=0, protected=False, deleted=deleted,
                    **more)
        for store in stores:
            self.locate(image, store)
        for key, value in ((inventory.IMPORTING, importing),
                           (inventory.FAILED, failed)):
            self.insert(models.ImageProperty, image_id=image, name=key,
                        value=','.join(value))
        return image

    def locate(self, image, store, **values):
        self.insert(models.ImageLocation, **dict({
            'image_id': image, 'value': 'rbd://f/images/%s/snap' % image,
            'meta_data': {'store': store}, 'status': 'active'}, **values))


class TestInventory(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.database = self.useFixture(Database())

    def test_empty(self):
        found = inventory.totals()
        self.assertEqual(({}, 0, 0), (found.images, found.data,
                                      found.missing('edge')))
        self.assertEqual(([], 0), inventory.images(inventory.Filter(), 10))
        self.assertEqual([], inventory.transfers())
        self.assertEqual(0, inventory.count())

    def test_totals(self):
        add = self.database.add
        add('central', 'edge', size=5)
        add('central', size=7, importing=['edge'], failed=['far'])
        add('central', size=9, deleted=True, failed=['edge'])
        add(status='queued', size=None)
        gone = add(size=1)
        self.database.locate(gone, 'edge', deleted=True)
        self.database.locate(gone, 'far', status='pending_delete')
        found = inventory.totals()
        self.assertEqual({'active': 3, 'queued': 1}, found.images)
        self.assertEqual(13, found.data)
        self.assertEqual({'central': 2, 'edge': 1}, found.present)
        self.assertEqual({'central': 12, 'edge': 5}, found.stored)
        self.assertEqual({'edge': 1}, found.importing)
        self.assertEqual({'far': 1}, found.failed)
        self.assertEqual((1, 2, 3), (
            found.missing('central'), found.missing('edge'),
            found.missing('far')))
        self.assertEqual(4, inventory.count())

    def test_places(self):
        first = self.database.add('central', size=5)
        self.database.add('central', size=7)
        self.database.locate(first, 'edge', value='rbd://g/p/%s/snap' % first)
        self.database.locate(first, 'web', value='http://x')
        expected = {'central': {'rbd://f/images': (2, 12)},
                    'edge': {'rbd://g/p': (1, 5)}, 'web': {'': (1, 5)}}
        self.assertEqual(expected, inventory.totals().places)
        self.assertEqual({'rbd://g/p/%s/snap' % first},
                         inventory.locations()['edge'])
        [image, _other], _number = inventory.images(
            inventory.Filter(site='central'), 10)
        self.assertIn(image.places['central'],
                      inventory.locations()['central'])

    def test_places_that_are_encrypted(self):
        from glance.common import config as _registers  # noqa: F401
        from glance.common import crypt
        key = 'k' * 16
        self.useFixture(config.Config()).config(metadata_encryption_key=key)
        image = self.database.add(size=5)
        uri = 'rbd://g/p/%s/snap' % image
        self.database.locate(image, 'edge',
                             value=crypt.urlsafe_encrypt(key, uri))
        self.assertEqual({'edge': {'rbd://g/p': (1, 5)}},
                         inventory.totals().places)
        self.assertEqual({'edge': {uri}}, inventory.locations())
        self.assertEqual({'edge': uri}, inventory.images(
            inventory.Filter(), 10)[0][0].places)

    def images(self, limit=10, **wanted):
        found, number = inventory.images(inventory.Filter(**wanted), limit)
        return [image.id for image in found], number

    def test_filters(self):
        add = self.database.add
        one = add('central', 'dcn1', name='a')
        two = add('central', 'dcn10', name='b_%', owner='me')
        three = add(name='c', status='queued')
        self.assertEqual(([one, two, three], 3), self.images())
        self.assertEqual(([one], 3), self.images(limit=1))
        self.assertEqual(([two], 1), self.images(image=two))
        self.assertEqual(([two], 1), self.images(name='_%'))
        self.assertEqual(([], 0), self.images(name='_a'))
        self.assertEqual(([two], 1), self.images(owner='me'))
        self.assertEqual(([three], 1), self.images(status='queued'))
        # No name is taken for a part of another one.
        self.assertEqual(([one], 1), self.images(site='dcn1'))
        self.assertEqual(([two], 1), self.images(missing='dcn1'))
        self.assertEqual(([], 0), self.images(missing='central'))
        self.assertEqual(([], 0), self.images(site='dcn1', missing='central'))

    def test_id_in_upper_case(self):
        """A user may give an image such an ID, and an operator type it."""
        low, high = str(uuid.uuid4()), str(uuid.uuid4()).upper()
        for image in (low, high):
            self.database.add(id=image)
            for typed in (image.lower(), image.upper()):
                self.assertEqual(([image], 1), self.images(image=typed))

    def test_where_images_are(self):
        self.database.add('central', 'edge', importing=['far', 'near'],
                          failed=['away'])
        (image,), _number = inventory.images(inventory.Filter(), 10)
        self.assertEqual(({'central', 'edge'}, {'far', 'near'}, {'away'}),
                         (image.present, image.importing, image.failed))

    def test_location_of_no_store(self):
        image = self.database.add()
        self.database.locate(image, None)
        self.database.locate(image, 'edge', meta_data={})
        self.assertEqual({}, inventory.totals().present)

    def test_location_of_no_store_is_at_no_site(self):
        image = self.database.add('central', size=5)
        self.database.locate(image, None)
        [found], _number = inventory.images(inventory.Filter(), 10)
        self.assertEqual({'central'}, found.present)
        self.assertEqual(['central'], list(found.places))
        self.assertEqual(['central'], list(inventory.totals().places))
        self.assertEqual(['central'], list(inventory.locations()))

    def test_transfers(self):
        image = self.database.add('central')
        for task, status, message in (
                ('t1', 'processing', 'Copying: 42 %, 9 MiB/s; edge: 4 MiB'),
                ('t2', 'success', 'Copied'),
                ('t3', 'processing', None)):
            self.database.insert(
                models.Task, id=task, type='api_image_import', status=status,
                owner='me', image_id=image)
            with self.database.engine.begin() as connection:
                connection.execute(models.TaskInfo.__table__.insert().values(
                    task_id=task, message=message))
        self.assertEqual(
            [('t1', image, 42, '2026-11-21T14:00:00Z'),
             ('t3', image, None, '2026-11-21T14:00:00Z')],
            [(found.task, found.image, found.percent, found.begun)
             for found in inventory.transfers()])

    def transfer(self, message):
        return inventory._transfer('t', 'i', message, None, None)

    def test_percent_of_each_store(self):
        found = self.transfer('Storing the image: central: 100 %, '
                              'dcn1: 12 %, dcn10: 7 %')
        self.assertEqual(
            [100, 12, 7, None, None],
            [found.percent_of(store) for store in
             ('central', 'dcn1', 'dcn10', 'dcn', 'dcn2')])
        self.assertEqual(7, found.percent)

    def test_percent_of_all_stores_at_once(self):
        for message, percent in (
                ('Copying: 42 %, 9 MiB/s; dcn0: 12 MiB, dcn1: 3 MiB', 42),
                ('Staging the image: 25 %', 25),
                ('Staging the image: 25 MiB', None),
                ('Storing the image', None), (None, None)):
            found = self.transfer(message)
            self.assertEqual((percent, percent, {}), (
                found.percent, found.percent_of('dcn0'), found.percents))

    def test_messages_are_told_as_they_are_understood(self):
        # What the two who say how far stores are really say.
        going_on = active_imports.Import(types.SimpleNamespace(
            entry=types.SimpleNamespace(phase=journal.STORING)))
        going_on.parts.update(dcn1=1, dcn10=.5)
        self.assertEqual({'dcn1': 100, 'dcn10': 50},
                         self.transfer(going_on.message()).percents)
        progress = transfer.Progress(
            bytes_read=1, planned=4, listed=True, position=0, size=0, data=0,
            written={'dcn0: images/x': 0})
        found = self.transfer(copy_image._Message(['dcn0']).update(
            targets_.Standing(progress, fraction=.25, done=0, running=1,
                              waiting=0, failed=0, stragglers=['dcn1'],
                              left=75)))
        self.assertEqual((25, {}), (found.percent_of('dcn0'), found.percents))

    def test_glance_keeps_stores_as_it_is_thought(self):
        # The filters look for this text.
        self.database.add('dcn1')
        with self.database.engine.connect() as connection:
            text = connection.execute(sqlalchemy.text(
                'select meta_data from image_locations')).scalar()
        self.assertEqual({'store': 'dcn1'}, json.loads(text))
        self.assertIn('"store": "dcn1"', text)
