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

import types

import fixtures
from oslotest import base

from glance_dcn.ceph import health
from glance_dcn.checks import subjects
from glance_dcn.sites import owed
from glance_dcn.status import look


class TestLooks(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        # Of each site, what is recorded there: jobs by name of the object.
        self.recorded = {}
        for target, value in (
                ('subjects.Site.connect', lambda site: None),
                ('subjects.Site.open', lambda site: None),
                ('probe.ask', lambda ioctx: None),
                ('trial.round_trip', lambda ioctx: .01),
                ('trial.room', lambda client: (2, 1)),
                ('owed.Place', self._place)):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.status.look.' + target, value))

    def _place(self, site, name):
        return types.SimpleNamespace(records=lambda: [
            types.SimpleNamespace(job=owed.DELETE, image=image, writer=None)
            for image in self.recorded.get((site.name, name), [])])

    def look(self):
        """Return the states of three sites by name."""
        return {state.name: state for state in look.Looks([
            subjects.Target(name, 'images', default=name == 'central')
            for name in ('central', 'dcn0', 'dcn1')]).wait(5)}

    def test_nothing_is_owed(self):
        self.assertEqual({(health.UP, ())}, {
            (state.state, tuple(state.owed))
            for state in self.look().values()})

    def test_wherever_owed_work_is_recorded(self):
        self.recorded = {
            ('dcn0', owed.OBJECT): ['a'],
            ('central', owed.OBJECT + '.dcn0'): ['b'],
            # Central itself was away.
            ('dcn1', owed.OBJECT + '.central'): ['c', 'd']}
        self.assertEqual(
            {'central': ({owed.DELETE: 2}, {'c', 'd'}),
             'dcn0': ({owed.DELETE: 2}, {'a', 'b'}),
             'dcn1': ({}, set())},
            {name: (state.owed, state.images)
             for name, state in self.look().items()})
