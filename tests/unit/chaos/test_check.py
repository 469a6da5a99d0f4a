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

"""Tests of what is compared after a randomised run."""

from unittest import mock

from oslotest import base

from tests.chaos import check
from tests.chaos import operations
from tests.chaos import plan

DIGEST = 'ab' * 64


def shown(image_id='i', status='active', stores='central', **more):
    """Return an image as Glance shows it."""
    return dict({'id': image_id, 'status': status, 'stores': stores,
                 'os_hash_value': DIGEST, 'os_hash_algo': 'sha512',
                 'size': 5, 'locations': []}, **more)


class CheckerTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.known = operations.Known(plan.Image(7, 'central', 5, 5))
        self.known.id = 'i'
        self.known.digest = DIGEST
        self.known.confirmed = {'central'}
        self.stage = mock.Mock()
        self.stage.lab.sites = ['central']
        self.stage.lab.cluster.return_value = mock.MagicMock(fsid='f')
        self.api = self.stage.api.return_value
        self.api.tasks.return_value = {}
        self.read, self.pending = mock.Mock(), mock.Mock(return_value=[])
        self.checker = check.Checker(
            self.stage, {7: self.known}, print, read=self.read,
            find=mock.Mock(return_value=[]), pending=self.pending)

    def found(self, *images):
        """Return the kinds of violations of what was read."""
        self.api.images.list.return_value = images
        return [entry.kind for entry in self.checker.contents()]

    def test_all_is_well(self):
        self.assertEqual([], self.found(shown()))

    def test_image_is_lost(self):
        self.assertEqual(['lost'], self.found())

    def test_location_is_lost(self):
        self.assertEqual(['lost'], self.found(shown(stores='dcn0')))
        self.assertEqual(['lost'], self.found(shown(status='queued')))

    def test_removed_from_a_store(self):
        self.known.removed = {'central'}
        self.assertEqual([], self.found(shown(stores='dcn0')))

    def test_deletion(self):
        self.known.doomed = True
        # Asked for, without a clear answer: both are right.
        self.assertEqual([], self.found())
        self.assertEqual([], self.found(shown(stores='')))
        self.known.deleted = True
        self.assertEqual([], self.found())
        self.assertEqual(['not deleted'], self.found(shown()))

    def test_other_hash(self):
        self.known.digest = 'other'
        self.assertEqual(['wrong hash'], self.found(shown()))

    def test_location_at_no_site(self):
        self.assertEqual(['location of no site'], self.found(shown(
            locations=[{'url': 'rbd://g/images/i/snap'}])))

    def test_data(self):
        image = shown(locations=[{'url': 'rbd://f/images/i/snap'}])
        for result, kinds in (((5, DIGEST), []),
                              ((4, DIGEST), ['wrong data']),
                              ((5, 'other'), ['wrong data'])):
            self.read.return_value = result
            self.assertEqual(kinds, self.found(image))
        self.read.side_effect = check.rbd.ImageNotFound('gone')
        self.assertEqual(['location without data'], self.found(image))

    def test_locks(self):
        for image, kinds in (
                (shown(), []),
                (shown(os_glance_importing_to_stores=''), []),
                (shown(os_glance_importing_to_stores='dcn0'),
                 ['stuck lock']),
                (shown(os_glance_import_task='t'), ['stuck lock'])):
            self.api.images.list.return_value = [image]
            found, _seconds = self.checker.settle(grace=0)
            self.assertEqual(kinds, [entry.kind for entry in found])

    def test_records(self):
        self.api.images.list.return_value = []
        self.pending.return_value = [
            check.records.Entry('dcn0', 'delete', 'i')]
        found, _seconds = self.checker.settle(grace=0)
        self.assertEqual([check.Violation('record left', 'i', 'dcn0',
                                          'delete')], found)
