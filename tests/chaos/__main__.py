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

"""The randomised run: ``python -m tests.chaos``.

A deployment of its own, with real Ceph, Keystone and Glance, does what users
ask for while its sites are killed, hung, cut off and restarted, its own
processes are stopped and their clocks stepped, sources of copies are removed,
and records are forged. At the end all sites are brought back, and what Glance
says is compared with what is there.
"""

import argparse
import os
import pathlib
import random
import sys
import tempfile
import threading
import time

from lab import database
from lab import deployment
from tests.chaos import check
from tests.chaos import plan as plans
from tests.chaos import report
from tests.chaos import run as runs
from tests.chaos import stage as stages
from tests import labs


class Log:
    """Writes lines with the time since the start, to a file.

    :param path: of the file
    :param echo: whether they are printed as well
    """

    def __init__(self, path, echo):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open('w', buffering=1)
        self._echo = echo
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def __call__(self, text):
        for line in text.splitlines():
            line = '%8.2f  %s' % (time.monotonic() - self._started, line)
            with self._lock:
                self._file.write(line + '\n')
                if self._echo:
                    print(line, flush=True)

    def show(self, text):
        """Log a part of the summary, and print it in any case."""
        with self._lock:
            self._file.write('\n%s\n' % text)
            print('\n' + text, flush=True)


def can_cut():
    """Return whether this machine lets us put clusters behind WAN links."""
    return os.geteuid() == 0 and os.access('/dev/net/tun', os.R_OK | os.W_OK)


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError('%s is less than 1' % text)
    return number


def _kinds(text):
    kinds = [kind for kind in text.split(',') if kind]
    wrong = sorted(set(kinds) - set(plans.FAULTS))
    if wrong:
        raise argparse.ArgumentTypeError('%s: not among %s' % (
            ','.join(wrong), ','.join(plans.FAULTS)))
    return kinds


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m tests.chaos', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('--seed', type=int, default=None,
        help='the same seed, the same operations and faults (default: any)')
    add('--operations', type=_positive, default=300, metavar='N',
        help='how many (default: 300)')
    add('--clients', type=_positive, default=4, metavar='N',
        help='operations at the same time (default: 4)')
    add('--sites', type=_positive, default=3, metavar='N',
        help='central included (default: 3)')
    add('--workers', type=_positive, default=2, metavar='N',
        help='Glance workers at each site (default: 2)')
    add('--fault-every', type=int, default=8, metavar='N',
        help='mean number of operations between two faults; 0: no faults '
             '(default: 8)')
    add('--faults', type=_kinds, metavar='A,B,...',
        default=[kind for kind in plans.FAULTS if kind != 'kill-glance'],
        help='kinds of faults (default: all of %s but kill-glance)'
             % ','.join(plans.FAULTS))
    add('--kill-glance', action='store_true',
        help='kill processes of Glance as well')
    add('--hasty', type=float, default=.25, metavar='SHARE',
        help='share of the deletions that do not wait until the import of '
             'the image has ended (default: 0.25)')
    add('--longest', type=float, default=20, metavar='SECONDS',
        help='no fault lasts longer (default: 20)')
    add('--longest-stop', type=float, default=60, metavar='SECONDS',
        help='no process of Glance is stopped for longer (default: 60)')
    add('--grace', type=float, default=check.GRACE, metavar='SECONDS',
        help='until everything must be settled when all sites are back '
             '(default: %d)' % check.GRACE)
    add('--database', choices=database.KINDS, default='mariadb')
    add('--lender', type=pathlib.Path, metavar='STATE',
        help='use Keystone and the database server of the lab in that folder '
             '(default: own ones)')
    add('--store-type', choices=('dcn', 'rbd'), default='dcn',
        help='rbd: stock Glance without glance_dcn, for comparison')
    add('--state', type=pathlib.Path, default=None,
        help='folder for the deployment; short, as it holds sockets')
    add('--log', type=pathlib.Path, default=None,
        help='file for the log (default: chaos.log in the state folder, '
             'which is then kept)')
    add('--keep', action='store_true',
        help='keep the folder; it is kept in any case after violations')
    add('--plan', action='store_true',
        help='print operations and faults, and do nothing')
    add('--verbose', action='store_true', help='print the log meanwhile')
    return result


def make_plan(args):
    """Return the :class:`tests.chaos.plan.Plan` of the arguments."""
    kinds = set(args.faults) | ({'kill-glance'} if args.kill_glance
                                else set())
    if not can_cut():
        kinds.discard('cut')
    return plans.Plan(
        args.seed, args.operations, deployment.site_names(args.sites),
        args.workers, args.fault_every, kinds, args.longest,
        hasty=args.hasty, longest_stop=args.longest_stop)


def show_plan(plan):
    """Print a plan."""
    for operation in plan.operations:
        for fault in plan.faults:
            if fault.after == operation.number:
                print('    %s, %.1f s after' % (fault, fault.delay))
        print(operation)


def go(args, log):
    """Bring everything up, run, check, and take it down.

    :param args: parsed command line
    :param log: :class:`Log`
    :returns: list of :class:`tests.chaos.check.Violation`
    """
    plan = make_plan(args)
    stage = stages.Stage(args.state / 'lab', log)
    found = None
    try:
        stage.up(deployment.site_names(args.sites), args.workers,
                 args.database, args.store_type, can_cut(), args.lender,
                 clocks='step-clock' in {fault.kind for fault in plan.faults})
        run = runs.Run(stage, plan, args.seed, args.clients, log)
        with stage.serving(run.known, args.seed):
            run.go()
            found = _after(stage, run, args, log)
    finally:
        stage.down(delete=found == [] and not args.keep)
    return found


def _after(stage, run, args, log):
    """Bring everything back, check, and show the summary."""
    log('bringing all sites back')
    for site in stage.lab.sites:
        runs.heal(stage.lab.cluster(site))
    stage.wait_until_workers_answer()
    stage.remove_clones()
    log('all sites are back')
    run.repeat_deletions()
    checker = check.Checker(stage, run.known, log, run.forger)
    found, seconds = checker.settle(args.grace)
    log('%s after %.1f s' % ('not settled' if found else 'settled', seconds))
    found += checker.contents()
    found += [check.Violation('wrong answer', text) for text in run.wrong]
    log('contents were compared')
    found += run.forger.check()
    run.forger.remove()
    stuck = set(found)
    # What was amiss before is told once; it need not go away.
    later = checker.empty(5 if found else args.grace)
    found += [check.Violation('after deletion of all: ' + entry.kind,
                              entry.what, entry.where, entry.detail)
              for entry in later if entry not in stuck]
    _summary(stage, run, args, found, seconds, log)
    return found


def _summary(stage, run, args, found, seconds, log):
    log.show('seed %d, %d operations by %d clients, %d sites with %d workers '
             'each, stores of type %s' % (
                 args.seed, len(run.operations), args.clients, args.sites,
                 args.workers, args.store_type))
    log.show(report.operations(run.operations))
    log.show(report.faults(run.faults) if run.faults else 'no faults')
    log.show('settled %.1f s after the return of all sites; staged files '
             'left: %d' % (seconds, len(check.staged(stage))))
    log.show(report.violations(found))


def main(argv=None):
    """Run the command line and return the exit code: 1 for violations."""
    args = parser().parse_args(argv)
    if args.seed is None:
        args.seed = random.randrange(1 << 32)
    if args.plan:
        show_plan(make_plan(args))
        return 0
    if args.state is None:
        args.state = pathlib.Path(tempfile.mkdtemp(prefix='dcn-chaos.'))
    log = Log(args.log or args.state / 'chaos.log', args.verbose)
    print('seed %d, in %s' % (args.seed, args.state), flush=True)
    return labs.exit_status('chaos, see %s' % args.state,
                            lambda: go(args, log))


if __name__ == '__main__':
    sys.exit(main())
