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

"""Imports that are converted, through a real Glance into real clusters."""

import contextlib
import os
import pathlib
import struct
import subprocess
import threading

import fixtures

from tests.functional.api import base
from tests.fuzz import made

MiB, GiB = base.MiB, base.MiB << 10
STORES = ('central', 'dcn0')
PLUGIN = {
    'image_import_opts': {'image_import_plugins': '[dcn_image_conversion]'},
    'glance_dcn': {'conversion_max_virtual_size': 100,
                   'conversion_max_output_size': 2}}


class ConversionTestCase(base.OwnGlanceTestCase):

    overrides = PLUGIN

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start_own(base.rbd_stores(), overrides=cls.overrides)

    def setUp(self):
        super().setUp()
        self.workshop = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def qemu(self, *arguments):
        subprocess.run(['qemu-img', *arguments], check=True,
                       cwd=self.workshop, stdout=subprocess.DEVNULL)

    def web_download(self, image_id, data):
        self.api.images.image_import(
            image_id, 'web-download', stores=list(STORES),
            uri=self.served(data))

    def glance_direct(self, image_id, data):
        self.api.stage(image_id, data)
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=list(STORES))

    def assertNothingStaged(self):
        self.assertEqual([], self.own.worker.staged())


class HonestTest(ConversionTestCase):

    def test_into_two_stores(self):
        for method in (self.web_download, self.glance_direct):
            for disk_format in ('qcow2', 'vmdk', 'vdi', 'vhdx'):
                data = base.random_data(3 * MiB)
                image_id = self.new_image(self.api, disk_format=disk_format)
                method(image_id, self.converted(data, disk_format))
                image = self.api.wait(image_id, *STORES)
                self.assertEqual(
                    ('raw', 'bare', 3 * MiB),
                    (image['disk_format'], image['container_format'],
                     image['virtual_size']))
                self.assertDescribes(image, data)
                self.assertLocated(image, *STORES)
                self.assertStored(image_id, data, *STORES)
                self.assertSame(data, self.api.download(image_id))
                self.assertNothingStaged()

    def test_compared_by_qemu_img(self):
        data = base.random_data(3 * MiB)
        source = self.converted(data, 'qcow2')
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.web_download(image_id, source)
        self.api.wait(image_id, *STORES)
        (self.workshop / 'source').write_bytes(source)
        for site in STORES:
            (self.workshop / site).write_bytes(
                self.api.download(image_id, prefer=site))
            self.qemu('compare', '-f', 'qcow2', '-F', 'raw', 'source', site)

    def test_raw_stays_as_it_is(self):
        for method in (self.web_download, self.glance_direct):
            data = base.random_data(MiB)
            image_id = self.new_image(self.api)
            method(image_id, data)
            self.assertDescribes(self.api.wait(image_id, *STORES), data)
            self.assertStored(image_id, data, *STORES)
            self.assertNothingStaged()


class BuiltInPythonTest(ConversionTestCase):
    """Nothing says which interpreter belongs to uWSGI."""

    overrides = dict(PLUGIN, wsgi={'python_interpreter': ''})

    def test_finds_it(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.glance_direct(image_id, self.converted(
            base.random_data(MiB), 'qcow2'))
        image = self.api.wait(image_id, *STORES)
        self.assertEqual('raw', image['disk_format'])


class HostileTest(ConversionTestCase):

    def refused(self, disk_format, data, reason):
        """The task fails with a clear message, and nothing is left."""
        for method in (self.web_download, self.glance_direct):
            image_id = self.new_image(self.api, disk_format=disk_format)
            method(image_id, data)
            image = self.api.wait(image_id, status='queued', failed=STORES)
            self.assertEqual((disk_format, None), (
                image['disk_format'], image['virtual_size']))
            messages = self.api.messages(image_id)
            self.assertEqual(1, len(messages))
            self.assertTrue(messages[0].startswith(
                'The image cannot be converted: '), messages)
            self.assertIn(reason, messages[0])
            self.assertNotIn(str(self.own.worker.staging), messages[0])
            self.assertNothingStaged()
            self.assertNoTrace(image_id, *base.SITES)

    def made(self, *arguments):
        """Return a file that ``qemu-img create`` makes."""
        self.qemu('create', '-q', *arguments)
        return (self.workshop / 'image').read_bytes()

    def test_wrong_format(self):
        self.refused('qcow2', base.random_data(MiB),
                     'declared to be qcow2 and its content is raw')
        self.refused('raw', self.converted(bytes(MiB), 'qcow2'),
                     'declared to be raw and its content is qcow2')

    def test_backing_file(self):
        self.refused('qcow2', self.made(
            '-f', 'qcow2', '-F', 'raw', '-b', '/etc/passwd', 'image'),
            'backing_file')

    def test_data_file(self):
        self.refused('qcow2', self.made(
            '-f', 'qcow2', '-o', 'data_file=outside', 'image', '1M'),
            'data_file')

    def test_vmdk_with_extents(self):
        self.refused('vmdk', self.made(
            '-f', 'vmdk', '-o', 'subformat=monolithicFlat', 'image', '1M'),
            '')
        self.refused('vmdk', self.converted(bytes(MiB), 'vmdk').replace(
            b'SPARSE "', b'FLAT "/e'), 'descriptor')

    def test_lying_size(self):
        self.refused('qcow2', self.made('-f', 'qcow2', 'image', '10T'),
                     'conversion_max_virtual_size')

    def test_unfolds(self):
        # Every cluster of 64 GiB is the same one.
        data = bytearray(self.converted(b'x' * 65536, 'qcow2'))
        first, = struct.unpack_from('>Q', data, 40)
        second = struct.unpack_from('>Q', data, first)[0] & ((1 << 56) - 512)
        entry, = struct.unpack_from('>Q', data, second)
        data.extend(bytes(max(0, second + 65536 - len(data))))
        struct.pack_into('>Q', data, 24, 64 * GiB)
        struct.pack_into('>I', data, 36, 128)
        struct.pack_into('>128Q', data, first, *[second | 1 << 63] * 128)
        struct.pack_into('>8192Q', data, second, *[entry] * 8192)
        self.refused('qcow2', bytes(data), 'conversion_max_output_size')

    def test_truncated(self):
        for disk_format in ('qcow2', 'vmdk'):
            data = self.converted(os.urandom(3 * MiB), disk_format)
            self.refused(disk_format, data[:MiB], '')

    @contextlib.contextmanager
    def answering(self):
        """Ask for images again and again; each answer is to come at once."""
        ended, answers = threading.Event(), []

        def ask():
            while not ended.is_set():
                answers.append(self.api.request(
                    'GET', '/v2/images?limit=1').status_code)
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield answers
        finally:
            ended.set()
            thread.join()
        self.assertEqual({200}, set(answers))

    def test_files_that_once_stalled_the_process(self):
        # Of these headers the first took minutes, of 1 MiB hours, in which
        # nothing was answered; the second took hours, too.
        for disk_format, data, reason in (
                ('vmdk', made.vmdk(made.DESCRIPTOR + b'RW 1 FLAT "x"\n'
                                   + b'\n' * (98 << 10)), 'SPARSE, FLAT'),
                ('vmdk', made.vmdk(made.DESCRIPTOR + b'RW 1 FLAT "x"\n'
                                   + b'\n' * (1020 << 10)), 'SPARSE, FLAT'),
                ('qcow2', made.qcow2_of_overlapping_tables(), '')):
            with self.answering() as answers:
                self.refused(disk_format, data, reason)
            self.assertGreater(len(answers), 5)

    def test_file_that_takes_long_to_inspect(self):
        # Seconds of CPU time, with the end that any of it has.
        path = made.endless(self.workshop / 'image', length=64 * MiB)
        with self.answering() as answers:
            self.refused('vmdk', path.read_bytes(), '')
        self.assertGreater(len(answers), 5)
