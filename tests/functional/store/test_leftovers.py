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

"""Stores that find an image of the same name where they are to put one."""

import contextlib
import io
import os
import signal

from glance_store import exceptions
import rbd

from glance_dcn.ceph import records
from tests.functional.store import base
from tests.functional.store import test_faults

MiB = base.MiB


class DcnLeftOverTest(base.StoreTestCase):
    """add() to where something is."""

    driver = 'dcn'

    def setUp(self):
        super().setUp()
        self.use_store()
        self.name = self.new_image()
        self.data = os.urandom(MiB) + bytes(2 * MiB) + os.urandom(MiB + 7)

    def identity(self):
        with self.image(self.name, read_only=True) as image:
            return image.id()

    def write_as_stock(self, data):
        """Make a published image without a record."""
        with self.here.pool(base.POOL) as ioctx:
            rbd.RBD().create(ioctx, self.name, len(data))
        with self.image(self.name) as image:
            image.write(data, 0)
            image.create_snap(base.SNAPSHOT)
            image.protect_snap(base.SNAPSHOT)

    def half_write(self):
        with self.here.pool(base.POOL) as ioctx:
            rbd.RBD().create(ioctx, self.name, 8 * MiB)
        with self.image(self.name) as image:
            image.write(b'half', 0)

    def check_adopted(self, size=None):
        """Adding the data gives what it should, and writes nothing."""
        before, verifier = self.identity(), base.Verifier()
        result = self.add(self.data, size, name=self.name, verifier=verifier)
        self.assertEqual(
            (self.uri(self.name), len(self.data),
             base.digest(self.data, 'md5'), base.digest(self.data, 'sha512'),
             {'store': self.store}), result)
        self.assertSame(self.data, verifier.data)
        self.assertEqual(before, self.identity())
        self.assertPublished(self.name, self.data)

    def test_equal(self):
        self.add(self.data, name=self.name)
        for size in (None, 0):
            self.check_adopted(size)

    def test_equal_and_written_by_stock(self):
        self.write_as_stock(self.data)
        self.check_adopted()
        with self.image(self.name, read_only=True) as image:
            self.assertEqual(len(self.data), records.load(image).size)

    def test_different(self):
        self.add(self.data, name=self.name)
        self.check_different()

    def test_different_and_written_by_stock(self):
        self.write_as_stock(self.data)
        self.check_different()

    def check_different(self):
        other = bytearray(self.data)
        other[3 * MiB] ^= 1
        for data in (bytes(other), self.data[:-1], self.data + b'x'):
            for size in (len(data), 0):
                error = self.assertRaises(exceptions.Duplicate, self.add,
                                          data, size, name=self.name)
                for word in (self.store, self.name, 'remove it'):
                    self.assertIn(word, str(error))
                self.assertPublished(self.name, self.data)

    def test_stream_breaks_off(self):
        self.add(self.data, name=self.name)
        error = ConnectionError('gone')
        self.assertIs(error, self.assertRaises(
            ConnectionError, self.add, base.FailingReader(
                self.data[:MiB], error), len(self.data), name=self.name))
        self.assertRaises(exceptions.Invalid, self.add, io.BytesIO(
            self.data[:MiB]), len(self.data), name=self.name)
        self.assertPublished(self.name, self.data)

    def test_half_written(self):
        self.half_write()
        self.add(self.data, name=self.name)
        self.assertPublished(self.name, self.data)

    def test_live_writer(self):
        self.half_write()
        with self.here.connect('openstack') as client, \
                client.open_ioctx(base.POOL) as ioctx, \
                rbd.Image(ioctx, self.name) as image:
            addresses = [one['addr'] for one in image.watchers_list()]
            error = self.assertRaises(exceptions.Duplicate, self.add,
                                      self.data, name=self.name)
            self.assertEqual(1, len(addresses))
            self.assertIn(addresses[0], str(error))
            self.assertEqual(b'half', image.read(0, 4))

    def test_writer_was_killed(self):
        child = base.start_child('test_faults.upload_without_end', 'dcn',
                                 self.name, 64 * MiB)
        with contextlib.ExitStack() as stack:
            for pipe in (child.stdout, child.stderr):
                stack.callback(pipe.close)
            stack.callback(child.wait)
            stack.callback(child.kill)
            self.assertEqual('writing\n', child.stdout.readline())
            # It lives: two processes never write the same image.
            self.assertRaises(exceptions.Duplicate, self.add, self.data,
                              name=self.name)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        # What the cluster notices by itself in half a minute.
        test_faults.evict(self.here, self.name)
        self.add(self.data, name=self.name)
        self.assertPublished(self.name, self.data)
        self.assertSame(self.data, self.read(self.uri(self.name)))
