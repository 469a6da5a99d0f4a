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

"""What is made once in each process, whichever thread comes first."""

from __future__ import annotations

import os
import threading
import time

from oslotest import base

from glance_dcn.runtime import fork_guard


class ForkGuardTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.made: list[int] = []
        self.entered = threading.Event()

    def reset(self) -> None:
        """Take long enough for other threads to come in."""
        if self.made:
            self.entered.set()
            time.sleep(.3)
        self.made.append(os.getpid())

    def test_once_in_a_process(self) -> None:
        guard = fork_guard.ForkGuard(self.reset)
        guard.check()
        self.assertEqual([os.getpid()], self.made)
        self.assertTrue(guard.is_current)

    def test_once_in_a_child_for_all_its_threads(self) -> None:
        guard = fork_guard.ForkGuard(self.reset)
        child = os.fork()
        if not child:
            status = 1
            try:
                status = self.in_child(guard)
            finally:
                os._exit(status)
        self.assertEqual(0, os.waitstatus_to_exitcode(
            os.waitpid(child, 0)[1]))
        self.assertEqual([os.getpid()], self.made)

    def in_child(self, guard: fork_guard.ForkGuard) -> int:
        """Return 0 if two threads are served by one call."""
        assert not guard.is_current
        seen: list[int] = []

        def check() -> None:
            guard.check()
            seen.append(len(self.made))
        first = threading.Thread(target=check)
        first.start()
        # The other one comes while the first is at it.
        self.entered.wait(60)
        check()
        first.join()
        return 0 if seen == [2, 2] and self.made[1] == os.getpid() else 1

    def test_what_failed_is_tried_again(self) -> None:
        outcomes: list[Exception | None] = [None, ValueError(), None]

        def reset() -> None:
            outcome = outcomes.pop(0)
            if outcome:
                raise outcome
        guard = fork_guard.ForkGuard(reset)
        guard._pid = 0
        self.assertRaises(ValueError, guard.check)
        self.assertFalse(guard.is_current)
        guard.check()
        self.assertTrue(guard.is_current)
