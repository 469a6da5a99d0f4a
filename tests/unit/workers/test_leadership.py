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

"""Which process of a worker leads, with real processes.

Each sibling is a process that does what it is told, and whose clock is set by
the test: nothing depends on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import typing

import fixtures
from oslotest import base

from glance_dcn.workers import leadership
from tests import volumes

SILENCE = 30


def _sibling(folder: str, commands: typing.Any) -> None:
    now = 1000.0
    lead = leadership.Leadership(folder, SILENCE, clock=lambda: now)
    while True:
        command = commands.recv()
        if isinstance(command, (int, float)):
            now += command
            commands.send(None)
        elif command == 'is_held':
            commands.send(lead.is_held)
        else:
            commands.send(getattr(lead, command)())


class Sibling:
    """A process of the worker.

    :param folder: path of the worker's folder
    """

    def __init__(self, folder: str) -> None:
        context = multiprocessing.get_context('spawn')
        self._commands, theirs = context.Pipe()
        self.process = context.Process(
            target=_sibling, args=(folder, theirs), daemon=True)
        self.process.start()

    def do(self, command: str | float) -> typing.Any:
        """Have it call a method, or put its clock on by some seconds."""
        self._commands.send(command)
        if not self._commands.poll(60):
            raise AssertionError('no answer to %s' % command)
        return self._commands.recv()

    def end(self) -> None:
        """Kill it, whether or not it is stopped."""
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        """Stop it, and return when it is."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it go on after a stop."""
        os.kill(self.process.pid, signal.SIGCONT)


class LeadershipTest(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.folder = os.path.join(
            self.useFixture(fixtures.TempDir()).path, 'worker')
        self.now = 1000.0
        self.logged = self.useFixture(fixtures.FakeLogger(
            'glance_dcn.workers'))

    def sibling(self) -> Sibling:
        found = Sibling(self.folder)
        self.addCleanup(found.end)
        return found

    def here(self) -> leadership.Leadership:
        """Return the lead as another process of the test's would see it."""
        found = leadership.Leadership(self.folder, SILENCE,
                                      clock=lambda: self.now)
        self.addCleanup(found.resign)
        return found

    def wait_in_vain(self, lead: leadership.Leadership) -> bool:
        """Look again and again until a leader's silence is over."""
        outcomes = [lead.acquire()]
        for _ in range(3):
            self.now += SILENCE / 3
            outcomes.append(lead.acquire())
        self.assertFalse(any(outcomes[:-1]))
        return outcomes[-1]

    def test_one_leads_until_it_ends(self) -> None:
        first, second = self.sibling(), self.sibling()
        self.assertTrue(first.do('acquire'))
        self.assertTrue(first.do('acquire'))
        self.assertTrue(first.do('is_held'))
        self.assertFalse(second.do('acquire'))
        self.assertFalse(second.do('is_held'))
        self.assertFalse(second.do('beat'))
        first.end()
        # At once: nothing has to pass.
        self.assertTrue(second.do('acquire'))

    def test_leader_resigns(self) -> None:
        first, second = self.sibling(), self.sibling()
        self.assertTrue(first.do('acquire'))
        first.do('resign')
        self.assertFalse(first.do('is_held'))
        self.assertTrue(second.do('acquire'))
        self.assertFalse(first.do('acquire'))

    def test_leader_that_is_stopped_loses_the_lead(self) -> None:
        first, second = self.sibling(), self.sibling()
        self.assertTrue(first.do('acquire'))
        for _ in range(10):
            second.do(SILENCE / 3)
            self.assertTrue(first.do('beat'))
            self.assertFalse(second.do('acquire'))
        first.stop()
        for _ in range(2):
            second.do(SILENCE / 3)
            self.assertFalse(second.do('acquire'))
        second.do(SILENCE / 3)
        self.assertTrue(second.do('acquire'))
        self.assertTrue(second.do('beat'))
        first.go_on()
        self.assertFalse(first.do('is_held'))
        self.assertFalse(first.do('beat'))
        self.assertFalse(first.do('acquire'))
        self.assertTrue(second.do('is_held'))
        # It may lead again when its successor ends.
        second.end()
        self.assertTrue(first.do('acquire'))
        self.assertTrue(first.do('beat'))

    def test_leader_whose_thread_hangs_loses_the_lead(self) -> None:
        # The process lives and holds its lock; it does not beat.
        first = self.sibling()
        self.assertTrue(first.do('acquire'))
        here = self.here()
        self.assertTrue(self.wait_in_vain(here))
        self.assertFalse(first.do('is_held'))
        self.assertIn('pid %d ' % first.process.pid, self.logged.output)
        self.assertIn('not beaten for %d s' % SILENCE, self.logged.output)

    def test_process_that_did_not_look_waits_again(self) -> None:
        # All processes of the host were stopped: none has beaten.
        first, second = self.sibling(), self.sibling()
        self.assertTrue(first.do('acquire'))
        self.assertFalse(second.do('acquire'))
        second.do(100 * SILENCE)
        self.assertFalse(second.do('acquire'))
        self.assertTrue(first.do('beat'))
        second.do(SILENCE / 2)
        self.assertFalse(second.do('acquire'))

    def test_one_of_many_takes_over(self) -> None:
        first = self.sibling()
        self.assertTrue(first.do('acquire'))
        siblings = [self.sibling() for _ in range(4)]
        for sibling in siblings:
            self.assertFalse(sibling.do('acquire'))
        for sibling in siblings:
            for _ in range(3):
                sibling.do(SILENCE / 3)
        first.stop()
        for sibling in siblings:
            sibling._commands.send('acquire')
        taken = [sibling._commands.recv() for sibling in siblings]
        # At most: each may have seen the lock of another that was looking.
        self.assertLessEqual(sum(taken), 1)
        for _ in range(3):
            for sibling in siblings:
                sibling.do(SILENCE / 3)
                sibling.do('beat') or sibling.do('acquire')
        self.assertEqual(1, sum(sibling.do('is_held')
                                for sibling in siblings))

    def test_one_that_was_stopped_while_it_took_over(self) -> None:
        # It wakes when two others have led meanwhile, and the generation it
        # was about to make is no more.
        late, link = self.here(), os.link

        def stopped(*args: typing.Any) -> None:
            self.useFixture(fixtures.MonkeyPatch('os.link', link))
            self.assertTrue(self.here().acquire())
            for _ in range(2):
                # The former one is silent, and does not end.
                self.last = self.here()
                self.assertTrue(self.wait_in_vain(self.last))
            link(*args)
        self.useFixture(fixtures.MonkeyPatch('os.link', stopped))
        self.assertFalse(late.acquire())
        self.assertFalse(late.is_held)
        self.assertTrue(self.last.is_held)
        self.assertEqual(['lead.3'], os.listdir(self.folder))

    def test_another_took_over_first(self) -> None:
        late, first, link = self.here(), self.here(), os.link

        def overtaken(*args: typing.Any) -> None:
            self.useFixture(fixtures.MonkeyPatch('os.link', link))
            self.assertTrue(first.acquire())
            link(*args)
        self.useFixture(fixtures.MonkeyPatch('os.link', overtaken))
        self.assertFalse(late.acquire())
        self.assertTrue(first.is_held)
        self.assertEqual(['lead.1'], os.listdir(self.folder))

    def test_child_of_a_fork_does_not_lead(self) -> None:
        here = self.here()
        self.assertTrue(here.acquire())
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writing, repr([here.is_held, here.beat(),
                                    here.acquire()]).encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        with open(reading, 'rb') as f:
            self.assertEqual(b'[False, False, False]', f.read())
        # The child's end does not take it away from the parent.
        self.assertTrue(here.beat())
        self.assertFalse(self.here().acquire())

    def test_other_folder_is_mounted(self) -> None:
        here = self.here()
        self.assertTrue(here.acquire())
        os.rename(self.folder, self.folder + '.gone')
        self.assertFalse(here.is_held)
        os.mkdir(self.folder)
        self.assertFalse(here.beat())
        other = self.here()
        self.assertTrue(other.acquire())
        self.assertFalse(here.acquire())

    def test_folder_above_is_not_made(self) -> None:
        missing = leadership.Leadership(
            os.path.join(self.folder, 'missing', 'worker'), SILENCE)
        self.assertRaises(FileNotFoundError, missing.acquire)
        self.assertFalse(missing.is_held)
        self.assertFalse(missing.beat())

    def test_leader_of_an_earlier_release(self) -> None:
        # It has locked a file without a number, and never writes to it.
        import fcntl
        os.mkdir(self.folder)
        path = pathlib.Path(self.folder, 'lead')
        with path.open('w') as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.assertTrue(self.wait_in_vain(self.here()))
        self.assertEqual(['lead.1'], os.listdir(self.folder))
        self.assertIn('of an earlier release', self.logged.output)

    def test_full_disk(self) -> None:
        disk = self.useFixture(volumes.SmallDisk('size=64k'))
        self.folder = os.path.join(disk.path, 'worker')
        first, second = self.sibling(), self.sibling()
        self.assertTrue(first.do('acquire'))
        disk.fill()
        self.assertTrue(first.do('beat'))
        self.assertFalse(second.do('acquire'))
        first.end()
        self.assertTrue(second.do('acquire'))
        self.assertTrue(second.do('beat'))
        self.assertFalse(self.here().acquire())
        self.assertIn('pid %d ' % second.process.pid,
                      pathlib.Path(self.folder, 'lead.1').read_text())

    def test_disk_that_was_full_before(self) -> None:
        disk = self.useFixture(volumes.SmallDisk('size=64k'))
        disk.fill()
        self.folder = os.path.join(disk.path, 'worker')
        first, second = self.sibling(), self.sibling()
        self.assertTrue(first.do('acquire'))
        # The heartbeats that there is no room for count.
        for _ in range(6):
            self.assertFalse(second.do('acquire'))
            second.do(SILENCE / 3)
            self.assertTrue(first.do('beat'))
        self.assertEqual(0, os.stat(os.path.join(self.folder,
                                                 'lead.1')).st_size)
        first.stop()
        here = self.here()
        self.assertTrue(self.wait_in_vain(here))
        first.go_on()
        self.assertFalse(first.do('is_held'))
        self.assertTrue(here.beat())

    def test_read_only_disk(self) -> None:
        disk = self.useFixture(volumes.SmallDisk('size=64k'))
        self.folder = os.path.join(disk.path, 'worker')
        first, second = self.sibling(), self.sibling()
        self.assertTrue(first.do('acquire'))
        self.assertFalse(second.do('acquire'))
        # A file that is open for writing is in the way otherwise.
        first.do('resign')
        self.assertEqual(0, disk.mount('-o', 'remount,ro').returncode)
        self.assertTrue(first.do('acquire'))
        self.assertTrue(first.do('beat'))
        self.assertFalse(second.do('acquire'))
        first.end()
        self.assertTrue(second.do('acquire'))
        here = self.here()
        self.assertFalse(here.acquire())
        for _ in range(3):
            # A silent leader cannot be replaced, and is known to be there.
            self.now += SILENCE / 3
            with contextlib.suppress(OSError):
                self.assertFalse(here.acquire())
            self.assertTrue(here.is_led)
        self.assertTrue(second.do('is_held'))

    def test_nothing_is_left_behind(self) -> None:
        for _ in range(5):
            here = self.here()
            self.assertTrue(here.acquire())
            for _beat in range(3):
                self.assertTrue(here.beat())
            here.resign()
        self.assertEqual(['lead.1'], os.listdir(self.folder))
        path = pathlib.Path(self.folder, 'lead.1')
        self.assertEqual(0o600, path.stat().st_mode & 0o777)
        self.assertRegex(path.read_text(),
                         r'^pid %d +instance [0-9a-f]{32} count 4 +\n$'
                         % os.getpid())
