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

"""The header of an RBD image, and where the data of an image goes."""

from __future__ import annotations

import random
import types
import typing

from oslotest import base
import rbd

from glance_dcn.engine import rbd_layout
from glance_dcn.runtime import native

_PREFIX = 'rbd_data.abc'


class Image:
    """The header of an image, as rbd.Image tells it."""

    def __init__(self, order: int = 14, unit: int = 1 << 14, count: int = 1,
                 features: int = 1, pool: int = 7,
                 snaps: tuple[str, ...] = ()) -> None:
        self.features = lambda: features
        self.stat = lambda: {'obj_size': 1 << order}
        self.stripe_unit = lambda: unit
        self.stripe_count = lambda: count
        self.data_pool_id = lambda: pool
        self.size = lambda: 0
        self.block_name_prefix = lambda: _PREFIX
        self.list_snaps = lambda: iter(snaps)


class Ioctx:
    """A pool in memory.

    :ivar code: what each write is answered with, by its number
    """

    def __init__(self) -> None:
        self.data: dict[str, bytearray] = {}
        self.code: dict[int, int] = {}
        self.writes = self.closed = 0
        self.lock: typing.Any = None
        self.namespace = ''

    def dup(self) -> Ioctx:
        return self

    def get_pool_id(self) -> int:
        return 7

    def get_namespace(self) -> str:
        return 'ours'

    def set_namespace(self, name: str) -> None:
        self.namespace = name

    def set_osdmap_full_try(self) -> None:
        pass

    def aio_flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1

    def aio_write_full(self, name: str, data: bytes,
                       complete: typing.Any) -> None:
        self.data.pop(name, None)
        self.aio_write(name, data, 0, complete)

    def aio_write(self, name: str, data: bytes, offset: int,
                  complete: typing.Any) -> None:
        content = self.data.setdefault(name, bytearray())
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset:offset + len(data)] = data
        code = self.code.get(self.writes, 0)
        self.writes += 1
        complete(Completion(code))


class Completion:

    def __init__(self, code: int) -> None:
        self.get_return_value = lambda: code


class DataObjectsTest(base.BaseTestCase):

    def test_equals_the_layout_byte_by_byte(self) -> None:
        chance = random.Random(1)
        ioctx, answers = Ioctx(), []
        written = rbd_layout.DataObjects(ioctx, Image())
        expected: dict[str, dict[int, int]] = {}
        for number in range(60):
            offset = chance.randrange(1 << 18)
            data = chance.randbytes(chance.choice(
                (0, 1, 5000, 1 << 14, 70000)))
            if number % 3 == 0:
                offset &= ~((1 << 14) - 1)
            written.write(offset, data, answers.append)
            for at, byte in enumerate(data, offset):
                expected.setdefault('%s.%016x' % (_PREFIX, at >> 14), {})[
                    at & ((1 << 14) - 1)] = byte
        self.assertEqual([0] * 60, answers)
        self.assertEqual(expected.keys(), ioctx.data.keys())
        for name, content in expected.items():
            self.assertEqual(
                [content.get(at, 0) for at in range(max(content) + 1)],
                list(ioctx.data[name]))

    def test_whole_object_is_written_at_once(self) -> None:
        ioctx, answers = Ioctx(), []
        ioctx.data['%s.%016x' % (_PREFIX, 1)] = bytearray(b'y' * 99999)
        rbd_layout.DataObjects(ioctx, Image()).write(
            1 << 14, b'x' * (1 << 14), answers.append)
        self.assertEqual(b'x' * (1 << 14), bytes(
            ioctx.data['%s.%016x' % (_PREFIX, 1)]))

    def test_answered_once_with_what_failed(self) -> None:
        ioctx, answers = Ioctx(), []
        ioctx.code = {1: -28}
        written = rbd_layout.DataObjects(ioctx, Image())
        written.write(0, b'x' * (3 << 14), answers.append)
        self.assertEqual([-28], answers)
        written.close()
        self.assertEqual(1, ioctx.closed)

    def test_its_lock_is_not_that_of_green_threads(self) -> None:
        ioctx = Ioctx()
        rbd_layout.DataObjects(ioctx, Image())
        self.assertIsInstance(ioctx.lock, type(native.lock()))

    def test_what_is_not_written_this_way(self) -> None:
        for wrong in ({'features': 5}, {'features': 9}, {'features': 65},
                      {'pool': 8}, {'snaps': ('snap',)}, {'count': 2}):
            self.assertRaises(rbd_layout.Unsafe, rbd_layout.DataObjects,
                              Ioctx(), Image(**wrong))
        other = Ioctx()
        other.get_pool_id = lambda: 8
        rbd_layout.DataObjects(Ioctx(), Image(pool=8), {8: other}.__getitem__)
        self.assertEqual('ours', other.namespace)
        rbd_layout.DataObjects(Ioctx(), Image(
            features=rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_DEEP_FLATTEN))


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
            rbd_layout.check(Header(order=order))
        rbd_layout.check(Header(features=3, stripes=16, unit=1 << 16))
        rbd_layout.check(Header(size=0))

    def test_what_librbd_cannot_bear(self):
        for wrong in ({'features': 61 | 512}, {'order': 0}, {'order': 63},
                      {'order': 255}, {'size': (1 << 64) - 1},
                      {'stripes': 1 << 63}, {'stripes': 0}, {'unit': 0},
                      {'unit': 64}, {'unit': 1 << 24}, {'unit': 5000}):
            self.assertRaises(rbd.InvalidArgument, rbd_layout.check,
                              Header(**wrong))

    def test_clone(self):
        def none():
            raise rbd.ImageNotFound('no parent')
        self.assertFalse(rbd_layout.has_parent(types.SimpleNamespace(
            parent_info=none)))
        self.assertTrue(rbd_layout.has_parent(types.SimpleNamespace(
            parent_info=lambda: ('images', 'a', 'snap'))))
