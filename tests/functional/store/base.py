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

"""What the tests of stores share: stores made as Glance makes them."""

import concurrent.futures
import contextlib
import hashlib
import io
import os
import pathlib
import subprocess
import sys
from unittest import mock

import fixtures
from glance_store import exceptions
from glance_store import location
from glance_store import multi_backend
from oslo_config import cfg
import rbd

from glance_dcn.ceph import images
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from tests.functional import base
from tests import runtimes

MiB = 1 << 20
POOL = 'images'
SNAPSHOT = 'snap'

_ROOT = pathlib.Path(__file__).parents[3]
# What Glance registers (glance.common.config).
_GLANCE_OPTS = [cfg.DictOpt('enabled_backends')]


class Stores(fixtures.Fixture):
    """glance_store set up from a configuration file, as Glance does it.

    glance_store keeps its stores and its options in globals; they are put
    back when the fixture ends.

    :ivar conf: the oslo.config configuration
    :ivar count: what create_multi_stores() returned

    :param types: dict of the type of each store, by identifier; the first is
                  the default one
    :param options: dict of the options of each group, mostly a store
    :param directory: where the configuration file is written
    """

    def __init__(self, types, options, directory):
        super().__init__()
        self._types = types
        self._options = options
        self._file = pathlib.Path(directory) / 'glance-api.conf'

    def _setUp(self):
        self._file.write_text(_glance_conf(self._types, self._options))
        self.conf = cfg.ConfigOpts()
        self.conf.register_opts(_GLANCE_OPTS)
        for scheme_map in (location.SCHEME_TO_CLS_BACKEND_MAP,
                           multi_backend._RESERVED_STORES):
            patch = mock.patch.dict(scheme_map, clear=True)
            patch.start()
            self.addCleanup(patch.stop)
        for module in ('multi_backend', 'driver', 'location'):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_store.%s.CONF' % module, self.conf))
        # That of other tests would count as that of the same process.
        self.useFixture(runtimes.Runtime())
        self.addCleanup(process.get(cluster_identity.ClusterIdentities).stop)
        self.conf(['--config-file', str(self._file)], project='glance')
        multi_backend.register_store_opts(self.conf)
        self.count = multi_backend.create_multi_stores(self.conf)


def _glance_conf(types, options):
    """Return the text of a glance-api.conf."""
    lines = ['[DEFAULT]',
             'enabled_backends = %s' % ', '.join(
                 '%s:%s' % item for item in types.items()),
             '[glance_store]',
             'default_backend = %s' % next(iter(types))]
    for group, values in options.items():
        lines.append('[%s]' % group)
        lines += ['%s = %s' % item for item in values.items()]
    return '\n'.join(lines) + '\n'


class Verifier:
    """Stands for cryptography's verifier of a signature: takes the data."""

    def __init__(self):
        self.data = b''

    def update(self, data):
        self.data += bytes(data)


class ShortReader:
    """A stream that gives less than it is asked for, as sockets do."""

    def __init__(self, data, most=70001):
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, size=-1):
        return self._file.read(self._most if size < 0
                               else min(size, self._most))


class FailingReader:
    """A stream that breaks off: the client went away."""

    def __init__(self, data, error):
        self._file = io.BytesIO(data)
        self._error = error

    def read(self, size=-1):
        data = self._file.read(size)
        if not data:
            raise self._error
        return data


class StoreTestCase(base.CephTestCase):
    """A test of stores of one driver type on the lab's clusters.

    :cvar driver: type of the stores, as in ``enabled_backends``
    """

    driver = None
    store = 'here'

    def setUp(self):
        super().setUp()
        self.here = self.cluster('central')
        # Other tests have stores of these names at other clusters.
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.cluster_identity.OBJECT',
            'glance_dcn.fsids.%s' % self.image_name()))
        self.directory = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        self._stores = contextlib.ExitStack()
        self.addCleanup(self._stores.close)
        self._made = []
        self.addCleanup(self._purge_made)

    def use_stores(self, types, **options):
        """Set glance_store up, in place of what it was set up with before.

        :param types: dict of store types by identifier
        :param options: dict of options for each group, mostly a store
        :returns: :class:`Stores`
        """
        self._stores.close()
        return self._stores.enter_context(
            Stores(types, options, self.directory))

    def use_store(self, **options):
        """Set glance_store up with one store, at this test's cluster."""
        return self.use_stores({self.store: self.driver},
                               **{self.store: self.site(**options)})

    def site(self, cluster=None, **options):
        """Return the options of a store at a cluster."""
        return dict({'rbd_store_ceph_conf': (cluster or self.here).conf,
                     'rbd_store_user': 'glance', 'rbd_store_pool': POOL,
                     'rbd_store_chunk_size': 1,
                     'rbd_thin_provisioning': True}, **options)

    def new_image(self, *clusters):
        """Return an image ID, and see that nothing of it stays behind."""
        name = self.image_name()
        self._made += [(cluster, name)
                       for cluster in clusters or (self.here,)]
        return name

    def _purge_made(self):
        # Side by side: most of it is waiting for monitors.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda made: purge(*made), self._made))

    def add(self, data, size=None, name=None, store=None, **kwargs):
        """Add an image: what add_with_multihash() returns.

        :param data: bytes, or what to read them from
        :param size: size to announce; None: that of the data
        :param name: ID of the image; None: a new one
        :param store: identifier of the store
        """
        if size is None:
            size = len(data)
        if isinstance(data, bytes):
            data = io.BytesIO(data)
        return multi_backend.add_with_multihash(
            multi_backend.CONF, name or self.new_image(), data, size,
            store or self.store, kwargs.pop('algorithm', 'sha512'), **kwargs)

    def read(self, uri, store=None, **kwargs):
        """Return an image's data, and check that its size is told right."""
        data, size = multi_backend.get(uri, store or self.store, **kwargs)
        data = b''.join(data)
        self.assertEqual(len(data), size)
        return data

    def size(self, uri, store=None):
        return multi_backend.get_size_from_uri_and_backend(
            uri, store or self.store)

    def delete(self, uri, store=None):
        multi_backend.delete(uri, store or self.store)

    def uri(self, name, cluster=None, pool=POOL, snapshot=SNAPSHOT):
        """Return the location that an image has or would have."""
        return 'rbd://%s/%s/%s/%s' % ((cluster or self.here).fsid, pool, name,
                                      snapshot)

    @contextlib.contextmanager
    def image(self, name, cluster=None, **kwargs):
        """Open an RBD image, as another client than the store's."""
        with (cluster or self.here).pool(POOL) as ioctx:
            with rbd.Image(ioctx, name, **kwargs) as image:
                yield image

    def clone(self, name, **features):
        """Clone an image's snapshot into pool vms, as Nova does.

        :param features: options of the client, such as
                         rbd_default_clone_format
        :returns: name of the clone
        """
        child = self.image_name()
        with self.here.connect('openstack') as client:
            for key, value in features.items():
                client.conf_set(key, value)
            with client.open_ioctx(POOL) as images, \
                    client.open_ioctx('vms') as vms:
                rbd.RBD().clone(images, name, SNAPSHOT, vms, child)
        self.addCleanup(purge, self.here, child, 'vms')
        return child

    def assertAbsent(self, name, cluster=None):
        """Nothing of the image is in the pool, nor in its trash."""
        cluster = cluster or self.here
        self.assertNotIn(name, cluster.images())
        self.assertNotIn(name, cluster.trash())

    def assertPublished(self, name, data, cluster=None):
        """The image has exactly these data, also in its one snapshot."""
        with self.image(name, cluster, read_only=True) as image:
            self.assertEqual([SNAPSHOT],
                             [snap['name'] for snap in image.list_snaps()])
            self.assertTrue(image.is_protected_snap(SNAPSHOT))
            self.assertEqual(len(data), image.size())
        with self.image(name, cluster, read_only=True) as image:
            image.set_snap(SNAPSHOT)
            self.assertEqual(len(data), image.size())
            # Digests, so that a failure does not print the data.
            self.assertEqual(digest(data),
                             digest(image.read(0, image.size())))

    def assertSame(self, expected, actual):
        """Both are the same data; a failure does not print them."""
        self.assertEqual((len(expected), digest(expected)),
                         (len(actual), digest(actual)))

    def assertNotFound(self, uri, store=None):
        """There is no image at the location, for any operation."""
        for operation in (self.read, self.size, self.delete):
            self.assertRaises(exceptions.NotFound, operation, uri, store)


def digest(data, algorithm='sha256'):
    return hashlib.new(algorithm, data).hexdigest()


def purge(cluster, name, pool=POOL):
    """Remove an RBD image with all that hangs on it, if it is there."""
    with cluster.pool(pool) as ioctx:
        for entry in images.trash_entries(ioctx):
            if entry.name == name and entry.source != images.REMOVING:
                rbd.RBD().trash_restore(ioctx, entry.image_id, name)
        if name not in rbd.RBD().list(ioctx):
            return
        # One whose maker died while creating it is listed, but cannot be
        # opened.
        with contextlib.suppress(rbd.ImageNotFound), \
                rbd.Image(ioctx, name) as image:
            for snap in image.list_snaps():
                if image.is_protected_snap(snap['name']):
                    image.unprotect_snap(snap['name'])
                image.remove_snap(snap['name'])
        # A task runner may have been faster.
        with contextlib.suppress(rbd.ImageNotFound):
            rbd.RBD().remove(ioctx, name)


def start_child(function, *args):
    """Run a function of a test module in a new process of its own.

    :param function: ``module.function`` of this package
    :param args: its arguments, as text
    :returns: subprocess.Popen with its output in a pipe
    """
    module, name = function.split('.')
    code = ('import sys\n'
            'from tests.functional.store import %s\n'
            '%s.%s(*sys.argv[1:])\n' % (module, module, name))
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, args)], cwd=_ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
