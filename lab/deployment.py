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

"""A whole deployment on one machine: the sites, and what serves them all.

The topology is the one of a DCN deployment: Keystone and the database at the
central site, whose Glance has every site's store and its own as default; at
each edge a Glance whose default is its own store and whose second store is
central's. The key that an edge has at central is good for reading alone,
unless the lab is made with another ``edge_access``; the one that central has
at an edge cannot reach the records of the edge. Everything lives in one state
folder::

    lab.json              what the deployment consists of
    openrc                environment for openstack and glance
    etc/ceph/             conf files and keyrings of the clusters' clients
    keystone/ database/
    sites/<site>/ceph/
    sites/<site>/glance-<n>/
    sites/<site>/haproxy/
    clusters/<name>/      clusters that sites share, see lab/shared.py

Where a site has several workers, its public address is a load balancer's.
"""

import concurrent.futures
import contextlib
import fcntl
import json
import pathlib
import shutil
import time

from glance_dcn.deploy import model
from lab import balancer
from lab import ceph
from lab import clock
from lab import database
from lab import glance
from lab import keystone
from lab import process
from lab import shared
from lab import wan
from lab import wsgi

CENTRAL = 'central'

#: Import plugins that go with stores of type ``dcn``.
IMPORT_PLUGINS = '[dcn_distributed_staging,dcn_image_conversion]'
_OURS = {'image_import_opts': {'image_import_plugins': IMPORT_PLUGINS}}
_STATE_MARK = 'lab.json'


def site_names(count):
    """Return the names of ``count`` sites, central first."""
    return [CENTRAL] + ['dcn%d' % n for n in range(count - 1)]


def user_of(site):
    """Return the user that a site's Glance has at clusters of others."""
    return 'glance-%s' % site


class Deployment:
    """The deployment of one state folder.

    :param state: path of the folder
    :param report: called with a line of text for each step
    :ivar trees: folders with another release of glance_dcn, and its metadata,
        for workers by (site, number)
    """

    def __init__(self, state, report=lambda line: None):
        self.state = pathlib.Path(state).resolve()
        self.trees = {}
        self._report = report
        self._started = time.monotonic()

    @property
    def facts(self):
        """What the deployment consists of, as a dict."""
        try:
            return json.loads((self.state / _STATE_MARK).read_text())
        except FileNotFoundError:
            raise process.LabError('there is no lab in %s' % self.state)

    @property
    def sites(self):
        """The names of the sites, central first."""
        return self.facts['sites']

    def create(self, sites, workers=1, database='sqlite', store_type='dcn',
               wan=False, store_options=None, services=None,
               edge_access='read-only', clocks=False, edges=True,
               shared=None):
        """Write down what the deployment shall consist of.

        :param sites: list of names, the central site first
        :param workers: Glance workers at each site
        :param database: see :data:`lab.database.KINDS`
        :param store_type: ``dcn``, or ``rbd`` for stock's driver
        :param wan: whether each cluster is behind a link that can be cut
        :param store_options: dict of options that each store has as well
        :param services: None, or what another lab lends: ``lab``, the path of
            its folder, whose Keystone is used, and ``database``, the URL of
            an empty database for Glance
        :param edge_access: what an edge's Glance may do at central:
            ``read-only`` or ``read-write``
        :param clocks: whether each worker has a clock that can be stepped
        :param edges: whether the sites other than central have Glances, too
        :param shared: None, or edges are pools of one cluster, of which so
            many, the last ones, are in a further one that is behind a link;
            central has one of its own, and the only Glance
        :raises process.LabError: if there is another one in the folder
        """
        facts = {'sites': list(sites), 'workers': workers,
                 'database': database, 'store_type': store_type, 'wan': wan,
                 'store_options': store_options or {}, 'services': services,
                 'edge_access': edge_access, 'clocks': clocks,
                 'edges': edges and shared is None, 'shared': shared,
                 'ports': {}}
        if (self.state / _STATE_MARK).exists():
            facts['ports'] = self.facts['ports']
            if facts != self.facts:
                raise process.LabError(
                    'the lab in %s was made with other options (%s); take it '
                    'down with --delete first, or choose another folder' % (
                        self.state, ', '.join(
                            '%s=%s' % item for item in self.facts.items()
                            if item[0] != 'ports')))
            return
        if self.state.exists() and any(self.state.iterdir()):
            raise process.LabError('%s is not empty and holds no lab'
                                   % self.state)
        self.state.mkdir(parents=True, exist_ok=True)
        self._save(facts)

    def up(self):
        """Bring everything up; what runs already is left as it is."""
        with self._locked():
            self._choose_ports()
            with concurrent.futures.ThreadPoolExecutor() as pool:
                jobs = [pool.submit(self.start_clusters),
                        pool.submit(self._start_services)]
                for job in jobs:
                    job.result()
                list(pool.map(self._start_worker, self._workers()))
            for site in self._balanced():
                self.balancer(site).start()
            self._write_openrc()
            self._say('up')

    def start_clusters(self):
        """Bring up the clusters alone, with the links before them."""
        self._start_links()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(self._start_cluster, self.clusters()))

    def stop_clusters(self):
        """End the clusters, and the links before them; the data stays."""
        for cluster in self.clusters():
            cluster.stop()
            if cluster.link:
                cluster.link.stop()

    def down(self, delete=False):
        """End everything that was started.

        :param delete: remove the state folder as well
        """
        with self._locked():
            for site in self._balanced():
                self.balancer(site).stop()
            for site, number in self._workers():
                self.glance(site, number).stop()
            if not self.facts['services']:
                self.keystone.stop()
                self.database.stop()
            self.stop_clusters()
            self._say('down')
        if delete:
            shutil.rmtree(self.state)

    def clusters(self):
        """Return the clusters that run, each a :class:`lab.ceph.Cluster`."""
        if not self._is_shared:
            return [self.cluster(site) for site in self.sites]
        names = ['home', 'near'] + (['far'] if self.facts['shared'] else [])
        return [self._shared_cluster(name) for name in names]

    def cluster(self, site):
        """Return the :class:`lab.ceph.Cluster` of a site.

        Where sites share one, a :class:`lab.shared.SharedSite`.
        """
        if self._is_shared:
            access = model.Access.READ_WRITE
            if site == CENTRAL:
                name, access = 'home', model.Access.OWNER
            elif site in self.sites[len(self.sites) - self.facts['shared']:]:
                name = 'far'
            else:
                name = 'near'
            return shared.SharedSite(site, self._shared_cluster(name), access)
        guests = {user_of(CENTRAL): 'read-write'}
        if site == CENTRAL:
            guests = {user_of(edge): self.facts['edge_access']
                      for edge in self.sites if edge != CENTRAL}
        return ceph.Cluster(site, self.state / 'sites' / site / 'ceph',
                            self.state / 'etc' / 'ceph', link=self.link(site),
                            guests=guests)

    def store(self, name, at, **options):
        """Return the options of a site's store at the Glance of a site.

        :param name: of the site whose store it is
        :param at: name of the site of the Glance; one that has no key there
            gets that of the owner
        :param options: options to add or change
        """
        cluster = self.cluster(name)
        if self._is_shared:
            options = dict(cluster.options, **options)
        if name != at and user_of(at) in cluster.guests:
            options.setdefault('rbd_store_user', user_of(at))
            if cluster.guests[user_of(at)] == 'read-only':
                options.setdefault('dcn_access', 'read-only')
        return glance.rbd_store(cluster, **options)

    def link(self, site):
        """Return the :class:`lab.wan.Link` of a site, None without one."""
        if self._is_shared:
            return self.cluster(site).link
        if not self.facts['wan']:
            return None
        return wan.Link(self.state / 'sites' / site / 'link')

    @property
    def _is_shared(self):
        return self.facts.get('shared') is not None

    def _shared_cluster(self, name):
        folder = self.state / 'clusters' / name
        return ceph.Cluster(
            name, folder / 'ceph', self.state / 'etc' / 'ceph',
            link=wan.Link(folder / 'link') if name == 'far' else None)

    def glance(self, site, number=0, store_type=None):
        """Return a worker of a site, a :class:`lab.glance.Glance`.

        :param store_type: another type of store than the deployment's
        """
        name = 'glance-%d' % number
        kind = store_type or self.facts['store_type']
        names = self.sites if site == CENTRAL else [site, CENTRAL]
        directory = self.state / 'sites' / site / name
        tree = self.trees.get((site, number))
        return glance.Glance(
            '%s-%s' % (site, name), directory,
            self._port(name, site), self.keystone,
            self._glance_database(),
            {store: (kind, self.store(store, site,
                                      **self.facts['store_options']))
             for store in names}, site,
            _OURS if kind == 'dcn' else None,
            clock=clock.Clock(directory / 'clock')
            if self.facts.get('clocks') else None,
            # uWSGI has Python import from its folder first.
            prefix=('env', '-C', tree, 'PYTHONPATH=%s' % tree)
            if tree else ())

    def balancer(self, site):
        """Return the load balancer of a site, None where there is none."""
        if site not in self._balanced():
            return None
        return balancer.Balancer(
            '%s-haproxy' % site, self.state / 'sites' / site / 'haproxy',
            self._port('haproxy', site),
            [self._port('glance-%d' % number, site)
             for number in range(self.facts['workers'])])

    def public_url(self, site):
        """Return the URL of a site's Glance that clients are told."""
        return (self.balancer(site) or self.glance(site)).url

    @property
    def keystone(self):
        """The :class:`lab.keystone.Keystone`."""
        services = self.facts['services']
        if services:
            return Deployment(services['lab']).keystone
        return keystone.Keystone(self.state / 'keystone', self.database,
                                 self._port('keystone', CENTRAL), CENTRAL)

    @property
    def database(self):
        """The database, see :mod:`lab.database`."""
        return database.database(self.facts['database'],
                                 self.state / 'database')

    def environment(self):
        """Return the variables that make the clients use this lab."""
        return {
            'OS_AUTH_URL': self.keystone.url,
            'OS_IDENTITY_API_VERSION': '3',
            'OS_USERNAME': 'admin',
            'OS_PASSWORD': self.keystone.password,
            'OS_PROJECT_NAME': 'admin',
            'OS_USER_DOMAIN_ID': 'default',
            'OS_PROJECT_DOMAIN_ID': 'default',
            'OS_REGION_NAME': CENTRAL,
            'GLANCE_DCN_LAB': str(self.state),
        }

    def show(self):
        """Return (what, state, where) of each part, for a table."""
        rows = [('keystone', _state(self.keystone.service),
                 self.keystone.url)]
        for site in self.sites:
            cluster = self.cluster(site)
            alive = cluster.mon.pid and cluster.osd.pid
            rows.append(('%s ceph' % site, 'up' if alive else 'down',
                         str(cluster.conf)))
            for number in range(self.facts['workers']
                                if site in self._served else 0):
                worker = self.glance(site, number)
                rows.append(('%s glance-%d' % (site, number),
                             _state(worker.service), worker.url))
            if site in self._balanced():
                rows.append(('%s haproxy' % site,
                             _state(self.balancer(site)),
                             self.balancer(site).url))
        return rows

    def _balanced(self):
        return self._served if self.facts['workers'] > 1 else []

    @property
    def _served(self):
        """The names of the sites that have a Glance."""
        return (self.sites if self.facts.get('edges', True)
                else self.sites[:1])

    def _workers(self):
        return [(site, number) for site in self._served
                for number in range(self.facts['workers'])]

    def _start_links(self):
        # One after the other: they count the machine's links.
        for cluster in self.clusters():
            if cluster.link and not cluster.link.up:
                cluster.link.start()

    def _start_cluster(self, cluster):
        cluster.start()
        self._say('%s: Ceph is up' % cluster.name)
        if self._is_shared:
            found = map(self.cluster, self.sites)
            sites = [site for site in found
                     if site.cluster.name == cluster.name]
            shared.make_sites(cluster, sites)
            self._say('%s: %d sites have pools' % (cluster.name, len(sites)))

    def _glance_database(self):
        services = self.facts['services']
        return (services['database'] if services
                else self.database.url('glance'))

    def _start_services(self):
        if not self.facts['services']:
            self.database.start()
            self.keystone.start()
            for site in self._served:
                self.keystone.register_endpoint(site, self.public_url(site))
            self._say('Keystone is up')
        self.glance(CENTRAL).sync_database()
        self._say('the Glance database is ready')

    def _start_worker(self, worker):
        site, number = worker
        self.glance(site, number).start()
        self._say('%s: Glance worker %d is up' % worker)

    def _port(self, name, site):
        return self.facts['ports']['%s/%s' % (site, name)]

    def _choose_ports(self):
        """Give each service a port; one that was taken since gets another."""
        facts = self.facts
        ports = facts['ports']
        keys = ['%s/glance-%d' % worker for worker in self._workers()]
        keys += ['%s/haproxy' % site for site in self._balanced()]
        for key in ['%s/keystone' % CENTRAL, *keys]:
            running = key in ports and self._service(key).pid
            if not running and not process.is_free(ports.get(key)):
                ports[key] = process.free_port(taken=ports.values())
        self._save(facts)

    def _service(self, key):
        site, _, name = key.partition('/')
        if name == 'keystone':
            return self.keystone.service
        if name == 'haproxy':
            # Its port needs those of the workers, which come first.
            return process.Daemon('%s-haproxy' % site, self.state / 'sites'
                                  / site / 'haproxy')
        return self.glance(site, int(name.rpartition('-')[2])).service

    def _save(self, facts):
        process.write_private(self.state / _STATE_MARK,
                              json.dumps(facts, indent=1))

    def _write_openrc(self):
        lines = ['export %s=%s' % item for item in self.environment().items()]
        lines.append('export PATH=%s:$PATH' % wsgi.BIN)
        process.write_private(self.state / 'openrc', '\n'.join(lines) + '\n')

    @contextlib.contextmanager
    def _locked(self):
        with (self.state / 'lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise process.LabError(
                    'the lab in %s is being brought up or taken down'
                    % self.state)
            yield

    def _say(self, line):
        self._report('%5.1f s  %s' % (time.monotonic() - self._started, line))


def _state(service):
    return 'up' if service.pid else 'down'
