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


"""Configuration as variables and files of kolla-ansible, openstack-ansible.

Both read the variables of a deployment on the command line of ansible, where
they count more than those of hosts and groups: each site has a folder of
configuration, and an inventory, of its own.

Their templates write database, Keystone, addresses and, from the variables
here, enabled_backends and the sections of stores, which may be of any type.
"""

from __future__ import annotations

import typing

from glance_dcn.deploy import files
from glance_dcn.deploy import model
from glance_dcn.deploy import options
from glance_dcn.deploy import sitesfile
from glance_dcn.deploy import stores

# Both have them there, in the container too.
_CEPH = '/etc/ceph'
_STATE = '/var/lib/glance'
# Folder of files for openstack-ansible to copy, beside its variables.
_FILES = 'glance-dcn'
#: Name of its variables: of those of users, the last one that is read counts.
VARIABLES = 'user_zz_glance_dcn.yml'
# Variables that a deployer may have with a content of its own, and those that
# are taken into ours.
_CONFS, _OPTIONS = ('ceph_extra_confs_of_others',
                    'glance_api_conf_overrides_of_others')
_SHARED = {'ceph_extra_confs': _CONFS,
           'glance_glance_api_conf_overrides': _OPTIONS}
# The role writes it for the cluster of Nova and Cinder.
_TAKEN = 'ceph'


def kolla(deployment: model.Deployment,
          site: model.Site) -> list[files.Rendering]:
    """Return the files of a site's configuration folder of kolla-ansible.

    :raises sitesfile.Mistake: if kolla-ansible cannot have it so
    """
    _check_staging(site, 'kolla-ansible keeps')
    known = deployment.stores_of(site)
    variables: dict[str, typing.Any] = {
        'glance_backend_ceph': True,
        # The first one is the default store.
        'glance_ceph_backends': [{
            'name': other.store, 'type': 'dcn', 'cluster': other.ceph.name,
            'pool': other.pool, 'user': other.ceph.user, 'enabled': True,
        } for other in known],
        'glance_enable_interoperable_image_import': True,
    }
    if site.cache_size is not None:
        variables['enable_glance_image_cache'] = True
        variables['glance_cache_max_size'] = str(site.cache_size)
    sections, notes = _sections(deployment, site, 'kolla-ansible')
    sections['DEFAULT'].update(show_multiple_locations='true',
                               show_image_direct_url='true')
    sections.update((other.store, stores.section(other, _CEPH))
                    for other in known)
    return [files.Rendering(site.name, '', [
        files.File('globals.d/glance-dcn.yml', files.yaml_file(variables),
                   kind=files.Kind.VARIABLES),
        # A file of its own in the container, which Glance reads last.
        files.File('config/glance/glance-image-import.conf',
                   files.conf(sections), kind=files.Kind.SHARED),
        *_ceph_files(known, 'config/glance')], notes)]


def openstack_ansible(deployment: model.Deployment,
                      site: model.Site) -> list[files.Rendering]:
    """Return the files of a site's configuration folder of openstack-ansible.

    :raises sitesfile.Mistake: if openstack-ansible cannot have it so
    """
    _check_staging(site, 'openstack-ansible makes')
    known = deployment.stores_of(site)
    for other in known:
        if other.ceph.name == _TAKEN:
            raise sitesfile.Mistake(
                site.path, other.ceph.line, 'openstack-ansible writes '
                '/etc/ceph/ceph.conf itself; give the cluster of site %s '
                'another name (cluster: name)' % other.name)
    sections, notes = _sections(deployment, site, 'openstack-ansible')
    default, *others = (_backend(other) for other in known)
    # Sites of one inventory have their files beside each other.
    folder = '%s/%s' % (_FILES, site.name)
    variables: dict[str, typing.Any] = {
        'glance_default_store': default,
        'glance_dcn_stores': others,
        # Those that the deployer has beside them stay.
        'glance_available_stores':
            '{{ _glance_available_stores + glance_dcn_stores }}',
        # For the role, what has to do with Ceph goes by this type.
        'glance_available_store_types':
            "{{ (glance_available_stores | map(attribute='type') | list)"
            " + ['rbd'] }}",
        'glance_dcn_options': {
            section: {name: files.escape(value)
                      for name, value in values.items()}
            for section, values in sections.items()},
        'glance_glance_api_conf_overrides':
            '{{ %s | default({}) | combine(glance_dcn_options,'
            ' recursive=True) }}' % _OPTIONS,
        'glance_dcn_files':
            "{{ lookup('env', 'OSA_CONFIG_DIR')"
            " | default('/etc/openstack_deploy', true) }}/" + folder,
        'glance_dcn_ceph_confs': [_extra_conf(other) for other in known],
        # The keys are for hosts of Glance alone.
        'ceph_extra_confs':
            "{{ ('glance_api' in group_names)"
            ' | ternary(glance_dcn_ceph_confs, [])'
            ' + (%s | default([])) }}' % _CONFS,
        'ceph_extra_config_groups':
            ['cinder_backup', 'cinder_volume', 'glance_api'],
    }
    if site.cache_size is not None:
        variables['glance_flavor'] = 'keystone+cachemanagement'
        variables['glance_image_cache_max_size'] = site.cache_size
    _check_plain(site, variables['glance_dcn_options'],
                 *(each['config'] for each in (default, *others)))
    return [files.Rendering(site.name, '', [
        files.File(VARIABLES, files.yaml_file(variables),
                   kind=files.Kind.VARIABLES, shared=_SHARED),
        *_ceph_files(known, folder)], notes)]


def _sections(deployment: model.Deployment, site: model.Site,
              deployer: str) -> tuple[files.Sections, tuple[str, ...]]:
    """Return the sections that templates do not write, and notes."""
    sections = stores.common(deployment, site)
    # They follow from the variables.
    del sections['DEFAULT']['enabled_backends'], sections['glance_store']
    sections['os_glance_staging_store'] = {
        'filesystem_store_datadir': site.staging}
    given, left = options.without_deployers(site.options)
    for (group, option), value in sorted(given.items()):
        sections.setdefault(group, {})[option] = value
    return sections, (*('%s is left to %s, and is not rendered'
                        % (name, deployer) for name in left),
                      *stores.notes(site))


def _check_staging(site: model.Site, what: str) -> None:
    if not (site.staging + '/').startswith(_STATE + '/'):
        raise sitesfile.Mistake(
            site.path, site.line, '%s %s for Glance: staging of site %s must '
            'be there, not at %s' % (what, _STATE, site.name, site.staging))


def _check_plain(site: model.Site, *values: typing.Any) -> None:
    """Raise Mistake for what ansible would take for an expression."""
    for value in values:
        if isinstance(value, dict):
            _check_plain(site, *value.values())
        elif any(mark in value for mark in ('{{', '{%', '{#')):
            raise sitesfile.Mistake(
                site.path, site.line, 'ansible takes {{, {%% and {# for the '
                'beginning of an expression: %r of site %s cannot be '
                'rendered' % (value, site.name))


def _ceph_files(known: list[model.Site], folder: str) -> list[files.File]:
    """Return conf files and keyrings, each of which must be there.

    :param folder: where ansible takes them from
    """
    found = []
    for other in known:
        # Nothing else writes it, and to copy what is not there fails.
        stores.key(other)
        found += stores.ceph_files(other, _CEPH, folder)
    return found


def _backend(site: model.Site) -> dict[str, typing.Any]:
    return {'name': site.store, 'type': 'dcn', 'config': {
        name: files.escape(value)
        for name, value in stores.section(site, _CEPH).items()}}


def _extra_conf(site: model.Site) -> dict[str, str]:
    conf = stores.conf_path(_CEPH, site.ceph)
    keyring = stores.keyring_path(_CEPH, site.ceph)
    return {
        'src': stores.conf_path('{{ glance_dcn_files }}', site.ceph),
        'dest': conf,
        'client_name': site.ceph.user,
        'keyring_src': stores.keyring_path('{{ glance_dcn_files }}',
                                           site.ceph),
        'keyring_dest': keyring,
    }
