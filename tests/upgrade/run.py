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

"""A rolling upgrade: a worker after the other, while they are used."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

from glance_dcn.ceph import omap
from glance_dcn.sites import home as homes
from glance_dcn.workers import registry
from lab import process
from tests.chaos import plan as plans
from tests.chaos import run as runs
from tests.chaos import stage as stages
from tests.upgrade import trees

_COMMAND = 'from glance_dcn.cmd import main\nmain.main()'
# Seconds until a release has done what it has recorded: what it has written
# last is held for a minute.
_DRAIN = 240
# Seconds within which a command ends: what a dead client holds is taken from
# it after half a minute, image by image.
_COMMANDS = 400
# More than are done.
_MANY = 4000


class Stage(stages.Stage):
    """A deployment whose workers, all at central, are of several releases.

    :ivar resting: numbers of the workers that get no requests
    """

    def __init__(self, state, say):
        super().__init__(state, say)
        self.resting = set()

    def api(self, site, number=0):
        """Return the API of a worker, or of one that is not resting."""
        workers = sorted(self._apis)
        while workers[number][1] in self.resting:
            number = (number + 1) % len(workers)
        return self._apis[workers[number]]


class _Plan:
    """Operations at central, until something is over.

    :param over: :class:`threading.Event`
    """

    def __init__(self, seed, sites, workers, over):
        self.faults = []
        self.operations = _Until(dataclasses.replace(
            operation, worker=(sites[0], operation.worker[1]))
            for operation in plans.Plan(seed, _MANY, sites, workers, 0,
                                        ()).operations)
        self.operations.over = over


class _Until(list):
    over = None

    def __iter__(self):
        for entry in super().__iter__():
            if self.over.is_set():
                return
            yield entry


class Upgrade:
    """Has all workers of a stage go from release to release.

    :ivar run: :class:`tests.chaos.run.Run`
    :ivar seen: versions of the records that workers have written, by the
        releases that they have said they are

    :param stage: :class:`Stage`
    :param made: paths of trees by their names
    :param log: called with a line of text
    """

    def __init__(self, stage, made, seed, clients, log):
        self._stage = stage
        self._trees = made
        self._log = log
        self._over = threading.Event()
        self._workers = [number for _site, number in stage.workers]
        self.seen = {}
        self.run = runs.Run(stage, _Plan(
            seed, stage.lab.sites, len(self._workers), self._over), seed,
            clients, log)

    def go(self, first, steps, pause):
        """Go from a release to each of the others, while it is used.

        :param first: name of the release that the workers are of
        :param steps: names of releases
        :param pause: seconds for which they are used before each step
        """
        using = threading.Thread(target=self.run.go)
        using.start()
        try:
            for step in steps:
                time.sleep(pause)
                for number in self._workers:
                    self._replace(number, first, step)
                first = step
            time.sleep(pause)
            self._note_releases()
        finally:
            self._over.set()
            using.join()

    def _replace(self, number, before, after):
        """Replace the release of a worker, as the guide tells."""
        # What one release has recorded, the other leaves alone.
        crossing = trees.LATER in (before, after) and before != after
        if crossing and number == self._workers[-1]:
            self._drain(number, before)
        self._note_releases()
        site = self._stage.lab.sites[0]
        self._stage.lab.glance(site, number).stop()
        if crossing:
            status, text = self._command(number, before, 'worker', 'recover')
            self._log('worker %d: %s' % (number, text))
            if status:
                raise process.LabError('worker recover: %s' % text)
        self._stage.lab.trees[site, number] = self._trees[after]
        self._stage.lab.glance(site, number).start()
        self._stage.resting.discard(number)
        self._log('worker %d is of release %s' % (number, after))

    def _drain(self, number, release):
        """Wait until nothing is left for the last worker of a release."""
        self._stage.resting.add(number)
        deadline = time.monotonic() + _DRAIN
        while True:
            status, text = self._command(number, release, 'task', 'list',
                                         '--all', '--format', 'json')
            if status in (0, 1) and not json.loads(text)['tasks']:
                return
            if time.monotonic() > deadline:
                raise process.LabError(
                    'release %s has left %s' % (release, text))
            time.sleep(3)

    def _command(self, number, release, *argv):
        """Run the command of a release; return its status and its words."""
        worker = self._stage.lab.glance(self._stage.lab.sites[0], number)
        tree = self._trees[release]
        command = subprocess.Popen(
            [sys.executable, '-X', 'faulthandler', '-c', _COMMAND, *argv],
            cwd=tree, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, OS_GLANCE_CONFIG_DIR=str(worker.etc),
                     PYTHONPATH=str(tree)))
        try:
            out, err = command.communicate(timeout=_COMMANDS)
        except subprocess.TimeoutExpired:
            # It tells where it is.
            command.send_signal(signal.SIGABRT)
            out, err = command.communicate()
            self._log(err)
            raise process.LabError('%s did not end within %d s' % (
                ' '.join(argv), _COMMANDS))
        return command.returncode, out or err

    def _note_releases(self):
        """Note which releases the workers say they are."""
        with self._stage.lab.cluster(self._stage.lab.sites[0]).pool() as ioctx:
            ioctx.set_namespace(homes.NAMESPACE)
            for _key, text in omap.walk(ioctx, registry.OBJECT, 'worker/'):
                record = json.loads(text)
                self.seen[record['release']] = record['version']
