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

"""Deal tests out to workers so that all of these end at about the same time.

stestr knows how long a test takes only from runs on the same machine, and
never counts what a class takes to start its clusters. ``tests/seconds.txt``
has both for each class, from a former run::

    tools/partition-tests.py deal 4 [REGEX...] > FILE
    stestr run --worker-file FILE [REGEX...]
    tools/partition-tests.py record

The first writes a worker file of stestr's, the last one takes the times of
the last run over. A test that was not recorded is run as well.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import heapq
import io
import json
import pathlib
import re
import subprocess
import sys

import subunit
import testtools

_ROOT = pathlib.Path(__file__).parents[1]
_SECONDS = _ROOT / 'tests' / 'seconds.txt'
# Seconds of a class that was not recorded, by the beginning of its name.
_ASSUMED = {'tests.functional.': 10.0, '': 0.2}
# Shorter ones are not worth a line.
_SHORTEST = 1.0


def class_of(test: str) -> str:
    """Return the name of a test's class."""
    # What is in brackets may have dots: it names a scenario.
    return test.split('(')[0].rpartition('.')[0]


class Timer(testtools.StreamResult):
    """Add up what the classes of a run took, their preparation included.

    :ivar seconds: by class
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._before: dict[str, datetime.datetime] = {}
        self._first: datetime.datetime | None = None

    def status(self, test_id=None, test_status=None, test_tags=None,
               timestamp=None, **kwargs) -> None:
        """Take an event: from one end to the next is what a worker took."""
        if not test_id or test_status in (None, 'exists') or not timestamp:
            return
        self._first = self._first or timestamp
        if test_status == 'inprogress':
            # That a test begins is told without the worker it begins in.
            return
        worker = ','.join(sorted(test_tags or ()))
        before = self._before.get(worker, self._first)
        self.seconds[class_of(test_id)] += (timestamp - before).total_seconds()
        self._before[worker] = timestamp


def read_seconds(path: pathlib.Path = _SECONDS) -> dict[str, float]:
    """Return the recorded seconds of classes."""
    lines = (line.split() for line in path.read_text().splitlines()
             if not line.startswith('#'))
    return {name: float(seconds) for seconds, name in lines}


def write_seconds(seconds: dict[str, float],
                  path: pathlib.Path = _SECONDS) -> None:
    """Record the seconds of classes, the longest first."""
    kept = sorted((-round(value, 1), name) for name, value in seconds.items()
                  if value >= _SHORTEST)
    path.write_text(
        '# Seconds of each class of tests, with its preparation, in a run of '
        'all.\n# Written by tools/partition-tests.py.\n' + ''.join(
            '%.1f %s\n' % (-value, name) for value, name in kept))


def assumed(name: str) -> float:
    """Return the seconds of a class that was not recorded."""
    return next(value for start, value in _ASSUMED.items()
                if name.startswith(start))


def partition(classes: set[str], workers: int,
              seconds: dict[str, float]) -> list[list[str]]:
    """Deal classes out, the longest first, each to the least loaded worker.

    :param workers: number of workers
    :returns: a list of classes for each worker that has any
    """
    heap: list[tuple[float, int, list[str]]] = [
        (0.0, number, []) for number in range(workers)]
    known = {name: seconds.get(name, assumed(name)) for name in classes}
    for name in sorted(classes, key=lambda name: (-known[name], name)):
        total, number, dealt = heapq.heappop(heap)
        dealt.append(name)
        heapq.heappush(heap, (total + known[name], number, dealt))
    return [dealt for _total, _number, dealt in heap if dealt]


def worker_file(parts: list[list[str]]) -> str:
    """Return a worker file of stestr's, for ``--worker-file``."""
    # JSON is YAML.
    return json.dumps([
        {'worker': ['^%s\\.[^.]+(\\(.*)?$' % re.escape(name)
                    for name in part]} for part in parts], indent=1) + '\n'


def _run(*argv: str) -> bytes:
    return subprocess.run(argv, cwd=_ROOT, check=True,
                          stdout=subprocess.PIPE).stdout


def _deal(args: argparse.Namespace) -> None:
    if not (_ROOT / '.stestr').exists():
        _run('stestr', 'init')
    tests = _run('stestr', 'list', *args.regex).decode().split('\n')
    classes = {class_of(test) for test in tests if test.strip()}
    print(worker_file(partition(classes, args.workers, read_seconds())),
          end='')


def _record(_args: argparse.Namespace) -> None:
    timer = Timer()
    stream = subprocess.run(['stestr', 'last', '--subunit'], cwd=_ROOT,
                            stdout=subprocess.PIPE).stdout
    subunit.ByteStreamToStreamResult(io.BytesIO(stream)).run(timer)
    write_seconds(timer.seconds)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    deal = commands.add_parser('deal', help='write a worker file of stestr')
    deal.add_argument('workers', type=int)
    deal.add_argument('regex', nargs='*')
    deal.set_defaults(run=_deal)
    record = commands.add_parser('record', help='take over the last run')
    record.set_defaults(run=_record)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == '__main__':
    sys.exit(main())
