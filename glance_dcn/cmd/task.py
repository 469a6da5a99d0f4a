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
import contextlib
import dataclasses
import time
import typing

from glance_dcn.cmd import formats
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.runtime import process
from glance_dcn.tasks import leases
from glance_dcn.tasks import queue
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

_LIST = """\
Shows the deferred tasks of this node's site: deletions that were accepted
while a site was away, incomplete images of dead writers, and images in the
trash that still have clones. Glance does them by itself once it can: only a
task that stays for long, with a message beside it, needs to be looked at.

They are kept in the cluster of the default store. Those of Glances at other
sites are shown there.
"""
_SHOW = """\
Shows all that is recorded about an image at this node's site: its deferred
tasks, and the intents of those who write it.
"""
_RETRY = """\
Has the task runner, which is one of Glance's processes, try tasks at its next
scan, within 15 s: at once, instead of after the pause that follows a failure.
"""
_RUN = """\
Tries all deferred tasks once, in this process. For when Glance does not run:
while it does, one of its processes runs the tasks, and no other may; use
"glance-dcn task retry" then.

With --dry-run nothing is done: it shows what would be done about each task
now, and why. Whether the writer of an image is dead is not found out.
"""
_EPILOG = """\
exit status:
  0  there are no tasks
  1  there are tasks, or unreadable records
  2  wrong arguments, or a configuration that cannot be used
  3  the default site cannot be read
"""
_LIST_EPILOG = """\
examples:
  glance-dcn task list
  glance-dcn task list --site dcn3
  glance-dcn task list -f value -c image | sort -u

""" + _EPILOG
_SHOW_EPILOG = """\
examples:
  glance-dcn task show 8d3ab0c8-3e1c-4c38-9d4b-5f0e0c6e7b11
  glance-dcn task show 8d3ab0c8-3e1c-4c38-9d4b-5f0e0c6e7b11 -f yaml

""" + _EPILOG
_RETRY_EPILOG = """\
examples:
  glance-dcn task retry
  glance-dcn task retry --site dcn3
  glance-dcn task retry 8d3ab0c8-3e1c-4c38-9d4b-5f0e0c6e7b11

exit status:
  0  all chosen tasks are going to be tried
  1  no task was chosen, or one was changed meanwhile
  2  wrong arguments, or a configuration that cannot be used
  3  the default site cannot be read
"""
_RUN_EPILOG = """\
examples:
  glance-dcn task run --dry-run
  glance-dcn task run --dry-run -f value -c image -c plan
  systemctl stop openstack-glance-api; sudo -u glance glance-dcn task run

exit status:
  0  no task is left; with --dry-run: all plans were shown
  1  tasks are left, or unreadable records
  2  wrong arguments, or a configuration that cannot be used
  3  the default site cannot be read, or the database of Glance not be asked
  4  another process runs the tasks
"""
_COLUMNS = formats.Columns(
    ('store', 'action', 'image', 'created', 'attempts', 'by', 'message',
     'pool', 'image_id'),
    ('store', 'action', 'image', 'created', 'attempts', 'by', 'message'),
    {'created': formats.time,
     'attempts': lambda count: str(count) if count else None})
_PLAN = formats.Columns((*_COLUMNS.names, 'plan', 'reason'),
                        ('store', 'action', 'image', 'plan', 'reason'),
                        _COLUMNS.pretty)
_LEFT = dataclasses.replace(_COLUMNS, instead=(
    lambda args: args.dry_run, _PLAN))
_RETRIED = formats.Columns((*_COLUMNS.names, 'retried'),
                           ('store', 'action', 'image', 'retried'),
                           _COLUMNS.pretty)
_NO_TASKS = 'There are no tasks.'
# Seconds within which the lease of a runner that has ended expires.
_PATIENCE = leases.RunnerLease.EXPIRY + 5


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommands to those of the command."""
    commands = output.add_group(subparsers, 'task',
                                'show deferred tasks, or have them tried')
    listing = _add(commands, 'list', 'show deferred tasks', _LIST,
                   _LIST_EPILOG, _COLUMNS, _list)
    listing.add_argument(
        '--all', action='store_true',
        help='also images that are being written, and records of other '
             'deployments')
    show = _add(commands, 'show', 'show all that is recorded about an image',
                _SHOW, _SHOW_EPILOG, _COLUMNS, _show)
    show.add_argument('image', metavar='IMAGE', help='ID of the image')
    retry = _add(commands, 'retry', 'have tasks tried at once', _RETRY,
                 _RETRY_EPILOG, _RETRIED, _retry)
    retry.add_argument('image', metavar='IMAGE', nargs='*',
                       help='ID of an image; all images if none is given')
    run = _add(commands, 'run', 'try tasks in this process', _RUN,
               _RUN_EPILOG, _LEFT, _run)
    run.add_argument('--dry-run', action='store_true',
                     help='do nothing: show what would be done, and why')


def _add(commands: output.Subparsers, name: str, summary: str,
         description: str, epilog: str, columns: formats.Columns,
         work: typing.Callable[[argparse.Namespace], int]
         ) -> argparse.ArgumentParser:
    parser = output.add_command(commands, name, summary, description, epilog,
                                columns, run=work)
    if name != 'run':
        parser.add_argument(
            '--site', action='append', metavar='STORE',
            help='only those of this store; may be given several times')
    return parser


def _list(args: argparse.Namespace) -> int:
    scan = _scan(args)
    found = [_shown(record) for record in scan.records
             if args.all or isinstance(record, tasks.Task)
             or record.state is tasks.State.REMOVING]
    return _print(args, 'tasks', found, scan.unreadable,
                  None if found else [_NO_TASKS])


def _print(args: argparse.Namespace, kind: str,
           found: list[dict[str, typing.Any]],
           unreadable: list[stores.Unreadable],
           people: list[str | formats.Table] | None) -> int:
    """Print what was found and cannot be read; return the exit status."""
    left = [dataclasses.asdict(entry) for entry in unreadable
            if getattr(args, 'all', False) or not entry.foreign]
    formats.show(args, {kind: found, 'unreadable': left}, found, people, [
        'Record %(key)s is left alone: %(reason)s' % entry for entry in left])
    return output.Exit.BAD if found or left else output.Exit.GOOD


def _show(args: argparse.Namespace) -> int:
    scan = _scan(args)
    found = [_shown(record) for record in scan.records
             if record.image == args.image]
    unreadable = [entry for entry in scan.unreadable
                  if args.image in entry.key.split('/')]
    return _print(args, 'tasks', found, unreadable, [
        dataclasses.replace(_COLUMNS, shown=None, single=True).table([entry])
        for entry in found] or [(
            'What is recorded about image %s is unreadable.'
            if unreadable else 'Nothing is recorded about image %s.'
        ) % args.image])


def _retry(args: argparse.Namespace) -> int:
    chosen = [record for record in _scan(args).records
              if isinstance(record, tasks.Task)
              and (not args.image or record.image in args.image)]
    unknown = sorted(set(args.image) - {task.image for task in chosen})
    if unknown:
        raise output.Failed('there is no task for image %s; "glance-dcn task '
                            'list" lists all' % ', '.join(unknown))
    store = process.get(queue.TaskQueue).store
    now, changed = time.time(), []
    for task in chosen:
        with _at_home():
            if not store.replace(task, dataclasses.replace(
                    task, retried_at=now, retry_attempts=0)):
                changed.append(task)
    retried = len(chosen) - len(changed)
    formats.show(args, {'retried': retried,
                        'changed': list(map(_shown, changed))},
                 [dict(_shown(task), retried=task not in changed)
                  for task in chosen], ['Going to be tried: %d.' % retried])
    for task in changed:
        output.complain('store %s: the task %s of image %s was changed or '
                        'done meanwhile' % (task.site, task.action.value,
                                            task.image))
    return output.Exit.BAD if changed or not chosen else output.Exit.GOOD


def _run(args: argparse.Namespace) -> int:
    scan, queued = _scan(args), process.get(queue.TaskQueue)
    if not queued.can_run:
        raise output.Failed('the database of Glance cannot be asked, without '
                            'which no task is run: run this with the '
                            'configuration of a Glance that has one',
                            output.Exit.UNABLE)
    if args.dry_run:
        plans = []
        for record in scan.records:
            plan = queued.plan(record)
            plans.append(dict(_shown(record), plan=plan.verdict.value,
                              reason=plan.reason))
        _print(args, 'plans', plans, scan.unreadable,
               None if plans else [_NO_TASKS])
        return output.Exit.BAD if scan.own_unreadable else output.Exit.GOOD
    with _at_home():
        done = queued.run_once(_PATIENCE)
    if not done:
        raise output.Failed('a process of Glance runs the tasks: use '
                            '"glance-dcn task retry" to have it try them at '
                            'once, or stop Glance', output.Exit.BUSY)
    return _list(argparse.Namespace(**vars(args), all=False))


def _scan(args: argparse.Namespace) -> stores.Scan:
    """Return what is recorded, of the stores that were chosen.

    :raises output.Failed: if arguments are wrong, or it cannot be read
    """
    queued = process.get(queue.TaskQueue)
    known = queued.sites
    node.refuse_without_home(queued)
    chosen = getattr(args, 'site', None) or ()
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise output.Failed('there is no dcn store %s; there are: %s' % (
            ', '.join(unknown), ', '.join(sorted(known))))
    with _at_home():
        scan = queued.store.scan()
    scan.records = [record for record in scan.records
                    if not chosen or record.site in chosen]
    # A key that is none of a site's may be about any.
    scan.unreadable = [entry for entry in scan.unreadable
                       if not chosen or entry.site not in (
                           set(known) - set(chosen))]
    return scan


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Read or change records; raise output.Failed if home is away."""
    try:
        yield
    except stores.AWAY as exc:
        home = process.get(queue.TaskQueue).home.name
        raise output.Failed(
            'store %s, which keeps the tasks: they cannot be read (%s); see '
            '"glance-dcn check --site %s"' % (home, exc, home),
            output.Exit.UNABLE) from exc


def _shown(record: tasks.Record) -> dict[str, typing.Any]:
    """Return a task or an intent as a row of a listing."""
    shown = {'store': record.site, 'image': record.image,
             'pool': record.pool, 'image_id': record.image_id,
             'created': formats.iso_time(record.created_at),
             'by': record.created_by}
    if isinstance(record, tasks.Task):
        return dict(shown, action=record.action.value,
                    attempts=record.retry_attempts, message=record.message)
    return dict(shown, action='write (%s)' % record.state.value, attempts=0,
                message='')
