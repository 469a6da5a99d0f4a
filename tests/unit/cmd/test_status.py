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

"""``glance-dcn status`` and ``metrics``, without clusters and databases."""

import contextlib
import io
import json
import os
import pathlib
import threading
import types

import fixtures
from oslotest import base

from glance_dcn.ceph import health
from glance_dcn.cmd import main
from glance_dcn.cmd import output
from glance_dcn.deploy import sitesfile
from glance_dcn.status import cluster
from glance_dcn.status import inventory
from glance_dcn.status import poll
from tests import runtimes
from tests.unit.status import test_metrics

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class Conf(types.SimpleNamespace):
    """A configuration of Glance, and what it says of each store."""

    def __getitem__(self, name):
        return getattr(self, name)


class CommandTestCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.asked = []
        self.snapshot = test_metrics.some_snapshot()
        store = types.SimpleNamespace(rbd_store_pool='images',
                                      rados_connect_timeout=-1)
        self.conf = Conf(
            enabled_backends={'central': 'dcn', 'edge': 'dcn'},
            central=store, edge=store,
            glance_store=types.SimpleNamespace(default_backend='central'),
            glance_dcn=types.SimpleNamespace(
                deployment_id='ours', sites_dir=None, home_store=None))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.status.snapshot.take', self._take))
        self.useFixture(runtimes.Runtime())

    def _take(self, targets, timeout, wanted=None, limit=0, deployment='',
              database=None):
        self.assertEqual('ours', deployment)
        self.asked.append((wanted, limit))
        if isinstance(self.snapshot, Exception):
            raise self.snapshot
        return self.snapshot

    def run_command(self, *argv):
        """Return the exit status, and what was printed and complained."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            result = main.main(list(argv), lambda args: setattr(
                args, 'conf', self.conf))
        return result, out.getvalue(), err.getvalue()


class TestStatus(CommandTestCase):

    def image(self, *present, **more):
        return inventory.Image(IMAGE, 'fedora', 'active', 'me', 10,
                               set(present), **more)

    def test_summary(self):
        code, out, _err = self.run_command('status')
        self.assertEqual(output.Exit.BAD, code)
        lines = out.splitlines()
        self.assertEqual(
            ['central', 'up', '1.0', 'ms', '600', 'B', '3', '0', '0', '0',
             '0', '2', 'delete', '-'], lines[1].split())
        self.assertEqual(
            ['edge', 'down', '-', '-', '1', '1', '1', '0', '2', '0', 'it',
             'is', 'away'], lines[2].split())
        self.assertIn('Copying: 42 %', out)
        self.assertIn('4 images (3 active, 1 queued), 40 B', out)
        self.assertEqual([(None, 50)], self.asked)

    def test_healthy(self):
        self.snapshot = test_metrics.some_snapshot(
            sites=[poll.SiteStatus('central', health.UP)])
        self.assertEqual(output.Exit.GOOD, self.run_command('status')[0])

    def test_tasks_that_cannot_be_read(self):
        self.snapshot = test_metrics.some_snapshot(sites=[poll.SiteStatus(
            'central', health.UP, tasks=None, unread=True)])
        code, out, _err = self.run_command('status')
        self.assertEqual(output.Exit.BAD, code)
        self.assertEqual('-', out.splitlines()[1].split()[-2])
        # A Glance that keeps none has none to be read.
        self.snapshot.sites[0].unread = False
        self.assertEqual(output.Exit.GOOD, self.run_command('status')[0])

    def site(self, **more):
        return poll.SiteStatus('central', health.UP, fsid='f0', pool='images',
                               **more)

    def test_images_that_are_in_another_cluster(self):
        totals = inventory.Totals(
            {'active': 5}, 50, {'central': 5}, {'central': 50}, {}, {},
            {'central': {'rbd://f0/images': (2, 20),
                         'rbd://f1/images': (3, 30), 'http:': (0, 0)}})
        image = self.image('central',
                           places={'central': 'rbd://f1/images/%s/snap'
                                   % IMAGE})
        self.snapshot = test_metrics.some_snapshot(
            sites=[self.site()], totals=totals, images=[image])
        code, out, _err = self.run_command('status', '--all')
        self.assertEqual(output.Exit.BAD, code)
        self.assertEqual(['2', '0', '0', '3', '0'],
                         out.splitlines()[1].split()[4:9])
        self.assertIn('active  lost', out)
        self.assertEqual(20, self.snapshot.stored(self.snapshot.sites[0]))

    def test_images_that_are_not_in_their_pool(self):
        """As after a database was restored."""
        uri = 'rbd://f0/images/%s/snap' % IMAGE
        totals = inventory.Totals(
            {'active': 2}, 20, {'central': 2}, {'central': 20}, {}, {},
            {'central': {'rbd://f0/images': (2, 20)}})
        for names, lost, shown, expected in (
                ({IMAGE, 'b'}, '0', 'present', output.Exit.GOOD),
                ({'b', 'c'}, '0', 'lost', output.Exit.BAD),
                ({IMAGE}, '1', 'present', output.Exit.BAD),
                (None, '0', 'present', output.Exit.GOOD)):
            self.snapshot = test_metrics.some_snapshot(
                sites=[self.site(names=names)], totals=totals, images=[
                    self.image('central', places={'central': uri})])
            code, out, _err = self.run_command('status', '--all')
            self.assertEqual((expected, lost),
                             (code, out.splitlines()[1].split()[7]))
            self.assertIn('active  %s' % shown, out)

    def test_store_that_was_taken_away(self):
        totals = inventory.Totals({'active': 5}, 50,
                                  {'central': 5, 'dcn3': 2, 'dcn4': 1},
                                  {}, {}, {})
        self.snapshot = test_metrics.some_snapshot(
            sites=[self.site()], totals=totals, known={'central', 'dcn3'})
        code, out, _err = self.run_command('status')
        self.assertEqual(output.Exit.BAD, code)
        self.assertEqual(['dcn3', 'taken', 'away', '-', '-', '2'],
                         out.splitlines()[2].split()[:6])
        # That one may be a store of other nodes alone.
        self.assertIn('stores that this node does not have: dcn4\n', out
                      .replace(';', '\n;'))
        found = json.loads(self.run_command('status', '--format',
                                            'json')[1])
        self.assertEqual({'dcn3': 2}, found['strays'])
        self.snapshot = test_metrics.some_snapshot(
            sites=[self.site()], totals=totals, known={'central'})
        self.assertEqual(output.Exit.GOOD, self.run_command('status')[0])

    def test_image_that_is_none(self):
        self.snapshot = test_metrics.some_snapshot(images=[], number=0,
                                                   exists=False)
        for more in ((), ('--missing', 'edge')):
            code, out, err = self.run_command('status', '--image', IMAGE,
                                              *more)
            self.assertEqual((output.Exit.WRONG, ''), (code, out))
            self.assertIn('there is no image ' + IMAGE, err)

    def test_image_that_is_not_meant(self):
        self.snapshot = test_metrics.some_snapshot(
            sites=[poll.SiteStatus('central', health.UP)], images=[], number=0)
        code, out, err = self.run_command('status', '--image', IMAGE,
                                          '--missing', 'central')
        self.assertEqual(output.Exit.GOOD, code)
        self.assertIn('CENTRAL', out.upper())
        self.assertIn('image %s is not among those that are meant' % IMAGE,
                      err)
        self.assertNotIn('there is no image', err)

    def test_no_store_of_ours(self):
        self.conf.enabled_backends = {'a': 'file'}
        for command in ('status', 'metrics'):
            code, out, err = self.run_command(command)
            self.assertEqual((output.Exit.WRONG, ''), (code, out))
            self.assertIn('there are: a:file', err)

    def test_images(self):
        self.snapshot = test_metrics.some_snapshot(images=[
            self.image('central', importing={'edge'})])
        out = self.run_command('status', '--all')[1]
        self.assertIn('present  copying', out)
        self.assertEqual(inventory.Filter(), self.asked[0][0])

    def test_percent(self):
        image = self.image('central', importing={'edge'})
        image.id = 'i1'
        self.snapshot = test_metrics.some_snapshot(images=[image])
        self.assertIn('present  copying 42 %',
                      self.run_command('status', '--all')[1])

    def test_percent_of_each_site(self):
        image = self.image(importing={'central', 'edge'})
        image.id = 'i1'
        self.snapshot = test_metrics.some_snapshot(
            images=[image], transfers=[inventory.Transfer(
                't', 'i1', 'Storing the image: central: 100 %, edge: 12 %',
                12, 'now', 'now', {'central': 100, 'edge': 12})])
        self.assertIn('copying 100 %  copying 12 %',
                      self.run_command('status', '--all')[1])

    def test_states(self):
        sites = [poll.SiteStatus(name, health.UP) for name in
                 ('a', 'b', 'c', 'd', 'e')]
        sites[2].images = {IMAGE}
        found = test_metrics.some_snapshot(sites=sites)
        image = self.image('a', importing={'b'}, failed={'d'})
        self.assertEqual(
            ['present', 'copying', 'deleting', 'failed', 'missing'],
            [found.state(image, site)[0] for site in sites])

    def test_many_sites(self):
        sites = [poll.SiteStatus('dcn%d' % number, health.UP)
                 for number in range(50)]
        self.snapshot = test_metrics.some_snapshot(sites=sites, images=[
            self.image(*(site.name for site in sites[:30]),
                       failed={'dcn49'})])
        out = self.run_command('status', '--all')[1]
        self.assertIn('30 of 50', out)
        self.assertIn('failed: dcn49', out)
        self.assertIn('and 13 more', out)

    def test_filters(self):
        self.run_command('status', '--missing', 'edge', '--name', 'fed',
                         '--limit', '7')
        self.assertEqual([(inventory.Filter(missing='edge', name='fed'), 7)],
                         self.asked)

    def test_times_that_are_none(self):
        for argv in (('status', '--watch', '-1'), ('status', '--watch', '0'),
                     ('status', '--timeout', 'nan'),
                     ('metrics', '--interval', 'inf'),
                     ('metrics', '--timeout', '-1'),
                     ('validate', '--timeout', '0'),
                     ('check', '--timeout', 'abc'),
                     ('check', '--timeout', '0'),
                     ('check', '--staging-room', 'nan'),
                     ('check', '--staging-room', '-1'),
                     ('validate', '--size', 'x'),
                     ('validate', '--endpoint', 'nonsense'),
                     ('check', '--glance', 'http://h:99999999'),
                     ('check', '--glance', 'http://h:x'),
                     ('check', '--glance', 'http://h:0'),
                     ('check', '--glance', 'http://[::1'),
                     ('check', '--glance', 'http://'),
                     ('check', '--glance', 'http://a b/'),
                     ('check', '--glance', 'nonsense'),
                     ('check', '--glance', 'ftp://h'),
                     ('metrics', '--listen', '127.0.0.1:99999999')):
            err = io.StringIO()
            with contextlib.redirect_stderr(err):
                exc = self.assertRaises(SystemExit, main.main, list(argv))
            self.assertEqual(output.Exit.WRONG, exc.code)
            self.assertIn(argv[-1], err.getvalue())
            # Of our functions.
            self.assertNotIn('invalid', err.getvalue())

    def test_arguments_that_are_none(self):
        for argv in (('--image', 'nonsense'), ('--limit', '-1'),
                     ('--limit', '0'), ('--limit', 'x'),
                     ('--status', 'nonsense'),
                     ('--nonsense',)):
            err = io.StringIO()
            with contextlib.redirect_stderr(err):
                exc = self.assertRaises(SystemExit, main.main,
                                        ['status', *argv])
            self.assertEqual(output.Exit.WRONG, exc.code)
            self.assertIn(argv[-1], err.getvalue())
        self.assertEqual([], self.asked)

    def test_image(self):
        for typed in (IMAGE, IMAGE.upper(), IMAGE.replace('-', ''),
                      '{%s}' % IMAGE, 'urn:uuid:' + IMAGE):
            self.run_command('status', '--image', typed)
        self.assertEqual([IMAGE] * 5,
                         [wanted.image for wanted, _limit in self.asked])

    def test_watched_by_no_terminal(self):
        # By a pipe, say: there is nothing to be cleared.
        self.useFixture(fixtures.MonkeyPatch('time.sleep', self.interrupt))
        _code, out, _err = self.run_command('status', '--watch')
        self.assertIn('CENTRAL', out.upper())
        self.assertNotIn('\033', out)

    def interrupt(self, _seconds):
        raise KeyboardInterrupt

    def test_unknown_site(self):
        code, _out, err = self.run_command('status', '--missing', 'dcn9')
        self.assertEqual(output.Exit.WRONG, code)
        self.assertIn('there are central, edge', err)

    def test_json(self):
        self.snapshot = test_metrics.some_snapshot(
            images=[self.image('central')])
        found = json.loads(self.run_command('status', '--format',
                                            'json')[1])
        self.assertEqual({'central': 'present', 'edge': 'missing'},
                         found['images'][0]['sites'])
        self.assertEqual(2, found['sites'][1]['missing'])

    def test_database_that_does_not_answer(self):
        self.snapshot = inventory.DatabaseUnavailable('no way')
        code, _out, err = self.run_command('status')
        self.assertEqual(output.Exit.UNABLE, code)
        self.assertIn('no way', err)


class TestMetrics(CommandTestCase):

    def test_terminal(self):
        code, out, _err = self.run_command('metrics')
        self.assertEqual(output.Exit.GOOD, code)
        self.assertIn('glance_dcn_site_up{site="edge"} 0.0', out)

    def test_file(self):
        path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        name = str(path / 'dcn.prom')
        self.assertEqual(0, self.run_command('metrics', '--output', name)[0])
        self.assertIn('glance_dcn_site_up', pathlib.Path(name).read_text())
        self.assertEqual(0o644, os.stat(name).st_mode & 0o777)

    def test_file_that_cannot_be_written(self):
        code, _out, err = self.run_command(
            'metrics', '--output', '/nonsense/dcn.prom')
        self.assertEqual(output.Exit.UNABLE, code)
        self.assertIn('/nonsense/dcn.prom', err)

    def test_wrong_arguments(self):
        for argv in (('--output', 'dcn.txt'), ('--listen', '9750'),
                     ('--listen', 'host:0'), ('--listen', 'host:http')):
            exc = self.assertRaises(SystemExit, self.run_command, 'metrics',
                                    *argv)
            self.assertEqual(output.Exit.WRONG, exc.code)

    def serve(self, *rounds):
        """Serve, and return (figures are there, reason) after each round.

        :param rounds: snapshots, and exceptions of looks
        """
        found, served = [], []
        todo = [*rounds, KeyboardInterrupt()]

        def look(*args, **kwargs):
            if isinstance(todo[0], BaseException):
                raise todo.pop(0)
            return todo.pop(0)

        class Event(threading.Event):
            def wait(self, timeout=None):
                found.append((bool(served[0].collect()), served[0].reason))

        for target, value in (
                ('glance_dcn.status.snapshot.take', look),
                ('glance_dcn.status.metrics.serve',
                 lambda latest, address, port: served.append(latest)),
                ('glance_dcn.cmd.metrics.threading',
                 types.SimpleNamespace(Event=Event))):
            self.useFixture(fixtures.MonkeyPatch(target, value))
        code, _out, err = self.run_command('metrics', '--listen', 'host:9750')
        self.assertEqual(output.Exit.GOOD, code, err)
        self.assertEqual([], todo)
        return found, err.splitlines()

    def test_exporter_outlives_whatever_it_meets(self):
        failed = [sitesfile.Mistake('/etc/sites.yaml', 7, 'half saved'),
                  ValueError('no store'), OSError(24, 'Too many open files'),
                  RuntimeError('no thread\nno more'), AssertionError(),
                  inventory.DatabaseUnavailable('it is away')]
        found, said = self.serve(self.snapshot, *failed, self.snapshot)
        self.assertEqual([(True, None)] * 2, [found[0], found[-1]])
        self.assertEqual([False] * len(failed),
                         [there for there, _reason in found[1:-1]])
        self.assertEqual(['glance-dcn: %s' % reason
                          for _there, reason in found[1:-1]], said)
        for line, words in zip(said, (
                '/etc/sites.yaml:7: half saved', 'no store',
                'Too many open files', 'RuntimeError: no thread',
                'AssertionError', 'the database of Glance cannot be read: '
                'it is away')):
            self.assertIn(words, line)

    def test_exporter_and_a_sites_file_that_is_half_saved(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        path = folder / 'sites.yaml'
        path.write_text('sites: [')
        code, _out, err = self.run_command(
            'metrics', '--listen', 'host:9750', '--sites-file', str(path))
        # What was wrong from the beginning is not waited for.
        self.assertEqual(output.Exit.WRONG, code)
        self.assertIn('sites.yaml:2: this is no YAML', err)

    def test_exporter_whose_stores_are_gone(self):
        found = []

        def targets(conf, tell):
            found.append(1)
            return [] if len(found) == 2 else [
                cluster.Target('central', 'images')]
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.cmd.node.targets', targets))
        self.conf.enabled_backends = {'a': 'file'}
        served, [line] = self.serve(self.snapshot)
        self.assertEqual([False, True], [there for there, _why in served])
        self.assertIn('there are: a:file', line)
