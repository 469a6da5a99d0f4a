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


"""Looking at the staging folder, in the process that leads at its host.

It begins when the process does, beside its requests: nothing waits for it.
Each process keeps the journal of its own imports.
"""

import logging
import os
import time

from glance_dcn import background
from glance_dcn import glance_interfaces
from glance_dcn import plugins
from glance_dcn.runtime import green
from glance_dcn.staging import accepted
from glance_dcn.staging import durable
from glance_dcn.staging import folder
from glance_dcn.staging import journal
from glance_dcn.staging import options
from glance_dcn.staging import recovery
from glance_dcn.staging import residue
from glance_dcn.staging import running
from glance_dcn.tasks import queue

LOG = logging.getLogger(__name__)

# Seconds between looks at the journal.
_INTERVAL = 5
# Seconds from the last store that was set up to the first look, and until
# one is had even if Glance has not come up.
_SETTLING = 1
_PATIENCE = 20
_PAUSE = 0.2

_conf = None
_since = 0
_watch = None
_gate = None
_said = False
_commits = None


def start(conf):
    """Look after what dead processes leave, from now on.

    Called as each store is set up.

    :param conf: oslo.config object
    """
    global _conf, _since, _watch
    if not queue.PROCESS.enabled:
        return
    options.register(conf)
    _conf, _since = conf, time.monotonic()
    if _watch is None:
        _mark_older()
        _watch = background.Periodic('glance-dcn-recovery', _look, _INTERVAL)
        _watch.start()
        queue.PROCESS.lead.on_lead(_watch.wake)


def _mark_older():
    """Tell what was staged before the host was restarted from the rest."""
    staging = folder.path(_conf)
    # Glance makes it when it is first used.
    if not staging or not os.path.isdir(staging):
        return
    try:
        durable.mark_older(staging, os.path.join(staging, journal.FOLDER))
    except OSError as exc:
        LOG.warning('What was uploaded before this host was restarted cannot '
                    'be told in %(folder)s (%(error)s), and is believed: see '
                    'that it is there and belongs to the user of Glance',
                    {'folder': staging, 'error': exc})


def ask_first(function):
    """Have a function asked each time before what is left is seen to.

    :param function: without arguments; returns whether to go on
    """
    global _gate
    _gate = function


def _look():
    _wait_for_glance()
    _look_after_commits()
    found = folder.of(_conf)
    if found is None or not (
            glance_interfaces.usable(glance_interfaces.DATABASE)
            and glance_interfaces.usable(glance_interfaces.IMAGE_LOCK)):
        return
    chosen = _conf[options.GROUP]
    used = plugins.staging_is_used(_conf)
    if used and glance_interfaces.usable(glance_interfaces.TASK_EVENTS):
        green.call(accepted.listen, _conf)
    if not queue.PROCESS.lead.is_held:
        return
    # A peer that took this worker for gone may be at it. While nothing is
    # left, the registry is not asked.
    if _gate is None or all(map(running.get, found.tasks())) or _gate():
        recovery.recover(found,
                         _rerun() if chosen.resume_imports else None)
    if used:
        _say_doubts()
        residue.look(found, chosen.staging_residue_age)


def _look_after_commits():
    """Look whether what this process was about to save is still there."""
    global _commits
    if not glance_interfaces.usable(glance_interfaces.DATABASE):
        return
    # The database of Glance is there by now, see _wait_for_glance().
    from glance_dcn.staging import located
    if _commits is None:
        _commits = located.Commits(queue.PROCESS.take_committed,
                                   queue.PROCESS.sites.get)
    try:
        _commits.look()
    except Exception:
        LOG.exception('Whether what this process has written is still there '
                      'cannot be told now')


def _rerun():
    """Return the function that starts an import again, or None."""
    if not glance_interfaces.usable(glance_interfaces.TASK_EXECUTOR):
        return None
    from glance_dcn.staging import rerun
    return rerun.begin


def _wait_for_glance():
    """Wait until Glance is there: what it is loading is not to be touched.

    And until its stores are: of an image that a dead process has left in one,
    nothing would be known.
    """
    while time.monotonic() - _since < _SETTLING or (
            not (glance_interfaces.loaded() and _stores_are_set_up())
            and time.monotonic() - _since < _PATIENCE):
        time.sleep(_PAUSE)


def _stores_are_set_up():
    # Each is shown as of another type once it is, see driver._present_as_rbd.
    return 'dcn' not in (_conf.enabled_backends or {}).values()


def _say_doubts():
    global _said
    if not _said:
        _said = True
        for sentence in folder.doubts(_conf):
            LOG.warning(sentence)
