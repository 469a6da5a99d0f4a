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

import json
import unittest
from xml.etree import ElementTree

from bench import chart
from bench import report

MIB = 1 << 20


def row(case, side, *seconds, error=None, **figures):
    return report.Row(case, 'Title of <%s>' % case, side, 100 * MIB,
                      [report.Run(number, **figures) for number in seconds],
                      error)


class TestRow(unittest.TestCase):

    def test_median(self):
        self.assertEqual(2, row('a', 'ours', 9, 1, 2).seconds)

    def test_nothing_measured(self):
        self.assertIsNone(row('a', 'ours').seconds)
        self.assertIsNone(row('a', 'ours', 1).median('memory'))

    def test_failed(self):
        self.assertIsNone(row('a', 'ours', 1, error='no').seconds)


class TestTable(unittest.TestCase):

    def test_ratios(self):
        lines = report.table([
            row('copy-1', 'stock', 30, 31, 32, cpu=1.5, sent=250 * MIB),
            row('copy-1', 'ours', 1, memory=5 * MIB)]).splitlines()
        self.assertEqual(3, len(lines))
        self.assertEqual(
            ['copy-1', 'stock', '31.00', '30.00-32.00', '1.00x', '1.50', '-',
             '250', '-', '-', '100'], lines[1].split())
        self.assertEqual('31.00x', lines[2].split()[4])
        self.assertEqual('5', lines[2].split()[6])

    def test_failure_is_a_row(self):
        text = report.table([row('copy-1', 'stock', error='it broke'),
                             row('copy-1', 'ours', 1)])
        self.assertIn('copy-1, stock: FAILED: it broke', text)
        self.assertEqual('-', text.splitlines()[2].split()[4])

    def test_ratio(self):
        self.assertEqual(2, report.ratio(4, 2))
        self.assertIsNone(report.ratio(None, 2))
        self.assertIsNone(report.ratio(4, None))
        self.assertIsNone(report.ratio(4, 0))


class TestGoals(unittest.TestCase):

    def test_nothing_measured(self):
        self.assertEqual({'-'},
                         {goal.outcome for goal in report.goals([])})

    def test_reached_and_not(self):
        found = report.goals([
            row('copy-1', 'stock', 60), row('copy-1', 'rbd-diff', 1.0),
            row('copy-1', 'ours', 1.5, sent=104 * MIB, stored=106 * MIB,
                memory=200 * MIB)])
        found = {goal.what: goal for goal in found}
        self.assertEqual(
            ('ok', 40.0),
            (found['copy to 1 site: times as fast as stock'].outcome,
             found['copy to 1 site: times as fast as stock'].reached))
        self.assertEqual('short', found[
            'copy to 1 site: time, of rbd export-diff | import-diff'].outcome)
        self.assertEqual('ok', found[
            'bytes sent, of the data (worst case)'].outcome)
        self.assertEqual('short', found[
            'bytes stored, of the data (worst case)'].outcome)
        self.assertEqual('ok', found['peak memory above idle, MiB'].outcome)

    def test_goal_table(self):
        text = report.goal_table(report.goals([]))
        self.assertEqual(1 + len(report.goals([])), len(text.splitlines()))

    def test_fit_for_json(self):
        found = json.loads(json.dumps(report.as_dict(
            [row('copy-1', 'stock', 4), row('copy-1', 'ours', 2)], {'a': 1})))
        self.assertEqual(2, found['rows'][1]['times_as_fast_as_stock'])
        self.assertEqual(4, found['rows'][0]['median']['seconds'])


class TestChart(unittest.TestCase):

    def bars(self, rows):
        svg = ElementTree.fromstring(chart.draw(rows, 'a & b'))
        space = '{http://www.w3.org/2000/svg}'
        # The first rectangle is the background.
        return ([float(rect.get('width'))
                 for rect in list(svg.iter(space + 'rect'))[1:]],
                [text.text for text in svg.iter(space + 'text')])

    def test_lengths(self):
        widths, texts = self.bars([row('a', 'stock', 8), row('a', 'ours', 2),
                                   row('a', 'hash', 1)])
        self.assertEqual(widths[0] / 4, widths[1])
        self.assertEqual(widths[0] / 8, widths[2])
        self.assertIn('Title of <a>', texts)
        self.assertIn('2.0 s  (4.0 times as fast)', texts)

    def test_failed(self):
        widths, texts = self.bars([row('a', 'stock', error='x')])
        self.assertEqual([], widths)
        self.assertIn('failed', texts)

    def test_empty(self):
        self.assertEqual(([], ['a & b']), self.bars([]))
