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


"""Building a disk image that boots."""

import hashlib
import os
import pathlib
import re
import shutil
import tempfile
import time
import typing

from lab.bootimage import disk
from lab.bootimage import errors
from lab.bootimage import kernel
from lab.bootimage import programs
from lab.bootimage import ramdisk

#: What the guest prints once it has found its disk.
DEFAULT_MARKER = 'glance-dcn boot ok'
DEFAULT_SIZE = 64 * disk.MIB
# panic=-1 restarts at once, which -no-reboot turns into the end of QEMU.
COMMAND_LINE = 'console=ttyS0 panic=-1 mitigations=off'
# Loaded in this order, each after what it depends on. The second group is
# tried only when the first has shown no disk.
_FIRST_MODULES = ('virtio_pci', 'virtio_blk')
_OTHER_MODULES = ('virtio_scsi', 'ata_piix', 'sd_mod')
_BUSYBOX = ('/bin/busybox', '/usr/bin/busybox')


class BuildResult(typing.NamedTuple):
    """What :func:`build` made.

    :ivar str path: the image file
    :ivar str kernel: release of the kernel in it
    :ivar int virtual_size: bytes that the guest sees
    :ivar int file_size: bytes of the file
    :ivar int data_size: bytes the file takes on disk
    :ivar str marker: what the guest prints
    :ivar float seconds: how long it took
    """

    path: str
    kernel: str
    virtual_size: int
    file_size: int
    data_size: int
    marker: str
    seconds: float


def check_marker(marker):
    """Refuse a marker that the console could not show as it is.

    :param str marker: printable ASCII, 1 to 200 characters, no space at
              either end
    :returns str: the marker
    """
    if not isinstance(marker, str) or not 1 <= len(marker) <= 200:
        raise errors.BuildError('the marker must be a text of 1 to 200 '
                                'characters')
    if marker != marker.strip() or not re.fullmatch('[ -~]+', marker):
        raise errors.BuildError('the marker must be printable ASCII without '
                                'spaces around it: %r' % marker)
    if marker in ramdisk.FAILURE_MARKER or ramdisk.FAILURE_MARKER in marker:
        raise errors.BuildError('the marker %r is part of what the guest says '
                                'when it fails' % marker)
    return marker


def _build_in(work, kernel_tree, target, marker, size, disk_format):
    """Build the image inside a work directory; see :func:`build`.

    :param pathlib.Path work: an empty directory
    :param pathlib.Path target: the image
    :returns str: the kernel's release
    """
    release, vmlinuz, directory = kernel.find_kernel(kernel_tree)
    busybox = programs.first_existing(_BUSYBOX, 'busybox-static').read_bytes()
    if not ramdisk.is_static_elf(busybox):
        raise errors.BuildError('busybox needs shared libraries; install the '
                                'package busybox-static')
    first = kernel.collect_modules(directory, _FIRST_MODULES)
    other = kernel.collect_modules(directory, _OTHER_MODULES)
    modules = {'first': first, 'other': {
        name: data for name, data in other.items() if name not in first}}

    # The stamp covers all that goes into the image but itself.
    digest = hashlib.sha256(vmlinuz.read_bytes())
    digest.update(ramdisk.initrd(busybox, modules, marker, ''))
    stamp = 'glance-dcn disk ' + digest.hexdigest()

    boot_files = work / 'boot'
    boot_files.mkdir()
    shutil.copyfile(vmlinuz, boot_files / 'vmlinuz')
    (boot_files / 'initrd.img').write_bytes(
        ramdisk.initrd(busybox, modules, marker, stamp))
    (boot_files / 'syslinux.cfg').write_text(
        'DEFAULT dcn\nPROMPT 0\nLABEL dcn\n  KERNEL /vmlinuz\n'
        '  INITRD /initrd.img\n  APPEND %s\n' % COMMAND_LINE)
    files = sorted(boot_files.iterdir())
    for path in files:
        os.utime(path, (disk.FILE_TIME, disk.FILE_TIME))

    raw = work / 'disk.raw'
    disk.write(raw, files, size, stamp, int.from_bytes(
        digest.digest()[:4], 'big'))
    programs.run(['qemu-img', 'convert', '-f', 'raw', '-O', disk_format,
                  str(raw), str(target)])
    return release


def build(output_path, work_dir=None, marker=DEFAULT_MARKER,
          virtual_size=DEFAULT_SIZE, disk_format='qcow2', kernel_tree=None,
          kernel_package=kernel.KERNEL_PACKAGE):
    """Build a disk image that boots and says so on its serial console.

    The image is put in place as a whole: an image that was there before is
    replaced, and is left alone if this fails.

    :param output_path: file to write (str or path)
    :param work_dir: directory for intermediate files (str or path), made if
              needed; about 200 MiB for the time of the build. Only the
              kernel's package stays in it, and is not downloaded a second
              time. None: a temporary directory, of which nothing stays.
    :param str marker: what the guest prints, followed by the kernel's
              release and the disk's size
    :param int virtual_size: bytes of the guest's disk
    :param str disk_format: "qcow2" or "raw"
    :param kernel_tree: directory with boot/ and lib/modules/ of a kernel to
              use instead of downloading one; "/" for the host's own
    :param str kernel_package: Debian package of the kernel to download
    :returns BuildResult: sizes in bytes, time in seconds
    :raises BuildError: when the image could not be built
    """
    started = time.monotonic()
    check_marker(marker)
    disk.check_size(virtual_size)
    if disk_format not in ('qcow2', 'raw'):
        raise errors.BuildError('unknown disk format %r' % (disk_format,))
    output = pathlib.Path(output_path).absolute()
    if output.is_dir():
        raise errors.BuildError('%s is a directory' % output)
    if not output.parent.is_dir():
        raise errors.BuildError('there is no directory %s' % output.parent)
    if work_dir is not None:
        pathlib.Path(work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            prefix='dcn-bootimage-', dir=work_dir) as scratch:
        work = pathlib.Path(scratch).absolute()
        if kernel_tree is None:
            kernel_tree = work / 'kernel'
            kernel.download(kernel_package,
                            pathlib.Path(work_dir or work).absolute(),
                            kernel_tree)
        # Next to the output, so that it can be moved there in one step.
        with tempfile.TemporaryDirectory(
                prefix='.dcn-bootimage-', dir=output.parent) as near:
            target = pathlib.Path(near) / 'image'
            release = _build_in(work, kernel_tree, target, marker,
                                virtual_size, disk_format)
            os.replace(target, output)
    status = output.stat()
    return BuildResult(str(output), release, virtual_size, status.st_size,
                       status.st_blocks * 512, marker,
                       time.monotonic() - started)
