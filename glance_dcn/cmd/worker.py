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


"""``glance-dcn worker``: workers of the site, and recovery of one."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pwd
import typing

from oslo_config import cfg

from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.cmd import formats
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import recovery
from glance_dcn.runtime import process
from glance_dcn.tasks import queue
from glance_dcn.workers import identity as identities
from glance_dcn.workers import registry

_RECOVER = """\
Rolls back imports and copies that were interrupted when a process of this
worker died, so that they can be repeated at once; active ones are left alone.
For before the worker starts, in an init container or ExecStartPre: a running
worker does it by itself, and resumes what it can. Run it as the user that
Glance runs as.
"""
_EPILOG = """\
examples:
  glance-dcn worker recover
  ExecStartPre=/usr/bin/glance-dcn worker recover
      In the unit of Glance, whose user it is run as.

exit status:
  0  nothing was interrupted, or all of it was rolled back
  1  some of it cannot be rolled back now; the worker tries it again, or that
     of another release does
  2  wrong arguments, or a configuration that cannot be used
"""
_LIST = """\
Shows the Glance workers of this node's site, what is wrong with their
worker_self_reference_url, and how many imports and copies each has. Workers
send a heartbeat every few seconds, to the cluster of their default store; one
that has sent none for a minute is silent. Those of other sites are shown
there.
"""
_LIST_EPILOG = """\
examples:
  glance-dcn worker list
  glance-dcn worker list -f csv -c host -c state -c doing

exit status:
  0  no worker is silent, and none has a self reference known to be wrong
  1  a worker is silent, or its worker_self_reference_url is wrong, or a
     record is unreadable
  2  wrong arguments, or a configuration that cannot be used
  3  the default site cannot be read, so that neither is known
"""
_RECOVERED = formats.Columns(('image', 'task', 'method', 'phase', 'outcome'))
_COLUMNS = formats.Columns(
    ('site', 'host', 'url', 'state', 'reference', 'seen', 'doing', 'release',
     'identity', 'faults', 'since', 'staging', 'taken_by'),
    ('site', 'host', 'url', 'state', 'reference', 'seen', 'doing', 'release',
     'identity'), {'seen': formats.time, 'since': formats.time})


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommands to those of the command."""
    commands = output.add_group(
        subparsers, 'worker', 'show the Glance workers of this site, or roll '
        'back the imports of one of this node that died')
    output.add_command(
        commands, 'recover', 'roll back imports and copies that were '
        'interrupted', _RECOVER, _EPILOG, _RECOVERED, run=_recover)
    output.add_command(
        commands, 'list', 'show the workers of this site, and what is wrong '
        'with them', _LIST, _LIST_EPILOG, _COLUMNS, run=_list)


def _recover(args: argparse.Namespace) -> int:
    node.refuse_without_stores(process.get(queue.TaskQueue))
    found, path = journal.of(cfg.CONF), folder.path(cfg.CONF)
    wrong = (_why_not_me(path) if path
             else 'no staging folder is configured')
    if wrong or found is None:
        raise output.Failed(wrong)
    outcomes = recovery.recover(found)
    _forget(path, found)
    rows = [{'image': entry.image, 'task': entry.task, 'method': entry.method,
             'phase': entry.phase, 'outcome': outcome}
            for entry, outcome in outcomes]
    formats.show(args, rows, rows, [
        '%s  %s (%s): %s' % (entry.image, entry.method, entry.phase,
                             outcome or 'cannot be rolled back now')
        for entry, outcome in outcomes] or ['Nothing was interrupted.'])
    others = found.of_other_release()
    for place, other in others.items():
        output.complain('%s is left alone: %s' % (place, other.reason))
    return output.Exit.BAD if others or any(
        outcome is None for _entry, outcome in outcomes) else output.Exit.GOOD


def _forget(staging: str | None, found: journal.Journal) -> None:
    """Have the peers know of nothing that is in the journal no more.

    Where they cannot be told now, the worker does it when it starts.
    """
    tasks = process.get(queue.TaskQueue)
    if staging is None or tasks.home.site is None:
        return
    records = registry.Registry(tasks.home, tasks.store.deployment)
    with contextlib.suppress(errors.ClusterError, omap.Error, OSError,
                             ValueError):
        own = identities.WorkerIdentity(staging).known_uuid() or ''
        for entry in records.tasks(own):
            if entry.task not in found.tasks():
                records.forget(own, entry.task)


def _why_not_me(staging: str) -> str | None:
    """Return why root must not recover a staging folder, or None."""
    try:
        uid = os.stat(staging).st_uid
    except FileNotFoundError:
        return None
    if os.geteuid() or not uid:
        return None
    owner = str(uid)
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(uid).pw_name
    return ('the staging folder %s is that of user %s, who could not read '
            'what root writes there: run this as that user' % (staging,
                                                               owner))


def _list(args: argparse.Namespace) -> int:
    tasks = process.get(queue.TaskQueue)
    node.refuse_without_home(tasks)
    records = registry.Registry(tasks.home, tasks.store.deployment)
    found, unread = [], []
    unreadable: dict[str, str] = {}
    try:
        scan = records.scan()
        unreadable = scan.unreadable
        found = [_shown(worker, scan.tasks.get(worker.identity, []))
                 for worker in scan.workers]
    except (errors.ClusterError, omap.Error) as exc:
        unread = [{'site': records.home.name, 'error': str(exc)}]
    formats.show(
        args, {'workers': found, 'unread': unread, 'unreadable': unreadable},
        found,
        None if found else ['No worker is known.'] * (not unread), [
            *('%s at host %s: %s' % (entry['identity'], entry['host'], fault)
              for entry in found for fault in entry['faults']),
            *('Record %s is left alone: %s' % entry
              for entry in unreadable.items()),
            *('The workers of %(site)s cannot be read: %(error)s' % entry
              for entry in unread)])
    if unread:
        return output.Exit.UNABLE
    return output.Exit.BAD if unreadable or any(
        entry['state'] != 'up' or entry['reference'] == registry.WRONG
        for entry in found) else output.Exit.GOOD


def _shown(worker: registry.Worker,
           entries: list[journal.Entry]) -> dict[str, typing.Any]:
    state = 'silent' if worker.is_silent else 'up'
    return dict(
        dataclasses.asdict(worker),
        state='taken over' if worker.taken_by else state,
        since=formats.iso_time(worker.since),
        seen=formats.iso_time(worker.seen), doing=len(entries),
        tasks=[dataclasses.asdict(entry) for entry in entries])
