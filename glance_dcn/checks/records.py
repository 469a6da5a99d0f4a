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

"""Checks of what Glance has recorded of a site.

In its database, which images are there; in the pool of its home, tasks,
intents and workers.
"""

from __future__ import annotations

import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import omap
from glance_dcn.ceph import trial
from glance_dcn.checks import registry
from glance_dcn.checks import subjects
from glance_dcn.sites import home as homes
from glance_dcn.status import inventory
from glance_dcn.status import poll
from glance_dcn.tasks import store as stores
from glance_dcn.workers import registry as registries

if typing.TYPE_CHECKING:
    import rados


@registry.check(
    'images', registry.SITE, 'The images that Glance has there are there',
    needs=('pool',),
    lost=(registry.WARN, '%(number)d images are not in pool %(pool)s, where '
          'Glance has locations of them: %(which)s', 'Glance cannot read them '
          'there: if its database is older than the pool, bring it up to '
          'date; otherwise take the locations away with "glance stores-delete '
          '--store %(site)s IMAGE", and copy the images there again'),
    other=(registry.WARN, '%(number)d locations of this store name another '
           'cluster than it has (%(fsid)s): %(which)s', 'those images are '
           'not at this site: take the locations away with "glance '
           'stores-delete --store %(site)s IMAGE", and copy the images there '
           'again'),
    strays=(registry.WARN, 'images have locations in stores that this Glance '
            'had, and has no more: %(stores)s', 'delete those images, or '
            'their locations, or set the stores up again, under their old '
            'names: one whose site file was removed serves them until it is '
            'empty, of any other Glance can read nothing'),
    unread=(registry.WARN, 'not compared, as the database cannot be read '
            '(%(error)s)', 'see connection in [database], and that the '
            'database is up; until then it is not known whether images are '
            'lost'),
    unlisted=(registry.WARN, 'not compared, as pool %(pool)s cannot be listed '
              '(%(error)s)', 'see with "ceph -s" whether the cluster is '
              'healthy, and run "ceph auth caps %(user)s %(caps)s" if the '
              'user may not list the pool; until then it is not known whether '
              'images are lost'))
def images(site: subjects.Site,
           list_images: typing.Callable[[rados.Ioctx], set[str]] = (
               trial.names)) -> str:
    """Compare the locations in Glance's database with the pool."""
    assert site.located is not None, 'it is that of a check'
    found = _read(site.located.get)
    wanted = found.get(site.name, set())
    # After the database: what came since is not missed.
    try:
        names = list_images(site.opened)
    except trial.Error as exc:
        raise registry.Found('unlisted', error=exc)
    state = poll.SiteStatus(site.name, fsid=site.fsid, pool=site.target.pool,
                            names=names)
    lacking = {uri for uri in wanted if state.lacks(uri)}
    if lacking:
        # What was deleted since is not lost.
        lacking &= _read(site.located.read).get(site.name, set())
    cluster = '%s%s/' % (poll.SCHEME, site.fsid)
    for fault, uris in (
            ('lost', [uri for uri in lacking if uri.startswith(cluster)]),
            ('other', [uri for uri in lacking
                       if not uri.startswith(cluster)])):
        if uris:
            raise registry.Found(fault, number=len(uris), which=registry.some(
                uri.split('/')[4] for uri in uris))
    strays = {store: len(uris) for store, uris in found.items()
              if store in (site.kept or ()) and store not in
              site.located.stores}
    if strays:
        raise registry.Found('strays', stores=registry.some(
            '%s (%d)' % item for item in strays.items()))
    return '%d locations, all of them there' % len(wanted)


def _read(locations: typing.Callable[[], dict[str, set[str]]]
          ) -> dict[str, set[str]]:
    """Return what a function reads from the database.

    :raises glance_dcn.checks.registry.Found: if the database does not answer
    """
    try:
        return locations()
    except inventory.DatabaseUnavailable as exc:
        raise registry.Found('unread', error=exc)


@registry.check(
    'records', registry.SITE, 'The records that Glance keeps here can be '
    'read, and understood', needs=('pool',),
    refused=(registry.FAIL, '%(user)s may not read the records in namespace '
             + homes.NAMESPACE + ' of pool %(pool)s (%(error)s)', 'give the '
             'user of a site\'s own Glance the whole pool: osd \'profile rbd '
             'pool=%(pool)s\''),
    unreadable=(registry.WARN, '%(number)d records are unreadable and '
                'are left alone: %(keys)s', 'see "glance-dcn task list"; '
                'they may be those of a later release, which has to act upon '
                'them; remove them with "rados -p %(pool)s -N '
                + homes.NAMESPACE + ' rmomapkey ' + stores.OBJECT
                + ' KEY" otherwise'))
def records(site: subjects.Site) -> str:
    """Read the tasks and intents of this home."""
    if not site.keeps_records:
        return 'those of the site are kept for its own Glance alone'
    store = stores.TaskStore(site.home, site.deployment)
    try:
        scan = store.scan()
    except (errors.ClusterError, omap.Error) as exc:
        raise registry.Found('refused', error=exc)
    unreadable = [entry.key for entry in scan.own_unreadable]
    if unreadable:
        raise registry.Found('unreadable', number=len(unreadable),
                             keys=', '.join(unreadable[:5]))
    return '%d, all of them understood' % len(scan.records)


@registry.check(
    'workers', registry.SITE, 'The Glance workers of the site are heard, '
    'and reached where they say', needs=('pool',),
    wrong=(registry.FAIL, 'the worker on host %(host)s has a wrong '
           'worker_self_reference_url, %(url)s: %(faults)s', 'set it in '
           '[DEFAULT] on %(host)s to the URL of that very worker: what is '
           'staged there cannot be imported through the others'),
    shared=(registry.FAIL, 'the workers on hosts %(hosts)s have the same '
            'worker_self_reference_url, %(url)s', 'give each its own: '
            'requests for what one has staged would go to the other'),
    unproved=(registry.WARN, 'the worker on host %(host)s got no answer at '
              'its worker_self_reference_url, %(url)s: %(faults)s',
              'see that it listens there'),
    silent=(registry.WARN, 'nothing has been heard for more than a minute of '
            'the workers on hosts %(hosts)s', 'see that Glance runs there, '
            'reaches this site and has the right time; one that will not '
            'come back is forgotten after a week, or with "rados -p %(pool)s '
            '-N ' + homes.NAMESPACE + ' rmomapkey ' + registries.OBJECT
            + ' worker/IDENTITY": '
            'first see in "glance-dcn worker list", which tells its '
            'identity, that it has left nothing to be done'))
def workers(site: subjects.Site,
            registry_of: typing.Callable[
                [homes.Home, str], registries.Registry] = registries.Registry
            ) -> str:
    """Read what each worker has found out about itself."""
    if not site.keeps_records:
        return 'they are known at their own site alone'
    living: list[registries.Worker] = []
    silent: list[registries.Worker] = []
    for worker, _text in registry_of(site.home, site.deployment).workers():
        # A pool may once have been that of a store of another name.
        if worker.site == site.name and worker.taken_by is None:
            # One that is silent is not judged by what it said last.
            (silent if worker.is_silent else living).append(worker)
    by_url: dict[str | None, list[str]] = {}
    for worker in living:
        by_url.setdefault(worker.url, []).append(worker.host)
    _refuse(living, registries.WRONG, 'wrong')
    for url, hosts in sorted(by_url.items(), key=str):
        if url and len(hosts) > 1:
            raise registry.Found('shared', url=url,
                                 hosts=', '.join(sorted(hosts)))
    _refuse(living, registries.UNPROVED, 'unproved')
    if silent:
        raise registry.Found('silent', hosts=', '.join(sorted(
            '%s (since %s)' % (worker.host, health.format_time(worker.seen))
            for worker in silent)))
    return '%d, each where it says' % len(living) if living else (
        'none has spoken of late')


def _refuse(living: list[registries.Worker], state: str, fault: str) -> None:
    for worker in living:
        if worker.reference == state:
            raise registry.Found(
                fault, host=worker.host, url=worker.url,
                faults='; '.join(worker.faults) or 'no reason is known')
