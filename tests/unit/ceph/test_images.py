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

"""The trash of a pool, as its OSDs list it."""

import datetime
from unittest import mock

from oslotest import base
import rados

from glance_dcn.ceph import images

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class TrashTest(base.BaseTestCase):
    """Trash entries, as a cluster has them; cls_rbd is a few lines here."""

    def setUp(self):
        super().setUp()
        self.entries = {}
        self.ioctx = mock.Mock()
        self.ioctx.execute.side_effect = self.execute
        self.damage = lambda reply: reply

    def add(self, image_id, name, source=3, deleted_at=0):
        fields = (bytes([source]) + self.text(name)
                  + deleted_at.to_bytes(4, 'little') + bytes(13))
        self.entries[image_id] = (
            b'\x02\x01' + len(fields).to_bytes(4, 'little') + fields)

    @staticmethod
    def text(value):
        return len(value).to_bytes(4, 'little') + value.encode()

    def execute(self, oid, cls, method, data, length=8192):
        self.assertEqual(('rbd_trash', 'rbd'), (oid, cls))
        start = data[4:4 + data[0]].decode()
        if method == 'trash_get':
            if start not in self.entries:
                raise rados.ObjectNotFound('none')
            return 0, self.damage(self.entries[start])
        most = int.from_bytes(data[4 + data[0]:], 'little')
        found = sorted(each for each in self.entries if each > start)[:most]
        reply = len(found).to_bytes(4, 'little') + b''.join(
            self.text(each) + self.entries[each] for each in found)
        self.assertLessEqual(len(reply), length)
        return 0, self.damage(reply)

    def test_entries(self):
        self.add('id1', IMAGE, source=2, deleted_at=1_700_000_000)
        self.assertEqual(
            [('id1', IMAGE, 2, datetime.datetime(2023, 11, 14, 22, 13, 20))],
            list(images.trash_entries(self.ioctx)))

    def test_among_many(self):
        for number in range(1500):
            self.add('id%04d' % number, 'n' * 96)
        self.add('id0700', IMAGE, source=0)
        self.assertIsNone(images.find_being_removed(self.ioctx, IMAGE))
        self.add('id1234', IMAGE)
        self.assertEqual('id1234', images.find_being_removed(self.ioctx,
                                                             IMAGE))
        self.assertTrue(images.is_being_removed(self.ioctx, IMAGE, 'id1234'))
        for image_id in ('id0700', 'id0701', 'none'):
            self.assertFalse(images.is_being_removed(self.ioctx, IMAGE,
                                                     image_id))

    def test_damaged(self):
        self.add('id', IMAGE)
        for damage in (lambda reply: b'', lambda reply: reply[:9],
                       lambda reply: b'\xff' * len(reply)):
            self.damage = damage
            self.assertIsNone(images.find_being_removed(self.ioctx, IMAGE))
            self.assertFalse(images.is_being_removed(self.ioctx, IMAGE, 'id'))

    def test_no_trash(self):
        self.ioctx.execute.side_effect = rados.ObjectNotFound('none')
        self.assertIsNone(images.find_being_removed(self.ioctx, IMAGE))
