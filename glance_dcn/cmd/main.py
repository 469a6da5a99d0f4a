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

"""The command ``glance-dcn``: what an operator asks of the sites.

Most of it reads Glance's own configuration, and is run where Glance runs, as
a user who can read that configuration and the keyrings. What works on a sites
file needs neither.
"""

from __future__ import annotations

import argparse
from collections import abc
import importlib
from importlib import metadata
import logging
import os
import sys
import warnings

from oslo_config import cfg

from glance_dcn.ceph import errors
from glance_dcn.checks import access
from glance_dcn.cmd import check
from glance_dcn.cmd import complete
from glance_dcn.cmd import config
from glance_dcn.cmd import formats
from glance_dcn.cmd import metrics
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.cmd import site
from glance_dcn.cmd import status
from glance_dcn.cmd import task
from glance_dcn.cmd import uninstall
from glance_dcn.cmd import validate
from glance_dcn.cmd import worker
from glance_dcn.deploy import files
from glance_dcn.deploy import sitesfile
from glance_dcn.runtime import process
from glance_dcn.tasks import queue

_DESCRIPTION = """\
Shows how the sites of Glance are, makes their configuration out of one sites
file, and cleans up after workers that died.
"""
_EPILOG = """\
examples:
  glance-dcn check                   is this node, and each site, in order?
  glance-dcn status                  which images are where, who is away?
  glance-dcn config render --help    from a sites file to glance-api.conf

exit status:
  0    done, or all is as it should be
  1    the answer is that something differs, is left, or is not well
  2    wrong arguments, or a configuration or a file that cannot be used
  3    what is needed does not answer, or cannot be read, written or removed
  4    another process runs the tasks
  130  interrupted
  141  the reader of the output has gone

"glance-dcn COMMAND --help" has examples, and tells which of these the command
has, and why. Commands that list or show take --format, for programs csv, json,
value or yaml, and --column, as those of OpenStack do; colours are for
terminals, unless NO_COLOR is set. "man glance-dcn" has all of it.

Most commands read Glance's own configuration: run them where Glance runs, as
root or as the user that it runs as. config, site import and site key need a
sites file in place of that.
"""

# Modules of the subcommands, each with register(subparsers). What they need
# before they are run is set up by set_up(args), their own or the one below.
_COMMANDS = (check, complete, config, metrics, site, status, task, uninstall,
             validate, worker)
# What says why a command cannot do its work.
_REASONS = (access.NoSuchUser, errors.ClusterError, files.Error,
            output.Failed, sitesfile.Mistake)


def main(argv: list[str] | None = None,
         set_up: abc.Callable[[argparse.Namespace], object] | None = None
         ) -> int:
    """Run the command and return its exit status.

    :param argv: None: the arguments of the process, which ends here
    :param set_up: what is done first; None: what the command says, or have
        glance_store configure the stores, as Glance does
    """
    args = _parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter('%(levelname)s %(name)s: %(message)s'))
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.ERROR,
                        handlers=[handler])
    if not args.debug:
        # About drivers of other types that lack a library.
        logging.getLogger('stevedore').setLevel(logging.CRITICAL)
        # About what Glance's libraries use.
        warnings.simplefilter('ignore')
    # It looks at the sites; their work is done by Glance.
    process.get(queue.TaskQueue).enabled = False
    try:
        # Before anything is done.
        formats.check(args)
        if set_up is None:
            set_up = getattr(args, 'set_up', _set_up_stores)
        set_up(args)
    except formats.UnknownColumn as exc:
        output.complain(exc)
        return output.Exit.WRONG
    except Exception as exc:
        if args.debug:
            raise
        output.complain('the configuration of Glance cannot be used: %s' % exc)
        return output.Exit.WRONG
    result = run(args)
    if argv is None:
        # Threads that wait for a site that hangs would be waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(result)
    return result


def run(args: argparse.Namespace) -> int:
    """Do the work of a subcommand and return the exit status."""
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except _REASONS as exc:
        output.complain(exc)
        return output.status_of(exc)
    except KeyboardInterrupt:
        return output.Exit.INTERRUPTED
    except BrokenPipeError:
        # "head", say, has read enough; nothing is to be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output.Exit.CLOSED
    except Exception as exc:
        # 1, with which Python would end, is an answer.
        if args.debug:
            raise
        output.complain('it ended unexpectedly: %s: %s; --debug shows where'
                        % (type(exc).__name__, exc))
        return output.Exit.UNABLE
    return status


class _Formatter(logging.Formatter):
    """Has logs do nothing to a terminal, whatever others called things."""

    def format(self, record: logging.LogRecord) -> str:
        return '\n'.join(map(formats.printable,
                             super().format(record).split('\n')))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='glance-dcn',
        description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--config-file', action='append', metavar='FILE', default=[],
        help='a configuration file of Glance; may be given several times. '
             'Without it and --config-dir: glance-api.conf in the folder '
             'OS_GLANCE_CONFIG_DIR names, or where Glance looks for it')
    parser.add_argument(
        '--config-dir', action='append', metavar='FOLDER', default=[],
        help='a folder of configuration files; may be given several times')
    parser.add_argument('--debug', action='store_true',
                        help='say what is done')
    parser.add_argument(
        '--version', action='version', version='%%(prog)s %s'
        % metadata.version('glance-dcn'), help='say which release this is')
    commands = parser.add_subparsers(dest='command', required=True,
                                     metavar='COMMAND')
    for module in _COMMANDS:
        module.register(commands)
    parser.set_defaults(parser=parser)
    return parser


def _set_up_stores(args: argparse.Namespace) -> None:
    """Have glance_store configure the stores, as Glance does."""
    import glance_store
    # It has options of the command line, which are known before that is read.
    importlib.import_module('glance_dcn.upstream.database')
    node.read(args)
    glance_store.register_store_opts(cfg.CONF,
                                     reserved_stores=dict(node.RESERVED))
    if not glance_store.create_multi_stores(cfg.CONF):
        raise cfg.Error('no store of enabled_backends is usable')
