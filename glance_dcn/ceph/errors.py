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

"""What can be wrong with a site's cluster, said so that it can be mended."""

from __future__ import annotations

import errno

DENIED = (errno.EPERM, errno.EACCES)


class ClusterError(Exception):
    """A site's cluster cannot be used.

    :ivar remedy: what the operator should look at or do
    """

    def __init__(self, store: str, reason: str, remedy: str) -> None:
        super().__init__('store %s: %s; %s' % (store, reason, remedy))
        self.store = store
        self.reason = reason
        self.remedy = remedy

    def again(self) -> ClusterError:
        """Return an equal error, to be raised by another thread."""
        # Its initializer takes other arguments.
        error = self.__class__.__new__(self.__class__, *self.args)
        error.__dict__.update(self.__dict__)
        return error


class Misconfigured(ClusterError):
    """The store's options or its conf file do not fit the cluster."""


class NotDeployed(Misconfigured):
    """The store's conf file or keyring is not there, or not yet."""


class Refused(Misconfigured):
    """The cluster refuses the user, or the user has no key to show."""


class WrongCluster(Misconfigured):
    """The cluster that answers is not the one that the conf file names."""


class Unreachable(ClusterError):
    """The cluster does not answer.

    :ivar since: when it was found to be away, in seconds since the epoch;
        None if it is this very failure that tells
    """

    def __init__(self, store: str, reason: str, remedy: str,
                 since: float | None = None) -> None:
        super().__init__(store, reason, remedy)
        self.since = since


class Exhausted(ClusterError):
    """This process has too few threads or files to connect to the cluster.

    It says nothing about the site. The same may succeed a little later.
    """


class ReadOnly(ClusterError):
    """The user of this process may read the images of the store, no more."""

    def __init__(self, store: str, user: str | None = None) -> None:
        """Name the store.

        :param user: cephx user without ``client.``
        """
        super().__init__(
            store, 'the key of this Glance (client.%s) may only read there'
            % (user or 'admin'), 'ask the Glance of site %s for it, whose own '
            'key may write there' % store)


class Retired(ClusterError):
    """The store takes no new images: its site is being taken away."""

    def __init__(self, store: str) -> None:
        super().__init__(
            store, 'it takes no new images, because its site was taken away; '
            'it serves what it holds until it is empty',
            'choose another store, or put its file back into the folder of '
            'site files')


def code(exc: BaseException | None) -> int:
    """Return the positive error number of an exception, or 0."""
    number: int | None = getattr(exc, 'errno', None)
    return abs(number or 0)


def is_denied(exc: BaseException) -> bool:
    """Return whether an error of librados or librbd tells a lack of rights."""
    return code(exc) in DENIED
