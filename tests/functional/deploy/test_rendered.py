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


"""Glances that are started with what glance-dcn renders, and nothing else.

Central, an edge with a cluster and one without; then a fourth site comes to
them by the sites file and the commands of the guide alone. Each time, the
command finds all of it in order.
"""

import json
import pathlib
import tempfile
import uuid

import fixtures

from lab import ceph
from lab import process
from lab import wsgi
from tests.functional.api import base
from tests.functional.api import client
from tests.functional.api import databases
from tests.functional.deploy import commands

_SITES = """\
paths:
  glance: %(folder)s/etc/glance
  ceph: %(folder)s/etc/ceph
  state: %(folder)s/state
  sites: %(folder)s/etc/glance/sites.d
# For Glances beside each other on one machine.
glance:
  DEFAULT:
    log_dir: %(folder)s/log
  import_filtering_opts:
    allowed_hosts: '[127.0.0.1]'
    allowed_ports: '[]'
  oslo_concurrency:
    lock_path: %(folder)s/locks
  task:
    work_dir: %(folder)s/work
  wsgi:
    python_interpreter: %(python)s

sites:
- name: central
  central: true
  cluster:
    conf: %(central)s
    key: {file: %(central_key)s}
  staging: %(folder)s/staging/central
  workers: ['%(central_url)s']
- name: dcn0
  description: the first edge, "dcn0"
  cluster:
    conf: %(dcn0)s
    key: {file: %(dcn0_key)s}
  at_central: {user: %(prefix)s-dcn0, key: {file: keys/central.dcn0}}
  from_central: {user: %(prefix)s-central, key: {file: keys/dcn0.central}}
  staging: %(folder)s/staging/dcn0
  workers: ['%(dcn0_url)s']
  limits: {max_transfers: 3}
- name: far
  at_central: {user: %(prefix)s-far, key: {file: keys/central.far}}
  staging: %(folder)s/staging/far
  workers: ['%(far_url)s']
  cache_size: 1073741824
  glance:
    DEFAULT: {image_cache_driver: sqlite}
"""
# What the deployer has on each node.
_DEPLOYERS = """\
[DEFAULT]
[database]
connection = %(database)s
[keystone_authtoken]
auth_type = password
auth_url = %(keystone)s
www_authenticate_uri = %(keystone)s
username = glance
password = %(password)s
project_name = service
user_domain_id = default
project_domain_id = default
[paste_deploy]
flavor = keystone
config_file = %(share)s/etc/glance/glance-api-paste.ini
"""
_USER = 'test-%s' % uuid.uuid4().hex[:8]


class RenderedTest(base.ApiTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        temporary = tempfile.TemporaryDirectory(prefix='rd-')
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = pathlib.Path(temporary.name)
        cls.path = cls.folder / 'sites.yaml'
        database = databases.Database(base.lab(), cls.folder)
        database.setUp()
        cls.addClassCleanup(database.cleanUp)
        cls.database_url = database.url
        cls.ports = {}
        for site in ('central', 'dcn0', 'far', 'dcn1'):
            cls.ports[site] = process.free_port(taken=cls.ports.values())
        cls.path.write_text(cls._sites())
        for cluster, guest in (('dcn0', 'central'), ('central', 'dcn0'),
                               ('central', 'far')):
            cls.make_key(cluster, guest)
        for name in ('log', 'locks', 'work', 'state', 'staging/central',
                     'staging/dcn0', 'staging/far', 'staging/dcn1'):
            (cls.folder / name).mkdir(parents=True)
        for site in ('central', 'dcn0', 'far'):
            cls.deploy(site)
        process.run([wsgi.BIN / 'glance-manage', '--config-dir',
                     cls.etc('central'), 'db_sync'])
        cls.services = {site: cls.start(site)
                        for site in ('central', 'dcn0', 'far')}

    @classmethod
    def deploy(cls, site):
        """Make a node with what is the deployer's, and what is rendered."""
        cls.etc(site).mkdir(parents=True, exist_ok=True)
        path = cls.etc(site) / 'glance-api.conf'
        keystone = base.lab().keystone
        text = _DEPLOYERS % {
            'database': cls.database_url.replace('$', '$$'),
            'keystone': keystone.url, 'password': keystone.service_password,
            'share': wsgi.BIN.parent}
        process.write_private(path, text)
        cls.render(site)
        # It is the deployer's still.
        if path.read_text() != text:
            raise AssertionError('%s was changed' % path)

    @classmethod
    def _sites(cls):
        values = {'folder': cls.folder, 'prefix': _USER,
                  'python': wsgi.BIN / 'python'}
        for site in ('central', 'dcn0', 'far'):
            values['%s_url' % site] = ('http://127.0.0.1:%d'
                                       % cls.ports[site])
        for site in ('central', 'dcn0'):
            cluster = base.lab().cluster(site)
            values[site] = cluster.conf
            values['%s_key' % site] = cluster.keyring('glance')
        return _SITES % values

    @classmethod
    def run_command(cls, *argv, status=0, env=None, node='central'):
        """Run the command with the sites file of a node."""
        found, out, err = commands.glance_dcn(
            cls.sites_file(node), *map(str, argv), env=env)
        if found != status and status is not None:
            raise AssertionError('%s: status %d\n%s%s' % (argv, found, out,
                                                          err))
        return out

    @classmethod
    def make_key(cls, site, guest):
        """Make the key of one site's Glance at the cluster of another."""
        cluster = base.lab().cluster(site)
        user = '%s-%s' % (_USER, guest)
        cls.addClassCleanup(cls._remove_user, cluster, user)
        cls.run_command(
            'site', 'key', site, '--for', guest, '--ceph-conf', cluster.conf,
            '--keyring', cluster.directory / 'ceph.client.admin.keyring')

    @classmethod
    def sites_file(cls, site):
        """Return the path of the sites file of a site's node.

        All say the same, but where files are: each node has its own
        /etc/ceph, and here they are on one machine.
        """
        if site == 'central':
            return cls.path
        path = cls.folder / ('sites-%s.yaml' % site)
        path.write_text(cls.path.read_text().replace(
            '%s/etc/' % cls.folder, '%s/etc/' % cls.node(site)))
        return path

    @classmethod
    def render(cls, site):
        return cls.run_command('config', 'render', '--as', 'plain', '--site',
                               site, '--output', '/', node=site)

    @classmethod
    def node(cls, site):
        """Return the folder with etc/ of a site's node."""
        return cls.folder if site == 'central' else (
            cls.folder / 'nodes' / site)

    @classmethod
    def etc(cls, site):
        """Return the folder of a site's glance-api.conf."""
        return cls.node(site) / 'etc/glance'

    @classmethod
    def ask(cls, site, *argv, status=0):
        """Run the command on a node of a site; return what it tells."""
        return json.loads(cls.run_command(
            *argv, '--format', 'json', status=status, env=dict(
                base.lab().environment(),
                OS_GLANCE_CONFIG_DIR=str(cls.etc(site)),
                HOME=str(cls.etc(site)))))

    @classmethod
    def start(cls, site):
        """Start the Glance of a site."""
        service = wsgi.Service(
            'rendered-%s' % site, 'glance.wsgi.api:application',
            cls.folder / 'run' / site, cls.ports[site],
            env={'OS_GLANCE_CONFIG_DIR': str(cls.etc(site))})
        cls.addClassCleanup(service.stop)
        # That is one of the folders in which Glance looks for
        # glance-api.conf.d, as /etc/glance is.
        with fixtures.EnvironmentVariable('HOME', str(cls.etc(site))):
            service.start('/healthcheck')
        return service

    def setUp(self):
        super().setUp()
        self.addOnException(self._attach)
        self.api = {site: client.Api(service.url, base.session())
                    for site, service in self.services.items()}
        self.data = base.random_data()

    def _attach(self, _exc_info):
        from testtools import content
        for site, service in self.services.items():
            self.addDetail(site, content.text_content(
                service.daemon.tail(20000)))
        for path in (self.folder / 'log').iterdir():
            self.addDetail(path.name, content.text_content(
                path.read_text(errors='replace')[-20000:]))

    def test_1_stores(self):
        for site, expected in (
                ('central', {'central': 'central RBD store',
                             'dcn0': 'the first edge, "dcn0"'}),
                ('dcn0', {'dcn0': 'the first edge, "dcn0"',
                          'central': 'central RBD store'}),
                ('far', {'central': 'central RBD store'})):
            found = self.api[site].stores()
            self.assertEqual(expected, {
                name: store['description'] for name, store in found.items()})
            default = 'central' if site == 'far' else site
            self.assertEqual([default], [
                name for name, store in found.items()
                if store.get('default')])
            self.assertEqual(
                {name: self.cluster(name).fsid for name in expected},
                {name: store['properties']['fsid'] for name, store
                 in self.api[site].stores(detail=True).items()})

    def test_2_import_copy_and_clone(self):
        image = self.uploaded(self.api['central'],
                              self.converted(self.data, 'qcow2'), 'central',
                              disk_format='qcow2')
        self.assertEqual('raw', self.api['central'].images.get(
            image)['disk_format'])
        self.api['central'].images.image_import(image, 'copy-image',
                                                stores=['dcn0'])
        self.api['central'].wait(image, 'central', 'dcn0')
        self.clone('dcn0', image)()
        snapshot = self.uploaded(self.api['dcn0'], self.data, 'dcn0')
        self.api['dcn0'].images.image_import(snapshot, 'copy-image',
                                             stores=['central'])
        self.api['dcn0'].wait(snapshot, 'dcn0', failed=['central'])
        self.assertIn('client.%s-dcn0) may only read there' % _USER,
                      self.api['dcn0'].messages(snapshot)[-1])
        self.assertEqual({'glance-direct': 'success',
                          'copy-image': 'failure'}, {
            task['input']['import_req']['method']['name']: task['status']
            for task in self.api['dcn0'].tasks(snapshot).values()})
        self.api['central'].images.image_import(snapshot, 'copy-image',
                                                stores=['central'])
        self.api['central'].wait(snapshot, 'dcn0', 'central')
        self.assertStored(snapshot, self.data, 'dcn0', 'central')
        # The Glance of dcn0 could not.
        self.api['central'].images.delete(snapshot)

    def test_3_site_without_a_cluster_caches(self):
        image = self.uploaded(self.api['central'], self.data, 'central')
        for _ in range(2):
            self.assertSame(self.data, self.api['far'].download(image))
        cached = self.folder / 'state' / 'image-cache' / image
        process.wait_for('the cached image', cached.exists, 20)
        self.assertSame(self.data, cached.read_bytes())

    def test_3_site_without_a_cluster_caches_ahead(self):
        image = self.uploaded(self.api['central'], self.data, 'central')
        far = self.api['far']
        far.request('PUT', '/v2/cache/%s' % image).raise_for_status()
        cached = self.folder / 'state' / 'image-cache' / image
        process.wait_for('the image to be cached', lambda: (
            image in [each['image_id'] for each in
                      far.request('GET', '/v2/cache').json()[
                          'cached_images']]), 20)
        self.assertSame(self.data, cached.read_bytes())
        # Nothing is asked of central for it.
        cluster = self.cluster('central')
        self.addCleanup(cluster.thaw)
        cluster.freeze()
        self.assertSame(self.data, far.download(image))
        cluster.thaw()
        self.api['central'].images.delete(image)
        self.assertEqual(404, far.request(
            'GET', '/v2/images/%s/file' % image).status_code)

    def test_4_running_nodes_are_as_rendered(self):
        for site in ('central', 'dcn0', 'far'):
            self.assertEqual('Nothing differs.\n', self.run_command(
                'config', 'diff', '--site', site, '/', node=site))

    def test_5_all_is_in_order(self):
        self.assertAllGreen('dcn0', 'node', 'dcn0', 'central')
        self.assertAllGreen('far', 'node', 'central')
        self.assertAllGreen('central', 'node', 'central', 'dcn0', 'far',
                            argv=('--sites-file', self.path))

    def assertAllGreen(self, site, *subjects, argv=()):
        """A check at a site looks at some things, and all is well."""
        self.forget_workers()
        found = self.ask(site, 'check', '--staging-room', 1, '--timeout', 60,
                         *argv)['checks']
        self.assertEqual([], [finding for finding in found
                              if finding['level'] != 'ok'])
        self.assertEqual(set(subjects),
                         {finding['site'] for finding in found})

    def assertProved(self, *steps):
        """The proof from end to end succeeds, and has some steps."""
        found = self.ask('central', 'validate', '--size', 2, '--endpoint',
                         self.services['central'].url)
        self.assertEqual({None}, {each['error'] for each in found['steps']})
        self.assertLessEqual(set(steps),
                             {each['step'] for each in found['steps']})
        self.assertEqual([], found['left'])

    def test_6_a_fourth_site(self):
        before = self.folder / 'sites.yaml.old'
        before.write_text(self.path.read_text())
        self._add_to_sites_file()
        self._look_at_what_changes(before)
        self.render('central')
        self.deploy('dcn1')
        self.services['dcn1'] = self.start('dcn1')
        process.wait_for('the new store at central, which runs', lambda:
                         'dcn1' in self.api['central'].stores(), 20)
        image = self.uploaded(self.api['central'], self.data, 'central')
        self.api['central'].images.image_import(image, 'copy-image',
                                                stores=['dcn1'])
        self.api['central'].wait(image, 'central', 'dcn1')
        self.assertStored(image, self.data, 'dcn1')
        api = client.Api(self.services['dcn1'].url, base.session())
        self.assertEqual({'dcn1', 'central'}, set(api.stores()))
        self.assertSame(self.data, api.download(image))
        for site in ('central', 'dcn0', 'far', 'dcn1'):
            self.run_command('config', 'diff', '--site', site, '/',
                             node=site)
        self._see_the_fourth_site(image)

    def _see_the_fourth_site(self, image):
        """The command knows the new site, its worker, and an image there."""
        self.assertAllGreen('dcn1', 'node', 'dcn1', 'central')
        self.assertAllGreen('central', 'node', 'central', 'dcn0', 'dcn1')
        self.assertProved('import an image to central and dcn0',
                          'copy it to dcn1')
        # There may be tasks and dead workers of other tests.
        shown = self.ask('central', 'status', '--image', image, status=None)
        self.assertEqual(
            {'central': 'up', 'dcn0': 'up', 'dcn1': 'up'},
            {site['name']: site['state'] for site in shown['sites']})
        self.assertEqual(
            [{'central': 'present', 'dcn0': 'missing', 'dcn1': 'present'}],
            [entry['sites'] for entry in shown['images']])
        # The one of a site without a cluster has no right to be recorded.
        stores = {'central': 'central', 'dcn0': 'dcn0', 'dcn1': 'dcn1'}
        wanted = {self.services[site].url: (store, 'up', 'right', [])
                  for site, store in stores.items()}
        process.wait_for('all workers to be known', lambda: (
            wanted == self._workers()), 60, interval=1)

    def _workers(self):
        """Return what each site tells of its workers here, by their URLs."""
        urls = [service.url for service in self.services.values()]
        return {worker['url']: (worker['site'], worker['state'],
                                worker['reference'], worker['faults'])
                for site in ('central', 'dcn0', 'dcn1')
                for worker in self.ask(site, 'worker', 'list',
                                       status=None)['workers']
                if worker['url'] in urls}

    def _add_to_sites_file(self):
        cluster = base.lab().cluster('dcn1')
        admin = cluster.directory / 'ceph.client.admin.keyring'
        keyring = self.folder / 'keys' / 'dcn1.keyring'
        self.addCleanup(self._remove_user, cluster, _USER)
        self.run_command(
            'site', 'key', 'dcn1', '--ceph-conf', cluster.conf, '--keyring',
            admin, '--user', _USER, '--pool', 'images', '--output', keyring)
        self.run_command(
            'site', 'import', 'dcn1', '--ceph-conf', cluster.conf, '--user',
            _USER, '--keyring', keyring, '--worker',
            'http://127.0.0.1:%d' % self.ports['dcn1'], '--add')
        # Users of this test alone.
        text = self.path.read_text()
        for key in ('at_central', 'from_central'):
            text = text.replace('  %s:\n    key:\n' % key,
                                '  %s:\n    user: %s-%s\n    key:\n' % (
                                    key, _USER, 'dcn1' if key == 'at_central'
                                    else 'central'))
        self.path.write_text(text)
        self.make_key('dcn1', 'central')
        self.make_key('central', 'dcn1')

    @staticmethod
    def _remove_user(cluster, user):
        with cluster.connect() as rados:
            ceph.command(rados, {'prefix': 'auth del',
                                 'entity': 'client.' + user})

    def _look_at_what_changes(self, before):
        text = self.run_command('config', 'diff', '--from', before, status=1)
        folder = str(self.folder).lstrip('/')
        new = ['dcn1  added  %s/etc/%s' % (folder, name) for name in (
            'ceph/central.client.%s-dcn1.keyring' % _USER,
            'ceph/central.conf',
            'ceph/dcn1.client.%s.keyring' % _USER, 'ceph/dcn1.conf',
            'glance/glance-api.conf.d/glance-dcn.conf')]
        at_central = ['central  added  %s/etc/%s' % (folder, name)
                      for name in ('ceph/dcn1.client.%s-central.keyring'
                                   % _USER, 'ceph/dcn1.conf',
                                   'glance/sites.d/dcn1.conf')]
        # Where nothing is changed, nothing need be restarted.
        self.assertEqual(at_central + new, text.splitlines())
