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

import gzip
import io
import json
import lzma
import os
import pathlib
import shlex
import stat
import struct
import sys
import tempfile
import time
import unittest
from unittest import mock

from lab.bootimage import __main__ as command
from lab.bootimage import builder
from lab.bootimage import disk
from lab.bootimage import errors
from lab.bootimage import guest
from lab.bootimage import kernel
from lab.bootimage import programs
from lab.bootimage import ramdisk

MIB = disk.MIB


def unpack_cpio(data):
    """Read a newc archive.

    :param bytes data: the archive
    :returns dict: name to (fields, contents)
    """
    members = {}
    stream = io.BytesIO(data)
    while True:
        header = stream.read(110)
        assert header[:6] == b'070701', header
        fields = [int(header[at:at + 8], 16) for at in range(6, 110, 8)]
        name = stream.read(fields[11])
        assert name.endswith(b'\0')
        stream.seek(-stream.tell() % 4, os.SEEK_CUR)
        contents = stream.read(fields[6])
        assert len(contents) == fields[6]
        stream.seek(-stream.tell() % 4, os.SEEK_CUR)
        if name == b'TRAILER!!!\0':
            assert not stream.read().strip(b'\0')
            return members
        members[name[:-1].decode()] = (fields, contents)


def module(*depends):
    """Make something that names its dependencies like a kernel module.

    :param depends: module names
    :returns bytes: the module
    """
    return (b'\x7fELF..\0license=GPL\0depends=' +
            ','.join(depends).encode() + b'\0intree=Y\0')


class TempDirTestCase(unittest.TestCase):

    def setUp(self):
        super().setUp()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.dir = pathlib.Path(holder.name)


class TestCpio(unittest.TestCase):

    def test_members(self):
        entries = [ramdisk.CpioEntry('dev', 0o040755),
                   ramdisk.CpioEntry('dev/console', 0o020600, b'', (5, 1)),
                   ramdisk.CpioEntry('a', 0o100644, b'12345'),
                   ramdisk.CpioEntry('init', 0o100755, b'x' * 4096)]
        data = ramdisk.cpio(entries)
        self.assertEqual(0, len(data) % 512)
        self.assertEqual(data, ramdisk.cpio(entries))
        found = unpack_cpio(data)
        self.assertEqual(['dev', 'dev/console', 'a', 'init'], list(found))
        for entry in entries:
            fields, contents = found[entry.name]
            self.assertEqual(entry.mode, fields[1])
            self.assertEqual(entry.data, contents)
            self.assertEqual([0, 0, 0], [fields[at] for at in (2, 3, 5)])
        self.assertEqual([5, 1], found['dev/console'][0][9:11])
        self.assertEqual(4, len({fields[0] for fields, _ in found.values()}))

    def test_empty(self):
        self.assertEqual({}, unpack_cpio(ramdisk.cpio([])))

    def test_bad_names(self):
        for name in ('', '/init'):
            self.assertRaises(errors.BuildError, ramdisk.cpio,
                              [ramdisk.CpioEntry(name, 0o100644)])

    def test_initrd(self):
        packed = ramdisk.initrd(
            b'busybox', {'first': {'b': b'2', 'a': b'1'},
                         'other': {'c': b'3'}}, 'it is $(id) "up"', 'stamp 1')
        found = unpack_cpio(gzip.decompress(packed))
        self.assertEqual(b'it is $(id) "up"\n', found['etc/marker'][1])
        self.assertEqual(b'stamp 1\n', found['etc/stamp'][1])
        self.assertEqual(b'b\na\n', found['etc/modules.first'][1])
        self.assertEqual(b'c\n', found['etc/modules.other'][1])
        self.assertEqual(b'2', found['lib/modules/b.ko'][1])
        init = found['init'][1].decode()
        self.assertTrue(init.startswith('#!/bin/busybox sh\n'))
        self.assertIn('skip=%d ' % disk.STAMP_SECTOR, init)
        self.assertIn(ramdisk.FAILURE_MARKER, init)
        self.assertNotIn('@', init.replace('$@', ''))
        self.assertTrue(stat.S_ISCHR(found['dev/console'][0][1]))
        # Every member's directory comes before it.
        names = list(found)
        for name in names:
            parent = os.path.dirname(name)
            if parent:
                self.assertLess(names.index(parent), names.index(name))


class TestMbr(unittest.TestCase):

    def test_layout(self):
        record = disk.mbr(b'\xeb\xfe', MIB, 17 * MIB, 0x12345678)
        self.assertEqual(512, len(record))
        self.assertEqual(b'\xeb\xfe' + b'\0' * 438, record[:440])
        self.assertEqual(0x12345678, struct.unpack('<I', record[440:444])[0])
        self.assertEqual(b'\x55\xaa', record[510:])
        active, kind, start, count = struct.unpack(
            '<B3xB3xII', record[446:462])
        self.assertEqual((0x80, 0x0e, 2048, 34816),
                         (active, kind, start, count))
        self.assertEqual(b'\0' * 48, record[462:510])

    def test_bad(self):
        for arguments in ((b'x' * 441, MIB, MIB), (b'', 100, MIB),
                          (b'', MIB, 100), (b'', 0, MIB), (b'', MIB, 0)):
            self.assertRaises(errors.BuildError, disk.mbr,
                              *arguments, 0)


class TestKernelPieces(TempDirTestCase):

    def test_module_dependencies(self):
        self.assertEqual(['virtio_ring', 'virtio'],
                         kernel.module_dependencies(
                             module('virtio_ring', 'virtio')))
        self.assertEqual(['a_b'],
                         kernel.module_dependencies(module('a-b')))
        self.assertEqual([], kernel.module_dependencies(module()))
        self.assertEqual([], kernel.module_dependencies(b'nothing'))

    def test_collect_modules(self):
        for name, data in (
                ('drivers/virtio_blk.ko', module('virtio', 'virtio_ring')),
                ('drivers/virtio_ring.ko.xz',
                 lzma.compress(module('virtio'))),
                ('drivers/virtio.ko.gz', gzip.compress(module())),
                ('drivers/virtio-rng.ko', module('virtio', 'rng_core')),
                ('a.ko', module('b')), ('b.ko', module('a'))):
            path = self.dir / 'kernel' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        found = kernel.collect_modules(
            self.dir, ('virtio_blk', 'virtio_rng', 'built_in'))
        self.assertEqual(['virtio', 'virtio_ring', 'virtio_blk',
                          'virtio_rng'], list(found))
        self.assertEqual(module('virtio'), found['virtio_ring'])
        # A circle does not keep it from ending.
        self.assertEqual(['b', 'a'],
                         list(kernel.collect_modules(self.dir, ('a',))))

    def test_unreadable_module(self):
        (self.dir / 'sd_mod.ko.zst').write_bytes(b'')
        self.assertRaises(errors.BuildError, kernel.collect_modules,
                          self.dir, ('sd_mod',))

    def test_find_kernel(self):
        self.assertRaises(errors.BuildError, kernel.find_kernel,
                          self.dir)
        (self.dir / 'boot').mkdir()
        for release in ('6.1.0-9-cloud-amd64', '6.1.0-10-cloud-amd64',
                        '6.1.0-11-cloud-amd64'):
            (self.dir / 'boot' / ('vmlinuz-' + release)).touch()
        for release in ('6.1.0-9-cloud-amd64', '6.1.0-10-cloud-amd64'):
            (self.dir / 'usr/lib/modules' / release).mkdir(parents=True)
        release, vmlinuz, modules = kernel.find_kernel(self.dir)
        self.assertEqual('6.1.0-10-cloud-amd64', release)
        self.assertEqual('vmlinuz-' + release, vmlinuz.name)
        self.assertTrue(modules.is_dir())

    def test_kernel_name(self):
        run = mock.Mock(return_value=(
            'linux-image-cloud-amd64\n'
            '  Depends: linux-image-6.1.0-56-cloud-amd64\n'))
        self.assertEqual('linux-image-6.1.0-56-cloud-amd64',
                         kernel._kernel_name('x', run))
        run.return_value = ('linux-image-6.1.0-56-cloud-amd64\n'
                            '  Depends: kmod\n')
        self.assertEqual('x', kernel._kernel_name('x', run))
        run.side_effect = errors.BuildError('no')
        self.assertRaisesRegex(errors.BuildError, 'apt-get update',
                               kernel._kernel_name, 'x', run)

    def test_download_is_kept_and_a_broken_one_is_not(self):
        calls = []

        def run(command, cwd=None):
            calls.append(command[0])
            if command[0] == 'apt-get':
                (pathlib.Path(cwd) / 'k_1_amd64.deb').write_bytes(b'')
            if command[0] == 'dpkg-deb' and calls.count('dpkg-deb') == 2:
                raise errors.BuildError('broken')
            return ''

        for _ in range(2):
            try:
                kernel.download('k', self.dir, self.dir / 'tree', run)
            except errors.BuildError:
                self.assertEqual([], list(self.dir.iterdir()))
            else:
                self.assertEqual(['k_1_amd64.deb'], os.listdir(self.dir))
        self.assertEqual(['apt-cache', 'apt-get', 'dpkg-deb',
                          'apt-cache', 'dpkg-deb'], calls)

    def test_static_elf(self):
        def elf(*types):
            return (b'\x7fELF\x02'.ljust(32, b'\0') + struct.pack('<Q', 64) +
                    b'\0' * 14 + struct.pack('<HH', 56, len(types)) +
                    b'\0' * 6 + b''.join(
                        struct.pack('<I52x', kind) for kind in types))

        self.assertTrue(ramdisk.is_static_elf(elf(1, 1)))
        self.assertFalse(ramdisk.is_static_elf(elf(6, 3, 1)))
        self.assertFalse(ramdisk.is_static_elf(b'#!/bin/sh\n'))
        self.assertFalse(ramdisk.is_static_elf(b''))


class TestBuild(TempDirTestCase):

    def assert_refused(self, message, *args, **kwargs):
        with mock.patch.object(programs, 'run',
                               side_effect=AssertionError):
            self.assertRaisesRegex(errors.BuildError, message,
                                   builder.build, *args, **kwargs)
        self.assertEqual([], list(self.dir.iterdir()))

    def test_bad_markers(self):
        for marker in ('', ' x', 'x ', 'a\nb', 'caf\xe9', 'x' * 201, None, 3,
                       'glance-dcn', ramdisk.FAILURE_MARKER + '!'):
            self.assert_refused('marker', self.dir / 'i', marker=marker)

    def test_bad_sizes(self):
        for size in (0, -512, 513, 1.5, True, '64M', None, 2 ** 41):
            self.assert_refused('size', self.dir / 'i', virtual_size=size)

    def test_bad_output(self):
        self.assert_refused('is a directory', self.dir)
        self.assert_refused('no directory', self.dir / 'none' / 'i')
        self.assert_refused('format', self.dir / 'i', disk_format='vmdk')

    def test_too_small_a_disk(self):
        file = self.dir / 'f'
        file.write_bytes(b'')
        self.assertRaisesRegex(
            errors.BuildError, 'too small.*needs 17825792',
            disk.write, self.dir / 'raw', [file], 17 * MIB - 512,
            'stamp', 1)

    def test_failure_leaves_what_was_there(self):
        output = self.dir / 'i'
        output.write_text('before')
        self.assertRaisesRegex(
            errors.BuildError, 'no kernel', builder.build, output,
            work_dir=self.dir / 'w', kernel_tree=self.dir)
        self.assertEqual('before', output.read_text())
        self.assertEqual(['i', 'w'], sorted(os.listdir(self.dir)))
        self.assertEqual([], os.listdir(self.dir / 'w'))

    def test_programs(self):
        self.assertRaisesRegex(errors.BuildError, 'mtools',
                               programs.run, ['/nonexistent/mformat'])
        self.assertRaisesRegex(
            errors.BuildError, 'status 3: why',
            programs.run, [sys.executable, '-c',
                           'import sys; print("why"); sys.exit(3)'])

    def test_packages(self):
        self.assertIn('busybox-static', programs.PACKAGES)
        self.assertEqual(sorted(set(programs.PACKAGES)),
                         list(programs.PACKAGES))

    def test_command_line_reports_errors(self):
        with mock.patch('sys.stderr', new_callable=io.StringIO) as err:
            self.assertEqual(1, command.main(
                [str(self.dir / 'i'), '--size', '5']))
        self.assertIn('multiple of 512', err.getvalue())


class TestDrive(TempDirTestCase):

    def test_files(self):
        path = self.dir / 'a,b.img'
        for magic, driver in ((b'QFI\xfb', 'qcow2'), (b'\xeb\x63', 'raw'),
                              (b'', 'raw')):
            path.write_bytes(magic)
            for drive in (path, str(path)):
                self.assertEqual(
                    {'driver': driver, 'node-name': 'disk0',
                     'file': {'driver': 'file', 'filename': str(path)}},
                    json.loads(guest.block_device(drive)))

    def test_rbd(self):
        conf = self.dir / 'ceph.conf'
        conf.touch()
        drive = guest.rbd_drive('vms', 'disk', conf, 'glance')
        self.assertEqual(
            {'driver': 'rbd', 'pool': 'vms', 'image': 'disk',
             'conf': str(conf), 'user': 'glance', 'node-name': 'disk0'},
            json.loads(guest.block_device(drive)))
        self.assertNotIn('node-name', drive)
        drive = guest.rbd_drive('vms', 'disk', conf, snapshot='snap')
        self.assertTrue(drive['read-only'])
        self.assertNotIn('user', drive)

    def test_text(self):
        conf = self.dir / 'a,b.conf'
        conf.touch()
        text = 'driver=rbd,pool=vms,image=d,conf=%s' % str(conf).replace(
            ',', ',,')
        self.assertEqual(text + ',node-name=disk0',
                         guest.block_device(text))

    def test_bad(self):
        for drive in (self.dir, self.dir / 'none', '/none', {},
                      {'pool': 'vms'}, 'driver=', 'driver=rbd,pool=vms',
                      'driver=rbd,nonsense', 'driver=rbd,=x',
                      {'driver': 'raw', 'node-name': 'x'},
                      guest.rbd_drive('vms', 'd', '/none/ceph.conf')):
            self.assertRaises(errors.BootError, guest.block_device,
                              drive)

    def test_command(self):
        path = self.dir / 'i'
        path.touch()
        arguments = guest.command(path, 256 * MIB, 'qemu')
        self.assertEqual('qemu', arguments[0])
        self.assertEqual('256M', arguments[arguments.index('-m') + 1])
        self.assertEqual('tcg', arguments[arguments.index('-accel') + 1])
        self.assertIn('-no-reboot', arguments)
        for memory in (0, 63 * MIB, 100 * MIB + 1):
            self.assertRaises(errors.BootError, guest.command, path,
                              memory)


class TestBoot(TempDirTestCase):
    """Boots a script in QEMU's place."""

    def setUp(self):
        super().setUp()
        self.disk = self.dir / 'disk'
        self.disk.touch()
        self.qemu = self.dir / 'qemu'
        self.pid = self.dir / 'pid'

    def boot(self, script, **kwargs):
        # A Python in the shell's place keeps the process id.
        program = self.dir / 'program.py'
        program.write_text(
            'import os, sys, time\n'
            'open(%r, "w").write(str(os.getpid()))\n'
            'def say(text):\n'
            '    sys.stdout.write(text)\n'
            '    sys.stdout.flush()\n' % str(self.pid) + script)
        self.qemu.write_text('#!/bin/sh\nexec %s -S %s\n' % (
            shlex.quote(sys.executable), shlex.quote(str(program))))
        self.qemu.chmod(0o755)
        kwargs.setdefault('timeout', 30)
        try:
            return guest.boot(self.disk, 'it is up',
                              qemu=str(self.qemu), **kwargs)
        finally:
            if self.pid.exists():
                self.assertRaises(ProcessLookupError, os.kill,
                                  int(self.pid.read_text()), 0)

    def test_marker(self):
        lines = []
        log = self.dir / 'log'
        seen = self.boot('say("one\\r\\ntwo ")\n'
                         'time.sleep(.05)\n'
                         'say("2\\r\\nit is")\n'
                         'time.sleep(.05)\n'
                         'say(" up")\n'
                         'time.sleep(.05)\n'
                         'say(": 6.1\\r\\n")\n'
                         'time.sleep(60)\n',
                         on_line=lines.append, log_path=log)
        self.assertEqual('one\ntwo 2\nit is up: 6.1\n', seen.console)
        self.assertEqual(['one', 'two 2', 'it is up: 6.1'], lines)
        self.assertEqual(b'one\r\ntwo 2\r\nit is up: 6.1\r\n',
                         log.read_bytes())
        self.assertLess(0, seen.seconds)
        self.assertLess(seen.seconds, 30)

    def test_prompt(self):
        seen = self.boot('say("hello\\nit is up ")\ntime.sleep(60)\n')
        self.assertTrue(seen.console.endswith('it is up '))

    def test_marker_at_the_very_end(self):
        self.assertEqual('it is up', self.boot('say("it is up")\n').console)

    def test_timeout(self):
        with self.assertRaises(errors.BootTimeout) as caught:
            self.boot('say("GRUB\\nthe last line")\ntime.sleep(60)\n',
                      timeout=1)
        self.assertIn('within 1 seconds', str(caught.exception))
        self.assertIn('    the last line', str(caught.exception))
        self.assertEqual('GRUB\nthe last line', caught.exception.console)

    def test_silence(self):
        self.assertRaisesRegex(errors.BootTimeout, 'nothing was printed',
                               self.boot, 'time.sleep(60)\n', timeout=1)

    def test_early_end(self):
        self.assertRaisesRegex(
            errors.BootError, 'status 7(?s:.*)error connecting',
            self.boot, 'sys.stderr.write("error connecting\\n")\n'
                       'sys.stderr.flush()\nos._exit(7)\n')

    def test_guest_without_disk(self):
        started = time.monotonic()
        self.assertRaisesRegex(
            errors.BootError, 'saw no boot disk(?s:.*)devices: sr0',
            self.boot, 'say("%s; devices: sr0\\nit is up\\n")\n'
                       'time.sleep(60)\n' % ramdisk.FAILURE_MARKER)
        self.assertLess(time.monotonic() - started, 30)

    def test_callback_that_fails(self):
        def fail(line):
            raise ValueError(line)

        self.assertRaisesRegex(ValueError, 'one', self.boot,
                               'say("one\\n")\ntime.sleep(60)\n',
                               on_line=fail)

    def test_bad_input(self):
        self.assertRaisesRegex(errors.BootError, 'is missing',
                               guest.boot, self.disk,
                               qemu='/nonexistent/qemu')
        self.assertRaises(errors.BootError, guest.boot, self.disk, '')
        self.assertRaises(errors.BootError, guest.boot, self.disk,
                          timeout=0)

    def test_tail(self):
        text = '\n\n'.join('line %d' % number for number in range(50))
        tail = errors.console_tail(text, 2)
        self.assertTrue(tail.endswith('\n    line 48\n    line 49'))
        self.assertNotIn('line 47', tail)
