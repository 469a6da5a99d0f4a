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

"""A stock Glance: the same Python packages, less glance_dcn."""

import pathlib
import shutil

import fixtures

from lab import glance
from lab import process
from lab import wsgi
from tests.functional.api import base

# Serves Glance, and tells what its process has of the package.
_PROBE = '''\
import importlib.metadata
import importlib.util
import json
import sys

# uWSGI adds the folder it was started in: it may be the source tree.
sys.path[:] = [path for path in sys.path if path not in ('', '.')]

from glance.common import wsgi_app

api = wsgi_app.init_app()


def application(environ, start_response):
    if environ['PATH_INFO'] != '/what-is-installed':
        return api(environ, start_response)
    import glance_store
    answer = json.dumps({
        'drivers': sorted(
            point.name for point in importlib.metadata.entry_points(
                group='glance_store.drivers')),
        'distributions': sorted(
            dist.metadata['Name'].lower().replace('_', '-')
            for dist in importlib.metadata.distributions()),
        'findable': importlib.util.find_spec('glance_dcn') is not None,
        'loaded': sorted(name for name in sys.modules
                         if name.partition('.')[0] == 'glance_dcn'),
        'glance_store': glance_store.__file__,
    })
    start_response('200 OK', [('Content-Type', 'application/json')])
    return [answer.encode()]
'''


class Environment(fixtures.Fixture):
    """A virtual environment of links to all of ours.

    :ivar bin: its folder of programs

    :param ours: whether it has glance_dcn
    """

    def __init__(self, ours=False):
        super().__init__()
        self._ours = ours

    def _setUp(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        ours = wsgi.BIN.parent
        for path in ours.iterdir():
            if path.name not in ('lib', 'lib64'):
                (folder / path.name).symlink_to(path)
        # Python looks for pyvenv.cfg beside the folder of the program it was
        # started as: that must be here.
        (folder / 'bin').unlink()
        self.bin = folder / 'bin'
        self.bin.mkdir()
        for path in wsgi.BIN.iterdir():
            (self.bin / path.name).symlink_to(path.resolve())
        # uWSGI takes the place that its real file is in.
        (self.bin / 'uwsgi').unlink()
        shutil.copy(wsgi.BIN / 'uwsgi', self.bin)
        script = self.bin / 'glance-api'
        if script.exists():
            # It names the interpreter of its environment.
            text = script.read_text().replace(str(wsgi.BIN), str(self.bin), 1)
            script.unlink()
            script.write_text(text)
            script.chmod(0o755)
        for library in (ours / 'lib').glob('python3*'):
            packages = folder / 'lib' / library.name / 'site-packages'
            packages.mkdir(parents=True)
            for path in (library / 'site-packages').iterdir():
                if (self._ours
                        or 'glance_dcn' not in path.name.replace('-', '_')):
                    (packages / path.name).symlink_to(path)
            (packages / 'stock_probe.py').write_text(_PROBE)


class StockGlance(base.OwnGlance):
    """A Glance that cannot have glance_dcn.

    For the parameters see :class:`base.OwnGlance`.
    """

    def _setUp(self):
        environment = self.useFixture(Environment())
        # Whoever is started from here on is of that environment.
        patch = fixtures.MonkeyPatch('lab.wsgi.BIN', environment.bin)
        with patch:
            super()._setUp()

    def make_worker(self, folder, database):
        """Return the worker, with a WSGI module that can be asked."""
        worker = super().make_worker(folder, database)
        worker.service = wsgi.Service(
            'stock-glance', 'stock_probe:application', folder / 'run',
            process.free_port(),
            env={'OS_GLANCE_CONFIG_DIR': str(worker.etc)})
        worker.url = worker.service.url
        return worker

    def installed(self):
        """Return what the running process has installed."""
        answer = self.api.request('GET', '/what-is-installed')
        answer.raise_for_status()
        return answer.json()


def stores():
    """Return the stores of the lab's central Glance, of stock's type.

    The options are those of the ``dcn`` stores, letter for letter.
    """
    return {site: ('rbd', glance.rbd_store(base.lab().cluster(site)))
            for site in base.SITES}
