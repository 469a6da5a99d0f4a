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

"""What absent sites cost: ``python -m bench.absent``. See README.rst.

A Glance is started with all of its sites there, with one of three away, and
with 20 of 21 away; each time its start and calls that need no absent site are
measured, for stock beside glance_dcn.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

from bench import api
from bench import sites as fakes
from bench import source as sources
from bench import stage as stages
from lab import deployment
from lab import faults
from lab import glance
from lab import process

_CENTRAL = deployment.CENTRAL
_SIZE = 4 << 20
#: type of store and options, by side.
SIDES = {
    'stock': ('rbd', {}),
    'stock-5s': ('rbd', {'rados_connect_timeout': 5}),
    'ours': ('dcn', {}),
}
#: Number of sites there are, of those that are away, and whether these leave
#: only when Glance has used them, by situation.
SITUATIONS = {'0 of 3': (3, 0, False), '1 of 3': (3, 1, False),
              '1 of 3 later': (3, 1, True), '20 of 21': (21, 20, False)}
START = 'start'
# How often calls of milliseconds are made for each of the others.
_OFTEN = {'list': 10, 'stores-info': 10}
# What is promised: seconds a start may take longer, and how many times as
# long a call may take.
_START_LIMIT, _CALL_LIMIT = 1.0, 1.2
_FAILURES = (api.JobFailed, process.LabError, OSError)


@dataclasses.dataclass
class Figure:
    """The times of one call of a side in a situation.

    :ivar situation: of :data:`SITUATIONS`
    :ivar call: ``start``, or a name of :meth:`Calls.all`
    :ivar side: of :data:`SIDES`
    :ivar seconds: list of what the runs took
    :ivar error: why there are no more runs, or None
    """

    situation: str
    call: str
    side: str
    seconds: list = dataclasses.field(default_factory=list)
    error: str = None

    @property
    def median(self):
        """Median of the seconds, or None when it failed."""
        if self.error or not self.seconds:
            return None
        return statistics.median(self.seconds)

    def __str__(self):
        if self.error:
            return self.error
        return '%.3f' % self.median if self.seconds else '-'


class Calls:
    """The calls that are measured, in the order they follow on each other.

    :param client: :class:`bench.api.Client`
    :param uri: where the image is downloaded from
    :param target: store to copy to, or None where no other is there
    """

    def __init__(self, client, uri, target):
        self._client = client
        self._uri = uri
        self._target = target
        self._image = None

    def all(self):
        """Return (name, function) of each call."""
        calls = [('list', self._client.list_images),
                 ('stores-info', self._client.stores),
                 ('import', self._import),
                 ('download', lambda: self._client.download(self._image))]
        if self._target:
            calls.append(('copy', lambda: self._client.copy(
                self._image, [self._target])))
        return [*calls, ('delete', lambda: self._client.delete(self._image))]

    def before(self, name):
        """Do what a call needs, without a clock."""
        if name == 'import':
            self._image = self._client.create('bench-absent', 'raw')
        elif name == 'delete' and self._target:
            # The same in every situation: one location, not two.
            self._client.delete_from(self._target, self._image)

    def use(self, stores):
        """Have Glance connect to the sites of stores."""
        image = self._client.create('bench-absent', 'raw')
        self._client.web_download(image, self._uri, stores)
        self._client.delete(image)

    def _import(self):
        self._client.web_download(self._image, self._uri, [_CENTRAL])


class Absence:
    """Measures all situations of a side.

    :param stage: :class:`bench.stage.Stage`, without its Glances
    :param session: keystoneauth session
    :param uri: where the image is downloaded from
    :param args: parsed command line
    """

    def __init__(self, stage, session, uri, args):
        self._stage = stage
        self._session = session
        self._uri = uri
        self._runs = args.runs
        self._patience = args.patience
        self._say = stage.say
        self.figures = []

    def measure(self, side, situation):
        """Measure start and calls of a side in a situation."""
        count, away, later = SITUATIONS[situation]
        with contextlib.ExitStack() as stack:
            if away and not later:
                self._send_away(stack, count)
            stores = self._stores(stack, side, count)
            worker = self._worker(side, stores)
            stack.callback(worker.stop)
            if not self._start(worker, side, situation, later):
                return
            client = api.Client(self._session, worker.url, self._patience,
                                self._stage.path_of_database(side))
            calls = Calls(client, self._uri,
                          'dcn0' if count - away > 1 else None)
            if later:
                calls.use(list(stores))
                self._send_away(stack, count)
            self._call(calls, side, situation)

    def _send_away(self, stack, count):
        """Let the last of the real sites hang, if it is one of them."""
        clusters = list(self._stage.clusters.values())
        if count == len(clusters):
            stack.callback(faults.heal, clusters[-1])
            faults.cause(clusters[-1], 'freeze')

    def _stores(self, stack, side, count):
        """Return the stores of a Glance."""
        kind, options = SIDES[side]
        clusters = dict(self._stage.clusters)
        if count > len(clusters):
            clusters = {_CENTRAL: clusters[_CENTRAL]}
            clusters.update(stack.enter_context(fakes.unreachable(
                self._stage.state / 'fakes', count - 1,
                clusters[_CENTRAL].keyring('glance'))))
        stores = {}
        for name, cluster in clusters.items():
            store = glance.rbd_store(cluster)
            del store['rados_connect_timeout']
            stores[name] = (kind, dict(store, **options))
        return stores

    def _worker(self, side, stores):
        folder = self._stage.state / 'glance'
        shutil.rmtree(folder, ignore_errors=True)
        worker = glance.Glance(
            'glance', folder, process.free_port(), self._stage.keystone,
            self._stage.database.url('glance-%s' % side), stores, _CENTRAL)
        worker.sync_database()
        return worker

    def _start(self, worker, side, situation, later):
        """Start it as often as wanted; return whether it came up."""
        figure = (Figure(situation, START, side) if later
                  else self._figure(situation, START, side))
        for _ in range(self._runs):
            worker.stop()
            worker.configure()
            started = time.monotonic()
            try:
                worker.service.start('/healthcheck', self._patience)
            except process.LabError:
                figure.error = '> %d' % self._patience
                return False
            figure.seconds.append(time.monotonic() - started)
        self._say('%s away, %s: start %s s' % (situation, side, figure))
        return True

    def _call(self, calls, side, situation):
        figures = {name: self._figure(situation, name, side)
                   for name, _call in calls.all()}
        # Once without a clock: what is loaded on first use is loaded.
        for number in range(self._runs + 1):
            for name, call in calls.all():
                for _ in range(_OFTEN.get(name, 1)):
                    if not figures[name].error:
                        self._time(figures[name], calls, call, number > 0)
        for figure in figures.values():
            self._say('%s away, %s: %s %s s' % (situation, side, figure.call,
                                                figure))

    def _time(self, figure, calls, call, counts):
        started = time.monotonic()
        try:
            calls.before(figure.call)
            started = time.monotonic()
            call()
        except _FAILURES as exc:
            spent = time.monotonic() - started
            figure.error = ('> %d' % self._patience
                            if spent >= self._patience else 'failed')
            self._say('%s: %s' % (figure.call, exc))
            return
        if counts:
            figure.seconds.append(time.monotonic() - started)

    def _figure(self, situation, call, side):
        self.figures.append(Figure(situation, call, side))
        return self.figures[-1]


def find(figures, situation, call, side):
    """Return a figure, or an empty one."""
    for figure in figures:
        if (figure.situation, figure.call, figure.side) == (situation, call,
                                                            side):
            return figure
    return Figure(situation, call, side)


def table(figures, sides):
    """Return the table, as text: seconds, the sides beside each other.

    ``ours / all up``: how many times as long as with all sites there.
    """
    lines = [('sites away', 'call', *sides, 'ours / all up')]
    rows = dict.fromkeys((figure.situation, figure.call)
                         for figure in figures)
    for situation, call in rows:
        now = find(figures, situation, call, 'ours').median
        before = find(figures, '0 of 3', call, 'ours').median
        lines.append((situation, call, *(
            str(find(figures, situation, call, side)) for side in sides),
            '%.2f' % (now / before) if now and before else '-'))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join('  '.join(
        cell.ljust(width) if number < 2 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(line, widths))).rstrip()
        for line in lines)


def goals(figures):
    """Return (what, wanted, reached, whether that is met) of each goal."""
    found = []
    for figure in figures:
        before = find(figures, '0 of 3', figure.call, 'ours').median
        if (figure.side != 'ours' or figure.situation == '0 of 3'
                or before is None):
            continue
        what = '%s with %s away' % (figure.call, figure.situation)
        now = figure.median
        if figure.call == START:
            reached = None if now is None else now - before
            wanted, met = '+%.1f s' % _START_LIMIT, (
                now is not None and reached <= _START_LIMIT)
            text = '%+.2f s'
        else:
            reached = None if now is None else now / before
            wanted, met = '%.1f times' % _CALL_LIMIT, (
                now is not None and reached <= _CALL_LIMIT)
            text = '%.2f times'
        found.append((what, wanted, figure.error if reached is None
                      else text % reached, met))
    return found


def parse(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='python -m bench.absent',
                                     description=__doc__)
    add = parser.add_argument
    add('--runs', type=int, default=3, metavar='N',
        help='how often; the median counts (default: 3)')
    for name, known in (('sides', SIDES), ('situations', SITUATIONS)):
        add('--' + name, metavar='A,B,...', default=list(known),
            type=lambda text, known=known: [
                word for word in known if word in text.split(',')],
            help='default: %s' % ','.join(known))
    add('--patience', type=int, default=60, metavar='SECONDS',
        help='what takes longer is broken off (default: 60)')
    add('--json', type=pathlib.Path, metavar='FILE',
        help='write all figures there')
    add('--state', type=pathlib.Path,
        default=pathlib.Path(tempfile.gettempdir())
        / ('dcn-absent-%d' % os.getuid()),
        help='folder for everything, removed at the end; short, as it holds '
             'sockets (default: %(default)s)')
    return parser.parse_args(argv)


def run(args, say):
    """Bring up what is needed, measure, and take it down.

    :returns: list of :class:`Figure`
    """
    stage = stages.Stage(args.state, 3, ['glance'], False, {}, args.patience,
                         say)
    try:
        stage.up_without_glance()
        session = stage.keystone.session()
        session.get_token()
        session.timeout = args.patience
        (stage.images / 'image').write_bytes(os.urandom(_SIZE))
        with sources.served(stage.images) as url:
            absence = Absence(stage, session, url + '/image', args)
            for situation in args.situations:
                for side in args.sides:
                    absence.measure(side, situation)
    finally:
        stages.clean_up(args.state)
    return absence.figures


def main(argv=None):
    """Measure, print the table, and return the exit code."""
    args = parse(argv)
    process.exit_on_sigterm()
    try:
        figures = run(args, lambda line: print(line, flush=True))
    except (process.LabError, OSError) as exc:
        print('bench: %s' % exc, file=sys.stderr)
        return 1
    print('\nseconds, median of %d:\n\n%s\n' % (
        args.runs, table(figures, args.sides)))
    reached = goals(figures)
    for what, wanted, found, met in reached:
        print('%-28s wanted: at most %-9s reached: %-12s %s' % (
            what, wanted, found, 'met' if met else 'MISSED'))
    if args.json:
        args.json.write_text(json.dumps({
            'runs': args.runs, 'patience': args.patience,
            'figures': [dict(dataclasses.asdict(figure),
                             median=figure.median) for figure in figures],
            'goals': reached}, indent=1))
    return 0 if all(met for *_rest, met in reached) else 1


if __name__ == '__main__':
    sys.exit(main())
