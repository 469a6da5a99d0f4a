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

"""Reading staged files through Glance's readers."""

import io
import os
import random
import socket

from glance.common.scripts import utils as script_utils
from glance.common import utils as glance_utils
from oslotest import base
import webob

from glance_dcn.engine import extents
from glance_dcn.store import adding

try:
    from glance.common import format_inspector
except ImportError:
    from oslo_utils.imageutils import format_inspector

MIB = 1 << 20


def inspected(data):
    """Wrap data as this release of Glance does to inspect its format."""
    if hasattr(format_inspector, 'InspectWrapper'):
        return format_inspector.InspectWrapper(data)
    return format_inspector.InfoWrapper(data, format_inspector.FileInspector())


def seen(data):
    """Return the inspector behind such data."""
    return getattr(data, '_format', None) or data.format


class EventletInput:
    """What eventlet gives as ``wsgi.input``, as far as it matters."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


class StagedTest(base.BaseTestCase):

    def sparse_file(self, seed, size):
        path = self.create_tempfiles([('image', '')])[0]
        source = random.Random(seed)
        with open(path, 'wb') as f:
            f.truncate(size)
            for _ in range(source.randrange(5)):
                f.seek(source.randrange(size + 1) // 4096 * 4096)
                f.write(source.randbytes(
                    min(source.randrange(300000), size - f.tell())
                    if f.tell() < size else 0))
        return path

    def glance_readers(self, path):
        """Wrap a staged file just as an import of Glance's does."""
        data = script_utils.get_image_data_iter('file://%s' % path)
        if isinstance(data, tuple):
            # Glance 33 returns the size, too.
            data = data[0]
        data = script_utils.CallbackIterator(data, lambda *args: None,
                                             min_interval=60)
        data = glance_utils.LimitingReader(data, 1 << 40)
        return inspected(data)

    def read_all(self, data, chunk):
        parts = []
        while True:
            part = data.read(chunk)
            if not part:
                return b''.join(parts)
            parts.append(part)

    def test_same_bytes_as_the_file_has(self):
        for seed in range(30):
            size = random.Random(seed).choice(
                [0, 1, 4095, 65536, 3 * MIB + 17, 20 * MIB])
            path = self.sparse_file(seed, size)
            data = self.glance_readers(path)
            self.assertTrue(adding.skip_holes(data))
            with open(path, 'rb') as f:
                self.assertEqual(f.read(), self.read_all(data, 70000), seed)

    def test_holes_are_not_read_from_the_file(self):
        # This guards what is assumed of Glance's readers, too.
        path = self.sparse_file(0, 0)
        os.truncate(path, 64 * MIB)
        data = self.glance_readers(path)
        self.assertTrue(adding.skip_holes(data))
        before = self.bytes_read()
        self.assertEqual(64 * MIB, len(self.read_all(data, 8 * MIB)))
        self.assertLess(self.bytes_read() - before, MIB)

    def test_holes_are_the_engines_own_zeros(self):
        # Behind all of Glance's readers: that is what makes them cheap.
        path = self.sparse_file(0, 0)
        os.truncate(path, 16 * MIB)
        with open(path, 'r+b') as f:
            f.seek(5 * MIB)
            f.write(b'x')
        data = self.glance_readers(path)
        adding.skip_holes(data)
        parts = list(iter(lambda: data.read(8 * MIB), b''))
        self.assertEqual(3, sum(part is extents.ZEROS for part in parts))

    def bytes_read(self):
        with open('/proc/self/io') as f:
            return int(f.read().split()[1])

    def test_inspection_sees_every_byte(self):
        path = self.sparse_file(0, 0)
        os.truncate(path, 16 * MIB)
        data = self.glance_readers(path)
        adding.skip_holes(data)
        self.read_all(data, MIB)
        data.close()
        self.assertEqual(('raw', 16 * MIB),
                         (str(seen(data)), seen(data).actual_size))

    def test_what_is_no_staged_file_is_left_alone(self):
        for data in (io.BytesIO(b'data'), iter([b'data']), None,
                     inspected(io.BytesIO(b'data'))):
            self.assertFalse(adding.skip_holes(data))

    def test_what_comes_from_a_socket_is_left_alone(self):
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        with far, near.makefile('rb') as stream:
            for wrapped in (stream, io.BufferedReader(io.BytesIO(b'data'))):
                self.assertFalse(adding.skip_holes(inspected(wrapped)))

    def test_body_of_a_request_to_eventlet_is_left_alone(self):
        # eventlet's reader, to which WebOb's passes what it is asked, has no
        # fileno().
        request = webob.Request.blank('/')
        request.environ['wsgi.input'] = EventletInput(b'data')
        request.content_length = 4
        self.assertIsInstance(request.body_file, io.BufferedReader)
        data = inspected(request.body_file)
        self.assertFalse(adding.skip_holes(data))
        self.assertEqual(b'data', self.read_all(data, 10))

    def test_file_without_its_wrappers_is_left_alone(self):
        with open(self.sparse_file(1, MIB), 'rb') as f:
            self.assertFalse(adding.skip_holes(f))
            self.assertEqual(MIB, len(f.read()))


class ReportWaitingTest(base.BaseTestCase):

    def test_tells_the_task_of_an_import(self):
        # This guards what is assumed of Glance's readers, too.
        told = []
        data = script_utils.CallbackIterator(
            io.BytesIO(b'x'), lambda *args: told.append(args),
            min_interval=60)
        data = inspected(glance_utils.LimitingReader(data, 100))
        adding.report_waiting(data)(['dcn0'])
        self.assertEqual([(0, 0)], told)

    def test_no_task(self):
        data = glance_utils.LimitingReader(io.BytesIO(b'x'), 100)
        self.assertIsNone(adding.report_waiting(data))
        self.assertIsNone(adding.report_waiting(iter([b'x'])))
