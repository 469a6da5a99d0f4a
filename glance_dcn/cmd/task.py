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

"""``glance-dcn task``: the deferred tasks that this node's Glance has."""

from __future__ import annotations

import argparse
import dataclasses
import typing

from glance_dcn.ceph import health
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.tasks import queue
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks

#: Exit status: there are no tasks, there are some, wrong arguments, or the
#: records cannot be read.
NONE, SOME, WRONG, UNREADABLE = 0, 1, 2, 3

_LIST = """\
Shows the deferred tasks of this node's site: deletions that were accepted
while a site was away, incomplete images of dead writers, and images in the
trash that still have clones. Glance does them by itself once it can: only a
task that stays for long, with a message beside it, needs to be looked at.

They are kept in the cluster of the default store. Those of Glances at other
sites are shown there.
"""
_EPILOG = """\
exit status:
  0  there are no tasks
  1  there are tasks, or records that cannot be understood
  2  wrong arguments, or a configuration that cannot be used
  3  the default site cannot be read
"""
_COLUMNS = ('store', 'action', 'image', 'created', 'attempts', 'by',
            'message')


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    parser = subparsers.add_parser('task', help='show deferred tasks')
    commands = parser.add_subparsers(dest='subcommand', required=True,
                                     metavar='COMMAND')
    listing = output.add_command(commands, 'list', 'show deferred tasks',
                                 _LIST, _EPILOG)
    output.add_format(listing)
    listing.add_argument(
        '--site', action='append', metavar='STORE',
        help='only those of this store; may be given several times')
    listing.add_argument(
        '--all', action='store_true',
        help='also images that are being written, and records of other '
             'deployments')
    listing.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the tasks and return the exit status."""
    known = queue.PROCESS.sites
    try:
        node.refuse_without_home(queue.PROCESS)
    except ValueError as exc:
        output.complain(exc)
        return WRONG
    unknown = sorted(set(args.site or ()) - set(known))
    if unknown:
        output.complain('there is no dcn store %s; there are: %s' % (
            ', '.join(unknown), ', '.join(sorted(known))))
        return WRONG
    try:
        scan = queue.PROCESS.store.scan()
    except stores.AWAY as exc:
        home = queue.PROCESS.home.name
        output.complain(
            'store %s, which keeps the tasks: they cannot be read (%s); see '
            '"glance-dcn check --site %s"' % (home, exc, home))
        return UNREADABLE
    found = [_shown(record) for record in scan.records
             if (args.all or isinstance(record, tasks.Task)
                 or record.state is tasks.State.REMOVING)
             and (not args.site or record.site in args.site)]
    unreadable = [dataclasses.asdict(entry) for entry in scan.unreadable
                  if args.all or not entry.foreign]
    if args.format == 'json':
        print(output.text({'tasks': found, 'unreadable': unreadable}))
    else:
        _print_table(found, unreadable)
    return SOME if found or unreadable else NONE


def _shown(record: tasks.Record) -> dict[str, typing.Any]:
    """Return a task or an intent as a dict, for people to read."""
    shown = {'store': record.site, 'image': record.image,
             'pool': record.pool, 'image_id': record.image_id,
             'created': health.format_time(record.created_at),
             'by': record.created_by}
    if isinstance(record, tasks.Task):
        return dict(shown, action=record.action.value,
                    attempts=record.retry_attempts, message=record.message)
    return dict(shown, action='write (%s)' % record.state.value, attempts=0,
                message='')


def _print_table(found: list[dict[str, typing.Any]],
                 unreadable: list[dict[str, typing.Any]]) -> None:
    if found:
        print(output.table(_COLUMNS, [[entry[name] or None
                                       for name in _COLUMNS]
                                      for entry in found]))
    else:
        print('There are no tasks.')
    for entry in unreadable:
        print('Record %(key)s is left alone: %(reason)s' % entry)
