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


"""The guest's initial ram disk, and what runs in it."""

import gzip
import os
import stat
import struct
import typing

from lab.bootimage import disk
from lab.bootimage import errors

#: What the guest prints when it has not found its disk.
FAILURE_MARKER = 'glance-dcn: no boot disk found'

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
            raise errors.BuildError('bad name in an archive: %r' % entry.name)
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
    return archive + b'\0' * (-len(archive) % disk.SECTOR)


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


def initrd(busybox, modules, marker, stamp):
    """Make the guest's initial ram disk.

    :param bytes busybox: the busybox program, linked statically
    :param dict modules: "first" and "other", each a dict of module name to
              plain module, in loading order
    :param str marker: what the guest prints
    :param str stamp: one line that the boot disk carries
    :returns bytes: a compressed archive
    """
    init = _INIT.replace('@STAMP@', str(disk.STAMP_SECTOR)).replace(
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
