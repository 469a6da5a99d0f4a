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

"""``glance-dcn owed`` without clusters."""

import contextlib
import io
import json
import types

import fixtures
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.cmd import main
from glance_dcn.cmd import owed as command
from glance_dcn.sites import owed

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class TestOwed(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.ledger = owed.Ledger()
        for name in ('home', 'edge'):
            self.ledger.add(types.SimpleNamespace(name=name, round_trip=None),
                            default=name == 'home')
        self.records = {}
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.owed.ledger', self.ledger))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.owed.Place.records', self._records))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.cmd.main._set_up_stores', lambda args: None))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.sites.worker.enabled', True))

    def _records(self, place):
        found = self.records.get((place.site.name, place.name), [])
        if isinstance(found, Exception):
            raise found
        return found

    def run_command(self, *argv):
        """Return the exit status and what was printed."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = main.main(['owed', *argv])
        return status, out.getvalue()

    def test_nothing(self):
        status, out = self.run_command()
        self.assertEqual(command.NOTHING, status)
        self.assertIn('Nothing is owed', out)

    def test_table(self):
        self.records['home', 'glance_dcn.owed.edge'] = [
            owed.Record(owed.DELETE, IMAGE, 'images', since=0, by='host:7',
                        error='it is away')]
        status, out = self.run_command()
        self.assertEqual(command.SOME, status)
        head, row = out.splitlines()
        self.assertEqual(
            ['STORE', 'JOB', 'IMAGE', 'SINCE', 'ATTEMPTS', 'BY', 'ERROR'],
            head.split())
        for word in ('edge', 'delete', IMAGE, '1970-01-01 00:00:00 UTC',
                     'host:7', 'it is away'):
            self.assertIn(word, row)

    def test_json(self):
        self.records['edge', 'glance_dcn.owed'] = [
            owed.Record(owed.REAP, IMAGE, 'images', image_id='12')]
        status, out = self.run_command('--format', 'json')
        self.assertEqual(command.SOME, status)
        record, = json.loads(out)['owed']
        self.assertEqual(
            ('edge', 'edge', 'reap', IMAGE, '12'),
            tuple(record[name] for name in ('store', 'place', 'job', 'image',
                                            'image_id')))

    def test_only_one_store(self):
        self.records['edge', 'glance_dcn.owed'] = [
            owed.Record(owed.REAP, IMAGE, 'images', image_id='12')]
        self.assertEqual(command.NOTHING,
                         self.run_command('--site', 'home')[0])
        self.assertEqual(command.SOME, self.run_command('--site', 'edge')[0])

    def test_site_that_is_away(self):
        # What is owed to it is kept at home.
        self.records['edge', 'glance_dcn.owed'] = errors.Unreachable(
            'edge', 'it is away', 'wait')
        status, out = self.run_command()
        self.assertEqual(command.NOTHING, status)
        self.assertIn('it is away', out)

    def test_default_site_that_is_away(self):
        self.records['home', 'glance_dcn.owed.edge'] = errors.Unreachable(
            'home', 'it is away', 'wait')
        self.assertEqual(command.UNREADABLE, self.run_command()[0])

    def test_configuration_that_cannot_be_used(self):
        def fail(args):
            raise ValueError('no such file')
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.cmd.main._set_up_stores', fail))
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertEqual(main.FAILED, main.main(['owed']))
        self.assertIn('no such file', err.getvalue())

    def test_wrong_arguments(self):
        with contextlib.redirect_stderr(io.StringIO()):
            exc = self.assertRaises(SystemExit, main.main, ['owned'])
        self.assertEqual(main.FAILED, exc.code)
