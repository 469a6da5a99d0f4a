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

# What each room imports of the others, from the bottom to the top: a room
# comes after all that it imports.
_ROOMS = {
    'runtime': '',
    'engine': 'runtime',
    'images': 'engine runtime',
    'ceph': 'engine runtime',
    'upstream': 'runtime',
    'sites': 'ceph engine runtime',
    'tasks': 'ceph runtime sites upstream',
    'imports': 'ceph engine images runtime sites tasks upstream',
    'workers': 'ceph imports runtime sites tasks upstream',
    'store': 'ceph engine imports runtime sites tasks upstream workers',
    'deploy': 'sites',
    'status': 'ceph deploy runtime sites tasks workers',
    'opts': 'imports store tasks',
    'checks': 'ceph deploy imports opts runtime sites status tasks upstream '
              'workers',
    'cmd': 'ceph checks deploy imports opts runtime sites status tasks '
           'workers',
}
# What is imported for annotations alone, and from above.
_FOR_TYPES = {('sites', 'tasks')}
# Which rooms import what is not a part of every Python installation, or not
# to be used anywhere.
_LIBRARIES = {
    'glance': 'cmd images imports status upstream',
    'glance_store': 'checks cmd imports store upstream',
    'oslo_config': 'checks cmd deploy imports sites status store tasks '
                   'upstream workers',
    'rados': 'ceph engine',
    'rbd': 'ceph engine sites store tasks',
    'taskflow': 'imports',
}

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

    def foreign(self, modules):
        """Return what each room imports of others, as {room: {name}}.

        :param modules: {module: names that it imports}
        """
        found = {room: set() for room in _ROOMS}
        for module, names in modules.items():
            if module == 'glance_dcn':
                continue
            room = module.split('.')[1]
            for name in names:
                top, _dot, rest = name.partition('.')
                other = rest.partition('.')[0] if top == 'glance_dcn' else top
                if other != room:
                    found[room].add(other)
        return found

    def test_rooms_import_downwards(self):
        # The table is as short as it can be, so that it tells the truth.
        found = self.foreign(self.run_time)
        self.assertEqual(
            {room: set(others.split()) for room, others in _ROOMS.items()},
            {room: names & set(_ROOMS) for room, names in found.items()})
        above = set(_ROOMS)
        for room, others in _ROOMS.items():
            self.assertEqual(set(), above & set(others.split()), room)
            above.discard(room)
        self.assertEqual(_FOR_TYPES, {
            (room, other)
            for room, names in self.foreign(self.modules).items()
            for other in names & set(_ROOMS)
            if other not in _ROOMS[room].split()})

    def test_modules_keep_no_state(self):
        """What a process has one of is held by its Runtime."""
        found = []
        for path in sorted(_PACKAGE.rglob('*.py')):
            tree = ast.parse(path.read_text())
            found += ['%s:%d' % (path, node.lineno) for node in ast.walk(tree)
                      if isinstance(node, ast.Global)]
            for node in tree.body:
                if not isinstance(node, (ast.Assign, ast.AnnAssign)):
                    continue
                targets = getattr(node, 'targets', None) or [node.target]
                found += ['%s:%s' % (path.relative_to(_PACKAGE), target.id)
                          for target in targets
                          if isinstance(target, ast.Name)
                          and target.id.lstrip('_').islower() and isinstance(
                              node.value, (ast.Call, ast.Dict, ast.List,
                                           ast.Set, ast.Constant))]
        # A library, or a part of one that not all of its releases have.
        self.assertEqual(['images/formats.py:modern',
                          'imports/heartbeat.py:_patiently',
                          'runtime/native.py:_libc'], found)

    def test_which_rooms_know_which_libraries(self):
        found = self.foreign(self.run_time)
        self.assertEqual(
            {library: set(rooms.split())
             for library, rooms in _LIBRARIES.items()},
            {library: {room for room, names in found.items()
                       if library in names} for library in _LIBRARIES})

    def test_images_knows_nothing_of_glance_but_its_inspectors(self):
        # Nor anything that would make its program slow to start.
        allowed = ('glance_dcn.engine.errors', 'glance_dcn.images',
                   'glance_dcn.runtime.native')
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

    def test_only_ceph_imports_rados(self):
        # The engine needs it for what librbd must not be asked for.
        ceph = {*self.room('ceph'), 'glance_dcn.engine.rbd_layout'}
        self.assertEqual([], [
            module for module, found in self.run_time.items()
            if module not in ceph
            and any(is_within(name, 'rados') for name in found)])


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
