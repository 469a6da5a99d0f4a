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

"""The import plugin, with a real database and a real staging folder."""

import functools
import http.server
import os
import pathlib
import threading
import types
import uuid

import fixtures
from glance.common import exception
from glance.common import store_utils  # noqa: F401 (registers options)
from oslo_config import cfg
from oslotest import base
from tests.unit.imports import glance

from glance_dcn.ceph import errors
from glance_dcn.imports import active_imports
from glance_dcn.imports import distributed_staging
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.upstream import database
from glance_dcn.upstream import plugins

CONF = cfg.CONF
MiB = 1 << 20


class Wrapper:
    """What ImportActionWrapper is, over the database alone."""

    def __init__(self, image_id, task_id):
        self.image_id = image_id
        self._task_id = task_id

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass

    def add_failed_stores(self, stores):
        image = database.image(self.image_id)
        database.update(self.image_id, image['status'], {
            database.FAILED: database.stores(image, database.FAILED, stores)})

    def assert_task_lock(self):
        """The lock is there."""

    def drop_lock_for_task(self):
        database.drop_property(self.image_id, database.LOCK, self._task_id)


class StagingTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.glance = self.useFixture(glance.Database())
        self.staging = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        plugins.staging_is_used(CONF)
        for name, value, group in (
                ('image_import_plugins', [plugins.STAGING],
                 'image_import_opts'),
                ('node_staging_uri', 'file://%s' % self.staging, None)):
            CONF.set_override(name, value, group)
            self.addCleanup(CONF.clear_override, name, group)
        # Its thread is not started.
        self.useFixture(glance.Watch())
        self.image_id, self.task_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.addCleanup(active_imports.end, self.task_id)

    def begin(self, method='glance-direct', status='uploading',
              stores=('dcn0',), **values):
        self.glance.add_image(self.image_id, status, properties={
            database.LOCK: self.task_id}, **values)
        self.glance.add_task(self.task_id, self.image_id, method, ['dcn0'])
        self.kwargs = {
            'task_id': self.task_id, 'task_type': 'api_image_import',
            'backend': list(stores),
            'import_req': {'method': {'name': method}},
            'action_wrapper': Wrapper(self.image_id, self.task_id)}
        return distributed_staging.get_flow(**self.kwargs)

    @property
    def entry(self):
        return active_imports.of(self.image_id).entry

    def test_the_journal_is_opened(self):
        self.begin(size=5)
        self.assertEqual(
            (journal.STAGED, ['dcn0'], 5, 'qcow2',
             str(self.staging / self.image_id)),
            (self.entry.phase, self.entry.stores, self.entry.size,
             self.entry.formats['disk_format'], self.entry.path))

    def test_store_that_is_named_twice(self):
        # Stock would make two tasks of one name, and could not begin.
        self.begin(size=5, stores=['dcn0', 'dcn1', 'dcn0'])
        self.assertEqual(['dcn0', 'dcn1'], self.kwargs['backend'])
        self.assertEqual(['dcn0', 'dcn1'], self.entry.stores)

    def test_a_download_is_staged_when_its_task_runs(self):
        flow = self.begin('web-download', 'queued')
        self.assertEqual(journal.DOWNLOADING, self.entry.phase)
        [(task, _meta)] = flow.iter_nodes()
        task.execute()
        self.assertEqual(journal.STAGED, self.entry.phase)

    def test_what_was_accepted_goes_on(self):
        active_imports.begin(journal.Journal(str(self.staging)), journal.Entry(
            self.task_id, self.image_id, 'glance-direct', ['dcn0'],
            str(self.staging / self.image_id), journal.ACCEPTED))
        self.begin()
        self.assertEqual((journal.STAGED, 'qcow2'), (
            self.entry.phase, self.entry.formats['disk_format']))

    def test_what_was_broken_off_as_soon_as_it_was_accepted(self):
        active_imports.begin(journal.Journal(str(self.staging)), journal.Entry(
            self.task_id, self.image_id, 'glance-direct', ['dcn0'],
            str(self.staging / self.image_id), journal.STAGED, attempts=1))
        self.begin()
        # Or its formats were lost, should it be converted and given up.
        self.assertEqual(
            {'disk_format': 'qcow2', 'container_format': 'bare'},
            self.entry.formats)
        self.assertEqual(journal.STAGED, self.entry.phase)

    def test_asked_twice(self):
        self.begin()
        going_on = active_imports.of(self.image_id)
        distributed_staging.get_flow(**self.kwargs)
        self.assertIs(going_on, active_imports.of(self.image_id))

    def test_plugin_is_not_used(self):
        CONF.set_override('image_import_plugins', [], 'image_import_opts')
        self.assertIsNone(distributed_staging.announce({}))

    def test_no_room(self):
        CONF.set_override('image_import_plugins', [
            plugins.STAGING, 'image_conversion'], 'image_import_opts')
        path = self.staging / self.image_id
        path.write_bytes(b'x' * 3 * MiB)
        self.begin()
        distributed_staging.check(
            self.kwargs, active_imports.of(self.image_id),
            free=lambda path: MiB)
        task, image = database.task(self.task_id), database.image(
            self.image_id)
        self.assertEqual('failure', task['status'])
        self.assertIn('2097152 bytes are missing', task['message'])
        self.assertNotIn(database.LOCK, image['properties'])
        self.assertEqual(('uploading', 'dcn0'), (
            image['status'], image['properties'][database.FAILED]))
        self.assertIsNone(active_imports.of(self.image_id))
        self.assertTrue(path.exists())

    def test_put_back(self):
        path = self.staging / self.image_id
        path.write_bytes(b'data')
        self.begin(status='importing', size=4)
        self.assertTrue(distributed_staging.roll_back(
            self.kwargs['action_wrapper'], ['dcn0']))
        image = database.image(self.image_id)
        self.assertEqual(
            ('uploading', 4, glance.URL, 'dcn0'),
            (image['status'], image['size'],
             image['properties'][database.HOST],
             image['properties'][database.FAILED]))

    def test_put_back_when_the_image_was_deleted(self):
        self.begin(status='importing', size=4)
        self.glance.delete_image(self.image_id)
        self.assertRaises(
            exception.ImageNotFound, distributed_staging.roll_back,
            self.kwargs['action_wrapper'], ['dcn0'])

    def test_nothing_is_put_back_without_the_plugin(self):
        self.assertFalse(distributed_staging.roll_back(
            Wrapper('unknown', 'task'), []))

    def staged(self, length, *args, **values):
        """Begin an import of so many bytes, and return its task."""
        (self.staging / self.image_id).write_bytes(b'x' * length)
        flow = self.begin(*args, **values)
        [(task, _meta)] = flow.iter_nodes()
        return task

    def test_staged_data_is_vouched_for(self):
        task = self.staged(5, status='importing', size=5)
        task.execute()
        self.assertEqual(5, self.entry.proofs[journal.AS_STAGED].size)

    def test_truncated_upload(self):
        task = self.staged(4, status='importing', size=5)
        error = self.assertRaises(exception.UploadException, task.execute)
        self.assertIn('4 bytes were staged, and 5 were uploaded. Stage',
                      str(error))
        task.revert(None)
        image = database.image(self.image_id)
        self.assertEqual(('queued', None, 'dcn0'), (
            image['status'], image['size'],
            image['properties'][database.FAILED]))
        self.assertNotIn(database.HOST, image['properties'])
        self.assertFalse((self.staging / self.image_id).exists())

    def test_uploaded_before_the_host_was_restarted(self):
        # It may have its length, and zeros in place of its data.
        task = self.staged(5, status='importing', size=5)
        path = self.staging / self.image_id
        os.utime(path, (1, 1))
        error = self.assertRaises(exception.UploadException, task.execute)
        self.assertIn('Stage the image again', str(error))
        self.assertEqual({}, self.entry.proofs)
        task.revert(None)
        self.assertEqual('queued', database.image(self.image_id)['status'])
        self.assertFalse(path.exists())

    def test_what_was_proven_after_the_restart_is_imported(self):
        task = self.staged(5, status='importing', size=5)
        path = self.staging / self.image_id
        os.utime(path, (1, 1))
        folder.renew(str(path))
        task.execute()
        self.assertEqual(5, self.entry.proofs[journal.AS_STAGED].size)

    def test_what_goes_on_was_proven_before(self):
        task = self.staged(5, status='importing', size=5)
        os.utime(self.staging / self.image_id, (1, 1))
        active_imports.of(self.image_id).held.note(attempts=1)
        task.execute()
        self.assertEqual(5, self.entry.proofs[journal.AS_STAGED].size)

    def test_truncated_download(self):
        for method in ('web-download', 'glance-download'):
            task = self.staged(4, method, status='importing')
            active_imports.of(self.image_id).held.note(size=5)
            error = self.assertRaises(exception.UploadException, task.execute)
            self.assertIn('4 bytes were staged, and 5 were announced',
                          str(error))
            self.assertEqual(journal.DOWNLOADING, self.entry.phase)
            self.assertEqual({}, self.entry.proofs)
            active_imports.end(self.task_id)
            self.image_id = str(uuid.uuid4())
            self.task_id = str(uuid.uuid4())

    def test_download_whose_length_was_announced(self):
        task = self.staged(4, 'web-download', status='importing')
        active_imports.of(self.image_id).held.note(size=4)
        task.execute()
        self.assertEqual(journal.STAGED, self.entry.phase)

    def test_download_that_was_converted_and_resumed(self):
        task = self.staged(4, 'web-download', status='importing', size=4)
        active_imports.of(self.image_id).held.note(size=2, attempts=1)
        task.execute()
        self.assertEqual(journal.STAGED, self.entry.phase)

    def test_another_plugin_may_have_changed_what_was_staged(self):
        CONF.set_override('image_import_plugins', [
            'image_decompression', plugins.STAGING], 'image_import_opts')
        task = self.staged(4, status='importing', size=2)
        task.execute()
        self.assertEqual(4, self.entry.proofs[journal.AS_STAGED].size)

    def test_failed_import_can_be_repeated(self):
        (self.staging / self.image_id).write_bytes(b'data')
        flow = self.begin(status='importing', size=4)
        [(task, _meta)] = flow.iter_nodes()
        task.revert(None)
        self.assertEqual('uploading', database.image(self.image_id)['status'])

    def test_failed_download_is_left_to_stock(self):
        (self.staging / self.image_id).write_bytes(b'data')
        flow = self.begin('web-download', status='importing', size=4)
        [(task, _meta)] = flow.iter_nodes()
        task.revert(None)
        self.assertEqual('importing', database.image(self.image_id)['status'])


MiB = 1 << 20


class TestAccess(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        refusals = {'dcn0': None, 'central': errors.ReadOnly('central', 'x')}
        self.check = functools.partial(
            distributed_staging.check_access,
            find=lambda name: name in refusals and types.SimpleNamespace(
                access=types.SimpleNamespace(
                    refusal=lambda: refusals[name])) or None)

    def test_all_must_succeed(self):
        self.check(['dcn0', 'files'], True)
        exc = self.assertRaises(
            distributed_staging.NoAccess, self.check,
            ['dcn0', 'central', 'files'], True)
        self.assertIn('store central: the key of this Glance', str(exc))

    def test_one_is_enough(self):
        self.check(['dcn0', 'central'], False)
        self.check(['files', 'central'], False)
        self.assertRaises(distributed_staging.NoAccess, self.check,
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
        return distributed_staging.download_size({
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
        self.assertIsNone(distributed_staging.download_size({
            'name': 'web-download', 'uri': 'http://127.0.0.1:1/'}))

    def test_password_in_the_address_is_not_logged(self):
        log = self.useFixture(fixtures.FakeLogger())
        self.assertIsNone(distributed_staging.download_size(
            {'name': 'web-download', 'uri': 'http://me:s3cret@127.0.0.1/x'},
            is_allowed=lambda uri: True))
        self.assertNotIn('s3cret', log.output)

    def test_other_scheme(self):
        self.assertIsNone(distributed_staging.download_size({
            'name': 'web-download', 'uri': 'file:///etc/passwd'}))


class CheckTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'image'
        self.use_plugins(plugins.STAGING, 'dcn_image_conversion')
        self.free = 100 * MiB

    def use_plugins(self, *names):
        plugins.staging_is_used(cfg.CONF)
        cfg.CONF.set_override('image_import_plugins', list(names),
                              'image_import_opts')
        self.addCleanup(cfg.CONF.clear_override, 'image_import_plugins',
                        'image_import_opts')

    def check(self, disk_format='qcow2', **fields):
        distributed_staging.check_room(journal.Entry(
            'task', 'image', 'web-download', [], str(self.path),
            formats={'disk_format': disk_format}, **fields),
            free=lambda path: self.free)

    def download(self, size, **fields):
        self.check(phase=journal.DOWNLOADING, size=size, **fields)

    def test_fits(self):
        self.download(50 * MiB)

    def test_conversion_would_not_fit(self):
        exc = self.assertRaises(distributed_staging.NoRoom, self.download,
                                51 * MiB)
        self.assertIn('102 MiB of staging space are needed (51 MiB for its '
                      'download, 51 MiB for its conversion), and 100 MiB are '
                      'free: %d bytes are missing.' % (2 * MiB), str(exc))

    def test_no_conversion(self):
        self.download(100 * MiB, disk_format='raw')
        self.download(100 * MiB, disk_format='iso')
        self.assertRaises(distributed_staging.NoRoom, self.download, 101 * MiB,
                          disk_format='raw')
        self.use_plugins(plugins.STAGING)
        self.download(100 * MiB)

    def test_nothing_is_known(self):
        self.download(None)

    def test_larger_than_an_image_may_be(self):
        cfg.CONF.set_override('image_size_cap', 5 * MiB)
        self.addCleanup(cfg.CONF.clear_override, 'image_size_cap')
        self.download(5 * MiB, disk_format='raw')
        exc = self.assertRaises(distributed_staging.TooLarge, self.download,
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
        self.assertRaises(distributed_staging.NoRoom, self.check,
                          phase=journal.STAGED)

    def test_staged_image_that_is_gone(self):
        self.check(phase=journal.STAGED)

    def test_real_free_space(self):
        self.assertGreater(folder.free(str(self.path.parent)), 0)
