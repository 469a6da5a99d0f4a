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


"""Runs test modules, and counts.

    tools/run-modules.py [-j N] PATTERN...      as tests/unit/**/test_*.py

Unit tests have one process, functional ones N, and each process one module
after the other: with old releases of Glance, some module of the former has
eventlet replace locks, and HTTP servers of the latter wait for ever.
"""

import argparse
import collections
from concurrent import futures
import ctypes
import multiprocessing
import pathlib
import signal
import sys
import unittest

# Of linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_TOP = pathlib.Path(__file__).resolve().parents[1]


class _Result(unittest.TextTestResult):

    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1

    def addError(self, test, err):
        super().addError(test, err)
        # A run of hours need not end before it is known why.
        self.stream.writeln(self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.stream.writeln(self.failures[-1][1])


def _end_with_the_runner():
    """Have this process end with its parent, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _run(names):
    """Run modules; return how many tests passed, failed and were skipped."""
    sys.path.insert(0, str(_TOP))
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(
        verbosity=2, resultclass=_Result).run(suite)
    return (result.passed, len(result.failures) + len(result.errors),
            len(result.skipped))


def main(args):
    """Run the modules and print the counts; return the exit code."""
    paths = sorted({path.relative_to(_TOP) for pattern in args.patterns
                    for path in _TOP.glob(pattern)})
    names = ['.'.join(path.with_suffix('').parts) for path in paths]
    unit = [name for name in names if name.startswith('tests.unit.')]
    # What takes longest is begun first.
    others = sorted(set(names) - set(unit), key=_seconds().__getitem__,
                    reverse=True)
    counts = [0, 0, 0]
    spawn = multiprocessing.get_context('spawn')
    for workers, jobs in ((1, [unit] if unit else []),
                          (args.j, [[name] for name in others])):
        with futures.ProcessPoolExecutor(
                workers, spawn, _end_with_the_runner) as pool:
            for found in pool.map(_run, jobs):
                for number, count in enumerate(found):
                    counts[number] += count
    print('%d passed, %d failed, %d skipped' % tuple(counts))
    return int(bool(counts[1]) or not counts[0])


def _seconds():
    """Return the seconds that the classes of each module take, if known."""
    found = collections.Counter()
    for line in (_TOP / 'tests/seconds.txt').read_text().splitlines():
        if line.startswith('#'):
            continue
        seconds, name = line.split()
        found[name.rpartition('.')[0]] += float(seconds)
    return found


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('-j', type=int, default=1, metavar='N')
    parser.add_argument('patterns', nargs='+')
    sys.exit(main(parser.parse_args()))
