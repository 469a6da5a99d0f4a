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

"""One Glance API, and waiting for what it does."""

import io

import glanceclient
import requests

from lab import process

TIMEOUT = 60


class Api:
    """One Glance API as an administrator sees it.

    :ivar images: glanceclient's controller of images
    :param url: its URL
    :param auth: keystoneauth session
    """

    def __init__(self, url, auth):
        self.url = url
        self.auth = auth
        self.images = glanceclient.Client(
            '2', session=self.auth, endpoint_override=url).images

    def request(self, method, path, **kwargs):
        """Send a request, without raising on whatever status comes back."""
        headers = dict({'X-Auth-Token': self.auth.get_token()},
                       **kwargs.pop('headers', {}))
        return requests.request(method, self.url + path, headers=headers,
                                timeout=TIMEOUT, **kwargs)

    def upload(self, image_id, data, store=None):
        """Upload the data of an image, as ``glance image-upload`` does."""
        self.images.upload(image_id, io.BytesIO(data), backend=store)

    def stage(self, image_id, data):
        """Stage the data of an image, as ``glance image-stage`` does."""
        self.images.stage(image_id, io.BytesIO(data))

    def download(self, image_id, **params):
        """Return all data of an image.

        :param params: parameters of the query, such as ``prefer``
        """
        answer = self.request('GET', '/v2/images/%s/file' % image_id,
                              params=params)
        answer.raise_for_status()
        return answer.content

    def stores(self, detail=False):
        """Return what ``stores-info`` shows, by store."""
        path = '/v2/info/stores' + ('/detail' if detail else '')
        answer = self.request('GET', path)
        answer.raise_for_status()
        return {store['id']: store for store in answer.json()['stores']}

    def patch(self, image_id, *operations):
        """Send operations of a JSON patch and return the answer."""
        media_type = 'application/openstack-images-v2.1-json-patch'
        return self.request('PATCH', '/v2/images/%s' % image_id,
                            json=list(operations),
                            headers={'Content-Type': media_type})

    def add_location(self, image_id, uri, **metadata):
        """Register a location as Nova does and return the answer."""
        return self.patch(image_id, {
            'op': 'add', 'path': '/locations/-',
            'value': {'url': uri, 'metadata': metadata}})

    def wait(self, image_id, *stores, status='active', failed=()):
        """Wait until an import into stores has ended, and return the image.

        :param stores: where the image shall be then, and nowhere else
        :param failed: stores the import shall fail for
        """
        image = None

        def ended():
            nonlocal image
            # First, so that what a task that has ended did to the image is
            # seen.
            tasks = self.tasks(image_id)
            image = self.images.get(image_id)
            if (image['status'] in ('importing', 'saving')
                    or image.get('os_glance_importing_to_stores')):
                return False
            # A task that failed leaves its lock on the image.
            lock = image.get('os_glance_import_task')
            return ({task['status'] for task in tasks.values()}
                    <= {'success', 'failure'}
                    and (not lock or lock in tasks
                         and tasks[lock]['status'] == 'failure'))
        try:
            process.wait_for('import', ended, TIMEOUT)
        except process.LabError as exc:
            raise AssertionError('%s: %s; tasks: %s' % (
                exc, image, self.messages(image_id)))
        found = {'status': image['status'], 'stores': stores_of(image),
                 'failed': _split(image.get('os_glance_failed_import'))}
        expected = {'status': status, 'stores': set(stores),
                    'failed': set(failed)}
        if found != expected:
            raise AssertionError('expected %s, found %s; tasks: %s' % (
                expected, found, self.messages(image_id)))
        return image

    def tasks(self, image_id):
        """Return the tasks of an image, by ID."""
        answer = self.request('GET', '/v2/images/%s/tasks' % image_id)
        return {task['id']: task for task in answer.json()['tasks']}

    def messages(self, image_id):
        """Return the messages of an image's tasks, those of copies last.

        Times of tasks are too coarse, and Glance lists them in no order.
        """
        return [task['message'] for task in sorted(
            self.tasks(image_id).values(), key=lambda task: (
                task['input']['import_req']['method']['name']
                == 'copy-image', task['created_at'], task['updated_at']))]


def stores_of(image):
    """Return the stores an image is in, as a set."""
    return _split(image.get('stores'))


def _split(text):
    return {name for name in (text or '').split(',') if name}
