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

"""Cinder: its API, its scheduler, and its volume service with one backend."""

import functools
import pathlib

from cinderclient import client as cinder_client

from lab import process
from lab import wsgi

#: Type of the service in the catalogue, that glance_store looks for.
SERVICE = 'volumev3'
#: Type of the volumes that images are kept in.
VOLUME_TYPE = 'images'
_BACKEND = 'lab'


class Cinder:
    """Three services; the broker and the database are others'.

    :param directory: where files are kept
    :param keystone: :class:`lab.keystone.Keystone`
    :param database: see :mod:`lab.database`
    :param transport: URL of the message broker
    :param region: region of its endpoint
    :param backend: options of the backend, with its ``volume_driver``
    """

    def __init__(self, directory, keystone, database, transport, region,
                 backend):
        self.directory = pathlib.Path(directory)
        self._keystone = keystone
        self._database = database
        self._transport = transport
        self._region = region
        self._backend = backend
        self._etc = self.directory / 'etc'
        self._port = process.free_port()
        self._daemons = [process.Daemon('cinder-%s' % name,
                                        self.directory / 'run')
                         for name in ('api', 'scheduler', 'volume')]

    @property
    def client(self):
        """A :class:`cinderclient.v3.client.Client` of project service."""
        return cinder_client.Client(
            '3.70', session=self._keystone.session(
                'glance', self._keystone.service_password, 'service'),
            region_name=self._region)

    def start(self, timeout=120):
        """Make the database and the type of volumes, and start it all."""
        self._configure()
        self._database.make('cinder')
        process.run([wsgi.BIN / 'cinder-manage', '--config-dir', self._etc,
                     'db', 'sync'])
        for daemon in self._daemons:
            daemon.start([wsgi.BIN / daemon.name, '--config-dir', self._etc],
                         wsgi.environment(wsgi.BIN))
        api, *others = self._daemons
        url = 'http://127.0.0.1:%d' % self._port
        api.wait_until(lambda: wsgi.answers(url + '/healthcheck'), timeout)
        self._keystone.register_endpoint(
            self._region, url + '/v3/%(project_id)s', 'cinderv3', SERVICE)
        client = self.client
        for daemon in others:
            daemon.wait_until(functools.partial(
                self._is_up, client, daemon.name), timeout)
        kind = client.volume_types.create(VOLUME_TYPE)
        kind.set_keys({'volume_backend_name': _BACKEND,
                       # Several downloads at once attach the same volume.
                       'multiattach': '<is> True'})

    def stop(self):
        """End the services; volumes stay."""
        for daemon in self._daemons:
            daemon.stop()

    def store(self, **options):
        """Return the options of a store with the user that Glance is.

        :param options: options to add or change
        """
        return dict({
            'cinder_store_auth_address': self._keystone.url,
            'cinder_store_user_name': 'glance',
            'cinder_store_password': self._keystone.service_password,
            'cinder_store_project_name': 'service',
            'cinder_os_region_name': self._region,
            'cinder_volume_type': VOLUME_TYPE,
        }, **options)

    @staticmethod
    def _is_up(client, name):
        """Return whether a service has told that it works."""
        return any(service.binary == name and service.state == 'up'
                   for service in client.services.list())

    def _configure(self):
        wsgi.write_conf(self._etc / 'cinder.conf', {
            'DEFAULT': {
                'auth_strategy': 'keystone',
                'transport_url': self._transport,
                'state_path': self.directory / 'state',
                'log_file': self.directory / 'cinder.log',
                'enabled_backends': _BACKEND,
                'host': 'lab',
                'osapi_volume_listen': '127.0.0.1',
                'osapi_volume_listen_port': self._port,
                'osapi_volume_workers': 1,
                'my_ip': '127.0.0.1',
                'target_ip_address': '127.0.0.1',
                'api_paste_config':
                    wsgi.BIN.parent / 'etc' / 'cinder' / 'api-paste.ini',
                'resource_query_filters_file':
                    wsgi.BIN.parent / 'etc' / 'cinder' /
                    'resource_filters.json',
                'scheduler_default_filters': 'CapacityFilter,'
                                             'CapabilitiesFilter',
                # How soon the volume service tells the scheduler of itself.
                'backend_stats_polling_interval': 10,
                'report_interval': 5,
            },
            'database': {'connection': self._database.url('cinder')},
            'keystone_authtoken': self._keystone.authtoken,
            'oslo_concurrency': {'lock_path': self.directory / 'locks'},
            _BACKEND: dict({'volume_backend_name': _BACKEND},
                           **self._backend),
        })
        for name in ('state', 'locks'):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
