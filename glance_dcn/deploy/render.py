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


"""Rendering a deployment, in one of several forms.

As files of nodes, in /etc/glance and /etc/ceph, here; as environment files of
TripleO, as variables and files of kolla-ansible and openstack-ansible, and as
overlays for the operators on Kubernetes by modules of their own.
"""

from __future__ import annotations

import collections
import dataclasses
import urllib.parse

from glance_dcn.deploy import ansible
from glance_dcn.deploy import files
from glance_dcn.deploy import model
from glance_dcn.deploy import operator
from glance_dcn.deploy import stores
from glance_dcn.deploy import tripleo

KINDS = ('plain', 'kolla', 'openstack-ansible', 'tripleo', 'operator')


def render(deployment: model.Deployment, sites: list[model.Site],
           kind: str) -> list[tuple[str, files.Rendering]]:
    """Return renderings of sites, with paths below one folder.

    Files for one node of one site stand in the folder itself; otherwise each
    site has a folder, and each node of a site with several.

    :param kind: one of KINDS
    :returns: the prefix of the paths of each
    :raises glance_dcn.deploy.sitesfile.Mistake: if the form cannot hold them
    """
    if kind == 'operator':
        return [('', found) for found in operator.render(deployment, sites)]
    one = {'plain': plain, 'kolla': ansible.kolla,
           'openstack-ansible': ansible.openstack_ansible,
           'tripleo': tripleo.render}[kind]
    several = len(sites) > 1
    return [(''.join(part + '/' for part in (
        rendering.site if several else '', rendering.node) if part), rendering)
        for site in sites for rendering in one(deployment, site)]


def placed(renderings: list[tuple[str, files.Rendering]]
           ) -> list[tuple[files.Rendering, files.File]]:
    """Return all files with their whole paths."""
    return [(rendering, dataclasses.replace(file, path=prefix + file.path))
            for prefix, rendering in renderings for file in rendering.files]


def plain(deployment: model.Deployment,
          site: model.Site) -> list[files.Rendering]:
    """Return the files of a site's nodes: one Rendering for each worker.

    :raises glance_dcn.deploy.sitesfile.Mistake: if a secret cannot be had
    """
    notes = _notes(deployment, site)
    if not site.workers:
        notes = ('site %s has no workers: worker_self_reference_url is not '
                 'set' % site.name, *notes)
    names = node_names(site.workers) if len(site.workers) > 1 else ['']
    return [files.Rendering(site.name, name, _files(deployment, site, url),
                            notes)
            for name, url in zip(names, site.workers or (None,))]


def node_names(workers: tuple[str, ...]) -> list[str]:
    """Return a name for each worker: its host, with the port if need be."""
    parts = [urllib.parse.urlsplit(url) for url in workers]
    hosts = collections.Counter(part.hostname for part in parts)
    names = []
    for part in parts:
        name = (part.hostname or '').replace(':', '-')
        if hosts[part.hostname] > 1:
            name += '_%s' % (part.port or part.scheme)
        names.append(name)
    # Of one host and port, workers are told apart by their paths alone.
    if len(set(names)) < len(names):
        names = ['worker-%d' % number for number in range(len(workers))]
    return names


def _notes(deployment: model.Deployment, site: model.Site) -> tuple[str, ...]:
    paths = deployment.paths
    return (*(() if paths.glance == model.Paths.glance else (
        'Glance looks for glance-api.conf.d in %s: start it with '
        '--config-dir=%s/glance-api.conf.d as well, or link it there'
        % (model.Paths.glance, paths.glance),)),
            *('site %s has no key of client.%s: its keyring is not written'
              % (other.name, other.ceph.user)
              for other in deployment.stores_of(site)
              if other.ceph.key is None),
            *stores.notes(site))


def _files(deployment: model.Deployment, site: model.Site,
           url: str | None) -> list[files.File]:
    paths = deployment.paths
    known = deployment.stores_of(site)
    folder = (paths.sites or '').lstrip('/') if site.central else ''
    own = known[:1] if folder else known
    sections, secret = _sections(deployment, site, url, own)
    # After glance-api.conf and glance-image-import.conf, which are those of
    # packages and deployers, and stay as they are.
    found = [files.File('%s/glance-api.conf.d/glance-dcn.conf'
                        % paths.glance.lstrip('/'), files.conf(sections),
                        files.INNER, secret)]
    found += [stores.site_file(other, folder, paths.ceph)
              for other in known[len(own):]]
    for other in known:
        found += stores.ceph_files(other, paths.ceph)
    return found


def _sections(deployment: model.Deployment, site: model.Site, url: str | None,
              in_file: list[model.Site]
              ) -> tuple[files.Sections, tuple[str, ...]]:
    """Return the sections that are rendered, and the secrets in them."""
    paths = deployment.paths
    sections = stores.common(deployment, site)
    default = sections['DEFAULT']
    default['enabled_backends'] = stores.backends(in_file)
    default['show_multiple_locations'] = 'true'
    default['show_image_direct_url'] = 'true'
    if url:
        default['worker_self_reference_url'] = url
    if site.cache_size is not None:
        default['image_cache_dir'] = '%s/image-cache' % paths.state
        default['image_cache_max_size'] = str(site.cache_size)
        # Its other options are those of the deployer's glance-api.conf.
        sections['paste_deploy'] = {'flavor': 'keystone+cachemanagement'}
    sections.update(stores.sections(site, in_file, paths.ceph, paths.state))
    if paths.sites and site.central:
        sections['glance_dcn'] = {'sites_dir': paths.sites}
    secrets = []
    for (group, option), value in sorted(site.options.items(),
                                         key=lambda item: item[0]):
        if isinstance(value, model.Secret):
            value = value.read_line()
            secrets.append(value)
        sections.setdefault(group, {})[option] = value
    return sections, tuple(secrets)
