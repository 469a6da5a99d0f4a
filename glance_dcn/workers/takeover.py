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

"""Undoing what a peer that is gone was doing.

This worker puts the peer's entry into its own journal, as taken, changes the
lock of the image into one of its own, moves the staged data into its own
staging folder, if it can read the peer's, and undoes the import as it does
with its own. Should it die over that, its successor goes on.

The lock stands for all that the peer's process may still do: with another one
Glance lets it change the image no more, and the clusters cut its clients off.
It is for the same reason that nothing is begun again here: that would have
the lock the peer believes in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import re
import shutil
import stat

from oslo_config import cfg

from glance_dcn.imports import durable
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import recovery
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import place
from glance_dcn.workers import registry

LOG = logging.getLogger(__name__)

# Users may give images IDs in capitals.
_UUID = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}',
                   re.ASCII | re.IGNORECASE)


def undo(conf: cfg.ConfigOpts, worker: registry.Worker,
         entry: journal.Entry) -> str:
    """Undo an import or a copy of a peer that is gone.

    :returns: what has become of it, see :mod:`glance_dcn.imports.recovery`
    :raises glance_dcn.imports.journal.Busy: if a process is at it
    :raises Exception: if it cannot be undone now
    """
    if not (_UUID.fullmatch(entry.task) and _UUID.fullmatch(entry.image)):
        # They become names of files; others may write to the pool.
        raise ValueError('task %r of image %r is none of Glance\'s'
                         % (entry.task, entry.image))
    with contextlib.ExitStack() as stack:
        theirs = _theirs(worker, entry.task)
        if theirs is not None:
            stack.callback(theirs.release)
            # The registry has it a little later.
            entry = dataclasses.replace(entry, boot=theirs.entry.boot,
                                        proofs=theirs.entry.proofs)
        ours = folder.of(conf)
        assert ours is not None, 'a worker is one that has a staging folder'
        known = ours.read(entry.task)
        own = ours.begin(dataclasses.replace(
            entry, path=folder.staged(conf, entry.image), taken=True,
            by=tasks.host_and_process()))
        stack.callback(own.release)
        if recovery.fence(own.entry):
            path = own.entry.path
            if known is None or not known.taken:
                # Of an earlier time: this worker has not staged it for this
                # import. But what is there if this is done once more may
                # have been taken over from the peer, and be all there is.
                folder.discard(path, *folder.companions(path))
            if theirs is not None:
                _move(os.path.join(worker.staging, entry.image), path)
        outcome = recovery.undo(own)
        if theirs is not None:
            theirs.close()
    LOG.warning('Image %(image)s: its %(method)s was broken off when worker '
                '%(worker)s at host %(host)s fell silent (%(phase)s); it was '
                '%(outcome)s', {
                    'image': entry.image, 'method': entry.method,
                    'worker': worker.identity, 'host': worker.host,
                    'phase': entry.phase, 'outcome': outcome})
    return outcome


def _theirs(worker: registry.Worker, task: str) -> journal.Held | None:
    """Return the peer's own entry, if its staging folder can be read here.

    :raises glance_dcn.imports.journal.Busy: if the process that holds it
        lives
    """
    try:
        found = journal.Journal(worker.staging)
        # Others may have written the path, and what is there.
        found.check()
        # The folder of that path may be another's here.
        if place.Place(worker.staging).known_identity() != worker.identity:
            return None
        held = found.take(task)
        if held is None and found.read(task) is not None:
            raise journal.Busy(task)
        return held
    except (OSError, ValueError):
        return None


def _move(source: str, target: str) -> None:
    """Move staged files into the own staging folder, as far as possible.

    :param source: path of the staged file; with it go those that a
        conversion has made
    """
    for path in [*folder.companions(source), source]:
        new = target + path[len(source):]
        part = '%s.part' % target
        try:
            _check_file(path)
            try:
                os.rename(path, new)
            except OSError:
                # On another file system, or not to be changed.
                shutil.copyfile(path, part, follow_symlinks=False)
                durable.sync(part)
                os.rename(part, new)
            durable.sync_folder(os.path.dirname(new))
            if os.path.islink(new):
                # It was changed meanwhile.
                folder.discard(new)
        except FileNotFoundError:
            continue
        except OSError as exc:
            LOG.warning('Staged file %(path)s cannot be taken over: '
                        '%(error)s', {'path': path, 'error': exc})
            folder.discard(part)
            continue
        with contextlib.suppress(OSError):
            folder.discard(path)


def _check_file(path: str) -> None:
    """Check that a path is a file: a link may lead to what is secret.

    :raises OSError: if it is not
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, 'it is no file', path)
