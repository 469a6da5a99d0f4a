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
import contextlib
import os
import pathlib
import signal
import sys
import tempfile
import time

from lab import database
from lab import deployment
from lab import process
from tests.functional.api import base
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
    add('--database', choices=database.KINDS, default='mariadb')
    add('--lender', type=pathlib.Path, metavar='STATE',
        help='use the lab in that folder (default: an own one)')
    add('--state', type=pathlib.Path, default=None,
        help='folder for the own lab; short, as it holds sockets')
    return result


@contextlib.contextmanager
def _lab(args):
    """Have a lab for as long as the block runs."""
    if args.lender:
        os.environ['GLANCE_DCN_LAB'] = str(args.lender)
        yield
        return
    state = args.state or pathlib.Path(tempfile.mkdtemp(prefix='dcn-tempest.'))
    lab = deployment.Deployment(state / 'lab')
    os.environ['GLANCE_DCN_LAB'] = str(lab.state)
    try:
        lab.create(base.SITES, database=args.database)
        lab.up()
        yield
    finally:
        lab.down(delete=True)
        with contextlib.suppress(OSError):
            state.rmdir()


def go(args):
    """Run the tests, and show what became of them.

    :returns: names of the tests that passed with stock, and with ours not
        each time
    """
    names = args.names or scenes.modules()
    with _lab(args):
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


def _terminate(_number, _frame):
    raise SystemExit(143)


def main(argv=None):
    """Run the command line and return the exit code: 1 if one got worse."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        worse = go(args)
    except (process.LabError, OSError) as exc:
        print('tempest: %s' % exc, file=sys.stderr)
        return 2
    return 1 if worse else 0


if __name__ == '__main__':
    sys.exit(main())
