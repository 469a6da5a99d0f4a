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

"""What is recorded at the homes: deferred tasks, and images being written.

The only place of the randomised run that knows how glance_dcn keeps it.
"""

import contextlib
import dataclasses
import types

from glance_dcn.sites import home as homes
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests.functional.api import base


@dataclasses.dataclass(frozen=True, order=True)
class Entry:
    """A record.

    :ivar site: whose image it is about
    :ivar what: what is to be done, or how far it is
    :ivar image: name of the RBD image, or key of an unreadable record
    """

    site: str
    what: str
    image: str

    @property
    def is_committed(self):
        """Whether it is of an image that Glance has been told of."""
        return self.what == 'write (%s)' % tasks.State.COMMITTED.value


def pending(stage, forged=()):
    """Return what is recorded, a sorted list of :class:`Entry`.

    Each Glance keeps it in the cluster of its own default store: every site
    is asked.

    :param stage: :class:`tests.chaos.stage.Stage`
    :param forged: keys of records that are left out
    """
    found = set()
    for site in stage.lab.sites:
        with home(stage, site) as store:
            found |= _entries(site, store.scan(), forged)
    return sorted(found)


def _entries(site, scan, forged):
    """Return what is to be told of a home, a set of :class:`Entry`."""
    found = {Entry(record.site, _describe(record), record.image)
             for record in scan.records if record.key not in forged}
    return found | {Entry(site, 'unreadable', entry.key)
                    for entry in scan.unreadable if entry.key not in forged}


def _describe(record):
    if isinstance(record, tasks.Intent):
        return 'write (%s)' % record.state.value
    return '%s, %d attempts: %s' % (record.action.value,
                                    record.retry_attempts, record.message)


@contextlib.contextmanager
def home(stage, site):
    """Give the :class:`glance_dcn.tasks.store.TaskStore` of a site's Glance.

    :param stage: :class:`tests.chaos.stage.Stage`
    """
    with stage.lab.cluster(site).pool('images', 'glance') as ioctx:
        yield stores.TaskStore(
            homes.Home(types.SimpleNamespace(
                name=site, open_pool=lambda: contextlib.nullcontext(ioctx),
                call=lambda function, *args, **unused: function(*args))),
            base.deployment_id(stage.database_url))
