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

"""The check of the images that Glance has at a site."""

import threading

import fixtures
from oslotest import base
import rbd

from glance_dcn.checks import images
from glance_dcn.checks import registry
from glance_dcn.sites import cluster_identity
from glance_dcn.status import inventory
from glance_dcn.status import subjects


class TestImages(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.names = {'a', 'b'}
        # What the database says, each time that it is asked.
        self.answers = []
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.trial.names', lambda ioctx: self.names))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.status.inventory.locations', self._locations))

    def _locations(self):
        found = self.answers.pop(0) if len(self.answers) > 1 else (
            self.answers[0])
        if isinstance(found, Exception):
            raise found
        return found

    def look(self, *answers, kept=None, stores=('edge',)):
        """Return the level, and what was found."""
        self.answers = list(answers)
        site = subjects.Site(subjects.Target('edge', 'images'), None)
        site.fsid, site.kept, site.ioctx = 'f', kept, object()
        site.located = images.Located(stores)
        finding = registry.CHECKS['images'].run(site)
        return finding.level, finding.text

    @staticmethod
    def at(*names, fsid='f', pool='images'):
        return {'rbd://%s/%s/%s/snap' % (fsid, pool, name) for name in names}

    def test_all_there(self):
        self.assertEqual(('ok', '3 locations, all of them there'), self.look(
            {'edge': self.at('a', 'b') | self.at('v', pool='volumes'),
             'other': self.at('z')}))
        self.assertEqual(('ok', '0 locations, all of them there'),
                         self.look({}))

    def test_lost(self):
        level, text = self.look({'edge': self.at('a', 'b', 'c', 'd')})
        self.assertEqual('warn', level)
        self.assertIn('2 images are not in pool images', text)
        self.assertIn(': c, d', text)

    def test_deleted_meanwhile(self):
        self.assertEqual('ok', self.look({'edge': self.at('a', 'c')},
                                         {'edge': self.at('a')})[0])

    def test_another_cluster(self):
        level, text = self.look({'edge': self.at('a')
                                 | self.at('b', 'c', fsid='g')})
        self.assertEqual('warn', level)
        self.assertIn('2 locations of this store name another cluster', text)

    def test_stores_that_were_taken_away(self):
        found = {'edge': self.at('a'), 'dcn3': self.at('x', 'y', fsid='g'),
                 'others': self.at('z', fsid='h')}
        kept = {name: cluster_identity.ClusterIdentity('g', 0)
                for name in ('edge', 'dcn3')}
        level, text = self.look(found, kept=kept)
        self.assertEqual('warn', level)
        self.assertIn('dcn3 (2)', text)
        self.assertNotIn('others', text)
        # Of another node, it may be a store that is not here.
        self.assertEqual('ok', self.look(found)[0])
        self.assertEqual('ok', self.look(found, kept=kept,
                                         stores=('edge', 'dcn3'))[0])

    def test_database_that_does_not_answer(self):
        level, text = self.look(inventory.DatabaseUnavailable('no'))
        self.assertEqual('warn', level)
        self.assertIn('the database cannot be read (no)', text)

    def test_database_that_stops_to_answer(self):
        level, text = self.look({'edge': self.at('a', 'c')},
                                inventory.DatabaseUnavailable('no'))
        self.assertEqual('warn', level)
        self.assertIn('the database cannot be read (no)', text)

    def test_pool_that_cannot_be_listed(self):
        def fail(ioctx):
            raise rbd.PermissionError('denied', 1)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.trial.names', fail))
        level, text = self.look({'edge': self.at('a')})
        self.assertEqual('warn', level)
        self.assertIn('pool images cannot be listed (', text)

    def test_database_that_hangs_is_waited_for_once(self):
        hung = threading.Event()
        self.addCleanup(hung.set)
        asked = []

        def hang():
            asked.append(1)
            hung.wait(60)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.status.inventory.locations', hang))
        located = images.Located(['edge'], timeout=.01)
        for _ in range(2):
            self.assertRaises(inventory.DatabaseUnavailable, located.get)
        self.assertEqual([1], asked)

    def test_database_is_asked_once_for_all_sites(self):
        self.answers = [{'edge': set()}, RuntimeError('twice')]
        located = images.Located(['edge'])
        self.assertEqual([{'edge': set()}] * 2,
                         [located.get() for _ in range(2)])
