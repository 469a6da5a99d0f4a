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

"""What becomes of the targets of a copy, without a cluster."""

import contextlib
from unittest import mock

from oslotest import base

from glance_dcn.sites import existing
from glance_dcn.sites import target

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class AdoptedTargetTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.site = mock.Mock()
        self.site.open_pool.return_value = contextlib.nullcontext('ioctx')
        self.site.begin.side_effect = existing.Complete(
            existing.ExistingImage(IMAGE, '17', 10, ('snap',), True))
        self.target = target.Target(self.site, IMAGE, 10, None, {}, 0)
        with mock.patch('glance_dcn.sites.existing.adopt'):
            self.target.open()

    def assertReleased(self, *calls):
        self.assertEqual([mock.call(IMAGE, image_id) for image_id in calls],
                         self.site.release_adopted.mock_calls)
        # It was there before, and another copy may adopt it.
        self.site.discard_or_defer.assert_not_called()

    def test_released_if_the_copy_fails(self):
        self.target.close(failed=True)
        self.assertReleased('17')

    def test_released_if_it_fails(self):
        self.target.fail(OSError())
        self.target.close(failed=False)
        self.assertReleased('17')

    def test_kept_once_glance_is_told(self):
        self.target.tell()
        self.target.close(failed=True)
        self.assertReleased()

    def test_kept_if_all_is_well(self):
        self.target.close(failed=False)
        self.assertReleased()
