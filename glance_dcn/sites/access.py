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

"""Whether the user of this process may write at a site.

The Glance of an edge has a key of central that is good for reading alone:
what would write there is refused before any data moves, in words that say
whom to ask. The cluster is what tells, for capabilities can be changed while
Glance runs. It is asked once for each connection, and again each time it has
said no.
"""

from __future__ import annotations

import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import permission

if typing.TYPE_CHECKING:
    from glance_dcn.sites import site as sites

# Seconds to wait for an answer.
_TIMEOUT = 5


class Access:
    """What the user of one site's connection may do there.

    :param site: the site
    :param user: cephx user without ``client.``, or None
    """

    def __init__(self, site: sites.Site, user: str | None) -> None:
        self._site = site
        self._user = user
        # Instance ID of the client that may write, once that is known.
        self._writer: int | None = None

    def require_write(self, ioctx: typing.Any) -> None:
        """Return if the user may write images at the site.

        Also if that cannot be told: the write itself will tell.

        :param ioctx: rados.Ioctx of the pool of the site
        :raises glance_dcn.ceph.errors.ReadOnly: if it may only read
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        """
        client = self._site.instance
        if client == self._writer:
            return
        try:
            # One that may not even read is misconfigured, which is told by
            # what the cluster answers to the write.
            allowed = (permission.may_write(ioctx, _TIMEOUT)
                       or not permission.may_read(ioctx))
        except permission.Error as exc:
            self._site.failed(exc)
            return
        if not allowed:
            raise errors.ReadOnly(self._site.name, self._user)
        self._writer = client

    def refusal(self) -> errors.ReadOnly | None:
        """Return why the site cannot be written to, or None.

        None as well if the site is away, and so cannot tell.
        """
        if self._site.health.state not in (health.UP, health.UNKNOWN):
            return None
        try:
            with self._site.open_pool() as ioctx:
                self.require_write(ioctx)
        except errors.ReadOnly as exc:
            return exc
        except errors.ClusterError:
            return None
        return None
