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

"""A Glance API as the proof of a deployment needs it.

openstacksdk reads clouds.yaml and the OS_ variables, and logs in; oslo.limit,
which Glance needs, brings it.
"""

from __future__ import annotations

import time
import typing

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
    """

    def __init__(self, adapter: typing.Any) -> None:
        self._adapter = adapter

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
            time.sleep(_POLL)
        raise Refused('image %s is not in %s within %d s: its status is %s, '
                      'its stores are %s' % (
                          image, ', '.join(stores), timeout,
                          found['status'], found.get('stores') or 'none'))

    def add_location(self, image: str, uri: str, store: str) -> None:
        """Tell Glance where an image is, as Nova does."""
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
            time.sleep(_POLL)

    def _ask(self, method: str, path: str, **kwargs: typing.Any) -> typing.Any:
        answer = self._adapter.request(path, method, raise_exc=False,
                                       **kwargs)
        if answer.status_code >= 300:
            raise Refused('%s %s: %s' % (method, path, _said(answer)))
        return answer


def _said(answer: typing.Any) -> str:
    """Return what an answer says, without its markup."""
    text = ' '.join(answer.text.split())
    return '%d %s' % (answer.status_code, text[:300])
