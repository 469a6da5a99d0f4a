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

from glance_dcn.cmd import formats
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.status import inventory
from glance_dcn.status import poll
from glance_dcn.status import snapshot
from glance_dcn.tasks import task as tasks

_DESCRIPTION = """\
Shows where images are, how sites are, the deferred tasks for them, and the
imports and copies that go on. It reads Glance's database and asks every site
at the same time; nothing is changed.

Images are listed where there are few of them, or where you say which. In the
formats for programs there are the sites, or the images if you say which.
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
  glance-dcn status --problems --all       what is wrong, of all images
  glance-dcn status -f value -c site -c lost
  glance-dcn status --missing dcn7 -f value -c image

exit status:
  0  every site is up, there are no deferred tasks, and no image is lost
  1  some site is not up, there are deferred tasks, or they cannot be read, or
     records are unreadable, or an image is lost, or in a store that was taken
     away: there are problems
  2  wrong arguments, no such image, or a configuration that cannot be used
  3  the database cannot be read
"""
_LIMIT = 50
# More than there are.
_ALL = 1 << 31
# Of images that were not deleted.
_STATUSES = ('active', 'deactivated', 'importing', 'killed', 'pending_delete',
             'queued', 'saving', 'uploading')
_COUNTED = (snapshot.PRESENT, snapshot.COPYING, snapshot.LEFT, snapshot.LOST,
            snapshot.MISSING)
# Sites that have a column each; more of them are put into words.
_MOST = 8
_IMAGES = formats.Columns(('image', 'name', 'status', 'owner', 'size',
                           *map(str, snapshot.ImageState)))
_SITES = formats.Columns(
    ('site', 'state', 'round_trip', 'free', *map(str, _COUNTED), 'tasks',
     'reason', 'total', 'fsid', 'pool'),
    ('site', 'state', 'round_trip', 'free', *map(str, _COUNTED), 'tasks',
     'reason'), {
        'round_trip': lambda seconds: '%.1f ms' % (1000 * seconds),
        'free': formats.size, 'total': formats.size,
        'tasks': lambda tasks: ', '.join(
            '%d %s' % (number, action) for action, number in tasks.items()
            if number) or '0'},
    instead=(lambda args: _wanted(args) is not None, _IMAGES))
_TAKEN_AWAY = ('images have locations in this store, which Glance has no '
               'more, or serves until it is empty: delete them there, or set '
               'it up again')
_CLEAR = '\033[2J\033[H'


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    parser = output.add_command(
        subparsers, 'status', 'show which images are where, and how sites are',
        _DESCRIPTION, _EPILOG, _SITES, run=run, set_up=node.set_up)
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
    parser.add_argument('--problems', action='store_true',
                        help='show only what is wrong: sites, and lost '
                             'images; with --all, of all images')
    node.add_timeout(parser)
    parser.add_argument('--watch', nargs='?', type=output.seconds, const=5,
                        metavar='SECONDS',
                        help='show it again and again, every 5 seconds')


def _wanted(args: argparse.Namespace) -> inventory.Filter | None:
    """Return which images are wanted; None: all, if there are few."""
    wanted = inventory.Filter(**{
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(inventory.Filter)})
    return None if wanted == inventory.Filter() and not args.all else wanted


def run(args: argparse.Namespace) -> int:
    """Show how everything is and return the exit status."""
    wanted = _wanted(args)
    targets = node.some_targets_of(args)
    node.choose(targets, [*filter(None, (args.site, args.missing))])
    # Which of them are lost is known when all have been looked at.
    limit = args.limit if wanted is None or not args.problems else _ALL
    found = None
    try:
        while True:
            found = node.take_snapshot(args, targets, wanted, limit)
            if not found.exists:
                raise output.Failed('there is no image %s; "glance-dcn status '
                                    '--all" lists all' % args.image)
            if (args.watch and formats.for_people(args)
                    and sys.stdout.isatty()):
                print(_CLEAR, end='')
            _print(args, found)
            if args.image and not found.number:
                output.complain(
                    'image %s is not among those that are meant; "glance-dcn '
                    'status --image %s" alone shows where it is'
                    % (args.image, args.image))
            if not args.watch:
                break
            sys.stdout.flush()
            time.sleep(args.watch)
    except KeyboardInterrupt:
        # That is how a watch ends.
        pass
    return output.Exit.GOOD if found and found.healthy else output.Exit.BAD


def _print(args: argparse.Namespace, found: snapshot.Snapshot) -> None:
    """Print a snapshot, or what is wrong in it."""
    sites, images = found.sites, found.images
    if args.problems:
        sites = [site for site in sites if found.is_wrong(site)]
        if images is not None:
            images = [*filter(found.is_lost, images)]
    number = found.number if images is None or not args.problems else len(
        images)
    images = images and images[:args.limit]
    site_rows = _site_rows(found, sites)
    parts = [_SITES.table(site_rows) if site_rows else '',
             _transfers(found) if found.transfers and not args.problems
             else '', _images(found, images) if images else '',
             _problems(found, images, number) if args.problems
             else _summary(found)]
    # With an empty line between them.
    people = [line for part in parts if part for line in ('', part)][1:]
    # Programs are told what they do not get.
    notes = [] if formats.for_people(args) else _left_out(images, number)
    formats.show(
        args, _document(found, sites, images, number), site_rows
        if _wanted(args) is None else _image_rows(found, images or []),
        people, notes, compact=number > _LIMIT)


def _document(found: snapshot.Snapshot, sites: list[poll.SiteStatus],
              images: list[inventory.Image] | None,
              number: int) -> dict[str, typing.Any]:
    return {
        # Without the names of all images.
        'sites': [dict({name: value for name, value in vars(site).items()
                        if name != 'names'}, **found.counts(site))
                  for site in sites],
        'strays': found.strays, 'elsewhere': found.elsewhere,
        'totals': {'images': found.totals.images,
                   'bytes': found.totals.data},
        'transfers': found.transfers, 'images': None if images is None else [
            {'id': image.id, 'name': image.name, 'status': image.status,
             'owner': image.owner, 'size': image.size, 'sites': {
                 site.name: _state(found, image, site)
                 for site in found.sites}} for image in images],
        'images_meant': number, 'seconds': round(found.seconds, 3)}


def _site_rows(found: snapshot.Snapshot,
               sites: list[poll.SiteStatus]) -> list[formats.Row]:
    rows: list[formats.Row] = [
        dict(vars(site), site=site.name, tasks=_tasks(site),
             **found.counts(site))
        for site in sites]
    return rows + [
        dict(dict.fromkeys(_SITES.names), site=store, state='taken away',
             present=number, reason=_TAKEN_AWAY)
        for store, number in found.strays.items()]


def _tasks(site: poll.SiteStatus) -> dict[str, int] | None:
    """Return the numbers of a site's tasks by what they are."""
    if site.tasks is None:
        return None
    found = {action.value: site.tasks.get(action.value, 0)
             for action in tasks.Action}
    return dict(found, unreadable=site.unreadable)


def _image_rows(found: snapshot.Snapshot,
                images: list[inventory.Image]) -> list[formats.Row]:
    """Return images, with the names of sites by how they are there."""
    rows: list[formats.Row] = []
    for image in images:
        names: dict[str, list[str]] = {
            state.value: [] for state in snapshot.ImageState}
        for site in found.sites:
            names[found.state(image, site)[0].value].append(site.name)
        rows.append(dict(vars(image), image=image.id, **names))
    return rows


def _transfers(found: snapshot.Snapshot) -> formats.Table:
    return formats.Table(
        ('transfer of image', 'started', 'updated', 'progress'),
        [(transfer.image, formats.time(transfer.begun),
          formats.time(transfer.heard), transfer.message)
         for transfer in found.transfers])


def _images(found: snapshot.Snapshot,
            images: list[inventory.Image]) -> formats.Table:
    if len(found.sites) <= _MOST:
        names = [site.name for site in found.sites]
        return formats.Table(
            ['image', 'name', 'status', *names],
            [[image.id, image.name, image.status,
              *(_state(found, image, site) for site in found.sites)]
             for image in images], names)
    return formats.Table(
        ('image', 'name', 'status', 'present', 'elsewhere'),
        [(image.id, image.name, image.status,
          '%d of %d' % (len(image.present), len(found.sites)),
          _elsewhere(found, image)) for image in images], ())


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
    if len(names) <= _MOST:
        return ', '.join(names)
    return '%s and %d more' % (', '.join(names[:_MOST - 2]),
                               len(names) - _MOST + 2)


def _summary(found: snapshot.Snapshot) -> str:
    number = sum(found.totals.images.values())
    line = '%d %s (%s), %s' % (
        number, 'image' if number == 1 else 'images', ', '.join(
            '%d %s' % (count, status) for status, count
            in sorted(found.totals.images.items())) or 'none',
        formats.size(found.totals.data))
    others = [name for name in found.elsewhere if name not in found.strays]
    if others:
        line += '; also in stores that this node does not have: %s' % (
            _some(others))
    if found.images is None:
        line += '; --all, --name, --missing and others list them'
    return '; '.join([line, *_left_out(found.images, found.number)])


def _problems(found: snapshot.Snapshot,
              images: list[inventory.Image] | None, number: int) -> str:
    """Return what there is to say beside the problems, or an empty text."""
    lines = [] if not found.healthy else ['nothing is wrong']
    if images is None:
        lines.append('images were counted, and not looked for one by one: '
                     '--all does that')
    return '; '.join(lines + _left_out(images, number)).capitalize()


def _left_out(images: list[inventory.Image] | None,
              number: int) -> list[str]:
    return [] if images is None or len(images) >= number else [
        '%d of %d that are meant are listed, see --limit' % (len(images),
                                                             number)]
