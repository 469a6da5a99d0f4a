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

"""Deferred tasks, and intents: what is recorded before it is done.

A *task* is work for one image at one site that cannot be done now. An
*intent* is the write-ahead record of an image that is going to be written: a
writer that dies leaves it, and with it what is to be removed. Its states::

                   begin              commit               Glance has
    (no intent) ----------> WRITING ----------> COMMITTED -----------> (none)
                               |                    |     the location
           writer's lease      |                    |  the image is settled
           has expired         v                    v  and does not have it
                            REMOVING <--------------+
                               |  removed
                               v
                             (none)

Each arrow is a compare-and-swap in RADOS. So of writer and remover exactly
one gets on: an image whose intent is COMMITTED may be told to Glance, one
whose intent is REMOVING may not.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import socket
import time
import typing
import urllib.parse
import uuid


#: What the keys of tasks and intents begin with.
SITES = 'site/'


class Action(enum.Enum):
    """What a task is to do.

    DELETE: remove an image, with its snapshot, that Glance no longer has.
    REMOVE_INCOMPLETE: remove what is left of an image whose writer failed.
    PURGE: remove an image from the trash once its last clone is gone.
    """

    DELETE = 'delete'
    REMOVE_INCOMPLETE = 'remove-incomplete'
    PURGE = 'purge'


class State(enum.Enum):
    """How far an intent is; see the module."""

    WRITING = 'writing'
    COMMITTED = 'committed'
    REMOVING = 'removing'


def host_and_process() -> str:
    """Return the host and process, for people to read."""
    return '%s:%d' % (socket.gethostname(), os.getpid())


def _uid() -> str:
    return uuid.uuid4().hex


@dataclasses.dataclass(frozen=True)
class Task:
    """Deferred work for one image at one site.

    :ivar image_id: internal ID of the RBD image, which no other image ever
        has; None if it is not known
    :ivar snapshot: name of the snapshot to be removed with it, or None
    :ivar addresses: addresses of clients that may still be at work on it,
        which are blocklisted first
    :ivar created_at: seconds since the epoch by the clock of its creator
    :ivar retry_attempts: how often it has failed
    :ivar message: what it failed with last, or waits for; '' if it was not
        tried yet
    :ivar retried_at: when an operator last asked for another attempt, in
        seconds since the epoch; 0: never
    """

    action: Action
    site: str
    image: str
    pool: str
    fsid: typing.Optional[str] = None
    image_id: typing.Optional[str] = None
    snapshot: typing.Optional[str] = None
    addresses: tuple[str, ...] = ()
    uid: str = dataclasses.field(default_factory=_uid)
    created_at: float = dataclasses.field(default_factory=time.time)
    created_by: str = dataclasses.field(default_factory=host_and_process)
    retry_attempts: int = 0
    message: str = ''
    retried_at: float = 0.0

    @property
    def key(self) -> str:
        """Key of the record; those of one image at one site begin alike."""
        name: str = self.action.value
        if self.action is Action.REMOVE_INCOMPLETE:
            name += '.' + self.uid
        elif self.action is not Action.DELETE or self.image_id is not None:
            name += '.' + urllib.parse.quote(self.image_id or '', safe='')
        return prefix(self.site, self.image) + 'task/' + name


@dataclasses.dataclass(frozen=True)
class Intent:
    """Write-ahead record of an image that is going to be written.

    :ivar writer: ID of the lease of the process that writes
    :ivar address: address of the client that writes, at the site's cluster
    :ivar image_id: internal ID of the RBD image, once it is created
    :ivar created_at: seconds since the epoch by the clock of its creator
    """

    site: str
    image: str
    pool: str
    fsid: typing.Optional[str]
    writer: str
    address: str
    image_id: typing.Optional[str] = None
    state: State = State.WRITING
    uid: str = dataclasses.field(default_factory=_uid)
    created_at: float = dataclasses.field(default_factory=time.time)
    created_by: str = dataclasses.field(default_factory=host_and_process)

    @property
    def key(self) -> str:
        """Key of the record; those of one image at one site begin alike."""
        return prefix(self.site, self.image) + 'intent/' + self.uid


Record = typing.Union[Task, Intent]


def prefix(site: str, image: typing.Optional[str] = None) -> str:
    """Return what the keys of a site's records, or an image's, begin with."""
    parts = [site] if image is None else [site, image]
    return SITES + ''.join(urllib.parse.quote(part, safe='') + '/'
                           for part in parts)


def site_of(key: str) -> typing.Optional[str]:
    """Return the site of the record of a key, or None.

    Keys begin alike in all versions of records.
    """
    parts = key.split('/')
    return (urllib.parse.unquote(parts[1])
            if len(parts) > 2 and parts[0] + '/' == SITES else None)


def kind_of(key: str) -> typing.Optional[type[Record]]:
    """Return the class of the record of a key, or None."""
    parts = key.split('/')
    kinds: dict[str, type[Record]] = {'task': Task, 'intent': Intent}
    return kinds.get(parts[3] if len(parts) == 5 else '')
