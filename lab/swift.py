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

"""Swift with one device: a proxy, an account, a container, an object server.
"""

import pathlib
import secrets

from lab import process
from lab import wsgi

#: Type of the service in the catalogue.
SERVICE = 'object-store'
_KINDS = ('account', 'container', 'object')
# The pipeline of Swift's own sample, less what needs memcached.
_PIPELINE = ('catch_errors gatekeeper healthcheck proxy-logging authtoken '
             'keystoneauth copy slo dlo proxy-logging proxy-server')
_FILTERS = {
    'catch_errors': 'egg:swift#catch_errors',
    'gatekeeper': 'egg:swift#gatekeeper',
    'healthcheck': 'egg:swift#healthcheck',
    'proxy-logging': 'egg:swift#proxy_logging',
    'copy': 'egg:swift#copy',
    'slo': 'egg:swift#slo',
    'dlo': 'egg:swift#dlo',
}


class Swift:
    """The four servers, each a process, and the rings that they share.

    The device is a folder; its file system must have extended attributes.

    :param directory: where files and objects are kept
    :param keystone: :class:`lab.keystone.Keystone`
    :param region: region of its endpoint
    """

    def __init__(self, directory, keystone, region):
        self.directory = pathlib.Path(directory)
        self._keystone = keystone
        self._region = region
        self._ports = {}
        for name in (*_KINDS, 'proxy'):
            self._ports[name] = process.free_port(self._ports.values())
        self._servers = {
            name: process.Daemon('swift-%s' % name, self.directory / 'run')
            for name in self._ports}
        self.url = 'http://127.0.0.1:%d' % self._ports['proxy']

    @property
    def proxy(self):
        """The proxy's :class:`lab.process.Daemon`."""
        return self._servers['proxy']

    def start(self, timeout=60):
        """Make the rings unless they are there, and start the servers."""
        (self.directory / 'node' / 'd1').mkdir(parents=True, exist_ok=True)
        if not (self.directory / 'swift.conf').exists():
            self._configure()
        for name in self._servers:
            self.start_server(name, timeout)
        self._keystone.register_endpoint(
            self._region, self.url + '/v1/AUTH_%(project_id)s', 'swift',
            SERVICE)

    def start_server(self, name, timeout=60):
        """Start one of ``account``, ``container``, ``object``, ``proxy``."""
        self._servers[name].start(
            [wsgi.BIN / ('swift-%s-server' % name), self._conf(name), '-v'])
        self._servers[name].wait_until(lambda: wsgi.answers(
            'http://127.0.0.1:%d/healthcheck' % self._ports[name]), timeout)

    def stop(self):
        """End the servers; the objects stay."""
        for server in self._servers.values():
            server.stop()

    def store(self, **options):
        """Return the options of a store with the user that Glance is.

        :param options: options to add or change
        """
        accounts = self.directory / 'glance-swift.conf'
        wsgi.write_conf(accounts, {'ref1': {
            'auth_version': 3,
            'auth_address': self._keystone.url,
            'user': 'service:glance',
            'key': self._keystone.service_password,
            'user_domain_id': 'default',
            'project_domain_id': 'default',
        }})
        return dict({
            'swift_store_config_file': accounts,
            'default_swift_reference': 'ref1',
            'swift_store_create_container_on_put': 'true',
            'swift_store_container': 'glance',
            'swift_store_region': self._region,
        }, **options)

    def _conf(self, name):
        return self.directory / ('%s-server.conf' % name)

    def _configure(self):
        for name in self._ports:
            sections = {'DEFAULT': {
                'swift_dir': self.directory, 'user': 'root', 'workers': 0,
                'bind_ip': '127.0.0.1', 'bind_port': self._ports[name],
                'devices': self.directory / 'node', 'mount_check': 'false'}}
            sections.update(
                self._proxy() if name == 'proxy' else self._server(name))
            wsgi.write_conf(self._conf(name), sections)
        for name in _KINDS:
            builder = self.directory / ('%s.builder' % name)
            for arguments in (
                    ('create', '4', '1', '0'),
                    ('add', 'r1z1-127.0.0.1:%d/d1' % self._ports[name], '1'),
                    ('rebalance',)):
                process.run([wsgi.BIN / 'swift-ring-builder', builder,
                             *arguments])
        # Last: it tells that the rest is there.
        wsgi.write_conf(self.directory / 'swift.conf', {
            'swift-hash': {'swift_hash_path_suffix': secrets.token_hex(8),
                           'swift_hash_path_prefix': secrets.token_hex(8)},
            'storage-policy:0': {'name': 'gold', 'default': 'yes'}})

    @staticmethod
    def _server(name):
        return {
            'pipeline:main': {'pipeline': 'healthcheck %s-server' % name},
            'app:%s-server' % name: {'use': 'egg:swift#%s' % name},
            'filter:healthcheck': {'use': _FILTERS['healthcheck']}}

    def _proxy(self):
        sections = {
            'pipeline:main': {'pipeline': _PIPELINE},
            'app:proxy-server': {'use': 'egg:swift#proxy',
                                 'account_autocreate': 'true'},
            'filter:authtoken': dict(
                self._keystone.authtoken, delay_auth_decision='true',
                **{'paste.filter_factory':
                   'keystonemiddleware.auth_token:filter_factory'}),
            'filter:keystoneauth': {'use': 'egg:swift#keystoneauth',
                                    'operator_roles': 'admin'}}
        for name, use in _FILTERS.items():
            sections['filter:%s' % name] = {'use': use}
        return sections
