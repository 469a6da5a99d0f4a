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

"""The lab of the benchmark: both Glances on the same clusters.

One worker runs stock's ``rbd`` stores and plugins, the other ``dcn`` stores
and glance_dcn's plugins. They share Keystone, clusters and pool; each has a
database of its own.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil

import rbd

from bench import api
from bench import meters
from lab import ceph
from lab import database
from lab import deployment
from lab import glance
from lab import keystone
from lab import process
from lab import wan

WAN = 'wan'
_MARK = 'bench.json'
_STORE_TYPES = {'stock': 'rbd', 'ours': 'dcn'}
_CONVERSION = 'dcn_image_conversion'


class Stage:
    """Everything that has to run, in one folder.

    :param state: path of the folder
    :param sites: number of clusters at this machine
    :param sides: which Glances
    :param with_wan: whether there is a cluster behind a WAN link as well
    :param parallel: dict of ``max_parallel_stores`` by side
    :param timeout: seconds after which a job has failed
    :param say: called with lines for the user
    """

    def __init__(self, state, sites, sides, with_wan, parallel, timeout, say):
        self.state = pathlib.Path(state).resolve()
        self.sites = deployment.site_names(sites)
        self.clusters = {}
        self.link = wan.Link(self.state / 'link') if with_wan else None
        self.images = self.state / 'images'
        self.sides = sides
        self._parallel = parallel
        self.timeout = timeout
        self.say = say
        self.database = database.Sqlite(self.state / 'database')
        self._workers = {}
        self._meters = {}

    def up(self):
        """Bring everything up, after removing what a crashed run left."""
        self.up_without_glance()
        ports = []
        while len(ports) < len(self.sides):
            ports.append(process.free_port(taken=ports))
        for side in self.sides:
            self._workers[side] = self._make_worker(side, ports.pop())
            self._workers[side].sync_database()
            self._start_worker(side)
        self.say('Glances are up: %s' % ', '.join(self.sides))

    def up_without_glance(self):
        """Bring up what the Glances need."""
        clean_up(self.state)
        self.state.mkdir(parents=True, exist_ok=True)
        self._write_mark()
        self.images.mkdir()
        self.database.start()
        if self.link:
            self.link.start()
        self._start_clusters()
        self.say('%d clusters are up' % len(self.clusters))
        self.keystone = keystone.Keystone(
            self.state / 'keystone', self.database, process.free_port(),
            deployment.CENTRAL)
        self.keystone.start()
        self._session = self.keystone.session()

    def is_far(self, site):
        """Return whether a site is behind the WAN link."""
        return bool(self.link) and site == WAN

    def path_of_database(self, side):
        """Return the path of the database of a side's Glance."""
        return self.database.directory / ('glance-%s.sqlite' % side)

    def client(self, side):
        """Return the :class:`bench.api.Client` of a side."""
        return api.Client(
            self._session, self._workers[side].url, self.timeout,
            self.path_of_database(side))

    def meter(self, side):
        """Return the :class:`bench.meters.Worker` of a side."""
        return self._meters[side]

    def begin_anew(self, side, keep=()):
        """Give a side a new process and an empty database, after a failure.

        :param keep: ids of images of the other side, which stay
        """
        self._workers[side].stop()
        for path in self.database.directory.glob('glance-%s.sqlite*' % side):
            path.unlink()
        shutil.rmtree(self._workers[side].staging, ignore_errors=True)
        for cluster in self.clusters.values():
            remove_images(cluster, keep)
        self._workers[side].sync_database()
        self._start_worker(side)

    def restart(self):
        """Give each side a new process, with new connections."""
        for side in self.sides:
            self._workers[side].stop()
            self._start_worker(side)

    def leftovers(self):
        """Return the names of images in the pools, with their sites."""
        return ['%s at %s' % (name, site)
                for site, cluster in self.clusters.items()
                for name in cluster.images() + cluster.trash()]

    def _write_mark(self):
        process.write_private(self.state / _MARK, json.dumps({
            'sites': self.sites, 'sides': list(self.sides)}))

    def _start_clusters(self):
        for site in self.sites:
            self.clusters[site] = self._cluster(site)
        if self.link:
            self.clusters[WAN] = self._cluster(WAN, self.link)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for job in [pool.submit(cluster.start)
                        for cluster in self.clusters.values()]:
                job.result()

    def _cluster(self, site, link=None):
        return ceph.Cluster(site, self.state / site, self.state / 'etc',
                            link=link)

    def _make_worker(self, side, port):
        options = {'max_parallel_stores': self._parallel[side]}
        if side == 'ours':
            options['image_import_plugins'] = deployment.IMPORT_PLUGINS
        return glance.Glance(
            side, self.state / side, port, self.keystone,
            self.database.url('glance-%s' % side),
            {site: (_STORE_TYPES[side], glance.rbd_store(cluster))
             for site, cluster in self.clusters.items()},
            deployment.CENTRAL,
            {'image_import_opts': options,
             _CONVERSION: {'output_format': 'raw'}})

    def _start_worker(self, side):
        worker = self._workers[side]
        worker.start()
        with contextlib.suppress(api.JobFailed):
            self._warm_up(side)
        self._meters[side] = meters.Worker(worker.service.worker_pids()[0])

    def _warm_up(self, side):
        """Let the worker load and connect what it needs: it is idle then."""
        client = self.client(side)
        image = client.create('warm-up', 'raw')
        try:
            self._upload(side, image)
        finally:
            client.delete(image)

    def _upload(self, side, image):
        answer = self._session.put(
            '%s/v2/images/%s/file' % (self._workers[side].url, image),
            data=bytes(1 << 20), raise_exc=False,
            headers={'Content-Type': 'application/octet-stream'})
        if answer.status_code != 204:
            raise api.JobFailed('warm-up: %d' % answer.status_code)


def clean_up(state):
    """End what runs in a folder of the benchmark, and remove the folder.

    :param state: path of a folder that is not there, empty, or a stage's
    :raises LabError: when it is anything else
    """
    state = pathlib.Path(state).resolve()
    mark = state / _MARK
    if not state.exists() or not any(state.iterdir()):
        return
    if not mark.exists():
        raise process.LabError('%s is not empty and not of a benchmark'
                               % state)
    facts = json.loads(mark.read_text())
    for name in [*facts['sides'], 'keystone']:
        process.Daemon(name, state / name / 'run').stop()
    for site in [*facts['sites'], WAN]:
        ceph.Cluster(site, state / site, state / 'etc').stop()
    wan.Link(state / 'link').stop()
    shutil.rmtree(state)


def remove_images(cluster, keep=()):
    """Remove all images from a cluster's pool.

    :param keep: names of those that stay
    """
    for name in cluster.images():
        if name not in keep:
            remove_image(cluster, name)
    with cluster.pool('images') as ioctx:
        for entry in rbd.RBD().trash_list(ioctx):
            if entry['name'] not in keep:
                rbd.RBD().trash_remove(ioctx, entry['id'], force=True)


def remove_image(cluster, name):
    """Remove an RBD image with its snapshots from a cluster's pool."""
    with cluster.pool('images') as ioctx:
        with rbd.Image(ioctx, name) as image:
            for snap in list(image.list_snaps()):
                if image.is_protected_snap(snap['name']):
                    image.unprotect_snap(snap['name'])
                image.remove_snap(snap['name'])
        rbd.RBD().remove(ioctx, name)
