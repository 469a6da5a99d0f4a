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
from glance_dcn.status import inventory
from glance_dcn.status import metrics
from glance_dcn.status import poll
from glance_dcn.status import snapshot

_DASHBOARD = (pathlib.Path(__file__).parents[3]
              / 'etc/grafana/glance-dcn.json')
_NAME = re.compile(r'glance_dcn_\w+')


def some_snapshot(**changes):
    """Return a snapshot of two sites, one of them away."""
    return snapshot.Snapshot(**dict({
        'sites': [
            poll.SiteStatus('central', health.UP, None, 'f0', .001, 1000, 600,
                            {'delete': 2}, {'i9'}),
            poll.SiteStatus('edge', health.DOWN, 'it is away')],
        'totals': inventory.Totals(
            {'active': 3, 'queued': 1}, 40, {'central': 3, 'edge': 1},
            {'central': 40, 'edge': 10}, {'edge': 1}, {'edge': 1}),
        'transfers': [inventory.Transfer('t', 'i1', 'Copying: 42 %', 42,
                                         'now', 'now')],
        'images': None, 'number': 4, 'seconds': .5, 'taken': 1e9},
        **changes))


class TestMetrics(base.BaseTestCase):

    def values(self, text):
        return {(sample.name,) + tuple(sorted(sample.labels.values())):
                sample.value
                for family in parser.text_string_to_metric_families(text)
                for sample in family.samples}

    def test_figures(self):
        found = self.values(metrics.text(some_snapshot()).decode())
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
                (('images', 'queued'), 1), (('images_bytes',), 40),
                (('transfers',), 1),
                (('collection_timestamp_seconds',), 1e9)):
            self.assertEqual(value, found[
                ('glance_dcn_' + name[0],) + name[1:]])
        # What is not known is not given as a number.
        self.assertNotIn(('glance_dcn_site_round_trip_seconds', 'edge'),
                         found)

    def test_every_metric_has_help_type_and_a_conventional_name(self):
        text = metrics.text(some_snapshot()).decode()
        for name in metrics.METRICS:
            self.assertIn('# HELP %s ' % name, text)
            self.assertIn('# TYPE %s gauge' % name, text)
            self.assertRegex(name, '^glance_dcn_[a-z_]+$')

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
        self.assertEqual(set(metrics.METRICS),
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
        labels = {label for _help, names in metrics.METRICS.values()
                  for label in names}
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
        for name, (what, labels) in metrics.METRICS.items():
            self.assertIn('``%s``\n     - %s\n     - %s\n' % (
                name, ', '.join('``%s``' % label for label in labels) or '–',
                what), text)


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
