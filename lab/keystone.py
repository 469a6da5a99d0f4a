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

"""The lab's Keystone: users, projects and the catalogue of all sites."""

import contextlib
import os
import pathlib
import secrets

from keystoneauth1 import exceptions as ka_exceptions
from keystoneauth1.identity import v3
from keystoneauth1 import session
from keystoneclient.v3 import client

from lab import process
from lab import wsgi

# Where Keystone is, if not where the lab runs: one Keystone serves the tests
# with all releases of Glance.
_ELSEWHERE = os.environ.get('GLANCE_DCN_KEYSTONE')

#: Project of the user that Glance checks tokens with.
SERVICE_PROJECT = 'service'


class Keystone:
    """One Keystone under uWSGI.

    :param directory: where its files are kept
    :param database: see :mod:`lab.database`
    :param port: TCP port on 127.0.0.1
    :param region: region of its own endpoint: the central site's name
    """

    def __init__(self, directory, database, port, region):
        self.directory = pathlib.Path(directory)
        self.region = region
        self._database = database
        self._programs = pathlib.Path(_ELSEWHERE) if _ELSEWHERE else wsgi.BIN
        etc = self.directory / 'etc'
        self._conf = etc / 'keystone.conf'
        self.service = wsgi.Service(
            'keystone', 'keystone.wsgi.api:application',
            self.directory / 'run', port,
            env={'OS_KEYSTONE_CONFIG_DIR': str(etc)}, threads=4,
            programs=self._programs)
        self.url = self.service.url + '/v3'

    @property
    def password(self):
        """The password of user admin."""
        return self._secret('admin')

    @property
    def service_password(self):
        """The password of user glance, which Glance checks tokens with."""
        return self._secret('glance')

    def start(self):
        """Make the database and keys unless they are there, and start."""
        # The catalogue holds Keystone's own URL: another port, another
        # bootstrap.
        created = self.directory / 'created'
        if not created.exists() or created.read_text() != self.url:
            self._create()
            created.write_text(self.url)
        self.service.start('/v3')
        self._make_service_user()

    def stop(self):
        """End Keystone; users and tokens stay."""
        self.service.stop()

    def session(self, user='admin', password=None, project='admin'):
        """Return a keystoneauth session."""
        return session.Session(v3.Password(
            auth_url=self.url, username=user,
            password=password or self.password, project_name=project,
            user_domain_id='default', project_domain_id='default'))

    @property
    def authtoken(self):
        """Options with which a service checks tokens, as a dict."""
        return {
            'auth_type': 'password',
            'auth_url': self.url,
            'www_authenticate_uri': self.url,
            'username': 'glance',
            'password': self.service_password,
            'project_name': SERVICE_PROJECT,
            'user_domain_id': 'default',
            'project_domain_id': 'default',
        }

    def register_endpoint(self, region, url, name='glance', kind='image'):
        """Put the endpoint of a site's service into the catalogue, once.

        :param region: name of the site
        :param url: URL of its service
        :param name: of the service
        :param kind: type of the service
        """
        keystone = client.Client(session=self.session())
        service = _find_or_create(keystone.services, type=kind, name=name)
        with contextlib.suppress(ka_exceptions.Conflict):
            keystone.regions.create(id=region)
        for interface in ('public', 'internal', 'admin'):
            known = keystone.endpoints.list(
                service=service, interface=interface, region_id=region)
            if not known:
                keystone.endpoints.create(service, url, interface, region)
            for endpoint in known:
                if endpoint.url != url:
                    keystone.endpoints.update(endpoint, url=url)

    def _create(self):
        keys = self.directory / 'keys'
        wsgi.write_conf(self._conf, {
            'DEFAULT': {'log_file': self.directory / 'keystone-app.log'},
            'database': {'connection': self._database.url('keystone')},
            # Without a cache, the check of a token takes 450 queries and
            # most of a second. This one is of the only process that serves,
            # and copies as memcached does.
            'cache': {'enabled': 'true',
                      'backend': 'dogpile.cache.memory_pickle'},
            'token': {'provider': 'fernet', 'expiration': 86400},
            'fernet_tokens': {'key_repository': keys / 'fernet'},
            'credential': {'key_repository': keys / 'credential'},
            # A password check of full strength takes a quarter of a second.
            'identity': {'password_hash_rounds': 4},
        })
        (keys / 'fernet').mkdir(parents=True, exist_ok=True)
        (keys / 'credential').mkdir(parents=True, exist_ok=True)
        self._manage('db_sync')
        # keystone-manage wants these two as options, even for root.
        for command in ('fernet_setup', 'credential_setup'):
            self._manage(command, '--keystone-user', 'root',
                         '--keystone-group', 'root')
        self._manage('bootstrap', '--bootstrap-region-id', self.region,
                     '--bootstrap-public-url', self.url,
                     '--bootstrap-internal-url', self.url,
                     '--bootstrap-admin-url', self.url,
                     env={'OS_BOOTSTRAP_PASSWORD': self.password})

    def _make_service_user(self):
        keystone = client.Client(session=self.session())
        project = _find_or_create(keystone.projects, name=SERVICE_PROJECT,
                                  domain='default')
        user = _find_or_create(keystone.users, name='glance',
                               domain='default',
                               password=self.service_password)
        role = next(role for role in keystone.roles.list()
                    if role.name == 'admin')
        keystone.roles.grant(role, user=user, project=project)

    def _manage(self, *arguments, env=None):
        process.run([self._programs / 'keystone-manage', '--config-dir',
                     self._conf.parent, *arguments], env=env)

    def _secret(self, name):
        path = self.directory / ('%s.password' % name)
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            process.write_private(path, secrets.token_hex(12))
        return path.read_text()


def _find_or_create(manager, **attributes):
    for item in manager.list():
        if item.name == attributes['name']:
            return item
    return manager.create(**attributes)
