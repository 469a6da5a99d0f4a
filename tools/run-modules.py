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


"""Runs test modules one after the other, and counts.

    tools/run-modules.py PATTERN...      as tests/unit/**/test_*.py

Unit and functional tests each have a process: with old releases of Glance,
some module of the former has eventlet replace locks, and HTTP servers of the
latter wait for ever.
"""

from concurrent import futures
import multiprocessing
import pathlib
import sys
import unittest

_TOP = pathlib.Path(__file__).resolve().parents[1]


class _Result(unittest.TextTestResult):

    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def _run(names):
    """Run modules; return how many tests passed, failed and were skipped."""
    sys.path.insert(0, str(_TOP))
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(
        verbosity=2, resultclass=_Result).run(suite)
    return (result.passed, len(result.failures) + len(result.errors),
            len(result.skipped))


def main(patterns):
    """Run the modules and print the counts; return the exit code."""
    paths = sorted({path.relative_to(_TOP) for pattern in patterns
                    for path in _TOP.glob(pattern)})
    counts = [0, 0, 0]
    spawn = multiprocessing.get_context('spawn')
    for kind in sorted({path.parts[:2] for path in paths}):
        names = ['.'.join(path.with_suffix('').parts) for path in paths
                 if path.parts[:2] == kind]
        with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            for number, found in enumerate(pool.submit(_run, names).result()):
                counts[number] += found
    print('%d passed, %d failed, %d skipped' % tuple(counts))
    return int(bool(counts[1]) or not counts[0])


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
