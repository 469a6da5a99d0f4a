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


"""``glance-dcn worker``: what this worker was at when it died."""

import argparse
import json
import sys

from oslo_config import cfg

from glance_dcn.staging import folder
from glance_dcn.staging import recovery

CONF = cfg.CONF

#: Exit status: all is seen to, some of it cannot be now.
DONE, SOME_LEFT = 0, 1
_FAILED = 2

_EPILOG = """\
exit status:
  0  nothing was left, or all of it was seen to
  1  some of it cannot be seen to now; the worker tries it again
  2  wrong arguments, or a configuration that cannot be used
"""


def register(subparsers):
    """Add the subcommands to those of the command.

    :param subparsers: what argparse's add_subparsers() returned
    """
    parser = subparsers.add_parser(
        'worker', help='see to what this worker was at when it died')
    commands = parser.add_subparsers(dest='subcommand', required=True,
                                     metavar='COMMAND')
    recover = commands.add_parser(
        'recover', help='undo imports and copies that were broken off',
        description='Undoes imports and copies that were broken off when a '
                    'process of this worker died, so that they can be '
                    'repeated at once; those that still go on are left '
                    'alone. For before the worker starts: a running worker '
                    'does it by itself, and goes on with what it can.',
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    recover.add_argument('--format', choices=('table', 'json'),
                         default='table', help='form of the output')
    recover.set_defaults(run=run)


def run(args):
    """Undo what was broken off, and return the exit status."""
    found = folder.of(CONF)
    if found is None:
        print('glance-dcn: no staging folder is configured',
              file=sys.stderr)
        return _FAILED
    outcomes = recovery.recover(found)
    if args.format == 'json':
        print(json.dumps([
            {'image': entry.image, 'task': entry.task,
             'method': entry.method, 'phase': entry.phase,
             'outcome': outcome} for entry, outcome in outcomes], indent=1))
    else:
        for entry, outcome in outcomes:
            print('%s  %s (%s): %s' % (
                entry.image, entry.method, entry.phase,
                outcome or 'cannot be seen to now'))
        if not outcomes:
            print('Nothing was broken off.')
    return SOME_LEFT if any(outcome is None for _entry, outcome
                            in outcomes) else DONE
