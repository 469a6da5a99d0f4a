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

"""Whether this process may write at a site; a cluster that is made up."""

import contextlib
import types

import fixtures
from oslotest import base
import rados

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import trial
from glance_dcn.sites import access


class Site:
    """A site with a client that has an ID."""

    name = 'central'

    def __init__(self):
        self.instance = 1
        self.health = types.SimpleNamespace(state=health.UP)
        self.failures = []

    @property
    def available(self):
        return self.health.state == health.UP

    @contextlib.contextmanager
    def open_pool(self):
        if self.health.state == health.DOWN:
            raise errors.Unreachable('central', 'no answer', 'wait')
        yield 'ioctx'

    def call(self, function, *args, fence=True):
        return function(*args)

    def failed(self, exc):
        self.failures.append(exc)


class TestAccess(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.site = Site()
        self.access = access.Access(self.site, 'glance-dcn0')
        self.asked = self.useFixture(fixtures.MockPatchObject(
            trial, 'may_write', return_value=True)).mock
        self.readable = self.useFixture(fixtures.MockPatchObject(
            trial, 'may_read', return_value=True)).mock

    def test_one_that_may_not_even_read_is_told_by_the_write(self):
        self.asked.return_value = self.readable.return_value = False
        self.access.require_write('ioctx')

    def test_the_cluster_is_asked_once_for_each_client(self):
        for _ in range(3):
            self.access.require_write('ioctx')
        self.assertEqual(1, self.asked.call_count)
        self.site.instance = 2
        self.access.require_write('ioctx')
        self.assertEqual(2, self.asked.call_count)

    def test_a_refusal_is_asked_for_again(self):
        self.asked.return_value = False
        exc = self.assertRaises(errors.ReadOnly, self.access.require_write,
                                'ioctx')
        self.assertEqual(
            'store central: the key of this Glance (client.glance-dcn0) may '
            'only read there; ask the Glance of site central for it, whose '
            'own key may write there', str(exc))
        self.assertEqual(str(exc), str(self.access.refusal()))
        # The rights were changed.
        self.asked.return_value = True
        self.access.require_write('ioctx')
        self.assertIsNone(self.access.refusal())

    def test_what_cannot_be_told_is_left_to_the_write(self):
        self.asked.side_effect = rados.TimedOut('no answer')
        self.access.require_write('ioctx')
        self.assertEqual([self.asked.side_effect], self.site.failures)
        self.asked.side_effect = None
        self.access.require_write('ioctx')
        self.assertEqual(2, self.asked.call_count)

    def test_of_a_site_that_is_away_its_last_answer_counts(self):
        self.asked.return_value = False
        self.site.health.state = health.DOWN
        self.assertIsNone(self.access.refusal())
        self.assertIsNone(self.access.known_refusal())
        self.asked.assert_not_called()
        self.site.health.state = health.UP
        denied = str(self.access.refusal())
        self.site.health.state = health.DOWN
        self.assertEqual(denied, str(self.access.refusal()))
        self.assertEqual(denied, str(self.access.known_refusal()))

    def test_of_a_site_that_never_answered_the_configuration_counts(self):
        denied = access.Access(self.site, 'glance-dcn0', read_only=True)
        self.site.health.state = health.DOWN
        self.assertIsInstance(denied.refusal(), errors.ReadOnly)
        self.site.health.state = health.UP
        self.asked.side_effect = rados.TimedOut('no answer')
        self.assertRaises(errors.ReadOnly, denied.require_write, 'ioctx')
        self.assertIsInstance(denied.refusal(), errors.ReadOnly)
        # The rights are wider than the configuration says.
        self.asked.side_effect = None
        self.assertIsNone(denied.refusal())
        self.assertIsNone(denied.known_refusal())
