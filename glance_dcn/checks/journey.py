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

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import time
import typing
import uuid

from glance_dcn.ceph import errors
from glance_dcn.ceph import guest
from glance_dcn.ceph import trial
from glance_dcn.checks import api
from glance_dcn.status import subjects

if typing.TYPE_CHECKING:
    from collections.abc import Callable

#: What ends a step.
FAILURES = (api.Refused, errors.ClusterError, *guest.Error)

_NAME = 'glance-dcn-validate'
_MIB = 1 << 20
_CLEAN_TIMEOUT = 60


class Wrong(api.Refused):
    """Something is not what it should be."""


class Journey:
    """The way of one image.

    :param targets: in the order in which they are gone to; the first is the
        central one
    :param size: MiB of the image
    :param timeout: seconds that an import or a copy may take
    :param user: cephx user of compute nodes; None: Glance's
    :param disks: pool of disks; None: that of images
    """

    def __init__(self, api: api.Api, targets: list[subjects.Target],
                 size: int, timeout: float, user: str | None = None,
                 disks: str | None = None) -> None:
        self._api = api
        self._targets = targets
        self._timeout = timeout
        self._user = user
        self._disks = disks
        self._data = _data(size)
        self._digest = hashlib.sha256(self._data).hexdigest()
        self._guests: dict[str, guest.Guest] = {}
        # Names of sites where there may be a clone.
        self._with_disks: set[str] = set()
        self._tag = uuid.uuid4().hex[:12]
        # '' until they may be there.
        self.image = self.snapshot = ''

    @property
    def names(self) -> list[str]:
        """Names of the sites, central first."""
        return [target.name for target in self._targets]

    @property
    def home(self) -> str:
        """Name of the site where the disk is that is snapshotted."""
        return self.names[-1]

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """Return what is to be done, in words and as functions, in order."""
        first, rest = self.names[:2], self.names[2:]
        result = [('reach %s' % ', '.join(self.names), self._reach),
                  ('import an image to %s' % ' and '.join(first),
                   self._import)]
        if rest:
            result.append(('copy it to %s' % ', '.join(rest), self._copy))
        result.append(('find its locations and the same content everywhere',
                       self._compare))
        result += [('clone it at %s' % name,
                    functools.partial(self._clone, name))
                   for name in self.names]
        result.append(('snapshot a disk at %s to a new image' % self.home,
                       self._snapshot))
        back = [name for name in self.names if name != self.home]
        if back:
            result.append(('copy that to %s' % ', '.join(back),
                           self._copy_back))
        return result + [('delete both', self._delete)]

    def _reach(self) -> None:
        for target in self._targets:
            self._guests[target.name] = guest.Guest(
                dataclasses.replace(target, user=self._user or target.user),
                self._disks or target.pool)

    def _import(self) -> None:
        # Known before Glance has it: it may be interrupted meanwhile.
        self.image = str(uuid.uuid4())
        self._api.create(id=self.image, name='%s-%s' % (_NAME, self._tag))
        self._api.stage(self.image, self._data)
        self._put(self.image, 'glance-direct', self.names[:2])

    def _put(self, image: str, method: str, stores: list[str]) -> None:
        self._api.put_into(image, method, stores)
        self._api.wait(image, stores, self._timeout)

    def _copy(self) -> None:
        self._put(self.image, 'copy-image', self.names[2:])

    def _uri(self, site: guest.Guest, image: str) -> str:
        return 'rbd://%s/%s/%s/snap' % (site.fsid, site.pool, image)

    def _compare(self) -> None:
        locations = self._api.locations(self.image)
        for name, site in self._guests.items():
            wanted = self._uri(site, self.image)
            if locations.get(name) != wanted:
                raise Wrong('the location at %s is %s, not %s' % (
                    name, locations.get(name), wanted))
            if not site.is_protected(self.image):
                raise Wrong('the snapshot at %s is not protected' % name)
            self._expect(self._digest, site, self.image)

    def _expect(self, digest: str, site: guest.Guest, name: str,
                disk: bool = False) -> None:
        if site.digest(name, disk) != digest:
            raise Wrong('the content of %s at %s is not what it should be'
                        % (name, site.name))

    @property
    def _disk(self) -> str:
        return '%s%s' % (trial.PREFIX, self._tag)

    def _clone(self, name: str) -> None:
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

    def _snapshot(self) -> None:
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

    def _copy_back(self) -> None:
        # To central first, then out.
        for stores in (self.names[:1], self.names[1:-1]):
            if stores:
                self._put(self.snapshot, 'copy-image', stores)
        for site in self._guests.values():
            self._expect(self._changed, site, self.snapshot)

    def _delete(self) -> None:
        left = self.clean()
        if left:
            raise Wrong('; '.join(left))

    def clean(self) -> list[str]:
        """Remove everything there may be.

        :returns: what could not be removed, in words
        """
        left = []

        def do(what: str, function: Callable[..., object],
               *args: typing.Any) -> None:
            try:
                function(*args)
            except Exception as exc:
                left.append('%s stays: %s' % (what, exc))

        for name in sorted(self._with_disks):
            site = self._guests[name]
            do('disk %s at %s' % (self._disk, site.name), site.remove_disk,
               self._disk)
        for image in (self.image, self.snapshot):
            if not image:
                continue
            do('image %s' % image, self._api.delete, image, _CLEAN_TIMEOUT)
            for site in self._guests.values():
                do('image %s at %s' % (image, site.name), self._clear, site,
                   image)
        return left

    def _clear(self, site: guest.Guest, image: str) -> None:
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

    def close(self) -> None:
        """Give the connections back."""
        for site in self._guests.values():
            site.close()


def _data(size: int) -> bytes:
    """Return data with a hole in its middle.

    :param size: MiB
    """
    data = bytearray(size * _MIB)
    data[:_MIB // 2] = os.urandom(_MIB // 2)
    data[-_MIB // 2:] = os.urandom(_MIB // 2)
    return bytes(data)
