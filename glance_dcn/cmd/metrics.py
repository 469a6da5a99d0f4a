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

"""``glance-dcn metrics``: the figures of ``status`` for Prometheus."""

from __future__ import annotations

import argparse
import logging
import os
import threading
import time
import typing

from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.deploy import sitesfile
from glance_dcn.status import inventory

if typing.TYPE_CHECKING:
    import types

    from glance_dcn.status import metrics

LOG = logging.getLogger(__name__)

_DESCRIPTION = """\
Gives the figures of "glance-dcn status" in Prometheus's text format, and what
Glance's processes have counted: once, to the terminal or to a file for
node_exporter's textfile collector, or again and again at an HTTP endpoint.
Sites and images are those of the whole deployment: one node, central's say, is
enough. Counts and tasks are those of the Glances with this node's home.
"""
_EPILOG = """\
examples:
  glance-dcn metrics
  glance-dcn metrics --output /var/lib/node_exporter/glance_dcn.prom
  glance-dcn metrics --listen 127.0.0.1:9750

exit status:
  0  the figures were given
  2  wrong arguments, or a configuration that cannot be used
  3  the database cannot be read, the file cannot be written, or the address
     cannot be listened at
"""


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    parser = output.add_command(
        subparsers, 'metrics', 'give the figures of status to Prometheus',
        _DESCRIPTION, _EPILOG, run=run, set_up=node.set_up)
    node.add_sites(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--output', metavar='FILE', type=_file,
                       help='replace this file, whose name ends in .prom')
    where.add_argument('--listen', metavar='ADDRESS:PORT', type=_address,
                       help='serve them over HTTP until ended; there is no '
                            'password: choose an address that only '
                            'Prometheus reaches')
    parser.add_argument('--interval', type=output.seconds, default=60,
                        metavar='SECONDS', help='with --listen: time from '
                        'one look at everything to the next (60)')
    node.add_timeout(parser)


def _file(text: str) -> str:
    if not text.endswith('.prom'):
        raise argparse.ArgumentTypeError(
            '%s: node_exporter reads only files whose names end in .prom'
            % text)
    return os.path.abspath(text)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(':')
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError('%s is no ADDRESS:PORT' % text)
    return host.strip('[]'), int(port)


def run(args: argparse.Namespace) -> int:
    """Give the figures and return the exit status."""
    try:
        from glance_dcn.status import metrics
    except ImportError as exc:
        raise output.Failed('metrics need the Python package '
                            'prometheus_client') from exc
    # Wrong once is wrong for ever.
    targets = node.some_targets_of(args)
    try:
        if args.listen:
            _serve(args, metrics)
        elif args.output:
            metrics.write(node.take_snapshot(args, targets), args.output)
            os.chmod(args.output, 0o644)
    except OSError as exc:
        raise output.Failed(exc, output.Exit.UNABLE) from exc
    if not args.listen and not args.output:
        found = node.take_snapshot(args, targets)
        print(metrics.text(found).decode(), end='')
    return output.Exit.GOOD


def _serve(args: argparse.Namespace, metrics: types.ModuleType) -> None:
    """Look at everything now and then, and serve what was found last.

    :raises OSError: if the address cannot be listened at
    """
    latest = metrics.Latest()
    address, port = args.listen
    metrics.serve(latest, address, port)
    stop = threading.Event()
    database = inventory.Database()
    try:
        while not stop.is_set():
            began = time.monotonic()
            reason = _update(latest, args, database)
            if reason:
                output.complain(reason)
            stop.wait(max(1, args.interval - (time.monotonic() - began)))
    except KeyboardInterrupt:
        pass


def _update(latest: metrics.Latest, args: argparse.Namespace,
            database: inventory.Database) -> str | None:
    """Look at everything once, and return why that failed, or None.

    Whatever it was, the next round may succeed: a sites file that is being
    saved, say, is whole then. Until then no figures are served, for what was
    found before is not shown any longer than true.
    """
    try:
        latest.update(node.take_snapshot(args, node.some_targets_of(args),
                                         database=database))
    except (output.Failed, sitesfile.Mistake) as exc:
        reason = str(exc)
    except Exception as exc:
        LOG.debug('There are no figures', exc_info=True)
        reason = 'there are no figures (%s); see where with --debug' % (
            ': '.join(filter(None, (type(exc).__name__, str(exc)))))
    else:
        return None
    # One line, for a log.
    reason = ' '.join(reason.split())
    latest.fail(reason)
    return reason
