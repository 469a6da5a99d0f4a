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

"""Tests of starting, finding again and ending processes."""

import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time

import fixtures
from oslotest import base

from lab import process

# Says that it is ready, and goes on however often it is asked to end.
_STUBBORN = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(600)
'''


class ProcessTestCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)

    def daemon(self, *argv):
        """Start a daemon that the end of the test ends."""
        daemon = process.Daemon('sleeper', self.directory / 'run')
        self.addCleanup(daemon.stop, timeout=0)
        if argv:
            daemon.start(argv)
        return daemon

    @property
    def pid_file(self):
        return self.directory / 'run' / 'sleeper.pid'


class RunTest(ProcessTestCase):

    def test_output(self):
        self.assertEqual('a b\n', process.run(['echo', 'a', 'b']))

    def test_input_and_environment(self):
        self.assertEqual('in out', process.run(
            ['sh', '-c', 'cat; printf %s "$VALUE"'], input='in ',
            env={'VALUE': 'out'}))

    def test_failure_tells_what_was_said(self):
        error = self.assertRaises(process.LabError, process.run,
                                  ['sh', '-c', 'echo no room >&2; exit 3'])
        self.assertIn('ended with 3: no room', str(error))

    def test_failure_without_standard_error(self):
        error = self.assertRaises(process.LabError, process.run,
                                  ['sh', '-c', 'echo on stdout; exit 1'])
        self.assertIn('on stdout', str(error))

    def test_not_installed(self):
        error = self.assertRaises(process.LabError, process.run,
                                  ['no-such-program'])
        self.assertIn('no-such-program is not installed', str(error))

    def test_takes_too_long(self):
        error = self.assertRaises(process.LabError, process.run,
                                  ['sleep', '60'], timeout=0.1)
        self.assertIn('did not end', str(error))


class WaitForTest(ProcessTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.EnvironmentVariable(
            'GLANCE_DCN_LAB_PATIENCE'))

    def test_gives_the_value(self):
        values = iter([None, 0, 'found'])
        self.assertEqual('found', process.wait_for(
            'it', lambda: next(values), 10, interval=0))

    def test_true_at_once_needs_no_time(self):
        self.assertTrue(process.wait_for('it', lambda: True, 0))

    def test_says_what_did_not_come(self):
        started = time.monotonic()
        error = self.assertRaises(
            process.LabError, process.wait_for, 'godot', lambda: False, 0.2,
            interval=0.01)
        self.assertIn('godot: not within 0.2 s', str(error))
        self.assertGreaterEqual(time.monotonic() - started, 0.2)

    def test_with_more_patience(self):
        self.useFixture(fixtures.EnvironmentVariable(
            'GLANCE_DCN_LAB_PATIENCE', '5'))
        times = []
        self.assertRaises(process.LabError, process.wait_for, 'godot',
                          lambda: times.append(time.monotonic()), 0.1,
                          interval=0.01)
        self.assertGreaterEqual(times[-1] - times[0], 0.4)

    def test_errors_of_the_condition_come_through(self):
        self.assertRaises(ZeroDivisionError, process.wait_for, 'it',
                          lambda: 1 / 0, 10)


class PortTest(ProcessTestCase):

    def setUp(self):
        super().setUp()
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(self.listener.close)
        self.taken = self.listener.getsockname()[1]

    def test_is_free(self):
        self.assertFalse(process.is_free(self.taken))
        self.listener.close()
        self.assertTrue(process.is_free(self.taken))
        self.assertFalse(process.is_free(None))

    def test_below_the_ephemeral_range(self):
        first, last = process.PORT_RANGE
        port = process.free_port()
        self.assertTrue(first <= port < last, port)
        with socket.create_server(('127.0.0.1', port)):
            self.assertFalse(process.is_free(port))

    def test_neither_taken_nor_in_use(self):
        ports = (self.taken, self.taken + 3)
        free = {port for port in range(*ports)
                if process.is_free(port)}
        for _ in range(5):
            self.assertIn(process.free_port(ports=ports), free)

    def test_none_left(self):
        self.assertRaises(process.LabError, process.free_port,
                          taken=[self.taken + 1],
                          ports=(self.taken, self.taken + 2))


class WritePrivateTest(ProcessTestCase):

    def mode(self, path):
        return stat.S_IMODE(path.stat().st_mode)

    def test_only_for_its_owner(self):
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        path = self.directory / 'secret'
        process.write_private(path, 'text')
        self.assertEqual((0o600, 'text'), (self.mode(path),
                                           path.read_text()))

    def test_replaces_a_public_one(self):
        path = self.directory / 'secret'
        path.write_text('old')
        path.chmod(0o644)
        process.write_private(path, 'new')
        self.assertEqual((0o600, 'new'), (self.mode(path), path.read_text()))

    def test_what_a_broken_off_one_left_is_no_hindrance(self):
        left = self.directory / 'secret.tmp'
        left.write_text('half')
        left.chmod(0o644)
        path = self.directory / 'secret'
        process.write_private(path, 'whole')
        self.assertEqual((0o600, 'whole'), (self.mode(path),
                                            path.read_text()))
        self.assertEqual([path], list(self.directory.iterdir()))


class DaemonTest(ProcessTestCase):

    def assertGone(self, pid):
        # It has ended; its parent by now may not have waited for it yet.
        process.wait_for('the process to be gone',
                         lambda: not pathlib.Path('/proc/%d' % pid).exists(),
                         10, .01)

    def test_found_again_by_another(self):
        pid = self.daemon('sleep', '600').pid
        os.kill(pid, 0)
        self.assertEqual(pid, process.Daemon(
            'sleeper', self.directory / 'run').pid)

    def test_working_directory(self):
        # That of whom it is brought up by may go, or be anything.
        daemon = self.daemon()
        daemon.start(['pwd'], cwd='/')
        process.wait_for('end', lambda: daemon.pid is None, 10)
        self.assertEqual('/\n', daemon.tail())

    def test_none_was_started(self):
        daemon = self.daemon()
        self.assertIsNone(daemon.pid)
        daemon.signal(signal.SIGKILL)
        daemon.stop()
        self.assertEqual('', daemon.tail())

    def test_start_again_does_nothing(self):
        daemon = self.daemon('sleep', '600')
        pid = daemon.pid
        daemon.start(['false'])
        self.assertEqual(pid, daemon.pid)

    def test_stop(self):
        daemon = self.daemon('sleep', '600')
        pid = daemon.pid
        daemon.stop()
        self.assertIsNone(daemon.pid)
        self.assertGone(pid)
        self.assertFalse(self.pid_file.exists())

    def test_ended_by_itself(self):
        daemon = self.daemon('true')
        process.wait_for('end', lambda: daemon.pid is None, 10)
        daemon.stop()

    def test_one_that_ignores_it_is_killed(self):
        daemon = self.daemon(sys.executable, '-c', _STUBBORN)
        daemon.wait_until(lambda: 'ready' in daemon.tail(), 10)
        pid = daemon.pid
        started = time.monotonic()
        daemon.stop(timeout=0.5)
        self.assertGreaterEqual(time.monotonic() - started, 0.5)
        self.assertGone(pid)

    def test_one_that_is_stopped_ends_as_others_do(self):
        daemon = self.daemon('sleep', '600')
        pid = daemon.pid
        daemon.signal(signal.SIGSTOP)
        started = time.monotonic()
        daemon.stop(timeout=60)
        self.assertLess(time.monotonic() - started, 30)
        self.assertGone(pid)

    def test_a_stranger_with_its_process_id_is_left_alone(self):
        stranger = subprocess.Popen(['sleep', '600'])
        self.addCleanup(stranger.wait)
        self.addCleanup(stranger.kill)
        daemon = self.daemon('sleep', '600')
        own = daemon.pid
        known = json.loads(self.pid_file.read_text())
        self.addCleanup(os.kill, own, signal.SIGKILL)
        # The process id went to somebody who started at another time.
        self.pid_file.write_text(json.dumps(
            {'pid': stranger.pid, 'started': known['started'] + 100000}))
        self.assertIsNone(daemon.pid)
        daemon.signal(signal.SIGKILL)
        daemon.stop()
        self.assertIsNone(stranger.poll())

    def test_one_that_had_ended_before_its_start_was_noted(self):
        # Nothing is known of such a process but its number: to wait for it
        # to end would take for ever.
        folder = self.useFixture(fixtures.TempDir()).path
        daemon = process.Daemon('brief', folder)
        (daemon.directory / 'brief.pid').write_text(
            '{"pid": 4194304, "started": null}')
        self.assertIsNone(daemon.pid)
        daemon.stop()

    def test_all_below_a_folder(self):
        pid = self.daemon('sleep', '600').pid
        # As some daemons keep of their own accord.
        self.pid_file.with_name('other.pid').write_text(str(os.getpid()))
        process.end_all(self.directory)
        self.assertGone(pid)

    def test_a_pid_file_that_was_not_finished(self):
        daemon = self.daemon()
        self.pid_file.parent.mkdir()
        self.pid_file.write_text('')
        self.assertIsNone(daemon.pid)
        daemon.start(['sleep', '600'])
        self.assertIsNotNone(daemon.pid)

    def test_not_installed(self):
        error = self.assertRaises(process.LabError, self.daemon,
                                  'no-such-program')
        self.assertIn('no-such-program is not installed', str(error))
        self.assertFalse(self.pid_file.exists())

    def test_survives_who_started_it(self):
        code = ('import sys\nfrom lab import process\n'
                'process.Daemon("sleeper", sys.argv[1]).start('
                '["sleep", "600"])\n')
        subprocess.run([sys.executable, '-W', 'error', '-c', code,
                        self.directory / 'run'], check=True, timeout=30,
                       cwd=pathlib.Path(process.__file__).parents[1])
        daemon = self.daemon()
        self.assertIsNotNone(daemon.pid)
        # It has a session of its own: no terminal takes it along.
        self.assertEqual(daemon.pid, os.getsid(daemon.pid))

    def test_environment_and_log(self):
        daemon = self.daemon()
        daemon.start(['sh', '-c', 'echo $VALUE; echo err >&2; sleep 600'],
                     env={'VALUE': 'out'})
        daemon.wait_until(lambda: daemon.tail() == 'out\nerr\n', 10)
        self.assertEqual('rr\n', daemon.tail(3))

    def test_not_ready_in_time(self):
        daemon = self.daemon('sleep', '600')
        error = self.assertRaises(process.LabError, daemon.wait_until,
                                  lambda: False, 0.2)
        self.assertIn('sleeper ready: not within', str(error))
        self.assertIn(str(daemon.log), str(error))

    def test_ended_before_it_was_ready(self):
        daemon = self.daemon('sh', '-c', 'echo no such option; exit 1')
        started = time.monotonic()
        error = self.assertRaises(process.LabError, daemon.wait_until,
                                  lambda: False, 60)
        self.assertLess(time.monotonic() - started, 30)
        self.assertIn('no such option', str(error))


class ExitTest(base.BaseTestCase):

    def test_what_was_started_is_ended_on_sigterm(self):
        running = subprocess.Popen([sys.executable, '-c', """
import signal
from lab import process
process.exit_on_sigterm()
try:
    print('running', flush=True)
    signal.pause()
finally:
    print('ended')
"""], text=True, stdout=subprocess.PIPE)
        self.addCleanup(running.stdout.close)
        self.addCleanup(running.wait)
        self.addCleanup(running.kill)
        self.assertEqual('running\n', running.stdout.readline())
        running.terminate()
        self.assertEqual('ended\n', running.communicate(timeout=60)[0])
        self.assertEqual(143, running.returncode)
