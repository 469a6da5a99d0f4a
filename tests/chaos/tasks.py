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

"""The deferred tasks that the deployment shows.

The only module of the randomised run that knows how glance_dcn shows them.
"""

from concurrent import futures
import dataclasses
import importlib.util
import json
import subprocess
import sys

from lab import process

_MODULE = 'glance_dcn.cmd.main'
_PROGRAM = 'import sys; from %s import main; sys.exit(main())' % _MODULE
# There are no tasks, there are some. Any other exit status is a failure.
_ANSWERS = (0, 1)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A deferred task.

    :ivar site: store that it is for
    :ivar action: what is to be done
    :ivar image: name of the RBD image
    """

    site: str
    action: str
    image: str


def pending(stage):
    """Return the deferred tasks of all sites, a list of :class:`Entry`.

    Each Glance keeps its own in the pool of its default store: every site is
    asked.

    :param stage: :class:`tests.chaos.stage.Stage`
    :returns: None where this glance_dcn has no such command
    :raises lab.process.LabError: if the command fails
    """
    if not is_shown():
        return None
    folders = {stage.lab.glance(site).etc for site in stage.lab.sites}
    with futures.ThreadPoolExecutor() as pool:
        return sorted({entry for found in pool.map(_ask, folders)
                       for entry in found}, key=dataclasses.astuple)


def is_shown():
    """Return whether this glance_dcn has the command ``task list``."""
    try:
        return importlib.util.find_spec(_MODULE) is not None
    except ModuleNotFoundError:
        return False


def parse(text):
    """Read the output of ``glance-dcn task list --format json``.

    A record that cannot be understood counts as a task.
    """
    shown = json.loads(text)
    return [*(Entry(row['store'], row['action'], row['image'])
              for row in shown['tasks']),
            *(Entry(row['key'], 'cannot be understood', row['reason'])
              for row in shown['unreadable'])]


def _ask(folder):
    done = subprocess.run(
        [sys.executable, '-c', _PROGRAM, '--config-dir', folder, 'task',
         'list', '--format', 'json'], capture_output=True, text=True,
        timeout=120)
    if done.returncode not in _ANSWERS:
        raise process.LabError('glance-dcn task list ended with %d: %s' % (
            done.returncode, (done.stderr or done.stdout)[-2000:]))
    return parse(done.stdout)
