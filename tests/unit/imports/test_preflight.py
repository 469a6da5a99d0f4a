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


"""Whether an import has room, and how long a download is; a real server."""

import http.server
import pathlib
import threading
import types

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import preflight
from glance_dcn.imports import stores
from glance_dcn.upstream import plugins

MiB = 1 << 20


class TestAccess(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        refusals = {'dcn0': None, 'central': errors.ReadOnly('central', 'x')}
        self.useFixture(fixtures.MockPatchObject(
            stores, 'site', lambda name: name in refusals and
            types.SimpleNamespace(access=types.SimpleNamespace(
                refusal=lambda: refusals[name])) or None))

    def test_all_must_succeed(self):
        preflight.check_access(['dcn0', 'files'], True)
        exc = self.assertRaises(
            preflight.NoAccess, preflight.check_access,
            ['dcn0', 'central', 'files'], True)
        self.assertIn('store central: the key of this Glance', str(exc))

    def test_one_is_enough(self):
        preflight.check_access(['dcn0', 'central'], False)
        preflight.check_access(['files', 'central'], False)
        self.assertRaises(preflight.NoAccess, preflight.check_access,
                          ['central'], False)


class Server(fixtures.Fixture):
    """Answers HEAD.

    :ivar asked: list of (method, path)
    """

    def __init__(self, answers):
        super().__init__()
        self._answers = answers
        self.asked = []

    def _setUp(self):
        fixture = self

        class Handler(http.server.BaseHTTPRequestHandler):

            def do_HEAD(self):  # noqa: N802 (the name is http.server's)
                fixture.asked.append((self.command, self.path))
                status, headers = fixture._answers[self.path]
                self.send_response(status)
                for item in headers.items():
                    self.send_header(*item)
                self.end_headers()

            def log_message(self, *args):
                """Say nothing."""
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.port = server.server_port


class DownloadSizeTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.allow('127.0.0.1')

    def allow(self, host):
        # Glance's own options for what may be downloaded.
        from glance.async_.flows import _internal_plugins  # noqa: F401
        for name, value in (('allowed_hosts', [host]), ('allowed_ports', [])):
            cfg.CONF.set_override(name, value, 'import_filtering_opts')
            self.addCleanup(cfg.CONF.clear_override, name,
                            'import_filtering_opts')

    def ask(self, status=200, name='web-download', **headers):
        self.server = self.useFixture(Server({
            '/image': (status, headers),
            '/other': (200, {'Content-Length': '7'})}))
        return preflight.download_size({
            'name': name,
            'uri': 'http://127.0.0.1:%d/image' % self.server.port})

    def test_it_is_told(self):
        self.assertEqual(5 * MiB, self.ask(**{
            'Content-Length': str(5 * MiB)}))
        self.assertEqual([('HEAD', '/image')], self.server.asked)

    def test_it_is_not_told(self):
        self.assertIsNone(self.ask())

    def test_nonsense(self):
        for text in ('many', '-5', '0', ''):
            self.assertIsNone(self.ask(**{'Content-Length': text}))

    def test_refused(self):
        self.assertIsNone(self.ask(status=405))

    def test_redirection_is_not_followed(self):
        self.assertIsNone(self.ask(status=302, Location='/other'))
        self.assertEqual([('HEAD', '/image')], self.server.asked)

    def test_host_that_is_not_allowed_is_not_asked(self):
        self.allow('192.0.2.1')
        self.assertIsNone(self.ask(**{'Content-Length': '5'}))
        self.assertEqual([], self.server.asked)

    def test_other_methods(self):
        self.assertIsNone(self.ask(name='glance-download'))
        self.assertEqual([], self.server.asked)

    def test_no_server(self):
        self.assertIsNone(preflight.download_size({
            'name': 'web-download', 'uri': 'http://127.0.0.1:1/'}))

    def test_password_in_the_address_is_not_logged(self):
        log = self.useFixture(fixtures.FakeLogger())
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.imports.preflight._is_allowed', lambda uri: True))
        self.assertIsNone(preflight.download_size({
            'name': 'web-download', 'uri': 'http://me:s3cret@127.0.0.1/x'}))
        self.assertNotIn('s3cret', log.output)

    def test_other_scheme(self):
        self.assertIsNone(preflight.download_size({
            'name': 'web-download', 'uri': 'file:///etc/passwd'}))


class CheckTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'image'
        self.use_plugins(plugins.STAGING, 'dcn_image_conversion')
        self.free = 100 * MiB
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.imports.folder.free', lambda path: self.free))

    def use_plugins(self, *names):
        plugins.staging_is_used(cfg.CONF)
        cfg.CONF.set_override('image_import_plugins', list(names),
                              'image_import_opts')
        self.addCleanup(cfg.CONF.clear_override, 'image_import_plugins',
                        'image_import_opts')

    def check(self, disk_format='qcow2', **fields):
        preflight.check(journal.Entry(
            'task', 'image', 'web-download', [], str(self.path),
            formats={'disk_format': disk_format}, **fields))

    def download(self, size, **fields):
        self.check(phase=journal.DOWNLOADING, size=size, **fields)

    def test_fits(self):
        self.download(50 * MiB)

    def test_conversion_would_not_fit(self):
        exc = self.assertRaises(preflight.NoRoom, self.download, 51 * MiB)
        self.assertIn('102 MiB of staging space are needed (51 MiB for its '
                      'download, 51 MiB for its conversion), and 100 MiB are '
                      'free: %d bytes are missing.' % (2 * MiB), str(exc))

    def test_no_conversion(self):
        self.download(100 * MiB, disk_format='raw')
        self.download(100 * MiB, disk_format='iso')
        self.assertRaises(preflight.NoRoom, self.download, 101 * MiB,
                          disk_format='raw')
        self.use_plugins(plugins.STAGING)
        self.download(100 * MiB)

    def test_nothing_is_known(self):
        self.download(None)

    def test_larger_than_an_image_may_be(self):
        cfg.CONF.set_override('image_size_cap', 5 * MiB)
        self.addCleanup(cfg.CONF.clear_override, 'image_size_cap')
        self.download(5 * MiB, disk_format='raw')
        exc = self.assertRaises(preflight.TooLarge, self.download,
                                5 * MiB + 1, disk_format='raw')
        self.assertIn('%d bytes, and an image may have %d (image_size_cap)'
                      % (5 * MiB + 1, 5 * MiB), str(exc))
        # What it will be is not known before it is there.
        self.download(5 * MiB + 1, disk_format='qcow2')

    def test_staged_image(self):
        with self.path.open('wb') as file:
            file.write(b'x' * 2 * MiB)
            file.truncate(1 << 40)
        self.free = 3 * MiB
        self.check(phase=journal.STAGED)
        self.free = MiB
        self.assertRaises(preflight.NoRoom, self.check, phase=journal.STAGED)

    def test_staged_image_that_is_gone(self):
        self.check(phase=journal.STAGED)

    def test_real_free_space(self):
        self.assertGreater(folder.free(str(self.path.parent)), 0)
