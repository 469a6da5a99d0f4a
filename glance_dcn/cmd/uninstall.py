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

"""``glance-dcn uninstall --check``: what stock Glance would have to know."""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.checks import registry as reports
from glance_dcn.cmd import formats
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.sites import home as homes
from glance_dcn.status import cluster as clusters
from glance_dcn.status import inventory
from glance_dcn.tasks import deployment as deployments
from glance_dcn.tasks import spool
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import registry

if typing.TYPE_CHECKING:
    from oslo_config import cfg

_DESCRIPTION = """\
Tells whether stock Glance could take over from this node's Glance now, with
stores of type rbd in place of dcn; what has to be done first, what has to be
changed in the configuration, and what is left behind, where. Nothing is
changed. The Glance of each site keeps records of its own: run it at a node of
each site, and at each node for what is on its disk.
"""
_EPILOG = """\
examples:
  glance-dcn uninstall --check
  glance-dcn uninstall --check -f csv

exit status:
  0  stock could take over, once the configuration is changed
  1  something has to be done first
  2  wrong arguments, or a configuration that cannot be used
  3  database or records cannot be read, so that it is not known
"""
_COLUMNS = formats.Columns(('kind', 'text'))
# What stock has in the place of our import plugins.
_PLUGINS = {'dcn_image_conversion': 'image_conversion',
            'dcn_distributed_staging': None}
# Seconds for the database to answer.
_ANSWER = 120


@dataclasses.dataclass
class _Report:
    """What was found, in sentences.

    :ivar first: what has to be done before stock takes over
    :ivar change: what has to be changed in the configuration for it
    :ivar left: what stays, and is in the way of nothing
    :ivar unread: what could not be read
    """

    first: list[str] = dataclasses.field(default_factory=list)
    change: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    unread: list[str] = dataclasses.field(default_factory=list)


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    parser = output.add_command(
        subparsers, 'uninstall', 'tell whether stock Glance could take over, '
        'and what would be left', _DESCRIPTION, _EPILOG, _COLUMNS, run=_run,
        set_up=node.set_up)
    parser.add_argument('--check', action='store_true', required=True,
                        help='look, and change nothing; there is no other '
                             'way')


def _run(args: argparse.Namespace) -> int:
    targets = node.targets(args.conf)
    if not targets:
        raise output.Failed('no store of enabled_backends is of type dcn or '
                            'rbd')
    report = _Report()
    _compare_options(args.conf, targets, report)
    _read_database({*(args.conf.enabled_backends or {}),
                    *(target.name for target in targets)}, report)
    _read_records(args.conf, targets, report)
    _read_staging(args.conf, report)
    for target in targets:
        report.left.append(
            'store %s: object %s in pool %s, and %s in the metadata of each '
            'image there' % (target.name, name_lock.OBJECT, target.pool,
                             records.KEY))
    found = dataclasses.asdict(report)
    formats.show(
        args, dict(found, ready=not (report.first or report.unread)),
        [{'kind': kind, 'text': text} for kind, texts in found.items()
         for text in texts], _text(report).split('\n'))
    if report.first:
        return output.Exit.BAD
    return output.Exit.UNABLE if report.unread else output.Exit.GOOD


def _text(report: _Report) -> str:
    parts = []
    for head, lines in (
            ('Could not be read', report.unread),
            ('To be done first', report.first),
            ('To be changed in the configuration', report.change),
            ('Left behind, in the way of nothing', report.left)):
        if lines:
            parts.append('\n'.join(['%s:' % head, *(
                '  %s' % line for line in lines)]))
    parts.append(
        'Stock Glance must not take over yet.' if report.first
        else 'Whether stock Glance could take over is not known.'
        if report.unread else 'Stock Glance could take over now.')
    return '\n\n'.join(parts)


def _compare_options(conf: cfg.ConfigOpts, targets: list[clusters.Target],
                     report: _Report) -> None:
    """Find the options that stock does not understand as they are."""
    enabled = dict(conf.enabled_backends or {})
    wanted = dict({name: 'rbd' if kind == 'dcn' else kind
                   for name, kind in enabled.items()},
                  **{target.name: 'rbd' for target in targets})
    if wanted != enabled:
        report.change.append('[DEFAULT] enabled_backends = %s' % ', '.join(
            '%s:%s' % item for item in wanted.items()))
    for target in targets:
        if target.name not in enabled:
            report.change.append(
                'section [%s] of its file in %s, to be written into '
                'glance-api.conf' % (target.name, conf.glance_dcn.sites_dir))
    plugins = list(conf.image_import_opts.image_import_plugins)
    stock = list(dict.fromkeys(filter(None, (
        _PLUGINS.get(plugin, plugin) for plugin in plugins))))
    if stock != plugins:
        report.change.append('[image_import_opts] image_import_plugins = [%s]'
                             % ','.join(stock))
    report.left.append('options that begin with dcn_, and those of '
                       '[glance_dcn]: stock does not read them')


def _read_database(stores_: set[str], report: _Report) -> None:
    """Read what Glance's database says.

    :param stores_: identifiers of this Glance's stores, of any type
    """
    try:
        totals, locked = inventory.Database().ask(
            lambda: (inventory.totals(), inventory.locked()), _ANSWER)
    except inventory.DatabaseUnavailable as exc:
        report.unread.append('the database of Glance (%s); see connection in '
                             '[database]' % exc)
        return
    if locked:
        report.first.append(
            'imports or copies of %d images go on: %s; wait for them, and see '
            '"glance-dcn status"' % (len(locked), reports.some(locked)))
    unknown = {store: number for store, number in totals.present.items()
               if store not in stores_}
    for store, number in sorted(unknown.items()):
        report.first.append(
            '%d images have locations in store %s, which this Glance does not '
            'have, or serves until it is empty: see "glance-dcn status"'
            % (number, store))
    staged = totals.images.get('uploading', 0)
    if staged:
        report.left.append('%d staged images, which can be imported as long '
                           'as the staging folders stay' % staged)


def _read_records(conf: cfg.ConfigOpts, targets: list[clusters.Target],
                  report: _Report) -> None:
    """Read what this node's Glance has recorded at home."""
    found = [site for site in (
        clusters.Cluster(target, deployments.deployment_id(conf))
        for target in targets) if site.keeps_records]
    if not found:
        report.left.append('no records: no store of this Glance keeps any')
        return
    site = found[0]
    try:
        site.connect()
        site.open()
        _count_tasks(stores.TaskStore(site.home, site.deployment).scan(),
                     report)
        _count_workers(registry.Registry(site.home, site.deployment), report)
        with site.open_namespace(homes.NAMESPACE) as ioctx:
            names = sorted(item.key for item in ioctx.list_objects())
        report.left.append(
            'store %s: namespace %s of pool %s, with the objects %s'
            % (site.name, homes.NAMESPACE, site.target.pool,
               ', '.join(names) or 'none'))
    except (errors.ClusterError, omap.Error) as exc:
        report.unread.append('the records in the pool of store %s (%s); see '
                             '"glance-dcn check --site %s"'
                             % (site.name, exc, site.name))
    finally:
        site.close()


def _count_tasks(scan: stores.Scan, report: _Report) -> None:
    deferred = [record for record in scan.records
                if isinstance(record, tasks.Task)]
    writes = [record for record in scan.records
              if isinstance(record, tasks.Intent)]
    if deferred:
        report.first.append(
            '%d deferred tasks, which stock would not do, for images %s; see '
            '"glance-dcn task list"' % (len(deferred), reports.some(
                record.image for record in deferred)))
    if writes:
        report.first.append(
            '%d writes of images go on, or ended within a minute: %s; wait, '
            'and see "glance-dcn task list --all"'
            % (len(writes), reports.some(record.image for record in writes)))
    if scan.own_unreadable:
        report.first.append(
            '%d records are unreadable: %s; see "glance-dcn task list"'
            % (len(scan.own_unreadable), reports.some(
                entry.key for entry in scan.own_unreadable)))
    if any(entry.foreign for entry in scan.unreadable):
        report.left.append('records of other deployments are beside those of '
                           'this one: do not remove the objects')


def _count_workers(known: registry.Registry, report: _Report) -> None:
    found = known.scan()
    for worker in found.workers:
        doing = found.tasks.get(worker.identity, [])
        if doing:
            report.first.append(
                'the worker at host %s has %d imports or copies that go on or '
                'were interrupted: wait for them; if it ended, start it, or '
                'run "glance-dcn worker recover" there'
                % (worker.host, len(doing)))
        if not worker.is_silent:
            report.left.append('a worker runs at host %s: it may go on beside '
                               'stock until it is stopped' % worker.host)
    for key, reason in found.unreadable.items():
        report.first.append('record %s of object %s is unreadable: %s'
                            % (key, registry.OBJECT, reason))


def _read_staging(conf: cfg.ConfigOpts, report: _Report) -> None:
    """Look at what is on the disk of this node."""
    staging = folder.path(conf)
    found = journal.of(conf)
    if not staging or found is None:
        return
    try:
        # It tells of no task where it may not be read.
        os.listdir(found.folder)
        names = found.tasks()
        kept = os.path.join(found.folder, spool.FOLDER)
        spooled = [name for name in (os.listdir(kept) if os.path.isdir(kept)
                                     else []) if name.endswith('.json')]
    except FileNotFoundError:
        return
    except OSError as exc:
        report.unread.append('the journal in staging folder %s (%s)'
                             % (staging, exc.strerror))
        return
    if names:
        report.first.append(
            'staging folder %s has the journal of %d imports or copies that '
            'go on or were interrupted: wait for them, or run "glance-dcn '
            'worker recover" once Glance is stopped' % (staging, len(names)))
    if spooled:
        report.first.append(
            '%s has %d files of deferred tasks that are not at home yet: run '
            'Glance while the site of the default store is up'
            % (kept, len(spooled)))
    if os.path.isdir(found.folder):
        report.left.append('folder %s; remove it once Glance is stopped'
                           % found.folder)
