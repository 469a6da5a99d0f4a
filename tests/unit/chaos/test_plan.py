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

"""Tests of what a randomised run is going to do."""

from oslotest import base

from tests.chaos import plan

SITES = ('central', 'dcn0', 'dcn1')


def make(seed=1, count=1000, kinds=tuple(plan.FAULTS), **changes):
    """Return a plan."""
    return plan.Plan(**dict({
        'seed': seed, 'count': count, 'sites': SITES, 'workers': 2,
        'every': 8, 'kinds': kinds}, **changes))


def text(made):
    """Return all of a plan as text."""
    return [str(entry) for entry in made.operations + made.faults]


class PlanTest(base.BaseTestCase):

    def test_same_seed_same_plan(self):
        self.assertEqual(text(make(7)), text(make(7)))
        self.assertNotEqual(text(make(7)), text(make(8)))

    def test_every_kind_occurs(self):
        made = make()
        self.assertEqual(set(plan.OPERATIONS),
                         {entry.kind for entry in made.operations})
        self.assertEqual(set(plan.FAULTS),
                         {fault.kind for fault in made.faults})
        self.assertEqual(set(SITES), {fault.site for fault in made.faults})
        self.assertEqual({0, 1}, {entry.worker[1]
                                  for entry in made.operations})

    def test_as_many_as_asked_for(self):
        self.assertEqual(list(range(1000)),
                         [entry.number for entry in make().operations])
        self.assertAlmostEqual(125, len(make().faults), delta=25)

    def test_faults_that_are_not_wanted(self):
        self.assertEqual([], make(every=0).faults)
        self.assertEqual([], make(kinds=()).faults)
        self.assertEqual({'cut'}, {fault.kind
                                   for fault in make(kinds=('cut',)).faults})
        self.assertGreaterEqual(2, max(
            fault.duration for fault in make(longest=2).faults
            if fault.kind != 'stop-glance'))
        self.assertEqual({9}, {
            fault.duration for fault in make(longest_stop=9).faults
            if fault.kind == 'stop-glance' and fault.duration > 8})

    def test_faults_of_workers(self):
        stopped, stepped = (
            [fault for fault in make().faults if fault.kind == kind]
            for kind in ('stop-glance', 'step-clock'))
        for fault in stopped:
            self.assertTrue(5 <= fault.duration <= 60, fault)
        for fault in stepped:
            self.assertTrue(200 <= abs(fault.options['offset']) <= 900, fault)
        self.assertEqual({True, False}, {fault.options['offset'] > 0
                                         for fault in stepped})

    def test_faults_with_images_of_their_own(self):
        made = make()
        others = {entry.image.number for entry in made.operations
                  if entry.image}
        own = [fault for fault in made.faults if fault.image]
        self.assertEqual({'delete-source', 'forge'},
                         {fault.kind for fault in own})
        numbers = [fault.image.number for fault in own]
        numbers += [number + plan.WRITTEN for number in numbers]
        self.assertEqual(len(numbers), len(others.union(numbers))
                         - len(others))
        self.assertEqual(set(plan.KEYS), {
            fault.options['key'] for fault in own if fault.kind == 'forge'})

    def test_deleted_sources(self):
        for fault in make().faults:
            if fault.kind == 'delete-source':
                holders = fault.options['holders'].split(',')
                self.assertIn(fault.site, holders)
                self.assertEqual(set(SITES), {*holders,
                                              fault.options['target']})
        # There would be no target.
        self.assertNotIn('delete-source', {
            fault.kind for fault in make(sites=SITES[:2]).faults})

    def test_operations_fit_what_was_before(self):
        stores = {}
        for entry in make().operations:
            number = entry.image and entry.image.number
            if entry.kind == 'import':
                self.assertNotIn(number, stores)
                stores[number] = set(entry.stores)
            elif entry.kind == 'copy':
                self.assertEqual(set(), stores[number] & set(entry.stores))
                stores[number] |= set(entry.stores)
            elif entry.kind in ('clone', 'delete-from'):
                self.assertIn(entry.stores[0], stores[number])
                if entry.kind == 'delete-from':
                    stores[number].remove(entry.stores[0])
                    self.assertNotEqual(set(), stores[number])
            elif entry.kind == 'delete':
                del stores[number]
            elif entry.kind == 'download':
                self.assertIn(number, stores)

    def test_glances_are_asked_for_what_they_know(self):
        for entry in make().operations:
            if not entry.image:
                continue
            site = entry.worker[0]
            if site != 'central' and entry.kind != 'download':
                self.assertEqual(site, entry.image.home)
            if entry.image.home != 'central':
                self.assertLessEqual(set(entry.stores),
                                     {entry.image.home, 'central'})


class ContentTest(base.BaseTestCase):

    def image(self, size, data):
        return plan.Image(5, 'central', size, data)

    def test_depends_on_seed_and_number(self):
        image = self.image(1 << 20, 1 << 20)
        self.assertEqual(plan.content(image, 3), plan.content(image, 3))
        self.assertNotEqual(plan.content(image, 3), plan.content(image, 4))

    def test_dense_sparse_empty(self):
        size = (4 << 20) - 511
        dense = plan.content(self.image(size, size), 1)
        sparse = plan.content(self.image(size, size // 10), 1)
        empty = plan.content(self.image(size, 0), 1)
        self.assertEqual([size] * 3, [len(dense), len(sparse), len(empty)])
        self.assertLess(dense.count(0), size // 100)
        self.assertGreater(sparse.count(0), size * 3 // 4)
        self.assertLess(sparse.count(0), size)
        self.assertEqual(size, empty.count(0))
