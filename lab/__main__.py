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

"""The lab's command: ``python -m lab up|show|env|fault|heal|down``."""

import argparse
import os
import pathlib
import sys

from lab import database
from lab import deployment
from lab import faults
from lab import process

# Sites that were tried: pools of one cluster.
_MOST = 300
_DEFAULT_STATE = '~/.cache/glance-dcn-lab'


def _up(lab, args):
    names = (args.names.split(',') if args.names
             else deployment.site_names(args.sites))
    if args.far and not args.shared_cluster:
        raise process.LabError('--far needs --shared-cluster; without it, '
                               '--wan puts each cluster behind a link')
    if args.far >= len(names):
        raise process.LabError('central cannot be behind the link')
    lab.create(names, args.workers, args.database, args.store_type, args.wan,
               edge_access=args.edge_access, edges=not args.central_only,
               shared=args.far if args.shared_cluster else None)
    lab.up()
    _show(lab, args)
    print('\nTo use it:  . %s' % (lab.state / 'openrc'))


def _show(lab, args):
    for what, state, where in lab.show():
        print('%-18s %-5s %s' % (what, state, where))


def _env(lab, args):
    print((lab.state / 'openrc').read_text(), end='')


def _fault(lab, args):
    faults.cause(_cluster(lab, args.site), args.kind)


def _heal(lab, args):
    for site in args.site and [args.site] or lab.sites:
        faults.heal(_cluster(lab, site))


def _cluster(lab, site):
    if site not in lab.sites:
        raise process.LabError('there is no site %s, only %s'
                               % (site, ', '.join(lab.sites)))
    return lab.cluster(site)


def _down(lab, args):
    lab.down(delete=args.delete)


def _end(lab, args):
    process.end_all(args.folder)


def _count(text):
    number = int(text)
    if not 1 <= number <= _MOST:
        raise argparse.ArgumentTypeError('%s is not between 1 and %d'
                                         % (text, _MOST))
    return number


def _parser():
    parser = argparse.ArgumentParser(
        prog='python -m lab',
        description='Runs a DCN deployment on this machine: at each site a '
                    'real Ceph cluster and a real Glance, at the central one '
                    'Keystone and the database.')
    parser.add_argument(
        '--state', type=pathlib.Path,
        default=os.environ.get('GLANCE_DCN_LAB') or
        pathlib.Path(_DEFAULT_STATE).expanduser(),
        help='folder everything is kept in (default: $GLANCE_DCN_LAB, or %s)'
             % _DEFAULT_STATE)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    up = commands.add_parser(
        'up', help='bring the deployment up; again after any failure')
    up.add_argument('--sites', type=_count, default=3,
                    help='number of sites, central included (default: 3)')
    up.add_argument('--names',
                    help='names of the sites instead, comma-separated; the '
                         'first must be central')
    up.add_argument('--workers', type=_count, default=1,
                    help='Glance workers at each site, behind haproxy if '
                         'there are several (default: 1)')
    up.add_argument('--database', choices=database.KINDS, default='sqlite')
    up.add_argument('--store-type', choices=('dcn', 'rbd'), default='dcn',
                    help='rbd: run stock Glance without glance_dcn')
    up.add_argument('--edge-access', choices=('read-only', 'read-write'),
                    default='read-only',
                    help='what the Glance of an edge may do at the central '
                         'cluster (default: read-only)')
    up.add_argument('--wan', action='store_true',
                    help='put each cluster behind a link that can be cut; '
                         'needs the rights of root')
    up.add_argument('--central-only', action='store_true',
                    help='have no Glance at the edges')
    up.add_argument('--shared-cluster', action='store_true',
                    help='let pools of one cluster stand for the edges, with '
                         'a Glance at central alone')
    up.add_argument('--far', type=_count, default=0, metavar='N',
                    help='of sites that share a cluster, have the last N in a '
                         'second one, which is behind a link')
    up.set_defaults(run=_up)
    show = commands.add_parser('show', help='show what runs, and where')
    show.set_defaults(run=_show)
    env = commands.add_parser(
        'env', help='print the environment for openstack and glance')
    env.set_defaults(run=_env)
    fault = commands.add_parser(
        'fault', help='cause a fault at a site: %s' % ', '.join(faults.KINDS))
    fault.add_argument('site')
    fault.add_argument('kind', choices=faults.KINDS, metavar='kind')
    fault.set_defaults(run=_fault)
    heal = commands.add_parser('heal', help='bring sites back after faults')
    heal.add_argument('site', nargs='?', help='one site only')
    heal.set_defaults(run=_heal)
    down = commands.add_parser('down', help='end what was started')
    down.add_argument('--delete', action='store_true',
                      help='remove the state folder as well')
    down.set_defaults(run=_down)
    end = commands.add_parser(
        'end', help='end all daemons that have their folders below one')
    end.add_argument('folder', type=pathlib.Path)
    end.set_defaults(run=_end)
    return parser


def main(argv=None):
    """Run the command line and return the exit code."""
    args = _parser().parse_args(argv)
    lab = deployment.Deployment(args.state,
                                report=lambda line: print(line, flush=True))
    try:
        args.run(lab, args)
    except (process.LabError, OSError) as exc:
        print('lab: %s' % exc, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
