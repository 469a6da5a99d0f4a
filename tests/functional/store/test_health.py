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

"""Sites that go away and come back, and ones that are not there yet."""

import concurrent.futures
import contextlib
import io
import os
import shutil
import signal
import threading
import time

from glance_store import exceptions
from glance_store import multi_backend

from glance_dcn.ceph import connection
from glance_dcn.ceph import health
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import copying
from glance_dcn.sites import home
from glance_dcn.sites import sources
from glance_dcn.store import deletion
from glance_dcn.tasks import queue
from glance_dcn.tasks import spool
from lab import faults
from lab import wan
from tests.chaos import __main__ as chaos
from tests.functional.store import base

# Seconds: how long a call may take that is refused, and a site may be back
# before it is used again.
REFUSED = .05
BACK = 15
CONNECT, IO = 4, 4
# Seconds after which nothing waits for a site that is lost in mid-call.
LOST = 15

EDGE = 'edge_7'


def timed(function, *args):
    """Return how many seconds a function takes, and what it raises."""
    began = time.monotonic()
    try:
        function(*args)
        error = None
    except Exception as exc:
        error = exc
    return time.monotonic() - began, error


def quickest(limit, function, *args):
    """Return what :func:`timed` does, of the quickest of some calls.

    One that waits does so each time; one that the machine held up, once.

    :param limit: seconds that are quick enough
    """
    calls = []
    for _i in range(5):
        calls.append(timed(function, *args))
        if calls[-1][0] < limit:
            break
    return min(calls, key=lambda call: call[0])


def site_of(store):
    return multi_backend.get_store_from_store_identifier(store).site


def wait_for(condition, seconds):
    """Return how long it takes until something is true, or None."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(.02)
    return time.monotonic() - began


class HealthTestCase(base.StoreTestCase):
    """Has connections of its own: nothing looks after them afterwards."""

    driver = 'dcn'
    store = 'central'

    def use_stores(self, types, **options):
        for store in types:
            process.get(connection.Connections).forget(store)
            self.addCleanup(process.get(connection.Connections).forget, store)
        return super().use_stores(types, **options)


class FaultTest(HealthTestCase):
    """A site's daemons are killed, stopped and started again."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        links = {}
        if chaos.can_cut():
            links['edge'] = wan.Link(cls.make_folder())
            cls.addClassCleanup(links['edge'].stop)
            links['edge'].start()
        cls.edge = cls.start_clusters('edge', links=links)['edge']

    def setUp(self):
        super().setUp()
        self.use_stores(
            {self.store: 'dcn', EDGE: 'dcn', 'edge_8': 'dcn'},
            **{self.store: self.site(), EDGE: self.site(
                   self.edge, rados_connect_timeout=CONNECT,
                   dcn_io_timeout=IO),
               # It must be asked for its fsid.
               'edge_8': self.site(rbd_store_ceph_conf=self.nameless(),
                                   rbd_store_pool='vms')})
        self.name = self.new_image(self.here, self.edge)

    def nameless(self):
        """Return a conf file of the edge's cluster that has no fsid."""
        path = self.directory / 'nameless.conf'
        path.write_text(''.join(
            line for line in self.edge.conf.read_text().splitlines(True)
            if 'fsid' not in line))
        return path

    def add_there(self):
        self.add(b'data', name=self.new_image(self.here, self.edge),
                 store=EDGE)

    def check_refused(self, state=health.DOWN):
        """Calls are refused at once, and told why; others are not held."""
        site = site_of(EDGE)
        self.assertEqual(state, site.health.state)
        self.assertFalse(site.available)
        self.assertLess(abs(time.time() - site.health.since), 60)
        uri = self.uri(self.name, self.edge)
        for call in ((self.add_there,), (self.size, uri, EDGE),
                     (self.read, uri, EDGE)):
            took, error = quickest(REFUSED, *call)
            self.assertIsInstance(error, exceptions.BadStoreConfiguration)
            self.assertIn(EDGE, str(error))
            self.assertIn(' since %s' % health.format_time(site.health.since),
                          str(error))
            self.assertLess(took, REFUSED)

    def check_back(self):
        """It is used again soon, without anybody calling."""
        took = wait_for(lambda: site_of(EDGE).available, BACK)
        self.assertIsNotNone(took, 'it did not come back')
        self.add_there()

    def test_killed_and_started(self):
        back = threading.Semaphore(0)
        site_of(EDGE).connection.add_up_callback(back.release)
        # It is not asked before there is something to do there.
        self.assertEqual(health.UNKNOWN, site_of(EDGE).health.state)
        self.add_there()
        # It is up: told once at the beginning.
        self.assertTrue(back.acquire(timeout=10))
        self.addCleanup(self.edge.start)
        self.edge.kill()
        took, error = timed(self.add_there)
        self.assertIsNotNone(error)
        self.assertLess(took, IO + 15)
        self.check_refused()
        time.sleep(6)
        self.check_refused()
        self.assertFalse(back.acquire(timeout=0))
        self.edge.start()
        self.check_back()
        self.assertTrue(back.acquire(timeout=5))

    def test_osd_stopped(self):
        self.add_there()
        self.addCleanup(self.edge.thaw)
        self.edge.osd.signal(signal.SIGSTOP)
        took, error = timed(self.add_there)
        self.assertIsNotNone(error)
        self.assertGreater(took, IO - 1)
        self.check_refused()
        # The monitor answers; that is not enough.
        time.sleep(8)
        self.check_refused()
        self.edge.osd.signal(signal.SIGCONT)
        self.check_back()

    def test_frozen_in_mid_call(self):
        self.check_lost_in_mid_call(self.edge.freeze)

    def test_killed_in_mid_call(self):
        self.check_lost_in_mid_call(self.edge.kill)

    def test_stopped_in_mid_call(self):
        self.check_lost_in_mid_call(self.edge.stop)

    def test_cut_off_in_mid_call(self):
        if not self.edge.link:
            self.skipTest('a link cannot be cut here')
        self.check_lost_in_mid_call(self.edge.link.cut)

    def test_far_away(self):
        """A site is not lost for a round trip of 0.44 s."""
        if not self.edge.link:
            self.skipTest('a link cannot be cut here')
        self.add_there()
        link = site_of(EDGE).connection
        self.addCleanup(self.edge.link.set, wan.Quality())
        state = link._states.get()
        self.edge.link.set(wan.Quality(delay=220))
        with link.use():
            self.assertIsNone(link.lost())
            self.assertIsNone(wait_for(lambda: link.lost() is not None, 15))
        # Probes have answers, too.
        self.assertGreater(state.cleared, float('-inf'))

    def check_lost_in_mid_call(self, lose):
        """All kinds of calls end within 15 s after a site was lost.

        Whatever dcn_io_timeout is: by the verdict of the probe alone.
        """
        self.use_stores(
            {self.store: 'dcn', EDGE: 'dcn'},
            **{self.store: self.site(), EDGE: self.site(
                self.edge, rados_connect_timeout=CONNECT,
                dcn_io_timeout=600)})
        process.put(deletion.Requests(deletion.Patience(answer=60)))
        data = os.urandom(48 * base.MiB)
        names = [self.new_image(self.here, self.edge) for _i in range(7)]
        for name in names[:2]:
            self.add(data, name=name, store=EDGE)
        self.add(data, name=names[2])
        self.add(b'data', name=names[3], store=EDGE)
        lost = threading.Event()
        begun = [threading.Event() for _i in range(4)]
        edge, here = site_of(EDGE), site_of(self.store)

        def go_on(number):
            begun[number].set()
            lost.wait(120)

        def copy(number, name, source, target):
            outcome = copying.Copy(
                name, [sources.Source(source, None, name, 'snap')], [target],
                memory=16 * base.MiB, interval=0,
                progress=lambda now: go_on(number)).run()
            for error in outcome.failed.values():
                raise error

        def download():
            chunks, _size = multi_backend.get(
                self.uri(names[0], self.edge), EDGE)
            next(chunks)
            go_on(2)
            list(chunks)

        def upload():
            def stream():
                yield data[:base.MiB]
                go_on(3)
                yield data[base.MiB:]
            self.add(stream(), len(data), name=names[4], store=EDGE)

        calls = [
            (copy, 0, names[1], edge, here), (copy, 1, names[2], here, edge),
            (download,), (upload,)]
        later = [
            (self.delete, self.uri(names[3], self.edge), EDGE),
            (self.size, self.uri(names[0], self.edge), EDGE),
            (self.add, b'data', None, names[5], EDGE)]
        self.addCleanup(faults.heal, self.edge)
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            running = [pool.submit(timed, *call) for call in calls]
            for event in begun:
                self.assertTrue(event.wait(60))
            lose()
            began = time.monotonic()
            lost.set()
            running += [pool.submit(timed, *call) for call in later]
            ended = [call.result() for call in running]
        self.assertLess(time.monotonic() - began, LOST)
        # All have failed, but for the removal, which is recorded.
        self.assertEqual([False] * 4 + [True, False, False],
                         [error is None for _took, error in ended])
        self.check_refused()
        faults.heal(self.edge)
        self.check_back()

    def test_stopped_before_first_use(self):
        self.addCleanup(self.edge.thaw)
        self.edge.freeze()
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            there = [pool.submit(timed, self.add_there) for _i in range(8)]
            # Meanwhile the other site is used as ever.
            here = [timed(self.add, b'here') for _i in range(5)]
            # What Glance asks of every store when it lists images.
            took, _error = quickest(REFUSED, lambda: [
                multi_backend.get_store_from_store_identifier(name).url_prefix
                for name in (self.store, EDGE, 'edge_8')])
            self.assertLess(took, REFUSED)
            self.assertFalse(any(call.done() for call in there))
        self.assertEqual([None] * 5, [error for _took, error in here])
        # None waited for another's turn.
        for call in there:
            took, error = call.result()
            self.assertIn('monitors', str(error))
            self.assertLess(took, 2 * CONNECT)
        self.check_refused()
        self.edge.thaw()
        self.check_back()

    def test_what_is_no_failure_of_the_site(self):
        self.add_there()
        for call in (
                lambda: self.size(self.uri(self.name, self.edge), EDGE),
                lambda: self.add(base.FailingReader(
                    b'data', TimeoutError(110, 'the user is gone')),
                    name=self.name, size=9, store=EDGE),
                lambda: self.add(b'data', size=9, name=self.name,
                                 store=EDGE)):
            _took, error = timed(call)
            self.assertIsNotNone(error)
            self.assertTrue(site_of(EDGE).available)
        self.add(b'data', name=self.name, store=EDGE)
        self.assertRaises(exceptions.Duplicate, self.add, b'other',
                          name=self.name, store=EDGE)
        self.assertTrue(site_of(EDGE).available)


class AbsentTest(HealthTestCase):
    """Sites whose files or clusters are not there."""

    def absent(self, store):
        """Return the options of a site that is cut off."""
        path = self.directory / ('%s.conf' % store)
        keyring = self.directory / 'keyring'
        shutil.copyfile(self.here.keyring('glance'), keyring)
        # Nobody listens on the discard port.
        path.write_text('[global]\nfsid = 5f9a3c1e-0000-4000-8000-%012d\n'
                        'mon_host = v2:127.0.0.1:9\nkeyring = %s\n'
                        % (len(store) * 1000 + int(store[4:]), keyring))
        return dict(self.site(), rbd_store_ceph_conf=path)

    def start(self, count):
        """Set up the local site and others that are absent.

        :returns: seconds that it takes, with the first use of the local one
        """
        stores = ['edge%d' % number for number in range(count)]
        began = time.monotonic()
        self.use_stores(
            dict.fromkeys([self.store, *stores], 'dcn'),
            **{self.store: self.site()},
            **{store: self.absent(store) for store in stores})
        self.add(b'data')
        for store in (self.store, *stores):
            self.assertTrue(multi_backend.get_store_from_store_identifier(
                store).url_prefix)
        return time.monotonic() - began

    def test_start(self):
        alone = self.start(0)
        self.assertLess(self.start(20), alone + CONNECT)
        took, error = timed(self.add, b'data')
        self.assertIsNone(error)
        self.assertLess(took, CONNECT)

    def test_default_site_is_absent(self):
        self.use_stores({'edge0': 'dcn', self.store: 'dcn'},
                        **{'edge0': self.absent('edge0'),
                           self.store: self.site()})
        # As in Glance, which has a staging folder.
        process.get(queue.TaskQueue).store.spool = spool.Spool(
            str(self.directory / 'records'))
        # It is waited for once, for as long as to connect may take: that an
        # image is written is recorded there, or known not to be.
        took, error = timed(self.add, b'data')
        self.assertIsNone(error)
        self.assertLess(took, 2 * CONNECT)
        took, error = quickest(.7, self.add, b'data')
        self.assertIsNone(error)
        self.assertLess(took, .7)

    def test_deployed_later(self):
        conf = self.directory / 'late.conf'
        keyring = self.directory / 'late.keyring'
        other = self.cluster('dcn0')
        self.use_stores({self.store: 'dcn', EDGE: 'dcn'},
                        **{self.store: self.site(), EDGE: self.site(
                            rbd_store_ceph_conf=conf)})
        store = multi_backend.get_store_from_store_identifier(EDGE)
        back = threading.Event()
        store.site.connection.add_up_callback(back.set)
        self.check_not_deployed(store, conf)
        text = other.conf.read_text().partition('[client.')[0]
        conf.write_text('%s[client.glance]\nkeyring = %s\n' % (text, keyring))
        self.check_not_deployed(store, keyring)
        self.assertEqual('rbd://%s/images/' % other.fsid, store.url_prefix)
        self.assertFalse(back.is_set())
        shutil.copyfile(other.keyring('glance'), keyring)
        self.assertTrue(back.wait(BACK))
        self.assertEqual(health.UP, store.site.health.state)
        name = self.new_image(other)
        uri = self.add(b'late', name=name, store=EDGE)[0]
        self.assertEqual(b'late', self.read(uri, EDGE))

    def check_not_deployed(self, store, path):
        took, error = quickest(REFUSED, self.add, io.BytesIO(b'data'), 4,
                               None, EDGE)
        self.assertIsInstance(error, exceptions.BadStoreConfiguration)
        self.assertIn(str(path), str(error))
        self.assertLess(took, REFUSED)
        self.assertEqual(health.NOT_DEPLOYED, store.site.health.state)
        self.assertFalse(store.site.available)


class ClusterIdentityTest(HealthTestCase):
    """Stores that are not wired to a cluster of their own."""

    def test_same_pool_twice(self):
        self.use_stores({self.store: 'dcn', EDGE: 'dcn', 'other': 'dcn'},
                        **{self.store: self.site(), EDGE: self.site(),
                           'other': self.site(self.cluster('dcn0'))})
        uri = self.add(b'data')[0]
        self.assertEqual(b'data', self.read(uri))
        self.add(b'data', store='other', name=self.new_image(
            self.cluster('dcn0')))
        for call in (lambda: self.add(b'data', store=EDGE),
                     lambda: self.size(uri, EDGE),
                     lambda: self.delete(uri, EDGE)):
            error = self.assertRaises(exceptions.BadStoreConfiguration, call)
            for word in (EDGE, self.store, self.here.fsid, base.POOL):
                self.assertIn(word, str(error))
        store = multi_backend.get_store_from_store_identifier(EDGE)
        self.assertEqual(health.MISCONFIGURED, store.site.health.state)
        # Its locations are the first one's.
        self.assertIsNone(store.url_prefix)
        self.assertEqual(b'data', self.read(uri))

    def use_edge(self, cluster):
        """Set up the stores anew, as a restarted process would."""
        conf = self.directory / 'edge.conf'
        shutil.copyfile(cluster.conf, conf)
        self.use_stores({self.store: 'dcn', EDGE: 'dcn'},
                        **{self.store: self.site(), EDGE: self.site(
                            rbd_store_ceph_conf=conf)})

    def test_another_cluster_than_yesterday(self):
        before, after = self.cluster('dcn0'), self.cluster('dcn1')
        name = self.new_image(before, after)
        self.use_edge(before)
        uri = self.add(b'data', name=name, store=EDGE)[0]
        self.assertIsNotNone(wait_for(
            lambda: before.fsid in self.kept(EDGE), 5))
        self.delete(uri, EDGE)

        self.use_edge(after)
        self.add(b'data')
        error = self.assertRaises(exceptions.BadStoreConfiguration,
                                  self.add, b'data', name=name,
                                  store=EDGE)
        for word in (EDGE, before.fsid, after.fsid, 'glance-dcn '
                     'site accept %s' % EDGE):
            self.assertIn(word, str(error))
        self.assertNotIn(name, after.images())

        identities = process.get(cluster_identity.ClusterIdentities)
        self.assertEqual((before.fsid, after.fsid),
                         identities.accept(site_of(EDGE)))
        self.add(b'data', name=name, store=EDGE)
        self.assertIn(after.fsid, self.kept(EDGE))
        self.check_former(before, after, name)

    def check_former(self, before, after, name):
        """What was in the former cluster is gone, and nothing else."""
        self.assertRaises(exceptions.NotFound, self.delete,
                          self.uri(name, before), EDGE)
        self.assertIn(name, after.images())
        self.assertRaises(exceptions.BadStoreUri, self.delete,
                          self.uri(name, self.here), EDGE)
        # To go back and forth is not to lose what there is.
        with self.home() as ioctx:
            cluster_identity.replace(ioctx, '', EDGE, before.fsid)
            self.assertEqual({after.fsid}, cluster_identity.former(
                ioctx, '', EDGE))
            self.assertEqual(set(), cluster_identity.former(
                ioctx, '', 'unknown'))

    def kept(self, store):
        """Return what the default site's cluster has of a store, as text."""
        with self.home() as ioctx:
            return str(cluster_identity.load(ioctx, '').get(store))

    @contextlib.contextmanager
    def home(self):
        """Open the namespace of the records in the default cluster."""
        with self.here.pool(base.POOL, 'glance') as ioctx:
            ioctx.set_namespace(home.NAMESPACE)
            yield ioctx
