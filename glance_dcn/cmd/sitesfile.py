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

import os
import typing

from glance_dcn.cmd import formats
from glance_dcn.cmd import output
from glance_dcn.deploy import model
from glance_dcn.deploy import sitesfile

if typing.TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

VARIABLE = 'GLANCE_DCN_SITES'
_DEFAULT = '/etc/glance-dcn/sites.yaml'


def add_command(commands: output.Subparsers, name: str, summary: str,
                description: str, epilog: str, columns: formats.Columns,
                run: Callable[[argparse.Namespace], int]
                ) -> argparse.ArgumentParser:
    """Add a subcommand that works on ``--sites-file`` alone."""
    # Glance need not even be installed.
    parser = output.add_command(commands, name, summary, description, epilog,
                                columns, run=run, set_up=lambda args: None)
    parser.add_argument(
        '--sites-file', metavar='FILE',
        default=os.environ.get(VARIABLE) or _DEFAULT,
        help='the sites file (%(default)s; the variable ' + VARIABLE
             + ' names another)')
    return parser


def sites(deployment: model.Deployment, names: list[str]) -> list[model.Site]:
    """Return the sites of some names; all of them if there are none.

    :raises output.Failed: if there is no such site
    """
    found = []
    for name in dict.fromkeys(names):
        site = deployment.site(name)
        if site is None:
            known = [other.name for other in deployment.sites]
            raise output.Failed('%s has no site %r%s; there are: %s' % (
                deployment.path, name, sitesfile.nearest(name, known),
                ', '.join(known[:20]) + (', ...' if known[20:] else '')))
        found.append(site)
    return found or list(deployment.sites)
