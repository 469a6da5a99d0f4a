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

"""What is decided about images that a site holds already."""

import contextlib
from unittest import mock

from oslotest import base

from glance_dcn.ceph import records
from glance_dcn.sites import existing

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'
MD5, SHA = 'a' * 32, 'b' * 128
HASHES = {'md5': MD5, 'sha512': SHA}


def found(content='one', size=10, hashes=None, record=True, **fields):
    """Return what was found, a complete image unless said otherwise."""
    fields = dict({'snapshots': ('snap',), 'protected': True}, **fields)
    return existing.ExistingImage(
        'image', 'id', size, record=records.Record(
            size, content, hashes or HASHES) if record else None, **fields)


class FoundTest(base.BaseTestCase):

    def test_complete_is_what_has_the_snapshot(self):
        self.assertTrue(found().complete)
        self.assertTrue(found(snapshots=('a', 'snap')).complete)
        for snapshots in ((), ('a',)):
            self.assertFalse(found(snapshots=snapshots,
                                   protected=False).complete)

    def test_being_written(self):
        for protected, writers, expected in (
                (False, (), False), (False, ('a',), True),
                # Published: it may be open for whatever else.
                (True, ('a',), False), (True, (), False)):
            self.assertIs(expected, found(
                protected=protected, writers=writers).being_written)

    def test_what_is_not_there(self):
        nothing = existing.ExistingImage('image')
        self.assertFalse(nothing.complete)
        self.assertFalse(nothing.being_written)

    def test_refusals_say_what_to_do(self):
        for error, words in (
                (existing.BeingWritten(found(writers=('10.0.0.1:0/7',))),
                 ('image', '10.0.0.1:0/7', 'try again')),
                (existing.Different(found()), ('image', 'location'))):
            for word in words:
                self.assertIn(word, str(error))


class CompareTest(base.BaseTestCase):

    def compare(self, one, content=None, hashes=None, size=10):
        return existing.compare(one, size, content, hashes, authentic=True)

    def test_by_size(self):
        self.assertIs(False, self.compare(found(), 'one', size=11))
        self.assertIs(False, self.compare(found(record=False), 'one',
                                          size=11))

    def test_by_content(self):
        self.assertIs(True, self.compare(found(), 'one'))
        self.assertIs(False, self.compare(found(), 'two'))
        # The digest counts, whatever else is known.
        self.assertIs(False, self.compare(found(), 'two', HASHES))

    def test_by_the_strongest_hash(self):
        self.assertIs(True, self.compare(found(), hashes=HASHES))
        self.assertIs(False, self.compare(
            found(), hashes={'md5': MD5, 'sha512': 'c' * 128}))
        # A collision of md5 is made easily.
        self.assertIsNone(self.compare(
            found(hashes={'md5': MD5}), hashes=HASHES))

    def test_unknown(self):
        self.assertIsNone(self.compare(found(record=False), 'one', HASHES))
        self.assertIsNone(self.compare(found()))

    def test_record_of_anybody(self):
        for content in ('one', 'two'):
            self.assertIsNone(existing.compare(found(), 10, content, HASHES))
        self.assertIs(False, existing.compare(found(), 11, 'one', HASHES))

    def test_record_of_another_size(self):
        # Such as of the image's head, which has grown since.
        one = existing.ExistingImage('image', 'id', 10, ('snap',), True,
                                     record=records.Record(9, 'one', HASHES))
        self.assertIsNone(self.compare(one, 'one', HASHES))


class DeadWriterTest(base.BaseTestCase):
    """What of a dead writer's image is removed at once."""

    def check(self, removed, snapshots, is_committed, **options):
        site = mock.Mock(is_committed=lambda image, image_id: is_committed,
                         open_pool=contextlib.nullcontext)
        site.call.side_effect = lambda function, *args, **unused: function(
            *args)
        self.assertTrue(existing.discard_writes(
            site, IMAGE, [7], look=lambda ioctx, image: existing.ExistingImage(
                image, '17', 10, snapshots), **options))
        self.assertEqual([mock.call(None, IMAGE, '17')] * removed,
                         site.discard.mock_calls)

    def test_incomplete(self):
        for published in (True, False):
            for committed in (True, False):
                self.check(True, (), True, published=published,
                           committed=committed)

    def test_published(self):
        self.check(False, ('snap',), False, published=False)
        self.check(True, ('snap',), False, published=True)
        self.check(True, ('snap',), False, published=True, committed=False)

    def test_committed(self):
        # Glance may come to know of it still.
        self.check(False, ('snap',), True, published=True, committed=False)
        self.check(False, ('snap',), True, published=False)
        self.check(True, ('snap',), True, published=True)
