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


"""A Glance database for tests: a real one, in a file."""

import contextlib
import pathlib
import threading

import fixtures
from glance.common import config
from glance import context
from glance import db
from glance.db.sqlalchemy import models
from oslo_config import cfg
from oslo_db import options as db_options
from sqlalchemy import event

from glance_dcn.imports import heartbeat
from glance_dcn.runtime import process

URL = 'http://worker-1.example:9292'


class Database(fixtures.Fixture):
    """Sets up the database that Glance's modules use until the test ends.

    :ivar api: Glance's database API
    """

    def _setUp(self):
        config.parse_args(args=[], default_config_files=[])
        self.addCleanup(cfg.CONF.reset)
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        db_options.set_defaults(cfg.CONF)
        for name, value, group in (
                ('connection', 'sqlite:///%s/glance.db' % folder, 'database'),
                ('worker_self_reference_url', URL, None)):
            self.addCleanup(cfg.CONF.clear_override, name, group)
            cfg.CONF.set_override(name, value, group)
        from glance.db.sqlalchemy import api
        # The latter in Glance 26.
        for name in ('_main_context_manager', '_FACADE'):
            if hasattr(api, name):
                self.useFixture(fixtures.MonkeyPatch(
                    'glance.db.sqlalchemy.api.%s' % name, None))
        self.api = db.get_api()
        models.register_models(api.get_engine())
        self._context = context.get_admin_context()

    def add_image(self, image_id, status, stores=(), properties=None,
                  **values):
        """Add an image.

        :param stores: where it is located
        """
        self.api.image_create(self._context, dict({
            'id': image_id, 'status': status, 'owner': 'somebody',
            'disk_format': 'qcow2', 'container_format': 'bare',
            'properties': properties or {}, 'locations': [
                {'url': 'file:///none/%s' % store, 'status': 'active',
                 'metadata': {'store': store}} for store in stores]},
            **values))

    def add_task(self, task_id, image_id, method, stores,
                 status='processing'):
        """Add a task of an import."""
        self.api.task_create(self._context, {
            'id': task_id, 'type': 'api_image_import', 'status': status,
            'owner': 'somebody', 'image_id': image_id, 'message': '',
            'user_id': 'user', 'request_id': 'req', 'input': {
                'image_id': image_id, 'backend': list(stores),
                'import_req': {'method': {'name': method}}}})

    def before(self, function, *statements):
        """Have a function called once, by a thread, before a statement.

        :param statements: what it and those before it begin with
        """
        left = list(statements)

        def call(_connection, _cursor, text, *unused):
            if left and text.startswith(left[0]):
                del left[0]
                if not left:
                    # Glance has one transaction in each thread.
                    thread = threading.Thread(target=function)
                    thread.start()
                    thread.join()
        event.listen(self.api.get_engine(), 'before_cursor_execute', call)

    @contextlib.contextmanager
    def away(self, statement=''):
        """Have statements of a kind fail, as a database that is away."""
        def refuse(_connection, _cursor, text, *unused):
            if text.startswith(statement):
                raise OSError('no database')
        engine = self.api.get_engine()
        event.listen(engine, 'before_cursor_execute', refuse)
        try:
            yield
        finally:
            event.remove(engine, 'before_cursor_execute', refuse)

    def before_commit(self, function):
        """Have a function called before each commit but its own."""
        begun = []

        def call(_connection):
            if not begun:
                begun.append(True)
                function()
                begun.pop()
        event.listen(self.api.get_engine(), 'commit', call)

    def delete_image(self, image_id):
        """Delete an image's record."""
        self.api.image_destroy(self._context, image_id)

    def delete_task(self, task_id):
        """Delete a task's record."""
        self.api.task_delete(self._context, task_id)


class _Watch(heartbeat.Watch):
    """Checks when it is told to."""

    def __init__(self):
        super().__init__()
        self.start = lambda: None


class Watch(fixtures.Fixture):
    """A watch of this process that has no thread."""

    def _setUp(self):
        process.put(_Watch(), heartbeat.Watch)
        self.addCleanup(process.remove, heartbeat.Watch)
