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

"""Checks of the records that are kept at home."""

from __future__ import annotations


from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.checks import registry
from glance_dcn.sites import home as homes
from glance_dcn.status import subjects
from glance_dcn.tasks import store as stores


@registry.check(
    'records', registry.SITE, 'The records that Glance keeps here can be '
    'read, and understood', needs=('pool',),
    refused=(registry.FAIL, '%(user)s may not read the records in namespace '
             + homes.NAMESPACE + ' of pool %(pool)s (%(error)s)', 'give the '
             'user of a site\'s own Glance the whole pool: osd \'profile rbd '
             'pool=%(pool)s\''),
    unreadable=(registry.WARN, '%(number)d records cannot be understood and '
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
        raise registry.Found('refused', user=site.user, error=exc,
                             pool=site.target.pool)
    unreadable = [entry.key for entry in scan.unreadable
                  if not entry.foreign]
    if unreadable:
        raise registry.Found('unreadable', number=len(unreadable),
                             keys=', '.join(unreadable[:5]),
                             pool=site.target.pool)
    return '%d, all of them understood' % len(scan.records)
