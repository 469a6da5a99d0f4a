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

"""``glance-dcn task list`` without clusters."""

import contextlib
import io
import json

import fixtures
from oslotest import base

from glance_dcn.cmd import main
from glance_dcn.cmd import task as command
from glance_dcn.tasks import queue
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests.unit.tasks import fakes

IMAGE = fakes.IMAGE


class TestTaskList(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fakes.MemoryCluster())
        self.home, self.edge = fakes.Site('home'), fakes.Site('edge')
        self.queue = queue.TaskQueue('ours')
        self.queue.add(self.home, home=True)
        self.queue.add(self.edge)
        for name, value in (('cmd.main._set_up_stores', lambda args: None),
                            ('tasks.queue.PROCESS', self.queue)):
            self.useFixture(fixtures.MonkeyPatch('glance_dcn.' + name, value))

    def record(self, action=tasks.Action.DELETE, site='edge', **fields):
        self.queue.store.put(tasks.Task(action, site, IMAGE, 'images',
                                        **fields))

    def run_command(self, *argv):
        """Return the exit status, and what was printed and complained."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main.main(['task', 'list', *argv])
        return status, out.getvalue(), err.getvalue()

    def listed(self, *argv):
        """Return the exit status, and what is in the JSON."""
        status, out, _err = self.run_command('--format', 'json', *argv)
        return status, json.loads(out)

    def test_none(self):
        self.assertEqual((command.NONE, 'There are no tasks.\n', ''),
                         self.run_command())
        self.assertEqual((command.NONE, {'tasks': [], 'unreadable': []}),
                         self.listed())

    def test_table(self):
        self.record(created_at=0, created_by='host:7', retry_attempts=3,
                    message='it is away')
        status, out, _err = self.run_command()
        self.assertEqual(command.SOME, status)
        head, row = out.splitlines()
        self.assertEqual(
            ['STORE', 'ACTION', 'IMAGE', 'CREATED', 'ATTEMPTS', 'BY',
             'MESSAGE'], head.split())
        for word in ('edge', 'delete', IMAGE, '1970-01-01 00:00:00 UTC', '3',
                     'host:7', 'it is away'):
            self.assertIn(word, row)

    def test_json(self):
        self.record(tasks.Action.PURGE, image_id='12', message='in use')
        status, found = self.listed()
        self.assertEqual(command.SOME, status)
        task, = found['tasks']
        self.assertEqual(
            ('edge', 'purge', IMAGE, 'images', '12', 0, 'in use'),
            tuple(task[name] for name in (
                'store', 'action', 'image', 'pool', 'image_id', 'attempts',
                'message')))

    def test_only_one_store(self):
        self.record()
        self.assertEqual(command.NONE, self.run_command('--site', 'home')[0])
        self.assertEqual(command.SOME, self.run_command(
            '--site', 'edge', '--site', 'home')[0])
        status, _out, err = self.run_command('--site', 'elsewhere')
        self.assertEqual(command.WRONG, status)
        self.assertIn('no dcn store elsewhere; there are: edge, home', err)

    def test_no_store_at_all(self):
        self.queue.sites.clear()
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.cmd.node._enabled', lambda: {'a': 'file'}))
        for argv in ((), ('--site', 'a')):
            status, out, err = self.run_command(*argv)
            self.assertEqual((command.WRONG, ''), (status, out))
            self.assertIn('no store is of type dcn; there are: a:file', err)

    def test_no_store_keeps_the_records(self):
        """As where two are ours, and another one is the default."""
        self.queue.home.site = None
        status, out, err = self.run_command()
        self.assertEqual((command.WRONG, ''), (status, out))
        self.assertIn('home_store in [glance_dcn]', err)
        self.assertIn('edge, home', err)

    def test_images_that_are_being_written(self):
        shown = ['write (removing)']
        for state in tasks.State:
            self.queue.store.put(tasks.Intent(
                'edge', IMAGE, 'images', 'f', 'writer', 'address',
                state=state))
        self.assertEqual(shown, [
            task['action'] for task in self.listed()[1]['tasks']])
        self.assertEqual(
            ['write (committed)', *shown, 'write (writing)'], sorted(
                task['action'] for task in self.listed('--all')[1]['tasks']))

    def test_records_that_nobody_understands(self):
        key = tasks.prefix('edge', IMAGE) + 'task/delete'
        fakes.records_of(self.home)[key] = '{'
        status, out, _err = self.run_command()
        self.assertEqual(command.SOME, status)
        self.assertIn('Record %s is left alone: it is no JSON' % key, out)

    def test_records_of_another_deployment(self):
        stores.TaskStore(self.queue.home, 'theirs').put(tasks.Task(
            tasks.Action.DELETE, 'edge', IMAGE, 'images'))
        self.assertEqual(command.NONE, self.run_command()[0])
        status, found = self.listed('--all')
        self.assertEqual(command.SOME, status)
        self.assertIn("deployment 'theirs'", found['unreadable'][0]['reason'])

    def test_site_that_is_away(self):
        self.record()
        self.edge.away()
        self.assertEqual(command.SOME, self.run_command()[0])

    def test_default_site_that_is_away(self):
        self.record()
        self.home.away()
        status, _out, err = self.run_command()
        self.assertEqual(command.UNREADABLE, status)
        self.assertIn('it is away', err)

    def test_configuration_that_cannot_be_used(self):
        def fail(args):
            raise ValueError('no such file')
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.cmd.main._set_up_stores', fail))
        status, _out, err = self.run_command()
        self.assertEqual(main.FAILED, status)
        self.assertIn('no such file', err)

    def test_wrong_arguments(self):
        for argv in (['tusk'], ['task'], ['task', 'last']):
            with contextlib.redirect_stderr(io.StringIO()):
                exc = self.assertRaises(SystemExit, main.main, argv)
            self.assertEqual(main.FAILED, exc.code)
