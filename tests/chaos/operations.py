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

"""The operations of a randomised run, and what is known of their images.

An operation ends in one of these ways; only what Glance said it had done
counts against it later:

``ok``          done, as Glance says
``partial``     an import or copy that reached some of its stores
``failed``      Glance says, or shows, that it was not done
``refused``     Glance would not begin (4xx)
``unanswered``  no answer, or not its end: anything may have happened
``unfinished``  begun, and not at its end when it was no longer waited for
``skipped``     the image was never made
"""

import contextlib
import hashlib
import itertools
import threading
import time

import requests

from lab import process
from tests.chaos import plan

#: Seconds until the end of an import or a copy is no longer waited for.
PATIENCE = 120
_ERRORS = (requests.RequestException, process.LabError)


class WrongData(Exception):
    """A download that was complete gave other data than the image's."""


class Known:
    """What is known of an image of the plan.

    :ivar image: :class:`tests.chaos.plan.Image`
    :ivar id: its ID in Glance, once ``named``
    :ivar digest: SHA-512 of its data, in hex
    :ivar named: event: it has an ID, or will never have one
    :ivar made: event: its import has ended, well or not
    :ivar confirmed: stores Glance has shown it to be in
    :ivar removed: stores it was asked to be removed from
    :ivar doomed: whether somebody asked for its deletion
    :ivar deleted: whether Glance said that it is deleted
    """

    def __init__(self, image):
        self.image = image
        self.id = None
        self.digest = None
        self.named = threading.Event()
        self.made = threading.Event()
        self.confirmed = set()
        self.removed = set()
        self.doomed = False
        self.deleted = False


class Operations:
    """Carries operations of a plan out.

    :ivar known: dict of :class:`Known` by number of the image

    :param stage: :class:`tests.chaos.stage.Stage`
    :param operations: list of :class:`tests.chaos.plan.Operation`
    :param faults: list of :class:`tests.chaos.plan.Fault`
    :param seed: of the run
    :param over: :class:`threading.Event`: nothing is waited for any more
    :param patience: seconds until the end of an operation is not waited for
    """

    def __init__(self, stage, operations, faults, seed, over,
                 patience=PATIENCE):
        self._stage = stage
        self._seed = seed
        self._over = over
        self._patience = patience
        self.known = {what.image.number: Known(what.image)
                      for what in [*operations, *faults] if what.image}

    def add(self, image):
        """Return the :class:`Known` of an image that is not in the plan."""
        return self.known.setdefault(image.number, Known(image))

    def run(self, operation):
        """Carry one out.

        :returns: (outcome, detail), see the module
        :raises WrongData: when a download is not what it should be
        """
        name = '_' + operation.kind.replace('-', '_')
        try:
            return getattr(self, name)(operation)
        except requests.RequestException as exc:
            return 'unanswered', _brief(exc)

    def _api(self, operation):
        return self._stage.api(*operation.worker)

    def _import(self, operation):
        known = self.known[operation.image.number]
        data = plan.content(operation.image, self._seed)
        known.digest = hashlib.sha512(data).hexdigest()
        api = self._api(operation)
        try:
            return self._make(operation, known, api, data)
        finally:
            known.named.set()
            known.made.set()

    def _make(self, operation, known, api, data):
        answer = api.request('POST', '/v2/images', json={
            'name': 'chaos-%d' % operation.image.number, 'disk_format': 'raw',
            'container_format': 'bare'})
        if answer.status_code != 201:
            return refusal(answer)
        known.id = answer.json()['id']
        known.named.set()
        method = {'name': operation.options['method']}
        if method['name'] == 'web-download':
            method['uri'] = self._stage.url(operation.image)
        else:
            stager = self._stage.api(operation.worker[0],
                                     operation.options['staged_by'])
            answer = stager.request(
                'PUT', '/v2/images/%s/stage' % known.id, data=data,
                headers={'Content-Type': 'application/octet-stream'})
            if answer.status_code != 204:
                return refusal(answer)
        return self._imported(operation, known, api, method)

    def _copy(self, operation):
        known = self._made(operation)
        if not known.id:
            return 'skipped', 'never made'
        return self._imported(operation, known, self._api(operation),
                              {'name': 'copy-image'})

    def _imported(self, operation, known, api, method):
        answer = api.request(
            'POST', '/v2/images/%s/import' % known.id, json={
                'method': method, 'stores': list(operation.stores),
                'all_stores_must_succeed': operation.options['must']})
        if answer.status_code != 202:
            return refusal(answer)
        image = self._ended(api, known.id)
        if image is None:
            return 'unfinished', 'after %d s' % self._patience
        if not image:
            return 'failed', 'the image is gone'
        there = stores_of(image)
        known.confirmed |= there
        wanted = set(operation.stores)
        detail = '%s in %s, failed: %s' % (
            image['status'], ','.join(sorted(there)) or 'no store',
            image.get('os_glance_failed_import') or 'none')
        if wanted <= there:
            return 'ok', ''
        return ('partial' if wanted & there else 'failed'), detail

    def _ended(self, api, image_id):
        """Wait for the end of an import.

        :returns: the image; {} if it is gone; None if it does not end
        """
        deadline = time.monotonic() + self._patience
        turns = itertools.count(1)
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                answer = api.request('GET', '/v2/images/%s' % image_id)
                if answer.status_code == 404:
                    return {}
                if answer.status_code == 200 and (
                        not busy(answer.json()) or next(turns) % 8 == 0
                        and is_abandoned(api, answer.json())):
                    return answer.json()
            time.sleep(.25)
        return None

    def _download(self, operation):
        known = self._made(operation)
        if not known.id:
            return 'skipped', 'never made'
        # Not all in one: how far it came is of interest.
        answer = self._api(operation).request(
            'GET', '/v2/images/%s/file' % known.id, stream=True)
        with contextlib.closing(answer):
            if answer.status_code != 200:
                return refusal(answer)
            digest, size = hashlib.sha512(), 0
            try:
                for chunk in answer.iter_content(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
            except requests.RequestException as exc:
                return 'failed', 'after %d bytes: %s' % (size, _brief(exc))
        expected = int(answer.headers.get('Content-Length', -1))
        if size != expected:
            return 'failed', '%d bytes of %d' % (size, expected)
        if digest.hexdigest() != known.digest:
            raise WrongData('image %s by %s-%d: %d bytes of other content' % (
                known.id, *operation.worker, size))
        return 'ok', ''

    def _delete(self, operation):
        known = self.known[operation.image.number]
        if not operation.options['hasty']:
            self._made(operation)
        known.named.wait(self._patience)
        known.doomed = True
        if not known.id:
            return 'skipped', 'never made'
        answer = self._api(operation).request('DELETE',
                                              '/v2/images/%s' % known.id)
        known.deleted = answer.status_code == 204
        return ('ok', '') if known.deleted else refusal(answer)

    def _delete_from(self, operation):
        known = self._made(operation)
        store, = operation.stores
        known.removed.add(store)
        if not known.id:
            return 'skipped', 'never made'
        answer = self._api(operation).request(
            'DELETE', '/v2/stores/%s/%s' % (store, known.id))
        return ('ok', '') if answer.status_code == 204 else refusal(answer)

    def _clone(self, operation):
        known = self._made(operation)
        site, = operation.stores
        if not known.id:
            return 'skipped', 'never made'
        name = 'chaos-%d' % operation.number
        self._stage.clones.append((site, name))
        try:
            self._stage.rbd(
                site, '--rbd-default-clone-format',
                operation.options['format'], 'clone',
                'images/%s@snap' % known.id, 'vms/%s' % name)
        except process.LabError as exc:
            return 'failed', _brief(exc)
        self._over.wait(operation.options['seconds'])
        # One that does not go now goes at the end of the run.
        with contextlib.suppress(process.LabError):
            self._stage.rbd(site, 'rm', '--no-progress', 'vms/%s' % name)
            self._stage.clones.remove((site, name))
        return 'ok', ''

    def _list(self, operation):
        api = self._api(operation)
        for path in ('/v2/images?limit=100', '/v2/info/stores'):
            answer = api.request('GET', path)
            if answer.status_code != 200:
                return refusal(answer)
        return 'ok', ''

    def _made(self, operation):
        known = self.known[operation.image.number]
        known.made.wait(2 * self._patience)
        return known


def stores_of(image):
    """Return the stores that an active image is in."""
    if image['status'] != 'active':
        return set()
    return set(filter(None, image.get('stores', '').split(',')))


def busy(image):
    """Return whether an image is being imported, or is marked as such."""
    return bool(image.get('os_glance_import_task')
                or image.get('os_glance_importing_to_stores'))


def is_abandoned(api, image):
    """Return whether the task that an image is locked for has ended."""
    task = api.tasks(image['id']).get(image.get('os_glance_import_task'))
    return bool(task) and task['status'] in ('success', 'failure')


def refusal(answer):
    """Return (outcome, detail) of an answer that is not the one hoped for."""
    kind = 'refused' if answer.status_code < 500 else 'failed'
    return kind, '%d %s' % (answer.status_code, ' '.join(
        answer.text.replace('<', ' <').split())[:300])


def _brief(exc):
    return ' '.join(('%s: %s' % (type(exc).__name__, exc)).split())[-300:]
