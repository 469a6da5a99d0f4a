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

"""``glance-dcn site``: the clusters of the stores, and accepting another.

Those that work on a sites file are in :mod:`glance_dcn.cmd.cluster`.
"""

from __future__ import annotations

import argparse
import typing

import glance_store

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.cmd import cluster
from glance_dcn.cmd import output
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import site as sites
from glance_dcn.tasks import queue

if typing.TYPE_CHECKING:
    from collections.abc import Callable

_SHOW = """\
Connects to the cluster of a store of this node's Glance, as that does, and
says whether it is up, with its fsid and pool, or why it is not.
"""
_SHOW_END = """\
exit status:
  0  it is up
  1  it is not
  2  wrong arguments, no such store, or a configuration that cannot be used
"""
_ACCEPT = """\
Takes the cluster that a store has now for the right one. A store whose
cluster has another fsid than before is refused, as its conf file may name the
wrong one: accept it only where the site was rebuilt, and what it held is
lost.
"""
_ACCEPT_END = """\
exit status:
  0  it is accepted
  1  it cannot be reached
  2  wrong arguments, no such store, or a configuration that cannot be used
"""


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand.

    Its ``run(args)`` returns an exit status; the stores of glance_store must
    have been set up by then.
    """
    parser = subparsers.add_parser(
        'site', help='show a site, accept that it has another cluster, or '
        'prepare one for the sites file')
    commands = parser.add_subparsers(dest='site_command', required=True,
                                     metavar='COMMAND')
    _add(commands, 'show', _show, _SHOW, _SHOW_END,
         'connect to the cluster of a store and say how it is')
    _add(commands, 'accept', _accept, _ACCEPT, _ACCEPT_END,
         'take the cluster that a store has now for the right one, after its '
         'site was rebuilt')
    cluster.register(commands)


def _add(commands: output.Subparsers, name: str,
         run: Callable[[argparse.Namespace], int], description: str,
         epilog: str, summary: str) -> None:
    parser = output.add_command(commands, name, summary, description, epilog)
    parser.add_argument('store', metavar='STORE',
                        help='name of the store in enabled_backends')
    output.add_format(parser)
    parser.set_defaults(run=run)


def _show(args: argparse.Namespace) -> int:
    site = _find(args.store)
    if site is None:
        return _none(args, state=None, fsid=None, pool=None)
    error = None
    try:
        with site.open_pool():
            state, text = health.UP, 'up, fsid %s, pool %s' % (site.fsid,
                                                               site.pool)
    except errors.ClusterError as exc:
        state, error = site.health.state, str(exc)
        text = '%s: %s' % (state, error)
    _print(args, '%s: %s' % (site.name, text), error, state=state,
           fsid=site.fsid, pool=site.pool)
    return 0 if error is None else 1


def _accept(args: argparse.Namespace) -> int:
    site = _find(args.store)
    if site is None:
        return _none(args, fsid=None, before=None)
    try:
        before, now = process.get(
            cluster_identity.ClusterIdentities).accept(site)
    except errors.ClusterError as exc:
        _print(args, str(exc), str(exc), fsid=None, before=None)
        return 1
    _print(args, '%s: fsid %s is accepted; it was %s' % (
        site.name, now, before or 'not known'), fsid=now, before=before)
    return 0


def _print(args: argparse.Namespace, text: str, error: str | None = None,
           **fields: str | None) -> None:
    """Print what came of it: the text, or the rest as JSON."""
    print(text if args.format == 'table' else output.text(
        dict({'store': args.store}, **fields, error=error)))


def _none(args: argparse.Namespace, **fields: str | None) -> int:
    """Say that there is no such store, and return the exit status."""
    known = process.get(queue.TaskQueue).sites
    text = '%s is no store of type dcn; these are: %s' % (
        args.store, ', '.join(sorted(known)) or 'none')
    _print(args, text, text, **fields)
    return 2


def _find(store: str) -> sites.Site | None:
    """Return the site of a store, or None."""
    try:
        found = glance_store.get_store_from_store_identifier(store).site
    except (glance_store.UnknownScheme, AttributeError):
        return None
    return found if isinstance(found, sites.Site) else None
