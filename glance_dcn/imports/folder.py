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

"""The staging folder of this worker, and the files in it."""

from __future__ import annotations

from collections import abc
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import signal
import socket

from oslo_config import cfg

from glance_dcn.imports import journal
from glance_dcn.runtime import process

LOG = logging.getLogger(__name__)

#: Types of file systems that are no local disk.
NETWORK = frozenset((
    '9p', 'afs', 'beegfs', 'ceph', 'cifs', 'fuse.ceph', 'fuse.glusterfs',
    'fuse.s3fs', 'fuse.sshfs', 'gfs2', 'glusterfs', 'gpfs', 'lustre', 'ncpfs',
    'nfs', 'nfs4', 'ocfs2', 'smb3', 'smbfs', 'virtiofs'))
_WORKERS = 'workers'
_PREFIX = 'file://'
# No disk format is called so.
_ASIDE = '.source'


class _Announced(process.ForkLocal['dict[str, int]']):
    """Open files of this worker, by path."""

    def __init__(self) -> None:
        super().__init__(dict)


def path(conf: cfg.ConfigOpts) -> str | None:
    """Return the path of the staging folder, or None if there is none."""
    if conf.enabled_backends:
        group = getattr(conf, 'os_glance_staging_store', None)
        found: str | None = group and group.filesystem_store_datadir
        return found
    uri: str = getattr(conf, 'node_staging_uri', None) or ''
    return uri[len(_PREFIX):] if uri.startswith(_PREFIX) else None


def private(conf: cfg.ConfigOpts) -> str | None:
    """Return the path of this package's folder within it, or None."""
    found = of(conf)
    return found.folder if found else None


def of(conf: cfg.ConfigOpts) -> journal.Journal | None:
    """Return the journal in the staging folder, or None."""
    found = path(conf)
    return journal.Journal(found) if found else None


def staged(conf: cfg.ConfigOpts, image_id: str) -> str:
    """Return the path of the staged file of an image."""
    staging = path(conf)
    assert staging is not None, 'images are staged only where a folder is set'
    return os.path.join(staging, image_id)


def companions(staged: str) -> list[str]:
    """Return the paths of the files that conversions have made of another."""
    folder, name = os.path.split(staged)
    with contextlib.suppress(FileNotFoundError):
        return [os.path.join(folder, other) for other in os.listdir(folder)
                if other.startswith(name + '.')]
    return []


def aside(staged: str) -> str:
    """Return where the source of a conversion is until it is vouched for."""
    return staged + _ASIDE


def discard(*paths: str) -> None:
    """Remove files, if they are there."""
    for each in filter(None, paths):
        with contextlib.suppress(FileNotFoundError):
            os.remove(each)


def size(path: str) -> int | None:
    """Return the length of a file in bytes, or None if it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def free(path: str) -> int:
    """Return the bytes of a folder's file system that may be used."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def end_orphans(staged: str) -> None:
    """End the qemu-img that a dead process has left at a staged file."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/cmdline' % pid, 'rb') as file:
                words = file.read().split(b'\0')
            if (os.path.basename(words[0]) == b'qemu-img'
                    and any(staged.encode() in word for word in words)
                    and os.stat('/proc/%s' % pid).st_uid == os.geteuid()):
                os.kill(int(pid), signal.SIGKILL)
                LOG.warning('Ended qemu-img (process %s), whose worker is '
                            'dead', pid)
        except OSError:
            continue


def file_system(path: str, mounts: str = '/proc/self/mountinfo'
                ) -> str | None:
    """Return the type of the file system that a path is on, or None."""
    path = os.path.realpath(path)
    best, kind = '', None
    try:
        with open(mounts) as file:
            for line in file:
                fields, _, rest = line.partition(' - ')
                point = re.sub(
                    r'\\([0-7]{3})', lambda code: chr(int(code[1], 8)),
                    fields.split()[4])
                if (len(point) >= len(best)
                        and os.path.commonpath([point, path]) == point):
                    best, kind = point, rest.split()[0]
    except (OSError, IndexError, ValueError):
        return None
    return kind


def doubts(conf: cfg.ConfigOpts) -> list[str]:
    """Return what is wrong with the staging folder, as sentences for the log.

    From then on, this worker is known in the folder.
    """
    staging = path(conf)
    if not staging or not os.path.isdir(staging):
        return []
    found = []
    kind = file_system(staging)
    if kind in NETWORK:
        found.append(
            'Staging folder %s is on a network file system (%s): staging and '
            'conversion are bound by the network, and imports end when it '
            'fails. Use a local disk, or a volume of this worker alone.'
            % (staging, kind))
    try:
        found += [
            'Staging folder %s is used by another worker too (%s): each '
            'worker needs a staging folder of its own.' % (staging, other)
            for other in _others(staging, _identity(conf))]
    except OSError as exc:
        LOG.debug('The workers of %s cannot be told: %s', staging, exc)
    return found


def _identity(conf: cfg.ConfigOpts) -> dict[str, object]:
    """Return what tells this worker, but not its processes, from others."""
    return {'host': socket.gethostname(),
            'url': getattr(conf, 'worker_self_reference_url', None),
            'files': [str(name) for name in conf.config_file or ()],
            'folders': [str(name) for name in conf.config_dir or ()]}


def _others(staging: str, identity: dict[str, object]) -> list[str]:
    """Return the living workers that have announced themselves here."""
    workers = os.path.join(staging, journal.FOLDER, _WORKERS)
    os.makedirs(workers, mode=0o700, exist_ok=True)
    text = json.dumps(identity, sort_keys=True)
    own = hashlib.sha256(text.encode()).hexdigest()[:32]
    _announce(os.path.join(workers, own), text)
    return [worker for name in sorted(os.listdir(workers)) if name != own
            for worker in _alive(os.path.join(workers, name))]


def _announce(path: str, text: str) -> None:
    """Hold a shared lock on this worker's file; all its processes do."""
    announced = process.get(_Announced).get()
    if path in announced:
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode(), 0)
    # Kept open until the process ends.
    announced[path] = fd


def _alive(path: str) -> abc.Iterator[str]:
    """Yield the worker of a file; nothing, if it has ended."""
    with contextlib.suppress(FileNotFoundError), open(path, 'r+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                known = json.load(file)
                yield '%s at %s' % (known['url'], known['host'])
            except (ValueError, KeyError, TypeError):
                yield os.path.basename(path)
            return
        os.remove(path)
