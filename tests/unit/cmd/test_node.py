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

"""The sites of a node's configuration, and of a sites file."""

import contextlib
import io
import os
import pathlib
import types

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.ceph import client as clients
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.status import cluster

_CONF = """\
[DEFAULT]
enabled_backends = edge:dcn, central:dcn, old:rbd, http:http
[glance_store]
default_backend = central
[central]
rbd_store_ceph_conf = /etc/ceph/central.conf
rbd_store_user = glance
rados_connect_timeout = 300
[edge]
rbd_store_pool = glance-images
rados_connect_timeout = 2
[old]
rbd_store_ceph_conf = /etc/ceph/old.conf
[glance_dcn]
sites_dir = %s
"""


class TestNode(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        (self.folder / 'sites').mkdir(mode=0o755)
        (self.folder / 'glance-api.conf').write_text(
            _CONF % (self.folder / 'sites'))
        self.useFixture(fixtures.EnvironmentVariable(
            'OS_GLANCE_CONFIG_DIR', str(self.folder)))
        self.addCleanup(cfg.CONF.reset)

    def targets(self, tell=True):
        args = types.SimpleNamespace(config_file=[], config_dir=[],
                                     sites=None)
        args.conf = node.read_all(args)
        return node.targets_of(args, tell)

    def test_stores(self):
        found = self.targets()
        self.assertEqual(
            [('central', 'images', '/etc/ceph/central.conf', 'glance',
              clients.CONNECT_TIMEOUT, True),
             ('edge', 'glance-images', '', None, 2, False),
             ('old', 'images', '/etc/ceph/old.conf', None,
              clients.CONNECT_TIMEOUT, False)],
            [(target.name, target.pool, target.conf_file, target.user,
              target.connect_timeout, target.default) for target in found])

    def test_folder_that_cannot_be_used(self):
        for folder, reason in (
                (self.folder / 'absent', 'No such file or directory'),
                (self.folder / 'sites', 'nor glance-api.conf')):
            with fixtures.EnvironmentVariable('OS_GLANCE_CONFIG_DIR',
                                              str(folder)):
                error = self.assertRaises(cfg.Error, self.targets)
            self.assertIn(reason, str(error))
            self.assertIn(str(folder), str(error))

    def test_no_stores(self):
        """As with the variables of a client, and no Glance on this node."""
        (self.folder / 'glance-api.conf').write_text('[DEFAULT]\n')
        error = self.assertRaises(cfg.Error, self.targets)
        self.assertIn('enabled_backends is not set in %s/glance-api.conf'
                      % self.folder, str(error))
        self.assertIn('OS_GLANCE_CONFIG_DIR', str(error))

    def test_home(self):
        found = {target.name: (target.home, target.keeps)
                 for target in map(_Kept, self.targets())}
        self.assertEqual({'central': (True, True), 'edge': (False, False),
                          'old': (False, False)}, found)
        path = self.folder / 'glance-api.conf'
        path.write_text(path.read_text().replace(
            '[glance_dcn]', '[glance_dcn]\nhome_store = edge'))
        found = {target.name: (target.home, target.keeps)
                 for target in map(_Kept, self.targets())}
        self.assertEqual({'central': (False, False), 'edge': (True, True),
                          'old': (False, False)}, found)

    def test_two_files_of_tripleo(self):
        other = self.folder / 'glance-image-import.conf'
        names = ['glance-api.conf', 'glance-image-import.conf']
        for text, expected in (
                ('enabled_backends = central:dcn,edge:dcn\n', names),
                # Of packages: a WSGI server reads it first.
                ('', names[::-1])):
            other.write_text('[DEFAULT]\n%s[image_import_opts]\n' % text)
            for folder in (str(self.folder), ''):
                with contextlib.ExitStack() as stack:
                    stack.enter_context(fixtures.EnvironmentVariable(
                        'OS_GLANCE_CONFIG_DIR', folder))
                    stack.enter_context(fixtures.EnvironmentVariable(
                        'HOME', str(self.folder)))
                    found = node.default_files()
                self.assertEqual(expected, [os.path.basename(path)
                                            for path in found])

    def test_folder_of_what_is_rendered(self):
        ours = self.folder / 'glance-api.conf.d/glance-dcn.conf'
        ours.parent.mkdir()
        ours.write_text('[DEFAULT]\nenabled_backends = central:dcn\n')
        with fixtures.EnvironmentVariable('HOME', str(self.folder)):
            self.assertEqual(['central'], [
                target.name for target in self.targets()])

    def test_site_files(self):
        path = self.folder / 'sites/dcn7.conf'
        path.write_text('[dcn7]\nrbd_store_ceph_conf = /etc/ceph/dcn7.conf\n')
        os.chmod(path, 0o644)
        found = self.targets()[-1]
        self.assertEqual(('dcn7', 'images', '/etc/ceph/dcn7.conf'), (
            found.name, found.pool, found.conf_file))
        path.write_text('[dcn7]\nrados_connect_timeout = many\n')
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertNotIn('dcn7', [target.name
                                      for target in self.targets()])
        self.assertIn('site file %s is not taken: rados_connect_timeout'
                      % path, err.getvalue())

    def test_folder_of_site_files_that_cannot_be_used(self):
        folder = self.folder / 'sites'
        folder.chmod(0o777)
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(['central', 'edge', 'old'], [
                target.name for target in self.targets()])
        [line] = err.getvalue().splitlines()
        self.assertIn('glance-dcn: the folder of site files %s cannot be '
                      'used, and its sites are left out: others may write it'
                      % folder, line)
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.targets(tell=False)
        self.assertEqual('', err.getvalue())

    def test_choice(self):
        found = self.targets()
        self.assertEqual(found, node.choose(found, None))
        self.assertEqual(['edge'], [
            target.name for target in node.choose(found, ['edge'])])
        exc = self.assertRaises(output.Failed, node.choose, found, ['dcn9'])
        self.assertIn('no site dcn9', str(exc))

    def test_options_of_imports_are_known(self):
        args = types.SimpleNamespace(config_file=[], config_dir=[])
        conf = node.read_all(args)
        self.assertIsNotNone(conf.image_import_opts.image_import_plugins)
        self.assertIsNotNone(conf.image_conversion.output_format)
        self.assertTrue(
            conf.os_glance_staging_store.filesystem_store_datadir)
        self.assertTrue(conf.glance_dcn.direct_copy)
        # Nor are they taken for stores.
        self.assertEqual({'edge', 'central', 'old', 'http'},
                         set(conf.enabled_backends))


class _Kept:

    def __init__(self, target):
        self.name, self.home = target.name, target.home
        self.keeps = cluster.Cluster(target).keeps_records
