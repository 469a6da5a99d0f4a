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


"""What the commands that work on a sites file share."""

from __future__ import annotations

import functools
import os
import typing

from glance_dcn.ceph import errors
from glance_dcn.cmd import output
from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import model
from glance_dcn.deploy import sitesfile

if typing.TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

#: Exit status: done, something differs, or it cannot be done.
DONE, DIFFERENT, FAILED = 0, 1, 2

VARIABLE = 'GLANCE_DCN_SITES'
_DEFAULT = '/etc/glance-dcn/sites.yaml'


class Wrong(Exception):
    """The arguments do not go together; its text says why."""


def add_command(commands: output.Subparsers, name: str, summary: str,
                description: str, epilog: str,
                run: Callable[[argparse.Namespace], int]
                ) -> argparse.ArgumentParser:
    """Add a subcommand that works on ``--sites-file`` alone."""
    parser = output.add_command(commands, name, summary, description, epilog)
    parser.set_defaults(run=command(run), set_up=_needs_no_glance)
    parser.add_argument(
        '--sites-file', metavar='FILE',
        default=os.environ.get(VARIABLE) or _DEFAULT,
        help='the sites file (%(default)s; the variable ' + VARIABLE
             + ' names another)')
    return parser


def _needs_no_glance(args: argparse.Namespace) -> None:
    """Set up nothing: Glance need not even be installed."""


def command(run: Callable[[argparse.Namespace], int]
            ) -> Callable[[argparse.Namespace], int]:
    """Make run(args) say what is wrong, and return FAILED then."""
    @functools.wraps(run)
    def wrapped(args: argparse.Namespace) -> int:
        try:
            return run(args)
        except (sitesfile.Mistake, files.Error, Wrong,
                errors.ClusterError) as exc:
            output.complain(exc)
            return FAILED
    return wrapped


def sites(deployment: model.Deployment, names: list[str]) -> list[model.Site]:
    """Return the sites of some names; all of them if there are none.

    :raises Wrong: if there is no such site
    """
    found = []
    for name in dict.fromkeys(names):
        site = deployment.site(name)
        if site is None:
            known = [other.name for other in deployment.sites]
            raise Wrong('%s has no site %r%s; there are: %s' % (
                deployment.path, name, sitesfile.nearest(name, known),
                ', '.join(known[:20]) + (', ...' if known[20:] else '')))
        found.append(site)
    return found or list(deployment.sites)


def read(args: argparse.Namespace) -> model.Deployment:
    """Return the deployment of ``--sites-file``."""
    return load.load(args.sites_file)
