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

"""Starting, finding again and ending the lab's processes.

A daemon is known by its process id *and* the time it started, kept in a small
file, so that a later run ends exactly what the lab started and never a
stranger that was given the same process id.
"""

import contextlib
import errno
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

# Below the usual ephemeral range (32768), so that no client connection of
# this machine takes a port between its choice and its use.
PORT_RANGE = (20000, 32000)


class LabError(Exception):
    """Something of the lab could not be brought up, shown or taken down."""


def exit_on_sigterm():
    """Have SIGTERM raise SystemExit, so that what was started is ended."""
    def terminate(_number, _frame):
        raise SystemExit(128 + signal.SIGTERM)
    signal.signal(signal.SIGTERM, terminate)


def run(argv, input=None, env=None, timeout=300):
    """Run a command to its end.

    :param argv: list of arguments, the program first
    :param input: text for its standard input
    :param env: environment variables to add
    :param timeout: seconds until it is killed
    :returns: what it printed on standard output, as text
    :raises LabError: when it cannot be started, fails or takes too long
    """
    argv = [str(arg) for arg in argv]
    try:
        done = subprocess.run(argv, input=input, capture_output=True,
                              text=True, timeout=timeout,
                              env=dict(os.environ, **(env or {})))
    except FileNotFoundError:
        raise LabError('%s is not installed; run tools/install-deps.sh'
                       % argv[0])
    except subprocess.TimeoutExpired:
        raise LabError('%s did not end within %s s'
                       % (' '.join(argv[:3]), timeout))
    if done.returncode:
        raise LabError('%s ended with %s: %s' % (
            ' '.join(argv[:3]), done.returncode,
            (done.stderr or done.stdout).strip()[-2000:]))
    return done.stdout


def wait_for(what, condition, timeout, interval=0.1):
    """Wait until ``condition()`` is true and return its value.

    :param what: what is waited for, for the error
    :param timeout: seconds; multiplied by GLANCE_DCN_LAB_PATIENCE if that is
        in the environment, for machines that are slow or have other work
    :raises LabError: when it takes longer
    """
    timeout *= float(os.environ.get('GLANCE_DCN_LAB_PATIENCE') or 1)
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError('%s: not within %s s' % (what, timeout))
        time.sleep(interval)


def _is_stopped(pid):
    """Return whether all threads of a process are stopped, or it has ended."""
    for stat in pathlib.Path('/proc/%d/task' % pid).glob('*/stat'):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name before it may have spaces and parentheses.
            if stat.read_text().rpartition(') ')[2][0] not in 'TtXZ':
                return False
    return True


def is_free(port, address='127.0.0.1'):
    """Return whether nobody listens on a TCP port; False for None."""
    if port is None:
        return False
    with contextlib.closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return False
            raise
        return True


def free_port(taken=(), address='127.0.0.1', ports=PORT_RANGE):
    """Return a TCP port that nobody listens on and that is not in ``taken``.

    The search begins at a random place, so that two labs brought up at the
    same time do not fight over the same ports.

    :param ports: the first to search, and the one after the last
    """
    first, last = ports
    start = random.randrange(first, last)
    for port in [*range(start, last), *range(first, start)]:
        if port not in taken and is_free(port, address):
            return port
    raise LabError('no free port between %d and %d' % ports)


def children(pid):
    """Return the IDs of the processes that the main thread of one started."""
    listed = pathlib.Path('/proc/%d/task/%d/children' % (pid, pid))
    return [int(child) for child in listed.read_text().split()]


def write_private(path, text):
    """Write a file that only its owner may read, replacing it at once."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + '.tmp')
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, 'w') as f:
        f.write(text)
    temporary.replace(path)


class Daemon:
    """A background process of the lab.

    :param name: what it is called in messages
    :param directory: where its pid file and its log are kept
    """

    def __init__(self, name, directory):
        self.name = name
        self.directory = pathlib.Path(directory)
        self._pidfile = self.directory / ('%s.pid' % name)
        self.log = self.directory / ('%s.log' % name)

    @property
    def pid(self):
        """The process id, or None when the daemon does not run."""
        try:
            known = json.loads(self._pidfile.read_text())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(known, dict):
            # Some daemons keep a pid file of their own there.
            return None
        # One that had ended before its start was noted has none.
        if known['started'] is None:
            return None
        if _start_time(known['pid']) != known['started']:
            return None
        return known['pid']

    def start(self, argv, env=None, cwd=None):
        """Start the daemon unless it runs already.

        :param argv: list of arguments; the process must stay in the
                     foreground
        :param env: environment variables to add
        :param cwd: working directory; None: that of this process
        """
        if self.pid:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = [str(arg) for arg in argv]
        with self.log.open('ab') as log:
            try:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, close_fds=True, cwd=cwd,
                    env=dict(os.environ, **(env or {})))
            except FileNotFoundError:
                raise LabError('%s is not installed; run '
                               'tools/install-deps.sh' % argv[0])
        self._pidfile.write_text(json.dumps(
            {'pid': process.pid, 'started': _start_time(process.pid)}))
        # The lab outlives the command that brought it up: Popen must not
        # complain that nobody waited for the process.
        process.returncode = 0

    def signal(self, number):
        """Send a signal; nothing happens when the daemon does not run.

        SIGSTOP is waited for: all of its threads have stopped then.
        """
        pid = self.pid
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                if number == signal.SIGSTOP:
                    wait_for('%s to stop' % self.name,
                             lambda: _is_stopped(pid), 10, .005)

    def stop(self, timeout=20):
        """End the daemon: SIGTERM, and SIGKILL after ``timeout`` seconds."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self.pid:
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.05)
        with contextlib.suppress(FileNotFoundError):
            self._pidfile.unlink()

    def tail(self, size=3000):
        """Return the end of the log, at most ``size`` characters."""
        try:
            return self.log.read_text(errors='replace')[-size:]
        except FileNotFoundError:
            return ''

    def wait_until(self, ready, timeout):
        """Wait until ``ready()`` is true.

        :param timeout: seconds
        :raises LabError: when the daemon ends or takes longer, with the end
                          of its log
        """
        def alive_and_ready():
            if not self.pid:
                raise LabError('%s ended at once:\n%s'
                               % (self.name, self.tail()))
            return ready()
        try:
            wait_for('%s ready' % self.name, alive_and_ready, timeout)
        except LabError as exc:
            raise LabError('%s\nsee %s' % (exc, self.log))


def end_all(folder):
    """End every daemon that keeps its pid file below a folder.

    For what a runner of tests leaves behind when it is killed.
    """
    for path in pathlib.Path(folder).rglob('*.pid'):
        Daemon(path.stem, path.parent).stop()


def _start_time(pid):
    """Return when a process started, in clock ticks since boot.

    A process that has ended but was not waited for (a zombie) counts as gone;
    a child of this process is waited for.
    """
    try:
        stat = pathlib.Path('/proc/%d/stat' % pid).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold blanks and parentheses: fields are counted
    # from behind its closing one (proc(5): state is field 3, starttime 22).
    fields = stat.rpartition(')')[2].split()
    if fields[0] in 'ZX':
        # Only now: one that ended after a wait in vain would stay a zombie.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        return None
    return int(fields[19])
