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

"""Inspection servers, what they fork, and how all of it ends."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import typing

import fixtures
from oslotest import base

from glance_dcn.images import child
from glance_dcn.images import inspection
from glance_dcn.images import inspection_server
from glance_dcn.images import limited

from tests.fuzz import made

_ROOT = pathlib.Path(__file__).parents[3]
_LIMITS = limited.Limits(memory=600 << 20, cpu=50, seconds=300, size=0)

# A server whose processes do what their image says.
_PROGRAM = """
    import sys
    sys.path.insert(0, %r)
    from glance_dcn.images import child

    def work(tolerated):
        exec(open(0, closefd=False).read(), {'tolerated': tolerated})

    child.serve(%s, work)
    """

# Inspects for ever, and tells what inspects.
_PARENT = """
    from glance_dcn.images import inspection
    from glance_dcn.images import inspection_server
    from glance_dcn.images import limited
    import os
    import sys
    limits = limited.Limits(memory=600 << 20, cpu=600, seconds=600, size=0)

    def tick(output):
        if output.endswith(b'\\n'):
            os.write(1, output)

    with open(sys.argv[1], 'rb') as image:
        inspection_server.InspectionServer().run(sys.argv[2:], limits, image,
                                                 tick=tick)
    """

_TELL_AND_WAIT = """
import os, sys, time
sys.stdout.write('%d %d\\n' % (os.getppid(), os.getpid()))
sys.stdout.flush()
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    """Return whether there is a process that has not ended."""
    try:
        text = pathlib.Path('/proc/%d/stat' % pid).read_text()
    except OSError:
        return False
    return text.rpartition(')')[2].split()[0] not in 'ZX'


class ServersTestCase(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.server = inspection_server.InspectionServer()

    def command(self, idle: float = 300) -> list[str]:
        return [sys.executable, '-I', '-S', '-c', textwrap.dedent(_PROGRAM % (
            str(_ROOT), idle))]

    def image(self, text: str | bytes) -> typing.BinaryIO:
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        self.addCleanup(file.close)
        file.write(text.encode() if isinstance(text, str) else text)
        file.seek(0)
        return file

    def run_code(self, code: str, limits: limited.Limits = _LIMITS,
                 **kwargs: typing.Any) -> limited.Outcome:
        return self.server.run(self.command(), limits, self.image(
            textwrap.dedent(code)), **kwargs)

    def server_pid(self) -> int:
        return int(self.run_code('import os; print(os.getppid())').output)

    def wait_for_end(self, *pids: int) -> None:
        deadline = time.monotonic() + 120
        while any(map(is_alive, pids)):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(.02)

    def begin(self) -> tuple[threading.Thread, list[typing.Any], list[int]]:
        """Run something that does not end, in a thread.

        :returns: the thread, what became of it, and the IDs of the server and
            of its process
        """
        outcomes: list[typing.Any] = []
        pids: list[int] = []

        def tick(output: bytes) -> None:
            if output.endswith(b'\n'):
                pids[:] = map(int, output.split())

        def run() -> None:
            try:
                outcomes.append(self.run_code(_TELL_AND_WAIT, tick=tick))
            except Exception as exc:
                outcomes.append(exc)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while not pids and not outcomes:
            time.sleep(.02)
        return thread, outcomes, pids


class TestServer(ServersTestCase):

    def test_one_server_and_a_process_for_each(self) -> None:
        told = [self.run_code('''
            import os, sys
            sys.stderr.write('said')
            print(os.getppid(), os.getpid(), *tolerated)
            ''', tolerated=['a', 'b']) for _number in range(3)]
        self.assertEqual([(0, b'said')] * 3, [
            (one.status, one.messages) for one in told])
        parents, pids, *names = zip(*[one.output.split() for one in told])
        self.assertEqual((1, 3), (len(set(parents)), len(set(pids))))
        self.assertEqual([(b'a',) * 3, (b'b',) * 3], names)

    def test_what_a_process_has(self) -> None:
        self.useFixture(fixtures.EnvironmentVariable('SECRET', 'secret'))
        other = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, other)
        os.set_inheritable(other, True)
        # The server has the link of this one, too.
        self.begin()
        found = self.run_code('''
            import os, resource
            for name in ('AS', 'CPU', 'CORE', 'FSIZE'):
                print(*resource.getrlimit(getattr(resource, 'RLIMIT_' + name)))
            print(*sorted(os.listdir('/proc/self/fd')))
            print(*sorted(os.environ))
            print([line for line in open('/proc/self/status')
                   if line.startswith('NoNewPrivs')][0])
            print(os.getcwd())
            ''').output.decode().split('\n')
        self.assertEqual(['%d %d' % ((600 << 20,) * 2), '50 51', '0 0', '0 0'],
                         found[:4])
        # The fourth is that of the listing.
        self.assertEqual('0 1 2 3', found[4])
        self.assertLessEqual(set(found[5].split()), {
            'LC_ALL', 'LC_CTYPE', 'LD_LIBRARY_PATH', 'MALLOC_ARENA_MAX',
            'PATH'})
        self.assertEqual(['NoNewPrivs:\t1', '', '/'], found[6:9])

    def test_limits_end_one_and_not_the_server(self) -> None:
        pid = self.server_pid()
        for code, little, status in (
                ('while True: pass', limited.Limits(
                    memory=600 << 20, cpu=1, seconds=300), -signal.SIGXCPU),
                ('import os; os.kill(os.getpid(), 9)', _LIMITS, -9),
                ('bytearray(1 << 30)', _LIMITS, 1),
                ('import os; os._exit(3)', _LIMITS, 3)):
            self.assertEqual(status, self.run_code(code, little).status, code)
        self.assertEqual(pid, self.server_pid())

    def test_one_that_is_killed_is_not_the_others(self) -> None:
        thread, outcomes, (first, pid) = self.begin()
        self.assertRaises(limited.TookTooLong, self.run_code, _TELL_AND_WAIT,
                          limited.Limits(seconds=.2, size=0))
        self.assertTrue(is_alive(pid))
        os.kill(pid, signal.SIGTERM)
        thread.join(120)
        self.assertEqual(-signal.SIGTERM, outcomes[0].status)
        self.assertEqual(first, self.server_pid())

    def test_started_where_signals_are_blocked(self) -> None:
        # As in the threads of uWSGI: a server inherits it.
        before = signal.pthread_sigmask(
            signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGINT})
        try:
            began = time.monotonic()
            for _number in range(5):
                self.server_pid()
            self.assertEqual(-signal.SIGXCPU, self.run_code(
                'while True: pass', limited.Limits(
                    memory=600 << 20, cpu=1, seconds=300)).status)
            self.assertEqual('[]', self.run_code(
                'import signal; print(sorted(signal.pthread_sigmask('
                'signal.SIG_BLOCK, ())))').output.decode().strip())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.assertLess(time.monotonic() - began, 200)

    def test_many_at_once(self) -> None:
        self.server_pid()
        outcomes: list[bytes] = []
        threads = [threading.Thread(target=lambda: outcomes.append(
            self.run_code('import os; print(os.getppid())').output))
            for _number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        self.assertEqual((10, 1), (len(outcomes), len(set(outcomes))))


class TestEnd(ServersTestCase):

    def test_idle(self) -> None:
        command = self.command(idle=.2)
        code = 'import os; print(os.getppid())'
        pids = []
        for _number in range(2):
            pids.append(int(self.server.run(
                command, _LIMITS, self.image(code)).output))
            self.wait_for_end(pids[-1])
        self.assertEqual(2, len(set(pids)))

    def test_is_not_referred_to(self) -> None:
        pid = self.server_pid()
        self.server = inspection_server.InspectionServer()
        self.wait_for_end(pid)

    def test_parent_is_killed(self) -> None:
        with self.image(_TELL_AND_WAIT) as image:
            parent = subprocess.Popen(
                [sys.executable, '-c', textwrap.dedent(_PARENT),
                 '/proc/self/fd/%d' % image.fileno(), *self.command()],
                pass_fds=[image.fileno()], stdout=subprocess.PIPE,
                env=dict(os.environ, PYTHONPATH=str(_ROOT)))
        self.addCleanup(parent.stdout.close)
        pids = list(map(int, parent.stdout.readline().split()))
        self.assertEqual([True, True], list(map(is_alive, pids)))
        parent.kill()
        parent.wait()
        self.wait_for_end(*pids)

    def test_server_is_killed(self) -> None:
        thread, outcomes, (first, pid) = self.begin()
        os.kill(first, signal.SIGKILL)
        thread.join(120)
        self.assertIsInstance(outcomes[0], inspection_server.Lost)
        self.wait_for_end(pid)
        # There is another one.
        self.assertNotEqual(first, self.server_pid())

    def test_cannot_be_started(self) -> None:
        for command in (['/no/such/program'], ['/bin/false']):
            self.assertRaises(inspection_server.Lost, self.server.run,
                              command, _LIMITS, self.image(''))

    def test_child_of_a_fork_has_its_own(self) -> None:
        pid = self.server_pid()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writing, b'%d' % self.server_pid())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with open(reading) as file:
            other = int(file.read())
        self.assertNotEqual(pid, other)
        self.wait_for_end(other)
        self.assertEqual(pid, self.server_pid())


class TestInspection(ServersTestCase):
    """What :mod:`.inspection` does with a server, and without one."""

    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.folder / 'image')
        pathlib.Path(self.path).write_bytes(made.vmdk())
        self.log = self.useFixture(fixtures.FakeLogger())

    def test_prepared(self) -> None:
        inspection.prepare(self.server)
        before = self.server._connection
        self.assertEqual('vmdk', inspection.inspect(
            self.path, server=self.server).format)
        self.assertIs(before, self.server._connection)
        inspection.prepare(self.server, '/no/python')

    def test_goes_on_without_one(self) -> None:
        class Server(inspection_server.InspectionServer):
            def start(self, command: Sequence[str]
                      ) -> inspection_server._Connection:
                return super().start(['/bin/false'])
        self.assertEqual('vmdk', inspection.inspect(
            self.path, server=Server()).format)
        self.assertIn('Starting a program to inspect', self.log.output)

    def test_message_is_small(self) -> None:
        self.assertLess(len(str(inspection.limits_of(os.stat(self.path)))),
                        child.LONGEST_MESSAGE // 100)
