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

"""``glance-dcn task`` without clusters."""

import contextlib
import io
import json
from unittest import mock

import fixtures
from glance.common import config as _registers  # noqa: F401
from oslo_config import fixture as config
from oslotest import base

from glance_dcn.cmd import main
from glance_dcn.cmd import output
from glance_dcn.runtime import process
from glance_dcn.tasks import leases
from glance_dcn.tasks import queue
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from tests import runtimes
from tests.unit.tasks import fakes

IMAGE = fakes.IMAGE


class TaskCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.cluster = self.useFixture(fakes.MemoryCluster())
        self.home, self.edge = fakes.Site('home'), fakes.Site('edge')
        self.queue = queue.TaskQueue('ours')
        self.queue.add(self.home, home=True)
        self.queue.add(self.edge)
        self.useFixture(runtimes.Runtime())
        process.put(self.queue)
        self.set_up = lambda args: None

    def record(self, action=tasks.Action.DELETE, site='edge', **fields):
        self.queue.store.put(tasks.Task(action, site, IMAGE, 'images',
                                        **fields))

    def run_task(self, *argv):
        """Return the exit status, and what was printed and complained."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main.main(['task', *argv],
                               lambda args: self.set_up(args))
        return status, out.getvalue(), err.getvalue()

    @property
    def left(self):
        return self.queue.store.scan().records


class TestList(TaskCase):

    def run_command(self, *argv):
        return self.run_task('list', *argv)

    def listed(self, *argv):
        """Return the exit status, and what is in the JSON."""
        status, out, _err = self.run_command('--format', 'json', *argv)
        return status, json.loads(out)

    def test_none(self):
        self.assertEqual((output.Exit.GOOD, 'There are no tasks.\n', ''),
                         self.run_command())
        self.assertEqual((output.Exit.GOOD, {'tasks': [], 'unreadable': []}),
                         self.listed())

    def test_table(self):
        self.record(created_at=0, created_by='host:7', retry_attempts=3,
                    message='it is away')
        status, out, _err = self.run_command()
        self.assertEqual(output.Exit.BAD, status)
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
        self.assertEqual(output.Exit.BAD, status)
        task, = found['tasks']
        self.assertEqual(
            ('edge', 'purge', IMAGE, 'images', '12', 0, 'in use'),
            tuple(task[name] for name in (
                'store', 'action', 'image', 'pool', 'image_id', 'attempts',
                'message')))

    def test_only_one_store(self):
        self.record()
        self.assertEqual(output.Exit.GOOD,
                         self.run_command('--site', 'home')[0])
        self.assertEqual(output.Exit.BAD, self.run_command(
            '--site', 'edge', '--site', 'home')[0])
        status, _out, err = self.run_command('--site', 'elsewhere')
        self.assertEqual(output.Exit.WRONG, status)
        self.assertIn('no dcn store elsewhere; there are: edge, home', err)

    def test_no_store_at_all(self):
        self.queue.sites.clear()
        self.useFixture(config.Config()).config(
            enabled_backends={'a': 'file'})
        for argv in ((), ('--site', 'a')):
            status, out, err = self.run_command(*argv)
            self.assertEqual((output.Exit.WRONG, ''), (status, out))
            self.assertIn('no store is of type dcn; there are: a:file', err)

    def test_no_store_keeps_the_records(self):
        """As where two are ours, and another one is the default."""
        self.queue.home.site = None
        status, out, err = self.run_command()
        self.assertEqual((output.Exit.WRONG, ''), (status, out))
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
        self.assertEqual(output.Exit.BAD, status)
        self.assertIn('Record %s is left alone: it is no JSON' % key, out)

    def test_each_command_tells_what_it_does_not_understand(self):
        key = tasks.prefix('edge', IMAGE) + 'task/delete'
        fakes.records_of(self.home)[key] = '{'
        for command in (('show', IMAGE), ('list', '--site', 'edge')):
            status, out, _err = self.run_task(*command)
            self.assertEqual(output.Exit.BAD, status, command)
            self.assertIn('Record %s is left alone' % key, out)
        self.assertNotIn('Nothing is recorded', self.run_task('show', IMAGE)[
            1])
        # It is about another site, and another image.
        for command in (('show', 'another'), ('list', '--site', 'home')):
            status, out, _err = self.run_task(*command)
            self.assertEqual(output.Exit.GOOD, status, command)
            self.assertNotIn(key, out)

    def test_records_of_another_deployment(self):
        stores.TaskStore(self.queue.home, 'theirs').put(tasks.Task(
            tasks.Action.DELETE, 'edge', IMAGE, 'images'))
        self.assertEqual(output.Exit.GOOD, self.run_command()[0])
        status, found = self.listed('--all')
        self.assertEqual(output.Exit.BAD, status)
        self.assertIn("deployment 'theirs'", found['unreadable'][0]['reason'])

    def test_site_that_is_away(self):
        self.record()
        self.edge.away()
        self.assertEqual(output.Exit.BAD, self.run_command()[0])

    def test_default_site_that_is_away(self):
        self.record()
        self.home.away()
        status, _out, err = self.run_command()
        self.assertEqual(output.Exit.UNABLE, status)
        self.assertIn('it is away', err)

    def test_configuration_that_cannot_be_used(self):
        def fail(args):
            raise ValueError('no such file')
        self.set_up = fail
        status, _out, err = self.run_command()
        self.assertEqual(output.Exit.WRONG, status)
        self.assertIn('no such file', err)

    def test_wrong_arguments(self):
        for argv in (['tusk'], ['task'], ['task', 'last']):
            with contextlib.redirect_stderr(io.StringIO()):
                exc = self.assertRaises(SystemExit, main.main, argv)
            self.assertEqual(output.Exit.WRONG, exc.code)


class TestShow(TaskCase):

    def test_nothing_is_recorded(self):
        self.record()
        status, out, _err = self.run_task('show', 'another')
        self.assertEqual(output.Exit.GOOD, status)
        self.assertEqual('Nothing is recorded about image another.\n', out)

    def test_all_of_an_image(self):
        self.record(message='it is away', addresses=('10.0.0.1:0/7',))
        self.queue.store.put(tasks.Intent('edge', IMAGE, 'images', 'f',
                                          'writer', '10.0.0.1:0/8'))
        status, out, _err = self.run_task('show', IMAGE)
        self.assertEqual(output.Exit.BAD, status)
        for text in ('it is away', 'write (writing)', 'delete'):
            self.assertIn(text, out)
        _status, out, _err = self.run_task('show', IMAGE, '--format', 'json')
        self.assertEqual(['write (writing)', 'delete'], [
            entry['action'] for entry in json.loads(out)['tasks']])


class TestRetry(TaskCase):

    def test_chosen_ones(self):
        self.record(retry_attempts=7, message='it is away')
        self.record(site='home', retry_attempts=7)
        status, out, _err = self.run_task('retry', IMAGE, '--site', 'edge')
        self.assertEqual((output.Exit.GOOD, 'Going to be tried: 1.\n'),
                         (status, out))
        retried, other = self.left
        self.assertEqual((0, 7), (retried.retry_attempts,
                                  other.retry_attempts))
        self.assertEqual('it is away', retried.message)
        self.assertGreater(retried.retried_at, 0)
        self.assertEqual(0, other.retried_at)

    def test_no_such_task(self):
        self.record()
        before = self.left
        for chosen in (('another',), (IMAGE, 'another'),
                       (IMAGE, '--site', 'home')):
            status, out, err = self.run_task('retry', *chosen)
            self.assertEqual((output.Exit.WRONG, ''), (status, out))
            self.assertIn('no task for image %s;' % (
                IMAGE if 'home' in chosen else 'another'), err)
            self.assertEqual(before, self.left)

    def test_there_is_none(self):
        self.assertEqual(output.Exit.BAD, self.run_task('retry')[0])

    def test_changed_meanwhile(self):
        self.record()
        self.cluster.swap = lambda *args: False
        status, out, err = self.run_task('retry')
        self.assertEqual(output.Exit.BAD, status)
        self.assertIn('tried: 0', out)
        self.assertIn('store edge: the task delete of image %s was changed'
                      % IMAGE, err)

    def test_home_is_away(self):
        self.home.away()
        status, _out, err = self.run_task('retry')
        self.assertEqual(output.Exit.UNABLE, status)
        self.assertIn('it is away', err)


class TestRun(TaskCase):

    def setUp(self):
        super().setUp()
        self.database = self.queue._database = fakes.Database()

    def dry_run(self):
        """Return plan and reason of each record, which are all left."""
        before = self.left
        status, out, _err = self.run_task('run', '--dry-run', '--format',
                                          'json')
        self.assertEqual(output.Exit.GOOD, status)
        self.assertEqual(before, self.left)
        return [(plan['action'], plan['plan'], plan['reason'])
                for plan in json.loads(out)['plans']]

    def test_without_a_database(self):
        for database in (None, mock.Mock(available=False)):
            self.queue._database = database
            for argv in (('run',), ('run', '--dry-run')):
                status, _out, err = self.run_task(*argv)
                self.assertEqual(output.Exit.UNABLE, status)
                self.assertIn('database of Glance cannot be asked', err)

    def test_dry_run(self):
        self.edge.add('1')
        self.record(image_id='1')
        self.assertEqual(
            [('delete', 'remove', 'Glance has no location of it')],
            self.dry_run())
        self.database.says = fakes.NAMED
        self.assertEqual(
            [('delete', 'wait', 'Glance still has its location')],
            self.dry_run())
        self.edge.add('2')
        self.assertEqual([('delete', 'drop', 'another image has its name')],
                         self.dry_run())
        self.edge.away()
        (_action, plan, reason), = self.dry_run()
        self.assertEqual('wait', plan)
        self.assertIn('away', reason)
        self.assertIn((self.edge.pool, IMAGE), self.edge.images)

    def test_dry_run_of_a_store_that_is_gone(self):
        self.record(site='gone')
        self.assertEqual([('delete', 'wait', 'this Glance has no such store')],
                         self.dry_run())

    def test_dry_run_of_another_cluster(self):
        self.record(fsid='another')
        self.assertEqual('drop', self.dry_run()[0][1])

    def test_dry_run_of_intents(self):
        self.edge.add('1')
        for state in tasks.State:
            self.queue.store.put(tasks.Intent(
                'edge', IMAGE, 'images', self.edge.fsid, 'writer',
                '10.0.0.1:0/8', '1', state, uid=state.value))
        self.assertEqual([
            ('write (committed)', 'remove',
             'Glance has not noted its location'),
            ('write (removing)', 'remove', 'Glance has no location of it'),
            ('write (writing)', 'wait', 'it is being written')],
            self.dry_run())

    def test_dry_run_tells_what_it_does_not_understand(self):
        key = tasks.prefix('edge', IMAGE) + 'task/delete'
        fakes.records_of(self.home)[key] = '{'
        status, out, _err = self.run_task('run', '--dry-run')
        self.assertEqual(output.Exit.BAD, status)
        self.assertIn('Record %s is left alone' % key, out)

    def test_table_of_plans(self):
        self.assertEqual((output.Exit.GOOD, 'There are no tasks.\n', ''),
                         self.run_task('run', '--dry-run'))
        self.record()
        head, row = self.run_task('run', '--dry-run')[1].splitlines()
        self.assertEqual(['STORE', 'ACTION', 'IMAGE', 'PLAN', 'REASON'],
                         head.split())
        self.assertIn('there is no such image', row)

    def test_run(self):
        self.edge.add('1')
        self.record(image_id='1')
        self.assertEqual((output.Exit.GOOD, 'There are no tasks.\n', ''),
                         self.run_task('run'))
        self.assertEqual({}, self.edge.images)

    def test_what_cannot_be_done_is_shown(self):
        self.database.says = fakes.NAMED
        self.edge.add('1')
        self.record(image_id='1')
        status, out, _err = self.run_task('run')
        self.assertEqual(output.Exit.BAD, status)
        self.assertIn('Glance still has its location', out)
        # The lease is given back.
        self.assertEqual(output.Exit.BAD, self.run_task('run')[0])

    def test_another_process_runs_them(self):
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.cmd.task._PATIENCE', 0))
        self.assertTrue(leases.RunnerLease(self.queue.store).acquire())
        self.edge.add('1')
        self.record(image_id='1')
        status, _out, err = self.run_task('run')
        self.assertEqual(output.Exit.BUSY, status)
        self.assertIn('glance-dcn task retry', err)
        self.assertEqual(1, len(self.left))
        # It needs no right to show what would be done.
        self.assertEqual('remove', self.dry_run()[0][1])
