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

"""The trash of a pool with an image in it that is being migrated."""

import rbd

from glance_dcn.ceph import images
from glance_dcn.ceph import trial
from tests.functional import base


class MigrationTest(base.CephTestCase):
    """librbd keeps the source of a migration in the trash meanwhile.

    The binding of Ceph 16 cannot list such a trash (IndexError).
    """

    def setUp(self):
        super().setUp()
        self.name = self.image_name()
        self.ioctx = self.enterContext(
            self.cluster('central').pool('images'))
        # Of this test alone.
        self.ioctx.set_namespace(self.name)
        rbd.RBD().namespace_create(self.ioctx, self.name)
        self.addCleanup(rbd.RBD().namespace_remove, self.ioctx, self.name)
        rbd.RBD().create(self.ioctx, self.name, 1 << 20)
        rbd.RBD().migration_prepare(self.ioctx, self.name, self.ioctx,
                                    self.name + '-new')
        self.addCleanup(rbd.RBD().remove, self.ioctx, self.name)
        self.addCleanup(rbd.RBD().migration_abort, self.ioctx,
                        self.name + '-new')

    def test_it_is_listed(self):
        (entry,) = images.trash_entries(self.ioctx)
        self.assertEqual(self.name, entry.name)
        self.assertFalse(images.is_being_removed(self.ioctx, self.name,
                                                 entry.image_id))
        self.assertIsNone(images.find_being_removed(self.ioctx, self.name))

    def test_others_go_on(self):
        self.assertFalse(images.is_empty(self.ioctx))
        trial.remove(self.ioctx, trial.PREFIX + 'another')
