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

"""``glance-dcn worker list``, to registries without clusters."""

import argparse
import contextlib
import io
import json
import pathlib
import time
import types

import fixtures
from glance.common import config as _registers  # noqa: F401
from oslo_config import fixture as config
from oslotest import base

from glance_dcn.cmd import main
from glance_dcn.cmd import worker
from glance_dcn.imports import journal
from glance_dcn.runtime import process
from glance_dcn.tasks import queue
from glance_dcn.workers import registry
from tests import runtimes
from tests.unit.tasks import fakes as task_fakes
from tests.unit.workers import fakes


class WorkerListTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(runtimes.Runtime())
        self.tasks = queue.TaskQueue('ours')
        self.tasks.add(task_fakes.Site('central'), home=True)
        self.tasks.add(task_fakes.Site('dcn0'))
        process.put(self.tasks)
        self.registry = fakes.Registry()
        self.asked = []
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.workers.registry.Registry',
            lambda *args: self.asked.append(args) or self.registry))

    def add(self, identity, **fields):
        found = registry.Worker(identity, 'central', **dict(
            {'reference': registry.RIGHT, 'host': 'host',
             'url': 'http://%s:9292' % identity}, **fields))
        self.registry.replace(None, found)

    def list(self, *arguments):
        """Return the exit status and what is printed."""
        return self.run_worker('list', *arguments)

    def run_worker(self, *arguments):
        parser = argparse.ArgumentParser()
        worker.register(parser.add_subparsers())
        args = parser.parse_args(['worker', *arguments])
        with contextlib.redirect_stdout(io.StringIO()) as output:
            status = main.run(args)
        return status, output.getvalue()

    def test_of_another_release(self):
        self.add('one')
        self.registry.unreadable['worker/two'] = 'it is of version 3'
        status, text = self.list()
        self.assertEqual(1, status)
        self.assertIn('Record worker/two is left alone: it is of version 3',
                      text)

    def test_root_is_not_glance(self):
        staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.assertIsNone(worker._why_not_me(staging))
        self.assertIsNone(worker._why_not_me(staging / 'nonsense'))
        self.useFixture(fixtures.MonkeyPatch(
            'os.stat', lambda path: types.SimpleNamespace(st_uid=54321)))
        self.useFixture(fixtures.MonkeyPatch('os.geteuid', lambda: 54321))
        self.assertIsNone(worker._why_not_me(staging))
        self.useFixture(fixtures.MonkeyPatch('os.geteuid', lambda: 0))
        self.assertIn('that of user 54321', worker._why_not_me(staging))

    def test_nobody(self):
        self.assertEqual((0, 'No worker is known.\n'), self.list())

    def test_all_are_well(self):
        self.add('one')
        self.add('two')
        entry = journal.Entry('task', 'image', 'copy-image', ['dcn0'], '/s/i',
                              journal.COPYING)
        self.registry.note('two', entry)
        status, text = self.list()
        self.assertEqual(0, status)
        self.assertEqual(3, len(text.splitlines()))
        status, text = self.list('--format', 'json')
        first, second = json.loads(text)['workers']
        self.assertEqual(('one', 'up', 0), (
            first['identity'], first['state'], first['doing']))
        self.assertEqual(['image'], [task['image']
                                     for task in second['tasks']])

    def test_wrong_self_reference(self):
        self.add('one', reference=registry.WRONG, faults=['it is wrong'])
        status, text = self.list()
        self.assertEqual(1, status)
        self.assertIn('one at host host: it is wrong', text)

    def test_unproved_is_no_mistake(self):
        self.add('one', reference=registry.UNPROVED, faults=['not proved'])
        status, text = self.list()
        self.assertEqual(0, status)
        self.assertIn('not proved', text)

    def test_silent(self):
        self.add('one', seen=time.time() - 100)
        status, text = self.list()
        self.assertEqual(1, status)
        self.assertIn('silent', text)

    def test_taken_over(self):
        self.add('one', taken_by='two')
        status, text = self.list()
        self.assertEqual(1, status)
        self.assertIn('taken over', text)

    def test_those_of_the_home(self):
        # Other sites show their own.
        self.list()
        self.assertEqual([(self.tasks.home, 'ours')], self.asked)
        self.assertEqual('central', self.tasks.home.name)

    def test_no_store_of_ours(self):
        process.put(queue.TaskQueue('ours'))
        self.useFixture(config.Config()).config(
            enabled_backends={'a': 'file'})
        for command in ('list', 'recover'):
            with contextlib.redirect_stderr(io.StringIO()) as err:
                self.assertEqual((2, ''), self.run_worker(command))
            self.assertIn('no store is of type dcn; there are: a:file',
                          err.getvalue())

    def test_no_store_keeps_the_records(self):
        """As where two are ours, and another one is the default."""
        self.tasks.home.site = None
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual((2, ''), self.list())
        self.assertIn('home_store in [glance_dcn]', err.getvalue())
        self.assertIn('central, dcn0', err.getvalue())

    def test_default_site_cannot_be_read(self):
        self.registry.reachable = False
        status, text = self.list('--format', 'json')
        self.assertEqual(3, status)
        self.assertEqual(['central'], [
            entry['site'] for entry in json.loads(text)['unread']])
        self.assertIn('The workers of central cannot be read',
                      self.list()[1])
