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


"""What large deployments take, out of what was measured with small ones."""

from oslotest import base

from bench import sizing


def row(side, stores, threads, peak=None):
    """Return what was measured, as ``bench scale --json`` writes it."""
    def held(count):
        return count and {'threads': count, 'files': 2 * count,
                          'memory': count << 20, 'cpu': 1.0}
    return {'side': side, 'stores': stores, 'idle': held(threads),
            'peak': held(peak), 'after': held(threads), 'operations': .5}


class SizingTest(base.BaseTestCase):

    def test_line(self):
        line = sizing.Line.through([(3, 13), (60, 70), (200, 210)])
        self.assertEqual((310, 1), (round(line.at(300), 6),
                                    round(line.slope, 6)))
        self.assertEqual(28, sizing.Line.through([(3, 28)]).at(300))
        self.assertRaises(ValueError, sizing.Line.through, [])

    def test_a_host(self):
        found = sizing.needs(
            [row('ours', 3, 20, 30), row('ours', 203, 40, 430),
             row('stock', 3, 5)], 'ours', 103, 8, 1000)
        self.assertEqual(
            [240, 7 * 30 + 230, 460, 4],
            [round(found[name]) for name in (
                'threads, idle', 'threads, one copies to all',
                'files of the largest process',
                'operations a second at edges')])

    def test_no_more_connections_than_there_may_be(self):
        rows = [row('ours', 3, 20, 30), row('ours', 60, 20, 90)]
        found = [sizing.needs(rows, 'ours', stores, 1, 33)[
            'threads, one copies to all'] for stores in (13, 33, 60, 300)]
        self.assertEqual([50, 90, 90, 90], [round(one) for one in found])

    def test_table(self):
        lines = sizing.table(
            [row('ours', 3, 20, 30), row('stock', 3, 5)], [10, 300],
            2).splitlines()
        self.assertEqual(lines[0], lines[-1])
        # What failed has no figure.
        self.assertIn(['threads, one copies to all', '50', '50', '-', '-'],
                      [[cell.strip() for cell in line.split('  ')
                        if cell.strip()] for line in lines])
