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

"""What is believed of the records of workers."""

import json

from oslotest import base

from glance_dcn.workers import registry


class ParseTest(base.BaseTestCase):

    def text(self, **changes):
        return json.dumps(dict(json.loads(registry.Worker(
            'the-worker', 'central').text()), **changes))

    def test_what_a_worker_writes(self):
        worker = registry.Worker(
            'the-worker', 'central', url='http://w:9292', beat=7,
            faults=('a fault',), taken_by='another')
        self.assertEqual(worker, registry.parse(worker.text()))

    def test_what_a_later_release_adds(self):
        # It would be half understood: that worker looks after itself.
        self.assertRaises(ValueError, registry.parse,
                          self.text(colour='red'))

    def test_of_another_deployment(self):
        self.assertRaises(ValueError, registry.parse, self.text(), 'theirs')

    def test_what_may_not_be(self):
        for changes in ({'seen': 'now'}, {'beat': None}, {'staging': 7},
                        {'staging': None}, {'url': ['x']}, {'host': {}},
                        {'faults': 'x'}, {'faults': [1]}, {'taken_by': 1},
                        {'identity': '../x'}, {'identity': ''},
                        {'identity': 7}):
            self.assertRaises(ValueError, registry.parse,
                              self.text(**changes))
        self.assertRaises(ValueError, registry.parse, '[' * 100000)
