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

"""What writers have begun, so that what a dead one leaves is found.

Before an image is created at a site, a record of it is written in that site's
own pool: one small write there, where the creation needs a dozen anyway, and
none elsewhere. Without it nobody could tell a dead writer's image from one
that Nova is about to publish in the same pool, nor find it without listing
the pool.

The record stands until the image is removed again or, after it was published,
until Glance's database has its location: a worker may be killed between the
two. It is taken away by those who do the work that is owed to the site, not
by the writer, who does not hear of the location.

Whether a writer lives is told by a lock that it holds on an object of its own
in the same pool, and renews; when its process ends, the lock does so soon
after.
"""

import dataclasses
import logging
import os
import time
import uuid

from glance_dcn import background
from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.engine import native
from glance_dcn.sites import owed

LOG = logging.getLogger(__name__)

#: Name of the object by which a writer is known to live; its name follows.
PRESENCE = 'glance_dcn.writer.'
#: Name of the lock that a living writer holds on it.
LOCK = 'alive'
#: Seconds after which a writer that is heard no more is taken for dead. As
#: long as the cluster takes to forget who had an image open.
EXPIRY = 30
# Seconds between renewals.
_RENEWAL = 8
#: Seconds for which a writer stays known after its last image was published:
#: Glance is to have its location by then.
LINGER = 600


class Writers:
    """What the writers of this process have begun at one site.

    :param site: :class:`glance_dcn.sites.site.Site`
    """

    def __init__(self, site):
        self._site = site
        self._place = owed.ledger.own_place(site)
        self._lock = native.lock()
        self._presence = background.Periodic(
            'glance-dcn-alive-%s' % site.name, self._renew, _RENEWAL)
        self._reset()

    def _reset(self):
        """Begin as a new process does."""
        self._pid = os.getpid()
        self._name = uuid.uuid4().hex
        # Records by token, and those whose removal is left to others.
        self._open = {}
        self._abandoned = []
        # (record, until when it may still come to be there, by the monotonic
        # clock) of those whose writing was not answered.
        self._unanswered = []
        # The process is known at the site until then.
        self._until = 0
        # When it last said so.
        self._said = float('-inf')

    def begin(self, ioctx, image):
        """Write down that an image is going to be written.

        :param ioctx: of the site's pool
        :param image: name of the RBD image
        :returns: :class:`glance_dcn.sites.owed.Record`
        :raises glance_dcn.ceph.omap.Error: if the cluster refuses
        """
        if self._pid != os.getpid():
            # A child of a fork: what is open is the parent's.
            self._lock = native.lock()
            self._reset()
        with self._lock:
            # Whoever was cut off for a while may be taken for dead.
            known = time.monotonic() < self._said + 2 * _RENEWAL
            # For as long as anything may take until it is known to be open.
            self._until = time.monotonic() + LINGER
            self._presence.start()
            record = owed.Record(owed.HALF_WRITTEN, image, self._site.pool,
                                 fsid=self._site.fsid, writer=self._name)
            self._open[record.token] = record
        try:
            if not known:
                self._say(ioctx, record.writer)
            omap.put(ioctx, self._place.name, {record.key: record.text()})
        except omap.Error:
            # It may be carried out when the cluster goes on, and would then
            # stand for somebody who lives and has nothing to do with it.
            self._unanswered.append((record, time.monotonic() + LINGER))
            self._forget(record)
            raise
        return record

    def bind(self, ioctx, image, image_id):
        """Add the internal ID of an image that was created; do not wait."""
        record = self._latest(image)
        if record is not None and record.image_id is None:
            self._change(ioctx, record, image_id=image_id)

    def published(self, ioctx, image):
        """Note that an image is published: others see to its record now."""
        record = self._latest(image)
        if record is not None:
            self._change(ioctx, record, published=time.time())

    def _change(self, ioctx, record, **changes):
        changed = dataclasses.replace(record, **changes)
        with self._lock:
            self._open[record.token] = changed
            self._until = time.monotonic() + LINGER
        omap.put_later(ioctx, self._place.name, {changed.key: changed.text()})

    def end(self, ioctx, image, record=None):
        """Take the record away: there is nothing to be seen to.

        :param record: which one, if not the latest of the image
        """
        record = record or self._latest(image)
        if record is not None:
            self._forget(record)
            omap.remove_later(ioctx, self._place.name, record.key,
                              lambda: self._abandoned.append(record))

    def abandon(self, image):
        """Stop answering for an image that could not be removed.

        :returns: its internal ID, or None if it is not known
        """
        record = self._latest(image)
        if record is None:
            return None
        self._abandoned.append(record)
        self._forget(record)
        # Its thread says so as soon as the site can be reached.
        self._presence.wake()
        return record.image_id

    def _forget(self, record):
        with self._lock:
            self._open.pop(record.token, None)

    def _latest(self, image):
        with self._lock:
            found = [record for record in self._open.values()
                     if record.image == image]
        return found[-1] if found else None

    def _renew(self):
        """Say that this process lives, as long as it matters."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._forget_old()
            name = self._name
            idle = (not self._open and not self._abandoned
                    and not self._unanswered
                    and time.monotonic() > self._until)
            if idle:
                self._name = uuid.uuid4().hex
                self._said = float('-inf')
                self._presence.stop()
        if not self._site.available:
            return
        try:
            with self._site.open_pool() as ioctx:
                if idle:
                    omap.remove_object(ioctx, PRESENCE + name)
                else:
                    self._say(ioctx, name)
                    self._let_go(ioctx)
        except (errors.ClusterError, omap.Error) as exc:
            LOG.debug('Store %(store)s does not hear of its writer: '
                      '%(error)s', {'store': self._site.name, 'error': exc})

    def _say(self, ioctx, name):
        now = time.monotonic()
        omap.lock(ioctx, PRESENCE + name, LOCK, name, EXPIRY)
        if name == self._name:
            self._said = now

    def _let_go(self, ioctx):
        """Say of records that they have no writer any more."""
        while self._abandoned:
            self._free(ioctx, self._abandoned[0])
            del self._abandoned[0]
        for entry in self._unanswered[:]:
            record, until = entry
            if self._free(ioctx, record) or time.monotonic() > until:
                self._unanswered.remove(entry)

    def _free(self, ioctx, record):
        """Say that a record has no writer; return whether it is there."""
        if omap.get(ioctx, self._place.name, record.key) is None:
            return False
        left = dataclasses.replace(record, writer=None)
        omap.put(ioctx, self._place.name, {left.key: left.text()})
        return True

    def _forget_old(self):
        """Forget what was published so long ago that it is known or lost."""
        for record in list(self._open.values()):
            if is_late(record):
                del self._open[record.token]


def is_alive(ioctx, writer):
    """Return whether a writer lives.

    :param ioctx: of the pool of the site it writes at
    :param writer: see :class:`glance_dcn.sites.owed.Record`
    :raises glance_dcn.ceph.omap.Error: if the cluster refuses
    """
    return omap.is_locked(ioctx, PRESENCE + writer, LOCK)


def is_late(record):
    """Whether an image was published so long ago that it is known or lost."""
    return (record.published is not None
            and time.time() - record.published > LINGER)


def bury(ioctx, writer):
    """Remove what is left of a dead writer."""
    omap.remove_object(ioctx, PRESENCE + writer)
