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

"""The store as far as it needs no cluster."""

import contextlib
import errno
import io
import os
import pathlib
import sys
import time
import types
from unittest import mock

import fixtures
from glance.api.v2 import image_data
from glance.api.v2 import images as glance_images
from glance.common import exception
from glance_store._drivers import rbd
from glance_store import backend
from glance_store import capabilities
from glance_store import exceptions
from glance_store import location as glance_location
from oslo_config import cfg
from oslotest import base
import rados
import rbd as librbd
import webob.exc

from glance_dcn.ceph import client
from glance_dcn.ceph import connection
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.imports import active_imports
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import site
from glance_dcn.store import callers
from glance_dcn.store import config_watch
from glance_dcn.store import driver
from glance_dcn.store import failures
from glance_dcn.tasks import queue
from tests import releases
from tests import runtimes
from tests.unit.tasks import fakes

FSID = '5f9a3c1e-0000-4000-8000-6b7d2e8f1a90'
IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class FakeConnection:
    """A connection to a cluster that is up, as far as it is asked.

    :ivar health: health of the cluster, or an exception to raise instead
    :ivar errors: what its uses fail with, one after the other
    """

    fsid = known_fsid = connected_fsid = FSID
    address = round_trip = None

    def __init__(self):
        self.says = health.Health(health.UP)
        self.errors = []

    @property
    def health(self):
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    @contextlib.contextmanager
    def use(self):
        raise self.errors.pop(0)
        yield


class Queue(queue.TaskQueue):
    """Keeps what is deferred.

    :ivar deferred: lists of tasks
    """

    def __init__(self):
        super().__init__()
        self.deferred = []

    def defer(self, tasks):
        self.deferred.append(list(tasks))


class StoreCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.ceph_conf = self.folder / 'edge.conf'
        # Nothing can be recorded: there is no other site.
        self.useFixture(runtimes.Runtime())
        for name in ('edge_7', 'edge_8'):
            self.addCleanup(process.get(connection.Connections).forget, name)
        self.addCleanup(process.get(cluster_identity.ClusterIdentities).stop)
        self.addCleanup(self.stop_watch)

    def stop_watch(self):
        """End the poll of files that are gone."""
        watch = process.find(config_watch.ConfigWatch)
        if watch:
            watch.stop()

    def write_ceph_conf(self):
        """Write the conf file of a cluster that does not answer."""
        keyring = self.folder / 'keyring'
        keyring.write_text('[client.glance]\n\tkey = '
                           'AQBT7B9nAAAAABAAgR7DPV9Y1z1BU8C9lbvd0A==\n')
        # Nobody listens on the discard port.
        self.ceph_conf.write_text(
            '[global]\nfsid = %s\nmon_host = v2:127.0.0.1:9\nkeyring = %s\n'
            % (FSID, keyring))

    def store(self, name='edge_7', default=None, **options):
        """Return a configured store.

        :param default: identifier of the default store; None: one that is
            not configured keeps the records
        """
        options = dict({'rbd_store_ceph_conf': self.ceph_conf,
                        'rbd_store_user': 'glance',
                        'rados_connect_timeout': 1}, **options)
        path = self.folder / 'glance-api.conf'
        path.write_text(
            '[DEFAULT]\nenabled_backends = edge_7:dcn, edge_8:dcn, nfs:file\n'
            + ('[glance_store]\ndefault_backend = %s\n' % default
               if default else '[glance_dcn]\nhome_store = central\n') +
            '[%s]\n' % name + ''.join('%s = %s\n' % item
                                      for item in options.items()
                                      if item[1] is not None))
        self.conf = cfg.ConfigOpts()
        self.conf.register_opts([cfg.DictOpt('enabled_backends')])
        self.conf.register_opts([cfg.StrOpt('default_backend')],
                                group='glance_store')
        self.conf.register_opts(driver.Store.OPTIONS, group=name)
        self.conf(['--config-file', str(path)], project='glance')
        store = driver.Store(self.conf, backend=name)
        store.configure()
        return store

    def connect(self):
        """Have the stores that are made from now on use a fake connection."""
        found = FakeConnection()
        process.put(types.SimpleNamespace(get=lambda config: found),
                    connection.Connections)
        return found

    def location(self, store, fsid=FSID):
        """Return a location of an image, as glance_store makes it."""
        return glance_location.Location(
            'dcn', driver.StoreLocation, self.conf,
            uri='rbd://%s/images/%s/snap' % (fsid, IMAGE))


class TestConfigure(StoreCase):

    def test_defaults(self):
        store = self.store()
        self.assertEqual('images', store.pool)
        self.assertEqual(8 << 20, store.chunk_size)
        self.assertFalse(store.thin_provisioning)

    def test_does_not_touch_the_cluster(self):
        # Neither the conf file nor the cluster need be there.
        self.assertFalse(self.ceph_conf.exists())
        store = self.store()
        self.assertTrue(store.is_capable(
            capabilities.BitMasks.WRITE_ACCESS,
            capabilities.BitMasks.READ_ACCESS,
            capabilities.BitMasks.DRIVER_REUSABLE))

    def test_types(self):
        # Stores are of type dcn; locations say rbd, for Nova and Cinder.
        self.assertEqual(('dcn', 'rbd'), self.store().get_schemes())

    def test_bad_value_of_an_option(self):
        for option in ('rbd_store_chunk_size', 'rados_connect_timeout',
                       'dcn_io_timeout'):
            store = self.store(**{option: 'many'})
            exc = self.assertRaises(exceptions.BadStoreConfiguration,
                                    store.configure_add)
            self.assertIn(option, str(exc))
            self.assertIn('edge_7', str(exc))

    def test_shown_to_glance_as_rbd(self):
        self.store()
        self.assertEqual(
            {'edge_7': 'rbd', 'edge_8': 'dcn', 'nfs': 'file'},
            self.conf.enabled_backends)


class TestHome(StoreCase):
    """Where the records of several sites are kept."""

    def setUp(self):
        super().setUp()
        process.put(queue.TaskQueue())

    def test_the_default_store(self):
        self.store('edge_8', default='edge_7')
        self.assertIsNone(process.get(queue.TaskQueue).home.site)
        store = self.store(default='edge_7')
        self.assertIs(store.site, process.get(queue.TaskQueue).home.site)

    def test_none_is_said_to_keep_them(self):
        # That of the first one may be that of a site nobody need trust.
        for name in ('edge_7', 'edge_8'):
            store = self.store(name, default='nfs')
            self.assertIsNone(process.get(queue.TaskQueue).home.site)
            self.assertFalse(store.is_capable(
                capabilities.BitMasks.WRITE_ACCESS))
            self.assertTrue(store.is_capable(
                capabilities.BitMasks.READ_ACCESS))
            exc = self.assertRaises(exceptions.BadStoreConfiguration,
                                    store.configure_add)
            self.assertIn('home_store', str(exc))


class TestWeight(StoreCase):
    """What Glance is told, by what it loads an image for."""

    def setUp(self):
        super().setUp()
        self.write_ceph_conf()
        self.local = self.store(weight=3)
        self.far = self.store('edge_8', weight=3)
        for store in (self.local, self.far):
            store.conf.set_override('default_backend', 'edge_7',
                                    'glance_store')

    def order(self, controller, method):
        """Return stores in the order of a request of Glance's."""
        images = mock.Mock(spec=['gateway', 'policy'])
        found = []

        def sort_image_locations(locations):
            # As glance.common.utils does; releases before have no function.
            return sorted(locations, reverse=True,
                          key=lambda store: store.weight)

        def get(image_id):
            found.extend(sort_image_locations((self.far, self.local)))
            raise exception.NotFound()
        images.gateway.get_repo.return_value.get = get
        self.assertRaises(webob.exc.HTTPNotFound,
                          getattr(controller, method), images, mock.Mock(),
                          IMAGE)
        return [store.name for store in found]

    def test_read_from_the_local_store(self):
        self.assertEqual(['edge_7', 'edge_8'], self.order(
            image_data.ImageDataController, 'download'))

    def test_read_last_from_a_store_that_is_away(self):
        self.connect().says = health.Health(health.DOWN)
        self.local = self.store(weight=9, default='edge_7')
        self.assertEqual(['edge_8', 'edge_7'], self.order(
            image_data.ImageDataController, 'download'))

    def test_shown_in_the_order_of_the_database(self):
        self.assertEqual(['edge_8', 'edge_7'], self.order(
            glance_images.ImagesController, 'show'))

    def test_showing_does_not_ask_sites(self):
        cluster = self.connect()
        self.local = self.store(weight=3, default='edge_7')
        self.far = self.store('edge_8', weight=3, default='edge_7')
        cluster.says = AssertionError('it is asked')
        self.assertRaises(AssertionError, self.order,
                          image_data.ImageDataController, 'download')
        self.order(glance_images.ImagesController, 'show')

    def test_who_loads_it_is_looked_for_once(self):
        looked = []

        def profile(frame, event, _arg):
            if event == 'call' and frame.f_code is callers._find.__code__:
                looked.append(frame)
        self.addCleanup(sys.setprofile, sys.getprofile())
        for number in range(1, 4):
            sys.setprofile(profile)
            self.test_shown_in_the_order_of_the_database()
            self.test_read_from_the_local_store()
            sys.setprofile(None)
            self.assertEqual(2 * number, len(looked))

    @releases.with_weights
    def test_weight_of_the_configuration(self):
        self.assertEqual(3, int(self.local.weight))
        self.far.conf.set_override('weight', 4, 'edge_8')
        for controller, method in (
                (image_data.ImageDataController, 'download'),
                (glance_images.ImagesController, 'show')):
            self.assertEqual(['edge_8', 'edge_7'],
                             self.order(controller, method))


class TestSingleStore(base.BaseTestCase):
    """A Glance without enabled_backends registers all drivers' options."""

    def setUp(self):
        super().setUp()
        self.conf = cfg.ConfigOpts()
        backend.register_opts(self.conf)
        self.conf([], project='glance')

    def test_starts_with_ours_installed(self):
        for opt in rbd.Store.OPTIONS:
            self.assertEqual(opt.default,
                             self.conf.glance_store[opt.name], opt.name)

    def test_ours_has_its_options(self):
        store = driver.Store(self.conf)
        self.assertEqual(60, store.conf.glance_store.dcn_io_timeout)
        self.assertEqual(8, store.conf.glance_store.rbd_store_chunk_size)


class TestUrlPrefix(StoreCase):

    def test_from_the_conf_file_without_connecting(self):
        self.write_ceph_conf()
        store = self.store(rados_connect_timeout=30)
        began = time.monotonic()
        self.assertEqual('rbd://%s/images/' % FSID, store.url_prefix)
        self.assertLess(time.monotonic() - began, 15)

    def test_quotes_the_pool(self):
        self.write_ceph_conf()
        self.assertEqual('rbd://%s/a%%20b/' % FSID,
                         self.store(rbd_store_pool='a b').url_prefix)

    def test_unknown_fsid(self):
        self.assertIsNone(self.store().url_prefix)

    def test_conf_file_that_comes_later(self):
        store = self.store()
        self.assertIsNone(store.url_prefix)
        self.write_ceph_conf()
        self.assertEqual('rbd://%s/images/' % FSID, store.url_prefix)


class TestErrors(StoreCase):

    def refusals(self, store, kind, delete=None, **kwargs):
        """Return the texts of what every operation on an image fails with.

        :param kind: type of the exceptions
        :param delete: that of delete(), if it is another one
        """
        loc = self.location(store, **kwargs)
        return [str(self.assertRaises(kind, operation, loc))
                for kind, operation in (
                    (kind, lambda loc: list(store.get(loc)[0])),
                    (kind, store.get_size), (delete or kind, store.delete))]

    def test_unreachable_monitors(self):
        self.write_ceph_conf()
        store = self.store(default='edge_7')
        began = time.monotonic()
        exc = self.assertRaises(
            exceptions.BadStoreConfiguration, store.add, IMAGE,
            io.BytesIO(b'data'), 4, 'sha512')
        self.assertLess(time.monotonic() - began, 20)
        for text in [str(exc), *self.refusals(
                store, exceptions.BadStoreConfiguration,
                delete=failures.TimeoutError)]:
            for word in ('edge_7', '127.0.0.1:9', 'mon_host',
                         str(self.ceph_conf)):
                self.assertIn(word, text)

    def test_missing_conf_file(self):
        for text in self.refusals(self.store(default='edge_7'),
                                  exceptions.BadStoreConfiguration,
                                  delete=failures.TimeoutError):
            for word in ('rbd_store_ceph_conf in [edge_7]',
                         str(self.ceph_conf)):
                self.assertIn(word, text)

    def test_location_of_another_cluster(self):
        self.write_ceph_conf()
        foreign = FSID.replace('5f9a3c1e', '00000000')
        store = self.store(rados_connect_timeout=30)
        began = time.monotonic()
        for text in self.refusals(store, exceptions.BadStoreUri,
                                  fsid=foreign):
            for word in ('edge_7', FSID, foreign):
                self.assertIn(word, text)
        # The cluster was not asked.
        self.assertLess(time.monotonic() - began, 15)

    def test_deletion_of_it_is_not_taken_for_done(self):
        # Glance drops the location on NotFound.
        self.write_ceph_conf()
        store = self.store()
        error = self.assertRaises(
            exceptions.BadStoreUri, store.delete,
            self.location(store, FSID.replace('5f9a3c1e', '00000000')))
        self.assertNotIsInstance(error, exceptions.NotFound)
        # Of this one Glance tells the user, with 403.
        self.assertIsInstance(error, exceptions.Forbidden)
        self.assertIn('is not a location of store edge_7', error.msg)


class TestUnansweredDeletion(StoreCase):

    def test_is_deferred_though_the_site_is_up_again(self):
        self.write_ceph_conf()
        tasks = Queue()
        process.put(tasks, queue.TaskQueue)
        cluster = self.connect()
        store = self.store()
        for exc in (rados.TimedOut('no answer', errno=errno.ETIMEDOUT),
                    librbd.OSError('no answer', errno=errno.ETIMEDOUT)):
            cluster.errors = [exc]
            store.delete(self.location(store))
        self.assertEqual([1, 1], list(map(len, tasks.deferred)))
        tasks.deferred.clear()
        cluster.errors = [
            librbd.PermissionError('no right', errno=errno.EPERM),
            # Whether it may only read is asked then.
            *[errors.Unreachable('edge_7', 'it is away', 'wait')] * 2]
        self.assertRaises(exceptions.BadStoreConfiguration, store.delete,
                          self.location(store))
        self.assertEqual([[]], tasks.deferred)
        self.assertEqual([], cluster.errors)


class TestReason(StoreCase):

    def test_import_is_told_why_a_store_failed(self):
        # There is no conf file.
        store = self.store()
        going_on = active_imports.Import(types.SimpleNamespace(
            entry=types.SimpleNamespace(task='task', image=IMAGE, stores=(),
                                        method='glance-direct')))
        active_imports.adopt(going_on.held)
        exc = self.assertRaises(exceptions.BadStoreConfiguration, store.add,
                                IMAGE, io.BytesIO(b'x'), 1, 'sha512')
        self.assertIn('edge_7', str(exc))
        self.assertEqual(str(exc), active_imports.of(IMAGE).refusal)


class TestSizeOfPublished(StoreCase):

    def test_is_known_once_without_asking_the_cluster(self):
        self.write_ceph_conf()
        store = self.store()
        store.site.published(IMAGE, 12345)
        loc = self.location(store)
        self.assertEqual(12345, store.get_size(loc))
        self.assertRaises(exceptions.BadStoreConfiguration, store.get_size,
                          loc)

    def test_is_forgotten(self):
        clock = fakes.Clock()
        here = site.Site(client.ClusterConfig('edge_7', 'images'), 22,
                         clock=clock)
        for seconds, known in ((59, 12345), (61, None)):
            here.published(IMAGE, 12345)
            clock.now += seconds
            self.assertEqual(known, here.size_of_published(IMAGE))


class ProcessCountTest(base.BaseTestCase):

    def count(self, **options):
        conf = cfg.ConfigOpts()
        conf.register_opts([cfg.IntOpt(name) for name in options])
        conf([])
        for name, value in options.items():
            conf.set_override(name, value)
        return driver._process_count(conf)

    def test_of_the_standalone_program(self):
        self.assertEqual([1, 3], [self.count(workers=0),
                                  self.count(workers=3)])
        # It starts one for each CPU then, and eight at most.
        self.assertEqual(min(8, os.cpu_count()), self.count(workers=None))

    def test_of_a_program_without_the_option(self):
        self.assertEqual(1, self.count())
