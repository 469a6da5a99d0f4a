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

"""``glance-dcn owed``: the work that is owed to sites."""

import argparse
from concurrent import futures
import dataclasses

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import omap
from glance_dcn.cmd import output
from glance_dcn.sites import intents
from glance_dcn.sites import owed

#: Exit status: nothing is owed, some work is, or it cannot be told because
#: the records in the default site cannot be read.
NOTHING, SOME, UNREADABLE = 0, 1, 3

_DESCRIPTION = """\
Shows the work that is owed to sites: removals that were accepted while the
site was away, half-written images of dead writers, and images in the trash
that still have clones. Glance does it by itself once it can: only work that
stays for long, with an error beside it, needs somebody to look.
"""
_EPILOG = """\
exit status:
  0  nothing is owed
  1  some work is owed
  2  wrong arguments, or a configuration that cannot be used
  3  the default site cannot be read, so that it cannot be told
"""
_COLUMNS = ('store', 'job', 'image', 'since', 'attempts', 'by', 'error')


def register(subparsers):
    """Add the subcommand to those of the command.

    :param subparsers: what argparse's add_subparsers() returned
    """
    parser = subparsers.add_parser(
        'owed', help='show the work that is owed to sites',
        description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    output.add_format(parser)
    parser.add_argument('--site', action='append', metavar='STORE',
                        help='only of this store; may be given several times')
    parser.add_argument('--all', action='store_true',
                        help='also what living writers have begun')
    parser.set_defaults(run=run)


def run(args):
    """Show the work and return the exit status."""
    sites = [site for name, site in sorted(owed.ledger.sites.items())
             if not args.site or name in args.site]
    found, unread = collect(sites, args.all)
    if args.format == 'json':
        print(output.text({'owed': found, 'unread': unread}))
    else:
        _print_table(found, unread)
    default = owed.ledger.default
    if any(default and entry['place'] == default.name for entry in unread):
        return UNREADABLE
    return SOME if found else NOTHING


def collect(sites, everything=False):
    """Return what is owed to sites, and what cannot be read.

    :param sites: list of :class:`glance_dcn.sites.site.Site`
    :param everything: also what living writers have begun
    :returns: tuple of two lists of dicts: the fields of records, and the
        places that cannot be read
    """
    found, unread = [], []
    with futures.ThreadPoolExecutor(16) as pool:
        for owes, silent in pool.map(
                lambda site: _collect(site, everything), sites):
            found += owes
            unread += silent
    return found, unread


def _collect(site, everything):
    found, unread = [], []
    for place in (*owed.ledger.places(site),
                  *owed.ledger.spare_places(site)):
        try:
            found += [_shown(site, place, record)
                      for record in place.records()
                      if everything or not _in_progress(site, record)]
        except (errors.ClusterError, omap.Error) as exc:
            unread.append({'store': site.name, 'place': place.site.name,
                           'error': str(exc)})
    return found, unread


def _in_progress(site, record):
    if record.writer is None:
        return False
    with site.open_pool() as ioctx:
        return intents.is_alive(ioctx, record.writer)


def _shown(site, place, record):
    return dict(dataclasses.asdict(record), store=site.name,
                place=place.site.name,
                since=health.format_time(record.since),
                tried=record.tried and health.format_time(record.tried),
                published=record.published
                and health.format_time(record.published))


def _print_table(found, unread):
    if found:
        print(output.table(_COLUMNS, [[entry[name] or None
                                       for name in _COLUMNS]
                                      for entry in found]))
    else:
        print('Nothing is owed to any site.')
    for entry in unread:
        print('What is kept at %(place)s for %(store)s cannot be read: '
              '%(error)s' % entry)
