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

"""A database for a Glance of a test's own."""

import pathlib
import uuid

import fixtures
import sqlalchemy
from sqlalchemy import engine as engines
from sqlalchemy import pool

from lab import database


class Database(fixtures.Fixture):
    """An empty database of the kind that the lab has.

    Glance on sqlite now and then loses what it writes from two threads at
    once, so that an import never begins: a lab for tests has MariaDB.

    :ivar url: its URL

    :param lab: :class:`lab.deployment.Deployment`
    :param folder: where a file may be put
    """

    def __init__(self, lab, folder):
        super().__init__()
        self._lab = lab
        self._folder = pathlib.Path(folder)

    def _setUp(self):
        if isinstance(self._lab.database, database.Sqlite):
            self.url = database.Sqlite(self._folder).url('glance')
            return
        url = engines.make_url(self._lab.database.url('glance'))
        engine = _engine(url)
        name = 'test_%s' % uuid.uuid4().hex
        self._execute(engine, 'CREATE DATABASE %s' % name)
        self.addCleanup(self._execute, engine, 'DROP DATABASE %s' % name)
        self.url = url.set(database=name).render_as_string(
            hide_password=False)

    def make_tables(self, worker=None):
        """Make Glance's tables, all of them empty.

        They are those that glance-manage made for the lab, which would take
        seconds for it to make again.

        :param worker: a :class:`lab.glance.Glance` with this database, which
            sqlite needs
        """
        if isinstance(self._lab.database, database.Sqlite):
            worker.sync_database()
            return
        with _engine(self._lab.database.url('glance')).connect() as lab, \
                _engine(self.url).begin() as own:
            # In no order that references want.
            own.execute(sqlalchemy.text('SET foreign_key_checks = 0'))
            for table, in lab.execute(sqlalchemy.text('SHOW TABLES')):
                _name, statement = lab.execute(sqlalchemy.text(
                    'SHOW CREATE TABLE `%s`' % table)).one()
                own.exec_driver_sql(statement.replace('%', '%%'))
            for version, in lab.execute(sqlalchemy.text(
                    'SELECT version_num FROM alembic_version')):
                own.execute(sqlalchemy.text(
                    'INSERT INTO alembic_version VALUES (:version)'),
                    {'version': version})

    @staticmethod
    def forget_stores(url, image_id):
        """Give an image locations of the oldest form, ``rbd://IMAGE``.

        Which names neither a cluster nor a store.

        :param url: SQLAlchemy URL of Glance's database
        """
        with _engine(url).begin() as connection:
            connection.execute(sqlalchemy.text(
                "UPDATE image_locations SET value = :value, meta_data = '{}' "
                'WHERE image_id = :image'),
                {'value': 'rbd://%s' % image_id, 'image': image_id})

    @staticmethod
    def _execute(engine, statement):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement))


def _engine(url):
    """Return an engine that keeps no connection."""
    return sqlalchemy.create_engine(url, poolclass=pool.NullPool)
