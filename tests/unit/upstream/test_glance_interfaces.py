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


"""The private interfaces of the installed Glance, and what if one is gone.

The real modules of Glance are changed here as a later release might change
them.
"""

from __future__ import annotations

import contextlib
import pkgutil
import subprocess
import sys
import textwrap
import time
import typing
from unittest import mock

import fixtures
from oslo_config import cfg
from oslotest import base

from glance_dcn.checks import access
from glance_dcn.checks import nodes  # noqa: F401, its checks are known then
from glance_dcn.checks import registry
from glance_dcn.checks import subjects
from glance_dcn.runtime import process
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins
from tests import releases
from tests import runtimes

# What a later release might do to each: (where, what, its new value). Without
# one it is gone.
_GONE = object()
_CHANGES: dict[glance_interfaces.Interface,
               list[tuple[str, str, typing.Any]]] = {
    glance_interfaces.PROGRAM: [],
    glance_interfaces.OPTIONS: [],
    glance_interfaces.LOADING: [
        ('importlib.util', 'find_spec', lambda name: None)],
    glance_interfaces.DATABASE: [
        ('glance.db.sqlalchemy.api', 'image_get', _GONE),
        ('glance.db.sqlalchemy.api', 'image_get',
         lambda context, image_id: None),
        ('glance.db.sqlalchemy.api', 'task_update', _GONE),
        ('glance.db.sqlalchemy.api', 'image_delete_property_atomic', _GONE),
        ('glance.common.exception', 'NotFound', _GONE),
        ('glance.context', 'get_admin_context', lambda: None)],
    glance_interfaces.IMAGE_LOCK: [
        # As if Glance had changed its own.
        ('glance_dcn.upstream.database', 'LOCK', 'os_glance_of_today'),
        ('glance_dcn.upstream.database', 'FAILED', 'os_glance_of_today'),
        ('glance.async_.flows.api_image_import.ImportActionWrapper',
         'drop_lock_for_task', _GONE)],
    glance_interfaces.DOWNLOADS: [
        ('glance.common.scripts.utils', 'get_image_data_iter',
         lambda uri: uri)],
    glance_interfaces.STAGED_READERS: [
        ('glance.common.scripts.utils', 'CallbackIterator',
         lambda file, callback: file),
        ('glance.common.utils', 'LimitingReader', lambda file, limit: file)],
    glance_interfaces.IMPORT_PLUGINS: [
        ('glance.async_.flows._internal_plugins.copy_image', 'get_flow',
         _GONE),
        ('glance.async_.flows.plugins.image_conversion',
         'conversion_plugin_opts', _GONE),
        ('glance.async_.flows.api_image_import', 'get_flow',
         lambda **kwargs: None)],
    glance_interfaces.IMPORT_ACTIONS: [
        ('glance.async_.flows.api_image_import', '_ImportActions', _GONE),
        ('glance.async_.flows.api_image_import._ImportActions', '__init__',
         lambda self, image: setattr(self, '_img', image)),
        ('glance.async_.flows.api_image_import._ImportActions',
         'add_failed_stores', _GONE)],
    glance_interfaces.IMAGE_LAYERS: [
        ('glance.quota', 'ImageProxy', _GONE),
        ('glance.location.ImageProxy', 'locations', []),
        ('glance.location.StoreLocations', 'append',
         lambda self, location, quota: None),
        ('glance.domain.proxy.Image', '__init__',
         lambda self, base, *args, **kwargs: setattr(self, 'layer', base)),
        ('glance.api.common', 'check_quota', lambda context, size: None)],
    glance_interfaces.TASK_EXECUTOR: [
        ('glance.async_.taskflow_executor.TaskExecutor', '_run', _GONE),
        ('glance.async_.taskflow_executor.TaskExecutor', '_run',
         lambda self, task: None),
        ('glance.async_.taskflow_executor.TaskExecutor', '_get_flow', _GONE),
        ('glance.api.common', 'get_thread_pool', _GONE)],
    glance_interfaces.TASK_EVENTS: [
        ('glance.db.sqlalchemy.models', 'TaskInfo', _GONE)],
    glance_interfaces.RESERVED_STORES: [
        ('glance_store.multi_backend', '_RESERVED_STORES', _GONE)],
    glance_interfaces.STORE_MAP: [
        ('glance_store.location', 'SCHEME_TO_CLS_BACKEND_MAP', _GONE),
        ('glance_store.location', 'SCHEME_TO_CLS_BACKEND_MAP',
         {'rbd': {'central': {}}})],
    glance_interfaces.ENTRY_POINTS: [
        ('stevedore.extension.ExtensionManager', 'list_entry_points',
         lambda self: [])],
    glance_interfaces.HEALTHCHECK: [
        ('oslo_middleware.healthcheck.Healthcheck', 'NAMESPACE', 'another')],
    glance_interfaces.IMAGE_DELETION: [
        ('glance.location.ImageProxy', 'delete', lambda self: None),
        ('glance.location.ImageProxy', 'delete', lambda self: [
            self.store_utils.delete_image_location_from_backend(
                self.context, self.image.image_id, place)
            for place in self.image.locations]),
        ('glance.location.StoreLocations', 'pop', _GONE),
        ('glance.location.StoreLocations', 'pop', lambda self, i:
         self.image_proxy.store_utils.delete_image_location_from_backend(
             self.image_proxy.context, 'image', self.value[i]))],
    glance_interfaces.SEARCHING: [
        ('glance_store.multi_backend', 'get', _GONE),
        ('glance_store.multi_backend', 'delete', lambda uri, backend: None)],
    glance_interfaces.CACHE_WORKER: [
        ('glance.api.v2.cached_images', 'CacheWorker', _GONE),
        ('glance.api.v2.cached_images.CacheWorker', 'run',
         lambda self: None)],
    glance_interfaces.SHOWING: [
        ('glance.api.v2.images', 'ImagesController', _GONE),
        ('glance.api.v2.images.ImagesController', 'show',
         contextlib.suppress)],
    glance_interfaces.SHARED_OPTIONS: [],
}


@contextlib.contextmanager
def changed(where: str, name: str, value: typing.Any
            ) -> typing.Iterator[None]:
    """Change an attribute, or remove it, while the block runs."""
    if value is _GONE:
        with mock.patch('%s.%s' % (where, name)):
            delattr(pkgutil.resolve_name(where), name)
            yield
    else:
        with mock.patch('%s.%s' % (where, name), value):
            yield


class InterfacesTestCase(base.BaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.logged = self.useFixture(fixtures.FakeLogger(
            'glance_dcn.upstream.glance_interfaces'))
        # They register the options of Glance.
        import glance.async_.flows.api_image_import  # noqa: F401
        import glance.common.config  # noqa: F401
        cfg.CONF([], project='glance', prog='glance-api',
                 default_config_files=[])
        self.addCleanup(cfg.CONF.reset)
        self.useFixture(runtimes.Runtime())

    def check_fault(self, interface: glance_interfaces.Interface,
                    proofs: glance_interfaces.Proofs | None = None) -> None:
        """See that an interface is found to be wrong, and that is logged."""
        proofs = proofs or glance_interfaces.Proofs(cfg.CONF)
        before = self.logged.output
        self.assertIsNotNone(proofs.fault(interface))
        self.assertFalse(proofs.usable(interface))
        told = self.logged.output[len(before):]
        # Once.
        self.assertEqual(1, told.count('glance_dcn cannot use'), told)
        for text in (glance_interfaces.release(), interface.name,
                     interface.off):
            self.assertIn(text, told)


class TestInstalledGlance(InterfacesTestCase):

    def test_has_all(self) -> None:
        self.assertEqual({}, glance_interfaces.Proofs(cfg.CONF).faults())
        self.assertEqual('', self.logged.output)

    def test_is_proved_soon_and_touches_nothing(self) -> None:
        # In a process of its own: what has been imported before counts.
        script = """
            import socket, sys, time
            import glance.common.config
            import glance.api.v2.router
            from oslo_config import cfg
            cfg.CONF([], project='glance', prog='glance-api',
                     default_config_files=[])
            from glance_dcn.runtime import process
            from glance_dcn.upstream import glance_interfaces

            def refuse(*args, **kwargs):
                raise AssertionError('it was connected to')
            socket.socket.connect = refuse
            began = time.process_time()
            assert process.get(glance_interfaces.Proofs).faults() == {}
            print(time.process_time() - began)
            assert 'rados' not in sys.modules
            """
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(script)],
            capture_output=True, text=True, timeout=120)
        self.assertEqual(0, done.returncode, done.stderr)
        # Seconds of CPU time; it is a tenth of that.
        self.assertLess(float(done.stdout), 0.5)

    def test_all_are_changed_by_these_tests(self) -> None:
        self.assertEqual(set(glance_interfaces.INTERFACES), set(_CHANGES))

    @releases.since(33)
    def test_downloads_are_pinned(self) -> None:
        self.assertEqual(
            ['_ValidatedExternalHTTPHandler',
             '_ValidatedExternalHTTPSHandler'],
            [handler.__name__
             for handler in glance_interfaces.download_handlers()])

    @releases.before(33)
    def test_downloads_are_opened_plainly(self) -> None:
        self.assertEqual([], glance_interfaces.download_handlers())


class TestChangedGlance(InterfacesTestCase):

    def test_each_change_is_found(self) -> None:
        for interface, changes in _CHANGES.items():
            for change in changes:
                with self.subTest(change=change), contextlib.ExitStack(
                        ) as stack:
                    if interface is glance_interfaces.DOWNLOADS:
                        self.remove_handlers(stack)
                    stack.enter_context(changed(*change))
                    self.check_fault(interface)

    def remove_handlers(self, stack: contextlib.ExitStack) -> None:
        from glance.common.scripts import utils
        for name in ('_ValidatedExternalHTTPHandler',
                     '_ValidatedExternalHTTPSHandler'):
            if hasattr(utils, name):
                stack.enter_context(changed(utils.__name__, name, _GONE))

    def test_option_is_renamed(self) -> None:
        conf = cfg.ConfigOpts()
        conf([])
        self.check_fault(glance_interfaces.OPTIONS,
                         glance_interfaces.Proofs(conf))

    def test_program_is_called_otherwise(self) -> None:
        conf = cfg.ConfigOpts()
        conf([], prog='glance-server')
        import glance.api.v2.router  # noqa: F401
        with mock.patch.dict(sys.modules):
            sys.modules.pop('glance.common.wsgi_app', None)
            self.check_fault(glance_interfaces.PROGRAM,
                             glance_interfaces.Proofs(conf))
            conf([], prog='glance-api')
            self.assertTrue(glance_interfaces.Proofs(conf).usable(
                glance_interfaces.PROGRAM))
            # Before release 33 it is called after the WSGI server.
            conf([], prog='uwsgi')
            sys.modules['glance.common.wsgi_app'] = mock.Mock()
            self.assertTrue(glance_interfaces.serves_api(conf))
            self.assertTrue(glance_interfaces.Proofs(conf).usable(
                glance_interfaces.PROGRAM))

    def test_options_of_all_stores_are_out_of_reach(self) -> None:
        conf = cfg.ConfigOpts()
        conf.register_opt(cfg.StrOpt('some'), group='backend_defaults')
        with mock.patch.multiple(
                'glance_store.driver', create=True, SHARED_CONF_GROUP='x',
                BackendGroupConfiguration='x'):
            from glance_store import driver
            del driver.BackendGroupConfiguration
            self.check_fault(glance_interfaces.SHARED_OPTIONS,
                             glance_interfaces.Proofs(conf))
            del driver.SHARED_CONF_GROUP
            self.check_fault(glance_interfaces.SHARED_OPTIONS,
                             glance_interfaces.Proofs(conf))
            # As before glance_store 5.0.
            self.assertTrue(glance_interfaces.Proofs(
                cfg.ConfigOpts()).usable(glance_interfaces.SHARED_OPTIONS))
            driver.SHARED_CONF_GROUP = driver.BackendGroupConfiguration = 'x'

    @releases.since(33)
    def test_handler_of_another_kind(self) -> None:
        for name in ('_ValidatedExternalHTTPHandler',
                     '_ValidatedExternalHTTPSHandler'):
            for value in (_GONE, object, None):
                with changed('glance.common.scripts.utils', name, value):
                    self.check_fault(glance_interfaces.DOWNLOADS)


class TestClosed(InterfacesTestCase):
    """What needs an interface is not done without it."""

    def break_(self, interface: glance_interfaces.Interface) -> None:
        """Have an interface fail its proof."""
        process.get(
            glance_interfaces.Proofs)._faults[interface] = 'it is broken'

    def stage(self) -> None:
        """Have a staging folder, in which there is a journal."""
        folder = self.useFixture(fixtures.TempDir()).path
        cfg.CONF.set_override('node_staging_uri', 'file://' + folder)
        self.addCleanup(cfg.CONF.clear_override, 'node_staging_uri')

    def test_size_of_a_download_is_not_asked_for(self) -> None:
        from glance_dcn.imports import distributed_staging
        opener = mock.Mock(**{'return_value.open.side_effect': OSError})

        def ask() -> int | None:
            return distributed_staging.download_size(
                {'name': 'web-download', 'uri': 'http://192.0.2.1/image'},
                is_allowed=lambda uri: True, build_opener=opener)
        self.assertIsNone(ask())
        self.assertEqual(1, opener.return_value.open.call_count)
        self.break_(glance_interfaces.DOWNLOADS)
        self.assertIsNone(ask())
        self.assertEqual(1, opener.return_value.open.call_count)

    def test_copies_are_left_to_stock(self) -> None:
        from glance_dcn.ceph import client
        from glance_dcn.imports import copy_image
        from glance_dcn.sites import site
        from tests.unit import glance_stores
        plugins.prefer_ours()
        self.useFixture(glance_stores.Stores(dcn0=site.Site(
            client.ClusterConfig('dcn0', 'images'), 22)))
        action = mock.MagicMock()
        for interface in (glance_interfaces.IMPORT_ACTIONS,
                          glance_interfaces.IMAGE_LAYERS):
            self.useFixture(runtimes.Runtime())
            self.break_(interface)
            stores = ['dcn0']
            self.assertEqual([], copy_image._take_over(
                {'backend': stores, 'task_id': 'task',
                 'action_wrapper': action}))
            self.assertEqual(['dcn0'], stores)
        self.assertEqual([], action.mock_calls)

    def test_order_of_plugins_is_not_known(self) -> None:
        plugins.prefer_ours()
        self.assertTrue(plugins.ours_wins('copy_image'))
        listed = plugins.extension.ExtensionManager.list_entry_points
        with changed('stevedore.extension.ExtensionManager',
                     'list_entry_points', lambda self: list(listed(self))):
            self.assertFalse(plugins.ours_wins('copy_image'))

    def test_imports_have_no_journal(self) -> None:
        from glance_dcn.imports import distributed_staging
        from glance_dcn.imports import heartbeat
        plugins.staging_is_used(cfg.CONF)
        cfg.CONF.set_override('image_import_plugins', [plugins.STAGING],
                              'image_import_opts')
        self.addCleanup(cfg.CONF.clear_override, 'image_import_plugins',
                        'image_import_opts')
        self.stage()
        # It would write one, of which it is told too little.
        process.put(mock.Mock(), heartbeat.Watch)
        self.assertRaises(KeyError, distributed_staging.announce, {})
        for interface in (glance_interfaces.DATABASE,
                          glance_interfaces.IMAGE_LOCK):
            self.useFixture(runtimes.Runtime())
            self.break_(interface)
            self.assertIsNone(distributed_staging.announce({}))

    def watch(self) -> mock.Mock:
        """Look at the staging folder once, and return what recovers."""
        from glance_dcn.imports import options
        from glance_dcn.imports import scan
        options.register(cfg.CONF)
        self.stage()
        recover = mock.Mock()
        scanner = scan.Scanner(recover)
        scanner._conf = cfg.CONF
        scanner.scan()
        return recover

    def test_imports_of_the_dead_are_left_alone(self) -> None:
        from glance_dcn.imports import recovery
        self.assertTrue(recovery.is_possible())
        for interface in (glance_interfaces.DATABASE,
                          glance_interfaces.IMAGE_LOCK):
            self.useFixture(runtimes.Runtime())
            self.break_(interface)
            self.assertFalse(self.watch().called)
            self.assertFalse(recovery.is_possible())

    def test_nothing_is_removed(self) -> None:
        from glance_dcn.upstream import glance_db
        database = glance_db.GlanceDatabase(cfg.CONF)
        self.assertTrue(database.available)
        self.useFixture(runtimes.Runtime())
        self.break_(glance_interfaces.DATABASE)
        self.assertFalse(database.available)
        self.assertRaises(RuntimeError, database.ask, 'image', 'uri')

    def test_imports_are_not_started_again(self) -> None:
        from glance_dcn.imports import heartbeat
        from glance_dcn.imports import recovery
        self.watch().assert_called_once_with(mock.ANY, recovery.resume_import)
        self.break_(glance_interfaces.TASK_EXECUTOR)
        self.watch().assert_called_once_with(mock.ANY, None)
        self.assertFalse(heartbeat.works_on('task'))

    def test_reserved_stores_stay(self) -> None:
        from glance_dcn.store import dynamic_stores
        conf = cfg.ConfigOpts()
        conf.register_opt(cfg.DictOpt('enabled_backends', default={
            'central': 'dcn', 'os_glance_staging_store': 'file'}))
        conf([])
        self.break_(glance_interfaces.RESERVED_STORES)
        dynamic_stores.set_types(conf, {'central': 'rbd'})
        self.assertEqual('dcn', conf.enabled_backends['central'])


class TestStart(InterfacesTestCase):

    def test_when_glance_has_been_loaded(self) -> None:
        loaded = [False]
        proofs = glance_interfaces.Proofs(cfg.CONF,
                                          is_loaded=lambda: loaded[0])
        self.addCleanup(proofs.stop)
        with changed('glance.db.sqlalchemy.api', 'image_get', _GONE):
            proofs.start()
            time.sleep(0.5)
            self.assertEqual({}, proofs._faults)
            loaded[0] = True
            deadline = time.monotonic() + 60
            while (len(proofs._faults) < len(glance_interfaces.INTERFACES)
                   and time.monotonic() < deadline):
                time.sleep(0.05)
        self.assertIn('image_get', self.logged.output)
        self.assertIn(glance_interfaces.DATABASE.off, self.logged.output)
        self.assertNotIn('has all', self.logged.output)

    def test_processes_that_are_not_glance(self) -> None:
        proofs = mock.Mock()
        process.put(proofs, glance_interfaces.Proofs)
        glance_interfaces.start(cfg.ConfigOpts())
        self.assertFalse(proofs.start.called)
        glance_interfaces.start(cfg.CONF)
        self.assertTrue(proofs.start.called)

    def test_processes_that_serve_no_api(self) -> None:
        # The scrubber has stores, and loads nothing of the API.
        conf = cfg.ConfigOpts()
        conf([], prog='glance-scrubber')
        with mock.patch.dict(sys.modules):
            sys.modules.pop('glance.common.wsgi_app', None)
            proofs = glance_interfaces.Proofs(
                conf, is_loaded=lambda: False, patience=0)
            proofs.prove()
        self.assertEqual({}, proofs._faults)


class TestCheck(InterfacesTestCase):

    def look(self) -> registry.Finding:
        return registry.CHECKS['interfaces'].run(
            subjects.Node(cfg.CONF, access.Access(), 1))

    def test_all_are_there(self) -> None:
        finding = self.look()
        self.assertEqual(registry.OK, finding.level, finding.text)
        self.assertIn(glance_interfaces.release(), finding.text)

    def test_one_is_gone(self) -> None:
        with changed('glance.async_.taskflow_executor.TaskExecutor', '_run',
                     _GONE):
            finding = self.look()
        self.assertEqual(registry.FAIL, finding.level)
        self.assertIn('TaskExecutor has no _run', finding.text)
        self.assertIn('not started again', finding.remedy)
