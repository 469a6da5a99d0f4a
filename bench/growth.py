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


"""The chart of growth: what a Glance holds with ever more stores, as SVG."""

from __future__ import annotations

import typing
from xml.sax import saxutils

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence

    from bench import scale

_COLOURS = {'stock': '#8c8c8c', 'ours': '#d7263d'}
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 190, 150, 56, 44, 66


def _charts() -> list[tuple[str, Callable[[scale.Figures], float | None]]]:
    return [
        ('threads, idle', lambda one: one.idle and one.idle.threads),
        ('open files, idle', lambda one: one.idle and one.idle.files),
        ('MiB, idle', lambda one: one.idle and one.idle.memory / (1 << 20)),
        ('threads, copy to all', lambda one: one.peak and one.peak.threads),
        ('DELETE, seconds', lambda one: one.delete),
        ('list of 100 images, seconds', lambda one: one.listing),
    ]


def draw(rows: Sequence[scale.Figures]) -> str:
    """Draw the chart: small ones, each of one figure, with a line a side."""
    parts = [_text(8, 20, 'What a Glance costs, by number of stores', 'bold')]
    for number, side in enumerate(_COLOURS):
        parts.append('<rect x="%d" y="10" width="12" height="12" fill="%s"/>'
                     % (300 + 80 * number, _COLOURS[side]))
        parts.append(_text(316 + 80 * number, 20, side))
    for number, (title, value) in enumerate(_charts()):
        x = _LEFT + number % 3 * (_WIDTH + _GAP)
        y = _TOP + 20 + number // 3 * (_HEIGHT + _GAP)
        parts += _small(x, y, title, value, rows)
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
            'font-family="sans-serif" font-size="12">\n'
            '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n'
            % (3 * (_WIDTH + _GAP) + 8, _TOP + 2 * (_HEIGHT + _GAP),
               '\n'.join(parts)))


def _small(x: float, y: float, title: str,
           value: Callable[[scale.Figures], float | None],
           rows: Sequence[scale.Figures]) -> list[str]:
    """Return the elements of one small chart."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        found = value(row)
        if found is not None:
            points.setdefault(row.side, []).append((row.stores, found))
    most = max((one for line in points.values() for _stores, one in line),
               default=0) or 1
    stores = max((row.stores for row in rows), default=1)
    parts = [_text(x, y - 8, title, 'bold'),
             '<path d="M%.1f %.1f v%d h%d" fill="none" stroke="#333"/>'
             % (x, y, _HEIGHT, _WIDTH),
             _text(x - 4, y + 8, '%.4g' % most, anchor='end'),
             _text(x - 4, y + _HEIGHT, '0', anchor='end')]
    for count in sorted({row.stores for row in rows}):
        parts.append(_text(x + _WIDTH * count / stores, y + _HEIGHT + 16,
                           str(count), anchor='middle'))
    for side, line in points.items():
        at = ['%.1f,%.1f' % (x + _WIDTH * count / stores,
                             y + _HEIGHT * (1 - one / most))
              for count, one in sorted(line)]
        colour = _COLOURS.get(side, '#7fb3d5')
        parts.append('<polyline points="%s" fill="none" stroke="%s" '
                     'stroke-width="2"/>' % (' '.join(at), colour))
        parts += ['<circle cx="%s" cy="%s" r="3" fill="%s"/>' % (
            *point.split(','), colour) for point in at]
    return parts


def _text(x: float, y: float, text: str, weight: str = 'normal',
          anchor: str = 'start') -> str:
    return ('<text x="%.1f" y="%.1f" font-weight="%s" text-anchor="%s">%s'
            '</text>' % (x, y, weight, anchor, saxutils.escape(text)))
