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

"""``glance-dcn status``: images by sites, sites, and what goes on."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import typing

from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.deploy import sitesfile
from glance_dcn.status import inventory
from glance_dcn.status import poll
from glance_dcn.status import snapshot
from glance_dcn.tasks import deployment as deployments
from glance_dcn.tasks import task as tasks

#: Exit status: every site is up and there are no deferred tasks, or not.
GOOD, BAD, WRONG = 0, 1, 2

_DESCRIPTION = """\
Shows where images are, how sites are, the deferred tasks for them, and the
imports and copies that go on. It reads Glance's database and asks every site
at the same time; nothing is changed.

Images are listed where there are few of them, or where you say which.
"""
_EPILOG = """\
how an image is at a site:
  present   it is there
  copying   it is being written there, with the percent where that is known
  deleting  it was deleted while the site was away, and will be removed
  failed    the last attempt to write it there failed
  lost      Glance has a location there, and it is not in the cluster
  missing   it is not there

examples:
  glance-dcn status
  glance-dcn status --missing dcn7         usable images that dcn7 lacks
  glance-dcn status --name fedora --watch

exit status:
  0  every site is up, there are no deferred tasks, and no image is lost
  1  some site is not up, there are deferred tasks, or they cannot be read, or
     an image is lost, or in a store that was taken away
  2  wrong arguments, or configuration or database cannot be used
"""
_LIMIT = 50
# Of images that were not deleted.
_STATUSES = ('active', 'deactivated', 'importing', 'killed', 'pending_delete',
             'queued', 'saving', 'uploading')
_COUNTED = (snapshot.PRESENT, snapshot.COPYING, snapshot.LEFT, snapshot.LOST,
            snapshot.MISSING)
# Sites that have a column each; more of them are put into words.
_COLUMNS = 8
_CLEAR = '\033[2J\033[H'


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    parser = output.add_command(
        subparsers, 'status', 'show which images are where, and how sites are',
        _DESCRIPTION, _EPILOG)
    output.add_format(parser)
    node.add_sites(parser)
    filters = parser.add_argument_group('which images')
    filters.add_argument('--image', type=output.image, metavar='ID',
                         help='this one')
    filters.add_argument('--name', metavar='TEXT',
                         help='those whose names have this in them')
    filters.add_argument('--owner', metavar='PROJECT', help='of this project')
    filters.add_argument('--status', choices=_STATUSES, metavar='STATUS',
                         help='of this status: %s' % ', '.join(_STATUSES))
    filters.add_argument('--site', metavar='STORE',
                         help='those that this site has')
    filters.add_argument('--missing', metavar='STORE',
                         help='those that this site does not have')
    filters.add_argument('--all', action='store_true', help='all of them')
    filters.add_argument('--limit', type=output.count, default=_LIMIT,
                         metavar='N',
                         help='list N images at most (%d)' % _LIMIT)
    node.add_timeout(parser)
    parser.add_argument('--watch', nargs='?', type=output.seconds, const=5,
                        metavar='SECONDS',
                        help='show it again and again, every 5 seconds')
    parser.set_defaults(run=run, set_up=node.set_up)


def run(args: argparse.Namespace) -> int:
    """Show how everything is and return the exit status."""
    wanted: inventory.Filter | None = inventory.Filter(**{
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(inventory.Filter)})
    try:
        targets = node.some_targets_of(args)
        node.choose(targets, [name for name in (args.site, args.missing)
                              if name])
    except (ValueError, sitesfile.Mistake) as exc:
        output.complain(exc)
        return WRONG
    if wanted == inventory.Filter() and not args.all:
        wanted = None
    found = None
    try:
        while True:
            found = snapshot.take(targets, args.timeout, wanted, args.limit,
                                  deployments.deployment_id(args.conf))
            if not found.exists:
                output.complain('there is no image %s; "glance-dcn status '
                                '--all" lists all' % args.image)
                return WRONG
            if (args.watch and args.format == 'table'
                    and sys.stdout.isatty()):
                print(_CLEAR, end='')
            print(_json(found) if args.format == 'json' else _text(found))
            if args.image and not found.number:
                output.complain(
                    'image %s is not among those that are meant; "glance-dcn '
                    'status --image %s" alone shows where it is'
                    % (args.image, args.image))
            if not args.watch:
                return GOOD if found.healthy else BAD
            sys.stdout.flush()
            time.sleep(args.watch)
    except KeyboardInterrupt:
        return GOOD if found and found.healthy else BAD
    except inventory.DatabaseUnavailable as exc:
        output.complain(node.why_no_database(exc))
        return WRONG


def _json(found: snapshot.Snapshot) -> str:
    images = None if found.images is None else [
        {'id': image.id, 'name': image.name, 'status': image.status,
         'owner': image.owner, 'size': image.size, 'sites': {
             site.name: _state(found, image, site)
             for site in found.sites}} for image in found.images]
    return output.text({
        'sites': [dict(_plain(site),
                       **found.counts(site)) for site in found.sites],
        'strays': found.strays, 'elsewhere': found.elsewhere,
        'totals': {'images': found.totals.images,
                   'bytes': found.totals.data},
        'transfers': found.transfers, 'images': images,
        'images_meant': found.number, 'seconds': round(found.seconds, 3)},
        compact=found.number > _LIMIT)


def _plain(site: poll.SiteStatus) -> dict[str, typing.Any]:
    """Return what is known of a site, without the names of all images."""
    return {field.name: getattr(site, field.name)
            for field in dataclasses.fields(site) if field.name != 'names'}


def _text(found: snapshot.Snapshot) -> str:
    parts = [_sites(found)]
    if found.transfers:
        parts.append(output.table(
            ('transfer of image', 'started', 'updated', 'progress'),
            [(transfer.image, transfer.begun, transfer.heard,
              transfer.message) for transfer in found.transfers]))
    if found.images:
        parts.append(_images(found, found.images))
    parts.append(_summary(found))
    return '\n\n'.join(parts)


def _sites(found: snapshot.Snapshot) -> str:
    rows = [(site.name, site.state,
             site.round_trip and '%.1f ms' % (1000 * site.round_trip),
             output.size(site.free),
             *(found.counts(site)[state] for state in _COUNTED),
             _tasks(site), site.reason) for site in found.sites]
    rows += [(store, 'taken away', None, None, number, None, None, None, None,
              None, 'images have locations in this store, which Glance has '
              'no more, or serves until it is empty: delete them there, or '
              'set it up again')
             for store, number in found.strays.items()]
    return output.table(('site', 'state', 'round trip', 'free', *_COUNTED,
                         'tasks', 'reason'), rows)


def _tasks(site: poll.SiteStatus) -> str | None:
    if site.tasks is None:
        return None
    return ', '.join('%d %s' % (site.tasks[action.value], action.value)
                     for action in tasks.Action
                     if site.tasks.get(action.value)) or '0'


def _images(found: snapshot.Snapshot, images: list[inventory.Image]) -> str:
    if len(found.sites) <= _COLUMNS:
        heads = ['image', 'name', 'status'] + [site.name
                                               for site in found.sites]
        return output.table(heads, [
            [image.id, image.name, image.status]
            + [_state(found, image, site) for site in found.sites]
            for image in images])
    return output.table(
        ('image', 'name', 'status', 'present', 'elsewhere'),
        [(image.id, image.name, image.status,
          '%d of %d' % (len(image.present), len(found.sites)),
          _elsewhere(found, image)) for image in images])


def _state(found: snapshot.Snapshot, image: inventory.Image,
           site: poll.SiteStatus) -> str:
    state, percent = found.state(image, site)
    return state if percent is None else '%s %d %%' % (state, percent)


def _elsewhere(found: snapshot.Snapshot, image: inventory.Image) -> str:
    """Return where an image is not, and how it is there, in words."""
    states: dict[str, list[str]] = {}
    for site in found.sites:
        state = _state(found, image, site)
        if state != snapshot.PRESENT:
            states.setdefault(state, []).append(site.name)
    return '; '.join('%s: %s' % (state, _some(names))
                     for state, names in sorted(states.items()))


def _some(names: list[str]) -> str:
    if len(names) <= _COLUMNS:
        return ', '.join(names)
    return '%s and %d more' % (', '.join(names[:_COLUMNS - 2]),
                               len(names) - _COLUMNS + 2)


def _summary(found: snapshot.Snapshot) -> str:
    number = sum(found.totals.images.values())
    line = '%d %s (%s), %s' % (
        number, 'image' if number == 1 else 'images', ', '.join(
            '%d %s' % (count, status) for status, count
            in sorted(found.totals.images.items())) or 'none',
        output.size(found.totals.data))
    others = [name for name in found.elsewhere if name not in found.strays]
    if others:
        line += '; also in stores that this node does not have: %s' % (
            _some(others))
    if found.images is None:
        line += '; --all, --name, --missing and others list them'
    elif len(found.images) < found.number:
        line += '; %d of %d that are meant are listed, see --limit' % (
            len(found.images), found.number)
    return line
