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

import hashlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time
import unittest

import fixtures
from oslotest import base

from glance_dcn.ceph import records
from glance_dcn.runtime import process
from glance_dcn.sites import hashes
from tests import runtimes

MIB = 1 << 20
RECORD = records.Record(1, 'content', {'md5': '0'})


class SharedHashesTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.hashes = hashes.SharedHashes()

    def test_first_one_computes_and_the_others_take_over(self):
        self.assertTrue(self.hashes.claim('a'))
        self.assertFalse(self.hashes.claim('a'))
        self.hashes.set_result('a', RECORD)
        self.assertEqual(RECORD, self.hashes.wait('a', 0))
        self.assertFalse(self.hashes.claim('a'))

    def test_others_wait(self):
        self.hashes.claim('a')
        got = []
        waiter = threading.Thread(
            target=lambda: got.append(self.hashes.wait('a', 30)))
        waiter.start()
        self.hashes.set_result('a', RECORD)
        waiter.join(30)
        self.assertEqual([RECORD], got)

    def test_given_up(self):
        self.hashes.claim('a')
        self.hashes.set_failed('a')
        self.assertIsNone(self.hashes.wait('a', 30))
        self.assertTrue(self.hashes.claim('a'))

    def test_patience_ends(self):
        self.hashes.claim('a')
        self.assertIsNone(self.hashes.wait('a', 0))

    def test_memory_is_bounded(self):
        for number in range(1000):
            self.hashes.claim(number)
            self.hashes.set_result(number, RECORD)
        self.assertLess(len(self.hashes._images), 300)
        self.assertEqual(RECORD, self.hashes.wait(999, 0))

    @unittest.skipUnless(importlib.util.find_spec('eventlet'), 'no eventlet')
    def test_green_thread_waits_for_a_native_one(self):
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', textwrap.dedent('''
                import eventlet
                eventlet.monkey_patch()
                from glance_dcn.runtime import native
                from glance_dcn.sites import hashes

                shared = hashes.SharedHashes()
                for image in '12':
                    shared.claim(image)
                native.start('x', lambda: (
                    native.sleep(.2), shared.set_failed('1'),
                    shared.set_failed('2')))
                waiting = [eventlet.spawn(shared.wait, image, 600)
                           for image in '12']
                print([one.wait() for one in waiting])
            ''')], cwd=pathlib.Path(__file__).parents[3], timeout=60,
            capture_output=True, text=True)
        self.assertEqual('[None, None]\n', done.stdout, done.stderr)


class AheadTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(runtimes.Runtime())
        self.shared = process.get(hashes.SharedHashes)
        self.folder = self.useFixture(fixtures.TempDir()).path
        self.path = os.path.join(self.folder, 'image.raw')
        self.data = bytes(MIB) + os.urandom(MIB) + bytes(MIB)

    def ahead(self):
        made = hashes.BackgroundHasher('image', self.path, len(self.data),
                                       ('md5', 'sha512'))
        self.addCleanup(made.cancel)
        return made

    def write(self):
        with open(self.path, 'wb') as file:
            file.write(self.data)

    def test_hashes_of_a_file_that_comes_later(self):
        ahead = self.ahead()
        self.assertTrue(ahead.start())
        self.assertFalse(self.shared.claim('image'))
        self.write()
        ahead.complete()
        record = self.shared.wait('image', 30)
        self.assertEqual(
            {'md5': hashlib.md5(self.data).hexdigest(),  # noqa: S324
             'sha512': hashlib.sha512(self.data).hexdigest()}, record.hashes)
        self.assertEqual(len(self.data), record.size)

    def test_somebody_computes_them_already(self):
        self.shared.claim('image')
        self.assertFalse(self.ahead().start())

    def given_up(self):
        self.assertIsNone(self.shared.wait('image', 30))
        self.assertTrue(self.shared.claim('image'))

    def test_file_that_never_comes(self):
        ahead = self.ahead()
        ahead.start()
        ahead.complete()
        self.given_up()

    def test_cancelled_before_there_is_a_file(self):
        ahead = self.ahead()
        ahead.start()
        ahead.cancel()
        self.given_up()

    def test_cancelled_while_the_file_grows(self):
        self.write()
        os.truncate(self.path, MIB)
        ahead = self.ahead()
        ahead.start()
        time.sleep(0.2)
        ahead.cancel()
        self.given_up()

    def test_shorter_than_was_said(self):
        self.write()
        os.truncate(self.path, MIB + 10)
        ahead = self.ahead()
        ahead.start()
        ahead.complete()
        self.given_up()
