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

"""A process that ends in the middle of a transfer does not abort."""

import atexit
import os
import pathlib
import subprocess
import sys
import unittest

import rbd

from glance_dcn.engine.backends import rbd as backend
from tests.functional import base

_ROOT = pathlib.Path(__file__).parents[3]
_WRITE = '''
import os, sys, time
import rados, rbd
from glance_dcn.engine.backends import rbd as backend
from glance_dcn.engine import stream
from glance_dcn.runtime import native
client = rados.Rados(conffile=sys.argv[1], rados_id='glance')
client.connect()
ioctx = client.open_ioctx('images')
rbd.RBD().create(ioctx, sys.argv[2], 1 << 30,
                 features=rbd.RBD_FEATURE_LAYERING)
endpoint = backend.RBD(ioctx, sys.argv[2], writable=True)
data = os.urandom(4 << 20)
begun = native.Queue()
def write():
    sink = stream.Sink(endpoint, 1 << 30)
    for number in range(256):
        sink.write_from(iter([data]), 4 << 20)
        if number == 3:
            begun.put(True)
native.start('writer', write)
native.get(begun, 60)
print('in flight', flush=True)
'''


class ExitTest(base.CephTestCase):

    def setUp(self):
        super().setUp()
        self.image = self.image_name()
        self.addCleanup(self.remove)

    def remove(self):
        with self.cluster('central').pool(user='admin') as ioctx:
            with self.cluster('central').connect() as client:
                with rbd.Image(ioctx, self.image, read_only=True) as image:
                    for watcher in image.watchers_list():
                        client.blocklist_add(watcher['addr'], 3600)
            rbd.RBD().remove(ioctx, self.image)

    def test_in_the_middle_of_a_write(self):
        for _attempt in range(3):
            done = subprocess.run(
                [sys.executable, '-X', 'faulthandler', '-c', _WRITE,
                 str(self.cluster('central').conf), self.image], cwd=_ROOT,
                capture_output=True, text=True, timeout=120)
            self.assertIn('in flight', done.stdout)
            self.assertNotIn('Aborted', done.stderr)
            self.assertEqual(0, done.returncode, done.stderr[-2000:])
            self.remove()
            self.image = self.image_name()
        with self.cluster('central').pool(user='admin') as ioctx:
            rbd.RBD().create(ioctx, self.image, 1 << 20)


class EndTest(unittest.TestCase):

    def test_one_that_begins_just_before_the_end_is_waited_for(self):
        looks = []

        class Endpoint:
            pid = os.getpid()

            @property
            def in_flight(self):
                # A thread had been told that it may begin.
                looks.append(len(looks))
                return looks[-1] in (1, 2)
        endpoint = Endpoint()
        endpoints = backend._Endpoints()
        self.addCleanup(atexit.unregister, endpoints.wait_for_answers)
        endpoints.open.add(endpoint)
        endpoints.wait_for_answers()
        self.assertTrue(endpoints.has_ended)
        self.assertEqual([0, 1, 2, 3, 4], looks)
