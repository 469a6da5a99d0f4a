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

"""Tests of how the operations of a randomised run end."""

import hashlib
import itertools
import threading
from unittest import mock

import fixtures
from oslotest import base
import requests

from tests.chaos import operations
from tests.chaos import plan


def answer(status, body=None, data=b'', length=None):
    """Return an answer of Glance."""
    found = mock.MagicMock(status_code=status, text='text')
    found.json.return_value = body
    found.headers = {'Content-Length': len(data) if length is None
                     else length}
    found.iter_content.return_value = [data]
    return found


class OperationsTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.image = plan.Image(0, 'central', 5, 5)
        self.stage = mock.Mock()
        self.api = self.stage.api.return_value
        self.patience = operations.PATIENCE
        # No pauses between two looks.
        self.useFixture(fixtures.MockPatch('time.sleep'))

    def operations(self, kind, stores=(), **options):
        """Have one operation, on an image that was made."""
        self.operation = plan.Operation(1, kind, ('central', 0), self.image,
                                        stores, options)
        made = operations.Operations(self.stage, [self.operation], [], 1,
                                     threading.Event(), self.patience)
        self.known = made.known[0]
        self.known.id = 'i'
        self.known.digest = hashlib.sha512(b'data').hexdigest()
        self.known.named.set()
        self.known.made.set()
        return made

    def run_one(self, kind, *answers, stores=(), then=None, **options):
        made = self.operations(kind, stores, **options)
        self.api.request.side_effect = itertools.chain(
            answers, itertools.repeat(then))
        return made.run(self.operation)[0]

    def test_download(self):
        self.assertEqual('ok', self.run_one('download',
                                            answer(200, data=b'data')))
        self.assertEqual('failed', self.run_one(
            'download', answer(200, data=b'da', length=4)))
        self.assertEqual('refused', self.run_one('download', answer(404)))
        self.assertEqual('failed', self.run_one('download', answer(503)))
        self.assertEqual('unanswered', self.run_one(
            'download', requests.ConnectionError()))

    def test_download_of_something_else(self):
        self.assertRaises(operations.WrongData, self.run_one, 'download',
                          answer(200, data=b'DATA'))

    def copy(self, *images, status=202):
        return self.run_one(
            'copy', answer(status), *(answer(200, image) if image
                                      else answer(404) for image in images),
            stores=('dcn0', 'dcn1'), must=False)

    def test_copy(self):
        busy = {'id': 'i', 'status': 'active', 'stores': 'central',
                'os_glance_importing_to_stores': 'dcn0,dcn1'}
        done = {'id': 'i', 'status': 'active', 'stores': 'dcn0,central,dcn1'}
        self.assertEqual('ok', self.copy(busy, busy, done))
        self.assertEqual({'central', 'dcn0', 'dcn1'}, self.known.confirmed)
        self.assertEqual('partial', self.copy(dict(done, stores='dcn0')))
        self.assertEqual('failed', self.copy(dict(done, stores='central')))
        self.assertEqual('failed', self.copy(dict(done, status='queued')))
        self.assertEqual('failed', self.copy(None))
        self.assertEqual('refused', self.copy(status=409))

    def test_copy_whose_task_has_ended(self):
        image = {'id': 'i', 'status': 'active', 'stores': 'central',
                 'os_glance_import_task': 't'}
        self.api.tasks.return_value = {'t': {'status': 'failure'}}
        self.assertEqual('failed', self.copy(*[image] * 8))

    def test_copy_without_end(self):
        image = {'id': 'i', 'status': 'active', 'stores': 'central',
                 'os_glance_import_task': 't'}
        self.api.tasks.return_value = {'t': {'status': 'processing'}}
        self.patience = .01
        self.assertEqual('unfinished', self.run_one(
            'copy', answer(202), stores=('dcn0',), must=False,
            then=answer(200, image)))

    def test_delete(self):
        self.assertEqual('ok', self.run_one('delete', answer(204),
                                            hasty=False))
        self.assertTrue(self.known.deleted)
        self.assertEqual('refused', self.run_one('delete', answer(409),
                                                 hasty=True))
        self.assertTrue(self.known.doomed)
        self.assertFalse(self.known.deleted)

    def test_image_that_was_never_made(self):
        for kind in ('copy', 'download', 'clone', 'delete', 'delete-from'):
            made = self.operations(kind, ('dcn0',), hasty=False)
            self.known.id = None
            self.assertEqual('skipped', made.run(self.operation)[0])
