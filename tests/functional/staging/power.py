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


"""A disk whose power is cut: what was not synced is lost for real."""

import fcntl
import os
import pathlib
import struct
import subprocess
import unittest

import fixtures

from lab import glance
from lab import process
from lab import wsgi

MiB = 1 << 20
# EXT4_IOC_SHUTDOWN, with EXT4_GOING_FLAGS_NOLOGFLUSH: from one moment to the
# next nothing comes to the disk any more.
_SHUTDOWN = 0x8004587d
_AT_ONCE = struct.pack('I', 2)


class PromptGlance(glance.Glance):
    """A Glance that vouches for what is staged from the very beginning.

    An import is over before it is worth its while, as long as it is to last
    for no longer than a test may.
    """

    server = 'uwsgi'

    def _make_service(self, name, port, processes):
        folder = self.directory / 'wsgi'
        folder.mkdir(parents=True, exist_ok=True)
        module, _colon, application = glance.application().partition(':')
        (folder / 'prompt_glance.py').write_text(
            'from glance_dcn.imports import folder\n'
            'folder.DELAY = 0\n'
            'import importlib\n'
            'application = importlib.import_module(%r).%s\n'
            % (module, application))
        return wsgi.Service(
            name, 'prompt_glance:application', self.directory / 'run', port,
            env={'OS_GLANCE_CONFIG_DIR': str(self.etc),
                 'PYTHONPATH': str(folder)}, processes=processes)


class Disk(fixtures.Fixture):
    """An ext4 file system on a loop device, until the end of the test.

    A test that may make none is skipped.

    :param path: folder to mount it on
    :param size: its bytes
    """

    def __init__(self, path, size=512 * MiB):
        super().__init__()
        self._path = pathlib.Path(path)
        self._size = size

    def _setUp(self):
        if os.geteuid():
            raise unittest.SkipTest('only root may mount a file system')
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self._image = folder / 'disk'
        self._image.touch()
        os.truncate(self._image, self._size)
        try:
            self._run('mkfs.ext4', '-q', self._image)
            self._mount()
        except (OSError, subprocess.CalledProcessError) as exc:
            raise unittest.SkipTest('there are no loop devices here: %s' % exc)
        self.addCleanup(self._unmount)
        (self._path / 'lost+found').rmdir()

    def cut(self):
        """Cut the power, and mount it as the next start of a host would."""
        fd = os.open(self._path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _AT_ONCE)
        finally:
            os.close(fd)
        self._unmount()
        # Where a mount namespace was made meanwhile, which is how other tests
        # run programs in a root folder, the file system that is shut down is
        # still mounted there, and would be mounted here again: take a copy.
        after = self._image.with_suffix('.after')
        self._run('cp', '--sparse=always', self._image, after)
        after.rename(self._image)
        self._mount()

    def _unmount(self):
        # Processes that were killed, and threads that are ending, take a
        # moment to let go of it.
        process.wait_for('umount', self._unmounts, 20)

    def _unmounts(self):
        return not subprocess.run(['umount', self._path], check=False,
                                  capture_output=True, timeout=60).returncode

    def _mount(self):
        self._run('mount', '-o', 'loop', self._image, self._path)

    def _run(self, *command):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
