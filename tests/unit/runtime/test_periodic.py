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

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

from oslotest import base

from glance_dcn.runtime import periodic

_ENDING = """
import threading, time
from concurrent import futures
from glance_dcn.runtime import periodic
def work():
    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
    begun.set()
def scrub():
    print('at work')
    time.sleep(0.5)
    print('ended')
begun = threading.Event()
periodic.Periodic('work', work, 0.01).start()
begun.wait()
futures.ThreadPoolExecutor(1).submit(scrub)
"""


class TestPeriodic(base.BaseTestCase):

    def periodic(self, work, interval):
        made = periodic.Periodic('test', work, interval)
        self.addCleanup(made.stop)
        return made

    def test_runs_at_once_and_again(self):
        ran = threading.Semaphore(0)
        self.periodic(ran.release, 0.01).start()
        for _ in range(3):
            self.assertTrue(ran.acquire(timeout=10))

    def test_a_failure_does_not_end_it(self):
        ran = threading.Semaphore(0)

        def work():
            ran.release()
            raise ValueError()

        self.periodic(work, 0.01).start()
        for _ in range(3):
            self.assertTrue(ran.acquire(timeout=10))

    def test_wake(self):
        ran = threading.Semaphore(0)
        periodic = self.periodic(ran.release, 3600)
        periodic.start()
        self.assertTrue(ran.acquire(timeout=10))
        periodic.wake()
        self.assertTrue(ran.acquire(timeout=10))

    def test_started_twice_runs_once(self):
        ran = []
        periodic = self.periodic(lambda: ran.append(1), 3600)
        periodic.start()
        periodic.start()
        time.sleep(0.1)
        self.assertEqual([1], ran)

    def test_ends_with_the_process(self):
        # As in glance-scrubber, which works while the interpreter ends.
        done = subprocess.run([sys.executable, '-c', _ENDING],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual((0, 'at work\nended\n', ''),
                         (done.returncode, done.stdout, done.stderr))

    def test_stopped(self):
        ran = threading.Semaphore(0)
        periodic = self.periodic(ran.release, 0.01)
        periodic.start()
        self.assertTrue(ran.acquire(timeout=10))
        periodic.stop()
        while ran.acquire(timeout=0.2):
            pass
        self.assertFalse(ran.acquire(timeout=0.1))

    def test_goes_on_in_the_child_of_a_fork(self):
        reader, writer = os.pipe()
        parent = os.getpid()

        def work():
            if os.getpid() != parent:
                os.write(writer, b'x')

        self.periodic(work, 3600).start()
        child = os.fork()
        if not child:
            time.sleep(10)
            os._exit(1)
        try:
            self.assertEqual(b'x', os.read(reader, 1))
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)

    def test_only_in_children_of_a_master(self):
        reader, writer = os.pipe()
        script = textwrap.dedent("""
            import os, time
            from glance_dcn.runtime import periodic

            def work():
                os.write(%d, b'%%d ' %% os.getpid())

            periodic.become_master()
            periodic.Periodic('test', work, 3600).start()
            child = os.fork()
            time.sleep(600)
            """ % writer)
        # Its children are in its session.
        parent = subprocess.Popen([sys.executable, '-c', script],
                                  pass_fds=[writer], start_new_session=True)
        try:
            os.close(writer)
            told = os.read(reader, 100).split()
            self.assertNotIn(b'%d' % parent.pid, told)
            self.assertEqual(1, len(told))
            self.assertEqual(parent.pid, os.getsid(int(told[0])))
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()

    def test_not_in_a_child_that_is_about_to_become_another_program(self):
        # Glance runs qemu-img so: a function that is run before the program,
        # which has Python call its hooks in the child.
        parent = os.getpid()
        with tempfile.NamedTemporaryFile() as f:
            def work():
                if os.getpid() != parent:
                    os.write(f.fileno(), b'x')

            self.periodic(work, 3600).start()
            subprocess.run(['true'], check=True,
                           preexec_fn=lambda: time.sleep(.3))
            self.assertEqual(0, os.fstat(f.fileno()).st_size)
