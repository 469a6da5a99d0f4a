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

"""What of a dead writer's image is removed at once, without a cluster."""

import contextlib
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.sites import dead
from glance_dcn.sites import leftovers

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class BuryTest(base.BaseTestCase):

    def check(self, removed, snapshots, is_committed, **options):
        site = mock.Mock(is_committed=lambda image, identity: is_committed,
                         open_pool=contextlib.nullcontext)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.leftovers.look',
            lambda ioctx, image: leftovers.Found(image, '17', 10, snapshots)))
        self.assertTrue(dead.bury(site, IMAGE, [7], **options))
        self.assertEqual([mock.call(None, IMAGE, '17')] * removed,
                         site.discard.mock_calls)

    def test_incomplete(self):
        for published in (True, False):
            for committed in (True, False):
                self.check(True, (), True, published=published,
                           committed=committed)

    def test_published(self):
        self.check(False, ('snap',), False, published=False)
        self.check(True, ('snap',), False, published=True)
        self.check(True, ('snap',), False, published=True, committed=False)

    def test_committed(self):
        # Glance may come to know of it still.
        self.check(False, ('snap',), True, published=True, committed=False)
        self.check(False, ('snap',), True, published=False)
        self.check(True, ('snap',), True, published=True)
