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


"""Booting a disk image in QEMU, and watching its console."""

import codecs
import contextlib
import json
import logging
import os
import pathlib
import re
import selectors
import shutil
import subprocess
import time
import typing

from lab.bootimage import builder
from lab.bootimage import disk
from lab.bootimage import errors
from lab.bootimage import programs
from lab.bootimage import ramdisk

LOG = logging.getLogger(__name__)

DEFAULT_MEMORY = 256 * disk.MIB
DEFAULT_TIMEOUT = 120.0
# How long a console must be silent for its last line to be a prompt.
_PROMPT_SECONDS = 0.5
# QEMU's name for the guest's disk.
_NODE = 'disk0'


class BootResult(typing.NamedTuple):
    """What :func:`boot` saw.

    :ivar str console: the console's text up to the end of the marker's
         line, at least
    :ivar float seconds: from the start of QEMU to the marker
    """

    console: str
    seconds: float


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
            raise errors.BootError('bad drive %r: no value in %r'
                                   % (text, item))
        properties[key] = value.replace(',,', ',')
    return properties


def _check_drive(properties):
    """Refuse a drive that QEMU could make nothing of.

    :param dict properties: of a QEMU block device
    """
    if not properties.get('driver'):
        raise errors.BootError('a drive without a driver: %r' % (properties,))
    if 'node-name' in properties:
        raise errors.BootError('the node name is not for the caller to choose')
    if properties['driver'] != 'rbd':
        return
    missing = {'pool', 'image'}.difference(properties)
    if missing:
        raise errors.BootError('an RBD drive lacks %s'
                               % ', '.join(sorted(missing)))
    conf = properties.get('conf')
    if conf is not None and not os.path.isfile(conf):
        raise errors.BootError('there is no Ceph configuration %s' % conf)


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
            raise errors.BootError('there is no disk image %s' % path)
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
    if memory < 64 * disk.MIB or memory % disk.MIB:
        raise errors.BootError('the memory must be whole MiB and at least 64: '
                               '%d bytes' % memory)
    return [qemu, '-name', 'dcn-bootimage', '-no-user-config', '-nodefaults',
            '-accel', 'tcg', '-machine', 'pc', '-smp', '1',
            '-m', '%dM' % (memory // disk.MIB),
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
                raise errors.BootTimeout('%r was not on the console within %g '
                                         'seconds' % (marker, timeout),
                                         console.text)
            data = os.read(process.stdout.fileno(), 65536)
            console.feed(data, final=not data)
            if console.has_line_with(ramdisk.FAILURE_MARKER):
                raise errors.BootError('the guest started but saw no boot '
                                       'disk', console.text)
            if not data:
                if prompt:
                    return
                raise errors.BootError(
                    'QEMU ended with status %d before %r was on the '
                    'console' % (process.wait(), marker), console.text)


def boot(drive, marker=builder.DEFAULT_MARKER, timeout=DEFAULT_TIMEOUT,
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
        raise errors.BootError('no marker to wait for')
    if timeout <= 0:
        raise errors.BootError('the timeout must be more than 0 seconds')
    arguments = command(drive, memory, qemu)
    if shutil.which(qemu) is None:
        raise errors.BootError('%s is missing; packages needed: %s' % (
            qemu, ' '.join(programs.BOOT_PACKAGES)))
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
