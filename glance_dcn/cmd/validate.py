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

"""``glance-dcn validate``: the proof that a deployment does its work."""

from __future__ import annotations

import argparse
import logging
import signal
import time
import typing

from glance_dcn.checks import journey
from glance_dcn.cmd import formats
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.status import cluster

if typing.TYPE_CHECKING:
    from collections.abc import Callable

_COLUMNS = formats.Columns(('step', 'seconds', 'error'))
LOG = logging.getLogger(__name__)

_DESCRIPTION = """\
Takes a small image of its own through the whole deployment, as users, Nova
and Cinder would: imports it to central and a site, copies it to the others,
clones it at each, snapshots a disk at the last one back to a new image,
copies that home and out, and deletes all of it. Nothing is left behind, also
after a failure or Ctrl-C.

It logs in as OpenStack's clients do, with clouds.yaml (--os-cloud) or the OS_
variables; the user needs the right to import, to copy, and to set locations,
as an administrator has. The clusters are reached with the configuration of
this node's Glance, which must have all stores: run it at central.
"""
_EPILOG = """\
examples:
  . openrc; glance-dcn validate
  glance-dcn validate --os-cloud mycloud --site central --site dcn7
  glance-dcn validate --compute-user openstack --compute-pool vms

exit status:
  0  all steps went well
  1  a step failed; what it had made was removed
  2  wrong arguments, or a configuration that cannot be used
  3  something could not be removed, and is named
  130  it was interrupted; what it had made was removed
"""


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    parser = output.add_command(
        subparsers, 'validate', 'prove end to end that the deployment works',
        _DESCRIPTION, _EPILOG, _COLUMNS, run=run, set_up=node.set_up)
    node.add_sites(parser)
    parser.add_argument('--os-cloud', metavar='NAME',
                        help='cloud of clouds.yaml (OS_CLOUD, or the OS_ '
                             'variables)')
    parser.add_argument('--endpoint', metavar='URL', type=node.url,
                        help='of Glance, if not that of the catalog')
    parser.add_argument('--site', action='append', metavar='STORE',
                        help='only these sites, the central one first; may '
                             'be given several times (all stores)')
    parser.add_argument('--size', default=16, metavar='MIB',
                        type=output.between(2, 1024, 'MiB', int),
                        help='of the image (16)')
    parser.add_argument('--timeout', type=output.seconds, default=300,
                        metavar='SECONDS',
                        help='for each import or copy (300)')
    parser.add_argument('--compute-user', metavar='USER',
                        help='cephx user that clones, as Nova\'s does '
                             '(Glance\'s)')
    parser.add_argument('--compute-pool', metavar='POOL',
                        help='pool of the clones (that of the images)')


def run(args: argparse.Namespace) -> int:
    """Go all the way and return the exit status."""
    try:
        glance = journey.Api(_adapter(args))
        targets = _targets(args, glance)
    except Exception as exc:
        if args.debug:
            raise
        raise output.Failed(exc) from exc
    return go(args, journey.Journey(
        glance, targets, args.size, args.timeout, args.compute_user,
        args.compute_pool))


def go(args: argparse.Namespace, way: journey.Journey) -> int:
    """Go a way, which may be ended, and return the exit status."""
    # To be ended is no reason to leave something behind.
    before = {number: signal.getsignal(number)
              for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _go(args, way)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        way.close()


def _interrupt(_number: int, _frame: object) -> typing.NoReturn:
    raise KeyboardInterrupt


def _adapter(args: argparse.Namespace) -> typing.Any:
    """Return what sends requests to Glance."""
    import openstack
    connection = openstack.connect(cloud=args.os_cloud)
    if args.endpoint:
        connection.image.endpoint_override = (
            args.endpoint.rstrip('/').removesuffix('/v2') + '/v2')
    return connection.image


def _targets(args: argparse.Namespace,
             glance: journey.Api) -> list[cluster.Target]:
    """Return where the way leads, the central site first."""
    stores = glance.stores()
    known = {target.name: target for target
             in node.choose(node.targets_of(args), args.site)}
    order = list(dict.fromkeys(args.site or stores))
    found = [known[name] for name in order if name in known]
    strange = [name for name in order
               if name not in stores or name not in known]
    if args.site and strange:
        raise output.Failed('no store of Glance\'s that takes images: %s; '
                            'there are %s' % (', '.join(strange),
                                              ', '.join(stores)))
    if not found:
        raise output.Failed('Glance has no store that this node\'s '
                            'configuration has too: Glance has %s'
                            % ', '.join(stores))
    return found


def _go(args: argparse.Namespace, way: journey.Journey) -> int:
    steps: list[dict[str, typing.Any]] = []
    left: list[str] = []
    status = output.Exit.GOOD
    shown = formats.for_people(args)
    try:
        for what, step in way.steps():
            status = _step(steps, what, step, shown)
            if status:
                break
    except KeyboardInterrupt:
        status = output.Exit.INTERRUPTED
    finally:
        if status or len(steps) < len(way.steps()):
            left = _clean(way, shown)
    if not shown:
        formats.show(args, {'steps': steps, 'left': left}, steps, notes=left)
    return output.Exit.UNABLE if left else status


def _step(steps: list[dict[str, typing.Any]], what: str,
          function: Callable[[], None], shown: bool) -> output.Exit:
    began = time.monotonic()
    if shown:
        print('%s ...' % what, end=' ', flush=True)
    error = None
    try:
        function()
    except KeyboardInterrupt:
        if shown:
            print('interrupted')
        raise
    except Exception as exc:
        # Glance, Keystone or what stands before them went away, say: what
        # was made is removed all the same, and it is told what stays.
        LOG.debug('To %s failed', what, exc_info=True)
        kind = ('' if isinstance(exc, journey.FAILURES)
                else '%s: ' % type(exc).__name__)
        error = ' '.join((kind + str(exc)).split())
    seconds = time.monotonic() - began
    steps.append({'step': what, 'seconds': round(seconds, 3),
                  'error': error})
    if shown:
        print('%s (%.1f s)' % (formats.printable('FAILED: %s' % error)
                               if error else 'ok', seconds))
    return output.Exit.BAD if error else output.Exit.GOOD


def _clean(way: journey.Journey, shown: bool) -> list[str]:
    """Remove what there is, and return what could not be."""
    if shown:
        print('removing what was made ...', end=' ', flush=True)
    # It ends within minutes; to be interrupted once more would leave it half
    # done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    left = way.clean()
    if shown:
        print('done' if not left else 'NOT ALL OF IT')
        for line in left:
            print(formats.printable('  %s' % line))
    return left
