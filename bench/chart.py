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

"""The bar chart: wall time of each side, case by case, as SVG."""

from xml.sax import saxutils

from bench import cases

_COLOURS = {'stock': '#8c8c8c', 'ours': '#d7263d'}
_OTHER = '#7fb3d5'
_LABEL, _BARS, _FIGURE = 190, 420, 190
_BAR, _GAP, _HEAD = 18, 14, 24
_WIDTH = _LABEL + _BARS + _FIGURE


def draw(rows, heading):
    """Draw the chart.

    In each case the longest bar is as wide as the chart: lengths compare
    within a case, not between cases.

    :param rows: list of :class:`bench.report.Row`
    :param heading: text above
    :returns: the SVG document
    """
    groups = {}
    for row in rows:
        if row.seconds is not None or row.error:
            groups.setdefault((row.case, row.title), []).append(row)
    parts, y = [_text(8, 20, heading, 'bold')], 34
    for (_case, title), members in groups.items():
        parts.append(_text(8, y + 15, title, 'bold'))
        y += _HEAD
        times = [row.seconds for row in members if row.seconds is not None]
        stock = next((row.seconds for row in members if row.side == 'stock'),
                     None)
        for row in members:
            parts += _bar(row, y, max(times, default=None), stock)
            y += _BAR
        y += _GAP
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
            'font-family="sans-serif" font-size="12">\n'
            '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n'
            % (_WIDTH, y, '\n'.join(parts)))


def _bar(row, y, longest, stock):
    """Return the elements of one row."""
    label = _text(_LABEL - 8, y + 13, cases.SIDES.get(row.side, row.side),
                  anchor='end')
    if row.seconds is None:
        return [label, _text(_LABEL, y + 13, 'failed')]
    width = max(1.0, _BARS * row.seconds / longest) if longest else 1.0
    figure = '%.1f s' % row.seconds
    if stock and row.side != 'stock':
        figure += '  (%.1f times as fast)' % (stock / row.seconds)
    return [label,
            '<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>'
            % (_LABEL, y + 1, width, _BAR - 3,
               _COLOURS.get(row.side, _OTHER)),
            _text(_LABEL + width + 6, y + 13, figure)]


def _text(x, y, text, weight='normal', anchor='start'):
    return ('<text x="%.1f" y="%d" font-weight="%s" text-anchor="%s">%s'
            '</text>' % (x, y, weight, anchor, saxutils.escape(text)))
