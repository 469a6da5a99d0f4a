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

"""Scans the staging folder, in the leader of a host.

It begins when the process does, beside its requests: nothing waits for it.
Each process keeps the journal of its own imports.

What a killed worker leaves is the recovery's, as long as there is a journal.
The rest are orphans: files of imports that began without it, or whose image
was deleted while another worker had it. Stock scans once, at its start, for
files of images that are gone. None is removed that may be the only copy of an
image.
"""

from __future__ import annotations

from collections import abc
import logging
import os
import re
import time
import typing

from oslo_config import cfg

from glance_dcn.imports import active_imports
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import options
from glance_dcn.imports import recovery
from glance_dcn.runtime import green
from glance_dcn.runtime import periodic
from glance_dcn.tasks import queue
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins

if typing.TYPE_CHECKING:
    from glance_dcn.imports import commits

LOG = logging.getLogger(__name__)

# Seconds between scans of the journal, and of all files.
_INTERVAL = 5
_ORPHANS_INTERVAL = 600
# Users may give images IDs in capitals.
_IMAGE_FILE = re.compile(
    r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=$|\.)',
    re.ASCII | re.IGNORECASE)
# Seconds from the last store that was set up to the first look, and until
# one is had even if Glance has not come up.
_SETTLING = 1
_PATIENCE = 20
_PAUSE = 0.2

_conf: cfg.ConfigOpts | None = None
_since = 0.0
_watch: periodic.Periodic | None = None
_gate: abc.Callable[[], bool] | None = None
_said = False
_scanned: float | None = None
_commits: commits.Commits | None = None


def start(conf: cfg.ConfigOpts) -> None:
    """Recover what dead processes leave; called for each store."""
    global _conf, _since, _watch
    if not queue.PROCESS.enabled:
        return
    options.register(conf)
    _conf, _since = conf, time.monotonic()
    if _watch is None:
        _mark_older(conf)
        _watch = periodic.Periodic('glance-dcn-recovery', _scan, _INTERVAL)
        _watch.start()
        queue.PROCESS.lead.on_lead(_watch.wake)


def _mark_older(conf: cfg.ConfigOpts) -> None:
    """Tell what was staged before the host was restarted from the rest."""
    staging = folder.path(conf)
    # Glance makes it when it is first used.
    if not staging or not os.path.isdir(staging):
        return
    try:
        folder.mark_older(staging)
    except OSError as exc:
        LOG.warning('What was uploaded before this host was restarted cannot '
                    'be told in %(folder)s (%(error)s), and is believed: see '
                    'that it is there and belongs to the user of Glance',
                    {'folder': staging, 'error': exc})


def ask_first(function: abc.Callable[[], bool]) -> None:
    """Have a function asked, each time, whether to recover anything."""
    global _gate
    _gate = function


def _scan() -> None:
    global _said, _scanned
    conf = _conf
    assert conf is not None, 'start() sets it, and has this called'
    _wait_for_glance(conf)
    _check_commits()
    found = journal.of(conf)
    if found is None or not recovery.is_possible():
        return
    chosen = conf[options.GROUP]
    used = plugins.staging_is_used(conf)
    if used and glance_interfaces.usable(glance_interfaces.TASK_EVENTS):
        green.call(active_imports.listen, conf)
    if not queue.PROCESS.lead.is_held:
        return
    # A peer that took this worker for gone may be at it. While nothing is
    # left, the registry is not asked.
    if _gate is None or all(map(active_imports.get, found.tasks())) or _gate():
        recovery.recover(found,
                         _resume() if chosen.resume_imports else None)
    if used:
        if not _said:
            _said = True
            for sentence in folder.doubts(conf):
                LOG.warning(sentence)
        now = time.monotonic()
        if _scanned is None or now - _scanned > _ORPHANS_INTERVAL:
            _scanned = now
            remove_orphans(found, chosen.staging_orphan_age)


def _check_commits() -> None:
    """Check that the images this process was about to save are still there."""
    global _commits
    if not glance_interfaces.usable(glance_interfaces.DATABASE):
        return
    # The database of Glance is there by now, see _wait_for_glance().
    from glance_dcn.imports import commits
    if _commits is None:
        _commits = commits.Commits(queue.PROCESS.take_committed,
                                   queue.PROCESS.sites.get)
    try:
        _commits.check()
    except Exception:
        LOG.exception('Whether what this process has written is still there '
                      'cannot be told now')


def _resume() -> recovery.Resume | None:
    """Return the function that starts an import again, or None."""
    if not glance_interfaces.usable(glance_interfaces.TASK_EXECUTOR):
        return None
    from glance_dcn.imports import resume
    return resume.begin


def _wait_for_glance(conf: cfg.ConfigOpts) -> None:
    """Wait until Glance is loaded, which must not be disturbed.

    And until its stores are set up: nothing would be known of what a dead
    process has left in another.
    """
    while time.monotonic() - _since < _SETTLING or (
            # Each is shown as of another type once it is, see
            # driver._present_as_rbd().
            not (glance_interfaces.loaded()
                 and 'dcn' not in (conf.enabled_backends or {}).values())
            and time.monotonic() - _since < _PATIENCE):
        time.sleep(_PAUSE)


def remove_orphans(found: journal.Journal, age: float) -> list[str]:
    """Remove orphaned staged files, and return their paths.

    :param age: seconds for which a file must not have changed
    """
    staging = os.path.dirname(found.folder)
    owned = {entry.image for entry in found.entries()}
    removed = []
    for name in sorted(os.listdir(staging)):
        match = _IMAGE_FILE.match(name)
        path = os.path.join(staging, name)
        try:
            state = os.lstat(path)
        except FileNotFoundError:
            continue
        if (match is None or match[0] in owned
                or time.time() - max(state.st_mtime, state.st_ctime) <= age
                or not _is_orphan(match[0], name, staging)):
            continue
        LOG.warning('Staged file %s is an orphan: it is removed', path)
        try:
            folder.discard(path)
        except OSError as exc:
            LOG.warning('Staged file %(path)s cannot be removed: %(error)s',
                        {'path': path, 'error': exc})
            continue
        removed.append(path)
    return removed


def _is_orphan(image_id: str, name: str, staging: str) -> bool:
    from glance_dcn.upstream import database
    image = database.image(image_id)
    if image is None:
        return True
    if image['properties'].get(database.LOCK):
        return False
    if image['status'] in ('queued', 'active', 'deactivated'):
        # Its data is elsewhere, or it has none; being staged it would be
        # "uploading".
        return True
    # A half conversion: what it was made of is there.
    return (image['status'] == 'uploading' and name != image_id
            and os.path.exists(os.path.join(staging, image_id)))
