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


"""Stores and clusters, as all forms of configuration describe them."""

from __future__ import annotations

import itertools

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import files
from glance_dcn.deploy import model
from glance_dcn.deploy import sitesfile

# Seconds; the default of a dcn store, which stock needs to be told.
_CONNECT_TIMEOUT = 5
# Locations that an image may have, unless Glance is told otherwise.
_LOCATION_QUOTA = 10
# Its other values, divided by powers of ten.
_STEPS = (1, 2, 3, 5)


def backends(sites: list[model.Site]) -> str:
    """Return the value of enabled_backends for sites that have stores."""
    return ','.join('%s:dcn' % site.store for site in sites)


def location_quota(deployment: model.Deployment) -> str | None:
    """Return the value of image_location_quota, None if Glance's own does."""
    wanted = locations(sum(bool(site.store) for site in deployment.sites))
    return str(wanted) if wanted > _LOCATION_QUOTA else None


def locations(count: int) -> int:
    """Return how many locations an image should be allowed to have.

    It can be in every store, and its locations are counted wherever one is
    added by a request, as Nova does. A quarter more than there are stores, or
    five, fit in; it is the same for many numbers of stores, so that another
    site seldom changes it.
    """
    wanted = count + max(5, count // 4)
    return int(next(step * 10 ** power for power in itertools.count(1)
                    for step in _STEPS if step * 10 ** power >= wanted))


def conf_path(folder: str, cluster: model.Cluster) -> str:
    """Return the path of a cluster's conf file on a node."""
    return '%s/%s.conf' % (folder, cluster.name)


def keyring_path(folder: str, cluster: model.Cluster) -> str:
    """Return the path of the keyring of a cluster's user on a node."""
    return '%s/%s.client.%s.keyring' % (folder, cluster.name, cluster.user)


def section(site: model.Site, folder: str) -> dict[str, str]:
    """Return the options of a site's store."""
    options = {
        'store_description': site.description,
        'rbd_store_ceph_conf': conf_path(folder, site.ceph),
        'rbd_store_user': site.ceph.user,
        'rbd_store_pool': site.pool,
        # For stock rbd, should the store be moved back to it.
        'rbd_thin_provisioning': 'true',
        **tuning(site),
    }
    options.setdefault('rados_connect_timeout', str(_CONNECT_TIMEOUT))
    return options


def site_file(site: model.Site, where: str, folder: str) -> files.File:
    """Return a site's file of sites_dir, in which $ stands for itself.

    :param where: path of the folder it is written to
    :param folder: of conf files of clusters on the node
    """
    return files.File(
        '%s/%s.conf' % (where, site.store),
        files.conf({site.store: section(site, folder)}, files.quote),
        kind=files.Kind.SITE)


def tuning(site: model.Site) -> dict[str, str]:
    """Return the options of a site's store that need not be set."""
    limits = site.limits
    found = {
        'rbd_store_chunk_size': site.chunk_size,
        'weight': site.weight,
        'rados_connect_timeout': limits.connect_timeout,
        'dcn_io_timeout': limits.io_timeout,
        'dcn_max_transfers': limits.max_transfers,
        'dcn_bandwidth_limit': limits.bandwidth_limit,
        # Other rights are expected of a store anyway.
        'dcn_access': model.Access.READ_ONLY.value if site.store
        and site.ceph.access is model.Access.READ_ONLY else None,
    }
    return {name: '%g' % value if isinstance(value, float) else str(value)
            for name, value in found.items() if value is not None}


def common(deployment: model.Deployment,
           site: model.Site) -> files.Sections:
    """Return the first sections of every form of configuration, in order."""
    quota = location_quota(deployment)
    return {
        'DEFAULT': {
            'enabled_backends': backends(deployment.stores_of(site)),
            'enabled_import_methods':
                '[%s]' % ','.join(deployment.import_methods),
            **({'image_location_quota': quota} if quota else {}),
        },
        'glance_store': {
            'default_backend': deployment.stores_of(site)[0].store},
        'image_import_opts': {
            'image_import_plugins':
                '[%s]' % ','.join(deployment.import_plugins)},
        # Nova and Cinder clone from nothing else.
        'image_conversion': {'output_format': 'raw'},
    }


def sections(site: model.Site, known: list[model.Site], folder: str,
             state: str) -> files.Sections:
    """Return the sections of stores, and of Glance's reserved stores.

    :param known: the sites whose stores the Glance of a site has there
    :param folder: of conf files of clusters
    :param state: folder of what Glance keeps
    """
    return {**{other.store: section(other, folder) for other in known},
            'os_glance_staging_store': {
                'filesystem_store_datadir': site.staging},
            'os_glance_tasks_store': {
                'filesystem_store_datadir':
                    '%s/os_glance_tasks_store' % state}}


def notes(site: model.Site) -> tuple[str, ...]:
    """Return notes on the rights of a site's Glance, for an operator."""
    if site.central or site.edge_access is model.Access.READ_ONLY:
        return ()
    reach = 'change and remove every image there'
    if not site.store:
        reach += ', and the records of central, as it has none of its own'
    return ('site %s may write at central (edge_access: read-write): with '
            'its key, an attacker can %s' % (site.name, reach),)


def key(site: model.Site) -> str:
    """Return the key of the user of a site's cluster.

    :raises glance_dcn.deploy.sitesfile.Mistake: if it cannot be had
    """
    cluster = site.ceph
    if cluster.key is None:
        raise sitesfile.Mistake(
            site.path, cluster.line, 'client.%s needs a key for the cluster '
            'of site %s, in %s: key: {file: PATH}; "glance-dcn site key" '
            'makes one' % (
                cluster.user, site.name, 'cluster'
                if cluster.access is model.Access.OWNER
                else 'at_central' if site.central else 'from_central'))
    return cluster.key.read_key(cluster.user)


def ceph_files(site: model.Site, folder: str,
               where: str | None = None) -> list[files.File]:
    """Return the files by which a node reaches the cluster of a site.

    :param folder: of conf files on the node
    :param where: path they are written to; None: folder
    :returns: without a keyring where the site has no key
    """
    cluster = site.ceph
    where = (folder if where is None else where).lstrip('/')
    found = [files.File(conf_path(where, cluster), cephconf.conf(
        cluster, keyring_path(folder, cluster)), kind=files.Kind.CEPH)]
    if cluster.key is not None:
        secret = key(site)
        found.append(files.File(
            keyring_path(where, cluster),
            cephconf.keyring(cluster.user, secret), files.SECRET, (secret,),
            files.Kind.CEPH))
    return found
