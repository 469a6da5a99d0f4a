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

"""The lab of a long run: one of its own, or one that is lent."""

import contextlib
import os
import pathlib
import sys
import tempfile

from lab import database
from lab import deployment
from lab import process


def exit_status(name, go):
    """Do a long run and return its exit status.

    :param name: of the run, for what is printed when it cannot be done
    :param go: does it and returns what is wrong, or nothing
    :returns: 0; 1: something is wrong; 2: it could not be done
    """
    process.exit_on_sigterm()
    try:
        return 1 if go() else 0
    except (process.LabError, OSError) as exc:
        print('%s: %s' % (name, exc), file=sys.stderr)
        return 2


def add_arguments(parser):
    """Add what :func:`running` takes to the parser of a command line."""
    add = parser.add_argument
    add('--database', choices=database.KINDS, default='mariadb')
    add('--lender', type=pathlib.Path, metavar='STATE',
        help='use the lab in that folder (default: an own one)')
    add('--state', type=pathlib.Path, default=None,
        help='folder for the own lab; short, as it holds sockets')


@contextlib.contextmanager
def running(args, sites, prefix):
    """Have a lab for as long as the block runs.

    :param args: of :func:`add_arguments`
    :param sites: names of the sites of an own one
    :param prefix: of the name of its folder
    """
    if args.lender:
        os.environ['GLANCE_DCN_LAB'] = str(args.lender)
        yield
        return
    state = args.state or pathlib.Path(tempfile.mkdtemp(prefix=prefix))
    lab = deployment.Deployment(state / 'lab')
    os.environ['GLANCE_DCN_LAB'] = str(lab.state)
    try:
        lab.create(sites, database=args.database)
        lab.up()
        yield
    finally:
        lab.down(delete=True)
        with contextlib.suppress(OSError):
            state.rmdir()
