#!/usr/bin/env python3
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


"""Draws panels of the dashboard, from what a Prometheus has recorded, as SVG.

    tools/draw-dashboard.py --url URL --minutes 15 --panels 7,14,16 FILE

It asks for the dashboard's own queries. The guide's picture is made so.
"""

import argparse
import json
import pathlib
import re
import sys
import time
from xml.sax import saxutils

_ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT))

from lab import prometheus  # noqa: E402

_DASHBOARD = _ROOT / 'etc/grafana/glance-dcn.json'
# Pixels: of a panel's lines, and around them; of a line of text.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _LINE = 230, 90, 76, 14, 26, 17
_COLUMNS = 2
# Values of a line, and characters in a row of the legend.
_POINTS, _LEGEND = 120, 40
# Okabe and Ito's, which the colour-blind can tell apart.
_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9',
            '#000000')
_UP, _DOWN = '#009e73', '#d7263d'
_FACTORS = {'Bps': (1 << 20, '%.3g MiB/s'), 'bytes': (1 << 20, '%.4g MiB'),
            's': (1, '%.3g s'), 'percentunit': (.01, '%.3g %%')}


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--url', default='http://127.0.0.1:9090')
    parser.add_argument('--minutes', type=float, default=15)
    parser.add_argument('--end', type=float, default=time.time(),
                        metavar='SECONDS', help='since the epoch; by default '
                        'now')
    parser.add_argument('--panels', help='numbers of panels; by default all '
                        'that show lines')
    parser.add_argument('file', type=pathlib.Path)
    args = parser.parse_args(argv)
    found = panels(json.loads(_DASHBOARD.read_text()), args.panels)
    api = prometheus.Api(args.url)
    args.file.write_text(draw(
        [(panel, series(api, panel, args.end - 60 * args.minutes, args.end))
         for panel in found], args.minutes))


def panels(dashboard, wanted=None):
    """Return the panels of some numbers, in their order."""
    known = {panel['id']: panel for panel in dashboard['panels']}
    if wanted is not None:
        return [known[int(number)] for number in wanted.split(',')]
    return [panel for panel in known.values()
            if panel['type'] in ('timeseries', 'state-timeline')]


def series(api, panel, begin, end):
    """Return the lines of a panel.

    :returns: list of (name, list of (part of the time, value))
    """
    found = []
    for target in panel['targets']:
        for labels, values in api.query_range(
                target['expr'].replace('$site', '.*'), begin, end,
                (end - begin) / _POINTS):
            name = re.sub(r'\{\{(\w+)\}\}',
                          lambda match, labels=labels: labels.get(
                              match.group(1), ''), target['legendFormat'])
            found.append((name, [((moment - begin) / (end - begin), value)
                                 for moment, value in values]))
    return sorted(found)


def draw(shown, minutes):
    """Draw panels.

    :param shown: list of (panel, lines of :func:`series`)
    """
    parts, y = [], 8
    for first in range(0, len(shown), _COLUMNS):
        row = shown[first:first + _COLUMNS]
        heights = []
        for number, (panel, lines) in enumerate(row):
            x = number * (_LEFT + _WIDTH + _RIGHT) + _LEFT
            found, height = _panel(x, y, panel, lines, minutes)
            parts += found
            heights.append(height)
        y += max(heights)
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
            'font-family="sans-serif" font-size="13">\n'
            '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n'
            % (_COLUMNS * (_LEFT + _WIDTH + _RIGHT), y, '\n'.join(parts)))


def _panel(x, y, panel, lines, minutes):
    """Return the elements of a panel, and its height."""
    parts = [_text(x, y + 14, panel['title'], weight='bold')]
    top = y + _TOP
    if panel['type'] == 'state-timeline':
        parts += _states(x, top, lines)
        rows = []
    else:
        unit = panel['fieldConfig']['defaults'].get('unit')
        parts += _lines(x, top, lines, unit)
        rows = _legend([name for name, _values in lines])
    bottom = top + _HEIGHT
    parts += [_text(x, bottom + 15, '0'),
              _text(x + _WIDTH, bottom + 15, '%g min' % minutes,
                    anchor='end')]
    for number, row in enumerate(rows):
        at = x - _LEFT + 8
        for index, name in row:
            parts.append(_text(at, bottom + 15 + (number + 1) * _LINE, name,
                               fill=_COLOURS[index % len(_COLOURS)]))
            at += 7.2 * len(name) + 14
    return parts, _TOP + _HEIGHT + 30 + len(rows) * _LINE


def _lines(x, y, lines, unit):
    """Return the axes, and a line for each series."""
    factor, form = _FACTORS.get(unit, (1, '%.4g'))
    most = max((value for _name, values in lines for _at, value in values),
               default=0) or factor
    parts = ['<path d="M%.1f %.1f v%d h%d" fill="none" stroke="#333"/>'
             % (x, y, _HEIGHT, _WIDTH),
             _text(x - 4, y + 10, form % (most / factor), anchor='end'),
             _text(x - 4, y + _HEIGHT, '0', anchor='end')]
    for index, (_name, values) in enumerate(lines):
        for run in _runs(values):
            points = ' '.join('%.1f,%.1f' % (x + _WIDTH * at,
                                             y + _HEIGHT * (1 - value / most))
                              for at, value in run)
            parts.append('<polyline points="%s" fill="none" stroke="%s" '
                         'stroke-width="2"/>'
                         % (points, _COLOURS[index % len(_COLOURS)]))
    return parts


def _states(x, y, lines):
    """Return a bar for each series, by whether it is 1."""
    parts = []
    height = _HEIGHT / max(1, len(lines))
    for index, (name, values) in enumerate(lines):
        top = y + index * height
        parts.append(_text(x - 4, top + height / 2 + 4, name, anchor='end'))
        for run in _runs(values):
            # Each value until the next other one.
            changes = [run[0], *(after for before, after in zip(run, run[1:])
                                 if before[1] != after[1]), run[-1]]
            for (at, value), (after, _value) in zip(changes, changes[1:]):
                parts.append(
                    '<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" '
                    'fill="%s"/>' % (x + _WIDTH * at, top + 2,
                                     _WIDTH * (after - at), height - 4,
                                     _UP if value else _DOWN))
    return parts


def _runs(values):
    """Return the parts of a line without a gap of two values or more."""
    runs = []
    for at, value in values:
        if not runs or at - runs[-1][-1][0] > 2.5 / _POINTS:
            runs.append([])
        runs[-1].append((at, value))
    return runs


def _legend(names):
    """Return rows of (number, name)."""
    rows, room = [], 0
    for index, name in enumerate(names):
        if len(name) + 2 > room:
            rows.append([])
            room = _LEGEND
        rows[-1].append((index, name))
        room -= len(name) + 2
    return rows


def _text(x, y, text, weight='normal', anchor='start', fill='#111'):
    return ('<text x="%.1f" y="%.1f" font-weight="%s" text-anchor="%s" '
            'fill="%s">%s</text>' % (x, y, weight, anchor, fill,
                                     saxutils.escape(text)))


if __name__ == '__main__':
    main(sys.argv[1:])
