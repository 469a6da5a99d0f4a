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

"""A deployment that upstream's tests of images run against: tempest's.

With what a deployment has besides: two workers, of two processes each, stores
of different weight, the http store for locations of users, the cache of
images, and definitions of metadata.
"""

import importlib
import os
import pathlib
import pkgutil
import re
import secrets
import subprocess
import sys
import tempfile

import fixtures
from keystoneclient.v3 import client as keystone_client
import yaml

from lab import process
from lab import wsgi
from tests.functional.api import base
from tests.functional.api import webserver

# Heaviest first, as tempest's waiter wants them in the order of names.
_WEIGHTS = {'central': 300, 'dcn0': 100, 'dcn1': 100}
_PLUGINS = {'dcn': '[dcn_distributed_staging,dcn_image_conversion]',
            'rbd': '[image_conversion]'}
# Of the catalogue: the second worker, for what was staged at the first.
_SECOND = 'image_second'
# Of the short form: (user, project, role). The reader reads what the member
# has made.
_USERS = (('tempest-member', 'tempest', 'member'),
          ('tempest-reader', 'tempest', 'reader'),
          ('tempest-other', 'tempest-other', 'member'))
_PACKAGES = ('tempest.api.image', 'glance_tempest_plugin.tests')
# A line of testtools: name, an outcome.
_LINE = re.compile(r'^(\S+) \.\.\. (ok|skip|FAIL|ERROR)', re.M)
_TIMEOUT = 3600


class Scene(fixtures.Fixture):
    """A Glance of its own, and the users and the image that tempest needs.

    :ivar own: its :class:`tests.functional.api.base.OwnGlance`

    :param kind: type of the stores; ``rbd``: stock
    :param short: whether it is for some tests of tempest.api.image alone: they
        share users that are made once, and definitions of metadata are missing
    """

    def __init__(self, kind='dcn', short=False):
        super().__init__()
        self.kind = kind
        self._short = short
        self._region = 'tempest-%s' % kind

    def _setUp(self):
        self._folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self._keystone = keystone_client.Client(session=base.session())
        self.own = self.useFixture(self._glance())
        if not self._short:
            process.run([wsgi.BIN / 'glance-manage', '--config-dir',
                         self.own.worker.etc, 'db_load_metadefs',
                         wsgi.BIN.parent / 'etc/glance/metadefs'])
        second = self.useFixture(self._glance(self.own.database_url))
        base.lab().keystone.register_endpoint(self._region,
                                              self.own.worker.url)
        service = self._keystone.services.create(_SECOND, _SECOND)
        self._keystone.endpoints.create(service, second.worker.url, 'public',
                                        self._region)
        self.addCleanup(self._forget, service)
        self._configure()

    def _glance(self, database=None):
        """Return a worker; None: the first one, with its database."""
        stores = {name: (kind, dict(options, weight=_WEIGHTS[name]))
                  for name, (kind, options) in base.rbd_stores(
                      self.kind).items()}
        number = 1 if database else 0
        return base.OwnGlance(
            dict(stores, web=('http', {})), database=database, overrides={
                'DEFAULT': {
                    'enabled_import_methods': '[glance-direct,web-download,'
                    'glance-download,copy-image]',
                    'image_cache_dir': self._folder / ('cache-%d' % number),
                    'image_cache_driver': 'sqlite'},
                'image_import_opts': {
                    'image_import_plugins': _PLUGINS[self.kind]},
                'paste_deploy': {'flavor': 'keystone+cachemanagement'},
            }, processes=2)

    def _forget(self, service):
        for endpoint in self._keystone.endpoints.list(
                region_id=self._region):
            self._keystone.endpoints.delete(endpoint)
        self._keystone.services.delete(service)
        self._keystone.regions.delete(self._region)

    def run(self, names, timeout=_TIMEOUT):
        """Run tests.

        :param names: names of modules, classes or tests, as unittest's
        :param timeout: seconds
        :returns: dict of ``ok``, ``skip``, ``FAIL`` or ``ERROR`` by the name
            of the test; and what was printed
        """
        done = subprocess.run(
            [sys.executable, '-m', 'testtools.run', '-v', *names],
            cwd=self._folder, capture_output=True, text=True, timeout=timeout,
            env=dict(os.environ, TEMPEST_CONFIG_DIR=str(self._folder),
                     TEMPEST_CONFIG='tempest.conf'))
        return dict(_LINE.findall(done.stdout)), done.stdout + done.stderr

    def _configure(self):
        """Write what tempest reads."""
        image = self.useFixture(webserver.Served(self._image())).url
        keystone = base.lab().keystone
        auth = self._make_accounts() if self._short else {}
        path = self._folder / 'tempest.conf'
        path.touch(0o600)
        wsgi.write_conf(path, {
            # Among the outcomes, otherwise.
            'DEFAULT': {'log_file': self._folder / 'tempest.log'},
            'auth': dict(
                auth, admin_username='admin', admin_project_name='admin',
                admin_password=keystone.password, admin_domain_name='Default',
                create_isolated_networks='false'),
            'identity': {'uri_v3': keystone.url, 'region': self._region},
            'image': {
                'region': self._region, 'build_timeout': 60,
                'alternate_image_endpoint': _SECOND,
                'alternate_image_endpoint_type': 'public',
                'build_interval': 0, 'http_image': image,
                'http_qcow2_image': image, 'image_caching_enabled': 'true'},
            'enforce_scope': {'glance': 'true'},
            'image-feature-enabled': {
                'manage_locations': 'true', 'http_store_enabled': 'true',
                'store_weight_enabled': 'true'},
            'service_available': dict.fromkeys(
                ('cinder', 'neutron', 'nova', 'swift', 'horizon'), 'false'),
            'oslo_concurrency': {'lock_path': self._folder / 'locks'},
        })

    def _make_accounts(self):
        """Make users; return the options with which tempest takes them."""
        roles = {role.name: role for role in self._keystone.roles.list()}
        projects = {}
        accounts = [{
            'username': 'admin', 'password': base.lab().keystone.password,
            'project_name': 'admin', 'domain_name': 'Default',
            'types': ['admin'], 'roles': ['admin']}]
        for name, project, role in _USERS:
            if project not in projects:
                projects[project] = self._keystone.projects.create(
                    project, 'default')
                self.addCleanup(self._keystone.projects.delete,
                                projects[project])
            password = secrets.token_hex(12)
            user = self._keystone.users.create(name, 'default',
                                               password=password)
            self.addCleanup(self._keystone.users.delete, user)
            self._keystone.roles.grant(roles[role], user=user,
                                       project=projects[project])
            accounts.append({
                'username': name, 'password': password,
                'project_name': project, 'domain_name': 'Default',
                'roles': [role]})
        path = self._folder / 'accounts.yaml'
        process.write_private(path, yaml.safe_dump(accounts))
        return {'use_dynamic_credentials': 'false',
                'test_accounts_file': path, 'tempest_roles': 'member'}

    @staticmethod
    def _image():
        """Return a qcow2 image."""
        with tempfile.TemporaryDirectory() as folder:
            raw, converted = (os.path.join(folder, name)
                              for name in ('raw', 'qcow2'))
            pathlib.Path(raw).write_bytes(base.random_data())
            subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                            raw, converted], check=True)
            return pathlib.Path(converted).read_bytes()


def modules(packages=_PACKAGES):
    """Return the names of all modules of tests in packages."""
    return sorted(
        each.name for package in packages for each in pkgutil.walk_packages(
            importlib.import_module(package).__path__, package + '.')
        if each.name.rpartition('.')[2].startswith('test_'))
