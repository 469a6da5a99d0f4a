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

"""A small disk image that really boots, and a way to see it boot.

:func:`build` makes a disk out of the distribution's own kernel and busybox:
an MBR, one FAT partition that syslinux boots from, and an initial ram disk
whose ``/init`` looks for the disk it came from, tells the serial console
what it found and offers a login prompt. No root rights, loop devices or
mounts are needed, and nothing is installed: the kernel package is only
downloaded and unpacked.

:func:`boot` starts such a disk, from a file or straight from a Ceph pool, in
a QEMU without hardware acceleration and waits for the marker on the console.
The guest never writes to its disk, so an image is the same bytes after it
was booted as before.

The guest's console is open to whoever can reach it: it takes any login name
and asks for no password. The image is for laboratories only.
"""

import argparse
import codecs
import contextlib
import gzip
import hashlib
import json
import logging
import lzma
import os
import pathlib
import re
import selectors
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
import typing

LOG = logging.getLogger(__name__)

#: Debian packages needed to build an image.
BUILD_PACKAGES = ('busybox-static', 'mtools', 'qemu-utils', 'syslinux')
#: Debian packages needed to boot one (qemu-block-extra: from a Ceph pool).
BOOT_PACKAGES = ('qemu-block-extra', 'qemu-system-x86')
#: Everything this module needs on the host. The kernel is not among them.
PACKAGES = tuple(sorted(BUILD_PACKAGES + BOOT_PACKAGES))

#: The kernel: a metapackage that depends on the current release.
KERNEL_PACKAGE = 'linux-image-cloud-amd64'
#: What the guest prints once it has found its disk.
DEFAULT_MARKER = 'glance-dcn boot ok'
#: What it prints instead when it has not.
FAILURE_MARKER = 'glance-dcn: no boot disk found'

MIB = 1024 * 1024
DEFAULT_SIZE = 64 * MIB
DEFAULT_MEMORY = 256 * MIB
DEFAULT_TIMEOUT = 120.0

SECTOR = 512
PARTITION_START = MIB
STAMP_SECTOR = 2
_PARTITION_SLACK = 2 * MIB
_PARTITION_MINIMUM = 16 * MIB
_TAIL_LINES = 25
# Of the files in the partition: 2 January 1980, as FAT knows nothing older
# than the first. Seconds since 1970.
_FILE_TIME = 315619200
# How long a console must be silent for its last line to be a prompt.
_PROMPT_SECONDS = 0.5
# QEMU's name for the guest's disk.
_NODE = 'disk0'

# panic=-1 restarts at once, which -no-reboot turns into the end of QEMU.
COMMAND_LINE = 'console=ttyS0 panic=-1 mitigations=off'

# Loaded in this order, each after what it depends on. The second group is
# tried only when the first has shown no disk.
_FIRST_MODULES = ('virtio_pci', 'virtio_blk')
_OTHER_MODULES = ('virtio_scsi', 'ata_piix', 'sd_mod')

_MBR_CODE = ('/usr/lib/SYSLINUX/mbr.bin',
             '/usr/lib/syslinux/mbr/mbr.bin',
             '/usr/lib/syslinux/bios/mbr.bin')
_BUSYBOX = ('/bin/busybox', '/usr/bin/busybox')

_INIT = r'''#!/bin/busybox sh
# The first process of the guest.
export PATH=/bin
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
exec </dev/console >/dev/console 2>&1
hostname dcn

load() {
    for name in $(cat /etc/modules."$1"); do
        insmod "/lib/modules/$name.ko" ||
            echo "module $name was not loaded" >&2
    done
}

# The boot disk is the one that carries this image's stamp.
find_disk() {
    for disk in /sys/block/*; do
        name=${disk##*/}
        case $name in vd*|sd*|nvme*|xvd*) ;; *) continue ;; esac
        [ "$(cat "$disk/size")" != 0 ] || continue
        [ -b "/dev/$name" ] || continue
        found=$(dd if="/dev/$name" bs=512 skip=@STAMP@ count=1 2>/dev/null |
                head -n 1)
        [ "$found" = "$(cat /etc/stamp)" ] && return 0
    done
    return 1
}

# Devices appear some time after their driver.
wait_disk() {
    tries=$1
    while [ "$tries" -gt 0 ]; do
        find_disk && return 0
        tries=$((tries - 1))
        usleep 200000
    done
    return 1
}

load first
# The kernel's messages shall not cut the following lines in two.
dmesg -n 1
if wait_disk 10 || { load other; wait_disk 50; }; then
    size=$(($(cat "/sys/block/$name/size") * 512))
    echo
    echo "$(cat /etc/marker): $(uname -r) root disk /dev/$name $size bytes"
else
    echo
    echo '@FAILURE@; block devices:' $(ls /sys/block)
fi
while :; do
    printf '\ndcn login: '
    read -r user || { sleep 1; continue; }
    [ -n "$user" ] || continue
    echo "No password on this image. 'exit' leaves, 'poweroff -f' stops."
    USER=$user HOME=/root setsid cttyhack sh
done
'''


class BootImageError(Exception):
    """Something about the boot image went wrong."""


class BuildError(BootImageError):
    """The image could not be built."""


class BootError(BootImageError):
    """The guest did not come up.

    :ivar str console: everything read from the console before the failure
    """

    def __init__(self, message, console=''):
        super().__init__(message + console_tail(console))
        self.console = console


class BootTimeout(BootError):
    """The marker did not appear in time."""


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


class BootResult(typing.NamedTuple):
    """What :func:`boot` saw.

    :ivar str console: the console's text up to the end of the marker's
         line, at least
    :ivar float seconds: from the start of QEMU to the marker
    """

    console: str
    seconds: float


def console_tail(text, lines=_TAIL_LINES):
    """Format the end of a console's text for an error message.

    :param str text: console text
    :param int lines: how many lines to keep
    :returns str: the last lines, indented and led by a heading; for a
              silent console a remark that it was silent
    """
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    if not kept:
        return '\n  (nothing was printed on the console)'
    return '\n  the console ended with:\n' + '\n'.join(
        '    ' + line for line in kept[-lines:])


def _run(command, cwd=None, **environment):
    """Run one program to its end.

    :param list command: argument list
    :param cwd: directory to run it in (str or path)
    :param environment: further environment variables (str)
    :returns str: what the program printed
    :raises BuildError: when it is missing or failed
    """
    LOG.debug('running %s', command)
    try:
        return subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors='replace', cwd=cwd,
            env=dict(os.environ, LC_ALL='C', **environment)).stdout
    except FileNotFoundError as exc:
        raise BuildError('%s is missing; packages needed: %s' % (
            command[0], ' '.join(BUILD_PACKAGES))) from exc
    except subprocess.CalledProcessError as exc:
        raise BuildError('%s failed with status %d: %s' % (
            ' '.join(command), exc.returncode,
            (exc.stderr or exc.stdout).strip()[-2000:])) from exc


def _first_existing(paths, package):
    """Find a file that a package supplies.

    :param paths: candidates, the preferred first
    :param str package: the package to name if there is none
    :returns pathlib.Path: the first that exists
    """
    for path in map(pathlib.Path, paths):
        if path.is_file():
            return path
    raise BuildError('none of %s exists; install the package %s' % (
        ', '.join(paths), package))


# -- Pieces of the disk ------------------------------------------------------


def check_marker(marker):
    """Refuse a marker that the console could not show as it is.

    :param str marker: printable ASCII, 1 to 200 characters, no space at
              either end
    :returns str: the marker
    """
    if not isinstance(marker, str) or not 1 <= len(marker) <= 200:
        raise BuildError('the marker must be a text of 1 to 200 characters')
    if marker != marker.strip() or not re.fullmatch('[ -~]+', marker):
        raise BuildError('the marker must be printable ASCII without '
                         'spaces around it: %r' % marker)
    if marker in FAILURE_MARKER or FAILURE_MARKER in marker:
        raise BuildError('the marker %r is part of what the guest says when '
                         'it fails' % marker)
    return marker


def check_size(size):
    """Refuse a disk size that no disk can have.

    :param int size: bytes
    :returns int: the size
    """
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise BuildError('the disk size must be a positive number of bytes, '
                         'not %r' % (size,))
    if size % SECTOR:
        raise BuildError('the disk size %d is not a multiple of %d bytes' % (
            size, SECTOR))
    if size // SECTOR > 0xffffffff:
        raise BuildError('the disk size %d is more than an MBR can '
                         'describe' % size)
    return size


def mbr(code, start, length, signature):
    """Make a master boot record with one active FAT partition.

    :param bytes code: boot code, at most 440 bytes
    :param int start: first byte of the partition, a multiple of 512
    :param int length: bytes of the partition, a multiple of 512
    :param int signature: 32 bits that tell this disk from others
    :returns bytes: 512 bytes
    """
    if len(code) > 440:
        raise BuildError('the boot code has %d bytes, more than 440' %
                         len(code))
    if start % SECTOR or length % SECTOR or start <= 0 or length <= 0:
        raise BuildError('partition %d+%d is not made of sectors' % (
            start, length))
    # Cylinders, heads and sectors are at their limits: use the LBA fields.
    limit = b'\xfe\xff\xff'
    entry = struct.pack('<B3sB3sII', 0x80, limit, 0x0e, limit,
                        start // SECTOR, length // SECTOR)
    return b''.join((code.ljust(440, b'\0'),
                     struct.pack('<IH', signature, 0),
                     entry.ljust(64, b'\0'), b'\x55\xaa'))


class CpioEntry(typing.NamedTuple):
    """One member of an initial ram disk.

    :ivar str name: path without a leading slash
    :ivar int mode: file type and permissions, as of ``st_mode``
    :ivar bytes data: contents; the target of a symbolic link
    :ivar tuple device: major and minor number of a device node
    """

    name: str
    mode: int
    data: bytes = b''
    device: tuple = (0, 0)


def cpio(entries):
    """Write a cpio archive in the "newc" format that Linux unpacks.

    Owners and times are zero, so that the same members make the same bytes.

    :param entries: :class:`CpioEntry` items, directories before their members
    :returns bytes: the archive
    """
    parts = []

    def add(entry, inode):
        if not entry.name or entry.name.startswith('/'):
            raise BuildError('bad name in an archive: %r' % entry.name)
        name = os.fsencode(entry.name) + b'\0'
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        header = b'070701' + b''.join(b'%08X' % field for field in (
            inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0,
            entry.device[0], entry.device[1], len(name), 0))
        for part in (header + name, entry.data):
            parts.append(part + b'\0' * (-len(part) % 4))

    for number, entry in enumerate(entries, 1):
        add(entry, number)
    add(CpioEntry('TRAILER!!!', 0), 0)
    archive = b''.join(parts)
    return archive + b'\0' * (-len(archive) % SECTOR)


def is_static_elf(data):
    """Tell whether a program can run without shared libraries.

    :param bytes data: the program
    :returns bool: True for a 64-bit ELF file that names no interpreter
    """
    if data[:5] != b'\x7fELF\x02' or len(data) < 64:
        return False
    offset, = struct.unpack_from('<Q', data, 32)
    size, count = struct.unpack_from('<HH', data, 54)
    return not any(
        struct.unpack_from('<I', data, offset + number * size)[0] == 3
        for number in range(count))


def read_module(path):
    """Read a kernel module, compressed or not.

    :param pathlib.Path path: a .ko, .ko.xz or .ko.gz file
    :returns bytes: the plain module
    """
    data = path.read_bytes()
    if path.suffix == '.xz':
        return lzma.decompress(data)
    if path.suffix == '.gz':
        return gzip.decompress(data)
    if path.suffix != '.ko':
        raise BuildError('cannot read the kernel module %s' % path)
    return data


def module_dependencies(data):
    """List the modules that a kernel module says it needs.

    :param bytes data: the plain module
    :returns list: names, with underscores
    """
    found = re.search(rb'\0depends=([^\0]*)\0', b'\0' + data)
    names = found.group(1).decode('ascii') if found else ''
    return [name.replace('-', '_') for name in names.split(',') if name]


def collect_modules(directory, wanted):
    """Read modules and all they depend on.

    What is built into the kernel, or unknown to it, is left out: a kernel
    may have either form of a driver, or do without it.

    :param pathlib.Path directory: lib/modules/RELEASE of a kernel package
    :param wanted: module names, with underscores
    :returns dict: name to plain module (bytes), dependencies first
    """
    files = {}
    for path in sorted(directory.rglob('*.ko*')):
        files[path.name.split('.')[0].replace('-', '_')] = path
    modules = {}

    def add(name, chain):
        if name in modules or name in chain:
            return
        if name not in files:
            LOG.debug('%s is no module of %s', name, directory.name)
            return
        data = read_module(files[name])
        for other in module_dependencies(data):
            add(other, chain + (name,))
        modules[name] = data

    for name in wanted:
        add(name, ())
    return modules


# -- The kernel --------------------------------------------------------------


def _kernel_name(package):
    """Follow a kernel metapackage to the package that holds the kernel.

    :param str package: a Debian package name
    :returns str: a Debian package name
    """
    try:
        listing = _run(['apt-cache', 'depends', package])
    except BuildError as exc:
        raise BuildError('apt does not know the package %s; is apt-get '
                         'update needed? %s' % (package, exc)) from exc
    for line in listing.splitlines():
        key, _, value = line.strip().partition(': ')
        if key == 'Depends' and value.startswith('linux-image-'):
            return value
    return package


def _download_kernel(package, work, tree):
    """Fetch the kernel's package and unpack it.

    :param str package: a Debian package name
    :param pathlib.Path work: where to put it; a package found there from an
              earlier call is used again
    :param pathlib.Path tree: directory to unpack it to
    """
    name = _kernel_name(package)
    found = sorted(work.glob(name + '_*.deb'),
                   key=lambda path: path.stat().st_mtime)
    if found:
        deb = found[-1]
        LOG.info('using %s', deb)
    else:
        with tempfile.TemporaryDirectory(dir=work) as part:
            # The sandbox user may not write here: without this option apt
            # warns about that.
            try:
                _run(['apt-get', '-q', '-o', 'APT::Sandbox::User=root',
                      'download', name], cwd=part)
            except BuildError as exc:
                raise BuildError('cannot download the kernel; is apt-get '
                                 'update needed? %s' % exc) from exc
            fetched = sorted(pathlib.Path(part).glob('*.deb'))
            if not fetched:
                raise BuildError('apt-get download %s left no file' % name)
            deb = fetched[0].rename(work / fetched[0].name)
    try:
        _run(['dpkg-deb', '-x', str(deb), str(tree)])
    except BuildError:
        deb.unlink()
        raise


def find_kernel(tree):
    """Find the kernel and its modules in an unpacked package.

    :param pathlib.Path tree: a directory with boot/ and lib/modules/
    :returns tuple: release (str), kernel file and module directory (both
              pathlib.Path); the newest if there are several
    """
    kernels = sorted(
        pathlib.Path(tree).glob('boot/vmlinuz-*'),
        key=lambda path: [int(part) if part.isdigit() else 0
                          for part in re.split(r'\D+', path.name)])
    for kernel in reversed(kernels):
        release = kernel.name[len('vmlinuz-'):]
        for lib in ('lib', 'usr/lib'):
            modules = pathlib.Path(tree) / lib / 'modules' / release
            if modules.is_dir():
                return release, kernel, modules
    raise BuildError('no kernel with its modules under %s' % tree)


# -- Building ----------------------------------------------------------------


def initrd(busybox, modules, marker, stamp):
    """Make the guest's initial ram disk.

    :param bytes busybox: the busybox program, linked statically
    :param dict modules: "first" and "other", each a dict of module name to
              plain module, in loading order
    :param str marker: what the guest prints
    :param str stamp: one line that the boot disk carries
    :returns bytes: a compressed archive
    """
    init = _INIT.replace('@STAMP@', str(STAMP_SECTOR)).replace(
        '@FAILURE@', FAILURE_MARKER)
    directory, plain, program = 0o040755, 0o100644, 0o100755
    entries = [CpioEntry(name, directory) for name in (
        'bin', 'dev', 'etc', 'lib', 'lib/modules', 'proc', 'root', 'sys',
        'tmp')]
    entries += [
        CpioEntry('dev/console', 0o020600, b'', (5, 1)),
        CpioEntry('dev/null', 0o020666, b'', (1, 3)),
        CpioEntry('bin/busybox', program, busybox),
        CpioEntry('init', program, init.encode('ascii')),
        CpioEntry('etc/marker', plain, marker.encode('ascii') + b'\n'),
        CpioEntry('etc/stamp', plain, stamp.encode('ascii') + b'\n'),
    ]
    for group in ('first', 'other'):
        names = ''.join(name + '\n' for name in modules[group])
        entries.append(CpioEntry('etc/modules.' + group, plain,
                                 names.encode('ascii')))
        entries += [CpioEntry('lib/modules/%s.ko' % name, plain, data)
                    for name, data in modules[group].items()]
    return gzip.compress(cpio(entries), compresslevel=6, mtime=0)


def _write_disk(raw, files, size, stamp, identity):
    """Make the raw disk.

    :param pathlib.Path raw: file to write, sparse
    :param files: the files for the partition (pathlib.Path)
    :param int size: bytes of the disk
    :param str stamp: one line to carry
    :param int identity: 32 bits for the disk's and the volume's number
    """
    length = sum(path.stat().st_size for path in files) + _PARTITION_SLACK
    length = max(_PARTITION_MINIMUM, -(-length // MIB) * MIB)
    if PARTITION_START + length > size:
        raise BuildError('a disk of %d bytes is too small: the boot '
                         'partition needs %d' % (
                             size, PARTITION_START + length))
    code = _first_existing(_MBR_CODE, 'syslinux').read_bytes()
    with open(raw, 'wb') as disk:
        disk.truncate(size)
        disk.write(mbr(code, PARTITION_START, length, identity))
        disk.seek(STAMP_SECTOR * SECTOR)
        disk.write((stamp + '\n').encode('ascii').ljust(SECTOR, b'\0'))
    # No settings of the user's, and the times of files as they are given.
    environment = {'TZ': 'UTC', 'MTOOLSRC': '/dev/null',
                   'SOURCE_DATE_EPOCH': str(_FILE_TIME)}
    where = '%s@@%d' % (raw, PARTITION_START)
    _run(['mformat', '-i', where, '-T', str(length // SECTOR),
          '-h', '255', '-s', '63', '-H', str(PARTITION_START // SECTOR),
          '-N', '%08x' % identity, '-v', 'DCNBOOT', '::'],
         **environment)
    _run(['mcopy', '-i', where, '-m'] + [str(path) for path in files] +
         ['::/'], **environment)
    _run(['syslinux', '--install', '--offset', str(PARTITION_START),
          str(raw)], **environment)


def _build_in(work, kernel_tree, target, marker, size, disk_format):
    """Build the image inside a work directory; see :func:`build`.

    :param pathlib.Path work: an empty directory
    :param pathlib.Path target: the image
    :returns str: the kernel's release
    """
    release, kernel, directory = find_kernel(kernel_tree)
    busybox = _first_existing(_BUSYBOX, 'busybox-static').read_bytes()
    if not is_static_elf(busybox):
        raise BuildError('busybox needs shared libraries; install the '
                         'package busybox-static')
    first = collect_modules(directory, _FIRST_MODULES)
    other = collect_modules(directory, _OTHER_MODULES)
    modules = {'first': first, 'other': {
        name: data for name, data in other.items() if name not in first}}

    # The stamp covers all that goes into the image but itself.
    digest = hashlib.sha256(kernel.read_bytes())
    digest.update(initrd(busybox, modules, marker, ''))
    stamp = 'glance-dcn disk ' + digest.hexdigest()

    boot_files = work / 'boot'
    boot_files.mkdir()
    shutil.copyfile(kernel, boot_files / 'vmlinuz')
    (boot_files / 'initrd.img').write_bytes(
        initrd(busybox, modules, marker, stamp))
    (boot_files / 'syslinux.cfg').write_text(
        'DEFAULT dcn\nPROMPT 0\nLABEL dcn\n  KERNEL /vmlinuz\n'
        '  INITRD /initrd.img\n  APPEND %s\n' % COMMAND_LINE)
    files = sorted(boot_files.iterdir())
    for path in files:
        os.utime(path, (_FILE_TIME, _FILE_TIME))

    raw = work / 'disk.raw'
    _write_disk(raw, files, size, stamp, int.from_bytes(
        digest.digest()[:4], 'big'))
    _run(['qemu-img', 'convert', '-f', 'raw', '-O', disk_format,
          str(raw), str(target)])
    return release


def build(output_path, work_dir=None, marker=DEFAULT_MARKER,
          virtual_size=DEFAULT_SIZE, disk_format='qcow2', kernel_tree=None,
          kernel_package=KERNEL_PACKAGE):
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
    check_size(virtual_size)
    if disk_format not in ('qcow2', 'raw'):
        raise BuildError('unknown disk format %r' % (disk_format,))
    output = pathlib.Path(output_path).absolute()
    if output.is_dir():
        raise BuildError('%s is a directory' % output)
    if not output.parent.is_dir():
        raise BuildError('there is no directory %s' % output.parent)
    if work_dir is not None:
        pathlib.Path(work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            prefix='dcn-bootimage-', dir=work_dir) as scratch:
        work = pathlib.Path(scratch).absolute()
        if kernel_tree is None:
            kernel_tree = work / 'kernel'
            _download_kernel(kernel_package,
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


# -- Booting -----------------------------------------------------------------


def rbd_drive(pool, image, conf, user=None, snapshot=None):
    """Describe a disk in a Ceph pool, for :func:`boot`.

    :param str pool: pool name
    :param str image: RBD image name
    :param str conf: the cluster's configuration file, which also says where
              the keyring is
    :param str user: Ceph user without the leading "client."
    :param str snapshot: boot this snapshot, read-only
    :returns dict: a QEMU block device
    """
    drive = {'driver': 'rbd', 'pool': pool, 'image': image,
             'conf': str(conf)}
    if user is not None:
        drive['user'] = user
    if snapshot is not None:
        drive.update({'snapshot': snapshot, 'read-only': True})
    return drive


def _parse_drive(text):
    """Read a drive given as QEMU's ``key=value,...`` text.

    :param str text: the drive; a comma within a value is written twice
    :returns dict: its properties, all of them texts
    """
    properties = {}
    for item in re.split(r'(?<!,),(?!,)', text):
        key, equals, value = item.partition('=')
        if not equals or not key:
            raise BootError('bad drive %r: no value in %r' % (text, item))
        properties[key] = value.replace(',,', ',')
    return properties


def _check_drive(properties):
    """Refuse a drive that QEMU could make nothing of.

    :param dict properties: of a QEMU block device
    """
    if not properties.get('driver'):
        raise BootError('a drive without a driver: %r' % (properties,))
    if 'node-name' in properties:
        raise BootError('the node name is not for the caller to choose')
    if properties['driver'] != 'rbd':
        return
    missing = {'pool', 'image'}.difference(properties)
    if missing:
        raise BootError('an RBD drive lacks %s' % ', '.join(sorted(missing)))
    conf = properties.get('conf')
    if conf is not None and not os.path.isfile(conf):
        raise BootError('there is no Ceph configuration %s' % conf)


def block_device(drive):
    """Make the value of QEMU's -blockdev for a drive.

    :param drive: path of a raw or qcow2 file; or the properties of a QEMU
              block device, as a dict such as of :func:`rbd_drive`, or as a
              text ``driver=...,key=value``
    :returns str: a block device named "disk0"; a file that may not be
              written is read-only
    """
    if isinstance(drive, str) and drive.startswith('driver='):
        _check_drive(_parse_drive(drive))
        return drive + ',node-name=' + _NODE
    if isinstance(drive, dict):
        _check_drive(drive)
        node = dict(drive)
    else:
        path = pathlib.Path(drive).absolute()
        if not path.is_file():
            raise BootError('there is no disk image %s' % path)
        with open(path, 'rb') as image:
            magic = image.read(4)
        node = {'driver': 'qcow2' if magic == b'QFI\xfb' else 'raw',
                'file': {'driver': 'file', 'filename': str(path)}}
        if not os.access(path, os.W_OK):
            node['read-only'] = True
    node['node-name'] = _NODE
    return json.dumps(node, sort_keys=True)


def command(drive, memory=DEFAULT_MEMORY, qemu='qemu-system-x86_64'):
    """Make QEMU's argument list for a guest with one disk and one console.

    :param drive: see :func:`block_device`
    :param int memory: bytes of the guest's memory, a multiple of 1 MiB
    :param str qemu: the program
    :returns list: arguments
    """
    if memory < 64 * MIB or memory % MIB:
        raise BootError('the memory must be whole MiB and at least 64: '
                        '%d bytes' % memory)
    return [qemu, '-name', 'dcn-bootimage', '-no-user-config', '-nodefaults',
            '-accel', 'tcg', '-machine', 'pc', '-smp', '1',
            '-m', '%dM' % (memory // MIB),
            '-display', 'none', '-monitor', 'none', '-serial', 'stdio',
            '-net', 'none', '-no-reboot',
            '-blockdev', block_device(drive),
            '-device', 'virtio-blk-pci,drive=%s,bootindex=1' % _NODE]


class _Console:
    """Collects a console's output and cuts it into lines."""

    def __init__(self, on_line, log):
        self.text = ''
        self._pending = ''
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')
        self._on_line = on_line
        self._log = log

    def feed(self, data, final=False):
        """Take more output.

        :param bytes data: as it came
        :param bool final: there will be no more
        """
        if self._log is not None:
            self._log.write(data)
        new = self._decoder.decode(data, final).replace('\r', '')
        self.text += new
        *lines, self._pending = (self._pending + new).split('\n')
        if final and self._pending:
            lines.append(self._pending)
            self._pending = ''
        if self._on_line is not None:
            for line in lines:
                self._on_line(line)

    def has_line_with(self, marker):
        """Tell whether a complete line holds the marker.

        :param str marker: text to look for
        :returns bool: True once the line's end was read, too
        """
        at = self.text.find(marker)
        return at >= 0 and '\n' in self.text[at + len(marker):]


def _stop(process):
    """End QEMU, by its process id, and wait until it is gone.

    :param subprocess.Popen process: QEMU
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    process.stdout.close()


def _watch(process, console, marker, timeout):
    """Read the console until the marker shows.

    :param subprocess.Popen process: QEMU
    :param _Console console: where the output goes
    :param str marker: text to wait for
    :param float timeout: seconds
    """
    end = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not console.has_line_with(marker):
            # A marker without the end of its line may be a prompt.
            prompt = marker in console.text
            left = end - time.monotonic()
            if left > 0 and not selector.select(
                    min(left, _PROMPT_SECONDS) if prompt else left):
                left = 0
            if left <= 0:
                if prompt:
                    return
                raise BootTimeout('%r was not on the console within %g '
                                  'seconds' % (marker, timeout),
                                  console.text)
            data = os.read(process.stdout.fileno(), 65536)
            console.feed(data, final=not data)
            if console.has_line_with(FAILURE_MARKER):
                raise BootError('the guest started but saw no boot disk',
                                console.text)
            if not data:
                if prompt:
                    return
                raise BootError(
                    'QEMU ended with status %d before %r was on the '
                    'console' % (process.wait(), marker), console.text)


def boot(drive, marker=DEFAULT_MARKER, timeout=DEFAULT_TIMEOUT,
         memory=DEFAULT_MEMORY, log_path=None, on_line=None,
         qemu='qemu-system-x86_64'):
    """Boot a disk in QEMU and wait until its console shows a marker.

    QEMU runs without hardware acceleration, network and display, and is gone
    when this returns or raises.

    :param drive: path of a raw or qcow2 file, or a QEMU block device, such
              as of :func:`rbd_drive`; see :func:`block_device`
    :param str marker: text to wait for, with the rest of its line; a prompt
              such as "dcn login:" has no more of a line and takes half a
              second to be seen as one
    :param float timeout: seconds
    :param int memory: bytes of the guest's memory
    :param log_path: file to write the console's output to, as it comes (str
              or path)
    :param on_line: called with each line (str) of the console
    :param str qemu: the program
    :returns BootResult: the console's text, and seconds
    :raises BootTimeout: when the marker did not show in time
    :raises BootError: when QEMU or the guest failed before
    """
    if not marker:
        raise BootError('no marker to wait for')
    if timeout <= 0:
        raise BootError('the timeout must be more than 0 seconds')
    arguments = command(drive, memory, qemu)
    if shutil.which(qemu) is None:
        raise BootError('%s is missing; packages needed: %s' % (
            qemu, ' '.join(BOOT_PACKAGES)))
    # QEMU shall not outlive this process, even if that is killed.
    if shutil.which('setpriv') is not None:
        arguments = ['setpriv', '--pdeathsig', 'TERM'] + arguments
    LOG.debug('running %s', arguments)
    with contextlib.ExitStack() as stack:
        log = None
        if log_path is not None:
            log = stack.enter_context(open(log_path, 'wb', buffering=0))
        started = time.monotonic()
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        stack.callback(_stop, process)
        console = _Console(on_line, log)
        _watch(process, console, marker, timeout)
        return BootResult(console.text, time.monotonic() - started)


def main(argv=None):
    """Build an image from the command line.

    :param list argv: arguments; None: those of the process
    :returns int: exit status
    """
    parser = argparse.ArgumentParser(
        prog='python -m lab.bootimage',
        description='Build a small disk image that really boots.')
    parser.add_argument('output', metavar='OUTPUT', help='file to write')
    parser.add_argument('--marker', default=DEFAULT_MARKER,
                        help='what the guest prints (%(default)s)')
    parser.add_argument('--size', type=int, default=DEFAULT_SIZE,
                        metavar='BYTES',
                        help='size of the guest\'s disk (%(default)s)')
    parser.add_argument('--format', choices=('qcow2', 'raw'),
                        default='qcow2', help='(%(default)s)')
    parser.add_argument('--work-dir', metavar='DIR',
                        help='keep the kernel\'s package here')
    parser.add_argument('--boot', action='store_true',
                        help='boot the image and show its console')
    parser.add_argument('--timeout', type=float, default=DEFAULT_TIMEOUT,
                        metavar='SECONDS',
                        help='for the boot (%(default)s)')
    options = parser.parse_args(argv)
    try:
        made = build(options.output, options.work_dir, options.marker,
                     options.size, options.format)
        print('%s: kernel %s, virtual size %d bytes, file %d bytes, on disk '
              '%d bytes, built in %.1f s' % (
                  made.path, made.kernel, made.virtual_size, made.file_size,
                  made.data_size, made.seconds), flush=True)
        if options.boot:
            seen = boot(made.path, made.marker, options.timeout,
                        on_line=lambda line: print(line, flush=True))
            print('booted in %.1f s' % seen.seconds)
    except (BootImageError, OSError) as exc:
        print('error: %s' % exc, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
