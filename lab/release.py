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

"""Glance in an environment of its own, a release with libraries of its time.

``lab/releases`` has what is installed with each release but the newest, which
is that of ``lab/constraints.txt``.
"""

import contextlib
import importlib.metadata
import pathlib
import shutil
import sys

from lab import process

TOP = pathlib.Path(__file__).resolve().parents[1]
NEWEST = 33
#: Where environments are made, unless they are told another folder.
FOLDER = TOP / '.releases'

_PROGRAMS = pathlib.Path(sys.executable).parent


def programs(release):
    """Return the folder of the programs of a release of Glance.

    It is installed if it is not there, for this interpreter; uWSGI is ours.

    :raises lab.process.LabError: if it cannot be installed
    """
    if release == NEWEST:
        # The one that everything else is developed with.
        return _PROGRAMS
    venv = FOLDER / ('glance-%d' % release)
    install(venv, release)
    if not (venv / 'bin' / 'uwsgi').exists():
        # Building it takes longer than all the rest.
        shutil.copy(_PROGRAMS / 'uwsgi', venv / 'bin')
    return venv / 'bin'


def install(venv, release, run=process.run):
    """Make an environment with a release of Glance, unless it is there.

    :param venv: its folder
    :param run: what runs a command; for the parameters see
        :func:`lab.process.run`
    :returns: whether it was not there
    :raises lab.process.LabError: if it cannot be made
    """
    lab = TOP / 'lab'
    constraints = lab / 'constraints.txt'
    requirements = [TOP / 'requirements.txt', TOP / 'test-requirements.txt']
    if release == NEWEST:
        requirements.append(lab / 'requirements.txt')
    else:
        constraints = lab / 'releases' / ('%d.txt' % release)
        requirements.append(lab / 'releases/requirements.txt')
    wanted = ''.join(path.read_text() for path in (
        constraints, *requirements, TOP / 'setup.cfg', TOP / 'pyproject.toml'))
    mark = venv / 'installed'
    with contextlib.suppress(FileNotFoundError):
        if mark.read_text() == wanted:
            return False
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(exist_ok=True)
    python = venv / 'bin/python'
    run(['/usr/bin/python3', '-m', 'venv', '--without-pip', venv])
    run([TOP / 'tools/link-ceph.sh', python])
    # A tenth of the CPU time of pip.
    uv = [_PROGRAMS / 'uv', 'pip', 'install', '--quiet',
          '--compile-bytecode', '--python', python]
    run([*uv, '-c', constraints,
         *(part for path in requirements for part in ('-r', path))],
        timeout=1800)
    # A root folder may have no history to take the version from.
    run([*uv, '--no-deps', '-e', TOP], env={
        'PBR_VERSION': importlib.metadata.version('glance-dcn')})
    mark.write_text(wanted)
    return True
