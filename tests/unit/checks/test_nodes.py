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

"""Checks of a node's configuration."""

import http.server
import json
import os
import pathlib
import socket
import threading
import types

import fixtures
from oslotest import base

from glance_dcn.checks import access
from glance_dcn.checks import nodes
from glance_dcn.checks import registry
from glance_dcn.checks import subjects
from tests.unit.checks import fakes

GIB = 1 << 30


class NodeTestCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        space = types.SimpleNamespace
        self.conf = _Conf(
            enabled_backends={'central': 'dcn', 'edge': 'dcn'},
            enabled_import_methods=['glance-direct', 'copy-image'],
            show_multiple_locations=True, show_image_direct_url=True,
            worker_self_reference_url=None, image_location_quota=10,
            glance_store=space(default_backend='central'),
            glance_dcn=space(direct_copy=True, sites_dir=None,
                             home_store=None),
            image_import_opts=space(
                image_import_plugins=['dcn_distributed_staging',
                                      'dcn_image_conversion']),
            image_conversion=space(output_format='raw'),
            os_glance_staging_store=space(
                filesystem_store_datadir=str(self.folder)))

    def look(self, name, room=1, user=None, **known):
        """Return the level and the name or text of what is found."""
        node = subjects.Node(self.conf, user or access.Access(), room)
        check = fakes.check(name, **known)
        try:
            return registry.OK, check.function(node)
        except registry.Found as exc:
            check.run(node)
            return check.faults[exc.fault].level, exc.fault


class _Conf(types.SimpleNamespace):

    def __getitem__(self, name):
        return getattr(self, name)


class TestPlugins(NodeTestCase):

    def plugins(self, *names):
        self.conf.image_import_opts.image_import_plugins = list(names)
        return self.look('plugins', installed=lambda namespace: {
            'dcn_distributed_staging', 'dcn_image_conversion',
            'image_conversion', 'image_decompression',
            'inject_image_metadata'})

    def test_good(self):
        self.assertEqual('ok', self.plugins(
            'dcn_distributed_staging', 'dcn_image_conversion')[0])
        self.assertEqual('ok', self.plugins(
            'dcn_distributed_staging', 'image_decompression',
            'inject_image_metadata', 'dcn_image_conversion')[0])

    def test_missing(self):
        self.assertEqual(('fail', 'missing'), self.plugins())
        for name in ('image_conversion', 'dcn_distributed_staging'):
            self.assertEqual(('fail', 'missing'), self.plugins(name))
        self.assertEqual(('warn', 'unguarded'),
                         self.plugins('dcn_image_conversion'))

    def test_the_remedy_names_what_is_missing(self):
        self.assertEqual(
            'dcn_distributed_staging, inject_image_metadata, '
            'dcn_image_conversion', nodes._in_order(
                ['inject_image_metadata', 'image_conversion']))

    def test_unknown(self):
        self.assertEqual(('fail', 'unknown'),
                         self.plugins('dcn_image_conversion', 'nonsense'))

    def test_both(self):
        self.assertEqual(('fail', 'both'), self.plugins(
            'dcn_distributed_staging', 'dcn_image_conversion',
            'image_conversion'))

    def test_order(self):
        for wrong in (('dcn_image_conversion', 'dcn_distributed_staging'),
                      ('dcn_distributed_staging', 'dcn_image_conversion',
                       'image_decompression'),
                      ('inject_image_metadata', 'dcn_distributed_staging',
                       'dcn_image_conversion')):
            self.assertEqual(('fail', 'order'), self.plugins(*wrong))

    def test_the_remedy_is_the_right_order(self):
        self.assertEqual(
            ['dcn_distributed_staging', 'inject_image_metadata',
             'image_decompression', 'dcn_image_conversion'],
            nodes._ordered(['inject_image_metadata', 'dcn_image_conversion',
                            'image_decompression',
                            'dcn_distributed_staging']))


class TestOptions(NodeTestCase):

    def test_stores(self):
        self.assertEqual('ok', self.look('stores')[0])
        self.conf.glance_store.default_backend = 'dcn9'
        self.assertEqual(('fail', 'default'), self.look('stores'))
        self.conf.enabled_backends = {'a': 'rbd'}
        self.assertEqual(('fail', 'none'), self.look('stores'))

    def test_no_store_keeps_the_records(self):
        self.conf.enabled_backends = {'a': 'rbd', 'b': 'dcn', 'c': 'dcn'}
        self.conf.glance_store.default_backend = 'a'
        self.assertEqual(('fail', 'home'), self.look('stores'))
        self.conf.glance_dcn.home_store = 'c'
        self.assertEqual('ok', self.look('stores')[0])
        self.conf.glance_dcn.home_store = 'a'
        self.assertEqual(('fail', 'strange'), self.look('stores'))

    def test_home_that_may_only_be_read(self):
        self.conf.glance_dcn.home_store = 'edge'
        self.conf.edge = types.SimpleNamespace(dcn_access='read-only')
        self.assertEqual(('fail', 'guarded'), self.look('stores'))
        self.conf.edge.dcn_access = None
        self.assertEqual('ok', self.look('stores')[0])
        # A site without a cluster has none but central's, for reading.
        self.conf.glance_dcn.home_store = None
        self.conf.central = types.SimpleNamespace(dcn_access='read-only')
        self.assertEqual('ok', self.look('stores')[0])

    def test_type_that_is_misspelt(self):
        self.conf.enabled_backends['edge'] = 'dnc'
        self.assertEqual(('fail', 'kind'), self.look('stores'))

    def test_site_files_that_are_bad_are_told_once(self):
        log = self.useFixture(fixtures.FakeLogger())
        self.conf.glance_dcn.sites_dir = str(self.folder)
        file = self.folder / 'dcn7.conf'
        file.write_text('[dcn8]\n')
        node = subjects.Node(self.conf, access.Access(), 1)
        finding = registry.CHECKS['stores'].run(node)
        self.assertIn('dcn7: it must have one section, [dcn7]', finding.text)
        self.assertNotIn('dcn7.conf', log.output)
        file.write_text('[dcn7]\nrados_connect_timeout = many\n')
        finding = registry.CHECKS['stores'].run(node)
        self.assertIn('dcn7: rados_connect_timeout: ', finding.text)

    def test_site_files(self):
        self.conf.glance_dcn.sites_dir = str(self.folder)
        file = self.folder / 'dcn7.conf'
        file.write_text('[dcn7]\nrbd_store_ceph_conf = /etc/ceph/dcn7.conf\n')
        self.assertEqual(('ok', '3 stores, central is the default'),
                         self.look('stores'))
        file.write_text('nonsense')
        self.assertEqual(('fail', 'files'), self.look('stores'))
        self.conf.glance_dcn.sites_dir = '/nonsense'
        self.assertEqual(('fail', 'folder'), self.look('stores'))

    def test_copies(self):
        self.assertEqual('ok', self.look('copies')[0])
        self.conf.glance_dcn.direct_copy = False
        self.assertEqual(('warn', 'off'), self.look('copies'))
        self.conf.enabled_import_methods.remove('copy-image')
        self.assertEqual(('fail', 'method'), self.look('copies'))
        self.assertEqual(('fail', 'stock'), self.look(
            'copies', ours_wins=lambda name: False))

    def test_locations(self):
        self.assertEqual('ok', self.look('locations')[0])
        self.conf.show_image_direct_url = False
        self.assertEqual(('warn', 'direct'), self.look('locations'))
        self.conf.show_multiple_locations = False
        self.assertEqual(('fail', 'hidden'), self.look('locations'))

    def test_quota(self):
        self.assertEqual(('ok', '10 locations, 2 stores'), self.look('quota'))
        self.conf.enabled_backends = {
            'dcn%d' % number: 'dcn' for number in range(40)}
        self.assertEqual(('warn', 'few'), self.look('quota'))
        found = registry.CHECKS['quota'].run(
            subjects.Node(self.conf, access.Access(), 1))
        self.assertIn('image_location_quota is 10, and there are 40 stores',
                      found.text)
        self.assertIn('set image_location_quota = 50', found.remedy)
        for enough in (40, -1):
            self.conf.image_location_quota = enough
            self.assertEqual('ok', self.look('quota')[0])

    def test_raw(self):
        self.assertEqual('ok', self.look('raw')[0])
        self.conf.image_conversion.output_format = 'qcow2'
        self.assertEqual(('fail', 'other'), self.look('raw'))


class TestStaging(NodeTestCase):

    def test_good(self):
        self.assertEqual('ok', self.look('staging')[0])

    def test_absent(self):
        self.folder.rmdir()
        self.assertEqual(('fail', 'absent'), self.look('staging'))

    def test_small(self):
        self.assertEqual(('warn', 'small'),
                         self.look('staging', room=1 << 60))

    def test_full(self):
        self.useFixture(fixtures.MonkeyPatch(
            'os.statvfs', lambda path: types.SimpleNamespace(
                f_bavail=1, f_frsize=4096)))
        self.assertEqual(('fail', 'full'), self.look('staging', room=GIB))

    def test_remote(self):
        self.assertEqual(('fail', 'remote'), self.look(
            'staging', file_system=lambda path: 'nfs4'))

    def test_unwritable(self):
        user = access.Access()
        user.why_unwritable = lambda path: 'Permission denied'
        self.assertEqual(('fail', 'unwritable'),
                         self.look('staging', user=user))


class _Answers(http.server.BaseHTTPRequestHandler):

    status, body = 300, json.dumps({'versions': [{'id': 'v2.15'}]})

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body.encode())

    def log_message(self, *args):
        pass


class TestSelfReference(NodeTestCase):

    def serve(self, **attributes):
        server = http.server.HTTPServer(
            ('127.0.0.1', 0), type('Answers', (_Answers,), attributes))
        self.addCleanup(server.server_close)
        thread = threading.Thread(target=server.handle_request)
        server.timeout = 5
        thread.start()
        self.addCleanup(thread.join)
        self.conf.worker_self_reference_url = (
            'http://127.0.0.1:%d' % server.server_port)

    def test_good(self):
        self.serve()
        self.assertEqual('ok', self.look('self-reference')[0])

    def test_no_glance(self):
        self.serve(body='<html>')
        self.assertIn('no Glance', nodes.why_silent(
            self.conf.worker_self_reference_url))

    def test_other_status(self):
        self.serve(status=503)
        self.assertEqual('status 503', nodes.why_silent(
            self.conf.worker_self_reference_url))

    def test_wrong(self):
        for url, fault in ((None, 'unset'), ('glance:9292', 'malformed'),
                           ('http://', 'malformed'),
                           ('http://h:0', 'malformed'),
                           ('http://u:p@h', 'malformed'),
                           ('http://h/v2', 'malformed'),
                           ('http://h:99999999', 'malformed'),
                           ('http://[::1', 'malformed'),
                           ('http://no.such.host.invalid:1', 'unknown'),
                           ('http://192.0.2.7:9292', 'foreign'),
                           ('http://127.0.0.1:1', 'silent')):
            self.conf.worker_self_reference_url = url
            self.assertEqual(('fail', fault), self.look('self-reference'))

    def test_the_reason_is_what_the_system_said(self):
        self.assertEqual('Connection refused',
                         nodes.why_silent('http://127.0.0.1:1'))

    def test_an_address_that_only_can_be_bound_is_not_here(self):
        # As with net.ipv4.ip_nonlocal_bind, where a load balancer may run.
        self.useFixture(fixtures.MonkeyPatch(
            'socket.socket.bind',
            lambda self, address: None))
        self.conf.worker_self_reference_url = 'http://192.0.2.7:9292'
        self.assertEqual(('fail', 'foreign'), self.look('self-reference'))

    def test_addresses_of_this_node(self):
        for address in ('127.0.0.1', '127.0.0.9'):
            self.assertTrue(nodes._is_here(socket.AF_INET, (address, 9292)))


class TestAccess(base.BaseTestCase):

    def test_own_files(self):
        folder = self.useFixture(fixtures.TempDir()).path
        path = os.path.join(folder, 'file')
        found = access.Access()
        self.assertEqual('No such file or directory',
                         found.why_unreadable(path))
        pathlib.Path(path + '2').touch()
        self.assertIsNone(found.why_unreadable(path + '2'))
        self.assertIsNone(found.why_unwritable(folder))

    def test_no_such_user(self):
        self.assertRaises(access.NoSuchUser, access.Access, 'no-such-user')
