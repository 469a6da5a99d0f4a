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

from oslotest import base
import rbd

from glance_dcn.engine import header


class Header:
    """An image whose header says what it likes."""

    def __init__(self, features=61, order=23, size=1 << 30, stripes=1,
                 unit=None):
        self.features = lambda: features
        self.stat = lambda: {'order': order, 'size': size,
                             'obj_size': 1 << order if order < 64 else 0}
        self.stripe_count = lambda: stripes
        self.stripe_unit = lambda: (
            self.stat()['obj_size'] if unit is None else unit)


class CheckTest(base.BaseTestCase):

    def test_those_that_rbd_makes(self):
        for order in (12, 22, 25):
            header.check(Header(order=order))
        header.check(Header(features=3, stripes=16, unit=1 << 16))
        header.check(Header(size=0))

    def test_what_librbd_cannot_bear(self):
        for wrong in ({'features': 61 | 512}, {'order': 0}, {'order': 63},
                      {'order': 255}, {'size': (1 << 64) - 1},
                      {'stripes': 1 << 63}, {'stripes': 0}, {'unit': 0},
                      {'unit': 64}, {'unit': 1 << 24}, {'unit': 5000}):
            self.assertRaises(rbd.InvalidArgument, header.check,
                              Header(**wrong))

    def test_clone(self):
        def none():
            raise rbd.ImageNotFound('no parent')
        self.assertFalse(header.has_parent(types.SimpleNamespace(
            parent_info=none)))
        self.assertTrue(header.has_parent(types.SimpleNamespace(
            parent_info=lambda: ('images', 'a', 'snap'))))
