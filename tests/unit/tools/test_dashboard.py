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


"""The picture of the dashboard."""

import importlib.util
import json
import pathlib
from xml.etree import ElementTree

from oslotest import base

_ROOT = pathlib.Path(__file__).parents[3]
_SVG = '{http://www.w3.org/2000/svg}'


def load():
    """Return the script as a module; its name is none of Python's."""
    spec = importlib.util.spec_from_file_location(
        'draw_dashboard', _ROOT / 'tools/draw-dashboard.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recorded:
    """A Prometheus that has recorded the same of each query."""

    def __init__(self):
        self.asked = []

    def query_range(self, expression, begin, end, step):
        self.asked.append(expression)
        return [({'site': name, 'reason': 'away'},
                 [(begin + part * (end - begin), value)
                  for part, value in ((0, 1), (.005, 1), (.01, 0),
                                      # Nothing was recorded for a while.
                                      (.5, 2), (.505, 1))])
                for name in ('dcn1', '<central> & more')]


class DrawTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.tool = load()
        self.dashboard = json.loads(
            (_ROOT / 'etc/grafana/glance-dcn.json').read_text())

    def draw(self, wanted=None):
        recorded = Recorded()
        shown = [(panel, self.tool.series(recorded, panel, 1000, 1900))
                 for panel in self.tool.panels(self.dashboard, wanted)]
        self.asked = recorded.asked
        return ElementTree.fromstring(self.tool.draw(shown, 15))

    def test_all_panels(self):
        root = self.draw()
        texts = [text.text for text in root.iter(_SVG + 'text')]
        for panel in self.dashboard['panels']:
            self.assertEqual(
                panel['type'] in ('timeseries', 'state-timeline'),
                panel['title'] in texts)
        self.assertNotIn('$site', ''.join(self.asked))

    def test_lines(self):
        root = self.draw('16')
        self.assertIn('<central> & more: away',
                      [text.text for text in root.iter(_SVG + 'text')])
        lines = [line.get('points') for line in root.iter(_SVG + 'polyline')]
        # Two series, each with a gap; the largest value is at the top.
        self.assertEqual(4, len(lines))
        [first, *_rest] = lines[1].split()
        self.assertEqual(8 + self.tool._TOP, float(first.split(',')[1]))

    def test_states(self):
        root = self.draw('7')
        fills = [rect.get('fill') for rect in root.iter(_SVG + 'rect')][1:]
        self.assertEqual([self.tool._UP, self.tool._DOWN, self.tool._UP,
                          self.tool._UP] * 2, fills)

    def test_nothing_recorded(self):
        root = ElementTree.fromstring(self.tool.draw(
            [(panel, []) for panel in self.tool.panels(self.dashboard)], 15))
        self.assertEqual([], list(root.iter(_SVG + 'polyline')))

    def test_stays_within(self):
        root = self.draw()
        width, height = (float(root.get(name)) for name in ('width', 'height'))
        for line in root.iter(_SVG + 'polyline'):
            for point in line.get('points').split():
                x, y = map(float, point.split(','))
                self.assertTrue(0 <= x <= width and 0 <= y <= height)
        for text in root.iter(_SVG + 'text'):
            self.assertLess(float(text.get('y')), height)
