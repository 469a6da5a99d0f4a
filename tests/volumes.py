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

"""Volumes as Kubernetes mounts them into pods, and some with little room."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess

import fixtures
import testtools

_MOUNTED = """\
while [ "$1" != -- ]; do
    mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" || exit 1
    shift 2
done
shift
exec "$@"
"""


def mounted(folders):
    """Return what a command begins with to see folders as a pod does.

    They are mounted read-only, for that command alone.

    :param folders: dict of where they are mounted, by their paths
    """
    alone = ['unshare', '--mount']
    if os.geteuid():
        alone += ['--user', '--map-root-user']
    return [*alone, 'sh', '-c', _MOUNTED, 'sh', *(
        str(path) for item in folders.items() for path in item), '--']


class SecretVolume:
    """The volume of a Secret, as the kubelet has it on its host.

    It is a tmpfs, whose folder has mode 1777 there; the files are links to
    ``..data``, itself a link to a folder that is made again whenever the
    Secret changes. With the fsGroup of a pod, folders get its group, and
    setgid; files can be read by the group.

    :param path: of the folder, which is made
    :param group: the fsGroup, or None
    :param mode: of files, ``defaultMode``
    """

    def __init__(self, path, group=None, mode=0o644):
        self.path = pathlib.Path(path)
        self._group = group
        self._mode = mode if group is None else mode | 0o440
        self._count = 0
        self.path.mkdir()
        self._own(self.path, 0o1777)

    def _own(self, path, mode):
        if self._group is not None:
            os.chown(path, -1, self._group)
            mode |= 0o2000 if path.is_dir() else 0
        path.chmod(mode)

    def put(self, data):
        """Have the Secret hold these texts, by name."""
        self._count += 1
        made = self.path / ('..2026_11_28_10_00_%02d.%09d'
                            % (self._count % 60, self._count))
        made.mkdir()
        for name, text in data.items():
            (made / name).write_text(text)
            self._own(made / name, self._mode)
        self._own(made, 0o755)
        current = self.path / '..data'
        old = current.resolve() if current.exists() else None
        new = self.path / '..data_tmp'
        new.symlink_to(made.name)
        new.rename(current)
        for name in data:
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to('..data/%s' % name)
        for link in self.path.iterdir():
            if not link.name.startswith('..') and link.name not in data:
                link.unlink()
        if old:
            shutil.rmtree(old)


class SmallDisk(fixtures.Fixture):
    """A file system with next to no room, of a kind that has no limit else.

    :param options: of mount
    """

    def __init__(self, options: str) -> None:
        super().__init__()
        self._options = options

    def _setUp(self) -> None:
        self.path = self.useFixture(fixtures.TempDir()).path
        done = self.mount('-t', 'tmpfs', '-o', self._options, 'tmpfs')
        if done.returncode:
            raise testtools.testcase.TestSkipped(
                'nothing can be mounted here: %s' % done.stderr)
        self.addCleanup(subprocess.run, ['umount', '--lazy', self.path],
                        check=True)

    def mount(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run mount for this file system."""
        return subprocess.run(['mount', *args, self.path],
                              capture_output=True, text=True)

    def fill(self) -> None:
        """Take all room for data."""
        with open(os.path.join(self.path, 'full'), 'ab', 0) as f, \
                contextlib.suppress(OSError):
            while True:
                f.write(bytes(4096))

    def take_inodes(self) -> None:
        """Take all room for files."""
        with contextlib.suppress(OSError):
            for number in range(10000):
                path = os.path.join(self.path, 'file.%d' % number)
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))

    def give_inodes(self) -> None:
        """Remove the files that take room."""
        for path in pathlib.Path(self.path).glob('file.*'):
            path.unlink()
