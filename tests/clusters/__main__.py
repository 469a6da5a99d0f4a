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

"""Many real clusters at once: ``python -m tests.clusters``.

A central Glance has a store in each of many Ceph clusters, all on this
machine. It is started, an image is copied to all, and deleted, and copied
while half of them are cut. Each cluster takes some 300 MiB of memory.
"""

import argparse
import os
import pathlib
import sys
import tempfile

from lab import database
from lab import deployment
from tests.clusters import run
from tests import labs


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m tests.clusters', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('--sites', type=int, default=24, metavar='N',
        help='how many, central included (default: 24)')
    add('--size', type=int, default=16, metavar='MIB',
        help='MiB of data in an image (default: 16)')
    add('--database', choices=database.KINDS, default='mariadb')
    add('--state', type=pathlib.Path, default=None,
        help='folder for the lab; short, as it holds sockets')
    return result


def go(args):
    """Do it all, and show each step.

    :returns: those that went wrong, each a :class:`tests.clusters.run.Step`
    """
    state = args.state or pathlib.Path(tempfile.mkdtemp(prefix='dcn-many.'))
    lab = deployment.Deployment(state / 'lab')
    os.environ['GLANCE_DCN_LAB'] = str(lab.state)
    steps = []
    try:
        lab.create(deployment.site_names(args.sites), edges=False,
                   database=args.database)
        lab.up()
        for step in run.Run(lab, args.size << 20).steps():
            steps.append(step)
            print('%7.1f s  %s%s' % (step.seconds, step.what, ''.join(
                '\n           WRONG: %s' % text for text in step.wrong)),
                flush=True)
    finally:
        lab.down(delete=True)
    return [step for step in steps if step.wrong]


def main(argv=None):
    """Run the command line and return the exit code: 1 if all is not well."""
    args = parser().parse_args(argv)
    return labs.exit_status('clusters', lambda: go(args))


if __name__ == '__main__':
    sys.exit(main())
