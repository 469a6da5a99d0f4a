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

"""Tests of the table and the goals of absent sites."""

import pathlib
import socket

import fixtures
from oslotest import base

from bench import absent
from bench import sites


def figure(situation, call, side, *seconds, error=None):
    """Return a figure."""
    return absent.Figure(situation, call, side, list(seconds), error)


class FigureTest(base.BaseTestCase):

    def test_median(self):
        self.assertEqual(2, figure('', '', '', 1, 9, 2).median)
        self.assertIsNone(figure('', '', '').median)
        self.assertIsNone(figure('', '', '', 1, error='> 60').median)

    def test_text(self):
        self.assertEqual('1.500', str(figure('', '', '', 1.5)))
        self.assertEqual('-', str(figure('', '', '')))
        self.assertEqual('> 60', str(figure('', '', '', 1, error='> 60')))


class ReportTest(base.BaseTestCase):

    figures = [
        figure('0 of 3', 'start', 'ours', 4), figure('0 of 3', 'list', 'ours',
                                                     .1),
        figure('1 of 3', 'start', 'ours', 4.5),
        figure('1 of 3', 'list', 'ours', .13),
        figure('1 of 3', 'start', 'stock', error='> 60')]

    def test_table(self):
        shown = [line.split() for line in absent.table(
            self.figures, ['stock', 'ours']).splitlines()]
        self.assertIn(['1', 'of', '3', 'start', '>', '60', '4.500', '1.12'],
                      shown)
        self.assertIn(['1', 'of', '3', 'list', '-', '0.130', '1.30'], shown)

    def test_goals(self):
        self.assertEqual([
            ('start with 1 of 3 away', '+1.0 s', '+0.50 s', True),
            ('list with 1 of 3 away', '1.2 times', '1.30 times', False)],
            absent.goals(self.figures))

    def test_failure_misses_the_goal(self):
        figures = [*self.figures[:2],
                   figure('1 of 3', 'start', 'ours', error='> 60')]
        self.assertEqual(
            [('start with 1 of 3 away', '+1.0 s', '> 60', False)],
            absent.goals(figures))


class UnreachableTest(base.BaseTestCase):

    def test_unreachable(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (folder / 'keyring').write_text('secret')
        with sites.unreachable(folder / 'away', 4,
                               folder / 'keyring') as found:
            self.assertEqual(['away0', 'away1', 'away2', 'away3'],
                             list(found))
            monitors = [line.split()[-1]
                        for site in found.values()
                        for line in site.conf.read_text().splitlines()
                        if line.startswith('mon_host')]
            self.assertEqual(monitors[0], monitors[3])
            self.assertEqual(3, len(set(monitors)))
            places = [(where.split(':')[1], int(where.split(':')[2]))
                      for where in monitors]
            self.assertRaises(ConnectionRefusedError,
                              socket.create_connection, places[0])
            socket.create_connection(places[1], timeout=5).close()
