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

"""A rolling upgrade under load, and back: ``python -m tests.upgrade``.

Three Glance workers at central, with one database and one pool, are used
while one after the other is replaced by another release. At the end what
Glance says is compared with what is there, as in the randomised run: nothing
is lost or left behind, and no image is locked.
"""

import argparse
import pathlib
import random
import sys
import tempfile

from glance_dcn.ceph import record_format
from lab import deployment
from tests.chaos import __main__ as chaos
from tests.chaos import check
from tests.chaos import report
from tests import labs
from tests.upgrade import run as runs
from tests.upgrade import trees


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m tests.upgrade', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('--releases', default='%s,%s,%s' % (trees.CURRENT, trees.LATER,
                                            trees.CURRENT),
        metavar='A,B,...', help='%s: this tree; %s: the same as a release of '
        'its own; %s: the same with the next version of all records; or '
        'commits (default: %%(default)s)' % (trees.CURRENT, trees.AGAIN,
                                             trees.LATER))
    add('--pause', type=float, default=20, metavar='SECONDS',
        help='of use before each step (default: %(default)d)')
    add('--seed', type=int, default=None)
    add('--clients', type=int, default=3, metavar='N',
        help='operations at the same time (default: %(default)d)')
    add('--workers', type=int, default=3, metavar='N',
        help='Glance workers (default: %(default)d)')
    add('--sites', type=int, default=2, metavar='N',
        help='central included (default: %(default)d)')
    add('--grace', type=float, default=check.GRACE, metavar='SECONDS',
        help='until everything must be settled (default: %(default)d)')
    add('--lender', type=pathlib.Path, metavar='STATE',
        help='use Keystone and the database server of the lab in that folder')
    add('--state', type=pathlib.Path, default=None,
        help='folder for the deployment; short, as it holds sockets')
    add('--verbose', action='store_true', help='print the log meanwhile')
    return result


def go(args, log):
    """Bring everything up, run, check, and take it down.

    :returns: list of :class:`tests.chaos.check.Violation`
    """
    names = args.releases.split(',')
    made = {name: trees.make(args.state / 'trees', name)
            for name in dict.fromkeys(names)}
    stage = runs.Stage(args.state / 'lab', log)
    sites = deployment.site_names(args.sites)
    for number in range(args.workers):
        stage.lab.trees[sites[0], number] = made[names[0]]
    found = None
    try:
        stage.up(sites, args.workers, 'mariadb', 'dcn', False, args.lender,
                 edges=False)
        upgrade = runs.Upgrade(stage, made, args.seed, args.clients, log)
        with stage.serving(upgrade.run.known, args.seed):
            upgrade.go(names[0], names[1:], args.pause)
            found = _after(stage, upgrade, names, args, log)
    finally:
        stage.down(delete=found == [])
    return found


def _after(stage, upgrade, names, args, log):
    """Check what must hold, and show the summary."""
    run = upgrade.run
    stage.wait_until_workers_answer()
    stage.remove_clones()
    run.repeat_deletions()
    checker = check.Checker(stage, run.known, log)
    # Records of what is there may be held for a minute.
    found, seconds = checker.settle(args.grace, held=False)
    found += checker.contents()
    found += [check.Violation('wrong answer', text) for text in run.wrong]
    for name in set(names):
        version = upgrade.seen.get(trees.version(name))
        if version != record_format.VERSION + (name == trees.LATER):
            found.append(check.Violation(
                'release not seen', name, '', 'its workers write records of '
                'version %s' % version))
    log.show('seed %d, %d operations, releases %s, %d workers' % (
        args.seed, len(run.operations), ' -> '.join(names), args.workers))
    log.show(report.operations(run.operations))
    log.show('settled after %.1f s; staged files left: %d' % (
        seconds, len(check.staged(stage))))
    log.show(report.violations(found))
    return found


def main(argv=None):
    """Run the command line and return the exit code: 1 for violations."""
    args = parser().parse_args(argv)
    if args.seed is None:
        args.seed = random.randrange(1 << 32)
    if args.state is None:
        args.state = pathlib.Path(tempfile.mkdtemp(prefix='dcn-upgrade.'))
    log = chaos.Log(args.state / 'upgrade.log', args.verbose)
    print('seed %d, in %s' % (args.seed, args.state), flush=True)
    return labs.exit_status('upgrade, see %s' % args.state,
                            lambda: go(args, log))


if __name__ == '__main__':
    sys.exit(main())
