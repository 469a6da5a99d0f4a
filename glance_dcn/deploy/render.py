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


"""What is rendered, whatever it is rendered as."""

from __future__ import annotations


from glance_dcn.deploy import files
from glance_dcn.deploy import model
from glance_dcn.deploy import operator
from glance_dcn.deploy import plain
from glance_dcn.deploy import tripleo

KINDS = ('plain', 'tripleo', 'operator')


def render(deployment: model.Deployment, sites: list[model.Site],
           kind: str) -> list[tuple[str, files.Rendering]]:
    """Return what sites need, as paths below one folder.

    What is for one node of one site stands in the folder itself; otherwise
    each site has a folder, and each node of a site with several.

    :param kind: one of KINDS
    :returns: the prefix of the paths of each
    :raises glance_dcn.deploy.sitesfile.Mistake: if that cannot be had
    """
    if kind == 'operator':
        return [('', found) for found in operator.render(deployment, sites)]
    module = plain if kind == 'plain' else tripleo
    found = [rendering for site in sites
             for rendering in module.render(deployment, site)]
    return [(_prefix(rendering, len(sites) > 1), rendering)
            for rendering in found]


def _prefix(rendering: files.Rendering, several: bool) -> str:
    parts = [rendering.site] if several else []
    if rendering.node:
        parts.append(rendering.node)
    return ''.join(part + '/' for part in parts)


def placed(renderings: list[tuple[str, files.Rendering]]
           ) -> list[tuple[files.Rendering, files.File]]:
    """Return all files with their whole paths."""
    return [(rendering, files.File(
        prefix + file.path, file.text, file.mode, file.secrets, file.kind))
        for prefix, rendering in renderings for file in rendering.files]
