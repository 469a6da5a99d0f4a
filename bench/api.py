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

"""A small client of the image service."""

import contextlib
import http.client
import sqlite3
import time
import urllib.parse

from keystoneauth1 import exceptions as ka_exceptions

_CHUNK = 1 << 20
# Seconds between looks at the database, and what tells there that an import
# goes on.
_LOOK = 0.02
_PENDING = """SELECT count(*) FROM image_properties
              WHERE image_id = ? AND deleted = 0 AND value != '' AND name IN
              ('os_glance_import_task', 'os_glance_importing_to_stores')"""


class JobFailed(Exception):
    """A job did not do what it should; the message says what it did."""


class Client:
    """Talks to one Glance worker.

    :param session: keystoneauth session
    :param url: URL of the worker
    :param timeout: seconds after which a job has failed
    :param database: path of Glance's database, an SQLite file; without it
        there are no imports
    """

    def __init__(self, session, url, timeout, database=None):
        self._session = session
        self._url = url
        self._timeout = timeout
        self._database = database

    def create(self, name, disk_format):
        """Create an image without data and return its id."""
        return self._call('POST', '/v2/images', {
            'name': name, 'disk_format': disk_format,
            'container_format': 'bare'}).json()['id']

    def web_download(self, image_id, uri, stores):
        """Import an image into stores, and wait until it is there."""
        self._import(image_id, {'name': 'web-download', 'uri': uri}, stores)

    def stage(self, image_id, path):
        """Upload a file to be imported: it waits in the staging folder."""
        with open(path, 'rb') as file:
            self._call('PUT', '/v2/images/%s/stage' % image_id, data=file,
                       headers={'Content-Type': 'application/octet-stream'})

    def import_staged(self, image_id, stores):
        """Import what was staged into stores, and wait until it is there."""
        self._import(image_id, {'name': 'glance-direct'}, stores)

    def copy(self, image_id, stores):
        """Copy an image into further stores, and wait until it is there."""
        self._import(image_id, {'name': 'copy-image'}, stores)

    def show(self, image_id):
        """Return an image's properties."""
        return self._call('GET', '/v2/images/%s' % image_id).json()

    def list_images(self):
        """Return the images, as ``GET /v2/images`` does."""
        return self._call('GET', '/v2/images').json()['images']

    def stores(self):
        """Return the stores, as ``GET /v2/info/stores`` does."""
        return self._call('GET', '/v2/info/stores').json()['stores']

    def delete(self, image_id):
        """Delete an image from all stores."""
        self._call('DELETE', '/v2/images/%s' % image_id)

    def delete_from(self, store, image_id):
        """Delete an image from one of its stores."""
        self._call('DELETE', '/v2/stores/%s/%s' % (store, image_id))

    def download(self, image_id, sink=None):
        """Read an image.

        :param sink: called with each piece, a memoryview, unless None
        :returns: bytes read
        """
        parts = urllib.parse.urlsplit(self._url)
        connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=self._timeout)
        try:
            connection.request(
                'GET', '/v2/images/%s/file' % image_id,
                headers={'X-Auth-Token': self._session.get_token()})
            answer = connection.getresponse()
            if answer.status != 200:
                raise JobFailed('download: %d %s'
                                % (answer.status, answer.reason))
            return _drain(answer, sink)
        except (OSError, http.client.HTTPException) as exc:
            raise JobFailed('download: %r' % exc) from exc
        finally:
            connection.close()

    def _import(self, image_id, method, stores):
        self._call('POST', '/v2/images/%s/import' % image_id, {
            'method': method, 'stores': list(stores),
            'all_stores_must_succeed': True})
        image = self._wait(image_id)
        there = set(image.get('stores', '').split(','))
        if (image['status'] != 'active' or not set(stores) <= there
                or image.get('os_glance_failed_import')):
            raise JobFailed('%s: the image is %s, in stores: %s; %s' % (
                method['name'], image['status'],
                image.get('stores') or 'none', self._message(image_id)))

    def _wait(self, image_id):
        """Wait for the end of an import, and return the image.

        The database is looked at: Glance and Keystone would need 20 ms of a
        processor for each answer, which the import is to have.
        """
        deadline = time.monotonic() + self._timeout
        with contextlib.closing(sqlite3.connect(
                'file:%s?mode=ro' % urllib.parse.quote(str(self._database)),
                uri=True)) as database:
            while database.execute(_PENDING, (image_id,)).fetchone()[0]:
                if time.monotonic() > deadline:
                    raise JobFailed('not done within %d s; %s' % (
                        self._timeout, self._message(image_id)))
                time.sleep(_LOOK)
        return self.show(image_id)

    def _message(self, image_id):
        try:
            tasks = self._call('GET', '/v2/images/%s/tasks'
                               % image_id).json()['tasks']
        except JobFailed as exc:
            return str(exc)
        return 'task: %s' % (tasks and (tasks[-1]['message'] or
                                        tasks[-1]['status']))

    def _call(self, method, path, body=None, **kwargs):
        headers = {'Accept': 'application/json', **kwargs.pop('headers', {})}
        try:
            return self._session.request(
                self._url + path, method, json=body, headers=headers,
                **kwargs)
        except ka_exceptions.ClientException as exc:
            raise JobFailed('%s %s: %s' % (method, path, exc)) from exc


def _drain(answer, sink):
    buffer = memoryview(bytearray(_CHUNK))
    total = 0
    while True:
        length = answer.readinto(buffer)
        if not length:
            break
        if sink:
            sink(buffer[:length])
        total += length
    if answer.length:
        raise JobFailed('download: broken off after %d bytes' % total)
    return total
