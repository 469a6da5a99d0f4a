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


"""Killing a worker again and again, and what becomes of its imports."""

import collections
import dataclasses
import statistics
import time

import rbd

from lab import process
from tests.chaos import report
from tests.functional.api import base
from tests.kills import scene as scenes

METHODS = ('glance-direct', 'web-download', 'copy-image')

#: What is told of kills at times at which there is no journal.
BEFORE, AFTER = 'before', 'after'
# Seconds a worker has, after its restart, for making an image usable, and an
# import that is begun anew for its end.
LIMIT = 30
_REPEAT = 60


@dataclasses.dataclass
class Kill:
    """One kill, and what came of it.

    :ivar method: import method
    :ivar phase: what the journal said when the worker was killed
    :ivar outcome: ``resumed``, ``put back``, ``partial`` if some stores were
        left to the user, or ``locked`` if it was none of these within the
        time
    :ivar seconds: from the start of the worker until the image was usable
    :ivar wrong: list of what was not as it should be
    """

    method: str
    phase: str
    outcome: str
    seconds: float
    wrong: list


def one(scene, method, moment, whole=True, limit=LIMIT, meanwhile=None):
    """Kill the worker once.

    :param scene: :class:`tests.kills.scene.Scene`
    :param method: import method
    :param moment: called with the :class:`tests.kills.scene.Job` once it has
        begun; returns when it is time to kill
    :param whole: see :meth:`tests.kills.scene.Scene.kill`
    :param limit: seconds for the image to become usable
    :param meanwhile: called with the job while the worker is dead
    :returns: :class:`Kill`
    """
    job = scenes.Job(scene, method)
    job.begin()
    moment(job)
    scene.kill(whole)
    phase = scene.phase(job.image_id)
    if meanwhile:
        process.wait_for('the end of its processes', lambda: process.is_free(
            scene.own.worker.service.port), 20)
        meanwhile(job)
    started = time.monotonic()
    scene.restart() if whole else None
    state = job.usable(limit)
    seconds = time.monotonic() - started
    if phase is None:
        phase = AFTER if state == 'active' else BEFORE
    wrong = []
    if state is None:
        wrong.append('locked: %s' % _describe(job))
    else:
        if state != 'active':
            wrong += _go_on(job, job.begin if state == 'importable'
                            else job.complete)
        wrong += job.wrong()
    wrong += job.remove()
    outcome = {'active': 'resumed', 'importable': 'put back',
               'partial': 'partial', None: 'locked'}[state]
    return Kill(method, phase, outcome, seconds, wrong)


def _go_on(job, begin):
    """Begin an import anew, or a copy, as a user would who was told to."""
    begin()
    state = job.usable(_REPEAT)
    return [] if state == 'active' else [
        'gone on with in vain: %s' % _describe(job)]


def _describe(job):
    image = job.image()
    return '%s %s, stores %s, importing %s, failed %s, lock %s; %s' % (
        job.image_id, image['status'], image.get('stores'),
        image.get('os_glance_importing_to_stores'),
        image.get('os_glance_failed_import'),
        image.get('os_glance_import_task'), job.api.messages(job.image_id))


def reaches(phase):
    """Return a moment: when the journal has come to a phase."""
    def moment(job):
        process.wait_for(
            phase, lambda: job.scene.phase(job.image_id) == phase, 30, .001)
    return moment


def begins_to_store(job):
    """Be the moment at which a store holds the beginning of an image."""
    site = job.targets[0]
    cluster = base.lab().cluster(site)

    def has_begun():
        with cluster.pool() as ioctx:
            return job.image_id in rbd.RBD().list(ioctx)
    process.wait_for('RBD image', has_begun, 30, .05)
    time.sleep(.3)


def after(seconds):
    """Return a moment: so many seconds after the beginning."""
    return lambda job: time.sleep(seconds)


def duration(scene, method):
    """Return the seconds that an import takes which nobody disturbs."""
    job = scenes.Job(scene, method)
    started = time.monotonic()
    job.begin()
    state = job.usable(120)
    spent = time.monotonic() - started
    if state != 'active' or job.wrong() or job.remove():
        raise process.LabError('%s fails without any kill: %s'
                               % (method, _describe(job)))
    return spent


def summary(kills):
    """Return the table of kills by method and phase, as text.

    :param kills: list of :class:`Kill`
    """
    outcomes = sorted({kill.outcome for kill in kills})
    lines = [('method and phase', 'kills', *outcomes, 'wrong',
              'median s to usable', 'longest')]
    groups = collections.defaultdict(list)
    for kill in kills:
        groups['%s: %s' % (kill.method, kill.phase)].append(kill)
        groups['~all'].append(kill)
    for name, mine in sorted(groups.items()):
        counts = collections.Counter(kill.outcome for kill in mine)
        seconds = [kill.seconds for kill in mine]
        lines.append((name.lstrip('~'), len(mine),
                      *(counts[each] or '-' for each in outcomes),
                      sum(bool(kill.wrong) for kill in mine) or '-',
                      '%.1f' % statistics.median(seconds),
                      '%.1f' % max(seconds)))
    return report.table(lines)
