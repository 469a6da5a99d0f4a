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
from glance_dcn.status import cluster

if typing.TYPE_CHECKING:
    from collections.abc import Callable

_NAME = 'glance-dcn-validate'
_MIB = 1 << 20
_CLEAN_TIMEOUT = 60
_JSON_PATCH = 'application/openstack-images-v2.1-json-patch'
_POLL = 0.5
# Status codes: it is being imported, or the data is in use for now.
_BUSY = (409, 503)
_FAILED = 'os_glance_failed_import'
_IMPORTING = 'os_glance_importing_to_stores'


class Refused(Exception):
    """Glance did not do what it was asked for."""


class Api:
    """The images API.

    :param adapter: keystoneauth adapter, ``openstack.connection.Connection``'s
        ``image``
    :param poll: seconds between two looks at what is waited for
    """

    def __init__(self, adapter: typing.Any, poll: float = _POLL) -> None:
        self._adapter = adapter
        self._poll = poll

    def stores(self) -> list[str]:
        """Return the stores that take images, the default one first."""
        found = self._ask('GET', '/info/stores').json()['stores']
        found = [store for store in found
                 if str(store.get('read-only')).lower() != 'true']
        return [store['id'] for store in sorted(
            found, key=lambda store: str(store.get('default')) != 'true')]

    def create(self, **properties: object) -> None:
        """Make an image record."""
        self._ask('POST', '/images', json=dict(
            {'disk_format': 'raw', 'container_format': 'bare',
             'visibility': 'private'}, **properties))

    def stage(self, image: str, data: bytes) -> None:
        """Give Glance the data of an image to import."""
        self._ask('PUT', '/images/%s/stage' % image, data=data,
                  headers={'Content-Type': 'application/octet-stream'})

    def put_into(self, image: str, method: str, stores: list[str]) -> None:
        """Begin to import an image into stores, or to copy it there."""
        self._ask('POST', '/images/%s/import' % image, json={
            'method': {'name': method}, 'stores': list(stores),
            'all_stores_must_succeed': True})

    def wait(self, image: str, stores: list[str], timeout: float) -> None:
        """Wait until an image is in stores.

        :raises Refused: if it does not get there
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self._ask('GET', '/images/%s' % image).json()
            if found.get(_FAILED):
                raise Refused('image %s did not get to %s; the log of that '
                              'Glance says why' % (image, found[_FAILED]))
            there = set((found.get('stores') or '').split(','))
            if (found['status'] == 'active' and not found.get(_IMPORTING)
                    and set(stores) <= there
                    and not found.get('os_glance_import_task')):
                return
            if found['status'] in ('killed', 'deleted'):
                break
            time.sleep(self._poll)
        raise Refused('image %s is not in %s within %d s: its status is %s, '
                      'its stores are %s' % (
                          image, ', '.join(stores), timeout,
                          found['status'], found.get('stores') or 'none'))

    def add_location(self, image: str, uri: str, store: str) -> None:
        """Add a location to an image, as Nova does."""
        self._ask('PATCH', '/images/%s' % image, json=[{
            'op': 'add', 'path': '/locations/-',
            'value': {'url': uri, 'metadata': {'store': store}}}],
            headers={'Content-Type': _JSON_PATCH})

    def locations(self, image: str) -> dict[str, str]:
        """Return the locations that Glance shows, by store."""
        found = self._ask('GET', '/images/%s' % image).json()
        if 'locations' not in found:
            raise Refused('Glance does not show the locations of image %s; '
                          'set show_multiple_locations = true' % image)
        return {place['metadata'].get('store'): place['url']
                for place in found['locations']}

    def delete(self, image: str, timeout: float) -> None:
        """Delete an image, if it is there, once an import has ended.

        :raises Refused: if it cannot be deleted
        """
        deadline = time.monotonic() + timeout
        while True:
            answer = self._adapter.request(
                '/images/%s' % image, 'DELETE', raise_exc=False)
            if answer.status_code in (204, 404):
                return
            if (answer.status_code not in _BUSY
                    or time.monotonic() > deadline):
                raise Refused('image %s cannot be deleted: %s' % (
                    image, _said(answer)))
            time.sleep(self._poll)

    def _ask(self, method: str, path: str, **kwargs: typing.Any) -> typing.Any:
        answer = self._adapter.request(path, method, raise_exc=False,
                                       **kwargs)
        if answer.status_code >= 300:
            raise Refused('%s %s: %s' % (method, path, _said(answer)))
        return answer


def _said(answer: typing.Any) -> str:
    """Return status and text of an answer, without its markup."""
    text = ' '.join(answer.text.split())
    return '%d %s' % (answer.status_code, text[:300])


#: What ends a step.
FAILURES = (Refused, errors.ClusterError, *guest.Error)


class Journey:
    """The way of one image.

    :param targets: in the order in which they are gone to; the first is the
        central one
    :param size: MiB of the image
    :param timeout: seconds that an import or a copy may take
    :param user: cephx user of compute nodes; None: Glance's
    :param disks: pool of disks; None: that of images
    """

    def __init__(self, api: Api, targets: list[cluster.Target],
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
        self._disk = trial.PREFIX + self._tag
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
        """Return descriptions and functions of all steps, in order."""
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
                raise Refused('the location at %s is %s, not %s' % (
                    name, locations.get(name), wanted))
            if not site.is_protected(self.image):
                raise Refused('the snapshot at %s is not protected' % name)
            self._expect(self._digest, site, self.image)

    def _expect(self, digest: str, site: guest.Guest, name: str,
                disk: bool = False) -> None:
        if site.digest(name, disk) != digest:
            raise Refused('the content of %s at %s is not what it should be'
                          % (name, site.name))

    def _clone(self, name: str) -> None:
        site = self._guests[name]
        self._with_disks.add(name)
        try:
            parent = site.clone(self.image, self._disk)
        except guest.Refused:
            self._with_disks.discard(name)
            raise
        if parent != (site.pool, self.image, 'snap'):
            raise Refused('the clone at %s is one of %s' % (name, parent))
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
            raise Refused('; '.join(left))

    def clean(self) -> list[str]:
        """Remove all disks and images of the journey.

        :returns: errors, as text
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
        """Remove an image from a site, and wait until it is gone."""
        deadline = time.monotonic() + _CLEAN_TIMEOUT
        # A copy may have been under way, which removes what it wrote.
        while site.has(image) and time.monotonic() < deadline:
            if image == self.snapshot:
                # Glance may not have been told of it.
                site.remove_image(image)
            time.sleep(_POLL)
        if site.has(image):
            raise Refused('it is still in pool %s' % site.pool)

    def close(self) -> None:
        """Close the connections."""
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
