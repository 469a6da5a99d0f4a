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


"""The benchmark of many stores: what it reads, and how it shows it."""

import subprocess
import sys
from xml.etree import ElementTree

from oslotest import base

from bench import growth
from bench import meters
from bench import scale

_MIB = 1 << 20


# Says when it is up, and when it holds more: seven threads, five files and
# 64 MiB that it cannot have had before; each when it is told to go on.
_PROCESS = """
import mmap, os, sys, threading
print('up', flush=True)
sys.stdin.readline()
over = threading.Event()
for _ in range(7):
    threading.Thread(target=over.wait, daemon=True).start()
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
data = mmap.mmap(-1, 64 << 20)
for at in range(0, len(data), mmap.PAGESIZE):
    data[at] = 1
print('full', flush=True)
sys.stdin.readline()
"""


class HoldingsTest(base.BaseTestCase):

    def start(self) -> subprocess.Popen[str]:
        """A process that nothing but this test changes."""
        process = subprocess.Popen([sys.executable, '-c', _PROCESS],
                                   stdin=subprocess.PIPE, text=True,
                                   stdout=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.assertEqual('up\n', process.stdout.readline())
        return process

    def test_threads_files_and_memory(self):
        process = self.start()
        before = meters.holdings([process.pid])
        process.stdin.write('\n')
        process.stdin.flush()
        self.assertEqual('full\n', process.stdout.readline())
        after = meters.holdings([process.pid])
        self.assertEqual((7, 5), (after.threads - before.threads,
                                  after.files - before.files))
        self.assertGreaterEqual(after.memory - before.memory, 60 * _MIB)

    def test_of_several_together(self):
        pids = [self.start().pid, self.start().pid]
        one, other = (meters.holdings([pid]) for pid in pids)
        both = meters.holdings(pids)
        self.assertEqual((one.threads + other.threads,
                          one.files + other.files),
                         (both.threads, both.files))

    def test_largest_takes_the_most_of_each(self):
        one, two = meters.Holdings(1, 20, 3, 4), meters.Holdings(10, 2, 3, 5)
        self.assertEqual(meters.Holdings(10, 20, 3, 5), one.peak(two))


class ShownTest(base.BaseTestCase):

    def rows(self):
        held = meters.Holdings(12, 34, 56 * _MIB, 1)
        return [
            scale.Figures('ours', 3, 1.2, held, .004, 0, 5, 4, 2, held, held,
                          .5, 1.5, .25, .02, .003),
            scale.Figures('stock', 200, errors=['copy: refused <here>'])]

    def test_table(self):
        lines = scale.table(self.rows()).splitlines()
        self.assertEqual(
            ['ours', '3', '1.2', '12/34/56', '0.4', '%', '0.0', '5.0', '4.0',
             '2', '12/34/56', '12/34/56', '0.5', '1.5', '0.25', '0.020',
             '0.003'],
            lines[1].split())
        self.assertEqual(['stock', '200'] + ['-'] * 14, lines[2].split())
        self.assertIn('stock, 200 stores: copy: refused <here>', lines)

    def test_chart(self):
        for rows in (self.rows(), self.rows()[1:], []):
            root = ElementTree.fromstring(growth.draw(rows))
            lines = root.findall('{http://www.w3.org/2000/svg}polyline')
            # What failed has no point in any of the small charts.
            self.assertEqual(6 if len(rows) == 2 else 0, len(lines))
