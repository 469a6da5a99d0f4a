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

"""Doing the work that is owed to a site; see :mod:`glance_dcn.sites.owed`.

Each job may be done twice, by two workers at once, and after a worker died in
the middle of it. None removes an image that somebody is writing, nor one that
a location names: an image may have been made anew since its removal was
recorded.
"""

import contextlib
import datetime
import logging
import time

import rbd

from glance_dcn import catalog
from glance_dcn.ceph import claims
from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import omap
from glance_dcn.sites import intents
from glance_dcn.sites import owed

LOG = logging.getLogger(__name__)

# Seconds within which Glance drops a location after the store has accepted
# the removal of its image; and in which a worker that has noted that it moves
# an image to the trash does so.
_SOON = 60
# Seconds within which Glance has dropped the location of an image that it
# removes from all its stores, of which some may take long.
_LONG = 24 * 3600
# What Glance's database says of an image that may be removed.
_NOT_WANTED = (catalog.NOT_NAMED, catalog.DELETED)


class Later(Exception):
    """It cannot be done now: it is tried again.

    :ivar usual: whether that is as it should be, such as that an image still
        has clones
    """

    def __init__(self, reason, usual=False):
        super().__init__(reason)
        self.usual = usual


def carry_out(site, record, patient=False, creating=None):
    """Do what is owed to a site.

    :param site: :class:`glance_dcn.sites.site.Site`
    :param record: :class:`glance_dcn.sites.owed.Record`
    :param patient: whether a writer that is not heard of was silent for long
        enough to be taken for dead
    :param creating: record of whoever wants to create the image and waits
    :returns: whether there was anything to be done
    :raises Later: if it cannot be done yet
    :raises glance_dcn.ceph.errors.ClusterError: if the site is away
    :raises rbd.Error, glance_dcn.ceph.omap.Error: if the cluster refuses
    """
    if record.fsid and site.fsid and record.fsid != site.fsid:
        LOG.warning('%(title)s is owed to cluster %(fsid)s, in whose place '
                    'store %(store)s has another one: dropped', {
                        'title': owed.title(record), 'fsid': record.fsid,
                        'store': site.name})
        return False
    with site.open_pool(record.pool) as ioctx, \
            _claimed(ioctx, record, creating):
        work = _Work(site, ioctx, record, patient, creating)
        if record.job == owed.HALF_WRITTEN and work.is_wanted():
            return False
        {owed.DELETE: work.delete, owed.HALF_WRITTEN: work.half_written,
         owed.REAP: work.reap}[record.job]()
    return True


@contextlib.contextmanager
def _claimed(ioctx, record, creating):
    """Keep others from beginning or adopting an image while it is removed.

    Whoever is creating it has the claim already.
    """
    if creating or record.job == owed.REAP:
        yield
        return
    try:
        with claims.claim(ioctx, record.image, must_last=False):
            yield
    except claims.ClaimError as exc:
        raise Later(str(exc), usual=True) from exc


def settle(site, image, creating):
    """Do at once what is owed to a site for an image.

    For whoever wants to create an image of that name and finds one.

    :param creating: the record that this was begun with
    :returns: whether there was anything, so that it is worth another try
    """
    done = False
    for place in owed.ledger.places(site):
        try:
            for record in place.records(image):
                if record.job != owed.REAP and record.writer is None:
                    carry_out(site, record, creating=creating)
                    place.drop(record)
                    done = True
        except (Later, errors.ClusterError, rbd.Error, omap.Error) as exc:
            LOG.info('What is owed to store %(store)s for image %(image)s '
                     'cannot be done now: %(error)s', {
                         'store': site.name, 'image': image, 'error': exc})
    return done


def forgive(site, image):
    """Drop removals that are owed to a site for an image it is to keep.

    For whoever adopts the image, and answers for it with a record of its own.
    What cannot be dropped now is found out to be void later.
    """
    for place in owed.ledger.places(site):
        try:
            for record in place.records(image):
                if record.job == owed.DELETE:
                    place.drop(record)
        except (errors.ClusterError, omap.Error) as exc:
            LOG.info('What is owed to store %(store)s for image %(image)s '
                     'stays for now: %(error)s', {
                         'store': site.name, 'image': image, 'error': exc})


class _Work:
    """One record's work."""

    def __init__(self, site, ioctx, record, patient, creating):
        self._site = site
        self._ioctx = ioctx
        self._record = record
        self._patient = patient
        self._creating = creating

    def delete(self):
        state = images.look(self._ioctx, self._record.image)
        if state and (self._is_other(state) or self._is_named(state)):
            self._say('was made anew: it is left alone')
            return
        self._remove()

    def is_wanted(self):
        """Return whether what was written has its location by now."""
        if self._record.writer and not self._patient:
            raise Later('its writer was heard of lately', usual=True)
        answer = self._ask()
        if answer not in (catalog.NAMED, catalog.DELETED) and (
                self._record.writer and not intents.is_late(self._record)
                and intents.is_alive(self._ioctx, self._record.writer)):
            raise Later('its writer is heard of again', usual=True)
        return answer == catalog.NAMED

    def half_written(self):
        record = self._record
        state = images.look(self._ioctx, record.image)
        if state is None:
            # What is left of one whose maker died while creating it.
            self._remove()
        elif self._is_other(state):
            return
        elif state.published:
            self._unwanted()
        elif record.image_id or state.blank:
            self._remove()
        else:
            self._say('is not the one whose writing was begun: it is left '
                      'alone')

    def reap(self):
        try:
            images.reap(self._ioctx, self._record.image_id,
                        self._record.snapshot)
        except rbd.ImageNotFound:
            if time.time() - self._record.since < _SOON:
                raise Later('it is not in the trash yet', usual=True)
        except images.InUse as exc:
            raise Later(str(exc), usual=True) from exc

    def _unwanted(self):
        """Remove a published image that has no location.

        Its writer died before Glance had it, or gave it up.
        """
        answer = self._ask()
        if answer == catalog.NAMED:
            return
        if answer in _NOT_WANTED or self._record.writer is None:
            self._say('has no location there: it is removed')
            self._remove()
        elif answer == catalog.UNKNOWN:
            raise Later('this Glance does not know the image', usual=True)

    def _is_other(self, state):
        """Whether an image is not the one the record is about."""
        known = self._record.image_id
        return known is not None and state.image_id != known

    def _is_named(self, state):
        """Whether Glance has a location of an image that it had removed.

        Then the image was made anew since, and is to be left alone.

        :raises Later: if it may be that Glance has yet to drop the location
        """
        answer = self._ask()
        if answer in _NOT_WANTED:
            return False
        recorded = datetime.datetime.fromtimestamp(
            self._record.since, datetime.timezone.utc)
        anew = state.created > recorded.replace(tzinfo=None)
        if answer != catalog.NAMED:
            return anew
        # Glance removes an image from one store after the other, and drops
        # the locations in the end.
        if time.time() - self._record.since < (_SOON if anew else _LONG):
            raise Later('Glance still has its location', usual=True)
        return True

    def _ask(self):
        record = self._record
        try:
            return catalog.ask(record.image,
                               self._site.uri(record.image, record.pool))
        except Exception as exc:
            raise Later('the database of Glance does not answer: %s'
                        % exc) from exc

    def _remove(self):
        """Remove the image, unless somebody else is writing it."""
        record = self._record
        mine = {record.token, self._creating and self._creating.token}
        with self._site.open_pool() as ioctx:
            for other in owed.ledger.own_place(self._site).records(
                    record.image):
                if (other.writer and other.token not in mine
                        and intents.is_alive(ioctx, other.writer)):
                    raise Later('it is being written', usual=True)
        try:
            images.remove(
                self._ioctx, record.image, record.snapshot or images.SNAPSHOT,
                trashing=owed.trashing(self._site, record.image, record.pool),
                in_use_too=record.job == owed.DELETE)
        except rbd.ImageNotFound:
            pass
        except images.InUse as exc:
            raise Later(str(exc), usual=True) from exc

    def _say(self, what):
        LOG.warning('Image %(image)s in store %(store)s %(what)s', {
            'image': self._record.image, 'store': self._site.name,
            'what': what})
