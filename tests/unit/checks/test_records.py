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

"""What Glance has recorded of a site, and what its pool has."""

import threading
import time
from unittest import mock

from oslotest import base
import rbd

from glance_dcn.checks import runner  # noqa: F401, all checks are known then
from glance_dcn.checks import subjects
from glance_dcn.sites import cluster_identity
from glance_dcn.status import cluster
from glance_dcn.status import inventory
from glance_dcn.workers import registry as registries
from tests.unit.checks import fakes


class TestImages(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.names = {'a', 'b'}
        # What the database says, each time that it is asked.
        self.answers = []

    def _list(self, ioctx):
        return self.names

    def _locations(self):
        found = self.answers.pop(0) if len(self.answers) > 1 else (
            self.answers[0])
        if isinstance(found, Exception):
            raise found
        return found

    def look(self, *answers, kept=None, stores=('edge',)):
        """Return the level, and what was found."""
        self.answers = list(answers)
        site = subjects.Site(cluster.Target('edge', 'images'), None)
        site.fsid, site.kept, site.ioctx = 'f', kept, object()
        site.located = subjects.Located(stores,
                                        locations=self._locations)
        finding = fakes.check('images', list_images=self._list).run(site)
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
        self._list = fail
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
        located = subjects.Located(['edge'], timeout=.01, locations=hang)
        for _ in range(2):
            self.assertRaises(inventory.DatabaseUnavailable, located.get)
        self.assertEqual([1], asked)

    def test_database_is_asked_once_for_all_sites(self):
        self.answers = [{'edge': set()}, RuntimeError('twice')]
        located = subjects.Located(['edge'], locations=self._locations)
        self.assertEqual([{'edge': set()}] * 2,
                         [located.get() for _ in range(2)])


class TestWorkers(base.BaseTestCase):

    def look(self, *workers, default=True):
        """Return the finding about workers of a default site."""
        known = mock.Mock(spec=registries.Registry)
        known.workers.return_value = [(worker, worker.text())
                                      for worker in workers]
        return fakes.check('workers', registry_of=lambda *_: known).run(
            subjects.Site(cluster.Target('edge', 'images', default=default),
                          None))

    def worker(self, host, reference=registries.RIGHT, **fields):
        return registries.Worker(**dict({
            'identity': host, 'site': 'edge', 'host': host,
            'url': 'http://%s:9292' % host, 'reference': reference},
            **fields))

    def test_good(self):
        self.assertEqual('ok', self.look().level)
        finding = self.look(self.worker('a'), self.worker(
            'b', registries.UNCHECKED))
        self.assertEqual('ok', finding.level)
        self.assertIn('2', finding.text)

    def test_wrong(self):
        finding = self.look(self.worker('a'), self.worker(
            'b', registries.WRONG, faults=['another answers']))
        self.assertEqual('fail', finding.level)
        for words in ('host b', 'http://b:9292', 'another answers'):
            self.assertIn(words, finding.text)

    def test_shared(self):
        finding = self.look(self.worker('a', url='http://vip:9292'),
                            self.worker('b', url='http://vip:9292'))
        self.assertEqual('fail', finding.level)
        self.assertIn('hosts a, b', finding.text)

    def test_those_of_another_home_are_not_asked_about(self):
        finding = self.look(self.worker('a', registries.WRONG), default=False)
        self.assertEqual('ok', finding.level)
        self.assertIn('their own site', finding.text)

    def test_unproved(self):
        self.assertEqual('warn', self.look(self.worker(
            'a', registries.UNPROVED)).level)

    def test_those_of_another_store_do_not_count(self):
        self.assertEqual('ok', self.look(self.worker(
            'a', registries.WRONG, site='other')).level)

    def test_silent(self):
        finding = self.look(
            self.worker('b', seen=time.time() - 61),
            self.worker('a', registries.WRONG, seen=0), self.worker('c'))
        self.assertEqual('warn', finding.level)
        self.assertIn('hosts a (since 1970-01-01 00:00:00 UTC), b (since ',
                      finding.text)
        self.assertNotIn('c (', finding.text)
        self.assertIn('rados -p images -N glance-dcn rmomapkey workers '
                      'worker/', finding.remedy)

    def test_all_are_silent(self):
        self.assertEqual('warn', self.look(self.worker(
            'a', seen=time.time() - 3600)).level)

    def test_what_is_wrong_with_the_living_comes_first(self):
        silent = self.worker('z', url='http://a:9292', seen=0)
        for words, workers in (
                ('wrong', [self.worker('a', registries.WRONG)]),
                ('same', [self.worker('a', url='http://vip:9292'),
                          self.worker('b', url='http://vip:9292')]),
                ('got no answer at', [self.worker(
                    'a', registries.UNPROVED)])):
            self.assertIn(words, self.look(silent, *workers).text)

    def test_silent_ones_that_do_not_count(self):
        # What they were at is undone, or they belong to another site.
        finding = self.look(
            self.worker('a', registries.WRONG, taken_by='c', seen=0),
            self.worker('b', site='other', seen=0))
        self.assertEqual(('ok', 'none has spoken of late'),
                         (finding.level, finding.text))
