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

"""Tests of the summary of a randomised run."""

from oslotest import base

from tests.chaos import check
from tests.chaos import plan
from tests.chaos import report
from tests.chaos import run


def done(kind, outcome, seconds=1.0):
    """Return an operation that was carried out."""
    return run.Done(plan.Operation(0, kind, ('central', 0)), outcome, '',
                    seconds)


class ReportTest(base.BaseTestCase):

    def test_operations(self):
        shown = [line.split() for line in report.operations([
            done('list', 'ok', 1), done('list', 'ok', 2),
            done('copy', 'failed', 9)]).splitlines()]
        self.assertEqual([
            ['operation', 'number', 'ok', 'failed', 'median', 's', 'longest',
             's'],
            ['copy', '1', '-', '1', '9.0', '9.0'],
            ['list', '2', '2', '-', '1.5', '2.0'],
            ['all', '3', '2', '1', '2.0', '9.0']], shown)

    def test_faults(self):
        fault = plan.Fault(0, 'cut', 'dcn0', 1, 0, 1, 0)
        shown = report.faults([run.Done(fault, 'caused', '', 1)])
        self.assertEqual(['cut', '1', '1'], shown.splitlines()[1].split())

    def test_violations(self):
        self.assertEqual('violations: none', report.violations([]))
        shown = report.violations([
            check.Violation('lost', '3 (x)', 'dcn0', 'it was there')])
        self.assertIn('lost: 3 (x) at dcn0: it was there', shown)

    def test_every_outcome_has_its_column(self):
        shown = report.operations([done('list', outcome)
                                   for outcome in report.OUTCOMES])
        self.assertIn(str(len(report.OUTCOMES)), shown.splitlines()[1])
        for outcome in report.OUTCOMES:
            self.assertIn(outcome, shown.splitlines()[0])
