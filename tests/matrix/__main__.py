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

"""Combinations of Glance, Ceph and Python, each with all functions.

A combination is what of a deployment is not of the same age: a release of
Glance and the program that serves it, Ceph at the hosts of Glance (the
clients) and in the clusters (the servers). What is not that of this machine is
in root folders that mmdebstrap makes, and in virtual environments, all below
``.releases``. Outcomes go into the table of the guide; one that was not run
stands there as such.
"""

import argparse
import contextlib
import csv
import dataclasses
import datetime
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

from lab import process
from lab import release

TABLE = release.TOP / 'doc/source/install/combinations.csv'
#: Rooms of the functional tests; other rooms test no function of Glance.
ROOMS = ('api', 'ceph', 'deploy', 'engine', 'faults', 'operate', 'sites',
         'staging', 'store', 'tasks')
#: Rooms of the unit tests that know Glance or Ceph.
UNIT_ROOMS = ('ceph', 'cmd', 'engine', 'images', 'imports', 'runtime', 'sites',
              'store', 'tasks', 'upstream', 'workers')

_HERE = platform.freedesktop_os_release().get('VERSION_CODENAME', '')
_NOT_RUN = 'not run'
_SERVERS = ('ceph-authtool', 'ceph-mon', 'ceph-osd', 'monmaptool')
_HEAD = ('Combination', 'Glance', 'glance_store', 'SQLAlchemy', 'Python',
         'Ceph of clients, servers', 'Run on', 'Tests', 'Outcome')
# What a combination has, one thing a line.
_VERSIONS = """
import importlib.metadata, platform
for name in ('glance', 'glance_store', 'SQLAlchemy'):
    print(importlib.metadata.version(name))
print(platform.python_version())
"""


@dataclasses.dataclass(frozen=True)
class Combination:
    """What is run together.

    :ivar name: what it is asked for by
    :ivar glance: release
    :ivar server: ``uwsgi`` or ``eventlet``, see :mod:`lab.glance`
    :ivar clients: suite of Debian whose Ceph and Python Glance has
    :ivar servers: suite of Debian whose Ceph the clusters have
    """

    name: str
    glance: int = release.NEWEST
    server: str = 'uwsgi'
    clients: str = 'bookworm'
    servers: str = 'bookworm'


COMBINATIONS = [
    *(Combination('glance-%d-%s' % (number, server), number, server)
      for number in range(26, release.NEWEST + 1)
      for server in ('uwsgi', 'eventlet')
      # It has no program of its own any more.
      if (number, server) != (release.NEWEST, 'eventlet')),
    *(Combination('ceph-%s-%s' % pair, clients=pair[0], servers=pair[1])
      for pair in (('bookworm', 'trixie'), ('trixie', 'bookworm'),
                   ('trixie', 'trixie'), ('bookworm', 'sid'),
                   ('sid', 'bookworm'), ('sid', 'sid'))),
]


class Environment:
    """Where a combination runs: programs, and how they are started.

    :param combination: :class:`Combination`
    :param state: folder for what lasts as long as the run
    :raises lab.process.LabError: if it cannot be made
    """

    def __init__(self, combination, state):
        self._prefix = []
        path = ['/usr/sbin', '/usr/bin', '/sbin', '/bin']
        self._variables = {
            'TMPDIR': str(state), 'GLANCE_DCN_LAB': str(state / 'lab'),
            'GLANCE_DCN_SERVER': combination.server,
            'PYTHONFAULTHANDLER': '1'}
        if combination.clients == _HERE:
            programs = release.programs(combination.glance)
            # One Keystone serves all releases of Glance.
            self._variables['GLANCE_DCN_KEYSTONE'] = str(
                release.programs(release.NEWEST))
        else:
            self._prefix = [release.TOP / 'tools/in-root.sh',
                            make_root(combination.clients)]
            venv = release.FOLDER / ('glance-%d-%s' % (
                combination.glance, combination.clients))
            release.install(venv, combination.glance, self._call)
            programs = venv / 'bin'
        if combination.servers != combination.clients:
            path.insert(0, _make_programs(combination.servers, state))
        self._variables['PATH'] = ':'.join(map(str, [programs, *path]))

    def run(self, *argv, **kwargs):
        """Run a program to its end; for the parameters see subprocess.run."""
        return subprocess.run(
            [*self._prefix, *argv], cwd=release.TOP, check=True, text=True,
            env=dict(os.environ, **self._variables), **kwargs)

    def versions(self):
        """Return versions, as the table has them."""
        lines = self._say('python', '-c', _VERSIONS)
        # Of clients, and of servers.
        ceph = [self._say(program, '--version')[0].split()[2].partition('+')[0]
                for program in ('ceph', 'ceph-mon')]
        return [*lines, ', '.join(ceph)]

    def _say(self, *argv):
        return self.run(*argv, stdout=subprocess.PIPE).stdout.splitlines()

    def _call(self, argv, **kwargs):
        """Run a command there as :func:`lab.process.run` does."""
        return process.run([*self._prefix, *argv], **kwargs)


def make_root(suite):
    """Return the root folder of a suite of Debian; make it if it is not there.

    It has the packages that bindep.txt names.
    """
    root = release.FOLDER / 'roots' / suite
    if not root.exists():
        packages = process.run([
            pathlib.Path(sys.executable).parent / 'bindep', '--list_all',
            'csv', 'test', '--file', release.TOP / 'bindep.txt']).strip()
        root.parent.mkdir(parents=True, exist_ok=True)
        made = root.with_suffix('.new')
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run(
            ['mmdebstrap', '--quiet', '--variant=apt',
             # A mirror may stand still.
             '--aptopt=Acquire::Check-Valid-Until "false"',
             '--aptopt=APT::Install-Recommends "false"',
             '--include', packages, suite, made], check=True)
        made.rename(root)
    return root


def _make_programs(suite, state):
    """Return a folder with the programs of a cluster of a suite of Debian."""
    root = make_root(suite)
    folder = state / 'servers'
    folder.mkdir()
    for name in _SERVERS:
        program = folder / name
        program.write_text('#!/bin/sh\nexec %s %s /usr/bin/%s "$@"\n' % (
            release.TOP / 'tools/in-root.sh', root, name))
        program.chmod(0o755)
    return folder


def run(combination, rooms, jobs):
    """Run a combination.

    :returns: its row of the table, and whether all was well
    """
    state = pathlib.Path(tempfile.mkdtemp(prefix='dcn-matrix-'))
    # Tests of what an unprivileged user may read have their files below it.
    state.chmod(0o711)
    patterns = ['tests/functional/%s/test_*.py' % room for room in rooms]
    if rooms == ROOMS:
        patterns += ['tests/unit/%s/test_*.py' % room for room in UNIT_ROOMS]
    log = release.FOLDER / 'logs' / ('%s.log' % combination.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    outcome = 'the lab does not come up'
    try:
        environment = Environment(combination, state)
        versions = environment.versions()
        try:
            environment.run('python', '-m', 'lab', 'up', '--database',
                            'mariadb')
            with log.open('w') as file, contextlib.suppress(
                    subprocess.CalledProcessError):
                environment.run('python', '-W', 'ignore',
                                'tools/run-modules.py', '-j', str(jobs),
                                *patterns, stdout=file, stderr=file)
            outcome = log.read_text().splitlines()[-1]
        except subprocess.CalledProcessError:
            pass
        finally:
            process.end_all(state)
    finally:
        shutil.rmtree(state, ignore_errors=True)
    row = [combination.name, *versions, datetime.date.today().isoformat(),
           'all' if rooms == ROOMS else ', '.join(rooms), outcome]
    return row, bool(re.fullmatch('[1-9][0-9]* passed, 0 failed, .*', outcome))


def record(row):
    """Write a row into the table, in the place of older ones.

    Rooms that are run by themselves have a row each time, until all are run.
    """
    rows = []
    with contextlib.suppress(FileNotFoundError), TABLE.open() as file:
        rows = [old for old in list(csv.reader(file))[1:] if not (
            old[0] == row[0] and (row[-2] in ('all', old[-2])))]
    rows.append(row)
    with TABLE.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(_HEAD)
        for combination in COMBINATIONS:
            found = [old for old in rows
                     if old[0] == combination.name and old[-1] != _NOT_RUN]
            writer.writerows(found or [
                [combination.name, *[''] * (len(_HEAD) - 2), _NOT_RUN]])


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='tools/run-matrix.sh', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='combinations: %s' % ', '.join(
            combination.name for combination in COMBINATIONS))
    add = result.add_argument
    add('names', nargs='*', metavar='COMBINATION',
        help='which (default: all)')
    add('--rooms', default=','.join(ROOMS), metavar='A,B,...',
        help='rooms of functional tests (default: all, and unit tests)')
    add('-j', type=int, default=4, metavar='N',
        help='functional tests side by side (default: %(default)s)')
    return result


def main(argv=None):
    """Run the command line and return the exit code."""
    arguments = parser()
    args = arguments.parse_args(argv)
    known = {combination.name: combination for combination in COMBINATIONS}
    for name in args.names:
        if name not in known:
            arguments.error('there is no combination %s; see --help' % name)
    rooms = tuple(args.rooms.split(','))
    for room in rooms:
        if room not in ROOMS:
            arguments.error('there is no room %s; there are %s' % (
                room, ', '.join(ROOMS)))
    # What a combination has started is ended then.
    process.exit_on_sigterm()
    good = True
    for name in args.names or known:
        row, well = run(known[name], rooms, args.j)
        record(row)
        print(' '.join(row), flush=True)
        good = good and well
    return int(not good)


if __name__ == '__main__':
    sys.exit(main())
