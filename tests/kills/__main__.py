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


"""Kills at random moments: ``python -m tests.kills``.

A Glance with a real Keystone and real clusters imports and copies images, and
is killed with SIGKILL while it does, its uWSGI master with it. It is started
again, and then the image is active, or the import is repeated. In the end no
staged file, no RBD image and no lock is left of any of them.
"""

import argparse
import random
import sys

from tests.kills import run
from tests.kills import scene as scenes
from tests import labs


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m tests.kills', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('--seed', type=int, default=None,
        help='the same seed, the same methods and moments (default: any)')
    add('--kills', type=int, default=100, metavar='N',
        help='how many (default: 100)')
    add('--methods', default=','.join(run.METHODS), metavar='A,B,...',
        help='import methods (default: %(default)s)')
    add('--stock', action='store_true',
        help='stock Glance with stores of type rbd, killed while it stores')
    add('--limit', type=float, default=run.LIMIT, metavar='SECONDS',
        help='until an image must be usable (default: %d)' % run.LIMIT)
    labs.add_arguments(result)
    return result


def go(args):
    """Kill, and show each and the summary.

    :returns: those that went wrong, each a :class:`tests.kills.run.Kill`
    """
    chance = random.Random(args.seed)
    methods = args.methods.split(',')
    kills = []
    with labs.running(args, scenes.STORES, 'dcn-kills.'), \
            scenes.Scene('rbd' if args.stock else 'dcn') as scene:
        spent = {} if args.stock else {
            method: run.duration(scene, method) for method in methods}
        print('without kills: %s' % (', '.join(
            '%s %.1f s' % item for item in spent.items()) or 'not measured'),
            flush=True)
        for number in range(1, args.kills + 1):
            method = chance.choice(methods)
            moment = (run.begins_to_store if args.stock else run.after(
                chance.uniform(0, spent[method])))
            kill = run.one(scene, method, moment, limit=args.limit)
            kills.append(kill)
            print('%3d  %-13s %-11s  %-8s %5.1f s  %s' % (
                number, kill.method, kill.phase, kill.outcome, kill.seconds,
                '; '.join(kill.wrong)), flush=True)
    print('\nseed %d\n%s' % (args.seed, run.summary(kills)))
    return [kill for kill in kills if kill.wrong]


def main(argv=None):
    """Run the command line and return the exit code: 1 if all is not well."""
    args = parser().parse_args(argv)
    if args.seed is None:
        args.seed = random.randrange(1 << 32)
    return labs.exit_status('kills', lambda: go(args))


if __name__ == '__main__':
    sys.exit(main())
