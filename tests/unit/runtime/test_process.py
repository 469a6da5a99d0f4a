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

"""What belongs to one process, whichever thread comes first."""

from __future__ import annotations

import os
import threading
import typing

from oslotest import base

from glance_dcn.runtime import process
from tests import runtimes

if typing.TYPE_CHECKING:
    from collections.abc import Callable


class ForkLocalTest(base.BaseTestCase):

    def in_child(self, function: Callable[[], bool]) -> bool:
        """Return what a function returns in a child of a fork."""
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if function() else 2
            finally:
                os._exit(status)
        return not os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def test_made_on_first_use(self) -> None:
        made: list[int] = []
        value = process.ForkLocal(lambda: made.append(1) or object())
        self.assertFalse(value.is_made)
        self.assertIs(value.get(), value.get())
        self.assertTrue(value.is_made)
        self.assertEqual([1], made)

    def test_a_child_has_its_own(self) -> None:
        value: process.ForkLocal[list[int]] = process.ForkLocal(list)
        value.get().append(1)
        self.assertTrue(self.in_child(
            lambda: not value.is_made and value.get() == []))
        self.assertEqual([1], value.get())

    def test_a_lock_that_the_parent_holds_is_free_in_a_child(self) -> None:
        lock = process.ForkLocal(threading.Lock)
        with lock.get():
            self.assertTrue(self.in_child(
                lambda: lock.get().acquire(blocking=False)))

    def test_threads_that_are_the_first_share_one(self) -> None:
        both = threading.Barrier(2, timeout=60)

        def make() -> object:
            both.wait()
            return object()

        value = process.ForkLocal(make)
        got: list[object] = []
        other = threading.Thread(target=lambda: got.append(value.get()))
        other.start()
        got.append(value.get())
        other.join(60)
        self.assertEqual(2, len(got))
        self.assertIs(got[0], got[1])

    def test_what_failed_is_tried_again(self) -> None:
        outcomes: list[Callable[[], int]] = [lambda: 1 // 0, lambda: 7]
        value = process.ForkLocal(lambda: outcomes.pop(0)())
        self.assertRaises(ZeroDivisionError, value.get)
        self.assertFalse(value.is_made)
        self.assertEqual(7, value.get())

    def test_set(self) -> None:
        value = process.ForkLocal(int)
        value.set(3)
        self.assertEqual(3, value.get())
        self.assertTrue(self.in_child(lambda: value.get() == 0))


class RuntimeTest(base.BaseTestCase):

    def test_one_of_each_class(self) -> None:
        runtime = process.Runtime()
        self.assertIsNone(runtime.find(list))
        found: list[int] = runtime.get(list)
        found.append(1)
        self.assertIs(found, runtime.get(list))
        self.assertIs(found, runtime.find(list))
        self.assertEqual({}, runtime.get(dict))

    def test_put(self) -> None:
        runtime = process.Runtime()
        runtime.get(list)
        runtime.put([1])
        self.assertEqual([1], runtime.get(list))

    def test_a_test_has_its_own(self) -> None:
        before = process.CURRENT
        with runtimes.Runtime():
            process.put([1])
            self.assertEqual([1], process.get(list))
        self.assertIs(before, process.CURRENT)
        self.assertIsNone(process.find(list))
