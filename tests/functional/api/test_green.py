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


"""Native threads ask the database of a glance-api that eventlet has patched.

No cluster is needed: the store is set up, and not used.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sqlite3
import subprocess
import textwrap
import uuid

import fixtures
from oslotest import base

from lab import process
from lab import wsgi
from tests import releases

# What each process has a native thread do: it asks again and again.
_HOOK = """
    import os
    import sys

    def ask():
        from eventlet import patcher
        sleep = patcher.original('time').sleep
        while 'glance.api.v2.router' not in sys.modules:
            sleep(0.2)
        from glance_dcn.runtime import green
        from glance_dcn.runtime import native
        from glance_dcn.runtime import process

        def image():
            from glance import context
            from glance import db
            where.append(native.thread_id())
            return db.get_api().image_get(
                context.get_admin_context(show_deleted=True),
                os.environ['IMAGE'], force_show_deleted=True)
        # It is when the first store is set up.
        while not process.get(green.Bridge).started:
            sleep(0.2)
        while True:
            where = []
            try:
                found = green.call(image, timeout=20)
                if where[0] == native.thread_id() or not native.patched():
                    text = 'not in the hub'
                else:
                    text = found['id']
            except Exception as exc:
                text = repr(exc)
            with open(os.environ['ANSWERS'], 'a') as file:
                file.write('%d %s\\n' % (os.getpid(), text))
            sleep(1)

    def begin():
        from eventlet import patcher
        patcher.original('_thread').start_new_thread(ask, ())

    if any(arg.endswith('/glance-api') for arg in sys.orig_argv):
        begin()
        os.register_at_fork(after_in_child=begin)
    """


@releases.before(33)
class QuestionsTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.image = str(uuid.uuid4())
        self.answers = self.folder / 'answers'
        self.url = 'http://127.0.0.1:%d' % process.free_port()
        hook = self.folder / 'hook'
        hook.mkdir()
        (hook / 'sitecustomize.py').write_text(textwrap.dedent(_HOOK))
        self.env = {**os.environ, 'IMAGE': self.image,
                    'ANSWERS': str(self.answers), 'PYTHONPATH': str(hook),
                    'PYTHONWARNINGS': 'ignore'}

    def configure(self, workers: int) -> pathlib.Path:
        etc, database = self.folder / 'etc', self.folder / 'sqlite'
        conf = self.folder / 'ceph.conf'
        conf.write_text('[global]\nfsid = %s\nmon_host = 127.0.0.1:1\n'
                        % uuid.uuid4())
        for name in ('staging', 'tasks'):
            (self.folder / name).mkdir(exist_ok=True)
        wsgi.write_conf(etc / 'glance-api.conf', {
            'DEFAULT': {
                'enabled_backends': 'central:dcn', 'bind_host': '127.0.0.1',
                'log_file': self.folder / 'log',
                'bind_port': self.url.rpartition(':')[2], 'workers': workers,
                'worker_self_reference_url': self.url},
            'database': {'connection': 'sqlite:///%s' % database},
            'glance_store': {'default_backend': 'central'},
            'central': {'rbd_store_ceph_conf': conf,
                        'rbd_store_pool': 'images',
                        'rados_connect_timeout': 2},
            'os_glance_staging_store': {
                'filesystem_store_datadir': self.folder / 'staging'},
            'os_glance_tasks_store': {
                'filesystem_store_datadir': self.folder / 'tasks'},
            'oslo_concurrency': {'lock_path': self.folder},
            'paste_deploy': {'config_file': wsgi.BIN.parent / (
                'etc/glance/glance-api-paste.ini')}})
        process.run([wsgi.BIN / 'glance-manage', '--config-dir', etc,
                     'db_sync'])
        with sqlite3.connect(database) as connection:
            connection.execute(
                'INSERT INTO images (id, status, visibility, created_at, '
                'updated_at, deleted, min_disk, min_ram, protected, '
                'os_hidden) VALUES (?, "active", "private", ?, ?, 0, 0, 0, '
                '0, 0)', (self.image, *['2026-01-01 00:00:00'] * 2))
        return etc

    def asked(self) -> dict[int, set[str]]:
        """Return the answers that each process was given."""
        found: dict[int, set[str]] = {}
        if self.answers.exists():
            for line in self.answers.read_text().splitlines():
                pid, _space, text = line.partition(' ')
                found.setdefault(int(pid), set()).add(text)
        return found

    def check(self, workers: int, processes: int) -> None:
        """See that the threads of all processes are answered."""
        etc = self.configure(workers)
        with open(self.folder / 'output', 'w') as output:
            glance = subprocess.Popen(
                [wsgi.BIN / 'glance-api', '--config-dir', etc], env=self.env,
                stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True)
        self.addCleanup(glance.wait)
        self.addCleanup(os.killpg, glance.pid, signal.SIGKILL)
        process.wait_for('all processes have asked',
                         lambda: len(self.asked()) == processes, 120)
        # What is proved at the start is proved in the hub as well.
        process.wait_for('the interfaces of Glance', lambda: (
            'private interfaces that glance_dcn builds on'
            in (self.folder / 'log').read_text()), 120)
        self.assertNotIn('glance_dcn cannot use',
                         (self.folder / 'log').read_text())
        # The hub serves requests as ever.
        process.wait_for('an answer', lambda: wsgi.answers(
            self.url + '/healthcheck'), 120)
        self.assertEqual([{self.image}] * processes,
                         list(self.asked().values()))

    def test_one_process(self) -> None:
        self.check(0, 1)

    def test_forked_workers_and_their_parent(self) -> None:
        self.check(2, 3)
