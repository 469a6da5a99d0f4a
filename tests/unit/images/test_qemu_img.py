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

"""qemu-img on honest and on hostile files."""

import dataclasses
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

from oslotest import base

from glance_dcn.images import errors
from glance_dcn.images import hazards
from glance_dcn.images import inspection
from glance_dcn.images import qemu_img

MB = 1 << 20
CLUSTER = 64 << 10
UNUSABLE = (errors.UnsafeImage, errors.QemuImgError)


@unittest.skipUnless(shutil.which('qemu-img'), 'qemu-img is not installed')
class QemuImgTestCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.target = str(self.folder / 'target')

    def qemu(self, *arguments):
        subprocess.run(['qemu-img', *arguments], check=True,
                       stdout=subprocess.DEVNULL, cwd=self.folder)

    def image(self, driver='qcow2', data=b'', size=10 * MB, name='image',
              options=()):
        """Make an image file and return its path."""
        raw = self.folder / 'content.raw'
        raw.write_bytes(data)
        os.truncate(raw, size)
        path = self.folder / name
        self.qemu('convert', '-f', 'raw', '-O', driver, *options,
                  str(raw), str(path))
        return str(path)

    def inspected(self, path, driver):
        """Return an image as inspecting it does, which must be of a format.

        Hazards that inspectors of formats refuse first are found here.
        """
        with open(path, 'rb') as file:
            unsafe = hazards.find(file, driver)
            missing = [] if unsafe else hazards.find_missing(file, driver)
            status = os.fstat(file.fileno())
        return inspection.Image(
            str(path), 'vhd' if driver == 'vpc' else driver, tuple(unsafe),
            tuple(missing), (status.st_dev, status.st_ino, status.st_size,
                             status.st_mtime_ns))

    def patch(self, path, offset, data):
        with open(path, 'r+b') as file:
            file.seek(offset)
            file.write(data)

    def number(self, path, offset):
        with open(path, 'rb') as file:
            file.seek(offset)
            return struct.unpack('>Q', file.read(8))[0]

    def refused(self, path, driver, reason):
        image = self.inspected(path, driver)
        error = self.assertRaises(errors.UnsafeImage, qemu_img.info, image)
        self.assertIn(reason, str(error))
        self.assertRaises(errors.UnsafeImage, qemu_img.measure, image)
        self.assertRaises(errors.UnsafeImage, qemu_img.check, image)
        self.assertRaises(errors.UnsafeImage, qemu_img.convert, image,
                          self.target)
        self.assertFalse(os.path.exists(self.target))


class TestHonest(QemuImgTestCase):

    def test_convert(self):
        data = os.urandom(3 * MB + 5)
        for driver in ('raw', 'qcow2', 'vmdk', 'vdi', 'vpc', 'vhdx'):
            path = self.image(driver, data, name='image.' + driver)
            parts = []
            qemu_img.convert(self.inspected(path, driver), self.target,
                             progress=parts.append)
            content = pathlib.Path(self.target).read_bytes()
            self.assertEqual(data.ljust(10 * MB, b'\0'), content[:10 * MB])
            self.assertLess(os.stat(self.target).st_blocks * 512, 5 * MB)
            self.assertEqual(1, parts[-1])
            os.unlink(self.target)

    def test_stream_optimized_vmdk(self):
        path = self.image('vmdk', b'x' * MB, options=(
            '-o', 'subformat=streamOptimized'))
        qemu_img.convert(self.inspected(path, 'vmdk'), self.target)

    def test_info_and_measure(self):
        path = self.image(data=b'x' * MB)
        image = self.inspected(path, 'qcow2')
        self.assertEqual(10 * MB, qemu_img.info(image)['virtual-size'])
        self.assertEqual(10 * MB, qemu_img.measure(image)['required'])
        self.assertLess(qemu_img.measure(image, 'qcow2')['required'], 3 * MB)

    def test_odd_names(self):
        for name in ('a,b', 'a,,file.driver=nbd', 'json:{}', 'nbd:x:1',
                     '-f', 'a b', 'a"b', 'é'):
            path = self.image(data=b'x' * MB, name=name)
            qemu_img.convert(self.inspected(path, 'qcow2'), self.target)
            self.assertEqual(b'x' * MB, pathlib.Path(
                self.target).read_bytes()[:MB])
            os.rename(self.target, self.folder / ('-o' + name))

    def test_relative_names(self):
        for name in ('image', '-f', 'json:{}', 'nbd:localhost:10809', ''):
            image = self.inspected(self.image(), 'qcow2')
            self.assertRaises(ValueError, qemu_img.info, dataclasses.replace(
                image, path=name))
            self.assertRaises(ValueError, qemu_img.convert, image, name)

    def test_target_exists(self):
        path = self.image()
        self.assertRaises(FileExistsError, qemu_img.convert,
                          self.inspected(path, 'qcow2'), path)
        self.assertTrue(os.path.exists(path))

    def test_cancel(self):
        path = self.image(data=b'x' * 10 * MB)
        image = self.inspected(path, 'qcow2')
        self.assertRaises(errors.Cancelled, qemu_img.convert, image,
                          self.target, cancelled=lambda: True)
        self.assertFalse(os.path.exists(self.target))
        for call in (qemu_img.info, qemu_img.measure):
            self.assertRaises(errors.Cancelled, call, image,
                              cancelled=lambda: True)

    def test_time_out(self):
        error = self.assertRaises(
            errors.QemuImgError, qemu_img.convert,
            self.inspected(self.image(), 'qcow2'), self.target,
            limits=qemu_img.Limits(seconds=-1))
        self.assertIn('seconds', str(error))
        self.assertFalse(os.path.exists(self.target))

    def test_memory(self):
        self.assertRaises(
            errors.QemuImgError, qemu_img.convert,
            self.inspected(self.image(), 'qcow2'), self.target,
            limits=qemu_img.Limits(memory=50 * MB))


class TestHostile(QemuImgTestCase):

    def test_backing_file(self):
        secret = self.image('raw', b'secret', name='secret')
        self.qemu('create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', secret,
                  'image')
        self.refused(self.folder / 'image', 'qcow2', 'backing file')

    def test_data_file(self):
        self.qemu('create', '-q', '-f', 'qcow2', '-o', 'data_file=outside',
                  'image', '1M')
        self.refused(self.folder / 'image', 'qcow2', 'data file')
        # Without the feature's bit, but still with the name.
        self.patch(self.folder / 'image', 72, bytes(8))
        self.refused(self.folder / 'image', 'qcow2', 'data file')

    def test_other_format(self):
        path = self.image('raw', b'x')
        for driver in ('qcow2', 'vmdk', 'qed', 'nbd', 'luks', ''):
            self.assertRaises(UNUSABLE, qemu_img.info,
                              self.inspected(path, driver))
        # Declared raw it is raw, whatever is in it.
        self.assertEqual('raw', qemu_img.info(
            self.inspected(self.image(), 'raw'))['format'])

    def test_changed_since_it_was_inspected(self):
        image = self.inspected(self.image(data=b'x' * MB), 'qcow2')
        self.patch(image.path, 8, struct.pack('>QI', 512, 11))
        self.patch(image.path, 512, b'/etc/passwd')
        for call in (qemu_img.info, qemu_img.measure, qemu_img.check):
            error = self.assertRaises(errors.UnsafeImage, call, image)
            self.assertIn('changed', str(error))
        self.assertRaises(errors.UnsafeImage, qemu_img.convert, image,
                          self.target)
        self.assertFalse(os.path.exists(self.target))

    def test_vmdk_with_extents(self):
        for kind in ('monolithicFlat', 'twoGbMaxExtentSparse',
                     'twoGbMaxExtentFlat'):
            path = self.image('vmdk', b'x', name=kind, options=(
                '-o', 'subformat=' + kind))
            self.refused(path, 'vmdk', 'VMDK')

    def test_vmdk_descriptor_changed(self):
        for old, new, reason in (
                (b'SPARSE "', b'FLAT "/e', 'extents'),
                (b'"monolithicSparse"', b'"monolithicFlat" \n', 'type')):
            path = self.image('vmdk', b'x')
            content = pathlib.Path(path).read_bytes()
            self.patch(path, content.index(old), new)
            self.refused(path, 'vmdk', reason)
        path = self.image('vmdk', b'x')
        self.patch(path, 12, bytes(8))
        self.refused(path, 'vmdk', 'capacity')

    def test_truncated(self):
        path = self.image(data=os.urandom(5 * MB))
        # Each a part of the one before.
        for size in (3 * CLUSTER, CLUSTER, 100, 71, 3, 0):
            os.truncate(path, size)
            self.assertRaises(UNUSABLE, qemu_img.convert,
                              self.inspected(path, 'qcow2'), self.target)
            self.assertFalse(os.path.exists(self.target))

    def unfolding(self):
        """A few hundred KiB whose every cluster is the same one."""
        self.qemu('create', '-q', '-f', 'qcow2', 'image', '64G')
        path = str(self.folder / 'image')
        content = self.image(data=b'x' * CLUSTER, name='one')
        first = self.number(content, 40)
        second = self.number(content, first) & ((1 << 56) - 512)
        entry = self.number(content, second)
        shutil.copy(content, path)
        self.patch(path, 24, struct.pack('>Q', 64 << 30))
        self.patch(path, 36, struct.pack('>I', 128))
        self.patch(path, first, struct.pack(
            '>Q', second | 1 << 63) * 128)
        self.patch(path, second, struct.pack('>Q', entry) * 8192)
        return path

    def test_unfolds(self):
        path = self.unfolding()
        self.assertLess(os.stat(path).st_size, MB)
        need = qemu_img.measure(self.inspected(path, 'qcow2'),
                                'qcow2')['required']
        self.assertGreater(need, 64 << 30)
        error = self.assertRaises(
            errors.QemuImgError, qemu_img.convert,
            self.inspected(path, 'qcow2'), self.target,
            limits=qemu_img.Limits(space=20 * MB))
        self.assertIn('20971520 bytes', str(error))
        self.assertFalse(os.path.exists(self.target))

    def test_lying_size(self):
        path = self.image()
        self.patch(path, 24, struct.pack('>Q', 1 << 50))
        # It may be refused at once (tables too small), or by the limit.
        self.assertRaises(
            UNUSABLE, qemu_img.convert,
            self.inspected(path, 'qcow2'), self.target,
            limits=qemu_img.Limits(size=100 * MB))
        self.assertFalse(os.path.exists(self.target))

    def test_output_longer_than_allowed(self):
        path = self.image(size=200 * MB)
        error = self.assertRaises(
            errors.QemuImgError, qemu_img.convert,
            self.inspected(path, 'qcow2'), self.target,
            limits=qemu_img.Limits(size=100 * MB))
        self.assertTrue(error.hint)
        self.assertFalse(os.path.exists(self.target))

    def test_loops_in_tables(self):
        path = self.image(data=b'x' * MB)
        first = self.number(path, 40)
        self.patch(path, first, struct.pack('>Q', first | 1 << 63))
        try:
            qemu_img.convert(self.inspected(path, 'qcow2'), self.target,
                             limits=qemu_img.Limits(seconds=20))
        except UNUSABLE:
            self.assertFalse(os.path.exists(self.target))
