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


import contextlib
import io
import json
import types

from oslotest import base

from glance_dcn.checks import journey
from glance_dcn.cmd import validate


class _Way:
    """A journey of two steps."""

    def __init__(self, error, left):
        self.error, self.left, self.cleaned = error, left, 0

    def steps(self):
        return [('go', self._go), ('delete', lambda: None)]

    def _go(self):
        if self.error:
            raise self.error

    def clean(self):
        self.cleaned += 1
        return self.left

    def close(self):
        pass


class TestValidate(base.BaseTestCase):

    def run_command(self, error=None, left=()):
        """Return the exit status, what was printed, and the journey."""
        way = _Way(error, list(left))
        args = types.SimpleNamespace(
            format='json', column=[], columns=validate._COLUMNS, debug=False)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = validate.go(args, way)
        return status, json.loads(out.getvalue()), way

    def test_good(self):
        status, said, way = self.run_command()
        self.assertEqual((0, 0, []), (status, way.cleaned, said['left']))

    def test_step_that_fails(self):
        status, said, way = self.run_command(journey.Refused('no\n way'))
        self.assertEqual((1, 1), (status, way.cleaned))
        self.assertEqual('no way', said['steps'][0]['error'])

    def test_what_is_not_foreseen_is_a_failure_too(self):
        # As when the API goes away meanwhile.
        status, said, way = self.run_command(RuntimeError('refused'))
        self.assertEqual((1, 1), (status, way.cleaned))
        self.assertEqual('RuntimeError: refused', said['steps'][0]['error'])

    def test_what_stays_is_told_whatever_failed(self):
        status, said, _way = self.run_command(
            RuntimeError('refused'), ['image x stays'])
        self.assertEqual((3, ['image x stays']), (status, said['left']))
