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

:mod:`~lab.bootimage.builder` makes a disk out of the distribution's own kernel
and busybox: an MBR, one FAT partition that syslinux boots from, and an initial
ram disk whose ``/init`` looks for the disk it came from, tells the serial
console what it found and offers a login prompt. No root rights, loop devices
or mounts are needed, and nothing is installed: the kernel package is only
downloaded and unpacked.

:mod:`~lab.bootimage.guest` starts such a disk, from a file or straight from a
Ceph pool, in a QEMU without hardware acceleration and waits for the marker on
the console. The guest never writes to its disk, so an image is the same bytes
after it was booted as before.

The guest's console is open to whoever can reach it: it takes any login name
and asks for no password. The image is for laboratories only.
"""
