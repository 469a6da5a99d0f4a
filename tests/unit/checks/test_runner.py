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

"""Carrying out checks side by side, and within a time."""

import threading
import time

from oslotest import base

from glance_dcn.checks import registry
from glance_dcn.checks import runner
from glance_dcn.checks import subjects
from glance_dcn.status import cluster


class TestRun(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.checks = {}
        self.hang = threading.Event()
        self.addCleanup(self.hang.set)

    def add(self, name, function, scope=registry.GLANCE, needs=()):
        self.checks[name] = registry.Check(
            name, name, scope, function, {'bad': registry.Fault(
                registry.FAIL, 'it is bad', 'mend it')}, needs)

    def bad(self, subject):
        raise registry.Found('bad')

    def run_all(self, count=1, timeout=5, only=()):
        found = runner.run([subjects.Glance('g%d' % number, 'http://g')
                            for number in range(count)], timeout, only,
                           self.checks)
        return [(finding.site, finding.check, finding.level)
                for finding in found]

    def test_in_order(self):
        self.add('one', lambda subject: 'fine')
        self.add('two', self.bad)
        self.assertEqual(
            [('g0', 'one', 'ok'), ('g0', 'two', 'fail'),
             ('g1', 'one', 'ok'), ('g1', 'two', 'fail')], self.run_all(2))

    def test_what_needs_a_failed_one_is_not_tried(self):
        self.add('one', self.bad)
        self.add('two', lambda subject: self.fail('tried'), needs=('one',))
        self.add('three', lambda subject: self.fail('tried'), needs=('two',))
        self.add('four', lambda subject: 'fine')
        self.assertEqual(['fail', 'skip', 'skip', 'ok'],
                         [level for _site, _check, level in self.run_all()])

    def test_only_some_with_what_they_need(self):
        tried = []
        self.add('one', lambda subject: tried.append(1) or 'fine')
        self.add('two', lambda subject: 'fine', needs=('one',))
        self.add('three', lambda subject: self.fail('tried'))
        self.assertEqual([('g0', 'two', 'ok')], self.run_all(only=['two']))
        self.assertEqual([1], tried)

    def test_only_some_of_which_what_they_need_fails(self):
        self.add('one', self.bad)
        self.add('two', lambda subject: self.fail('tried'), needs=('one',))
        self.assertEqual([('g0', 'one', 'fail'), ('g0', 'two', 'skip')],
                         self.run_all(only=['two']))

    def test_who_hangs_is_late_and_holds_up_nobody(self):
        self.add('one', lambda subject: 'fine')
        self.add('two', lambda subject: subject.name != 'g1' and 'fine'
                 or self.hang.wait() and 'fine')
        self.add('three', lambda subject: 'fine', needs=('two',))
        began = time.monotonic()
        found = self.run_all(3, timeout=1)
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(
            ['ok', 'ok', 'ok', 'ok', 'fail', 'skip', 'ok', 'ok', 'ok'],
            [level for _site, _check, level in found])

    def test_all_at_the_same_time(self):
        barrier = threading.Barrier(20, timeout=4)
        self.add('one', lambda subject: barrier.wait() is not None and 'ok')
        self.assertEqual({'ok'}, {
            level for _site, _check, level in self.run_all(20)})

    def test_clusters_are_compared_with_those_before(self):
        def connect(site):
            site.fsid, site.ioctx = 'f' + site.target.user, object()
            if site.name == 'a':
                site.kept = {'c': ('old', 0)}
            return 'fine'
        self.add('pool', connect, scope=registry.SITE)
        seen = {}

        def compare(subject):
            seen[subject.name] = ([other.name for other in subject.others],
                                  subject.kept)
            return 'fine'
        self.add('own-pool', compare, scope=registry.ALL)
        runner.run([subjects.Site(cluster.Target(name, 'p', user=name), None)
                    for name in 'abc'], 5, checks=self.checks)
        self.assertEqual({'a': ([], None), 'b': (['a'], None),
                          'c': (['a', 'b'], ('old', 0))}, seen)
