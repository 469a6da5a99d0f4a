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

"""The staging folder of this worker, and the files in it.

A file that was written is in the page cache first. That outlives the process
that wrote it, and nothing else: after a power cut the file may have its
length and zeros, or holes, in place of its data. So there are two grounds on
which staged data is believed:

- the host has not been restarted since it was staged, which the kernel's boot
  ID tells (containers have that of their host): all of it is there;
- it was synced before its content digest was noted, and has that digest.

What was uploaded before a restart, and is imported after it, has neither: no
import has read it before. It has to be uploaded once more. The first
process of Glance after a restart marks it; the clock may have been set
meanwhile.

To sync a file takes as long as the disk does, and to digest it half a second
for each GiB of data. Both are done beside the import, by a thread of low
priority, once it has lasted for some seconds: a shorter one would spend more
on them than it would save. Until they are done, a power cut makes the import
begin from where the user can repeat it.
"""

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
import time
import typing

from oslo_config import cfg

from glance_dcn.engine.backends import file
from glance_dcn.engine import errors
from glance_dcn.engine import transfer
from glance_dcn.runtime import native
from glance_dcn.runtime import process

if typing.TYPE_CHECKING:
    #: See :class:`Vouching`.
    Known = abc.Callable[[float], 'tuple[int, str] | None']

LOG = logging.getLogger(__name__)

#: This package's folder in the staging folder. Glance leaves alone there what
#: is not named after an image.
FOLDER = '.glance-dcn'
#: Types of file systems that are no local disk.
NETWORK = frozenset((
    '9p', 'afs', 'beegfs', 'ceph', 'cifs', 'fuse.ceph', 'fuse.glusterfs',
    'fuse.s3fs', 'fuse.sshfs', 'gfs2', 'glusterfs', 'gpfs', 'lustre', 'ncpfs',
    'nfs', 'nfs4', 'ocfs2', 'smb3', 'smbfs', 'virtiofs'))
_WORKERS = 'workers'
_PREFIX = 'file://'
# No disk format is called so.
_ASIDE = '.source'
_MOUNTS = '/proc/self/mountinfo'
_BOOT_ID = '/proc/sys/kernel/random/boot_id'
# Boot IDs with which processes of Glance have marked files in the folder: the
# file, how many are kept, and the characters that are read of them.
_BOOTS = 'boots'
_BOOTS_KEPT = 99
_LONGEST = 1 << 14
_UNKNOWN = '-'
# The modification time of a file that is older than the last restart, in
# seconds since 1970.
_MARK = 1
# Bytes of buffers while a file is digested.
_MEMORY = 16 << 20
# Seconds between reports of progress.
_INTERVAL = 20
# Seconds to wait for a digest that another thread computes, at a time.
_STEP = 2.0
# Seconds between checks whether a short import is over.
_LOOK = 0.2
#: Seconds that staged data has to be in use until it is vouched for.
DELAY = 5
# What it yields to is the import itself.
_NICENESS = 10


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
    staging = path(conf)
    return os.path.join(staging, FOLDER) if staging else None


def staged(conf: cfg.ConfigOpts, image_id: str) -> str:
    """Return the path of the staged file of an image."""
    staging = path(conf)
    assert staging is not None, 'images are staged only where a folder is set'
    return os.path.join(staging, image_id)


def companions(staged: str) -> list[str]:
    """Return the paths of the files that conversions made of a staged file."""
    folder, name = os.path.split(staged)
    with contextlib.suppress(FileNotFoundError):
        return [os.path.join(folder, other) for other in os.listdir(folder)
                if other.startswith(name + '.')]
    return []


def aside(staged: str) -> str:
    """Return the path of a conversion's source until the journal vouches."""
    return staged + _ASIDE


def discard(*paths: str) -> None:
    """Remove files, if they are there."""
    for each in filter(None, paths):
        with contextlib.suppress(FileNotFoundError):
            os.remove(each)


def discard_staged(staged: str) -> None:
    """Remove a staged file, and what conversions have made of it."""
    discard(staged, *companions(staged))


def size(path: str) -> int | None:
    """Return the length of a file in bytes, or None if it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def free(path: str) -> int:
    """Return the free bytes of a folder's file system."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def end_orphans(staged: str) -> None:
    """Kill the qemu-img that a dead process has left at a staged file."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/cmdline' % pid, 'rb') as process:
                words = process.read().split(b'\0')
            if (os.path.basename(words[0]) == b'qemu-img'
                    and any(staged.encode() in word for word in words)
                    and os.stat('/proc/%s' % pid).st_uid == os.geteuid()):
                os.kill(int(pid), signal.SIGKILL)
                LOG.warning('Ended qemu-img (process %s), whose worker is '
                            'dead', pid)
        except OSError:
            continue


def file_system(path: str, mounts: str = _MOUNTS) -> str | None:
    """Return the type of the file system that a path is on, or None.

    :param mounts: table of what is mounted
    """
    path = os.path.realpath(path)
    best, kind = '', None
    try:
        with open(mounts) as table:
            for line in table:
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


def doubts(conf: cfg.ConfigOpts, mounts: str = _MOUNTS) -> list[str]:
    """Return warnings of the staging folder; announce this worker there.

    :param mounts: as for :func:`file_system`
    """
    staging = path(conf)
    if not staging or not os.path.isdir(staging):
        return []
    found = []
    kind = file_system(staging, mounts)
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
    workers = os.path.join(staging, FOLDER, _WORKERS)
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
    with contextlib.suppress(FileNotFoundError), open(path, 'r+') as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                known = json.load(held)
                yield '%s at %s' % (known['url'], known['host'])
            except (ValueError, KeyError, TypeError):
                yield os.path.basename(path)
            return
        os.remove(path)


def boot_id(source: str = _BOOT_ID) -> str:
    """Return the kernel's boot ID; empty, which equals no other, if none."""
    try:
        with open(source) as file:
            return file.read().strip()
    except OSError:
        return ''


def is_current(boot: str, source: str = _BOOT_ID) -> bool:
    """Return whether this host has run without a restart since a boot ID."""
    return bool(boot) and boot == boot_id(source)


def mark_older(staging: str, source: str = _BOOT_ID) -> None:
    """Mark the staged files that are older than the host's last restart.

    To be called before any are written. What was not synced when the host
    ended may have its length, and zeros in place of its data.

    :param source: file that has the boot ID
    :raises OSError: if that fails for some files; the others are marked
    """
    hidden = os.path.join(staging, FOLDER)
    os.makedirs(hidden, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(hidden, _BOOTS),
                 os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, 'r+', encoding='ascii', errors='replace') as boots:
        # Another process may be about to.
        fcntl.flock(boots, fcntl.LOCK_EX)
        known, boot = boots.read(_LONGEST).split(), boot_id(source) or _UNKNOWN
        if boot != _UNKNOWN and boot in known:
            return
        # Of what was there before this software only the clock can tell.
        started = (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
                   if not known else float('inf'))
        failed = []
        with os.scandir(staging) as found:
            for entry in found:
                try:
                    if entry.is_file(follow_symlinks=False) and entry.stat(
                            follow_symlinks=False).st_mtime < started:
                        os.utime(entry.path, (_MARK, _MARK),
                                 follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    failed.append(exc)
        boots.seek(0)
        boots.truncate()
        # The folder may move to another host and back.
        boots.write('\n'.join([*known[-_BOOTS_KEPT:], boot, '']))
        boots.flush()
        os.fsync(fd)
    if failed:
        raise failed[0]


def is_older_than_boot(path: str) -> bool:
    """Return whether a file was marked, see :func:`mark_older`.

    :raises OSError: if that cannot be told
    """
    return os.stat(path, follow_symlinks=False).st_mtime == _MARK


def renew(path: str) -> None:
    """Sync a file of proven content, and let it count as written just now.

    :raises OSError: if that fails; the data may be lost then
    """
    os.utime(path, follow_symlinks=False)
    sync(path)


def sync(path: str) -> None:
    """Sync a file and its name.

    :raises OSError: if that fails; the data may be lost then
    """
    with _opened(path, os.O_NOFOLLOW) as fd:
        os.fdatasync(fd)
    sync_folder(os.path.dirname(path))


def sync_folder(path: str) -> None:
    """Sync the names in a folder; raise OSError if that fails."""
    with _opened(path, os.O_DIRECTORY) as fd:
        os.fsync(fd)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> abc.Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def digest(path: str,
           progress: abc.Callable[[float], None] | None = None) -> str:
    """Return the content digest of a file; holes cost nothing.

    :param progress: called now and then with the part done, 0 to 1
    :raises glance_dcn.engine.errors.EngineError: if it cannot be read
    """
    with file.File(path) as source:
        found = transfer.Transfer(
            source, memory=_MEMORY, interval=_INTERVAL,
            progress=progress and (lambda state: progress(state.fraction))
            ).run().content
    assert found is not None, 'the digest was asked for'
    return found


class Vouching:
    """Syncs a staged file beside its import, and digests it.

    :param path: of the file, which is not changed meanwhile
    :param note: called, by the thread of this object, with the length in
        bytes and the content digest of what is on the disk
    :param then: called at the end, successful or not; it must not wait, and
        may raise OSError
    :param known: called with seconds to wait; returns length and content
        digest of what was written, if another thread computes them, or None:
        not known yet, or, if that came at once, never
    :param delay: seconds to wait first; if the import is over by then,
        nothing is done
    :param step: seconds to wait for ``known`` at a time
    """

    def __init__(self, path: str, note: abc.Callable[[int, str], None],
                 then: abc.Callable[[], None],
                 known: Known | None = None, delay: float = 0,
                 step: float = _STEP) -> None:
        self._path = path
        self._note = note
        self._known = known
        self._then: abc.Callable[[], None] | None = then
        self._lock = native.lock()
        self._delay, self._step = delay, step
        self._closed = False
        self._closing: native.Queue[bool] = native.Queue()
        self._job: transfer.Transfer | None = None

    @property
    def over(self) -> bool:
        """Whether the digest is recorded, or that failed or was ended."""
        return self._then is None

    def start(self) -> None:
        """Start the thread."""
        native.start('dcn-vouching', self._run)

    def close(self, keep: bool = False) -> None:
        """Stop vouching, and do what follows unless that is to be kept."""
        self._closed = True
        self._closing.put(True)
        if self._job is not None:
            self._job.cancel()
        self._end(keep)

    def _run(self) -> None:
        if self._is_over_soon():
            self._end(False)
            return
        try:
            # Of this thread and of those that it starts, not of the process.
            os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
            sync(self._path)
            self._note(*(self._await_known() or self._digest()))
        except errors.Cancelled:
            LOG.debug('The import of %s was over before it was digested',
                      self._path)
        except Exception as exc:
            if os.path.exists(self._path):
                LOG.warning('Staged file %(path)s is not known to be on the '
                            'disk, and is not trusted after a power cut: '
                            '%(error)s', {'path': self._path, 'error': exc})
        finally:
            self._end(False)

    def _is_over_soon(self) -> bool:
        """Wait for the delay; return whether the file was gone by then."""
        until = time.monotonic() + self._delay
        while not self._closed and os.path.exists(self._path):
            left = until - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(native.Empty):
                native.get(self._closing, min(left, _LOOK))
        return True

    def _await_known(self) -> tuple[int, str] | None:
        """Return what another thread has computed, if it is of this file."""
        found = None
        while self._known is not None and not self._closed:
            began = time.monotonic()
            found = self._known(self._step)
            if (found is not None
                    or time.monotonic() - began < self._step / 2):
                break
        if found is not None and found[0] == os.stat(self._path).st_size:
            return found
        return None

    def _digest(self) -> tuple[int, str]:
        with file.File(self._path) as source:
            self._job = transfer.Transfer(source, memory=_MEMORY,
                                          interval=_INTERVAL)
            if self._closed:
                self._job.cancel()
            result = self._job.run()
        assert result.content is not None, 'the digest was asked for'
        return result.size, result.content

    def _end(self, keep: bool) -> None:
        with self._lock:
            then, self._then = self._then, None
        if then is None or keep:
            return
        try:
            then()
        except OSError as exc:
            LOG.warning('What staged file %(path)s was made of cannot be '
                        'removed: %(error)s', {'path': self._path,
                                               'error': exc})
