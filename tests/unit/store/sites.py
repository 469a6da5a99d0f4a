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

"""A Glance's stores, as glance_store keeps them, and a folder of sites."""

import os
import pathlib
from unittest import mock

import fixtures
from glance_store import driver as stock
from glance_store import location
from glance_store import multi_backend
from oslo_config import cfg
from oslotest import base

from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.store import config_watch
from glance_dcn.store import driver
from glance_dcn.tasks import queue
from tests import runtimes

FSID = '5f9a3c1e-0000-4000-8000-6b7d2e8f1a90'


class SitesCase(base.BaseTestCase):
    """Has a Glance with one store, central, and an empty folder of sites.

    Threads are not started: the tests do their work.
    """

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.useFixture(runtimes.Runtime())
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.folder = self.root / 'sites'
        self.folder.mkdir(mode=0o755)
        for target in (
                location.SCHEME_TO_CLS_BACKEND_MAP,
                multi_backend._RESERVED_STORES):
            patch = mock.patch.dict(target, clear=True)
            patch.start()
            self.addCleanup(patch.stop)
        periodic.become_master()
        self.tasks = process.get(queue.TaskQueue)
        self.ceph_conf('central')

    def ceph_conf(self, name, fsid=FSID):
        path = self.root / ('%s.ceph' % name)
        path.write_text('[global]\nfsid = %s\nmon_host = v2:127.0.0.1:9\n'
                        % fsid)
        return path

    def start(self, **central):
        """Set the stores up as Glance does."""
        self.write_conf(**central)
        self.conf = cfg.ConfigOpts()
        self.conf.register_opts([cfg.DictOpt('enabled_backends'),
                                 cfg.BoolOpt('debug')])
        for module in (multi_backend, stock, location):
            self.useFixture(fixtures.MonkeyPatch(
                '%s.CONF' % module.__name__, self.conf))
        self.conf(['--config-file', str(self.root / 'glance-api.conf')],
                  project='glance')
        reserved = {'os_glance_staging_store': 'file'}
        multi_backend.register_store_opts(self.conf, reserved)
        multi_backend.create_multi_stores(self.conf, reserved)
        return process.find(config_watch.ConfigWatch)

    def write_conf(self, **central):
        path = self.root / 'glance-api.conf'
        path.write_text(
            '[DEFAULT]\nenabled_backends = central:dcn\n'
            '[glance_store]\ndefault_backend = central\n'
            '[glance_dcn]\nsites_dir = %s\n'
            '[os_glance_staging_store]\nfilesystem_store_datadir = %s\n'
            '[central]\nrbd_store_ceph_conf = %s\n' % (
                self.folder, self.root, self.root / 'central.ceph')
            + ''.join('%s = %s\n' % item for item in central.items()))

    def put(self, name='dcn7', **options):
        """Put a site file into the folder, as if it had lain there long."""
        path = self.folder / ('%s.conf' % name)
        if path.exists():
            path.unlink()
        options = dict({'rbd_store_ceph_conf': self.ceph_conf(
            name, FSID.replace('5f', '7f'))}, **options)
        path.write_text('[%s]\n' % name + ''.join(
            '%s = %s\n' % item for item in options.items()))
        path.chmod(0o644)
        os.utime(path, (1, 1))
        return path

    def store(self, name='dcn7'):
        return multi_backend.get_store_from_store_identifier(name)

    def replace(self, kind, name='dcn7'):
        """Put a store of another class in the place of one, and return it."""
        store = kind(self.conf, name)
        store.configure()
        for stores in location.SCHEME_TO_CLS_BACKEND_MAP.values():
            if name in stores:
                stores[name]['store'] = store
        return store

    def schemes(self, name='dcn7'):
        """Return the schemes under which glance_store knows a store."""
        return sorted(scheme for scheme, stores
                      in location.SCHEME_TO_CLS_BACKEND_MAP.items()
                      if name in stores)

    def assertEnabled(self, **types):
        enabled = dict(self.conf.enabled_backends)
        self.assertEqual('file', enabled.pop('os_glance_staging_store'))
        self.assertEqual(dict(types, central='rbd'), enabled)

    def is_dcn(self, store):
        return isinstance(store, driver.Store)
