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


"""Configuration as environment files of TripleO.

TripleO knows stores of type ``rbd`` and writes them into glance-api.conf. The
type ``dcn`` comes after it: Glance reads glance-image-import.conf last, and
``enabled_backends`` of that file counts.
"""

from __future__ import annotations

import re
import typing

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import files
from glance_dcn.deploy import model
from glance_dcn.deploy import options
from glance_dcn.deploy import sitesfile
from glance_dcn.deploy import stores

# TripleO's own limit for CephClusterName.
_CLUSTER = re.compile('[A-Za-z0-9]+', re.ASCII)
_FOLDER = '/etc/ceph'
# Options that its Puppet module writes into glance-image-import.conf itself:
# to declare one of them once more ends the deployment.
_PARAMETERS = {
    ('image_conversion', 'output_format'):
        'GlanceImageConversionOutputFormat',
    ('inject_metadata_properties', 'inject'):
        'GlanceInjectMetadataProperties',
    ('inject_metadata_properties', 'ignore_user_roles'):
        'GlanceIgnoreUserRoles',
}


def render(deployment: model.Deployment,
           site: model.Site) -> list[files.Rendering]:
    """Return the environment files of a site's stack.

    :raises sitesfile.Mistake: if TripleO cannot have it so
    """
    known = deployment.stores_of(site)
    for other in known:
        if not _CLUSTER.fullmatch(other.ceph.name):
            raise sitesfile.Mistake(
                site.path, other.ceph.line, 'TripleO takes letters and '
                'digits only in the name of a cluster, not %s; give the '
                'cluster a name' % other.ceph.name)
    foreign = [other for other in known if other.name != site.name]
    values, notes = _values(deployment, site)
    found = [_file('glance.yaml', _glance(deployment, site, values), [],
                   parameter_merge_strategies={'ExtraConfig': 'merge'}),
             _file('ceph_external.yaml', {'CephExternalMultiConfig': [
                 _external(other) for other in foreign]},
                 [stores.key(other) for other in foreign])]
    if site.cluster:
        # Once for each user that other Glances have there.
        guests: dict[str, model.Site] = {}
        for _other, seen in deployment.guests_of(site):
            guests.setdefault(seen.ceph.user, seen)
        found.append(_file('ceph_keys.yaml', {'CephExtraKeys': [
            _key(guest) for guest in guests.values()]},
            [stores.key(guest) for guest in guests.values()]))
    return [files.Rendering(site.name, '', found,
                            (*notes, *stores.notes(site)))]


def _file(path: str, parameters: dict[str, typing.Any],
          keys: list[str], **more: typing.Any) -> files.File:
    return files.File(
        path, files.yaml_file({**more, 'parameter_defaults': parameters}),
        files.SECRET if keys else files.OPEN, tuple(keys), files.Kind.TEXT)


def _glance(deployment: model.Deployment, site: model.Site,
            values: dict[tuple[str, str], str]) -> dict[str, typing.Any]:
    default, *others = deployment.stores_of(site)
    found = {
        'GlanceShowMultipleLocations': True,
        'GlanceEnabledImportMethods': ','.join(deployment.import_methods),
        'GlanceImageImportPlugins': list(deployment.import_plugins),
        'GlanceImageConversionOutputFormat': 'raw',
        'GlanceNodeStagingUri': 'file://%s' % site.staging,
        'GlanceBackend': 'rbd',
        'GlanceBackendID': default.store,
        'GlanceStoreDescription': _hiera(default.description),
        'GlanceRbdPoolName': default.pool,
        'CephClusterName': default.ceph.name,
    }
    if site.cluster is None:
        # The stack has no cluster of its own whose user this would be.
        found['CephClientUserName'] = default.ceph.user
    if site.cache_size is not None:
        found['GlanceCacheEnabled'] = True
        found['GlanceImageCacheMaxSize'] = site.cache_size
    found['GlanceMultistoreConfig'] = {other.store: {
        'GlanceBackend': 'rbd',
        'GlanceStoreDescription': _hiera(other.description),
        'GlanceRbdPoolName': other.pool,
        'CephClientUserName': other.ceph.user,
        'CephClusterName': other.ceph.name,
    } for other in others}
    found.update((_PARAMETERS[name], _hiera(value))
                 for name, value in values.items() if name in _PARAMETERS)
    found['ExtraConfig'] = {'glance::config::image_import_config': {
        '%s/%s' % name: {'value': _hiera(value)}
        for name, value in values.items() if name not in _PARAMETERS}}
    return found


def _values(deployment: model.Deployment,
            site: model.Site
            ) -> tuple[dict[tuple[str, str], str], tuple[str, ...]]:
    """Return options that TripleO has no parameters for, and notes."""
    known = deployment.stores_of(site)
    values = {
        ('DEFAULT', 'enabled_backends'): stores.backends(known),
        ('os_glance_staging_store', 'filesystem_store_datadir'):
            site.staging,
    }
    quota = stores.location_quota(deployment)
    if quota:
        values['DEFAULT', 'image_location_quota'] = quota
    for other in known:
        values.update({(other.store, name): value for name, value in {
            'rados_connect_timeout':
                stores.section(other, _FOLDER)['rados_connect_timeout'],
            **stores.tuning(other)}.items()})
    given, left = options.without_deployers(site.options)
    values.update(sorted(given.items()))
    return values, tuple(
        '%s is left to the parameters of TripleO, and is not rendered' % name
        for name in left)


def _hiera(value: str) -> str:
    """Return a value so that hiera and oslo.config read it as it is."""
    return files.escape(value).replace('%{', "%{literal('%')}{")


def _key(site: model.Site) -> dict[str, typing.Any]:
    """Return the item of CephExtraKeys, or of keys, for a site's user."""
    return {
        'name': 'client.%s' % site.ceph.user,
        'caps': cephconf.caps([*site.ceph.extra_pools, site.pool],
                              site.ceph.access),
        'key': stores.key(site),
        'mode': '0600',
    }


def _external(site: model.Site) -> dict[str, typing.Any]:
    """Return the item of CephExternalMultiConfig for a site's cluster."""
    cluster = site.ceph
    return {
        'cluster': cluster.name,
        'fsid': cluster.fsid,
        'external_cluster_mon_ips': cluster.mon_host,
        'keys': [_key(site)],
        'dashboard_enabled': False,
        'ceph_conf_overrides': {'client': {
            **dict(cluster.settings),
            'keyring': stores.keyring_path(_FOLDER, cluster)}},
    }
