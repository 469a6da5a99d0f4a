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

"""Periodic work in the processes of a real uWSGI."""

import pathlib
import subprocess
import tempfile

from oslotest import base

from lab import process
from lab import wsgi

_ROOT = pathlib.Path(__file__).parents[2]
_APPLICATION = '''
import os

from glance_dcn.runtime import periodic


def note():
    open(os.path.join(%r, str(os.getpid())), 'a').write('x')


periodic.Periodic('note', note, 0.1).start()


def application(environ, start_response):
    start_response('200 OK', [])
    return []
'''


class UwsgiTest(base.BaseTestCase):

    def workers_that_ran(self, *options):
        """Start two workers; return who they are, and who ran it."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        notes = pathlib.Path(folder, 'notes')
        notes.mkdir()
        pathlib.Path(folder, 'app.py').write_text(_APPLICATION % str(notes))
        daemon = process.Daemon('uwsgi', folder)
        self.addCleanup(daemon.stop)
        daemon.start(
            [wsgi.BIN / 'uwsgi', '--master', '--processes', '2',
             '--enable-threads', '--die-on-term',
             '--virtualenv', wsgi.BIN.parent,
             '--pythonpath', folder, '--pythonpath', _ROOT,
             '--module', 'app:application',
             '--http-socket', '127.0.0.1:%d' % process.free_port(), *options])
        daemon.wait_until(
            lambda: len([path for path in notes.iterdir()
                         if path.stat().st_size > 2]) == 2, 30)
        children = subprocess.run(
            ['pgrep', '-P', str(daemon.pid)], capture_output=True, text=True)
        return (sorted(children.stdout.split()),
                sorted(path.name for path in notes.iterdir()))

    def test_application_loaded_before_the_fork(self):
        workers, ran = self.workers_that_ran()
        self.assertEqual(workers, ran)

    def test_application_loaded_by_each_worker(self):
        workers, ran = self.workers_that_ran('--lazy-apps')
        self.assertEqual(workers, ran)
