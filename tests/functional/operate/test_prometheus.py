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


"""The dashboard's queries, at a Prometheus that scrapes the exporter."""

import json
import pathlib
import shutil
import uuid

import fixtures
import testtools

from glance_dcn.tasks import deployment as deployments
from lab import glance
from lab import process
from lab import prometheus
from tests.functional.api import base
from tests.functional.operate import base as operate
from tests.functional.staging import workers

_DASHBOARD = operate.ROOT / 'etc/grafana/glance-dcn.json'
# Each run has another cluster: the central site remembers which one a store
# of a name has.
_EDGE = 'edge-%s' % uuid.uuid4().hex[:8]
# Seconds to connect to a site, and in which a host without a heartbeat is
# silent: a heartbeat is written every other second.
_CONNECT, _SILENT = 2, 16
# Clusters without managers, as those of the lab, do not count their room.
_NOT_KNOWN = 'glance_dcn_site_size_bytes'


@testtools.skipUnless(shutil.which('prometheus'), 'there is no Prometheus')
class DashboardTest(operate.CommandTestCase, base.OwnGlanceTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.edge = cls.start_clusters('edge')['edge']
        cls.start_own(dict(base.rbd_stores(sites=('central',)), **{
            _EDGE: ('dcn', glance.rbd_store(
                cls.edge, rados_connect_timeout=_CONNECT))}), overrides={
            'image_import_opts': {'image_import_plugins': workers.PLUGINS},
            deployments.GROUP: {'dcn_worker_timeout': _SILENT}}, processes=2)

    def cluster(self, site):
        return self.edge if site == _EDGE else super().cluster(site)

    def setUp(self):
        super().setUp()
        self.addCleanup(self.edge.start)
        port = process.free_port()
        exporter = self.start(
            self.own.worker.etc, 'metrics', '--listen', '127.0.0.1:%d' % port,
            '--interval', '1', '--timeout', '3')
        self.addCleanup(exporter.communicate)
        self.addCleanup(exporter.kill)
        self.prometheus = prometheus.Prometheus(pathlib.Path(
            self.useFixture(fixtures.TempDir()).path), port)
        self.addCleanup(self.prometheus.stop)
        self.prometheus.start()

    def value(self, expression):
        """Return the sum of the series of an expression, 0 of none."""
        return sum(value for _labels, value
                   in self.prometheus.query(expression))

    def wait_for(self, expression, accepts):
        """Wait until the sum of an expression is accepted."""
        process.wait_for(expression, lambda: accepts(self.value(expression)),
                         30, interval=.5)

    def test_each_query_has_series(self):
        heartbeats = 'glance_dcn_worker_heartbeats_total'
        self.wait_for('count(%s)' % heartbeats, lambda found: found == 1)
        data = base.random_data(3 * base.MiB)
        first, second = (self.uploaded(self.api, data, 'central')
                         for _ in range(2))
        self.api.images.image_import(first, 'copy-image', stores=[_EDGE])
        self.api.wait(first, 'central', _EDGE)
        stored = base.MiB
        # What was not counted was not moved: each has a hole in the middle.
        for site, least in (('central', 4 * stored), (_EDGE, 2 * stored)):
            self.wait_for('sum(glance_dcn_site_written_bytes_total'
                          '{site="%s"})' % site,
                          lambda found, least=least:
                          least <= found <= 1.1 * least)
        self.assertGreaterEqual(self.value(
            'sum(glance_dcn_site_read_bytes_total{site="central"})'),
            2 * stored)
        self.edge.kill()
        self.api.images.image_import(second, 'copy-image', stores=[_EDGE])
        self.wait_for('sum(glance_dcn_site_errors_total'
                      '{site="%s",reason="away"})' % _EDGE,
                      lambda found: found >= 1)
        self.api.wait(second, 'central', failed=[_EDGE])
        self.assertEqual(204, self.api.request(
            'DELETE', '/v2/images/%s' % first).status_code)
        self.wait_for('max(glance_dcn_site_oldest_task_age_seconds'
                      '{site="%s",action="delete"})' % _EDGE,
                      lambda found: 0 < found < 300)
        self.check_queries()
        # It was one worker with two processes, and one of them leads.
        [(labels, number)] = self.prometheus.query(heartbeats)
        self.assertGreater(number, 2)
        self.assertLessEqual({'worker', 'host'}, set(labels))

    def check_queries(self):
        """See that each query of the dashboard gives something."""
        queries = [target['expr'].replace('$site', '.*') for panel
                   in json.loads(_DASHBOARD.read_text())['panels']
                   for target in panel.get('targets', ())]
        self.assertGreater(len(queries), 20)
        for query in queries:
            # Or Prometheus refuses it.
            self.prometheus.query(query)
        without = {query for query in queries if _NOT_KNOWN not in query}
        self.assertEqual(1, len(queries) - len(without))

        def all_have():
            without.difference_update([
                query for query in without if self.prometheus.query(query)])
            return not without
        try:
            process.wait_for('series', all_have, 10, interval=.5)
        except process.LabError:
            self.fail('without series: %s' % sorted(without))
