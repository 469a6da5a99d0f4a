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

"""Stores that are badly configured, full, cut short or forked."""

import base64
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import signal
import struct
import tempfile
import time
from unittest import mock

import fixtures
from glance_store import exceptions
from glance_store import multi_backend
from oslotest import base as oslotest_base
import rados
import rbd

from glance_dcn.runtime import process as runtime
from glance_dcn.sites import limits
from glance_dcn.store import failures
from glance_dcn.tasks import queue
from lab import ceph
from lab import process
from tests.functional.store import base

MiB = base.MiB


class DcnLocationTest(base.StoreTestCase):
    """A location in another site's cluster is refused."""

    driver = 'dcn'
    store = 'edge_7'

    def test_fsid_of_another_cluster(self):
        # Both sites have the image: the one must not be read, let alone
        # deleted, for the other.
        other = self.cluster('dcn0')
        self.use_stores({self.store: 'dcn', 'other': 'dcn'},
                        **{self.store: self.site(),
                           'other': self.site(other)})
        name = self.new_image(self.here, other)
        self.add(b'here', name=name)
        uri = self.add(b'there', name=name, store='other')[0]
        for operation in (self.read, self.size, self.delete):
            error = self.assertRaises(exceptions.BadStoreUri, operation, uri)
            self.assertIn(self.store, str(error))
            self.assertIn(other.fsid, str(error))
        self.assertPublished(name, b'here')
        self.assertPublished(name, b'there', other)

    def test_stock_does_not_look_at_it(self):
        # The reason for the test above: when stock changes, this fails.
        self.use_stores({self.store: 'rbd'}, **{self.store: self.site()})
        name = self.new_image()
        self.add(b'here', name=name)
        self.assertEqual(
            b'here', self.read(self.uri(name, self.cluster('dcn0'))))


class DcnConfigurationTest(base.StoreTestCase):
    """One site is misconfigured: it says what to look at; others work."""

    driver = 'dcn'
    store = 'edge_7'

    def check(self, option, *words, located=None, away=False, **options):
        """Every use of the bad store names store, option and the words.

        :param located: cluster that the locations are in
        :param away: whether the site counts as one that is away
        """
        # The first time, glance_store imports all drivers there are.
        self.use_stores({'good': 'dcn'}, good=self.site(self.cluster('dcn0')))
        began = time.monotonic()
        self.use_stores({'good': 'dcn', self.store: 'dcn'},
                        **{self.store: self.site(
                               rados_connect_timeout=4, **options),
                           'good': self.site(self.cluster('dcn0'))})
        self.assertLess(time.monotonic() - began, 4)
        name = self.new_image(self.here, self.cluster('dcn0'))
        self.check_refusals(name, self.store, option, *words, away=away,
                            cluster=located)
        uri = self.add(b'good', name=name, store='good')[0]
        self.assertEqual(b'good', self.read(uri, 'good'))
        self.delete(uri, 'good')

    def check_refusals(self, name, *words, away=False, **kwargs):
        """Every operation on an image is refused with all the words.

        But for its deletion where the site is away: the default store keeps
        the record of that.
        """
        uri = self.uri(name, **kwargs)
        operations = [lambda: self.add(b'x', name=name),
                      lambda: self.read(uri), lambda: self.size(uri)]
        if away:
            self.delete(uri)
            self.assertEqual([queue.Action.DELETE], self.deferred(name))
        else:
            operations.append(lambda: self.delete(uri))
        for operation in operations:
            error = self.assertRaises((exceptions.BadStoreConfiguration,
                                       failures.TimeoutError), operation)
            for word in words:
                self.assertIn(str(word), str(error))

    def deferred(self, name):
        """Return the actions of the tasks for an image at the store."""
        found = runtime.get(queue.TaskQueue).store.records(self.store, name)
        for task in found:
            self.addCleanup(runtime.get(queue.TaskQueue).store.remove, task)
        return [task.action for task in found]

    def test_wrong_pool(self):
        self.check_pool('imagez', 'rbd_store_pool')

    def test_pool_without_permission(self):
        self.check_pool('vms', 'rbd_store_pool', 'rbd_store_user')

    def check_pool(self, pool, *options):
        # A location has its own pool: here it is that of the store.
        self.use_stores({'good': 'dcn', self.store: 'dcn'},
                        **{self.store: self.site(rbd_store_pool=pool),
                           'good': self.site()})
        self.check_refusals(self.new_image(), self.store, pool, *options,
                            pool=pool)
        uri = self.add(b'good', store='good')[0]
        self.assertEqual(b'good', self.read(uri, 'good'))

    def test_wrong_user(self):
        # Has no keyring at all.
        self.check('rbd_store_user', 'glanze', away=True,
                   rbd_store_user='glanze')

    def test_user_unknown_to_the_cluster(self):
        # Has a keyring, but the cluster does not know it.
        keyring = self.keyring()
        self.check('rbd_store_user', 'stranger', rbd_store_user='stranger',
                   rbd_store_ceph_conf=self.conf_file(
                       '[client.stranger]\nkeyring = %s\n' % keyring))

    def test_wrong_key(self):
        # It is the right user, with the key of another cluster, say.
        self.check('rbd_store_user', 'glance',
                   rbd_store_ceph_conf=self.conf_file(
                       '[client.glance]\nkeyring = %s\n'
                       % self.keyring('glance')))

    def test_key_of_a_newer_ceph(self):
        # Of a type that Ceph 20 makes: older clients cannot read it, and
        # what can is refused.
        keyring = self.directory / 'newer.keyring'
        keyring.write_text(
            '[client.glance]\n\tkey = AgDerwprC7O5GCAA4oA2Qal1lPs5hpG21MOZ'
            'NtV0RbwJh37RVc4RayiOt+c=\n')
        self.check('rbd_store_user', 'client.glance',
                   rbd_store_ceph_conf=self.conf_file(
                       '[client.glance]\nkeyring = %s\n' % keyring))

    def test_missing_keyring(self):
        keyring = self.directory / 'gone.keyring'
        self.check('rbd_store_ceph_conf', keyring, away=True,
                   rbd_store_ceph_conf=self.conf_file(
                       '[client.glance]\nkeyring = %s\n' % keyring))

    def test_unreadable_keyring(self):
        keyring = self.keyring('glance')
        self.unreadable(keyring, keyring, self.conf_file(
            '[client.glance]\nkeyring = %s\n' % keyring))

    def test_unreadable_conf_file(self):
        path = self.conf_file()
        self.unreadable(path, path, path)

    def unreadable(self, path, word, conf):
        path.chmod(0)
        self.use_stores({self.store: 'dcn'}, **{self.store: self.site(
            rbd_store_ceph_conf=conf)})
        name = self.new_image()
        with self.not_root():
            self.check_refusals(name, self.store, 'rbd_store_ceph_conf', word)

    @contextlib.contextmanager
    def not_root(self):
        """Drop root's right to read every file, if we have it."""
        if os.geteuid():
            yield
            return
        for folder in (self.directory, self.directory.parent):
            folder.chmod(0o755)
        fsid = self.here.fsid
        os.seteuid(65534)
        try:
            with mock.patch.object(ceph.Cluster, 'fsid', fsid):
                yield
        finally:
            os.seteuid(0)

    def test_missing_conf_file(self):
        path = self.directory / 'gone.conf'
        self.check('rbd_store_ceph_conf', path, away=True,
                   rbd_store_ceph_conf=path)

    def test_garbage_for_a_conf_file(self):
        path = self.directory / 'garbage.conf'
        path.write_text('{"this": "is no conf file"\n[[[')
        self.check('rbd_store_ceph_conf', path, rbd_store_ceph_conf=path)

    def test_conf_file_of_the_wrong_cluster(self):
        # The fsid of one cluster, the monitors of another.
        other = self.cluster('dcn0')
        path = self.conf_file()
        path.write_text(path.read_text().replace(self.here.fsid, other.fsid))
        self.check('rbd_store_ceph_conf', other.fsid, self.here.fsid,
                   located=other, rbd_store_ceph_conf=path)

    def test_no_monitor_answers(self):
        path = self.directory / 'away.conf'
        path.write_text('[global]\nfsid = %s\nmon_host = v2:127.0.0.1:9\n'
                        '[client.glance]\nkeyring = %s\n'
                        % (self.here.fsid, self.here.keyring('glance')))
        self.check('mon_host', path, away=True, rbd_store_ceph_conf=path)

    def test_conf_file_that_comes_later(self):
        # Nobody has to restart Glance for it.
        path = self.directory / 'late.conf'
        self.use_stores({self.store: 'dcn'}, **{self.store: self.site(
            rbd_store_ceph_conf=path)})
        self.assertRaises(exceptions.BadStoreConfiguration, self.add, b'x')
        shutil.copyfile(self.here.conf, path)
        uri = self.add(b'late')[0]
        self.assertEqual(b'late', self.read(uri))

    def conf_file(self, client=None):
        """Return a copy of the cluster's conf file.

        :param client: text of its client section; None: as it is
        """
        path = self.directory / 'ceph.conf'
        text = self.here.conf.read_text()
        if client is not None:
            text = text.partition('[client.')[0] + client
        path.write_text(text)
        return path

    def keyring(self, user='stranger'):
        """Return a keyring with a key that no cluster knows."""
        key = struct.pack('<HIIH', 1, int(time.time()), 0, 16)
        path = self.directory / ('%s.keyring' % user)
        path.write_text('[client.%s]\n\tkey = %s\n' % (
            user, base64.b64encode(key + os.urandom(16)).decode()))
        return path


class Interrupted:
    """The process is killed in the midst of add()."""

    def test_killed_in_add(self):
        for size in (0, 64 * MiB):
            self.use_store()
            name = self.new_image()
            child = base.start_child('test_faults.upload_without_end',
                                     self.driver, name, size)
            self.addCleanup(child.stdout.close)
            self.addCleanup(child.stderr.close)
            self.addCleanup(child.wait)
            self.addCleanup(child.kill)
            self.assertEqual('writing\n', child.stdout.readline(),
                             'the child did not come to write')
            # Some of it is there already.
            self.assertIn(name, self.here.images())
            child.kill()
            child.wait()
            self.assertUnreadable(name)
            # So that the image can be removed now rather than in 30 s, when
            # the cluster notices.
            evict(self.here, name)
            self.assertUnreadable(name)
            # What stays can be deleted, for another try.
            self.delete(self.uri(name))
            self.assertAbsent(name)
            self.add(b'again', name=name)
            self.assertPublished(name, b'again')

    def assertUnreadable(self, name):
        for operation in (self.read, self.size):
            self.assertRaises(exceptions.NotFound, operation, self.uri(name))
        with self.image(name, read_only=True) as image:
            self.assertEqual([], list(image.list_snaps()))


class RbdInterruptedTest(Interrupted, base.StoreTestCase):
    driver = 'rbd'


class DcnInterruptedTest(Interrupted, base.StoreTestCase):
    driver = 'dcn'


@contextlib.contextmanager
def set_up(driver):
    """Give what a test of a driver has, in a process of its own."""
    class Child(base.StoreTestCase):
        def runTest(self):
            pass

    child = Child()
    child.driver = driver
    child.setUp()
    try:
        yield child
    finally:
        child.doCleanups()


def upload_without_end(driver, name, size):
    """Add an image whose data never end; in a child process."""
    def chunks():
        for _i in range(4):
            yield os.urandom(MiB)
        print('writing', flush=True)
        time.sleep(60)

    with set_up(driver) as child:
        child.use_store()
        child.add(chunks(), int(size), name=name)


def evict(cluster, name):
    """Have the cluster forget the dead clients that have an image open."""
    with cluster.pool(base.POOL) as ioctx:
        with rbd.Image(ioctx, name, read_only=True) as image:
            watchers = [watcher['addr'] for watcher in image.watchers_list()]
    with cluster.connect() as client:
        for address in watchers:
            command(client, prefix='osd blocklist', blocklistop='add',
                    addr=address)


def command(client, **arguments):
    """Run a monitor command and return its output."""
    code, output, status = client.mon_command(
        json.dumps(dict(arguments, format='json')), b'', timeout=30)
    if code:
        raise AssertionError('%s: error %d: %s'
                             % (arguments['prefix'], code, status))
    return output


class DcnConnectionTest(oslotest_base.BaseTestCase):
    """One connection per site and process, made on first use.

    Each test runs in a process of its own, which has no connections yet.
    """

    def run_child(self, function):
        child = base.start_child('test_faults.%s' % function)
        self.addCleanup(child.kill)
        output, errors = child.communicate(timeout=60)
        self.assertEqual(0, child.returncode, errors[-3000:])
        return json.loads(output.splitlines()[-1])

    def test_one_connection_is_reused(self):
        self.assertEqual({'created': 0, 'looked up': 0, 'one site': 1,
                          'two sites': 2},
                         self.run_child('count_connections'))

    def test_threads_share_it(self):
        self.assertEqual({'connections': 1},
                         self.run_child('count_connections_of_threads'))

    def test_evicted_connection_is_replaced(self):
        self.assertEqual({'before': 1, 'after': 2},
                         self.run_child('count_connections_when_evicted'))

    def test_fork_before_first_use(self):
        self.assertEqual({'parent': 1, 'children': [1, 1]},
                         self.run_child('fork_before_first_use'))

    def test_fork_after_first_use(self):
        self.assertEqual({'parent': 1, 'children': [1, 1]},
                         self.run_child('fork_after_first_use'))


class CountingRados(rados.Rados):
    """rados.Rados that counts the connections its process makes."""

    connects = []
    clients = []

    def connect(self, *args, **kwargs):
        self.connects.append(os.getpid())
        self.clients.append(self)
        return super().connect(*args, **kwargs)

    @classmethod
    def addresses(cls):
        """Return the addresses that the connections come from."""
        return [client.get_addrs() for client in cls.clients]

    @classmethod
    def count(cls):
        return cls.connects.count(os.getpid())


@contextlib.contextmanager
def counting():
    """Count the connections that the stores make, and no others."""
    with fixtures.MonkeyPatch('rados.Rados', CountingRados):
        yield


def use(child, store, name, data=b'data'):
    """Do everything that can be done with a store."""
    uri = child.add(data, name=name, store=store)[0]
    child.assertSame(data, child.read(uri, store))
    child.size(uri, store)
    child.delete(uri, store)


def count_connections():
    """Count the connections of one process to two sites; in a child."""
    counts = {}
    with set_up('dcn') as child:
        edge = child.cluster('dcn0')
        name = child.new_image(child.here, edge)
        with counting():
            child.use_stores({'one': 'dcn', 'two': 'dcn'}, one=child.site(),
                             two=child.site(edge))
            counts['created'] = CountingRados.count()
            for store in ('one', 'two'):
                multi_backend.get_store_from_store_identifier(store)
            counts['looked up'] = CountingRados.count()
            for _i in range(2):
                use(child, 'one', name)
            counts['one site'] = CountingRados.count()
            for store in ('two', 'one', 'two'):
                use(child, store, name)
            counts['two sites'] = CountingRados.count()
    print(json.dumps(counts))


def count_connections_of_threads():
    """Count the connections of threads that begin at once; in a child."""
    with set_up('dcn') as child:
        names = [child.new_image() for _i in range(6)]
        with counting():
            child.use_store()
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                list(pool.map(lambda name: use(child, child.store, name),
                              names))
            print(json.dumps({'connections': CountingRados.count()}))


def count_connections_when_evicted():
    """Have the cluster shut a connection out; in a child.

    This befalls a client that another one takes for dead, as librbd does
    before it takes over its exclusive lock.
    """
    with set_up('dcn') as child, child.here.connect() as admin:
        name = child.new_image()
        with counting():
            child.use_store()
            use(child, child.store, name)
            before = CountingRados.count()
            for address in CountingRados.addresses():
                command(admin, prefix='osd blocklist', blocklistop='add',
                        addr=address)
            admin.wait_for_latest_osdmap()
            use(child, child.store, name)
            print(json.dumps({'before': before,
                              'after': CountingRados.count()}))


def fork_before_first_use():
    """Fork workers as a server does that loaded Glance; in a child."""
    fork_and_use(before=False)


def fork_after_first_use():
    """Fork workers from a process that is connected; in a child."""
    fork_and_use(before=True)


def fork_and_use(before):
    with set_up('dcn') as child:
        names = [child.new_image() for _i in range(3)]
        with counting():
            child.use_store()
            if before:
                use(child, child.store, names[0])
            workers = [fork(child, name) for name in names[1:]]
            use(child, child.store, names[0])
            counts = [worker() for worker in workers]
            # It still works when they are gone.
            use(child, child.store, names[0])
            print(json.dumps({'parent': CountingRados.count(),
                              'children': counts}))


def fork(child, name):
    """Start a forked worker; return a function that waits for its count."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        try:
            use(child, child.store, name)
            os.write(writer, b'%d' % CountingRados.count())
        finally:
            # Nothing of the parent's may be cleaned up here.
            os._exit(0)
    os.close(writer)

    def wait():
        with open(reader, 'rb') as pipe:
            count = pipe.read()
        _pid, status = os.waitpid(pid, 0)
        if status or not count:
            raise AssertionError('worker ended with %d, count %r'
                                 % (status, count))
        return int(count)
    return wait


class FullTest(base.StoreTestCase):
    """The cluster is full.

    It is: a small one of its own, whose full ratio is turned down. As a
    client's writes to a full cluster wait until there is room again unless it
    asks for the error, stock rbd never comes to raise StorageFull of itself
    (see :meth:`test_stock_waits`).
    """

    driver = 'dcn'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix='full-'))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.full = ceph.Cluster('full', cls.folder / 'ceph',
                                cls.folder / 'etc', size=1 << 30)
        cls.addClassCleanup(cls.full.stop)
        cls.full.start()
        with cls.full.connect() as client:
            # How often it looks whether it is full.
            command(client, prefix='config set', who='osd',
                    name='osd_heartbeat_interval', value='1')
            command(client, prefix='config set', who='mon',
                    name='paxos_propose_interval', value='0.1')
        # Above what fill() says is full.
        with cls.full.pool(base.POOL) as ioctx:
            for i in range(64):
                ioctx.write_full('ballast%d' % i, os.urandom(MiB))

    def setUp(self):
        super().setUp()
        self.here = self.full
        self.addCleanup(self.fill, False)

    def fill(self, full):
        """Make the cluster full, or not, and wait until it knows."""
        with self.here.connect() as client:
            for i, ratio in enumerate(('nearfull', 'backfillfull', 'full')):
                command(client, prefix='osd set-%s-ratio' % ratio,
                        ratio=(.02 if full else .90) + i * .001)
            process.wait_for('cluster full: %s' % full,
                             lambda: self.is_full(client) is full, 30)

    @staticmethod
    def is_full(client):
        """Return True or False, or None while it is changing."""
        osds = json.loads(command(client, prefix='osd dump'))['osds']
        states = {'full' in osd['state'] for osd in osds}
        with client.open_ioctx(base.POOL) as ioctx:
            ioctx.set_osdmap_full_try()
            # Enough objects to be in every placement group; only what makes
            # one grow is refused.
            for i in range(32):
                try:
                    ioctx.append('probe%d' % i, b'x')
                    states.add(False)
                except rados.NoSpace:
                    states.add(True)
        return states.pop() if len(states) == 1 else None

    def chunks(self):
        """Give data, half of them when the cluster is full."""
        for _i in range(2):
            yield os.urandom(MiB)
        self.fill(True)
        for _i in range(2):
            yield os.urandom(MiB)

    def check(self, size, **options):
        self.use_store(rados_connect_timeout=5, **options)
        name = self.new_image()
        self.assertRaises(exceptions.StorageFull, self.add, self.chunks(),
                          size, name=name)
        # Ceph 16 cannot remove an image while its OSD refuses to grow (an
        # entry in the trash comes first), so its name may stay, as it does
        # with stock; but it cannot be read.
        self.assertUnreadable(name)
        self.fill(False)
        uri = self.add(b'room again')[0]
        self.assertEqual(b'room again', self.read(uri))

    def assertUnreadable(self, name):
        self.assertRaises(exceptions.NotFound, self.read,
                          'rbd://%s/%s/%s/snap' % (self.here.fsid, base.POOL,
                                                   name))

    @staticmethod
    def counted():
        """Return what was counted, at all sites together."""
        return sum((collections.Counter(one.counts) for one in runtime.get(
            limits.TransferScheduler).measure()), collections.Counter())

    def test_dcn(self):
        for size in (4 * MiB, 0):
            self.check(size, dcn_io_timeout=10)
            self.assertEqual(1, self.counted()['errors/full'])

    def test_stock(self):
        # With clients that ask for the error.
        self.driver = 'rbd'
        self.useFixture(fixtures.MonkeyPatch('rados.Rados', NoWaiting))
        for size in (4 * MiB, 0):
            self.check(size)

    def test_dcn_full_from_the_beginning(self):
        self.use_store(rados_connect_timeout=5, dcn_io_timeout=10)
        name = self.new_image()
        self.fill(True)
        error = self.assertRaises(exceptions.StorageFull, self.add, b'x',
                                  name=name)
        self.assertIn(self.store, str(error))
        self.assertUnreadable(name)

    def test_dcn_delete_makes_room(self):
        self.use_store(rados_connect_timeout=5, dcn_io_timeout=10)
        name = self.new_image()
        uri = self.add(os.urandom(MiB), name=name)[0]
        self.fill(True)
        self.assertEqual(MiB, len(self.read(uri)))
        self.delete(uri)
        self.assertAbsent(name)

    def test_stock_waits(self):
        # For ever, or until the timeout, which then is no StorageFull.
        self.driver = 'rbd'
        self.use_store(rados_connect_timeout=2)
        self.fill(True)
        self.assertRaises(rbd.Timeout, self.add, b'x')


class NoWaiting(rados.Rados):
    """rados.Rados whose writes to a full cluster fail at once."""

    def open_ioctx(self, name):
        ioctx = super().open_ioctx(name)
        ioctx.set_osdmap_full_try()
        return ioctx
