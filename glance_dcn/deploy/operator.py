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


"""Configuration as an overlay for the OpenStack operators on Kubernetes.

Every Glance of the deployment is one GlanceAPI of the control plane's custom
resource: the sites that are rendered together become one patch of it.
"""

from __future__ import annotations

import re
import typing

from glance_dcn.deploy import files
from glance_dcn.deploy import model
from glance_dcn.deploy import options
from glance_dcn.deploy import sitesfile
from glance_dcn.deploy import stores

# Not /etc/ceph: the openstack-operator mounts the Secret of its own Ceph
# integration there, as volume "ceph", in the pods of every GlanceAPI, and
# Kubernetes refuses the same name or path twice.
_FOLDER = '/etc/glance-dcn/ceph'
_CEPH_VOLUME = 'glance-dcn-ceph'
# Site files, in a Secret of their own: a file there is named like the conf
# file of the site's cluster.
_SITES_FOLDER = '/etc/glance-dcn/sites'
_SITES_VOLUME = 'glance-dcn-sites'
# Where a replica's own volume is mounted.
_VOLUME = '/var/lib/glance'
_LABEL = re.compile('[a-z0-9]([a-z0-9-]*[a-z0-9])?', re.ASCII)
# Of a label's 63 characters Kubernetes takes 11 for the revision of a
# StatefulSet, whose name is glance-NAME-external-api in the longest case.
_LONGEST = 32
# A Secret of Kubernetes holds 1 MiB.
_LARGEST_SECRET = 1000000


def render(deployment: model.Deployment,
           sites: list[model.Site]) -> list[files.Rendering]:
    """Return the overlay of one or more sites.

    :raises sitesfile.Mistake: if Kubernetes cannot have it so
    """
    for site in sites:
        _check(site)
    _check_apis(deployment)
    template: dict[str, typing.Any] = {}
    notes: list[str] = []
    found: list[files.File] = []
    if any(site.central for site in sites):
        template['keystoneEndpoint'] = _name(deployment.central)
    template['glanceAPIs'] = {_name(site): _api(deployment, site)
                              for site in sites}
    for site in sites:
        notes += ['%s of site %s is left to the operators and '
                  'customServiceConfigSecrets, and is not rendered'
                  % (name, site.name) for name
                  in options.without_deployers(site.options)[1]]
        if site.operator.api:
            notes.append(
                'the customServiceConfig of GlanceAPI %s is replaced as a '
                'whole: what else it has, write under "glance:" of site %s '
                'in the sites file' % (site.operator.api, site.name))
        notes += stores.notes(site)
        found += _ceph_files(deployment, site)
        found += _site_files(deployment, site)
    template['extraMounts'] = [_mount(deployment, site) for site in sites]
    name = sites[0].name if len(sites) == 1 else ''
    return [files.Rendering(name, '', [
        files.File('kustomization.yaml', files.yaml_file(
            _kustomization(deployment, sites, found)), kind=files.Kind.TEXT),
        files.File('glance.yaml', files.yaml_file({
            'apiVersion': 'core.openstack.org/v1beta1',
            'kind': 'OpenStackControlPlane',
            'metadata': {'name': 'openstack'},
            'spec': {'glance': {'template': template}},
        }), kind=files.Kind.TEXT), *found], tuple(notes))]


def _name(site: model.Site) -> str:
    """Return the name of a site's GlanceAPI."""
    return site.operator.api or site.name


def _check_apis(deployment: model.Deployment) -> None:
    """Raise Mistake if two sites have one GlanceAPI."""
    seen: dict[str, model.Site] = {}
    for site in deployment.sites:
        other = seen.setdefault(_name(site), site)
        if other is not site:
            raise sitesfile.Mistake(
                site.path, site.line, 'the GlanceAPI of site %s is called %s, '
                'and so is that of site %s (line %d)'
                % (site.name, _name(site), other.name, other.line))


def _check(site: model.Site) -> None:
    # The Secret is named after the site.
    for name, what in ((site.name, 'a site'), (_name(site), 'a GlanceAPI')):
        if not _LABEL.fullmatch(name) or len(name) > _LONGEST:
            raise sitesfile.Mistake(
                site.path, site.line, 'Kubernetes takes lower-case letters, '
                'digits and - only, at most %d, in the name of %s, not %s'
                % (_LONGEST, what, name))
    if not (site.staging + '/').startswith(_VOLUME + '/'):
        raise sitesfile.Mistake(
            site.path, site.line, 'a replica has its volume at %s: staging '
            'of site %s must be there, not at %s'
            % (_VOLUME, site.name, site.staging))


def _kustomization(deployment: model.Deployment, sites: list[model.Site],
                   found: list[files.File]) -> dict[str, typing.Any]:
    return {
        'apiVersion': 'kustomize.config.k8s.io/v1beta1',
        'kind': 'Kustomization',
        'resources': ['../base'],
        'patches': [{'path': 'glance.yaml',
                     'target': {'kind': 'OpenStackControlPlane'}}],
        'secretGenerator': [{
            'name': _secret(site, what),
            'files': [file.path for file in found
                      if file.path.startswith(_folder(site, what) + '/')],
        } for site in sites for what in _secrets(deployment, site)],
        # Custom resources do not follow a name that changes.
        'generatorOptions': {'disableNameSuffixHash': True},
    }


def _secrets(deployment: model.Deployment, site: model.Site) -> list[str]:
    """Return what the Secrets of a site's pods hold."""
    return ['ceph', 'sites'] if _has_site_files(deployment, site) else ['ceph']


def _has_site_files(deployment: model.Deployment, site: model.Site) -> bool:
    return bool(site.central and deployment.paths.sites)


def _own_stores(deployment: model.Deployment,
                site: model.Site) -> list[model.Site]:
    """Return the sites whose stores stand in a site's configuration."""
    known = deployment.stores_of(site)
    return known[:1] if _has_site_files(deployment, site) else known


def _secret(site: model.Site, what: str) -> str:
    return 'glance-dcn-%s-%s' % (site.name, what)


def _folder(site: model.Site, what: str) -> str:
    return '%s/%s' % (what, site.name)


def _site_files(deployment: model.Deployment,
                site: model.Site) -> list[files.File]:
    """Return the files of sites_dir, in which $ stands for itself."""
    if not _has_site_files(deployment, site):
        return []
    return [stores.site_file(other, _folder(site, 'sites'), _FOLDER)
            for other in deployment.stores_of(site)[1:]]


def _ceph_files(deployment: model.Deployment,
                site: model.Site) -> list[files.File]:
    found = []
    for other in deployment.stores_of(site):
        # No other tool writes it: it must be there.
        stores.key(other)
        found += stores.ceph_files(other, _FOLDER, _folder(site, 'ceph'))
    if sum(len(file.text) for file in found) > _LARGEST_SECRET:
        raise sitesfile.Mistake(
            site.path, site.line, 'the files of all clusters that %s has '
            'stores of are larger than a Secret can be' % site.name)
    return found


def _mount(deployment: model.Deployment,
           site: model.Site) -> dict[str, typing.Any]:
    places = {'ceph': (_CEPH_VOLUME, _FOLDER),
              'sites': (_SITES_VOLUME, _SITES_FOLDER)}
    mounted = [(*places[what], _secret(site, what))
               for what in _secrets(deployment, site)]
    return {
        'name': 'glance-dcn-%s' % site.name,
        'region': 'r1',
        'extraVol': [{
            # To the pods of this GlanceAPI alone.
            'propagation': [_name(site)],
            'extraVolType': 'Ceph',
            # Readable by the group that the glance-operator gives the pods.
            'volumes': [{'name': name, 'secret': {'secretName': secret,
                                                  'defaultMode': 0o440}}
                        for name, _path, secret in mounted],
            'mounts': [{'name': name, 'mountPath': path, 'readOnly': True}
                       for name, path, _secret in mounted],
        }],
    }


def _api(deployment: model.Deployment,
         site: model.Site) -> dict[str, typing.Any]:
    given = site.operator
    found: dict[str, typing.Any] = {
        'type': given.layout if site.central else 'edge'}
    if given.replicas is not None:
        found['replicas'] = given.replicas
    if given.networks:
        found['networkAttachments'] = list(given.networks)
    if given.internal_address:
        found['override'] = {'service': {'internal': {
            'metadata': {'annotations': {
                'metallb.universe.tf/address-pool': given.address_pool,
                'metallb.universe.tf/allow-shared-ip': given.address_pool,
                'metallb.universe.tf/loadBalancerIPs': given.internal_address,
            }},
            'spec': {'type': 'LoadBalancer'},
        }}}
    # Each replica gets a volume of its own, which one node may write to.
    storage = {'storageRequest': given.storage_request,
               'storageClass': given.storage_class}
    if any(storage.values()):
        found['storage'] = {key: value for key, value in storage.items()
                            if value}
    if site.cache_size is not None:
        found['imageCache'] = {'size': str(site.cache_size)}
    found['customServiceConfig'] = files.conf(_sections(deployment, site))
    return found


def _sections(deployment: model.Deployment,
              site: model.Site) -> files.Sections:
    """Return the sections that the operator does not write by itself."""
    own = _own_stores(deployment, site)
    sections = {**stores.common(deployment, site),
                **stores.sections(site, own, _FOLDER, _VOLUME)}
    sections['DEFAULT']['enabled_backends'] = stores.backends(own)
    if _has_site_files(deployment, site):
        sections['glance_dcn'] = {'sites_dir': _SITES_FOLDER}
    given, _left = options.without_deployers(site.options)
    for (group, option), value in sorted(given.items()):
        sections.setdefault(group, {})[option] = value
    for section in sections.values():
        for value in section.values():
            if '{{' in value:
                raise sitesfile.Mistake(
                    site.path, site.line, 'the operator takes {{ for the '
                    'beginning of a template: %r of site %s cannot be '
                    'rendered' % (value, site.name))
    return sections
