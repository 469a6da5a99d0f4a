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

"""Which copy_image plugin Glance uses."""

import random

from oslotest import base
from stevedore import extension
from stevedore import named

from glance_dcn.upstream import plugins


class PluginsTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.points = plugins.entry_points(plugins.NAMESPACE)
        order = list(self.points)
        self.addCleanup(self.points.__setitem__, slice(None), order)

    def both(self):
        return [point.value for point in self.points
                if point.name == 'copy_image']

    def test_both_are_found(self):
        self.assertEqual(2, len(self.both()))

    def test_ours_wins_however_they_were_found(self):
        for seed in range(5):
            random.Random(seed).shuffle(self.points)
            plugins.prefer_ours()
            self.assertTrue(plugins.ours_wins('copy_image'))

    def test_it_is_noticed_when_stock_wins(self):
        self.points.sort(key=plugins._is_ours, reverse=True)
        self.assertFalse(plugins.ours_wins('copy_image'))
        self.assertFalse(plugins.ours_wins('web_download'))
        self.assertFalse(plugins.ours_wins('no such'))

    def test_stevedore_uses_the_last_one_of_this_very_list(self):
        # Guards what is assumed of stevedore and of how Glance asks it.
        self.assertIs(
            self.points,
            extension.ExtensionManager.ENTRY_POINT_CACHE[plugins.NAMESPACE])
        for ours in (True, False):
            self.points.sort(key=plugins._is_ours, reverse=not ours)
            manager = named.NamedExtensionManager(
                plugins.NAMESPACE, names=['copy_image'], name_order=True,
                invoke_on_load=False)
            self.assertEqual(
                ours, manager.extensions[0].plugin.__module__.startswith(
                    'glance_dcn.'))
