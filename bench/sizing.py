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


"""What deployments of many sites take, computed from what was measured.

``python -m bench.sizing FILE`` reads what ``bench scale --json FILE`` wrote
and prints a table for the guide: three controllers with eight processes each,
unless told otherwise. What was measured with different numbers of stores is
taken for a straight line, and told for other numbers by it. What is held in
and after a copy to all stores stops growing where the process has as many
connections as it may have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import sys
import typing

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Line:
    """A straight line through what was measured.

    :ivar base: value of a Glance without stores
    :ivar slope: what each store adds
    """

    base: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Return the line of least squares; one point has no slope.

        :raises ValueError: without any point
        """
        if not points:
            raise ValueError('nothing was measured')
        mean_x = sum(x for x, _y in points) / len(points)
        mean_y = sum(y for _x, y in points) / len(points)
        spread = sum((x - mean_x) ** 2 for x, _y in points)
        slope = (sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
                 if spread else 0.0)
        return cls(mean_y - slope * mean_x, slope)

    def at(self, stores: int) -> float:
        """Return the value of so many stores."""
        return self.base + self.slope * stores


def line(rows: Sequence[dict[str, typing.Any]], side: str, moment: str,
         figure: str, bound: int = sys.maxsize) -> Line | None:
    """Return the line of one figure of a side; None: not measured.

    :param moment: ``idle``, ``peak`` or ``after``; '' for other figures
    :param figure: ``threads``, ``files``, ``memory``, or another one
    :param bound: number of stores from which on it does not grow
    """
    points = []
    for row in rows:
        value = (row[moment] or {}).get(figure) if moment else row[figure]
        if row['side'] == side and value is not None:
            points.append((min(row['stores'], bound), value))
    return Line.through(points) if points else None


def needs(rows: Sequence[dict[str, typing.Any]], side: str, stores: int,
          processes: int, clients: int = 32) -> dict[str, float | None]:
    """Return what a host needs.

    While one process copies to all sites the others idle. What was not
    measured is None.

    :param processes: of the host
    :param clients: connections that a process of ours has at most
    """
    bound = clients if side == 'ours' else sys.maxsize
    busy = min(stores, bound)
    found: dict[str, float | None] = {}
    for figure, unit in (('threads', 1), ('files', 1), ('memory', _MIB)):
        idle = line(rows, side, 'idle', figure)
        after = line(rows, side, 'after', figure, bound)
        peak = line(rows, side, 'peak', figure, bound)
        found['%s, idle' % figure] = idle and (
            processes * idle.at(stores) / unit)
        # Each has copied once.
        found['%s, all in use before' % figure] = after and (
            processes * after.at(busy) / unit)
        found['%s, one copies to all' % figure] = idle and peak and (
            ((processes - 1) * idle.at(stores) + peak.at(busy)) / unit)
    files = line(rows, side, 'peak', 'files', bound)
    found['files of the largest process'] = files and files.at(busy)
    asked = line(rows, side, '', 'operations')
    found['operations a second at edges'] = asked and (
        processes * max(0.0, asked.at(stores)))
    return found


def table(rows: Sequence[dict[str, typing.Any]], stores: Sequence[int],
          processes: int) -> str:
    """Return the table in reStructuredText."""
    sides = [side for side in ('ours', 'stock')
             if any(row['side'] == side for row in rows)]
    heads = ['of a host', *(
        '%d sites' % count if len(sides) == 1 else '%s, %d sites' % (
            side, count) for side in sides for count in stores)]
    columns = [needs(rows, side, count, processes)
               for side in sides for count in stores]
    lines = [[title, *('-' if column[title] is None
                       else '%.0f' % column[title] for column in columns)]
             for title in columns[0]]
    widths = [max(len(one[n]) for one in [heads, *lines])
              for n in range(len(heads))]
    rule = '  '.join('=' * width for width in widths)
    text = ['  '.join(cell.ljust(width) for cell, width in zip(
        one, widths)).rstrip() for one in [heads, *lines]]
    return '\n'.join([rule, text[0], rule, *text[1:], rule])


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', type=pathlib.Path, nargs='+')
    parser.add_argument('--sites', default='10,100,300')
    parser.add_argument('--processes', type=int, default=8)
    args = parser.parse_args(argv)
    rows = [row for path in args.files
            for row in json.loads(path.read_text())]
    print(table(rows, [int(text) for text in args.sites.split(',')],
                args.processes))


if __name__ == '__main__':
    sys.exit(main())
