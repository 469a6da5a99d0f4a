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

"""What a process has of a connection: its client, and those it retired."""

from unittest import mock

from oslotest import base
import rados

from glance_dcn.ceph import client_cache
from glance_dcn.ceph import state


class Client:
    """Stands for a connected rados.Rados."""

    def __init__(self, address='127.0.0.1:0/1'):
        self.address = address
        self.closed = False

    def get_fsid(self):
        return '5f9a3c1e-0000-4000-8000-6b7d2e8f1a90'

    def get_addrs(self):
        return self.address

    def shutdown(self):
        self.closed = True


class Scheduler:
    """Runs at once what is submitted, and nothing later."""

    def submit(self, function, limit=None):
        function()

    def call_later(self, delay, function, limit=None):
        pass


class StateCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.cache = client_cache.ClientCache(client_cache.Settings(),
                                              scheduler=Scheduler())
        self.state = state.State(self.cache)


class TestRetired(StateCase):
    """Clients that were retired are closed when nobody uses them."""

    def test_in_use(self):
        client = Client()
        self.state.adopt(client)
        entry = self.cache.acquire(self.state)
        self.assertTrue(self.state.retire(client))
        self.assertIsNone(self.state.client)
        self.assertIsNone(self.state.fsid)
        self.assertFalse(client.closed)
        self.cache.release(entry)
        self.assertTrue(client.closed)

    def test_not_in_use(self):
        client = Client()
        self.state.adopt(client)
        self.state.retire(client)
        self.assertTrue(client.closed)

    def test_one_that_is_not_the_one(self):
        old, new = Client(), Client()
        self.state.adopt(new)
        self.assertFalse(self.state.retire(old))
        self.assertIs(new, self.state.client)
        # It came too late.
        self.state.adopt(old)
        self.assertIs(new, self.state.client)
        self.assertTrue(old.closed)
        self.assertFalse(new.closed)


class TestBlocklisting(StateCase):
    """Retired clients are blocklisted, if need be the next time."""

    def test_refused_at_first(self):
        old, new = Client('127.0.0.1:0/1'), mock.Mock()
        new.blocklist_add.side_effect = [rados.Error('no quorum'), None]
        self.state.adopt(old)
        self.state.retire(old)
        # It is closed, and what it has sent may be on its way.
        self.assertTrue(old.closed)
        self.state.mark_retired()
        for calls in (1, 2, 2):
            self.state.blocklist_marked(new)
            self.assertEqual(calls, new.blocklist_add.call_count)
            # It is not asked for again.
            self.state.mark_retired()
        self.assertEqual('127.0.0.1:0/1',
                         new.blocklist_add.call_args.args[0])

    def test_by_each_of_two_that_are_made_at_once(self):
        # The one that comes second must not be used before it knows.
        old, first, second = Client('127.0.0.1:0/1'), mock.Mock(), mock.Mock()
        first.blocklist_add.side_effect = lambda *args: (
            self.state.blocklist_marked(second))
        self.state.adopt(old)
        self.state.retire(old)
        self.state.mark_retired()
        self.state.blocklist_marked(first)
        second.blocklist_add.assert_called_once()
        self.state.blocklist_marked(first)
        first.blocklist_add.assert_called_once()

    def test_of_one_that_was_retired_long_ago(self):
        self.state = state.State(self.cache, kept=-1)
        hanging, old, new = Client('hanging'), Client('old'), Client('new')
        self.state.adopt(hanging)
        self.cache.acquire(self.state)
        for client in (hanging, old, new):
            self.state.adopt(client)
            self.state.retire(client)
        self.state.mark_retired()
        latest = mock.Mock()
        self.state.blocklist_marked(latest)
        # What is still waited for may be sent again at any time.
        self.assertEqual({'hanging', 'new'}, {
            call.args[0] for call in latest.blocklist_add.call_args_list})
