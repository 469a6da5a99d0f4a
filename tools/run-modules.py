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


"""Runs test modules in this process, one after the other, and counts.

    tools/run-modules.py PATTERN...      as tests/unit/**/test_*.py
"""

import pathlib
import sys
import unittest

_TOP = pathlib.Path(__file__).resolve().parents[1]


class _Result(unittest.TextTestResult):

    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def main(patterns):
    """Run the modules and print the counts; return the exit code."""
    sys.path.insert(0, str(_TOP))
    paths = sorted({path.relative_to(_TOP) for pattern in patterns
                    for path in _TOP.glob(pattern)})
    names = ['.'.join(path.with_suffix('').parts) for path in paths]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(
        verbosity=2, resultclass=_Result).run(suite)
    failed = len(result.failures) + len(result.errors)
    print('%d passed, %d failed, %d skipped' % (
        result.passed, failed, len(result.skipped)))
    return int(bool(failed) or not result.passed)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
