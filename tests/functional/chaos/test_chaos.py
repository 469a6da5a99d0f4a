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

"""A short randomised run, and that its checks find what they look for."""

import pathlib
import sys
import uuid

import fixtures
import rbd

from tests.chaos import __main__ as main
from tests.chaos import check
from tests.functional import base
from tests.functional.chaos import programs

_ROOT = pathlib.Path(__file__).parents[3]
MiB = 1 << 20
# With them all faults that are not of a site occur, forged records with the
# key of an edge and of a home among them.
_SEED = '3'
_FAULTS = ('kill,freeze-osd,restart,stop-glance,step-clock,delete-source,'
           'forge')


class ShortRunTest(base.CephTestCase):
    """A run on a deployment of its own."""

    def test_nothing_is_lost_or_left_behind(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        arguments = ['--seed', _SEED, '--operations', '24',
                     '--fault-every', '3', '--longest', '3',
                     '--longest-stop', '8', '--faults', _FAULTS]
        made = main.make_plan(main.parser().parse_args(arguments))
        self.assertLessEqual(
            {'stop-glance', 'step-clock', 'delete-source', 'forge'},
            {fault.kind for fault in made.faults})
        self.addOnException(lambda exc_info: self.addDetail(
            'chaos.log', programs.text_of(folder / 'chaos.log')))
        status, out = programs.run(
            [sys.executable, '-m', 'tests.chaos', *arguments,
             '--state', folder, '--lender', base.lab_state()],
            folder, timeout=600, cwd=_ROOT)
        self.assertEqual(0, status, out)


class CheckTest(base.CephTestCase):
    """What the checks find in a pool that nobody accounts for."""

    def setUp(self):
        super().setUp()
        self.name = self.image_name()
        self.pool = self.useFixture(Pool(self.cluster('dcn0'))).ioctx
        rbd.RBD().create(self.pool, self.name, MiB)
        with rbd.Image(self.pool, self.name) as image:
            self.identity = image.id()
            image.write(b'x' * 4096, 0)

    def found(self, *located):
        """Return the kinds of what is found of this test's image."""
        return [entry.kind for entry in check.leftovers(
            'dcn0', 'fsid', 'images', self.pool, set(located))
            if self.name in entry.what or self.identity in entry.what]

    def remove(self):
        rbd.RBD().remove(self.pool, self.name)

    def test_image(self):
        self.addCleanup(self.remove)
        self.assertEqual(['image without location'], self.found())
        self.assertEqual([], self.found(('fsid', 'images', self.name)))

    def test_snapshots(self):
        self.addCleanup(self.remove)
        with rbd.Image(self.pool, self.name) as image:
            for snapshot in ('snap', 'other'):
                image.create_snap(snapshot)
                self.addCleanup(self.remove_snapshot, snapshot)
        self.assertEqual(['snapshot left'],
                         self.found(('fsid', 'images', self.name)))

    def remove_snapshot(self, snapshot):
        with rbd.Image(self.pool, self.name) as image:
            image.remove_snap(snapshot)

    def test_trash(self):
        rbd.RBD().trash_move(self.pool, self.name)
        self.addCleanup(rbd.RBD().trash_remove, self.pool, self.identity)
        self.assertEqual(['trash entry left'],
                         self.found(('fsid', 'images', self.name)))

    def test_objects(self):
        self.remove()
        name = 'rbd_data.%s.%016x' % (self.identity, 3)
        self.pool.write_full(name, b'x')
        self.addCleanup(self.pool.remove_object, name)
        self.assertEqual(['objects of no image'], self.found())

    def test_nothing(self):
        self.remove()
        self.assertEqual([], self.found())


class Pool(fixtures.Fixture):
    """A namespace of a pool, open until the end of the test.

    The checks look at everything that is there: images that other tests are
    making or removing at the time would not do.
    """

    def __init__(self, cluster):
        super().__init__()
        self._cluster = cluster
        self._namespace = uuid.uuid4().hex

    def _setUp(self):
        pool = self._cluster.pool('images')
        self.ioctx = pool.__enter__()
        self.addCleanup(pool.__exit__, None, None, None)
        rbd.RBD().namespace_create(self.ioctx, self._namespace)
        self.addCleanup(self._remove)
        self.ioctx.set_namespace(self._namespace)

    def _remove(self):
        self.ioctx.set_namespace('')
        rbd.RBD().namespace_remove(self.ioctx, self._namespace)
