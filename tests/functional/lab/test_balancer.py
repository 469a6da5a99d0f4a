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

"""The load balancer before the workers of a site."""

import http.server
import pathlib
import threading

import fixtures
from oslotest import base
import requests

from lab import balancer
from lab import deployment
from lab import process


class _Worker(http.server.BaseHTTPRequestHandler):

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'%d' % self.server.server_address[1])

    def log_message(self, *unused):
        pass


class BalancerTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.servers = [self.serve() for _ in range(2)]
        self.ports = {server.server_address[1] for server in self.servers}
        self.balancer = balancer.Balancer(
            'haproxy', self.folder, process.free_port(), self.ports)
        self.addCleanup(self.balancer.stop)
        self.balancer.start()

    def serve(self):
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Worker)
        threading.Thread(target=server.serve_forever, args=(0.01,),
                         daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server

    def who(self):
        return int(requests.get(self.balancer.url, timeout=10).text)

    def test_gives_requests_to_all(self):
        process.wait_for('both workers', lambda: {
            self.who() for _ in range(4)} == self.ports, 10)

    def test_leaves_out_who_is_down(self):
        self.servers[0].shutdown()
        self.servers[0].server_close()
        other = self.servers[1].server_address[1]

        def left_out():
            try:
                return {self.who() for _ in range(4)} == {other}
            except ValueError:
                # haproxy's own answer, until it has found out.
                return False
        process.wait_for('the other one', left_out, 20)

    def test_stop(self):
        pid = self.balancer.pid
        self.assertTrue(pid)
        self.balancer.stop()
        self.assertIsNone(self.balancer.pid)
        self.assertRaises(requests.ConnectionError, self.who)


class TopologyTest(base.BaseTestCase):

    def test_several_workers_have_one(self):
        found = deployment.Deployment(self.useFixture(
            fixtures.TempDir()).path)
        found.create(['central'], workers=3)
        found._choose_ports()
        self.assertEqual(found.balancer('central').url,
                         found.public_url('central'))
        self.assertEqual(
            {'central/keystone', 'central/haproxy', 'central/glance-0',
             'central/glance-1', 'central/glance-2'},
            set(found.facts['ports']))

    def test_a_single_one_has_none(self):
        found = deployment.Deployment(self.useFixture(
            fixtures.TempDir()).path)
        found.create(['central'])
        found._choose_ports()
        self.assertIsNone(found.balancer('central'))
        self.assertEqual(found.glance('central').url,
                         found.public_url('central'))
