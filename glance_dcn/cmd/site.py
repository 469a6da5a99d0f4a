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

import glance_store

from glance_dcn.ceph import errors
from glance_dcn.cmd import cluster
from glance_dcn.sites import site as sites
from glance_dcn.sites import wiring


def register(subparsers):
    """Add the subcommand.

    Its ``run(args)`` returns an exit status; the stores of glance_store must
    have been set up by then.

    :param subparsers: what argparse's add_subparsers() returned
    """
    parser = subparsers.add_parser(
        'site', help='show a site, accept that it has another cluster, or '
        'prepare one for the sites file')
    commands = parser.add_subparsers(dest='site_command', required=True,
                                     metavar='COMMAND')
    show = commands.add_parser(
        'show', help='connect to the cluster of a store and say how it is')
    show.add_argument('store', help='identifier of the store')
    show.set_defaults(run=_show)
    accept = commands.add_parser(
        'accept', help='take the cluster that a store has now for the right '
        'one, after its site was rebuilt')
    accept.add_argument('store', help='identifier of the store')
    accept.set_defaults(run=_accept)
    cluster.register(commands)


def _show(args):
    site = _find(args.store)
    if site is None:
        return 1
    try:
        with site.open_pool():
            print('%s: up, fsid %s, pool %s' % (site.name, site.fsid,
                                                site.pool))
        return 0
    except errors.ClusterError as exc:
        print('%s: %s: %s' % (site.name, site.health.state, exc))
        return 1


def _accept(args):
    site = _find(args.store)
    if site is None:
        return 1
    try:
        before, now = wiring.PROCESS.accept(site)
    except errors.ClusterError as exc:
        print(exc)
        return 1
    print('%s: fsid %s is accepted; it was %s' % (site.name, now,
                                                  before or 'not known'))
    return 0


def _find(store):
    """Return the site of a store, or None with a message."""
    try:
        found = glance_store.get_store_from_store_identifier(store).site
    except (glance_store.UnknownScheme, AttributeError):
        found = None
    if not isinstance(found, sites.Site):
        print('%s is no store of type dcn' % store)
        return None
    return found
