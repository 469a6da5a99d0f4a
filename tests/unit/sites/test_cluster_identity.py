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

import contextlib
import time

import fixtures
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.sites import cluster_identity

ONE, TWO, HOME = 'fsid-one', 'fsid-two', 'fsid-home'


class Site:
    """Stands for a site with a cluster."""

    def __init__(self, name, fsid, pool='images', connected=True):
        self.name = name
        self.pool = pool
        self.known_fsid = fsid
        self.connected = connected
        self.health = health.Health(health.UP)
        self.pools = 0
        self.asked = 0
        self.mistake = False
        self.connection = self

    def set_namespace(self, namespace):
        """Do as the pool's Ioctx does."""
        self.namespace = namespace

    @property
    def connected_fsid(self):
        return self.known_fsid if self.connected else None

    @property
    def available(self):
        return self.health.state == health.UP

    def answering_fsid(self):
        self.asked += 1
        if self.mistake:
            self.health = health.Health(health.MISCONFIGURED)
            raise errors.Misconfigured(self.name, 'another fsid', 'correct')
        self.connected = True
        return self.known_fsid

    def call(self, function, *args, fence=True):
        return function(*args)

    @contextlib.contextmanager
    def open_pool(self, pool=None):
        self.pools += 1
        if not self.available:
            raise errors.Unreachable(self.name, 'no answer', 'look')
        yield self


class Leaving(Site):
    """Is taken away while it is checked, as if by another thread."""

    def leave_after(self, lookups, process):
        """Have a process remove it when its name was looked up so often."""
        self.lookups, self.process = lookups, process

    @property
    def name(self):
        if self.process:
            self.lookups -= 1
            if self.lookups < 0:
                self.process.remove(self._name)
        return self._name

    @name.setter
    def name(self, name):
        self._name, self.process = name, None


class IdentityCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.kept, self.gone = {}, set()
        self.home = Site('central', HOME)
        self.edge = Site('edge', ONE)
        self.identities = self.process(self.home, self.edge)

    def load(self, pool, deployment, tell=None):
        self.assertEqual(('glance-dcn', 'ours'), (pool.namespace, deployment))
        return {store: cluster_identity.ClusterIdentity(*entry)
                for store, entry in self.kept.items()}

    def add(self, pool, deployment, store, fsid):
        self.assertEqual(('glance-dcn', 'ours'), (pool.namespace, deployment))
        self.kept.setdefault(store, (fsid, time.time()))

    def replace(self, pool, deployment, store, fsid):
        self.assertEqual(('glance-dcn', 'ours'), (pool.namespace, deployment))
        before = self.kept.get(store, (None,))[0]
        self.gone.add((store, before))
        self.kept[store] = fsid, time.time()
        return before

    def former(self, pool, deployment, store):
        self.assertEqual(('glance-dcn', 'ours'), (pool.namespace, deployment))
        return {fsid for name, fsid in self.gone if name == store}

    def process(self, *sites):
        """Return what a new process has, whose first site is the default."""
        made = cluster_identity.ClusterIdentities(
            load=lambda *args: self.load(*args), add=self.add,
            replace=self.replace, former=self.former)
        made.deployment = 'ours'
        self.addCleanup(made.stop)
        for site in sites:
            made.add(site, home=site is sites[0])
        return made

    def refused(self, site, *words, process=None):
        exc = self.assertRaises(errors.Misconfigured,
                                (process or self.identities).check, site)
        self.assertEqual(site.name, exc.store)
        for word in words:
            self.assertIn(word, str(exc))

    def wait_until_kept(self, store):
        deadline = time.monotonic() + 5
        while store not in self.kept and time.monotonic() < deadline:
            time.sleep(.01)
        self.assertIn(store, self.kept)


class TestTwins(IdentityCase):

    def test_the_later_one_is_refused(self):
        twin = Site('twin', ONE)
        self.identities.add(twin)
        self.refused(twin, 'images', ONE, 'edge', '[twin]')
        for site in (self.home, self.edge):
            self.identities.check(site)

    def test_first_one_not_used_yet(self):
        twin = Site('twin', ONE)
        self.identities.add(twin)
        self.edge.connected = False
        self.refused(twin, 'edge')
        self.refused(twin, 'edge')
        self.assertEqual(1, self.edge.asked)

    def test_first_one_with_a_mistake_in_its_conf_file(self):
        # It claims the cluster of another, whose store must not suffer for it.
        right = Site('right', ONE)
        self.identities.add(right)
        self.edge.connected = False
        self.edge.mistake = True
        for _i in range(2):
            self.identities.check(right)
        self.assertEqual(1, self.edge.asked)
        self.assertIsNone(self.identities.fault(right))

    def test_other_pool(self):
        other = Site('other', ONE, 'more')
        self.identities.add(other)
        self.identities.check(other)

    def test_unknown_fsids(self):
        for name in ('one', 'two'):
            site = Site(name, None)
            self.identities.add(site)
            self.identities.check(site)

    def test_later_one_taken_away_meanwhile(self):
        twin = Leaving('twin', ONE)
        self.identities.add(twin)
        twin.leave_after(1, self.identities)
        self.assertIsNone(self.identities.fault(twin))

    def test_first_one_taken_away(self):
        twin = Site('twin', ONE)
        self.identities.add(twin)
        self.identities.remove('edge')
        self.identities.check(twin)

    def test_store_configured_again(self):
        again = Site('edge', ONE)
        self.identities.add(again)
        self.identities.check(again)

    def test_site_of_no_store(self):
        self.identities.check(Site('stranger', ONE))


class TestMemory(IdentityCase):

    def test_kept_once_it_was_reached(self):
        self.identities.check(self.edge)
        self.wait_until_kept('edge')
        self.assertEqual(ONE, self.kept['edge'][0])
        self.assertNotIn('central', self.kept)

    def test_not_kept_before(self):
        # What a conf file says may be wrong.
        self.edge.connected = False
        self.identities.check(self.edge)
        self.identities.synchronise()
        self.assertEqual({}, self.kept)

    def test_another_cluster(self):
        self.kept['edge'] = TWO, 1_700_000_000
        self.refused(self.edge, ONE, TWO, '2023-11-14',
                     'glance-dcn site accept edge', '[edge]')
        self.identities.check(self.home)
        self.assertEqual(TWO, self.kept['edge'][0])

    def test_another_cluster_is_told_once(self):
        # No request need ask for the site, which nothing uses any more.
        self.kept['edge'] = TWO, 1_700_000_000
        self.identities.check(self.home)
        self.identities.synchronise()
        for _ in range(3):
            self.assertIsNotNone(self.identities.fault(self.edge))
        self.assertEqual(1, self.log.output.count(
            'glance-dcn site accept edge'))

    def test_another_cluster_in_one_process(self):
        # Nothing could be kept: the default site is away.
        self.home.health = health.Health(health.DOWN)
        self.identities.check(self.edge)
        self.edge.known_fsid = TWO
        self.refused(self.edge, ONE, TWO)

    def test_accepted_by_another_process(self):
        self.kept['edge'] = TWO, 1_700_000_000
        self.refused(self.edge)
        self.assertEqual(
            (TWO, ONE),
            self.process(self.home, self.edge).accept(self.edge))
        self.identities.synchronise()
        self.identities.check(self.edge)

    def test_accepted(self):
        self.kept['edge'] = TWO, 1_700_000_000
        self.refused(self.edge)
        self.identities.accept(self.edge)
        self.identities.check(self.edge)

    def test_accepting_without_a_default(self):
        process = cluster_identity.ClusterIdentities()
        process.add(self.edge)
        self.assertRaises(errors.Misconfigured, process.accept, self.edge)
        self.assertFalse(process.has_replaced(self.edge, TWO))

    def test_replaced_only_what_was_accepted_to_be(self):
        self.kept['edge'] = TWO, 1_700_000_000
        self.refused(self.edge)
        self.assertFalse(self.identities.has_replaced(self.edge, TWO))
        self.identities.accept(self.edge)
        self.assertTrue(self.identities.has_replaced(self.edge, TWO))
        self.assertFalse(self.identities.has_replaced(self.edge, ONE))
        self.assertFalse(self.identities.has_replaced(self.home, TWO))
        # Nobody can be asked.
        self.home.health = health.Health(health.DOWN)
        self.assertFalse(self.identities.has_replaced(self.edge, TWO))

    def test_looks_only_while_there_is_something_to_look_for(self):
        self.identities.synchronise()
        self.identities.synchronise()
        self.assertEqual(1, self.home.pools)
        self.edge.known_fsid = TWO
        self.identities.synchronise()
        self.assertEqual(2, self.home.pools)

    def test_looks_less_often_while_nothing_is_accepted(self):
        self.kept['edge'] = TWO, 1_700_000_000
        intervals = []
        for _i in range(6):
            self.identities.synchronise()
            intervals.append(self.identities._work.interval)
        self.assertEqual([10, 20, 40, 60, 60, 60], intervals)
        self.kept['edge'] = ONE, 1_700_000_001
        self.identities.synchronise()
        self.identities.synchronise()
        self.assertEqual(10, self.identities._work.interval)


class TestPatience(IdentityCase):

    def test_default_that_is_known_to_be_away(self):
        self.home.health = health.Health(health.DOWN)
        began = time.monotonic()
        self.identities.check(self.edge)
        self.assertLess(time.monotonic() - began, .8)
        self.assertEqual(0, self.home.pools)

    def test_taken_away_meanwhile(self):
        made = self.process(self.home, self.edge)
        leaving = Leaving('leaving', TWO)
        made.add(leaving)
        leaving.leave_after(1, made)
        made.check(leaving)

    def test_default_that_hangs(self):
        self.load = lambda *args: time.sleep(10)
        began = time.monotonic()
        self.identities.check(self.edge)
        self.assertLess(time.monotonic() - began, 8)
        # Once in the life of a process.
        began = time.monotonic()
        self.identities.check(self.edge)
        self.assertLess(time.monotonic() - began, .8)

    def test_default_that_refuses(self):
        def load(*args):
            raise cluster_identity.Error('no caps')
        self.load = load
        self.identities.synchronise()
        self.assertIn('no caps', self.log.output)
        self.identities.check(self.edge)
