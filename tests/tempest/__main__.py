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

"""Upstream's tests of images, beside stock: ``python -m tests.tempest``.

All of tempest's tests of images, and those of glance-tempest-plugin, run once
against stock stores, of type rbd, and some times, one after the other, against
those of type dcn, on the same clusters. Each that passes with stock has to
pass each time.
"""

import argparse
import collections
import sys
import time

from lab import process
from tests.functional.api import base
from tests import labs
from tests.tempest import scene as scenes


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m tests.tempest', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('names', nargs='*', metavar='NAME',
        help='modules, classes or tests (default: all of tempest.api.image '
             'and of glance-tempest-plugin)')
    add('--runs', type=int, default=3, metavar='N',
        help='runs with stores of type dcn (default: %(default)s)')
    labs.add_arguments(result)
    return result


def go(args):
    """Run the tests, and show what became of them.

    :returns: names of the tests that passed with stock, and with ours not
        each time
    """
    names = args.names or scenes.modules()
    with labs.running(args, base.SITES, 'dcn-tempest.'):
        expected = _passed(_run('rbd', names, 'stock'))
        worse = set()
        for number in range(1, args.runs + 1):
            found = _run('dcn', names, 'run %d of %d' % (number, args.runs))
            worse |= expected - _passed(found)
    if not expected:
        raise process.LabError('no test passed with stock')
    print('%d tests pass with stock; of these, %d do not pass each time'
          % (len(expected), len(worse)))
    return sorted(worse)


def _passed(outcomes):
    return {name for name, outcome in outcomes.items() if outcome == 'ok'}


def _run(kind, names, title):
    started = time.monotonic()
    with scenes.Scene(kind) as scene:
        outcomes, said = scene.run(names)
    counts = collections.Counter(outcomes.values())
    failed = sorted(name for name, outcome in outcomes.items()
                    if outcome not in ('ok', 'skip'))
    print('%-4s %-12s %s, %.0f s' % (kind, title, ', '.join(
        '%d %s' % (count, outcome) for outcome, count
        in sorted(counts.items())), time.monotonic() - started))
    print(''.join('     not passed: %s\n' % name for name in failed), end='',
          flush=True)
    if failed or not outcomes:
        print(said[-20000:], file=sys.stderr)
    return outcomes


def main(argv=None):
    """Run the command line and return the exit code: 1 if one got worse."""
    args = parser().parse_args(argv)
    return labs.exit_status('tempest', lambda: go(args))


if __name__ == '__main__':
    sys.exit(main())
