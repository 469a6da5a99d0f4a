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

"""Clients that are in use and such that were given up."""

from unittest import mock

import fixtures
from oslotest import base
import rados

from glance_dcn.ceph import state


class Client:
    """Stands for a connected rados.Rados."""

    released = False

    def get_fsid(self):
        return '5f9a3c1e-0000-4000-8000-6b7d2e8f1a90'

    def shutdown(self):
        self.released = True


class TestGivenUp(base.BaseTestCase):
    """Clients that were given up are released when nobody uses them."""

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.state._KEPT', -1))
        self.state = state.State()

    def test_in_use(self):
        client = Client()
        self.state.adopt(client)
        self.assertTrue(self.state.retire(client))
        self.assertIsNone(self.state.client)
        self.state.release()
        self.assertFalse(client.released)

    def test_not_in_use(self):
        client = Client()
        released = []
        client.shutdown = lambda: released.append(1)
        self.state.adopt(client)
        self.state.retire(client)
        del client
        self.state.release()
        self.assertEqual([1], released)

    def test_one_that_is_not_the_one(self):
        old, new = Client(), Client()
        self.assertIs(new, self.state.adopt(new))
        self.assertFalse(self.state.retire(old))
        self.assertIs(new, self.state.client)
        # It came too late.
        self.assertIs(new, self.state.adopt(old))
        self.assertTrue(old.released)


class TestBlocklisting(base.BaseTestCase):
    """Retired clients are blocklisted, if need be the next time."""

    def test_refused_at_first(self):
        old, new = mock.Mock(), mock.Mock()
        old.get_addrs.return_value = '127.0.0.1:0/1'
        new.blocklist_add.side_effect = [rados.Error('no quorum'), None]
        known = state.State()
        known.adopt(old)
        known.retire(old)
        known.mark_retired()
        for calls in (1, 2, 2):
            known.blocklist_marked(new)
            self.assertEqual(calls, new.blocklist_add.call_count)
            # It is not asked for again.
            known.mark_retired()
        self.assertEqual('127.0.0.1:0/1',
                         new.blocklist_add.call_args.args[0])
