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

"""Hashes that are shared by the stores of one import."""

import threading

from oslotest import base

from glance_dcn.ceph import records
from glance_dcn.store import hashes

RECORD = records.Record(1, 'content', {'md5': '0'})


class SharedHashesTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.hashes = hashes.SharedHashes()

    def test_first_one_computes_and_the_others_take_over(self):
        self.assertTrue(self.hashes.claim('a'))
        self.assertFalse(self.hashes.claim('a'))
        self.hashes.share('a', RECORD)
        self.assertEqual(RECORD, self.hashes.wait('a', 0))
        self.assertFalse(self.hashes.claim('a'))

    def test_others_wait(self):
        self.hashes.claim('a')
        got = []
        waiter = threading.Thread(
            target=lambda: got.append(self.hashes.wait('a', 30)))
        waiter.start()
        self.hashes.share('a', RECORD)
        waiter.join(30)
        self.assertEqual([RECORD], got)

    def test_given_up(self):
        self.hashes.claim('a')
        self.hashes.give_up('a')
        self.assertIsNone(self.hashes.wait('a', 30))
        self.assertTrue(self.hashes.claim('a'))

    def test_patience_ends(self):
        self.hashes.claim('a')
        self.assertIsNone(self.hashes.wait('a', 0))

    def test_memory_is_bounded(self):
        for number in range(1000):
            self.hashes.claim(number)
            self.hashes.share(number, RECORD)
        self.assertLess(len(self.hashes._images), 300)
        self.assertEqual(RECORD, self.hashes.wait(999, 0))
