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

import dataclasses
import json
import sys

from lab import process

_MODULE = 'glance_dcn.cmd.main'


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
    site is asked once.

    :param stage: :class:`tests.chaos.stage.Stage`
    :returns: None where this glance_dcn has no such command
    :raises lab.process.LabError: if the command fails
    """
    if not is_shown():
        return None
    found = []
    for site in stage.lab.sites:
        shown = process.run([
            sys.executable, '-m', _MODULE, '--config-dir',
            stage.lab.glance(site).etc, 'owed', '--format', 'json'],
            timeout=60)
        found += parse(shown)
    return found


def is_shown():
    """Return whether this glance_dcn has the command ``owed``."""
    try:
        __import__(_MODULE)
    except ImportError:
        return False
    return True


def parse(text):
    """Read the output of ``glance-dcn owed --format json``."""
    shown = json.loads(text)
    return [Entry(*(str(row.get(key, '?')) for key in
                    ('site', 'job', 'image'))) for row in shown]
