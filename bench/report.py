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

"""Figures, ratios and the table."""

import dataclasses
import statistics

_MIB = 1 << 20


@dataclasses.dataclass
class Run:
    """One run of one side.

    :param seconds: wall time
    :param cpu: CPU seconds
    :param memory: bytes at the peak, above idle; None when not measured
    :param sent: bytes that reached the targets' clusters, headers and all
    :param fetched: bytes that clients read from clusters
    :param stored: bytes that the targets' clusters allocated
    """

    seconds: float
    cpu: float = None
    memory: int = None
    sent: int = None
    fetched: int = None
    stored: int = None


@dataclasses.dataclass
class Row:
    """All runs of one side in one case.

    :param case: name of the case
    :param title: of the case
    :param side: see :data:`bench.cases.SIDES`
    :param data: bytes of data that the job has to move, to all targets
                 together
    :param runs: list of :class:`Run`
    :param error: why there are not as many as there should be
    """

    case: str
    title: str
    side: str
    data: int = 0
    runs: list = dataclasses.field(default_factory=list)
    error: str = None

    def median(self, name):
        """Return the median of a figure, or None without any."""
        figures = [getattr(run, name) for run in self.runs]
        figures = [figure for figure in figures if figure is not None]
        return statistics.median(figures) if figures else None

    @property
    def seconds(self):
        """Median wall time, or None; that of a failed row does not count."""
        return None if self.error else self.median('seconds')


def find(rows, case, side):
    """Return the row of a side in a case, or an empty one."""
    for row in rows:
        if (row.case, row.side) == (case, side):
            return row
    return Row(case, case, side)


def ratio(above, below):
    """Divide; None when either is not known or nothing."""
    return above / below if above is not None and below else None


def table(rows):
    """Return the table, as text.

    ``ratio`` is stock's time divided by the row's: how many times as fast as
    stock it is.
    """
    heads = ('case', 'side', 'wall s', 'min-max', 'ratio', 'CPU s',
             'mem MiB', 'sent MiB', 'fetched', 'stored', 'data')
    lines = [heads]
    for row in rows:
        stock = find(rows, row.case, 'stock').seconds
        walls = [run.seconds for run in row.runs]
        lines.append((
            row.case, row.side, _number(row.seconds, '%.2f'),
            '%.2f-%.2f' % (min(walls), max(walls)) if walls else '-',
            _number(ratio(stock, row.seconds), '%.2fx'),
            _number(row.median('cpu'), '%.2f'),
            *(_number(ratio(row.median(name), _MIB), '%.0f')
              for name in ('memory', 'sent', 'fetched', 'stored')),
            _number(ratio(row.data, _MIB), '%.0f')))
    text = _align(lines, left=2)
    errors = ['%s, %s: FAILED: %s' % (row.case, row.side, row.error)
              for row in rows if row.error]
    return '\n'.join([text, *errors])


@dataclasses.dataclass
class Goal:
    """Something that shall be reached.

    :param what: in words
    :param reached: the figure, or None when it was not measured
    :param limit: what it is compared with
    :param at_least: whether the limit is the least; else it is the most
    """

    what: str
    reached: float
    limit: float
    at_least: bool = True

    @property
    def outcome(self):
        """``ok``, ``short`` or ``-`` when it was not measured."""
        if self.reached is None:
            return '-'
        good = (self.reached >= self.limit if self.at_least
                else self.reached <= self.limit)
        return 'ok' if good else 'short'


def goals(rows):
    """Return the list of :class:`Goal` that glance_dcn has."""
    def time(case, side='ours'):
        return find(rows, case, side).seconds

    def faster(case):
        return ratio(time(case, 'stock'), time(case))

    def most(*names):
        ours = [row for row in rows if row.side == 'ours' and row.data
                and not row.error and row.case != 'download']
        figures = [ratio(row.median(name), row.data)
                   for row in ours for name in names]
        return max((f for f in figures if f is not None), default=None)

    memory = [row.median('memory') for row in rows if row.side == 'ours']
    memory = [ratio(figure, _MIB) for figure in memory if figure is not None]
    return [
        Goal('copy to 1 site: times as fast as stock', faster('copy-1'), 30),
        Goal('copy to 1 site: time, of rbd export-diff | import-diff',
             ratio(time('copy-1'), time('copy-1', 'rbd-diff')), 1.0, False),
        Goal('copy to 3 sites: time, of the copy to 1',
             ratio(time('copy-3'), time('copy-1')), 1.8, False),
        Goal('import into 2 sites: times as fast as stock',
             faster('import-2'), 8),
        Goal('import into 2 sites: time, of md5 and sha512 in two threads',
             ratio(time('import-2'), time('import-2', 'hash')), 1.6, False),
        Goal('bytes sent, of the data (worst case)', most('sent'), 1.05,
             False),
        Goal('bytes stored, of the data (worst case)', most('stored'), 1.05,
             False),
        Goal('copy at 50 ms, 1 Gbit/s: rate, of a plain TCP stream',
             ratio(time('copy-wan-50ms', 'tcp'), time('copy-wan-50ms')),
             0.85),
        Goal('copy at 100 ms, 100 Mbit/s: rate, of a plain TCP stream',
             ratio(time('copy-wan-100ms', 'tcp'), time('copy-wan-100ms')),
             0.85),
        Goal('download: times as fast as stock', faster('download'), 2),
        Goal('small image into 3 sites: times as fast as stock',
             faster('import-small'), 2),
        Goal('peak memory above idle, MiB', max(memory, default=None), 250,
             False),
    ]


def goal_table(found):
    """Return the goals and what was reached, as text."""
    lines = [('goal', 'wanted', 'reached', '')]
    for goal in found:
        lines.append((goal.what,
                      '%s %g' % ('>=' if goal.at_least else '<=', goal.limit),
                      _number(goal.reached, '%.2f'), goal.outcome))
    return _align(lines, left=1)


def as_dict(rows, facts):
    """Return everything, fit for JSON.

    :param facts: dict that tells how it was measured
    """
    result = {'facts': facts, 'rows': [], 'goals': [
        dict(dataclasses.asdict(goal), outcome=goal.outcome)
        for goal in goals(rows)]}
    for row in rows:
        names = [field.name for field in dataclasses.fields(Run)]
        result['rows'].append(dict(
            dataclasses.asdict(row),
            median={name: row.median(name) for name in names},
            times_as_fast_as_stock=ratio(
                find(rows, row.case, 'stock').seconds, row.seconds)))
    return result


def _number(value, form):
    return '-' if value is None else form % value


def _align(lines, left):
    widths = [max(len(line[n]) for line in lines)
              for n in range(len(lines[0]))]
    return '\n'.join(
        '  '.join(cell.ljust(width) if n < left else cell.rjust(width)
                  for n, (cell, width) in enumerate(zip(line, widths))
                  ).rstrip()
        for line in lines)
