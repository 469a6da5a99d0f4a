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

"""The conversion plugin in a real flow, with real images and qemu-img."""

import copy
import itertools
import os
import pathlib
import shutil
import struct
import subprocess
import threading
import time
import types
import unittest
from unittest import mock

import fixtures
from glance.async_.flows import api_image_import
from glance.async_.flows.plugins import image_conversion as stock
from glance.common import exception
from glance import domain
from oslo_config import cfg
from oslo_config import fixture as config_fixture
from oslotest import base
from taskflow import engines
from taskflow.patterns import linear_flow
from taskflow import task

from glance_dcn.images import formats
from glance_dcn.images import qemu_img
from glance_dcn.imports import active_imports
from glance_dcn.imports import conversion
from glance_dcn.imports import folder
from glance_dcn.imports import heartbeat
from glance_dcn.imports import journal

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
# The inspectors of Glance 28 and before know less than those of oslo.utils;
# stock sees no more there.
sees_isos = unittest.skipIf(
    formats.legacy and 'iso' not in formats.legacy.ALL_FORMATS,
    'this Glance does not know ISO images')
sees_hybrid_isos = unittest.skipUnless(
    hasattr(formats.modern and formats.modern.InspectWrapper, 'formats'),
    'this Glance refuses hybrid ISO images itself')
sees_partition_tables = unittest.skipUnless(
    formats.modern and 'gpt_safety_checks_nonfatal' in
    cfg.CONF.image_format, 'this Glance does not look at partition tables')
CLUSTER = 64 * KiB
TASK, IMAGE = 'the-task', 'the-image'


class Repo:
    """A repository of one entity; saved is what matters."""

    def __init__(self, entity):
        self.entity = entity
        self.saves = []

    def get(self, _id):
        if self.entity is None:
            raise exception.ImageNotFound()
        return self._copied(self.entity)

    def save(self, entity, from_state=None):
        self.entity = self._copied(entity)
        self.saves.append(self.entity)

    @staticmethod
    def _copied(entity):
        copied = copy.copy(entity)
        if hasattr(copied, 'extra_properties'):
            # They are a mapping that can be neither copied nor iterated.
            copied.extra_properties = domain.ExtraProperties(
                {key: entity.extra_properties[key]
                 for key in entity.extra_properties.keys()})  # noqa: SIM118
        return copied


class Staged(task.Task):
    """Says where the staged file is, as Glance's task before ours does."""

    default_provides = 'file_path'

    def __init__(self, path):
        super().__init__()
        self.path = path

    def execute(self):
        return 'file://%s' % self.path


class Import(task.Task):
    """Takes the file that would be imported."""

    def execute(self, file_path):
        self.path = file_path


class FailLater(task.Task):
    """Stands for an import that fails after the conversion."""

    def execute(self, file_path):
        raise exception.UploadException('later')


@unittest.skipUnless(shutil.which('qemu-img'), 'qemu-img is not installed')
class ConversionTestCase(base.BaseTestCase):

    kind = conversion._ConvertImage

    def setUp(self):
        super().setUp()
        self.conf = self.useFixture(config_fixture.Config(cfg.CONF))
        self.workshop = self.folder()
        self.staging = self.folder()
        self.source = self.staging / IMAGE
        self.target = self.staging / (IMAGE + '.raw')
        self.method = 'glance-direct'
        # What the task of the conversion is given instead of its own.
        self.given = {}
        self.images = Repo(None)
        self.new_image()
        self.tasks = Repo(types.SimpleNamespace(
            task_id=TASK, status='processing', message=''))

    def new_image(self):
        self.images.entity = domain.Image(
            IMAGE, 'importing', None, None, disk_format='qcow2',
            container_format='ovf', extra_properties={
                'os_glance_import_task': TASK,
                'os_glance_importing_to_stores': 'central,dcn0'})

    def folder(self):
        return pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def qemu(self, *arguments):
        subprocess.run(['qemu-img', *arguments], check=True,
                       cwd=self.workshop, stdout=subprocess.DEVNULL)

    def make(self, driver='qcow2', data=b'', size=10 * MiB, options=()):
        """Stage a disk image of some data, and return its raw content."""
        raw = self.workshop / 'raw'
        # Random data must not look like a boot record.
        raw.write_bytes(data[:510] + b'\0\0'[:len(data[510:])] + data[512:])
        os.truncate(raw, size)
        self.qemu('convert', '-f', 'raw', '-O', driver, *options, 'raw',
                  str(self.source))
        return raw

    def flow(self, *last):
        wrapper = api_image_import.ImportActionWrapper(self.images, IMAGE,
                                                       TASK)
        flow = linear_flow.Flow('import').add(Staged(self.source))
        stores = ['central', 'dcn0']
        if self.given:
            return engines.load(flow.add(self.kind(
                TASK, 'import', self.tasks, wrapper, stores, self.method,
                **self.given), *last))
        return engines.load(flow.add(conversion.get_flow(
            task_id=TASK, task_type='import', task_repo=self.tasks,
            backend=stores, action_wrapper=wrapper,
            context=None, image_id=IMAGE, import_req={
                'method': {'name': self.method}}), *last))

    def use_tool(self, **operations):
        """Have some operations of qemu-img done otherwise."""
        self.given['tool'] = types.SimpleNamespace(
            **{**vars(qemu_img), **operations})

    def convert_within(self, limits):
        """Have qemu-img convert within other limits than it is given."""
        def convert(image, target, output, _limits, **kwargs):
            qemu_img.convert(image, target, output, limits, **kwargs)
        self.use_tool(convert=convert)

    def run_flow(self, declared='qcow2', last=None):
        """Run the flow and return the file that would be imported."""
        if self.images.entity.status == 'queued':
            self.new_image()
        self.images.entity.disk_format = declared
        last = last or Import()
        self.flow(last).run()
        self.assertTrue(last.path.startswith('file:///'), last.path)
        return pathlib.Path(last.path[len('file://'):])

    def refused(self, declared, *reasons):
        """The import fails with a clear message and leaves nothing."""
        error = self.assertRaises(exception.UploadException, self.run_flow,
                                  declared)
        for reason in reasons:
            self.assertIn(reason, str(error))
        self.assertNotIn(str(self.staging), str(error))
        self.assertReverted(declared)
        return str(error)

    def assertReverted(self, declared):
        self.assertEqual([], os.listdir(self.staging))
        image = self.images.entity
        self.assertEqual(
            ('queued', declared, 'ovf', None, None),
            (image.status, image.disk_format, image.container_format,
             image.size, image.virtual_size))
        self.assertEqual(
            ('', 'central,dcn0'),
            (image.extra_properties['os_glance_importing_to_stores'],
             image.extra_properties['os_glance_failed_import']))

    def patch_source(self, offset, data):
        with open(self.source, 'r+b') as file:
            file.seek(offset)
            file.write(data)

    def number(self, offset):
        with open(self.source, 'rb') as file:
            file.seek(offset)
            return struct.unpack('>Q', file.read(8))[0]

    def journal(self, slow=False):
        """Keep a journal of the import; return its entry as it is kept.

        :param slow: the disk takes until the end of the test
        """
        going = threading.Event()
        going.set() if not slow else self.addCleanup(going.set)
        fdatasync = os.fdatasync

        def sync(fd):
            if os.readlink('/proc/self/fd/%d' % fd) == str(self.target):
                going.wait(60)
            fdatasync(fd)
        self.useFixture(fixtures.MonkeyPatch('os.fdatasync', sync))
        kept = journal.Journal(str(self.staging))
        self.addCleanup(active_imports.end, TASK)
        active_imports.begin(kept, journal.Entry(
            TASK, IMAGE, 'glance-direct', ['central', 'dcn0'],
            str(self.source), journal.STAGED,
            {'disk_format': 'qcow2', 'container_format': 'ovf'}))
        return lambda: kept.read(TASK)

    def files(self):
        return sorted(name for name in os.listdir(self.staging)
                      if name != folder.FOLDER)


class TestHonest(ConversionTestCase):

    def converted(self, driver, output='raw', declared=None, options=()):
        """Convert a disk that has data at its beginning and its end."""
        self.conf.config(group='image_conversion', output_format=output)
        self.new_image()
        raw = self.make(driver, options=options, data=os.urandom(
            2 * MiB + 512).ljust(9 * MiB, b'\0') + os.urandom(MiB))
        path = self.run_flow(declared or driver)
        self.assertEqual('%s.%s' % (self.source, output), str(path))
        self.assertEqual([path.name], os.listdir(self.staging))
        self.qemu('compare', '-f', 'raw', '-F', output, str(raw), str(path))
        image = self.images.entity
        self.assertEqual(
            ('importing', output, 'bare', os.stat(path).st_size),
            (image.status, image.disk_format, image.container_format,
             image.size))
        if driver != 'vpc':  # It has whole cylinders.
            self.assertEqual(10 * MiB, image.virtual_size)
        self.assertLess(os.stat(path).st_blocks * 512, 5 * MiB)
        path.unlink()

    def test_to_raw(self):
        for driver in ('qcow2', 'vmdk', 'vdi', 'vhdx'):
            self.converted(driver)

    def test_vhd_is_vpc_to_qemu(self):
        self.converted('vpc', declared='vhd', options=(
            '-o', 'force_size=on'))

    def test_vhd_of_fixed_size(self):
        self.converted('vpc', declared='vhd', options=(
            '-o', 'subformat=fixed,force_size=on'))

    def test_ploop_is_parallels_to_qemu(self):
        self.converted('parallels', declared='ploop')

    def test_both_may_be_declared_raw(self):
        for driver, options in (('vpc', ('-o', 'subformat=fixed')),
                                ('parallels', ())):
            self.make(driver, b'x' * MiB, options=options)
            self.assertEqual(self.source, self.run_flow('raw'))

    def test_compressed(self):
        self.converted('qcow2', options=('-c',))
        self.converted('vmdk', options=('-o', 'subformat=streamOptimized'))

    def test_clusters_of_other_sizes(self):
        for option in ('cluster_size=512', 'cluster_size=2M',
                       'compat=0.10', 'preallocation=metadata',
                       'lazy_refcounts=on', 'extended_l2=on',
                       'extended_l2=on,cluster_size=2M'):
            self.converted('qcow2', options=('-o', option))

    def test_last_cluster_is_short(self):
        raw = self.make(data=os.urandom(3 * MiB), size=3 * MiB + 512)
        self.qemu('compare', '-f', 'raw', '-F', 'raw', str(raw),
                  str(self.run_flow()))

    def test_from_raw(self):
        self.converted('raw', 'qcow2')
        self.converted('raw', 'vmdk')

    def test_between_others(self):
        self.converted('qcow2', 'vmdk')
        self.converted('vmdk', 'qcow2')

    def test_nothing_to_do(self):
        for driver in ('raw', 'qcow2'):
            self.conf.config(group='image_conversion', output_format=driver)
            self.make(driver, b'x' * MiB)
            self.assertEqual(self.source, self.run_flow(driver))
            image = self.images.entity
            self.assertEqual((driver, 'ovf', None, 10 * MiB),
                             (image.disk_format, image.container_format,
                              image.size, image.virtual_size))
        self.assertEqual([IMAGE], os.listdir(self.staging))

    def test_raw_of_odd_sizes(self):
        for size in (0, 1, 511, 65537):
            self.source.write_bytes(b'x' * size)
            self.assertEqual(self.source, self.run_flow('raw'))

    def test_qcow2_of_no_size(self):
        self.qemu('create', '-q', '-f', 'qcow2', str(self.source), '0')
        self.assertEqual(b'', self.run_flow().read_bytes())

    @sees_isos
    def test_iso_stays(self):
        self.iso()
        self.assertEqual(self.source, self.run_flow('iso'))
        self.assertEqual('iso', self.images.entity.disk_format)

    def iso(self):
        self.source.write_bytes(
            bytes(32 * KiB) + b'\x01CD001\x01' + bytes(2 * MiB))

    @sees_isos
    def test_iso_as_something_else(self):
        self.iso()
        self.refused('raw', 'declared to be raw and its content is iso')

    @sees_hybrid_isos
    def test_iso_that_boots_as_a_disk(self):
        for declared in ('iso', 'raw'):
            self.iso()
            # As isohybrid writes it, with what no partition table has.
            self.patch_source(0, bytes(446) + struct.pack(
                '<B3sB3sII', 0x80, b'\0\1\0', 0x17, b'\xff' * 3, 0, 4096))
            self.patch_source(510, b'\x55\xaa')
            if declared == 'iso':
                self.assertEqual(self.source, self.run_flow('iso'))
                self.assertEqual('iso', self.images.entity.disk_format)
            else:
                self.refused(declared, 'its content is iso')

    def test_what_is_no_disk_stays(self):
        for declared in ('aki', 'ari', 'ami'):
            self.source.write_bytes(b'\x1f\x8b' + os.urandom(MiB))
            self.assertEqual(self.source, self.run_flow(declared))
            image = self.images.entity
            self.assertEqual((declared, 'ovf', 'importing'),
                             (image.disk_format, image.container_format,
                              image.status))

    def test_what_is_no_disk_and_is_one(self):
        for declared in ('aki', 'ari', 'ami'):
            for driver in ('qcow2', 'vmdk'):
                self.make(driver)
                self.refused(declared, 'its content is %s' % driver)

    @sees_partition_tables
    def test_kernel_that_looks_like_a_partition_table(self):
        self.conf.config(group='image_format', gpt_safety_checks_nonfatal=[])
        for declared in ('aki', 'ari'):
            self.gpt(status=0x55)
            self.assertEqual(self.source, self.run_flow(declared))
        for declared in ('ami', 'raw'):
            self.gpt(status=0x55)
            self.refused(declared, 'disallowed configuration', 'mbr')

    def gpt(self, status=0x00):
        """Stage a raw disk with a protective MBR."""
        entry = struct.pack('<B3sB3sII', status, b'\0\2\0', 0xee, b'\xff' * 3,
                            1, 2047)
        self.source.write_bytes(
            (bytes(446) + entry + bytes(48) + b'\x55\xaa').ljust(MiB, b'\0'))

    def test_gpt_is_raw(self):
        self.gpt()
        self.assertEqual(self.source, self.run_flow('raw'))

    def test_gpt_inside_qcow2(self):
        self.gpt()
        os.rename(self.source, self.workshop / 'gpt')
        self.qemu('convert', '-f', 'raw', '-O', 'qcow2', 'gpt',
                  str(self.source))
        self.assertEqual((self.workshop / 'gpt').read_bytes(),
                         self.run_flow().read_bytes())

    @sees_partition_tables
    def test_gpt_checks_can_be_tolerated(self):
        self.gpt(status=0x55)
        self.conf.config(group='image_format',
                         gpt_safety_checks_nonfatal=['mbr'])
        self.assertEqual(self.source, self.run_flow('raw'))

    @sees_partition_tables
    def test_gpt_checks(self):
        self.gpt(status=0x55)
        self.conf.config(group='image_format', gpt_safety_checks_nonfatal=[])
        self.refused('raw', 'disallowed configuration', 'mbr')

    def test_left_behind_by_a_dead_worker(self):
        raw = self.make(data=b'x' * MiB)
        self.target.write_bytes(b'half')
        self.assertEqual(raw.read_bytes(), self.run_flow().read_bytes())

    def test_import_fails_later(self):
        self.make(data=b'x' * MiB)
        self.assertRaises(exception.UploadException, self.run_flow, 'qcow2',
                          FailLater())
        self.assertReverted('qcow2')

    def test_source_is_kept_until_the_target_is_on_the_disk(self):
        entry = self.journal(slow=True)
        self.make(data=b'x' * MiB)
        staged = self.source.read_bytes()
        self.assertEqual(self.target, self.run_flow())
        aside = pathlib.Path(folder.aside(str(self.source)))
        self.assertEqual([self.target.name, aside.name], self.files())
        self.assertEqual(staged, aside.read_bytes())
        self.assertEqual((journal.CONVERTED, journal.Proof(10 * MiB)),
                         (entry().phase, entry().proofs['raw']))
        active_imports.end(TASK)
        self.assertEqual([self.target.name], self.files())

    def test_source_goes_when_the_target_is_on_the_disk(self):
        entry = self.journal()
        raw = self.make(data=b'x' * MiB)
        self.run_flow()
        deadline = time.monotonic() + 60
        while self.files() != [self.target.name]:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(.01)
        self.assertEqual(
            journal.Proof(10 * MiB, folder.digest(str(raw))),
            entry().proofs['raw'])

    def test_import_fails_before_the_target_is_on_the_disk(self):
        self.journal(slow=True)
        self.make(data=b'x' * MiB)
        self.assertRaises(exception.UploadException, self.run_flow, 'qcow2',
                          FailLater())
        self.assertEqual([], self.files())
        self.assertEqual('queued', self.images.entity.status)

    def test_after_a_download(self):
        # Stock's download reverts after us, and sets the image to queued.
        self.method = 'web-download'
        for last in (None, FailLater()):
            self.make('qcow2' if last else 'vmdk', b'x' * MiB)
            self.assertRaises(exception.UploadException, self.run_flow,
                              'qcow2', last)
            self.assertEqual('importing', self.images.entity.status)
            self.images.entity.status = 'queued'
            self.assertReverted('qcow2')

    def test_already_queued(self):
        # Stock's check of the outcome reverts before us, and may have set it.
        self.make(data=b'x' * MiB)
        images = self.images

        class QueueAndFail(FailLater):

            def execute(self, file_path):
                images.entity.status = 'queued'
                super().execute(file_path)
        self.assertRaises(exception.UploadException, self.run_flow, 'qcow2',
                          QueueAndFail())
        self.assertReverted('qcow2')

    def test_output_format_is_an_option_of_stock(self):
        self.assertIs(stock.CONF, conversion.CONF)
        self.conf.config(group='image_conversion', output_format='vmdk')
        self.make()
        self.assertEqual('.vmdk', self.run_flow().suffix)


class TestHostile(ConversionTestCase):

    def test_wrong_format(self):
        for driver, declared in (('raw', 'qcow2'), ('qcow2', 'raw'),
                                 ('vmdk', 'qcow2'), ('qcow2', 'ami'),
                                 ('raw', 'ploop')):
            self.make(driver)
            self.refused(declared, 'declared to be %s and its content is %s'
                         % (declared, driver))

    def test_formats_in_one_another(self):
        # A disk whose content looks like another disk.
        self.make('vmdk', b'x')
        os.rename(self.source, self.workshop / 'inner')
        self.qemu('convert', '-f', 'raw', '-O', 'qcow2', 'inner',
                  str(self.source))
        self.refused('qcow2', 'after conversion to raw its content is vmdk')

    @sees_isos
    def test_two_formats_at_once(self):
        self.make('qcow2', b'x' * MiB)
        self.patch_source(32 * KiB, b'\x01CD001\x01')
        self.refused('qcow2', 'format is not clear', 'iso')

    def test_backing_file(self):
        secret = self.workshop / 'secret'
        secret.write_bytes(b'secret'.ljust(MiB))
        self.qemu('create', '-q', '-f', 'qcow2', '-F', 'raw', '-b',
                  str(secret), str(self.source))
        self.refused('qcow2', 'backing_file')

    def test_data_file(self):
        self.qemu('create', '-q', '-f', 'qcow2', '-o', 'data_file=outside',
                  str(self.source), '1M')
        self.refused('qcow2', 'data_file')
        self.qemu('create', '-q', '-f', 'qcow2', '-o', 'data_file=outside',
                  str(self.source), '1M')
        # Without the feature's bit, but still with the name.
        self.patch_source(72, bytes(8))
        self.refused('qcow2', 'external data file')

    def test_vmdk_with_extents(self):
        for kind in ('monolithicFlat', 'twoGbMaxExtentSparse',
                     'twoGbMaxExtentFlat'):
            self.make('vmdk', b'x', options=('-o', 'subformat=' + kind))
            for extent in self.staging.glob(IMAGE + '-*'):
                extent.unlink()
            self.refused('vmdk')

    def test_vmdk_descriptor_changed(self):
        for old, new in ((b'SPARSE "', b'FLAT "/e'),
                         (b'"monolithicSparse"', b'"monolithicFlat" \n')):
            self.make('vmdk', b'x')
            content = self.source.read_bytes()
            self.patch_source(content.index(old), new)
            self.refused('vmdk')

    def test_vmdk_types_not_allowed(self):
        for allowed in ([], ['streamOptimized']):
            self.conf.config(group='image_format',
                             vmdk_allowed_types=allowed)
            self.make('vmdk')
            self.refused('vmdk', 'monolithicSparse is not allowed')

    def test_truncated(self):
        for size in (3, 71, 104, CLUSTER, 3 * CLUSTER, MiB):
            for options in ((), ('-c',), ('-o', 'cluster_size=512')):
                self.make(data=os.urandom(5 * MiB), options=options)
                os.truncate(self.source, size)
                self.refused('qcow2')

    def test_unknown_features(self):
        self.make(data=b'x' * MiB, options=('-o', 'extended_l2=on'))
        self.patch_source(72, struct.pack('>Q', 1 << 5 | 1 << 4))
        self.refused('qcow2', 'unknown_features')

    def test_truncated_with_extended_l2_entries(self):
        self.make(data=os.urandom(5 * MiB), options=(
            '-o', 'extended_l2=on'))
        whole = self.source.read_bytes()
        for part in (1, 2, 3):
            self.source.write_bytes(whole[:len(whole) * part // 4])
            self.refused('qcow2', 'truncated')

    def test_truncated_in_other_formats(self):
        for driver, declared in (('vmdk', 'vmdk'), ('vdi', 'vdi'),
                                 ('vpc', 'vhd'), ('vhdx', 'vhdx'),
                                 ('parallels', 'ploop')):
            for part in (1, 2, 3):
                self.make(driver, os.urandom(5 * MiB))
                os.truncate(self.source,
                            os.stat(self.source).st_size * part // 4)
                self.refused(declared)
        self.make('vmdk', os.urandom(5 * MiB),
                  options=('-o', 'subformat=streamOptimized'))
        os.truncate(self.source, 2 * MiB)
        self.refused('vmdk')

    def test_empty(self):
        self.source.touch()
        self.refused('qcow2', 'its content is raw')

    def test_lying_size(self):
        self.make()
        self.patch_source(24, struct.pack('>Q', 1 << 50))
        self.refused('qcow2')

    def test_unfolds_to_terabytes_of_zeros(self):
        self.qemu('create', '-q', '-f', 'qcow2', str(self.source), '50T')
        self.assertLess(os.stat(self.source).st_blocks * 512, MiB)
        self.refused('qcow2', str(50 << 40), str(1 << 40),
                     'conversion_max_virtual_size')

    def unfolding(self):
        """Stage a few hundred KiB that are 64 GiB of data."""
        self.make(data=b'x' * CLUSTER)
        first = self.number(40)
        second = self.number(first) & ((1 << 56) - 512)
        entry = self.number(second)
        self.patch_source(24, struct.pack('>Q', 64 * GiB))
        self.patch_source(36, struct.pack('>I', 128))
        self.patch_source(first, struct.pack('>Q', second | 1 << 63) * 128)
        self.patch_source(second, struct.pack('>Q', entry) * 8192)
        self.assertLess(os.stat(self.source).st_size, MiB)

    def test_unfolds_beyond_what_is_allowed(self):
        self.unfolding()
        self.conf.config(group='glance_dcn', conversion_max_output_size=2)
        self.refused('qcow2', str(64 * GiB), str(2 * GiB),
                     'conversion_max_output_size')

    def test_tables_in_loops(self):
        for table in (40, 48):  # L1, refcounts
            self.make(data=os.urandom(MiB))
            first = self.number(table)
            self.patch_source(first, struct.pack('>Q', first | 1 << 63) * 8)
            # It must end. Whether qemu-img refuses it, or reads the table
            # for data, nothing but a whole target may be left.
            try:
                path = self.run_flow()
            except exception.UploadException:
                self.assertReverted('qcow2')
            else:
                self.assertEqual([path.name], os.listdir(self.staging))
                path.unlink()

    def test_snapshot_tables_damaged(self):
        self.make(data=b'x' * MiB)
        self.qemu('snapshot', '-c', 'one', str(self.source))
        self.patch_source(60, struct.pack('>I', 0xffffffff))
        self.refused('qcow2', 'qemu-img')
        self.make(data=b'x' * MiB)
        self.qemu('snapshot', '-c', 'one', str(self.source))
        # Snapshots that are not there say nothing of the disk.
        self.patch_source(64, struct.pack('>Q', 1 << 60))
        self.qemu('compare', '-F', 'raw', 'raw', str(self.run_flow()))

    def test_internal_snapshots_are_dropped(self):
        raw = self.make(data=b'x' * MiB)
        self.qemu('snapshot', '-c', 'one', str(self.source))
        self.assertEqual(raw.read_bytes(), self.run_flow().read_bytes())

    def test_lying_virtual_size_of_vmdk(self):
        self.make('vmdk', b'x' * MiB)
        self.patch_source(12, struct.pack('<Q', 1 << 54))
        self.refused('vmdk')


class TestLimits(ConversionTestCase):

    def space(self, free):
        self.given['free'] = lambda _path: free

    def test_space_that_is_missing(self):
        self.make(data=os.urandom(3 * MiB))
        self.space(2 * MiB)
        convert = mock.Mock()
        self.use_tool(convert=convert)
        self.refused('qcow2', '%d are free' % (2 * MiB),
                     '%d bytes are missing' % MiB)
        convert.assert_not_called()

    def test_space_that_is_missing_for_a_deleted_image(self):
        self.make(data=os.urandom(3 * MiB))
        self.journal()

        def free(_path):
            self.images.entity = None
            return 2 * MiB
        self.given['free'] = free
        error = self.assertRaises(exception.UploadException, self.run_flow)
        self.assertIn('bytes are missing', str(error))
        self.assertEqual([], self.files())

    def test_holes_need_no_space(self):
        self.make(data=os.urandom(3 * MiB), size=GiB)
        self.space(4 * MiB)
        path = self.run_flow()
        self.assertEqual(GiB, os.stat(path).st_size)

    def test_image_size_cap(self):
        self.make(data=b'x' * MiB)
        self.conf.config(image_size_cap=10 * MiB)
        self.run_flow().unlink()
        self.new_image()
        self.conf.config(image_size_cap=10 * MiB - 1)
        self.make(data=b'x' * MiB)
        check, convert = mock.Mock(), mock.Mock()
        self.use_tool(check=check, convert=convert)
        self.refused('qcow2', '%d bytes, and %d are allowed' % (
            10 * MiB, 10 * MiB - 1), 'image_size_cap')
        check.assert_not_called()
        convert.assert_not_called()

    def test_image_size_cap_of_what_stays(self):
        # The length of a download is not always told before.
        self.conf.config(image_size_cap=MiB)
        for declared in ('raw', 'ami'):
            self.make('raw', size=MiB + 512)
            self.refused(declared, '%d bytes' % (MiB + 512),
                         'image_size_cap')

    def test_image_size_cap_of_another_output(self):
        self.conf.config(group='image_conversion', output_format='qcow2')
        self.make('raw', os.urandom(3 * MiB))
        self.conf.config(image_size_cap=4 * MiB)
        self.run_flow('raw').unlink()
        self.new_image()
        self.make('raw', os.urandom(3 * MiB))
        self.conf.config(image_size_cap=3 * MiB)
        self.refused('raw', 'after conversion it has', 'image_size_cap')

    def test_virtual_size_is_refused_before_tables_are_read(self):
        self.qemu('create', '-q', '-f', 'vmdk', str(self.source), '1025G')
        check = mock.Mock()
        self.use_tool(check=check)
        self.refused('vmdk', 'conversion_max_virtual_size')
        check.assert_not_called()

    def test_time_for_measuring_is_an_option(self):
        self.conf.config(group='glance_dcn', conversion_measure_timeout=77)
        for operation in ('check', 'measure'):
            self.make(data=b'x' * MiB)
            called = mock.Mock(side_effect=OSError(5, 'no'))
            self.use_tool(**{operation: called})
            self.refused('qcow2', 'no')
            limits = called.call_args.args[-2]
            self.assertEqual((77, 77), (limits.seconds, limits.cpu))

    def test_space_for_every_output(self):
        for output in ('qcow2', 'vmdk'):
            self.conf.config(group='image_conversion', output_format=output)
            self.make('raw', os.urandom(3 * MiB))
            self.space(2 * MiB)
            self.refused('raw', 'bytes are missing')

    def test_what_is_measured_is_enough(self):
        limits, needs = [], []

        def note(image, target, output, limit, **kwargs):
            limits.append(limit)
            qemu_img.convert(image, target, output, limit, **kwargs)
        self.use_tool(convert=note)

        class Kind(conversion._ConvertImage):
            def _space(self, need):
                needs.append(need)
                return super()._space(need)
        self.kind = Kind
        for source, output in (('qcow2', 'raw'), ('vmdk', 'raw'),
                               ('raw', 'qcow2'), ('raw', 'vmdk')):
            self.conf.config(group='image_conversion', output_format=output)
            self.make(source, os.urandom(7 * MiB + 512), size=100 * MiB)
            path = self.run_flow(source)
            taken = os.stat(path)
            self.assertLessEqual(taken.st_blocks * 512, needs[-1] + CLUSTER)
            self.assertLessEqual(taken.st_size, limits[-1].size)
            self.assertLess(needs[-1], 9 * MiB)
            path.unlink()

    def test_options_reach_qemu_img(self):
        self.conf.config(group='glance_dcn', conversion_memory_limit=600,
                         conversion_cpu_limit=7, conversion_timeout=8,
                         conversion_max_output_size=3)
        self.make(data=b'x' * MiB)
        convert = mock.Mock(side_effect=OSError(5, 'broken'))
        self.use_tool(convert=convert)
        self.refused('qcow2', 'broken')
        self.assertEqual(
            qemu_img.Limits(memory=600 * MiB, cpu=7, seconds=8,
                            size=11 * MiB, space=3 * GiB),
            convert.call_args.args[3])

    def test_time_runs_out(self):
        self.make(data=os.urandom(9 * MiB))
        self.convert_within(qemu_img.Limits(seconds=-1))
        self.refused('qcow2', 'seconds')

    def test_output_grows_beyond_its_limit(self):
        self.make(data=os.urandom(9 * MiB))
        self.convert_within(qemu_img.Limits(size=MiB))
        self.refused('qcow2', 'qemu-img convert')

    def test_qemu_img_is_missing(self):
        self.make()
        self.useFixture(fixtures.EnvironmentVariable('PATH', '/nowhere'))
        self.refused('qcow2', 'No such file')

    def test_staged_file_is_missing(self):
        self.refused('qcow2', 'No such file')


class TestTask(ConversionTestCase):

    def messages(self):
        return [saved.message for saved in self.tasks.saves]

    def save_always(self):
        """Have the task saved whenever it might be."""
        self.given['clock'] = itertools.count(0, heartbeat.EVERY).__next__

    def test_phases_and_percent(self):
        self.save_always()
        self.make(data=os.urandom(9 * MiB))
        self.run_flow()
        messages = list(dict.fromkeys(self.messages()))
        self.assertEqual(
            ['Inspecting the image', 'Measuring the image',
             'Converting the image from qcow2 to raw: 0 %'], messages[:3])
        self.assertEqual('Inspecting the converted image', messages[-1])

    def test_percent(self):
        self.make()

        def convert(*args, progress, cancelled, in_order, described):
            for hundredth in range(0, 101, 25):
                progress(hundredth / 100)
                self.assertFalse(cancelled())
            self.target.touch()
        self.use_tool(convert=convert)
        self.given['clock'] = itertools.count(0, 6).__next__
        self.run_flow()
        percents = [message.partition(': ')[2] for message in self.messages()
                    if message.startswith('Converting')]
        # No more often than every ten seconds, on a clock that each look at
        # it moves by six.
        self.assertEqual(['0 %', '25 %', '75 %'], percents)

    def interrupted(self, change):
        """Let something happen while qemu-img works."""
        self.save_always()
        self.make(data=os.urandom(9 * MiB))

        def begin(*args, **kwargs):
            change()
            return qemu_img.convert(*args, **kwargs)
        self.use_tool(convert=begin)

    def test_ended_by_somebody(self):
        self.interrupted(lambda: setattr(self.tasks.entity, 'status',
                                         'failure'))
        self.assertRaises(exception.TaskAbortedError, self.run_flow)
        self.assertReverted('qcow2')

    def test_taken_over(self):
        # The other task works with the same staged file.
        self.interrupted(lambda: self.images.entity.extra_properties.update(
            os_glance_import_task='another'))
        self.assertRaises(exception.TaskAbortedError, self.run_flow)
        self.assertEqual([IMAGE], os.listdir(self.staging))
        self.assertEqual('importing', self.images.entity.status)

    def test_image_is_deleted(self):
        self.interrupted(lambda: setattr(self.images, 'entity', None))
        error = self.assertRaises(exception.UploadException, self.run_flow)
        self.assertIn('deleted', str(error))
        self.assertEqual([], os.listdir(self.staging))

    def test_image_cannot_be_saved(self):
        self.make(data=b'x' * MiB)
        save, broken = self.images.save, []

        def break_once(image, from_state=None):
            if image.size and not broken:
                broken.append(image)
                # The staged file is the only copy yet.
                self.assertTrue(self.source.exists())
                raise exception.Conflict('no')
            save(image)
        self.images.save = break_once
        self.assertRaises(exception.Conflict, self.run_flow)
        self.assertReverted('qcow2')
