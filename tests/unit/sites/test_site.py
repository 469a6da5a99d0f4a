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

"""What a site records of what is written there, without a cluster."""

import contextlib
import time
import types

import fixtures
from oslotest import base

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.sites import site
from glance_dcn.tasks import intents
from glance_dcn.tasks import queue
from glance_dcn.tasks import task as tasks
from tests import runtimes
from tests.unit.tasks import fakes

IMAGE = fakes.IMAGE
State = tasks.State


class SiteCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fakes.MemoryCluster())
        self.useFixture(runtimes.Runtime())
        self.home = fakes.Site('home')
        self.queue = queue.TaskQueue('ours')
        self.queue.writes = intents.WriteLog(
            self.queue.store, lambda: self.queue.lead.notify(),
            repeat=fakes.Periodic)
        self.queue.add(self.home, home=True)
        self.site = site.Site(
            clients.ClusterConfig('edge', 'images', '/nonexistent', 'glance'),
            22, tasks=self.queue)
        self.site.connection = types.SimpleNamespace(
            address_of=lambda ioctx: '10.0.0.1:0/1', fsid='f',
            call=lambda function, *args, **unused: function(*args))

    @property
    def states(self):
        return [record.state for record in self.queue.store.scan().records]


class UriTest(SiteCase):

    def test_fsid_that_cannot_be_told(self):
        @contextlib.contextmanager
        def use():
            raise errors.Unreachable('edge', 'it is away', 'wait')
            yield

        self.site.connection.fsid = None
        self.site.connection.use = use
        self.assertRaises(errors.Unreachable, self.site.uri, IMAGE)

    def test_fsid_that_is_told_late(self):
        self.site.connection.fsid = None
        self.site.connection.use = lambda: contextlib.nullcontext(
            types.SimpleNamespace(get_fsid=lambda: 'g'))
        self.assertEqual('rbd://g/images/%s/snap' % IMAGE,
                         self.site.uri(IMAGE))


class AdoptingTest(SiteCase):

    def setUp(self):
        super().setUp()
        with self.site.adopting(None, IMAGE, '17'):
            pass

    @property
    def leases(self):
        """Return the leases there are after a minute without a write."""
        later = time.monotonic() + 61
        self.queue.writes.clock = lambda: later
        self.queue.writes.renew()
        return self.queue.store.scan().leases

    def test_answered_for_by_this_process(self):
        self.assertEqual([State.WRITING], self.states)
        self.assertEqual(1, len(self.leases))

    def test_released(self):
        self.site.release_adopted(IMAGE, '17')
        self.assertEqual([State.COMMITTED], self.states)
        # The task runner does not wait for this process.
        self.assertEqual({}, self.leases)
        self.assertEqual([], self.site._writes)

    def test_released_when_it_was_lost(self):
        for record in self.queue.store.scan().records:
            self.queue.store.remove(record)
        self.site.release_adopted(IMAGE, '17')
        self.assertEqual([], self.states)


class DiscardTest(SiteCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.site.connection.health = health.Health(health.UP)
        self.discarded = []
        self.site.discard = lambda *args: self.discarded.append(args)

    def test_never_recorded(self):
        # What has the name may be another writer's, which is stopped.
        self.site.discard_or_defer('ioctx', IMAGE)
        self.assertEqual([], self.discarded)

    def test_recorded(self):
        self.site._begin_write(None, IMAGE)
        self.site.discard_or_defer('ioctx', fakes.OTHER)
        self.assertEqual([], self.discarded)
        self.site.discard_or_defer('ioctx', IMAGE)
        self.assertEqual([('ioctx', IMAGE, None)], self.discarded)

    def test_of_a_known_id(self):
        # Its record is gone once it is committed.
        self.site.discard_or_defer('ioctx', IMAGE, '17')
        self.assertEqual([('ioctx', IMAGE, '17')], self.discarded)
