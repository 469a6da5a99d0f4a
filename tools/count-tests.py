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

"""Count the last run's tests, from the runner's own record of it."""

import io
import subprocess
import sys

import subunit
import testtools


class _Counter(testtools.StreamResult):
    """Counts tests by what became of them, and those on real clusters."""

    def __init__(self):
        super().__init__()
        self.outcomes = {}

    def status(self, test_id=None, test_status=None, **kwargs):
        if test_id and test_status not in (None, 'exists', 'inprogress'):
            self.outcomes[test_id] = test_status


def main():
    """Print what failed, and the counts; exit with 1 if there are none."""
    stream = subprocess.run(['stestr', 'last', '--subunit'], check=False,
                            stdout=subprocess.PIPE).stdout
    counter = _Counter()
    subunit.ByteStreamToStreamResult(io.BytesIO(stream)).run(counter)
    outcomes = counter.outcomes
    passed = [name for name, how in outcomes.items()
              if how in ('success', 'xfail')]
    skipped = [name for name, how in outcomes.items() if how == 'skip']
    failed = sorted(set(outcomes).difference(passed, skipped))
    on_ceph = [name for name in passed if name.startswith('tests.functional')]
    print('%d functional tests passed against real Ceph clusters'
          % len(on_ceph))
    # Their output is far above, between that of others.
    for name in failed:
        print('failed: %s' % name)
    print('%d passed, %d failed%s' % (
        len(passed), len(failed),
        ', %d skipped' % len(skipped) if skipped else ''))
    return 0 if outcomes else 1


if __name__ == '__main__':
    sys.exit(main())
