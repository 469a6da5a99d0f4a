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


"""What the system lets the Glance that runs on this node have."""

from __future__ import annotations

import contextlib
import os
import re
import typing

from glance_dcn.checks import registry
from glance_dcn.checks import subjects
from glance_dcn.runtime import limits
from glance_dcn.tasks import deployment as deployments
from glance_dcn.workers import leader

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    from oslo_config import cfg

# A leader's file, by its generation, and the process in it.
_LEAD = re.compile(r'lead\.(\d+)', re.ASCII)
_PID = re.compile(rb'pid (\d+) ', re.ASCII)


def _folders(conf: cfg.ConfigOpts) -> list[str]:
    """Return the folders that the processes of this Glance may share."""
    return leader.folders(conf, deployments.deployment_id(conf))


@registry.check(
    'limits', registry.NODE, 'The processes of Glance may have what they need '
    'for many sites',
    low=(registry.WARN, 'process %(pid)d of Glance: %(shortages)s',
         'raise the limit and start Glance again, or lower dcn_max_clients '
         'in [glance_dcn]: until then copies to many sites take longer'),
    unread=(registry.WARN, 'process %(pid)d of Glance cannot be inspected '
            '(%(error)s)', 'run this again, as root or as the user that '
            'Glance runs as'))
def process_limits(
        node: subjects.Node,
        folders: Callable[[cfg.ConfigOpts], list[str]] = _folders,
        limits_of: Callable[..., limits.ProcessLimits] = limits.ProcessLimits
        ) -> str:
    """Compare the limits of the Glance that runs here with its needs."""
    wanted = node.conf.glance_dcn.dcn_max_clients
    need = limits.ProcessLimits.need(wanted)
    pid = leading_process(folders(node.conf))
    if pid is None:
        return ('no Glance runs here; each of its processes needs %s threads '
                'and %s open files' % (need.threads, need.files))
    count = siblings(pid)
    try:
        found = limits_of(pid=pid).shortages(wanted, count)
    except (PermissionError, ProcessLookupError) as exc:
        raise registry.Found('unread', pid=pid, error=exc.strerror)
    if found:
        raise registry.Found('low', pid=pid, shortages='; '.join(
            map(str, found)))
    return ('process %d of Glance, and %d others, may have %s threads and %s '
            'open files each' % (pid, count - 1, need.threads, need.files))


def leading_process(folders: list[str], proc: str = '/proc') -> int | None:
    """Return the process that leads a host; None: none is found.

    What a file says counts only if the process has that file open: it may have
    ended, or be one of another container.

    :param folders: paths that the processes may share
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            names = [match for match in map(_LEAD.fullmatch,
                                            os.listdir(folder)) if match]
            for match in sorted(names, key=lambda match: -int(match[1])):
                path = os.path.join(folder, match[0])
                with open(path, 'rb') as file:
                    said = _PID.match(file.read(200))
                if said and _has_open(os.path.join(proc, said[1].decode()),
                                      path):
                    return int(said[1])
    return None


def siblings(pid: int, proc: str = '/proc') -> int:
    """Return how many processes serve, with one of them.

    :param pid: of that one; the others have the same parent and program
    """
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(proc, str(pid), 'stat')) as file:
            parent = file.read().rpartition(')')[2].split()[1]
        with open(os.path.join(proc, parent, 'task', parent,
                               'children')) as file:
            program = os.readlink(os.path.join(proc, str(pid), 'exe'))
            return max(1, sum(
                os.readlink(os.path.join(proc, child, 'exe')) == program
                for child in file.read().split()))
    return 1


def _has_open(process: str, path: str) -> bool:
    with contextlib.suppress(OSError):
        wanted = os.stat(path)
        folder = os.path.join(process, 'fd')
        for name in os.listdir(folder):
            # One may have been closed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(os.path.join(folder, name)),
                                    wanted):
                    return True
    return False
