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

"""Checks of the Glance workers that a site's pool knows of."""

from __future__ import annotations

import time

from glance_dcn.ceph import health
from glance_dcn.checks import registry
from glance_dcn.sites import home as homes
from glance_dcn.status import subjects
from glance_dcn.workers import registry as registries

# Seconds after which a worker is silent; they speak every ten. It is not
# judged by what it said last.
_SILENT = 60


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
    unproved=(registry.WARN, 'nobody has answered the worker on host '
              '%(host)s at its worker_self_reference_url, %(url)s: '
              '%(faults)s', 'see that it listens there'),
    silent=(registry.WARN, 'nothing has been heard for more than a minute of '
            'the workers on hosts %(hosts)s', 'see that Glance runs there, '
            'reaches this site and has the right time; one that will not '
            'come back is forgotten after a week, or with "rados -p %(pool)s '
            '-N ' + homes.NAMESPACE + ' rmomapkey ' + registries.OBJECT
            + ' worker/IDENTITY": '
            'first see in "glance-dcn worker list", which tells its '
            'identity, that it has left nothing to be done'))
def workers(site: subjects.Site) -> str:
    """Read what each worker has found out about itself."""
    if not site.keeps_records:
        return 'they are known at their own site alone'
    now = time.time()
    living: list[registries.Worker] = []
    silent: list[registries.Worker] = []
    for worker, _text in registries.Registry(
            site.home, site.deployment).workers():
        # A pool may once have been that of a store of another name.
        if worker.site == site.name and worker.taken_by is None:
            (living if now - worker.seen < _SILENT
             else silent).append(worker)
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
        raise registry.Found(
            'silent', pool=site.target.pool, hosts=', '.join(sorted(
                '%s (since %s)' % (worker.host,
                                   health.format_time(worker.seen))
                for worker in silent)))
    return '%d, each where it says' % len(living) if living else (
        'none has spoken of late')


def _refuse(living: list[registries.Worker], state: str, fault: str) -> None:
    for worker in living:
        if worker.reference == state:
            raise registry.Found(
                fault, host=worker.host, url=worker.url,
                faults='; '.join(worker.faults) or 'no reason is known')
