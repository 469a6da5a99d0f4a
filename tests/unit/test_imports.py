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

"""The rooms of the package import each other one way only."""

import ast
import pathlib
import re

from oslotest import base

_ROOT = pathlib.Path(__file__).parents[2]
_PACKAGE = _ROOT / 'glance_dcn'

# Rooms under all others: they know nothing of Glance and its libraries.
_UNDER = ('engine', 'ceph')
_FORBIDDEN_UNDER = (
    'glance', 'glance_store', 'oslo_config', 'taskflow',
    'glance_dcn.cmd', 'glance_dcn.flows', 'glance_dcn.opts',
    'glance_dcn.sites', 'glance_dcn.store', 'glance_dcn.tasks')
# Rooms and modules that tasks may use.
_UNDER_TASKS = ('background', 'ceph', 'engine', 'glance_db',
                'glance_interfaces', 'runtime', 'sites', 'tasks')
# (module, what it may import besides)
_MORE_FOR_TASKS = {
    ('glance_dcn.tasks.setup', 'glance_dcn.staging.folder'),
    ('glance_dcn.tasks.setup', 'glance_dcn.staging.journal'),
    ('glance_dcn.tasks.setup', 'oslo_config.cfg')}
# Rooms that only Glance enters, through entry points.
_ENDS = ('store', 'flows')
# (module, what it may import all the same)
_ALLOWED = {('glance_dcn.opts', 'glance_dcn.flows.options'),
            ('glance_dcn.opts', 'glance_dcn.store.options'),
            ('glance_dcn.opts', 'glance_dcn.store.resources')}

# All comments of setup.py.
_LICENCE = (_ROOT / 'setup.py').read_text().partition('\n\n')[0]


def imports(tree, for_types=True):
    """Return the dotted names of the modules that a syntax tree imports.

    What follows ``from x import`` counts as a module of x, which it is where
    modules are imported rather than names.

    :param for_types: whether what is imported for annotations alone counts
    """
    skipped = set() if for_types else {
        child for node in ast.walk(tree) if isinstance(node, ast.If)
        and ast.unparse(node.test) == 'typing.TYPE_CHECKING'
        for child in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update('%s%s.%s' % ('.' * node.level, node.module or '',
                                      alias.name)
                         for alias in node.names)
    return found


def is_within(name, package):
    """Return whether a dotted name is a package or something in it."""
    return name == package or name.startswith(package + '.')


class TestImports(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.modules = {}
        self.run_time = {}
        for path in _PACKAGE.rglob('*.py'):
            parts = path.relative_to(_ROOT).with_suffix('').parts
            name = '.'.join(parts).removesuffix('.__init__')
            tree = ast.parse(path.read_text())
            self.modules[name] = imports(tree)
            self.run_time[name] = imports(tree, for_types=False)

    def room(self, name):
        """Return the modules of a room, with what they import."""
        return {module: found for module, found in self.modules.items()
                if is_within(module, 'glance_dcn.' + name)}

    def test_the_walk_sees_the_package(self):
        self.assertIn('rados', self.modules['glance_dcn.ceph.connection'])
        self.assertIn('glance_dcn.store.options',
                      self.modules['glance_dcn.opts'])

    def test_no_relative_imports(self):
        self.assertEqual([], [
            (module, name) for module, found in self.modules.items()
            for name in found if name.startswith('.')])

    def test_engine_and_ceph_know_nothing_of_the_rooms_above(self):
        self.assertEqual([], [
            (module, name) for room in _UNDER
            for module, found in self.room(room).items()
            for name in found for foreign in _FORBIDDEN_UNDER
            if is_within(name, foreign)])

    def test_engine_knows_nothing_of_connections(self):
        self.assertEqual([], [
            (module, name) for module, found in self.room('engine').items()
            for name in found if is_within(name, 'glance_dcn.ceph')])

    def test_images_knows_nothing_of_glance_but_its_inspectors(self):
        # Nor anything that would make its program slow to start.
        allowed = ('glance_dcn.engine.errors', 'glance_dcn.engine.native',
                   'glance_dcn.images')
        foreign = ('glance', 'glance_dcn', 'glance_store', 'oslo_config',
                   'oslo_utils', 'taskflow')
        self.assertEqual(
            [('glance_dcn.images.formats', 'glance.common.format_inspector'),
             ('glance_dcn.images.formats',
              'oslo_utils.imageutils.format_inspector')],
            sorted((module, name)
                   for module, found in self.room('images').items()
                   for name in found
                   if any(is_within(name, package) for package in foreign)
                   and not any(is_within(name, room) for room in allowed)))

    def test_only_images_runs_qemu_img(self):
        self.assertEqual([], [
            str(path) for path in _PACKAGE.rglob('*.py')
            if path.parent.name != 'images'
            and re.search(r"\[\s*'(qemu-img|prlimit)'", path.read_text())])

    def test_runtime_knows_nothing_but_native_threads(self):
        self.assertEqual({'glance_dcn.engine.native',
                          'glance_dcn.runtime.logs'}, {
            name for found in self.room('runtime').values()
            for name in found if is_within(name, 'glance_dcn')
            or is_within(name, 'glance')})

    def test_only_ceph_imports_rados(self):
        # The engine needs it for what librbd must not be asked for.
        ceph = {*self.room('ceph'), 'glance_dcn.engine.objects'}
        self.assertEqual([], [
            module for module, found in self.run_time.items()
            if module not in ceph
            and any(is_within(name, 'rados') for name in found)])

    def test_deploy_knows_nothing_of_a_running_glance(self):
        self.assertEqual([], [
            (module, name) for module, found in self.room('deploy').items()
            for name in found for foreign in (
                'glance', 'glance_store', 'glance_dcn.ceph',
                'glance_dcn.cmd', 'glance_dcn.engine')
            if is_within(name, foreign)])

    def test_what_tasks_may_use(self):
        self.assertIn('glance_dcn.tasks.runner', self.modules)
        self.assertEqual([], [
            (module, name) for module, found in self.room('tasks').items()
            for name in found
            if (is_within(name, 'glance_dcn') or any(
                is_within(name, foreign) for foreign in (
                    'glance', 'glance_store', 'oslo_config', 'taskflow')))
            and not any(is_within(name, 'glance_dcn.' + room)
                        for room in _UNDER_TASKS)
            and (module, name) not in _MORE_FOR_TASKS])

    def test_sites_know_nothing_of_tasks(self):
        self.assertEqual([], [
            (module, name) for module in self.room('sites')
            for name in self.run_time[module]
            if is_within(name, 'glance_dcn.tasks')])

    def test_nobody_imports_store_or_flows(self):
        self.assertEqual([], [
            (module, name) for room in _ENDS
            for module, found in self.modules.items()
            if module not in self.room(room)
            for name in found
            if is_within(name, 'glance_dcn.' + room)
            and (module, name) not in _ALLOWED])


class TestLicence(base.BaseTestCase):

    def test_every_file_has_the_header(self):
        without = []
        for top in ('bench', 'doc', 'glance_dcn', 'lab', 'releasenotes',
                    'tests', 'tools'):
            for path in (_ROOT / top).rglob('*.py'):
                text = path.read_text()
                if text.strip() and _LICENCE not in text:
                    without.append(str(path.relative_to(_ROOT)))
        self.assertEqual([], without)


class TestSnapshots(base.BaseTestCase):

    def test_are_not_opened_in_one_go(self):
        # librbd 16 may abort the process when an image that was opened so is
        # closed soon after; rbd.Image.set_snap() is the safe way.
        for path in sorted((_ROOT / 'glance_dcn').rglob('*.py')):
            for node in ast.walk(ast.parse(path.read_text())):
                if (isinstance(node, ast.Call)
                        and ast.unparse(node.func) == 'rbd.Image'):
                    self.assertNotIn('snapshot', [
                        keyword.arg for keyword in node.keywords], str(path))
