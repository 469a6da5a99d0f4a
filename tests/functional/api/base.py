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

"""What the tests through a real Glance API share."""

import concurrent.futures
import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import subprocess
import time
import types

import fixtures
from oslo_config import cfg
from oslo_db import options
import rbd
import requests
from testtools import content

from glance_dcn.ceph import images
from glance_dcn.sites import home as homes
from glance_dcn.tasks import deployment as deployments
from glance_dcn.workers import registry
from lab import deployment
from lab import glance
from lab import process
from tests.functional.api import client
from tests.functional.api import databases
from tests.functional.api import webserver
from tests.functional import base

MiB = 1 << 20
SITES = ('central', 'dcn0', 'dcn1')
# A fsid that no cluster has.
SOME_FSID = '5f2b9a54-3c1e-4d0a-9a43-0c7a6d1f0001'
# Seconds in which a worker that lives has spoken.
_BEATS = 30


@functools.cache
def lab():
    """Return the :class:`lab.deployment.Deployment` the tests run on."""
    return deployment.Deployment(base.lab_state())


@functools.cache
def session():
    """Return a keystoneauth session; its token serves all Glances."""
    return lab().keystone.session()


def deployment_id(database):
    """Return the identity of the deployment with a database.

    :param database: SQLAlchemy URL
    """
    conf = cfg.ConfigOpts()
    conf.register_opts(options.database_opts, group='database')
    conf.register_opts(deployments.OPTS, group=deployments.GROUP)
    conf([])
    conf.set_override('connection', database, 'database')
    return deployments.deployment_id(conf)


def rbd_stores(kind='dcn', sites=SITES, default='central'):
    """Return the stores of sites as :class:`lab.glance.Glance` takes them.

    :param default: site of the Glance, whose rights they are used with
    """
    return {site: (kind, lab().store(site, default)) for site in sites}


class OwnGlance(fixtures.Fixture):
    """A Glance with another configuration than the lab's.

    It has a database of its own, and the lab's clusters and Keystone.

    :ivar worker: the :class:`lab.glance.Glance`
    :ivar api: its :class:`client.Api`
    :ivar database_url: SQLAlchemy URL of its database

    :param stores: see :class:`lab.glance.Glance`
    :param default: name of the default store
    :param overrides: see :class:`lab.glance.Glance`
    :param database: URL of another database than its own
    :param processes: number of processes that serve
    :param kind: class of the Glance
    :param prefix: see :class:`lab.glance.Glance`
    """

    def __init__(self, stores, default='central', overrides=None,
                 database=None, processes=1, kind=glance.Glance, prefix=()):
        super().__init__()
        self._prefix = prefix
        self._kind = kind
        self._processes = processes
        self._stores = stores
        self._default = default
        self._overrides = overrides
        self._database = database

    def _setUp(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        own = None if self._database else self.useFixture(
            databases.Database(lab(), folder))
        self.database_url = own.url if own else self._database
        self.worker = self.make_worker(folder, self.database_url)
        if own:
            own.make_tables(self.worker)
        self.addCleanup(self.worker.stop)
        self.start()
        self.api = client.Api(self.worker.url, session())

    def start(self):
        """Start the worker, unless it runs.

        With a home that lasts as long as it does, for caches: that of a test
        does not.
        """
        with fixtures.EnvironmentVariable('HOME', str(self.worker.directory)):
            self.worker.start()

    def make_worker(self, folder, database):
        """Return the worker to start."""
        return self._kind(
            'own-glance', folder, process.free_port(), lab().keystone,
            database, self._stores, self._default, self._overrides,
            self._processes, prefix=self._prefix)

    @property
    def log(self):
        """What Glance has logged, as text."""
        return self.worker.log.read_text(errors='replace')


class ApiTestCase(base.CephTestCase):
    """A test through the APIs of the lab's Glances."""

    def setUp(self):
        super().setUp()
        for name in ('keystoneauth', 'swiftclient', 'urllib3'):
            self.useFixture(fixtures.FakeLogger(name, level=logging.INFO))
        self.lab = lab()
        self.central, self.dcn0, self.dcn1 = (
            client.Api(self.lab.glance(site).url, session())
            for site in SITES)

    def use_own(self, fixture):
        """Take the class's :class:`OwnGlance`; a failure keeps its log."""
        def attach(_exc_info):
            for name, text in (
                    ('glance-api.log', fixture.log[-30000:]),
                    ('uwsgi.log', fixture.worker.service.daemon.tail())):
                self.addDetail(name, content.text_content(text))
        self.addOnException(attach)
        return fixture.api

    def forget_workers(self):
        """Have nobody know of the workers of tests that have ended."""
        deployment = deployment_id(self.lab.database.url('glance'))
        for name in SITES:
            with self.cluster(name).pool() as ioctx:
                known = registry.Registry(homes.Home(types.SimpleNamespace(
                    name=name,
                    open_pool=lambda: contextlib.nullcontext(ioctx),
                    call=lambda function, *args, **unused: function(*args))),
                    deployment)
                for worker, text in known.workers():
                    # Those of other tests may be waiting to be taken over.
                    if (worker.site == name
                            and time.time() - worker.seen > _BEATS):
                        known.remove(worker, text)

    def new_image(self, api, **properties):
        """Make an image record that the end of the test deletes.

        :param properties: what to add or change
        :returns: its ID
        """
        image = api.images.create(**dict(
            {'name': self.id()[-200:], 'disk_format': 'raw',
             'container_format': 'bare'}, **properties))
        self.addCleanup(self.discard, api, image['id'])
        return image['id']

    def discard(self, api, image_id):
        """Delete an image and everything of it in the pools."""
        if api in (self.dcn0, self.dcn1):
            # An edge may not delete what is at central.
            api = self.central
        with contextlib.suppress(requests.ConnectionError):
            api.request('DELETE', '/v2/images/%s' % image_id)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(
                lambda site: purge(self.cluster(site), image_id),
                SITES))

    def uploaded(self, api, data, *stores, **properties):
        """Make an image of some data, staged and imported into stores.

        :returns: its ID
        """
        image_id = self.new_image(api, **properties)
        api.stage(image_id, data)
        api.images.image_import(image_id, 'glance-direct',
                                stores=list(stores))
        api.wait(image_id, *stores)
        return image_id

    def served(self, data):
        """Serve data over HTTP until the test ends, and return the URL."""
        return self.useFixture(webserver.Served(data)).url

    def converted(self, data, disk_format):
        """Return a disk image of a format that has data as its content."""
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (folder / 'raw').write_bytes(data)
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', disk_format,
                        folder / 'raw', folder / 'converted'], check=True)
        return (folder / 'converted').read_bytes()

    @contextlib.contextmanager
    def rbd_image(self, site, name, pool='images', **kwargs):
        """Open an RBD image as Nova would."""
        with self.cluster(site).pool(pool) as ioctx:
            with rbd.Image(ioctx, name, **kwargs) as image:
                yield image

    def clone(self, site, image_id, clone_format=2):
        """Clone an image into pool vms as Nova does; the test removes it.

        :param clone_format: 1 needs the protected snapshot, 2 does not
        :returns: function that removes the clone
        """
        name = '%s_disk' % image_id
        cluster = self.cluster(site)
        with cluster.connect('openstack') as rados:
            rados.conf_set('rbd_default_clone_format', str(clone_format))
            with rados.open_ioctx('images') as source, \
                    rados.open_ioctx('vms') as target:
                rbd.RBD().clone(source, image_id, 'snap', target, name)

        def remove():
            with cluster.pool('vms') as ioctx, contextlib.suppress(
                    rbd.ImageNotFound):
                rbd.RBD().remove(ioctx, name)
        self.addCleanup(remove)
        return remove

    def make_published(self, image_id, data, site):
        """Make a published RBD image without Glance, as Nova does."""
        with self.cluster(site).pool('images') as ioctx:
            rbd.RBD().create(ioctx, image_id, len(data))
        with self.rbd_image(site, image_id) as image:
            image.write(data, 0)
            image.create_snap('snap')
            image.protect_snap('snap')

    def location(self, site, image_id):
        """Return the location an image has at a site."""
        return 'rbd://%s/images/%s/snap' % (self.cluster(site).fsid, image_id)

    def assertStored(self, image_id, data, *sites):
        """The image is published at these sites, with the data."""
        for site in sites:
            with self.rbd_image(site, image_id, read_only=True) as image:
                self.assertEqual(
                    ['snap'], [snap['name'] for snap in image.list_snaps()])
                self.assertTrue(image.is_protected_snap('snap'))
                image.set_snap('snap')
                self.assertSame(data, image.read(0, image.size()))

    def assertNoTrace(self, image_id, *sites):
        """The pools of these sites have nothing of the image."""
        for site in sites:
            self.assertNotIn(image_id, self.cluster(site).images())
            self.assertNotIn(image_id, self.cluster(site).trash())

    def assertLocated(self, image, *sites):
        """The image has exactly these sites' locations."""
        self.assertEqual(
            sorted((site, self.location(site, image['id'])) for site in sites),
            sorted((location['metadata']['store'], location['url'])
                   for location in image['locations']))

    def assertDescribes(self, image, data):
        """Size, checksum and hash of the image are those of the data."""
        self.assertEqual(
            (len(data), digest(data, 'md5'), 'sha512', digest(data, 'sha512')),
            (image['size'], image['checksum'], image['os_hash_algo'],
             image['os_hash_value']))

    def assertSame(self, expected, actual):
        """Both are the same data; a failure does not print them."""
        self.assertEqual((len(expected), digest(expected)),
                         (len(actual), digest(actual)))


class OwnGlanceTestCase(ApiTestCase):
    """A test through a Glance of the class's own.

    :cvar own: the :class:`OwnGlance`, which :meth:`start_own` or the class
        itself starts
    """

    own = None

    @classmethod
    def start_own(cls, stores, **kwargs):
        """Start the Glance; for the parameters see :class:`OwnGlance`."""
        cls.own = cls.use_for_class(OwnGlance(stores, **kwargs))

    def setUp(self):
        super().setUp()
        self.api = self.use_own(self.own)


def purge(cluster, name):
    """Remove an image of pool images with its snapshots, if it is there."""
    with cluster.pool('images') as ioctx:
        for entry in images.trash_entries(ioctx):
            if entry.name == name and entry.source != images.REMOVING:
                process.wait_for('an image in the trash', functools.partial(
                    _restore, ioctx, entry.image_id, name), 30)
        if name not in rbd.RBD().list(ioctx):
            return
        # One that was being created when its maker died cannot be opened.
        with contextlib.suppress(rbd.ImageNotFound), \
                rbd.Image(ioctx, name) as image:
            for snap in image.list_snaps():
                if image.is_protected_snap(snap['name']):
                    image.unprotect_snap(snap['name'])
                image.remove_snap(snap['name'])
        rbd.RBD().remove(ioctx, name)


def _restore(ioctx, image_id, name):
    """Restore an image from the trash; return whether it is there no more.

    A task runner may be trying to purge it at this moment.
    """
    try:
        rbd.RBD().trash_restore(ioctx, image_id, name)
    except rbd.ImageBusy:
        return False
    except rbd.ImageNotFound:
        pass
    return True


def digest(data, algorithm='sha256'):
    """Return the digest of data as text."""
    return hashlib.new(algorithm, data).hexdigest()


def random_data(size=2 * MiB + 512):
    """Return random data with a hole in its middle."""
    half = size // 3
    return os.urandom(half) + bytes(size - 2 * half) + os.urandom(half)
