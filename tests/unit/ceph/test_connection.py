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

"""What a connection does and says where there is no cluster."""

from concurrent import futures
import contextlib
import errno
import functools
import gc
import logging
import os
import pathlib
import resource
import tempfile
import threading
import time
from unittest import mock
import weakref

import fixtures
from oslotest import base
import rados

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import client_cache
from glance_dcn.ceph import connection
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from tests import runtimes

FSID = '5f9a3c1e-0000-4000-8000-6b7d2e8f1a90'
# A well-formed key that no cluster knows.
_KEY = 'AQBT7B9nAAAAABAAgR7DPV9Y1z1BU8C9lbvd0A=='
_NOBODY = 65534


class ConnectionCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.conf = self.folder / 'edge.conf'
        self.keyring = self.folder / 'edge.client.glance.keyring'
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.WARNING))
        self.useFixture(runtimes.Runtime())
        self.keyring.write_text('[client.glance]\n\tkey = %s\n' % _KEY)

    def write_conf(self, **options):
        """Write the conf file of a cluster that does not answer."""
        # Nobody listens on the discard port.
        options = dict({'fsid': FSID, 'mon_host': 'v2:127.0.0.1:9',
                        'auth_client_required': 'cephx',
                        'keyring': self.keyring}, **options)
        self.conf.write_text('[global]\n' + ''.join(
            '%s = %s\n' % item for item in options.items()
            if item[1] is not None))

    def connection(self, connect_timeout=1, **known):
        link = connection.Connection(clients.ClusterConfig(
            'edge_7', 'images', str(self.conf), 'glance', connect_timeout),
            **known)
        self.addCleanup(lambda: link._states.get().breaker.stop())
        return link

    def become_nobody(self):
        """Give up root's right to read every file, if we have it."""
        if os.geteuid():
            return
        for folder in (self.folder, *self.folder.parents):
            if folder.is_relative_to(tempfile.gettempdir()):
                folder.chmod(folder.stat().st_mode | 0o011)
        # The saved one remains root's, to come back with.
        os.setresuid(_NOBODY, _NOBODY, 0)
        self.addCleanup(os.setresuid, 0, 0, 0)
        if not os.access(self.folder, os.X_OK):
            self.skipTest('others than root cannot enter %s' % self.folder)

    def refused(self, kind, *words):
        """Connecting fails with an error that has all the words."""
        exc = self.assertRaises(kind, self.connection().client)
        for word in ('store edge_7', *words):
            self.assertIn(str(word), str(exc))
        self.assertEqual('edge_7', exc.store)
        return exc


class TestConfFile(ConnectionCase):

    def test_missing(self):
        self.refused(errors.Misconfigured, self.conf,
                     'No such file or directory',
                     'rbd_store_ceph_conf in [edge_7]')

    def test_unreadable(self):
        self.write_conf()
        self.conf.chmod(0)
        self.become_nobody()
        self.refused(errors.Misconfigured, self.conf, 'Permission denied',
                     'rbd_store_ceph_conf in [edge_7]')

    def test_garbage(self):
        self.conf.write_text('{"no": "conf file"\n[[[')
        self.refused(errors.Misconfigured, self.conf, 'is not usable',
                     'rbd_store_ceph_conf in [edge_7]')

    def test_folder(self):
        self.conf.mkdir()
        self.refused(errors.Misconfigured, self.conf,
                     'rbd_store_ceph_conf in [edge_7]')

    def test_mended_without_a_new_connection(self):
        broken = self.connection()
        self.assertIsNone(broken.fsid)
        self.write_conf()
        self.assertEqual(FSID, broken.fsid)


class TestMemory(ConnectionCase):

    def grown(self, read):
        """Return the bytes that reading the conf file 60 times leaves."""
        before = None
        for number in range(70):
            if number == 10:
                before = self.resident()
            os.utime(self.conf, (number, number))
            read()
        return self.resident() - before

    @staticmethod
    def resident():
        pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def test_a_conf_file_that_changes(self):
        self.write_conf()
        link = self.connection()
        self.assertLess(self.grown(lambda: link.known_fsid), 8 << 20)

    def test_a_conf_file_that_cannot_be_used(self):
        self.conf.write_text('{"no": "conf file"\n[[[')
        link = self.connection()
        self.assertLess(self.grown(lambda: link.fsid), 8 << 20)


class TestUses(ConnectionCase):
    """What is used is not closed, and nothing is kept but for a use."""

    def setUp(self):
        super().setUp()
        self.write_conf()
        self.caches = client_cache.Caches()
        self.start = native.start
        self.link = self.connection(
            caches=self.caches, factory_of=self.factory_of,
            start=lambda *args: self.start(*args))
        self.clients = []
        self.room = None
        limits = mock.Mock(max_clients=3, processes=1)
        limits.room_for_clients = lambda reserved: self.room
        limits.left.return_value = mock.Mock(threads=1, files=2)
        self.caches._limits = limits
        # The probe after each connecting makes clients of its own.
        self.link._states.get().breaker.probe = lambda: None

    def factory_of(self, config):
        factory = clients.ClientFactory(config)
        factory.connect = self.connect
        return factory

    def connect(self):
        client = mock.MagicMock()
        client.get_addrs.return_value = '127.0.0.1:0/%d' % len(self.clients)
        client.get_fsid.return_value = FSID
        ioctx = client.open_ioctx.return_value.__enter__.return_value
        ioctx.aio_stat.return_value.get_return_value.return_value = 0
        self.clients.append(client)
        return client

    def test_pool(self):
        with self.link.open_pool('images') as ioctx:
            [entry] = self.caches.current()._entries
            self.assertEqual(1, entry.uses)
            end = self.link.hold(ioctx)
            self.assertIs(self.link.client_of(ioctx), entry.client)
            self.assertEqual('127.0.0.1:0/0', self.link.address_of(ioctx))
        # An image is still being closed.
        self.assertEqual(1, entry.uses)
        end()
        self.assertEqual(0, entry.uses)

    def test_pool_that_is_not_there(self):
        self.assertRaises(errors.Misconfigured, self.use_lacking_pool)
        [entry] = self.caches.current()._entries
        self.assertEqual(0, entry.uses)

    def use_lacking_pool(self):
        with self.link.use() as client:
            client.open_ioctx.side_effect = rados.ObjectNotFound('x', 2)
            with self.link.open_pool('images'):
                self.fail('it was opened')

    def test_lost_while_it_is_used(self):
        with self.assertRaises(rados.TimedOut), \
                self.link.open_pool('images'):
            raise rados.TimedOut('x', errno.ETIMEDOUT)
        self.assertEqual(health.DOWN, self.link.health.state)
        self.assertEqual(0, len(self.caches.current()))

    def test_pool_of_a_client_that_was_retired(self):
        self.assertFalse(self.link.is_in_use)
        with self.link.open_pool('images') as pool:
            self.assertTrue(self.link.is_in_use)
            self.assertFalse(self.link.is_outdated(pool))
            self.link.failed(rados.TimedOut('x', errno.ETIMEDOUT))
            self.assertTrue(self.link.is_outdated(pool))
            self.assertFalse(self.link.is_in_use)

    def test_client_that_idles_is_not_in_use(self):
        with self.link.open_pool('images'):
            pass
        self.assertFalse(self.link.is_in_use)

    def test_a_probe_keeps_no_client(self):
        self.link._check_cluster(self.link._states.get())
        [client] = self.clients
        client.shutdown.assert_called_once_with()
        self.assertEqual(0, len(self.caches.current()))
        self.assertEqual(FSID, self.link.connected_fsid)

    def test_nothing_is_asked_for_whom_is_to_be_told(self):
        self.link.add_up_callback(lambda: None)
        self.assertEqual(health.UNKNOWN, self.link.health.state)
        self.assertEqual([], self.clients)

    def test_no_room_says_nothing_of_the_site(self):
        cache = self.caches.current()
        making = cache.making
        cache.making = lambda store: making(store, patience=0)
        self.room = 0
        self.assertRaises(errors.Exhausted, self.link.client)
        self.assertEqual(health.UNKNOWN, self.link.health.state)
        self.room = 1
        self.assertIs(self.link.client(), self.clients[0])

    def test_no_thread_says_nothing_of_the_site(self):
        self.start = mock.Mock(
            side_effect=RuntimeError('can\'t start new thread'))
        self.assertRaises(errors.Exhausted, self.link.client)
        self.start = native.start
        self.assertEqual(health.UNKNOWN, self.link.health.state)
        self.assertIs(self.link.client(), self.clients[0])

    def test_a_site_that_comes_and_goes(self):
        with contextlib.ExitStack() as stack:
            for _i in range(4):
                client = stack.enter_context(self.link.use())
                self.link._states.get().retire(client)
            exc = self.assertRaises(errors.Exhausted, self.link.client)
            self.assertIn('dcn_io_timeout', str(exc))
            self.assertEqual(4, len(self.clients))
        self.assertIs(self.link.client(), self.clients[4])

    def test_conf_file_that_changes_while_none_is_connected(self):
        self.link.client()
        state = self.link._states.get()
        self.assertEqual(FSID, self.link.known_fsid)
        cache = self.caches.current()
        cache._drop(list(cache._entries))
        self.assertEqual(FSID, self.link.connected_fsid)
        other = FSID.replace('5f9a', '6a6a')
        self.write_conf(fsid=other)
        os.utime(self.conf, (1, 1))
        self.assertEqual(other, self.link.known_fsid)
        self.assertIsNone(state.fsid)


class TestFsid(ConnectionCase):

    def test_from_the_conf_file_alone(self):
        self.write_conf()
        began = time.monotonic()
        self.assertEqual(FSID, self.connection(30).fsid)
        # It did not wait for the monitors.
        self.assertLess(time.monotonic() - began, 15)

    def test_conf_file_without_fsid(self):
        # The cluster must be asked, and does not answer.
        self.write_conf(fsid=None)
        self.assertIsNone(self.connection().fsid)
        self.assertIn('store edge_7', self.log.output)
        self.assertIn('mon_host', self.log.output)

    def test_conf_file_that_is_missing(self):
        self.assertIsNone(self.connection().fsid)
        self.assertIn(str(self.conf), self.log.output)


class TestKeyring(ConnectionCase):

    def test_missing(self):
        self.keyring.unlink()
        self.write_conf()
        self.refused(errors.Misconfigured, self.keyring, 'client.glance',
                     'No such file or directory',
                     'rbd_store_user in [edge_7]', self.conf)

    def test_unreadable(self):
        self.write_conf()
        self.keyring.chmod(0)
        self.become_nobody()
        self.refused(errors.Misconfigured, self.keyring, 'client.glance',
                     'Permission denied', 'rbd_store_user in [edge_7]')


class TestMonitors(ConnectionCase):

    def test_do_not_answer(self):
        self.write_conf()
        began = time.monotonic()
        self.refused(errors.Unreachable, 'v2:127.0.0.1:9', 'mon_host',
                     self.conf)
        # It waited as long as it was told to, which is not librados' own.
        self.assertLess(time.monotonic() - began, 20)

    def test_not_named(self):
        self.write_conf(mon_host=None)
        self.refused(errors.ClusterError, 'mon_host', self.conf)


class TestRegistry(ConnectionCase):

    def get(self, store='edge_7', conf=None, user='glance', connect=5, io=60):
        return process.get(connection.Connections).get(clients.ClusterConfig(
            store, 'images', str(conf or self.conf), user, connect, io))

    def test_one_of_a_store(self):
        self.assertIs(self.get(), self.get())

    def test_what_differs_is_not_shared(self):
        first = self.get()
        # Not even between stores of one cluster: an error names the store.
        for other in (self.get(store='edge_8'),
                      self.get(conf=self.folder / 'other.conf'),
                      self.get(user='nova'), self.get(connect=6),
                      self.get(io=61)):
            self.assertIsNot(first, other)

    def test_nothing_is_connected_or_read(self):
        # Not even the conf file is there.
        self.assertFalse(self.conf.exists())
        self.assertIsInstance(self.get(), connection.Connection)


class Client:
    """Stands for a connected rados.Rados, whose OSDs answer."""

    rados_id = 'glance'

    def mon_command(self, command, data):
        return 0, b'', ''

    def open_ioctx(self, pool):
        ioctx = mock.MagicMock()
        ioctx.__enter__.return_value.aio_stat.return_value = mock.Mock(
            get_return_value=lambda: 0)
        return ioctx

    def get_fsid(self):
        return FSID

    def get_addrs(self):
        return '127.0.0.1:0/1'

    def shutdown(self):
        pass


class Factory(clients.ClientFactory):
    """Connects as a function does, but for probes, which fail.

    :param connect: returns a client, or raises ClusterError
    """

    def __init__(self, connect, config):
        super().__init__(config)
        if not config.io_timeout:
            self.connect = connect


class TestTogether(ConnectionCase):
    """Many threads connect at once."""

    def setUp(self):
        super().setUp()
        self.write_conf()
        self.begun = []
        self.go_on = threading.Event()
        self.addCleanup(self.go_on.set)
        self.outcome = Client()

    def connection(self):
        return super().connection(
            factory_of=functools.partial(Factory, self.connect))

    def connect(self):
        self.begun.append(1)
        self.go_on.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def outcomes(self, link, delay=0.2):
        """Return what each of eight threads gets, and how long it took."""
        def get():
            together.wait()
            try:
                return link.client()
            except errors.ClusterError as exc:
                return exc
        timer = threading.Timer(delay, self.go_on.set)
        self.addCleanup(timer.cancel)
        # On a slow machine the last thread comes late.
        together = threading.Barrier(8, timer.start)
        began = time.monotonic()
        with futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _i: get(), range(8)))
        return found, time.monotonic() - began

    def test_all_get_the_client(self):
        found, _took = self.outcomes(self.connection())
        self.assertEqual([self.outcome] * 8, found)
        self.assertEqual([1], self.begun)

    def test_all_get_the_error(self):
        self.outcome = errors.Unreachable('edge_7', 'no answer', 'look')
        link = self.connection()
        found, _took = self.outcomes(link)
        self.assertEqual({'store edge_7: no answer; look'},
                         {str(exc) for exc in found})
        # Each its own, with its own traceback.
        self.assertEqual(8, len(set(map(id, found))))
        self.assertEqual([1], self.begun[:1])
        self.assertEqual(health.DOWN, link.health.state)

    def test_none_waits_longer_than_its_own_timeout(self):
        # Whatever hangs, a name server say.
        link = self.connection()
        found, took = self.outcomes(link, delay=30)
        self.assertLess(took, 20)
        for exc in found:
            self.assertIsInstance(exc, errors.Unreachable)
        self.assertEqual([1], self.begun[:1])
        began = time.monotonic()
        self.assertRaises(errors.Unreachable, link.client)
        self.assertLess(time.monotonic() - began, .5)


class TestPatience(ConnectionCase):
    """Nothing waits longer than 15 s for a site that is gone."""

    def test_whatever_the_option_is(self):
        self.write_conf()
        for option in (0, 300):
            wait = mock.Mock()
            link = self.connection(option, start=functools.partial(
                self.begin, wait))
            link._connect_once(link._states.get())
            [call] = wait.call_args_list
            self.assertLessEqual(call.args[0], 15)
            self.assertLess(link._prober.config.connect_timeout, 15)

    @staticmethod
    def begin(wait, name, function, state, attempt):
        """Begin nothing; have who waits for it tell for how long."""
        attempt.wait = wait

    def test_options_that_are_shorter(self):
        for option, timeout in ((-1, 5), (1, 1), (14, 14)):
            self.assertEqual(timeout, clients.ClusterConfig(
                'edge_7', 'images', connect_timeout=option).connect_timeout)


class TestHealth(ConnectionCase):

    def quickly(self, kind, link):
        began = time.monotonic()
        exc = self.assertRaises(kind, link.client)
        self.assertLess(time.monotonic() - began, .5)
        return exc

    def test_away(self):
        self.write_conf()
        link = self.connection()
        self.assertEqual(health.UNKNOWN, link.health.state)
        self.assertRaises(errors.Unreachable, link.client)
        self.assertEqual(health.DOWN, link.health.state)
        exc = self.quickly(errors.Unreachable, link)
        self.assertEqual(link.health.since, exc.since)
        self.assertIn('away since 20', str(exc))
        self.assertIn('127.0.0.1:9', str(exc))

    def test_not_deployed(self):
        link = self.connection()
        self.assertEqual(health.NOT_DEPLOYED, link.health.state)
        self.keyring.unlink()
        self.assertIn(str(self.conf),
                      str(self.quickly(errors.NotDeployed, link)))
        self.write_conf()
        self.assertIn(str(self.keyring),
                      str(self.quickly(errors.NotDeployed, link)))
        self.assertEqual(health.NOT_DEPLOYED, link.health.state)

    def test_keyring_within_the_conf_file(self):
        self.keyring.unlink()
        self.write_conf(keyring=None, key=_KEY)
        self.assertEqual(health.UNKNOWN, self.connection().health.state)

    def test_conf_file_that_changes(self):
        self.write_conf()
        link = self.connection()
        self.assertEqual(FSID, link.known_fsid)
        other = FSID.replace('5f9a', '6a6a')
        self.write_conf(fsid=other)
        os.utime(self.conf, (1, 1))
        self.assertEqual(other, link.known_fsid)

    def test_fsid_that_is_not_known_is_not_waited_for(self):
        self.write_conf(fsid=None)
        link = self.connection(30)
        began = time.monotonic()
        self.assertIsNone(link.known_fsid)
        self.assertLess(time.monotonic() - began, 15)

    def test_a_missing_file_is_said_once(self):
        link = self.connection()
        for _i in range(3):
            self.assertIsNone(link.known_fsid)
        self.assertEqual(1, self.log.output.count('fsid of a cluster'))


class TestProbe(ConnectionCase):
    """What the OSDs' answers say of a cluster."""

    def ask(self, code):
        self.asked = []

        def stat(name, done):
            self.asked.append(name)
            return mock.Mock(
                get_return_value=lambda: -code,
                # None is waited for before all were asked.
                wait_for_complete_and_cb=lambda: self.assertEqual(
                    8, len(self.asked)))
        ioctx = mock.MagicMock()
        ioctx.__enter__.return_value.aio_stat = stat
        link = connection.Connection(clients.ClusterConfig(
            'edge_7', 'images', str(self.conf)))
        link._prober.check_pool(mock.Mock(open_ioctx=lambda pool: ioctx))

    def test_no_such_object(self):
        self.ask(errno.ENOENT)

    def test_refusal(self):
        for code in (errno.EPERM, errno.EACCES):
            exc = self.assertRaises(errors.Misconfigured, self.ask, code)
            for word in ('rbd_store_user', 'images', '[edge_7]'):
                self.assertIn(word, str(exc))

    def test_no_answer(self):
        self.assertRaises(errors.Unreachable, self.ask, errno.ETIMEDOUT)


class TestFork(ConnectionCase):

    def setUp(self):
        super().setUp()
        self.write_conf()
        self.made = []

    def connection(self):
        return super().connection(
            factory_of=functools.partial(Factory, self.connect))

    def connect(self):
        self.made.append(Client())
        return self.made[-1]

    def in_child(self):
        """Make the process look like a child of the one it was."""
        self.useFixture(fixtures.MonkeyPatch(
            'os.getpid', lambda: -1))

    def test_one_process_keeps_its_client(self):
        link = self.connection()
        self.assertIs(link.client(), link.client())
        self.assertEqual(1, len(self.made))

    def test_a_child_makes_its_own(self):
        link = self.connection()
        parents = link.client()
        self.in_child()
        childs = link.client()
        self.assertIsNot(parents, childs)
        self.assertIs(childs, link.client())
        # The parent's is kept: to release it would hang.
        alive = weakref.ref(parents)
        self.made.clear()
        del parents
        gc.collect()
        self.assertIsNotNone(alive())

    def test_what_was_not_connected_before_the_fork_is_used_after_it(self):
        link = self.connection()
        self.in_child()
        self.assertIs(link.client(), link.client())
        self.assertEqual(1, len(self.made))
