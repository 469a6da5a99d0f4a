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

"""The lab's Glance: one service a worker, configured as on a DCN node.

That is uWSGI, or with ``eventlet`` as ``GLANCE_DCN_SERVER`` in the environment
the program ``glance-api`` of releases before 33.
"""

import importlib.util
import os
import pathlib
import shutil

from lab import process
from lab import standalone
from lab import wsgi

#: What serves, unless a worker says otherwise.
SERVER = os.environ.get('GLANCE_DCN_SERVER') or 'uwsgi'
_PASTE = 'glance-api-paste.ini'
RESERVED = ('os_glance_staging_store', 'os_glance_tasks_store')


def rbd_store(cluster, description=None, **options):
    """Return the options of a store in a cluster's images pool.

    :param cluster: :class:`lab.ceph.Cluster`
    :param description: what ``stores-info`` shows
    :param options: options to add or change
    """
    return dict({
        'store_description': description or '%s RBD store' % cluster.name,
        'rbd_store_ceph_conf': cluster.conf,
        'rbd_store_user': 'glance',
        'rbd_store_pool': 'images',
        'rbd_thin_provisioning': 'true',
        'rados_connect_timeout': 5,
    }, **options)


def application():
    """Return the WSGI application of the Glance that is installed."""
    if importlib.util.find_spec('glance.wsgi'):
        return 'glance.wsgi.api:application'
    # Before release 30 there is but a program for WSGI servers,
    # glance-wsgi-api, which calls this.
    return 'glance.common.wsgi_app:init_app()'


class Glance:
    """One Glance worker with its own staging folder and self reference.

    :cvar server: ``uwsgi`` or ``eventlet``

    :param name: what it is called in messages
    :param directory: where its files are kept
    :param port: TCP port on 127.0.0.1
    :param keystone: :class:`lab.keystone.Keystone`
    :param database_url: SQLAlchemy URL
    :param stores: dict of (store type, options) by store name
    :param default: name of the default store
    :param overrides: dict of dicts: options to add or change, by group
    :param processes: number of uWSGI processes
    :param clock: :class:`lab.clock.Clock` of its processes; None: the
        machine's
    :param prefix: arguments of a program that starts it, such as ``prlimit``
    """

    server = SERVER

    def __init__(self, name, directory, port, keystone, database_url, stores,
                 default, overrides=None, processes=1, clock=None, prefix=()):
        self.directory = pathlib.Path(directory)
        self.etc = self.directory / 'etc'
        self.staging = self.directory / 'staging'
        self.log = self.directory / 'glance-api.log'
        self.clock = clock
        self._prefix = prefix
        self._processes = processes
        self.service = self._make_service(name, port, processes)
        self.url = self.service.url
        self._keystone = keystone
        self._database_url = database_url
        self._stores = stores
        self._default = default
        self._overrides = overrides or {}

    def _make_service(self, name, port, processes):
        env = dict(self.clock.environment if self.clock else {},
                   OS_GLANCE_CONFIG_DIR=str(self.etc))
        if self.server == 'eventlet':
            return standalone.Service(name, self.directory / 'run', port, env,
                                      self._prefix)
        return wsgi.Service(
            name, application(), self.directory / 'run', port, env=env,
            processes=processes, prefix=self._prefix)

    def configure(self):
        """Write glance-api.conf and make the folders it names."""
        for folder in ('staging', 'tasks', 'work', 'locks'):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        if self.clock:
            self.clock.make()
        sections = self._sections()
        for group, options in self._overrides.items():
            sections.setdefault(group, {}).update(options)
        wsgi.write_conf(self.etc / 'glance-api.conf', sections)
        # Not all releases start without it there, whatever config_file says.
        shutil.copy(wsgi.BIN.parent / 'etc/glance' / _PASTE, self.etc)

    def start(self):
        """Write the configuration and start the worker."""
        self.configure()
        self.service.start('/healthcheck')

    def staged(self):
        """Return the paths of the staged files, without the journal."""
        return sorted(path for path in self.staging.iterdir()
                      if not path.name.startswith('.'))

    def stop(self):
        """End the worker."""
        self.service.stop()

    def sync_database(self):
        """Make or upgrade the database's tables."""
        self.configure()
        process.run([wsgi.BIN / 'glance-manage', '--config-dir', self.etc,
                     'db_sync'])

    def _sections(self):
        sections = {
            'DEFAULT': {
                'enabled_backends': ','.join(
                    '%s:%s' % (name, kind)
                    for name, (kind, _options) in self._stores.items()),
                'enabled_import_methods':
                    '[glance-direct,web-download,copy-image]',
                'show_multiple_locations': 'true',
                'show_image_direct_url': 'true',
                'worker_self_reference_url': self.url,
                'log_file': self.log,
            },
            'database': {'connection': self._database_url},
            'glance_store': {'default_backend': self._default},
            'image_import_opts': {
                'image_import_plugins': '[image_conversion]'},
            'image_conversion': {'output_format': 'raw'},
            'import_filtering_opts': {
                # Images are served from this machine in the lab.
                'allowed_hosts': '[127.0.0.1]', 'allowed_ports': '[]'},
            'keystone_authtoken': self._keystone.authtoken,
            'oslo_concurrency': {'lock_path': self.directory / 'locks'},
            'paste_deploy': {
                'flavor': 'keystone',
                'config_file': self.etc / _PASTE},
            'task': {'work_dir': self.directory / 'work'},
            # Under uWSGI sys.executable is uWSGI, which cannot run the helper
            # that limits qemu-img.
            'wsgi': {'python_interpreter': wsgi.BIN / 'python'},
        }
        if self.server == 'eventlet':
            sections['DEFAULT'].update(
                bind_host='127.0.0.1', bind_port=self.service.port,
                workers=self._processes)
        for name, (_kind, options) in self._stores.items():
            sections[name] = dict(options)
        for name, folder in zip(RESERVED, ('staging', 'tasks')):
            sections[name] = {
                'filesystem_store_datadir': self.directory / folder}
        return sections


class OnEventlet(Glance):
    """A Glance that is a server of its own, with green threads."""

    server = 'eventlet'
