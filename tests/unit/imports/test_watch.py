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

"""When a process begins to look at what dead ones have left."""

import types

import fixtures
from oslotest import base

from glance_dcn.imports import watch
from glance_dcn.upstream import glance_interfaces


class FakeTime:
    """A clock that goes on while it is slept by."""

    def __init__(self):
        self.now = 100.0
        self.then = lambda: None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.then()


class TestWaiting(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.time = FakeTime()
        self.stores = {'central': 'rbd', 'dcn0': 'dcn', 'web': 'http'}
        self.conf = types.SimpleNamespace(enabled_backends=self.stores)
        for name, value in (('time', self.time), ('_since', self.time.now)):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.imports.watch.' + name, value))
        self.loaded = self.useFixture(fixtures.MockPatchObject(
            glance_interfaces, 'loaded', return_value=True)).mock

    def wait(self):
        began = self.time.now
        watch._wait_for_glance(self.conf)
        return self.time.now - began

    def test_for_all_stores(self):
        def set_up():
            if self.time.now > 107:
                self.stores['dcn0'] = 'rbd'
        self.time.then = set_up
        self.assertAlmostEqual(7, self.wait(), delta=1)

    def test_for_a_moment_where_all_are_set_up(self):
        self.stores['dcn0'] = 'rbd'
        self.assertAlmostEqual(1, self.wait(), delta=1)

    def test_not_for_ever(self):
        self.loaded.return_value = False
        self.assertAlmostEqual(20, self.wait(), delta=1)
