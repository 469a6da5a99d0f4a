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

"""Programs that do not end, say too much or want too much."""

import os
import sys
import tempfile

from oslotest import base

from glance_dcn.images import limited

MiB = 1 << 20


class LimitedTest(base.BaseTestCase):

    def run_python(self, code, stdin=None, tick=None, **limits):
        limits = limited.Limits(**dict({'memory': 512 * MiB, 'cpu': 60,
                                        'seconds': 300}, **limits))
        more = {'stdin': stdin} if stdin else {}
        return limited.run([sys.executable, '-I', '-S', '-c', code], limits,
                           tick=tick, **more)

    def test_outcome(self):
        outcome = self.run_python(
            'import sys; print("out"); print("err", file=sys.stderr); '
            'sys.exit(3)')
        self.assertEqual((3, b'out\n', b'err\n', False), (
            outcome.status, outcome.output, outcome.messages,
            outcome.used_up_cpu))

    def test_standard_input(self):
        with tempfile.TemporaryFile() as file:
            file.write(b'content')
            file.seek(0)
            self.assertEqual(b'content\n', self.run_python(
                'import sys; print(sys.stdin.read())', file).output)

    def test_cpu(self):
        outcome = self.run_python('while True: pass', cpu=1)
        self.assertTrue(outcome.used_up_cpu)
        # Even if it does not listen.
        outcome = self.run_python(
            'import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n'
            'while True: pass', cpu=1)
        self.assertEqual(-9, outcome.status)

    def test_memory(self):
        outcome = self.run_python('bytearray(1 << 29)', memory=256 * MiB)
        self.assertEqual(1, outcome.status)
        self.assertIn(b'MemoryError', outcome.messages)

    def test_time(self):
        self.assertRaises(limited.TookTooLong, self.run_python,
                          'import time; time.sleep(1000)', seconds=.5)

    def test_files(self):
        name = tempfile.mktemp()
        self.addCleanup(lambda: os.path.exists(name) and os.unlink(name))
        outcome = self.run_python(
            'with open(%r, "w") as file: file.write("x")' % name, size=0)
        self.assertIn(b'File too large', outcome.messages)

    def test_floods(self):
        # Of 300 MB the last MiB is kept, of each pipe.
        for stream in ('stdout', 'stderr'):
            outcome = self.run_python(
                'import sys\nfor number in range(3000): '
                'sys.%s.write("x" * 99999 + "\\n")\n'
                'sys.%s.write("end")' % (stream, stream))
            kept = (outcome.output if stream == 'stdout'
                    else outcome.messages)
            self.assertEqual(MiB, len(kept))
            self.assertTrue(kept.endswith(b'x\nend'))

    def test_tick(self):
        seen = []

        class Enough(Exception):
            pass

        def tick(output):
            seen.append(output)
            if output:
                raise Enough
        self.assertRaises(
            Enough, self.run_python, 'import time; print("on", flush=True)\n'
            'time.sleep(1000)', tick=tick)
        self.assertEqual((b'', b'on\n'), (seen[0], seen[-1]))

    def test_last_messages(self):
        outcome = limited.Outcome(0, b'', b'x' * 5000 + b'\x1b[2J\n\xff end\n')
        said = outcome.last_messages(20)
        self.assertEqual('?[2J\n� end', said[-11:].lstrip('x'))
        self.assertLessEqual(len(said), 20)

    def test_is_not_there(self):
        self.assertRaises(OSError, limited.run, ['true'], limited.Limits(),
                          stdin=10 ** 6)
        self.assertEqual(127, limited.run(
            ['/no/such/program'], limited.Limits()).status)
