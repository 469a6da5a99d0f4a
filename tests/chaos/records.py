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

"""What the deployment says it still owes to its sites.

The only place of the randomised run that knows how glance_dcn shows it.
"""

from concurrent import futures
import dataclasses
import importlib.util
import json
import subprocess
import sys

from lab import process

_MODULE = 'glance_dcn.cmd.main'
# Also where the package is not installed, but found by PYTHONPATH.
_PROGRAM = 'import sys; from %s import main; sys.exit(main())' % _MODULE
# Nothing is owed, something is. What it exits with else is a failure.
_ANSWERS = (0, 1)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Work that is owed.

    :ivar site: whom it is owed to
    :ivar job: what is to be done
    :ivar image: name of the RBD image
    """

    site: str
    job: str
    image: str


def pending(stage):
    """Return what is owed, a list of :class:`Entry`.

    Each Glance writes it down in the pool of its own default store: every
    site is asked.

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
    """Return whether this glance_dcn has the command ``owed``."""
    try:
        return importlib.util.find_spec(_MODULE) is not None
    except ModuleNotFoundError:
        return False


def parse(text):
    """Read the output of ``glance-dcn owed --format json``.

    A place that cannot be read counts as work that is owed.
    """
    shown = json.loads(text)
    return [*(Entry(row['store'], row['job'], row['image'])
              for row in shown['owed']),
            *(Entry(row['store'], 'cannot be read', row['error'])
              for row in shown['unread'])]


def _ask(folder):
    done = subprocess.run(
        [sys.executable, '-c', _PROGRAM, '--config-dir', folder, 'owed',
         '--format', 'json'], capture_output=True, text=True, timeout=120)
    if done.returncode not in _ANSWERS:
        raise process.LabError('glance-dcn owed ended with %d: %s' % (
            done.returncode, (done.stderr or done.stdout)[-2000:]))
    return parse(done.stdout)
