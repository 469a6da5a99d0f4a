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

"""What is asked of Glance's database, and for how long."""

import threading

from oslotest import base
import sqlalchemy

from glance_dcn.status import inventory
from glance_dcn.status import snapshot
from tests.unit.status import test_inventory


class TestInventory(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.image = self.useFixture(test_inventory.Database()).add('central')

    def find(self, **wanted):
        """Return the number of images that are meant, and exists."""
        found = snapshot._inventory(inventory.Filter(**wanted), 10)
        return found[2], found[4]

    def test_image_that_is_not_meant(self):
        self.assertEqual((1, True), self.find(image=self.image))
        for more in ({'missing': 'central'}, {'site': 'edge'},
                     {'owner': 'me'}, {'status': 'queued'}, {'name': 'x'}):
            self.assertEqual((0, True), self.find(image=self.image, **more))
            self.assertEqual(True, self.find(**more)[1])

    def test_image_that_is_none(self):
        other = '0a1b2c3d-0000-4000-8000-112233445566'
        self.assertEqual((0, False), self.find(image=other))
        self.assertEqual((0, False), self.find(image=other, site='edge'))


class TestDeadline(base.BaseTestCase):

    def test_table_that_is_locked(self):
        """As while the database is migrated: it answers, and then hangs."""
        unlocked = threading.Event()
        self.addCleanup(unlocked.set)

        def hang():
            unlocked.wait(30)
            raise AssertionError('it was waited for')

        class Database(inventory.Database):
            def ask(self, question, timeout):
                return super().ask(hang, timeout)
        # The whole has no more time than was given.
        exc = self.assertRaises(inventory.DatabaseUnavailable, snapshot.take,
                                [], .25, database=Database())
        self.assertIn('does not answer within 0.25 s', str(exc))

    def test_each_table_answers_before_it_is_counted(self):
        """Many images take longer than a database has to answer at all."""
        asked = []

        class Database:
            def ask(self, question, timeout):
                asked.append((question, timeout))
                return question()
        database = self.useFixture(test_inventory.Database())
        database.add('central')
        found = snapshot.take([], None, database=Database())
        self.assertEqual({'active': 1}, found.totals.images)
        self.assertEqual((inventory.ping, 8), asked[0])
        self.assertEqual([120], [timeout for _each, timeout in asked[1:]])
        for table in ('images', 'image_locations', 'image_properties',
                      'task_info', 'tasks'):
            with database.engine.begin() as connection:
                connection.exec_driver_sql('ALTER TABLE %s RENAME TO x'
                                           % table)
            self.assertRaises(sqlalchemy.exc.OperationalError,
                              inventory.ping)
            with database.engine.begin() as connection:
                connection.exec_driver_sql('ALTER TABLE x RENAME TO %s'
                                           % table)
        inventory.ping()
