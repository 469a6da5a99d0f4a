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

"""What is closed when nothing uses it any more."""

from __future__ import annotations

import typing
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.engine.backends import rbd as rbd_backend
from glance_dcn.runtime import native
from glance_dcn.runtime import shared


class SharedTest(base.BaseTestCase):

    def test_closed_after_the_last_use(self) -> None:
        close = mock.Mock()
        uses = shared.Shared(close)
        uses.acquire()
        self.assertFalse(uses.release())
        close.assert_not_called()
        self.assertTrue(uses.release())
        close.assert_called_once_with()


class Left(Exception):
    """A call was left."""


class Cluster:
    """A cluster that answers no call before it is told to.

    :ivar answer: lets it answer one
    """

    def __init__(self) -> None:
        self.answer: typing.Any = native.Queue()
        self.ended: typing.Any = native.Queue()

    def call(self, function: typing.Callable[..., object], *args: object,
             fence: bool = True) -> None:
        def run() -> None:
            self.answer.get()
            function(*args)
            self.ended.put(True)
        native.start('call', run)
        raise Left


class ImageTest(base.BaseTestCase):
    """An image of which a call was left is closed after that has ended."""

    def setUp(self) -> None:
        super().setUp()
        self.image = self.useFixture(fixtures.MockPatch(
            'glance_dcn.engine.backends.rbd.rbd.Image')).mock.return_value
        self.image.stat.return_value = {'size': 1, 'obj_size': 1 << 22,
                                        'order': 22}
        self.image.features.return_value = 1
        self.image.stripe_count.return_value = 1
        self.image.stripe_unit.return_value = 1 << 22
        self.image.list_snaps.return_value = []
        self.ioctx = mock.Mock()
        self.ioctx.dup.return_value = self.ioctx
        self.image.data_pool_id.return_value = (
            self.ioctx.get_pool_id.return_value)
        self.closed: typing.Any = native.Queue()
        self.cluster = Cluster()

    def open(self, writable: bool) -> rbd_backend.RBD:
        return rbd_backend.RBD(
            self.ioctx, 'image', writable=writable, cluster=self.cluster,
            hold=lambda: lambda: self.closed.put(True))

    def test_left(self) -> None:
        for writable in (False, True):
            self.image.reset_mock()
            used = mock.Mock()
            with self.open(writable) as endpoint:
                for _ in range(2):
                    self.assertRaises(Left, endpoint.call, used, 'record')
            for _ in range(2):
                self.image.close.assert_not_called()
                self.assertTrue(self.closed.empty())
                self.cluster.answer.put(True)
                self.assertTrue(native.get(self.cluster.ended, 30))
            self.assertTrue(native.get(self.closed, 30))
            self.image.close.assert_called_once_with()
            used.assert_called_with(self.image, 'record')

    def test_none_was_left(self) -> None:
        endpoint = self.open(True)
        for _ in range(2):
            # Once more does nothing.
            endpoint.close()
        self.assertTrue(native.get(self.closed, 30))
        self.assertTrue(self.closed.empty())
        self.image.close.assert_called_once_with()
