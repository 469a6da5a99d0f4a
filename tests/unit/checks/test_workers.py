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

"""What a site's workers have found out about themselves."""

import time

import fixtures
from oslotest import base

from glance_dcn.checks import registry
from glance_dcn.checks import runner  # noqa: F401, it has all checks known
from glance_dcn.status import subjects
from glance_dcn.workers import registry as registries


class TestWorkers(base.BaseTestCase):

    def look(self, *workers, default=True):
        """Return the finding about workers of a default site."""
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.workers.registry.Registry.workers',
            lambda self: [(worker, worker.text()) for worker in workers]))
        return registry.CHECKS['workers'].run(
            subjects.Site(subjects.Target('edge', 'images', default=default),
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
                ('nobody has answered', [self.worker(
                    'a', registries.UNPROVED)])):
            self.assertIn(words, self.look(silent, *workers).text)

    def test_silent_ones_that_do_not_count(self):
        # What they were at is undone, or they belong to another site.
        finding = self.look(
            self.worker('a', registries.WRONG, taken_by='c', seen=0),
            self.worker('b', site='other', seen=0))
        self.assertEqual(('ok', 'none has spoken of late'),
                         (finding.level, finding.text))
