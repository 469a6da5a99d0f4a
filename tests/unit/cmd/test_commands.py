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

"""Each command that lists or shows, in each format, without clusters."""

import argparse
import collections
import contextlib
import csv
import io
import json
import types
import typing
from unittest import mock

import fixtures
import yaml

from glance_dcn.ceph import health
from glance_dcn.checks import registry as checks
from glance_dcn.cmd import formats
from glance_dcn.cmd import main
from glance_dcn.cmd import output
from glance_dcn.imports import journal
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import site as sites
from glance_dcn.status import cluster
from glance_dcn.status import inventory
from glance_dcn.status import poll
from glance_dcn.tasks import queue
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import registry as workers
from tests import runtimes
from tests.unit.cmd import test_formats
from tests.unit.cmd import test_main
from tests.unit.deploy import base
from tests.unit.status import test_metrics
from tests.unit.tasks import fakes as task_fakes

HOSTILE = test_formats.HOSTILE
# What each command is run with, at whose end the options of formats come.
_ARGUMENTS = {
    'check': (), 'config diff': ('--from', 'OLD'),
    'config render': ('--all', '--as', 'plain', '--output', 'OUTPUT'),
    'site accept': ('edge',), 'site list': (),
    'site import': ('new', '--ceph-conf', 'c.conf'),
    'site key': ('dcn0', '--ceph-conf', 'c.conf', '--output', 'KEYRING'),
    'site show': ('edge',), 'status': ('--all',),
    'task list': ('--all',), 'task retry': (), 'task run': (),
    'task show': (task_fakes.IMAGE,), 'uninstall': ('--check',),
    'validate': (), 'worker list': (), 'worker recover': ()}
# Those of a sites file, which have it as another argument.
_OF_SITES_FILE = ('config diff', 'config render', 'site import', 'site key')


class _Conf(collections.defaultdict):
    """A configuration, with groups by their names."""

    enabled_backends: typing.ClassVar = {'central': 'dcn', 'edge': 'dcn'}


class EachCommand(base.SitesFileTestCase):
    """Commands whose sites, records and checks are said here."""

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.path.write_text(base.SITES)
        (self.folder / 'old.yaml').write_text(base.SITES.replace(
            'max_transfers: 4', 'max_transfers: 5'))
        self.useFixture(task_fakes.MemoryCluster())
        self.useFixture(runtimes.Runtime())
        self.states = [
            poll.SiteStatus('central', health.UP, fsid='f0', pool='images'),
            poll.SiteStatus('edge', health.DOWN, HOSTILE, tasks={'delete': 2},
                            unread=True)]
        self._put_records()
        self._put_site()
        conf = _Conf(lambda: types.SimpleNamespace(
            filesystem_store_datadir='/nonsense', deployment_id='ours'))
        way = mock.Mock(**{'steps.return_value': [('go', self._fail)],
                           'clean.return_value': [HOSTILE]})
        polling = mock.Mock(
            kept={'edge': cluster_identity.ClusterIdentity('f1', 0)},
            **{'wait.side_effect': lambda timeout: self.states})
        outcomes = [(journal.Entry('task', HOSTILE, 'copy-image', ['dcn0'],
                                   '/s/i', journal.COPYING), None)]
        for target, value in (
                ('cmd.main._set_up_stores', lambda args: None),
                ('cmd.node.read_all', lambda args: conf),
                ('cmd.node.targets', lambda conf, tell=True: [
                    cluster.Target(name, 'images', default=not number)
                    for number, name in enumerate(('central', 'edge'))]),
                ('checks.runner.run', lambda *args: [checks.Finding(
                    'edge', 'conf', checks.FAIL, HOSTILE, 'mend it')]),
                ('status.snapshot.take', lambda *args: self.take(*args)),
                ('status.poll.Poll', lambda *args: polling),
                ('ceph.users.describe', lambda *args: {
                    'fsid': 'f', 'mons': ['10.0.0.1'], 'pools': ['images']}),
                ('ceph.users.make_key', lambda *args: (base.KEY, None)),
                ('imports.recovery.recover', lambda found: outcomes),
                ('imports.journal.of', lambda conf: mock.Mock(
                    **{'of_other_release.return_value': {}})),
                ('imports.folder.path', lambda conf: str(self.folder)),
                ('cmd.worker._why_not_me', lambda path: None),
                ('cmd.uninstall._compare_options',
                 lambda conf, targets, report: report.change.append(HOSTILE)),
                ('cmd.uninstall._read_database', lambda *args: None),
                ('cmd.uninstall._read_records', lambda *args: None),
                ('cmd.uninstall._read_staging', lambda *args: None),
                ('cmd.validate._adapter', lambda args: None),
                ('cmd.validate._targets', lambda args, glance: []),
                ('cmd.validate.journey.Journey', lambda *args: way)):
            self.useFixture(fixtures.MonkeyPatch('glance_dcn.' + target,
                                                 value))

    @staticmethod
    def _fail(*_args, **_kwargs):
        raise ValueError(HOSTILE)

    def _put_records(self):
        queued = queue.TaskQueue('ours')
        queued.add(task_fakes.Site('home'), home=True)
        queued.add(task_fakes.Site('edge'))
        process.put(queued)
        # Records of such texts are refused where they are read: what if not?
        task = tasks.Task(
            tasks.Action.DELETE, 'edge', task_fakes.IMAGE, 'images',
            created_at=0, created_by=HOSTILE, message=HOSTILE)
        strange = stores.Unreadable('%s/edge/%s' % (
            task_fakes.IMAGE, HOSTILE), HOSTILE, False)
        worker = workers.Worker('one', 'home', HOSTILE, HOSTILE,
                                faults=(HOSTILE,))
        for target, value in (
                ('workers.registry.Registry.scan',
                 lambda found: workers.Scan([worker])),
                ('workers.registry.Registry.tasks', lambda *args: []),
                ('tasks.store.TaskStore.scan',
                 lambda store: stores.Scan(
                     [task], unreadable=[strange])),
                ('tasks.queue.TaskQueue.can_run', True),
                ('tasks.queue.TaskQueue.run_once', lambda *args: True)):
            self.useFixture(fixtures.MonkeyPatch('glance_dcn.' + target,
                                                 value))

    def _put_site(self):
        site = mock.Mock(spec=sites.Site, fsid='f', pool='images',
                         open_pool=mock.MagicMock())
        site.name = 'edge'
        kind = cluster_identity.ClusterIdentities
        process.put(mock.Mock(spec=kind, **{
            'accept.return_value': ('before', 'now')}), kind)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_store.get_store_from_store_identifier',
            lambda store: mock.Mock(site=site)))

    def take(self, *_args):
        return test_metrics.some_snapshot(
            sites=self.states, images=[inventory.Image(
                'i1', HOSTILE, 'active', 'me', 10, {'central'})], number=1,
            known={'gone'}, totals=inventory.Totals(
                {'active': 1}, 10, {'central': 1, 'gone': 1},
                {'central': 10}, {}, {}))

    def arguments(self, name):
        """Return the arguments that a command is run with."""
        paths = {'OLD': 'old.yaml', 'OUTPUT': 'output', 'KEYRING': 'keyring'}
        found = [str(self.folder / paths[word]) if word in paths else word
                 for word in (*name.split(), *_ARGUMENTS[name])]
        if name in _OF_SITES_FILE:
            found += ['--sites-file', str(self.path)]
        return found

    def run_command(self, *argv):
        """Return the exit status, and what was printed and complained."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main.main(list(argv))
        for text in (out.getvalue(), err.getvalue()):
            self.assertEqual('', ''.join(
                letter for letter in text
                if not letter.isprintable() and letter != '\n'), argv)
        return int(status), out.getvalue(), err.getvalue()


class TestEachCommand(EachCommand):

    def setUp(self):
        super().setUp()
        self.commands = {
            name.removeprefix('glance-dcn '): parser
            for name, parser in test_main.commands(main._parser())}

    def columns(self, argv):
        return formats.columns_of(main._parser().parse_args(argv)).names

    def test_all_have_them(self):
        self.assertEqual(
            {*self.commands} - {'complete', 'metrics'}, {*_ARGUMENTS})

    def test_formats(self):
        for name in _ARGUMENTS:
            argv = self.arguments(name)
            names = [*self.columns(argv)]
            results = {form: self.run_command(*argv, '-f', form)
                       for form in formats.FORMATS}
            self.assertEqual(
                1, len({status for status, _out, _err in results.values()}),
                results)
            found = {form: out for form, (_status, out, _err)
                     in results.items()}
            rows = [*csv.reader(io.StringIO(found['csv']))]
            self.assertEqual(names, rows[0], name)
            self.assertGreater(len(rows), 1, name)
            self.assertEqual({len(names)}, {*map(len, rows)}, name)
            if name not in ('config render', 'validate', 'status', 'check'):
                # Those tell times, and what was the first time.
                self.assertEqual(json.loads(found['json']),
                                 yaml.safe_load(found['yaml']), name)
            self.assertTrue(found['value'].strip(), name)
            self.assertTrue(found['table'].strip(), name)

    def test_each_column(self):
        for name in _ARGUMENTS:
            argv = self.arguments(name)
            for column in self.columns(argv):
                _status, out, _err = self.run_command(
                    *argv, '-f', 'json', '-c', column)
                found = json.loads(out)
                for row in found if isinstance(found, list) else [found]:
                    self.assertEqual([column], [*row], name)

    def test_unknown_column_and_nothing_is_done(self):
        for name in _ARGUMENTS:
            argv = self.arguments(name)
            for work in ('status.snapshot.take', 'checks.runner.run',
                         'ceph.users.make_key', 'deploy.files.write',
                         'imports.recovery.recover', 'cmd.node.read_all'):
                self.useFixture(fixtures.MonkeyPatch(
                    'glance_dcn.' + work, self._fail))
            status, out, err = self.run_command(*argv, '-c', 'nonsense')
            self.assertEqual((output.Exit.WRONG, ''), (status, out), name)
            self.assertEqual(
                'glance-dcn: there is no column nonsense; there are %s\n'
                % ', '.join(self.columns(argv)), err)

    def test_raw_values(self):
        for argv, wanted in (
                (('task', 'list', '-c', 'created', '-c', 'attempts'),
                 '1970-01-01T00:00:00Z 0\n'),
                (('status', '-c', 'site', '-c', 'tasks'),
                 'central delete=0,remove-incomplete=0,purge=0,'
                 'unreadable=0\n'
                 'edge delete=2,remove-incomplete=0,purge=0,unreadable=0\n'
                 'gone None\n'),
                (('status', '--all', '-c', 'size', '-c', 'present', '-c',
                  'missing'), '10 central edge\n'),
                (('site', 'list', '-c', 'name', '-c', 'glance', '-c',
                  'recorded'), 'central None default\nedge f1 used\n'),
                (('site', 'show', 'edge', '-c', 'fsid', '-c', 'state'),
                 'up\nf\n')):
            self.assertEqual(wanted, self.run_command(
                *argv, '-f', 'value')[1])


class TestSiteList(EachCommand):

    def list(self, *argv):
        """Return the exit status, (state, glance) by site, and notes."""
        status, out, err = self.run_command('site', 'list', '-f', 'json',
                                            *argv)
        return status, {site['name']: (site['state'], site['glance'])
                        for site in json.loads(out)['sites']}, err

    def test_all_are_well(self):
        self.states = [poll.SiteStatus('central', health.UP),
                       poll.SiteStatus('edge', health.UP)]
        self.assertEqual((output.Exit.GOOD, {
            'central': ('up', 'default'), 'edge': ('up', 'used')}, ''),
            self.list())

    def test_refused(self):
        self.states = [poll.SiteStatus('central', health.UP),
                       poll.SiteStatus('edge', health.UP)]
        self.states[1].refuse('its cluster has fsid f2, and had fsid f1')
        status, found, _err = self.list()
        self.assertEqual((output.Exit.BAD, ('misconfigured', 'refused')),
                         (status, found['edge']))
        self.assertIn('Glance refuses it', self.run_command('site', 'list')[1])

    def test_sites_that_glance_does_not_have(self):
        self.states = [poll.SiteStatus(name, health.UP)
                       for name in ('central', 'dcn0', 'dcn1')]
        status, found, _err = self.list('--sites-file', str(self.path))
        self.assertEqual(output.Exit.BAD, status)
        self.assertEqual(('up', 'default'), found['central'])
        self.assertEqual(('up', 'no store'), found['dcn0'])

    def test_records_that_cannot_be_read(self):
        status, out, err = self.run_command('site', 'list', '-f', 'value')
        self.assertEqual(output.Exit.BAD, status)
        self.assertIn('has recorded of the clusters cannot be read', err)
        self.assertNotIn('recorded of the', out)


class TestProblems(EachCommand):

    def problems(self, *argv):
        """Return the exit status, sites, images and the note of people."""
        status, out, _err = self.run_command('status', '--problems', '-f',
                                             'json', *argv)
        found = json.loads(out)
        return (status, [site['name'] for site in found['sites']],
                found['images'])

    def test_sites(self):
        status, found, images = self.problems()
        self.assertEqual((output.Exit.BAD, ['edge'], []),
                         (status, found, images))
        out = self.run_command('status', '--problems')[1]
        self.assertNotIn('central', out)
        self.assertIn('gone  taken away', ' '.join(
            out.replace('   ', '  ').splitlines()[2:]))

    def test_nothing(self):
        self.states.pop()
        self.take = lambda *args: test_metrics.some_snapshot(
            sites=self.states)
        status, out, _err = self.run_command('status', '--problems')
        self.assertEqual((0, 'Nothing is wrong; images were counted, and not '
                          'looked for one by one: --all does that\n'),
                         (status, out))
        self.assertEqual((0, [], None), self.problems())

    def test_lost_image(self):
        self.states[:] = [poll.SiteStatus(
            'central', health.UP, fsid='f0', pool='images', names=set())]
        self.lost = [
            inventory.Image(name, name, 'active', 'me', 1, {'central'}, {
                'central': 'rbd://%s/images/%s/snap' % (fsid, name)})
            for name, fsid in (('one', 'f1'), ('two', 'f0'), ('ok', ''))]
        self.lost[2].places.clear()
        asked = []
        self.take = lambda targets, timeout, wanted, limit, *args: (
            asked.append(limit) or test_metrics.some_snapshot(
                sites=self.states, images=self.lost, number=3,
                totals=inventory.Totals({}, 0, {}, {}, {}, {})))
        status, found, images = self.problems('--all')
        self.assertEqual((1, [], ['one', 'two']), (
            status, found, [image['id'] for image in images]))
        # All are looked at, however many are listed.
        status, out, err = self.run_command(
            'status', '--all', '--problems', '--limit', '1', '-f', 'value',
            '-c', 'image', '-c', 'lost')
        self.assertEqual((1, 'one central\n'), (status, out))
        self.assertIn('1 of 2 that are meant are listed', err)
        self.assertGreater(min(asked), 1 << 30)


class TestScheme(EachCommand):

    def test_what_is_not_foreseen_is_no_answer(self):
        self.take = self._fail
        status, out, err = self.run_command('status')
        self.assertEqual((output.Exit.UNABLE, ''), (status, out))
        self.assertRegex(err, '^glance-dcn: it ended unexpectedly: '
                         'ValueError: .+; --debug shows where\n$')
        self.assertRaises(ValueError, self.run_command, '--debug', 'status')

    def test_exit_statuses_that_helps_name(self):
        """No help has a status that is not of the scheme."""
        known = {int(status) for status in output.Exit}
        for name, parser in test_main.commands(main._parser()):
            lines = parser.format_help().partition('exit status:\n')[2]
            found = {int(line.split()[0]) for line in lines.splitlines()
                     if line[2:3].isdigit()}
            self.assertIn(2, found, name)
            self.assertLessEqual(found, known, name)

    def test_examples_are_of_the_command(self):
        parser = main._parser()
        for name, below in test_main.commands(parser):
            examples = below.format_help().partition('examples:\n')[2]
            self.assertIn(name, examples.partition('exit status:')[0], name)
            self.assertIsInstance(below, argparse.ArgumentParser)
