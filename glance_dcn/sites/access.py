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

While the site is away, its last answer counts, and before the first one what
the configuration says (dcn_access): a removal that this Glance has no right to
must not be accepted as a task that can never be done.
"""

from __future__ import annotations

import dataclasses
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import trial

if typing.TYPE_CHECKING:
    import rados

    from glance_dcn.sites import site as sites

# Seconds to wait for an answer.
_TIMEOUT = 5


@dataclasses.dataclass(eq=False)
class Access:
    """What the user of one site's connection may do there.

    :param user: cephx user without ``client.``
    :param read_only: what the configuration says, and later the cluster
    """

    site: sites.Site
    user: str | None
    read_only: bool = False
    # Instance ID of the client that may write, once that is known.
    _writer: int | None = None

    def require_write(self, ioctx: rados.Ioctx) -> None:
        """Return if the user may write images at the site.

        Also if nothing is known of that: the write itself will tell.

        :raises glance_dcn.ceph.errors.ReadOnly: if it may only read, or the
            site does not answer and its last answer was so
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        """
        client = self.site.instance
        if client == self._writer:
            return
        try:
            # One that may not even read is misconfigured, which is told by
            # what the cluster answers to the write.
            allowed = (trial.may_write(ioctx, _TIMEOUT)
                       or not self.site.call(trial.may_read, ioctx,
                                             fence=False))
        except trial.Error as exc:
            self.site.failed(exc)
            if self.read_only:
                raise self._error() from exc
            return
        self.read_only = not allowed
        if not allowed:
            raise self._error()
        self._writer = client

    def refusal(self) -> errors.ReadOnly | None:
        """Return why the site cannot be written to, or None.

        Of a site that is away, the last answer counts.
        """
        if self.site.available:
            try:
                with self.site.open_pool() as ioctx:
                    self.require_write(ioctx)
                return None
            except errors.ReadOnly as exc:
                return exc
            except errors.ClusterError:
                pass
        return self.known_refusal()

    def known_refusal(self) -> errors.ReadOnly | None:
        """Return the same as far as is known, without asking the cluster."""
        return self._error() if self.read_only else None

    def _error(self) -> errors.ReadOnly:
        return errors.ReadOnly(self.site.name, self.user)
