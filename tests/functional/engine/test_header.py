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

"""An image whose header whoever owns the cluster has written."""

import rbd

from glance_dcn.ceph import images
from glance_dcn.engine.backends import rbd as backend
from glance_dcn.engine import errors
from glance_dcn.sites import leftovers
from tests.functional import base

MIB = 1 << 20


class MigratingTest(base.CephTestCase):
    """One that is being migrated: librbd would read from where that says."""

    def setUp(self):
        super().setUp()
        self.name, self.old = self.image_name(), self.image_name()
        pool = self.cluster('dcn0').pool('images')
        self.ioctx = pool.__enter__()
        self.addCleanup(pool.__exit__, None, None, None)
        rbd.RBD().create(self.ioctx, self.old, 8 * MIB)
        rbd.RBD().migration_prepare(self.ioctx, self.old, self.ioctx,
                                    self.name)
        self.addCleanup(rbd.RBD().remove, self.ioctx, self.old)
        self.addCleanup(rbd.RBD().migration_abort, self.ioctx, self.name)

    def test_neither_read_nor_written(self):
        for writable in (False, True):
            error = self.assertRaises(
                errors.RequestError, backend.RBD, self.ioctx, self.name,
                writable=writable)
            self.assertIn('being migrated', str(error))

    def test_not_looked_into(self):
        # It ended the process, which divided by zero.
        self.assertRaises(rbd.InvalidArgument, images.inspect, self.ioctx,
                          self.name)
        self.assertRaises(rbd.InvalidArgument, leftovers.look, self.ioctx,
                          self.name)
