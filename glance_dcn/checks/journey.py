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

"""The end-to-end proof: one image's way through a whole deployment.

It goes to central and a site, to the others, is cloned at each, comes back as
the snapshot of a disk, goes everywhere, and is deleted. Whatever happens, all
of it is removed.
"""

import hashlib
import os
import time
import uuid

from glance_dcn.ceph import errors
from glance_dcn.ceph import guest
from glance_dcn.ceph import trial
from glance_dcn.checks import api

#: What ends a step.
FAILURES = (api.Refused, errors.ClusterError, *guest.Error)

_NAME = 'glance-dcn-validate'
_MIB = 1 << 20
_CLEAN_TIMEOUT = 60


class Wrong(api.Refused):
    """Something is not what it should be."""


class Journey:
    """The way of one image.

    :param api: :class:`glance_dcn.checks.api.Api`
    :param targets: list of :class:`glance_dcn.checks.subjects.Target`, in
        the order in which they are gone to; the first is the central one
    :param size: MiB of the image
    :param timeout: seconds that an import or a copy may take
    :param user: cephx user of compute nodes; None: Glance's
    :param disks: pool of disks; None: that of images
    """

    def __init__(self, api, targets, size, timeout, user=None, disks=None):
        self._api = api
        self._targets = targets
        self._timeout = timeout
        self._user = user
        self._disks = disks
        self._data = _data(size)
        self._digest = hashlib.sha256(self._data).hexdigest()
        self._guests = {}
        # Names of sites where there may be a clone.
        self._with_disks = set()
        self._tag = uuid.uuid4().hex[:12]
        self.image = self.snapshot = None

    @property
    def names(self):
        """Names of the sites, central first."""
        return [target.name for target in self._targets]

    @property
    def home(self):
        """Name of the site where the disk is that is snapshotted."""
        return self.names[-1]

    def steps(self):
        """Return the steps: (what is done, function), to do in order."""
        first, rest = self.names[:2], self.names[2:]
        result = [('reach %s' % ', '.join(self.names), self._reach),
                  ('import an image to %s' % ' and '.join(first),
                   self._import)]
        if rest:
            result.append(('copy it to %s' % ', '.join(rest), self._copy))
        result.append(('find its locations and the same content everywhere',
                       self._compare))
        result += [('clone it at %s' % name,
                    lambda name=name: self._clone(name))
                   for name in self.names]
        result.append(('snapshot a disk at %s to a new image' % self.home,
                       self._snapshot))
        back = [name for name in self.names if name != self.home]
        if back:
            result.append(('copy that to %s' % ', '.join(back),
                           self._copy_back))
        return result + [('delete both', self._delete)]

    def _reach(self):
        for target in self._targets:
            self._guests[target.name] = guest.Guest(
                target.name, target.conf_file, target.pool,
                self._user or target.user, self._disks or target.pool,
                target.connect_timeout)

    def _import(self):
        # Known before Glance has it: it may be interrupted meanwhile.
        self.image = str(uuid.uuid4())
        self._api.create(id=self.image, name='%s-%s' % (_NAME, self._tag))
        self._api.stage(self.image, self._data)
        self._put(self.image, 'glance-direct', self.names[:2])

    def _put(self, image, method, stores):
        self._api.put_into(image, method, stores)
        self._api.wait(image, stores, self._timeout)

    def _copy(self):
        self._put(self.image, 'copy-image', self.names[2:])

    def _uri(self, site, image):
        return 'rbd://%s/%s/%s/snap' % (site.fsid, site.pool, image)

    def _compare(self):
        locations = self._api.locations(self.image)
        for name, site in self._guests.items():
            wanted = self._uri(site, self.image)
            if locations.get(name) != wanted:
                raise Wrong('the location at %s is %s, not %s' % (
                    name, locations.get(name), wanted))
            if not site.is_protected(self.image):
                raise Wrong('the snapshot at %s is not protected' % name)
            self._expect(self._digest, site, self.image)

    def _expect(self, digest, site, name, disk=False):
        if site.digest(name, disk) != digest:
            raise Wrong('the content of %s at %s is not what it should be'
                        % (name, site.name))

    @property
    def _disk(self):
        return '%s%s' % (trial.PREFIX, self._tag)

    def _clone(self, name):
        site = self._guests[name]
        self._with_disks.add(name)
        try:
            parent = site.clone(self.image, self._disk)
        except guest.Refused:
            self._with_disks.discard(name)
            raise
        if parent != (site.pool, self.image, 'snap'):
            raise Wrong('the clone at %s is one of %s' % (name, parent))
        self._expect(self._digest, site, self._disk, disk=True)

    def _snapshot(self):
        site = self._guests[self.home]
        # What the guest of the disk has done.
        mark = self._tag.encode()
        site.write(self._disk, mark, len(self._data) // 2)
        changed = bytearray(self._data)
        middle = len(changed) // 2
        changed[middle:middle + len(mark)] = mark
        self._changed = hashlib.sha256(changed).hexdigest()
        self.snapshot = str(uuid.uuid4())
        self._api.create(id=self.snapshot,
                         name='%s-%s-snapshot' % (_NAME, self._tag))
        site.snapshot(self._disk, self._tag, self.snapshot)
        self._api.add_location(self.snapshot, self._uri(site, self.snapshot),
                               self.home)
        self._api.wait(self.snapshot, [self.home], self._timeout)
        self._expect(self._changed, site, self.snapshot)

    def _copy_back(self):
        # To central first, then out.
        for stores in (self.names[:1], self.names[1:-1]):
            if stores:
                self._put(self.snapshot, 'copy-image', stores)
        for site in self._guests.values():
            self._expect(self._changed, site, self.snapshot)

    def _delete(self):
        left = self.clean()
        if left:
            raise Wrong('; '.join(left))

    def clean(self):
        """Remove everything there may be.

        :returns: list of what could not be removed, as text
        """
        left = []

        def do(what, function, *args):
            try:
                function(*args)
            except Exception as exc:
                left.append('%s stays: %s' % (what, exc))

        for name in sorted(self._with_disks):
            site = self._guests[name]
            do('disk %s at %s' % (self._disk, site.name), site.remove_disk,
               self._disk)
        for image in (self.image, self.snapshot):
            if image is None:
                continue
            do('image %s' % image, self._api.delete, image, _CLEAN_TIMEOUT)
            for site in self._guests.values():
                do('image %s at %s' % (image, site.name), self._clear, site,
                   image)
        return left

    def _clear(self, site, image):
        """See that nothing of an image is at a site."""
        deadline = time.monotonic() + _CLEAN_TIMEOUT
        # A copy may have been under way, which removes what it wrote.
        while site.has(image) and time.monotonic() < deadline:
            if image == self.snapshot:
                # Glance may not have been told of it.
                site.remove_image(image)
            time.sleep(.5)
        if site.has(image):
            raise Wrong('it is still in pool %s' % site.pool)

    def close(self):
        """Give the connections back."""
        for site in self._guests.values():
            site.close()


def _data(size):
    """Return data with a hole in its middle.

    :param size: MiB
    """
    data = bytearray(size * _MIB)
    data[:_MIB // 2] = os.urandom(_MIB // 2)
    data[-_MIB // 2:] = os.urandom(_MIB // 2)
    return bytes(data)
