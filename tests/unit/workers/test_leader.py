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
import stat
import subprocess
import time
import typing

import fixtures
from oslo_config import cfg
from oslotest import base
import testtools

from glance_dcn.imports import options
from glance_dcn.tasks import queue
from glance_dcn.workers import leader

SILENCE = 30


def _sibling(folder: str, commands: typing.Any) -> None:
    now = 1000.0
    leadership = leader.Leadership(folder, SILENCE, clock=lambda: now)
    while True:
        command = commands.recv()
        if isinstance(command, (int, float)):
            now += command
            commands.send(None)
        elif command == 'is_held':
            commands.send(leadership.is_held)
        else:
            commands.send(getattr(leadership, command)())


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


class SmallDisk(fixtures.Fixture):
    """A file system with next to no room, of a kind that has no limit else.

    :param options: of mount
    """

    def __init__(self, options: str) -> None:
        super().__init__()
        self._options = options

    def _setUp(self) -> None:
        self.path = self.useFixture(fixtures.TempDir()).path
        done = self.mount('-t', 'tmpfs', '-o', self._options, 'tmpfs')
        if done.returncode:
            raise testtools.testcase.TestSkipped(
                'nothing can be mounted here: %s' % done.stderr)
        self.addCleanup(subprocess.run, ['umount', '--lazy', self.path],
                        check=True)

    def mount(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run mount for this file system."""
        return subprocess.run(['mount', *args, self.path],
                              capture_output=True, text=True)

    def fill(self) -> None:
        """Take all room for data."""
        with open(os.path.join(self.path, 'full'), 'ab', 0) as f, \
                contextlib.suppress(OSError):
            while True:
                f.write(bytes(4096))

    def take_inodes(self) -> None:
        """Take all room for files."""
        with contextlib.suppress(OSError):
            for number in range(10000):
                path = os.path.join(self.path, 'file.%d' % number)
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))

    def give_inodes(self) -> None:
        """Remove the files that take room."""
        for path in pathlib.Path(self.path).glob('file.*'):
            path.unlink()


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

    def here(self) -> leader.Leadership:
        """Return the lead as another process of the test's would see it."""
        found = leader.Leadership(self.folder, SILENCE,
                                  clock=lambda: self.now)
        self.addCleanup(found.resign)
        return found

    def wait_in_vain(self, leadership: leader.Leadership) -> bool:
        """Look again and again until a leader's silence is over."""
        outcomes = [leadership.acquire()]
        for _ in range(3):
            self.now += SILENCE / 3
            outcomes.append(leadership.acquire())
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
        missing = leader.Leadership(
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
        disk = self.useFixture(SmallDisk('size=64k'))
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
        disk = self.useFixture(SmallDisk('size=64k'))
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
        disk = self.useFixture(SmallDisk('size=64k'))
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


class HostLeadTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.logged = self.useFixture(fixtures.FakeLogger(
            'glance_dcn.workers'))
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (self.root / 'staging').mkdir()
        self.folders = [str(self.root / name / '.glance-dcn')
                        for name in ('staging', 'locks')]
        self.now = 1000.0
        self.may_lead = True
        self.first, self.second = self.process(), self.process()

    def process(self, folders=None):
        """Return what another process of the host has."""
        made = leader.HostLead(folders or self.folders, 30,
                               lambda: self.may_lead, lambda: self.now)
        self.addCleanup(made.stop)
        return made

    def beat(self, *leads, times=1):
        for _ in range(times):
            self.now += 3
            for lead in leads:
                lead.beat()
        return [lead.is_held for lead in leads]

    def test_one_leads(self):
        self.assertFalse(self.first.is_held)
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=20))
        self.assertIsNone(self.second.term)

    def test_another_when_it_ends(self):
        self.beat(self.first, self.second)
        self.first.stop()
        self.assertEqual([True, False], self.beat(self.second, self.first))

    def test_another_when_it_stops_beating(self):
        self.beat(self.first, self.second)
        self.beat(self.second, times=15)
        self.assertTrue(self.second.is_held)
        self.assertFalse(self.first.is_held)
        self.assertIn('has not beaten', self.logged.output)

    def test_work_that_hangs_gives_the_lead_to_a_sibling(self):
        self.beat(self.first, self.second)
        with self.first.job('tasks', 60), self.first.job('other', 300):
            self.assertEqual([True, False],
                             self.beat(self.first, self.second, times=19))
            self.assertEqual([False, True],
                             self.beat(self.first, self.second, times=2))
            self.assertIn('(tasks) has not ended for 60 s',
                          self.logged.output)
            # It does not take it back while that lasts.
            self.second.stop()
            self.beat(self.first)
            self.assertFalse(self.first.is_held)
        self.beat(self.first)
        self.assertTrue(self.first.is_held)

    def test_process_that_must_not_lead(self):
        # A scrubber ends at any moment, and does not speak for the worker.
        self.may_lead = False
        self.assertEqual([False], self.beat(self.first))
        self.may_lead = True
        self.assertEqual([True], self.beat(self.first))

    def test_term_differs(self):
        self.beat(self.first)
        terms = {self.first.term}
        self.first.resign()
        self.beat(self.second)
        self.second.resign()
        self.beat(self.first)
        self.assertNotIn(self.first.term, terms)

    def test_told_when_it_begins_to_lead(self):
        told = []
        for lead in (self.first, self.second):
            lead.on_lead(lambda lead=lead: told.append(lead))
        self.beat(self.first, self.second, times=3)
        self.assertEqual([self.first], told)
        self.first.resign()
        self.beat(self.second)
        self.assertEqual([self.first, self.second], told)

    def test_leader_is_woken_by_a_sibling(self):
        woken = []
        for lead in (self.first, self.second):
            lead.on_work(lambda lead=lead: woken.append(lead))
        self.beat(self.first, self.second)
        # Its thread would see the file first.
        self.first._polling.stop()
        woken.clear()
        self.first._poll()
        self.assertEqual([], woken)
        self.second.notify()
        self.assertEqual([], woken)
        self.first._poll()
        self.first._poll()
        self.assertEqual([self.first], woken)
        # The leader itself needs no file.
        self.first.notify()
        self.assertEqual([self.first] * 2, woken)

    def test_sibling_that_knows_no_folder_yet(self):
        self.beat(self.first)
        touched = self.root / 'staging' / '.glance-dcn' / 'wake'
        self.second.notify()
        self.assertTrue(touched.exists())
        self.assertEqual(0o600, stat.S_IMODE(touched.stat().st_mode))

    def test_nothing_is_raised_where_none_can_be_told(self):
        self.process(['/proc/none/x']).notify()

    def test_published(self):
        self.beat(self.first, self.second)
        self.assertIsNone(self.second.published('sites'))
        self.first.publish('sites', 'one')
        self.assertEqual('one', self.second.published('sites'))
        self.assertIsNone(self.second.published('sites'))
        self.first.publish('sites', 'another')
        self.assertEqual('another', self.second.published('sites'))

    def test_folder_beside_the_locks(self):
        # There is no staging folder, and then it is mounted.
        self.folders[:] = [str(self.root / 'none' / '.glance-dcn'),
                           str(self.root / 'glance-dcn')]
        leads = [self.process(), self.process()]
        # Not at once: a sibling may have found the first to be usable.
        self.assertEqual([False, False], self.beat(*leads))
        self.assertEqual([True, False], self.beat(*leads))
        self.assertTrue((self.root / 'glance-dcn').is_dir())
        (self.root / 'none').mkdir()
        # One that comes first there does not lead while the other does.
        self.assertEqual([False], self.beat(leads[1]))
        self.assertTrue(leads[0].is_held)
        self.assertEqual([False, True], self.beat(*leads))
        self.assertEqual([False, True], self.beat(*leads, times=3))

    def test_folder_of_another_user(self):
        shared = self.root / 'glance-dcn'
        shared.mkdir()
        shared.chmod(0o777)
        lead = self.process(['/proc/none/x', str(shared)])
        self.beat(lead)
        self.assertEqual([], list(shared.iterdir()))
        # No sibling can be known of: it does the work itself.
        self.assertTrue(lead.is_held)
        self.assertIn('another user', self.logged.output)

    def test_leader_in_another_folder_that_is_stopped(self):
        self.folders[0] = str(self.root / 'none' / '.glance-dcn')
        (self.root / 'locks').mkdir()
        leads = [self.process(), self.process()]
        self.assertEqual([True, False], self.beat(*leads, times=2))
        (self.root / 'none').mkdir()
        # The first beats no more: the lead is taken from it there, too.
        self.assertEqual([False], self.beat(leads[1], times=9))
        self.assertEqual([True], self.beat(leads[1], times=4))
        self.assertFalse(leads[0].is_held)
        self.assertEqual([False, True], self.beat(*leads))

    def small_disk(self, options):
        """Have the staging folder on a small file system."""
        disk = self.useFixture(SmallDisk(options))
        self.folders[0] = os.path.join(disk.path, '.glance-dcn')
        (self.root / 'locks').mkdir()
        self.first, self.second = self.process(), self.process()
        return disk

    def test_read_only_disk(self):
        disk = self.small_disk('size=64k')
        self.beat(self.first, self.second)
        self.first.stop()
        self.second.stop()
        self.assertEqual(0, disk.mount('-o', 'remount,ro').returncode)
        # No leader can beat, and none takes the lead in another folder.
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=30))
        self.first.stop()
        self.assertEqual([True, False],
                         self.beat(self.second, self.first, times=30))
        self.assertEqual([], os.listdir(self.root / 'locks'))

    def test_silent_leader_that_cannot_be_replaced(self):
        disk = self.small_disk('size=64k')
        self.beat(self.first)
        # The same disk, when nothing can be written to it any more.
        read_only = self.useFixture(fixtures.TempDir()).path
        subprocess.run(['mount', '--bind', disk.path, read_only], check=True)
        self.addCleanup(subprocess.run, ['umount', '--lazy', read_only],
                        check=True)
        subprocess.run(['mount', '-o', 'remount,bind,ro', read_only],
                       check=True)
        second = self.process([os.path.join(read_only, '.glance-dcn'),
                               self.folders[1]])
        self.assertEqual([False], self.beat(second, times=30))
        self.assertTrue(self.first.is_held)
        self.assertIn('Read-only file system', self.logged.output)

    def test_full_disk(self):
        disk = self.small_disk('size=64k')
        disk.fill()
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=30))
        self.first.stop()
        self.assertEqual([True, False],
                         self.beat(self.second, self.first, times=30))
        self.assertEqual([], os.listdir(self.root / 'locks'))

    def test_disk_without_room_for_files(self):
        disk = self.small_disk('nr_inodes=20')
        disk.take_inodes()
        self.assertEqual([True, False],
                         self.beat(self.first, self.second, times=20))
        self.assertTrue((self.root / 'locks' / '.glance-dcn').is_dir())
        disk.give_inodes()
        for _ in range(3):
            self.assertLess(sum(self.beat(self.second, self.first)), 2)
        self.assertEqual([True, False], self.beat(self.second, self.first))
        self.assertTrue(os.listdir(self.folders[0]))

    def test_no_room_for_files_anywhere(self):
        disk = self.useFixture(SmallDisk('nr_inodes=20'))
        leads = [self.process([disk.path + '/none']) for _ in range(2)]
        disk.take_inodes()
        # Each would be alone, and have as many siblings.
        self.assertEqual([False, False], self.beat(*leads))
        disk.give_inodes()
        self.assertEqual([True, False], self.beat(*leads))

    def test_child_of_a_fork_does_not_lead(self):
        self.first.beat()
        reader, writer = os.pipe()
        # Whatever lock the parent's threads hold at that moment.
        with self.first._own.lock, self.first.job('tasks'):
            child = os.fork()
            if not child:
                signal.alarm(60)
                held = self.first.is_held, self.first.beat()
                os.write(writer, b'01'[any(held):][:1])
                time.sleep(60)
                os._exit(1)
        try:
            self.assertEqual(b'0', os.read(reader, 1))
            self.assertTrue(self.first.is_held)
            # Nor does it keep the lead of a parent that has ended.
            self.first.stop()
            self.assertEqual([True], self.beat(self.second))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


class Idle(leader.HostLead):
    """Never takes the lead."""

    def start(self):
        pass


class BeginTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.conf = cfg.ConfigOpts()
        options.register(self.conf)
        self.conf.register_opts([
            cfg.StrOpt('node_staging_uri', default='file:///s'),
            cfg.DictOpt('enabled_backends')])
        self.conf([], prog='glance-api')

    def test_folders(self):
        found = leader.folders(self.conf, 'ours')
        self.assertEqual('/s/.glance-dcn', found[0])
        self.assertEqual(2, len(found))
        self.assertNotEqual(found[1], leader.folders(self.conf, 'other')[1])
        self.conf.set_override('node_staging_uri', 'file:///s2')
        self.assertNotEqual(found[1], leader.folders(self.conf, 'ours')[1])
        self.conf.clear_override('node_staging_uri')
        self.conf.register_opt(cfg.StrOpt('lock_path', default='/locks'),
                               group='oslo_concurrency')
        found = leader.folders(self.conf, 'ours')
        self.assertEqual(['/s', '/locks'],
                         [os.path.dirname(path) for path in found[:2]])

    def test_without_a_folder_for_temporary_files(self):
        def none():
            raise FileNotFoundError('No usable temporary directory found')
        self.useFixture(fixtures.MonkeyPatch('tempfile.gettempdir', none))
        self.assertEqual(['/s/.glance-dcn'],
                         leader.folders(self.conf, 'ours'))

    def test_once_for_a_configuration(self):
        tasks = queue.TaskQueue()
        leader.begin(self.conf, tasks, Idle)
        begun = tasks.lead
        leader.begin(self.conf, tasks, Idle)
        self.assertIs(begun, tasks.lead)
