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

"""The figures for Prometheus, and the dashboard that shows them."""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess

import fixtures
from oslotest import base
from prometheus_client import parser
import testtools
import yaml

from glance_dcn.ceph import health
from glance_dcn.sites import figures
from glance_dcn.status import inventory
from glance_dcn.status import metrics
from glance_dcn.status import poll
from glance_dcn.status import snapshot
from glance_dcn.workers import registry

_DASHBOARD = (pathlib.Path(__file__).parents[3]
              / 'etc/grafana/glance-dcn.json')
_NAME = re.compile(r'glance_dcn_\w+')


def some_snapshot(**changes):
    """Return a snapshot of two sites, one of them away."""
    return snapshot.Snapshot(**dict({
        'sites': [
            poll.SiteStatus('central', health.UP, None, 'f0', .001, 1000, 600,
                            {'delete': 2}, {'delete': 1e9 - 90}, {'i9'}),
            poll.SiteStatus('edge', health.DOWN, 'it is away')],
        'totals': inventory.Totals(
            {'active': 3, 'queued': 1}, 40, {'central': 3, 'edge': 1},
            {'central': 40, 'edge': 10}, {'edge': 1}, {'edge': 1}),
        'transfers': [inventory.Transfer('t', 'i1', 'Copying: 42 %', 42,
                                         'now', 'now')],
        'images': None, 'number': 4, 'seconds': .5, 'taken': 1e9,
        'work': poll.Work(
            [registry.Worker('w1', 'central', host='host-1', beat=7),
             registry.Worker('w2', 'central', host='host-1')],
            {'w1': [figures.Figures('edge', {
                'read': 5, 'errors/away': 2, 'retries/read': 1,
                'of a later release': 3}, 1, 2),
                figures.Figures('of no store', {'read': 1})],
             'of no worker': [figures.Figures('edge', {'read': 1})]}, 12)},
        **changes))


def samples(found):
    """Return the values of a snapshot by names and values of labels."""
    return {(sample.name,) + tuple(sorted(sample.labels.values())):
            sample.value
            for family in parser.text_string_to_metric_families(
                metrics.text(found).decode())
            for sample in family.samples}


class TestMetrics(base.BaseTestCase):

    def test_figures(self):
        found = samples(some_snapshot())
        for name, value in (
                (('site_up', 'central'), 1), (('site_up', 'edge'), 0),
                (('site_round_trip_seconds', 'central'), .001),
                (('site_free_bytes', 'central'), 600),
                (('site_tasks', 'central', 'delete'), 2),
                (('site_tasks', 'edge', 'purge'), 0),
                (('site_images', 'central', 'present'), 3),
                (('site_images', 'edge', 'missing'), 2),
                (('site_images', 'copying', 'edge'), 1),
                (('site_images_bytes', 'edge'), 10),
                (('site_info', '', 'down', 'edge'), 1),
                (('site_oldest_task_age_seconds', 'central', 'delete'), 90),
                (('site_oldest_task_age_seconds', 'edge', 'purge'), 0),
                (('site_read_bytes_total', 'edge', 'w1'), 5),
                (('site_written_bytes_total', 'edge', 'w1'), 0),
                (('site_errors_total', 'away', 'edge', 'w1'), 2),
                (('site_errors_total', 'edge', 'full', 'w1'), 0),
                (('site_retries_total', 'edge', 'read', 'w1'), 1),
                (('site_slots_used', 'edge', 'w1'), 1),
                (('site_slots_awaited', 'edge', 'w1'), 2),
                (('worker_heartbeats_total', 'host-1', 'w1'), 7),
                (('worker_heartbeats_total', 'host-1', 'w2'), 0),
                (('task_runner_heartbeats_total',), 12),
                (('images', 'queued'), 1), (('images_bytes',), 40),
                (('transfers',), 1),
                (('collection_timestamp_seconds',), 1e9)):
            self.assertEqual(value, found[
                ('glance_dcn_' + name[0],) + name[1:]])
        # What is not known is not given as a number.
        self.assertNotIn(('glance_dcn_site_round_trip_seconds', 'edge'),
                         found)

    def test_records_of_strangers(self):
        # Whatever is recorded, the series are those of sites and workers.
        found = samples(some_snapshot(work=poll.Work(
            [registry.Worker('w%04d' % number, 'central',
                             host='"} x\\' * 500)
             for number in range(5000)],
            {'w%04d' % number: [figures.Figures('edge', {
                'errors/%d' % key: 1 for key in range(100)})]
             for number in range(5000)}, 0)))
        names = collections.Counter(name[0] for name in found)
        self.assertEqual(500, names['glance_dcn_worker_heartbeats_total'])
        self.assertEqual(500 * len(figures.Reason),
                         names['glance_dcn_site_errors_total'])
        self.assertLessEqual(max(len(label) for key in found
                                 for label in key[1:]), 64)

    def test_home_that_cannot_be_read(self):
        found = samples(some_snapshot(work=None))
        self.assertIn(('glance_dcn_site_up', 'edge'), found)
        self.assertEqual([], [key for key in found if 'heartbeats' in key[0]
                              or key[0].endswith('_bytes_total')])

    def test_every_metric_has_help_type_and_a_conventional_name(self):
        text = metrics.text(some_snapshot()).decode()
        for name, one in metrics.METRICS.items():
            self.assertIn('# HELP %s ' % name, text)
            self.assertIn('# TYPE %s %s' % (name, one.kind), text)
            self.assertRegex(name, '^glance_dcn_[a-z_]+$')
            self.assertEqual(one.kind == 'counter', name.endswith('_total'))

    def test_file_is_replaced_at_once(self):
        folder = self.useFixture(fixtures.TempDir()).path
        path = os.path.join(folder, 'glance_dcn.prom')
        pathlib.Path(path).write_text('old')
        metrics.write(some_snapshot(), path)
        self.assertIn('glance_dcn_site_up', pathlib.Path(path).read_text())
        self.assertEqual(['glance_dcn.prom'], os.listdir(folder))

    def test_latest(self):
        latest = metrics.Latest()
        self.assertEqual([], latest.collect())
        latest.update(some_snapshot())
        self.assertEqual({name.removesuffix('_total')
                          for name in metrics.METRICS},
                         {family.name for family in latest.collect()})
        self.assertIsNone(latest.reason)
        latest.fail('away')
        self.assertEqual([], latest.collect())
        self.assertEqual('away', latest.reason)


class TestDashboard(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.dashboard = json.loads(_DASHBOARD.read_text())

    def queries(self):
        return [target['expr'] for panel in self.dashboard['panels']
                for target in panel.get('targets', ())]

    def test_every_metric_it_asks_for_exists(self):
        asked = {name for query in self.queries()
                 for name in _NAME.findall(query)}
        self.assertEqual(set(), asked - set(metrics.METRICS))
        # And it shows what there is to show.
        self.assertEqual(set(), set(metrics.METRICS) - asked - {
            'glance_dcn_site_info',
            'glance_dcn_collection_duration_seconds'})

    def test_every_label_it_names_exists(self):
        labels = {label for one in metrics.METRICS.values()
                  for label in one.labels}
        for panel in self.dashboard['panels']:
            for target in panel.get('targets', ()):
                for label in re.findall(r'\{\{(\w+)\}\}',
                                        target.get('legendFormat', '')):
                    self.assertIn(label, labels)
                for label in re.findall(r'[{,]\s*(\w+)\s*[=!]~?',
                                        target['expr']):
                    self.assertIn(label, labels)

    def test_panels_do_not_overlap(self):
        taken = set()
        for panel in self.dashboard['panels']:
            place = panel['gridPos']
            cells = {(x, y) for x in range(place['x'], place['x'] + place['w'])
                     for y in range(place['y'], place['y'] + place['h'])}
            self.assertFalse(cells & taken, panel['title'])
            self.assertLessEqual(place['x'] + place['w'], 24)
            taken |= cells


class TestGuide(base.BaseTestCase):

    def test_lists_every_metric(self):
        text = (pathlib.Path(__file__).parents[3]
                / 'doc/source/admin/metrics.rst').read_text()
        listed = re.findall(r'^   \* - ``(\w+)``\n     - (\w+)\n     - (.+)\n'
                            r'     - (.+(?:\n       .+)*)$', text, re.M)
        self.assertEqual([
            (name, one.kind,
             ', '.join('``%s``' % label for label in one.labels) or '–',
             one.text) for name, one in metrics.METRICS.items()],
            [(*columns, ' '.join(what.split())) for *columns, what in listed])

    def test_lists_the_values_of_labels(self):
        text = ' '.join((pathlib.Path(__file__).parents[3]
                         / 'doc/source/admin/metrics.rst').read_text().split())
        for values in (figures.Reason, figures.Operation):
            for value in values:
                self.assertIn('``%s``' % value, text)


class TestRules(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = _DASHBOARD.parents[1] / 'prometheus'
        [group] = yaml.safe_load((
            self.folder / 'glance-dcn.rules.yml').read_text())['groups']
        self.rules = group['rules']

    def test_every_metric_it_asks_for_exists(self):
        for rule in self.rules:
            asked = set(_NAME.findall(rule['expr']))
            self.assertEqual(set(), asked - set(metrics.METRICS))
            self.assertNotEqual(set(), asked)

    def test_figures_that_are_absent_alert(self):
        for rule in self.rules:
            if 'time()' in rule['expr']:
                self.assertIn('or absent(', rule['expr'])

    def test_each_is_tried_out(self):
        tried = yaml.safe_load((
            self.folder / 'glance-dcn.test.yml').read_text())['tests']
        self.assertEqual(
            {rule['alert'] for rule in self.rules},
            {test['alertname'] for group in tried
             for test in group['alert_rule_test'] if test['exp_alerts']})

    @testtools.skipUnless(shutil.which('promtool'), 'there is no promtool')
    def test_promtool(self):
        done = subprocess.run(
            ['promtool', 'test', 'rules', 'glance-dcn.test.yml'],
            cwd=self.folder, capture_output=True, text=True, timeout=60,
            check=False)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
