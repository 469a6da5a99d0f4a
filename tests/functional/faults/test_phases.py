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

"""Real faults of a site at each phase of what Glance does there.

Each kind of operation meets a fault in each of its phases, and each kind of
fault, though not each in each; several operations go through the same fault
where their phases last.
"""

import time

from lab import faults
from lab import process
from tests.functional.faults import base

# Seconds in which what needs a site that went away unnoticed is over, and what
# needs none that is away.
_NOTICED, _AT_ONCE = 45, 4


class PhasesTestCase(base.FaultsTestCase):
    """The site ``far`` goes away, or another one is full or rebuilt."""

    def setUp(self):
        super().setUp()
        self.data = base.random_data()

    def interrupt(self, kind, point, image_id, begin, *args, **kwargs):
        """Begin something, and cause a fault when an image is at a point.

        Each step takes long meanwhile.

        :returns: what ``begin`` returns
        """
        self.far.link.set(base.SLOW)
        with self.until(point, image_id):
            result = begin(*args, **kwargs)
        faults.cause(self.far, kind)
        return result


class AwayTest(PhasesTestCase):
    """All kinds of operations at a site that goes away."""

    def check_before(self, kind):
        """All four kinds of operations at a site that is away.

        Nobody knows that yet.
        """
        data = self.data
        there = self.image_of(data, 'far', 'other')
        here, strict = (self.image_of(data, 'central') for _ in range(2))
        parts, whole = self.staged(data), self.staged(data)
        faults.cause(self.far, kind)
        # The first one finds out.
        began = time.monotonic()
        self.bring(parts, ('far', 'other'), every=False)
        self.api.wait(parts, 'other', failed=['far'])
        self.assertLess(time.monotonic() - began, _NOTICED)
        began = time.monotonic()
        self.assertEqual(base.digest(data), self.download(there))
        self.assertLess(time.monotonic() - began, _AT_ONCE)
        self.bring(whole, ('other', 'far'))
        self.assertNotImported(whole)
        self.assertNoTrace(whole, 'other')
        self.copy(here, 'far', 'other', every=False)
        self.api.wait(here, 'central', 'other', failed=['far'])
        self.assertFailedAt(here, 'far')
        self.copy(strict, 'far', 'other')
        self.api.wait(strict, 'central', failed=['far'])
        self.assertFailedAt(strict, 'far')
        self.assertNoTrace(strict, 'other')
        began = time.monotonic()
        self.delete(there)
        self.assertLess(time.monotonic() - began, _AT_ONCE)
        self.assertNoTrace(there, 'other')

    def test_killed_before(self):
        self.check_before('kill')

    def test_cut_off_before(self):
        self.check_before('cut')

    def check_data(self, kind):
        """An import, a copy and a download, all in the midst of it."""
        # Enough for a minute: the machine may be busy until the site is lost.
        data = base.random_data(2 * base.LARGE)
        some = data[:6 * base.MiB]
        there = self.image_of(some, 'other', 'far')
        here, new = self.image_of(data, 'central'), self.staged(data)
        with self.until('data', here), self.until('data', new):
            self.copy(here, 'far', 'other')
            self.bring(new, ('other', 'far'), every=False)
        # What has come to the client is less than what is read ahead.
        self.assertEqual(base.digest(some), self.download(
            there, meanwhile=lambda: faults.cause(self.far, kind)))
        self.assertIn('Reading of image %s goes on from store other' % there,
                      self.own.log)
        self.api.wait(new, 'other', failed=['far'])
        self.api.wait(here, 'central', failed=['far'])
        self.assertFailedAt(here, 'far')
        self.assertNoTrace(here, 'other')

    def test_killed_amid_data(self):
        self.check_data('kill')

    def test_cut_off_amid_data(self):
        self.check_data('cut')

    def test_stopped_amid_data(self):
        self.check_data('freeze')


class ImportTest(PhasesTestCase):

    def test_once_the_target_is_created(self):
        # Not stopped: what is on its way then would be carried out when the
        # image has been removed, and leave an object of it.
        image_id = self.staged(self.data)
        self.interrupt('kill', 'created', image_id, self.bring, image_id,
                       ('far', 'other'), every=False)
        self.api.wait(image_id, 'other', failed=['far'])

    def test_before_the_snapshot(self):
        image_id = self.staged(self.data)
        self.interrupt('cut', 'written', image_id, self.bring, image_id,
                       ('other', 'far'))
        # What was done first is undone.
        self.assertNotImported(image_id)
        self.assertNoTrace(image_id, 'other')

    def test_after_the_first_store_is_done_and_lost(self):
        image_id = self.staged(self.data)
        self.far.link.set(base.SLOW)
        with self.until('snapshot', image_id):
            self.bring(image_id, ('far', 'other'))
        # It takes some seconds until that is noticed. What was done first is
        # to be undone then, at a site that is away itself.
        faults.cause(self.other, 'freeze')
        process.wait_for('the first store to be done', lambda: 'far' in (
            self.api.images.get(image_id).get('stores', '')), 20)
        faults.cause(self.far, 'kill')
        self.assertNotImported(image_id, 'other')


class CopyTest(PhasesTestCase):

    def test_before_the_snapshot(self):
        image_id = self.image_of(self.data, 'central')
        self.interrupt('freeze', 'written', image_id, self.copy, image_id,
                       'far', 'other', every=False)
        self.api.wait(image_id, 'central', 'other', failed=['far'])
        self.assertFailedAt(image_id, 'far')

    def test_after_the_snapshot(self):
        # There, that is; the other one is done by then.
        image_id = self.image_of(self.data, 'central')
        self.interrupt('kill', 'snapshot', image_id, self.copy, image_id,
                       'far', 'other')
        self.api.wait(image_id, 'central', failed=['far'])
        self.assertFailedAt(image_id, 'far')
        self.assertNoTrace(image_id, 'other')


class ReadAndDeleteTest(PhasesTestCase):

    def test_read_while_it_is_opened(self):
        image_id = self.image_of(self.data, 'far', 'other')
        self.far.link.set(base.SLOW)
        download = self.threads.submit(self.download, image_id)
        time.sleep(.5)
        faults.cause(self.far, 'cut')
        self.assertEqual(base.digest(self.data),
                         download.result(timeout=_NOTICED))

    def test_delete_between_snapshot_and_image(self):
        image_id = self.image_of(self.data, 'far', 'other')
        deletion = self.interrupt('freeze', 'no-snapshot', image_id,
                                  self.threads.submit, self.delete, image_id)
        deletion.result(timeout=_NOTICED)
        self.assertNoTrace(image_id, 'other')

    def test_delete_after_the_first_store_is_done(self):
        image_id = self.image_of(self.data, 'other', 'far')
        self.far.link.set(base.SLOW)
        with self.until('no-image', image_id, 'other'):
            deletion = self.threads.submit(self.delete, image_id)
        faults.cause(self.far, 'cut')
        deletion.result(timeout=_NOTICED)


class OtherFaultsTest(PhasesTestCase):
    """A site that is full, or comes back empty."""

    def test_full(self):
        here, strict = (self.image_of(self.data, 'central') for _ in range(2))
        new, whole = self.staged(self.data), self.staged(self.data)
        faults.cause(self.other, 'fill')
        self.bring(new, ('other', 'far'), every=False)
        self.api.wait(new, 'far', failed=['other'])
        self.bring(whole, ('far', 'other'))
        self.assertNotImported(whole, 'other')
        self.assertNoTrace(whole, 'far')
        self.copy(here, 'other', 'far', every=False)
        self.api.wait(here, 'central', 'far', failed=['other'])
        self.assertFailedAt(here, 'other')
        self.copy(strict, 'other', 'far')
        self.api.wait(strict, 'central', failed=['other'])
        self.assertNoTrace(strict, 'far')

    def test_rebuilt(self):
        image_id = self.image_of(self.data, 'far', 'other')
        gone = self.image_of(self.data, 'far', 'other')
        faults.cause(self.other, 'kill')
        self.delete(gone)
        before = self.other.fsid
        faults.cause(self.other, 'rebuild')
        self.assertNotEqual(before, self.other.fsid)
        new = self.staged(self.data)
        self.bring(new, ('other', 'far'), every=False)
        self.api.wait(new, 'far', failed=['other'])
        self.assertEqual(base.digest(self.data), self.download(image_id))
        # It may have been away for this Glance until now.
        process.wait_for('it to be refused', lambda:
                         'glance-dcn site accept other' in self.own.log, 60)
        self.run_command('site', 'accept', 'other')
        self.wait_until_used('other')
        # What was there is lost: it is copied there anew.
        answer = self.api.request('DELETE', '/v2/stores/other/%s' % image_id)
        self.assertEqual(204, answer.status_code, answer.text)
        self.copy(image_id, 'other')
        self.api.wait(image_id, 'other', 'far')
