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

"""Tasks and intents, and their keys."""

from oslotest import base

from glance_dcn.tasks import task as tasks
from tests.unit.tasks import fakes

IMAGE = fakes.IMAGE
Action = tasks.Action


def key(action, image=IMAGE, **fields):
    return tasks.Task(action, 'edge', image, 'images', **fields).key


class KeyTest(base.BaseTestCase):

    def test_the_same_work_twice_is_one_record(self):
        for action in (Action.DELETE, Action.PURGE):
            self.assertEqual(key(action), key(action))
            self.assertEqual(key(action, image_id='1'),
                             key(action, image_id='1'))
            self.assertNotEqual(key(action, image_id='1'),
                                key(action, image_id='2'))
        self.assertNotEqual(key(Action.DELETE, image_id='1'),
                            key(Action.PURGE, image_id='1'))

    def test_of_two_writers_each_has_its_own(self):
        self.assertNotEqual(key(Action.REMOVE_INCOMPLETE),
                            key(Action.REMOVE_INCOMPLETE))
        self.assertEqual(key(Action.REMOVE_INCOMPLETE, uid='u'),
                         key(Action.REMOVE_INCOMPLETE, uid='u'))

    def test_those_of_an_image_begin_alike(self):
        intent = tasks.Intent('edge', IMAGE, 'images', 'f', 'writer', 'a')
        for found in (key(Action.DELETE), key(Action.REMOVE_INCOMPLETE),
                      key(Action.PURGE, image_id='1'), intent.key):
            self.assertTrue(found.startswith(tasks.prefix('edge', IMAGE)))
            self.assertTrue(found.startswith(tasks.prefix('edge')))
            self.assertTrue(found.startswith(tasks.SITES))

    def test_names_that_begin_alike(self):
        for site, image in (('edge', 'a'), ('edge', 'a%2Fb'),
                            ('edg', 'e/a/b'), ('edge/a', 'b')):
            self.assertFalse(key(Action.DELETE, 'a/b').startswith(
                tasks.prefix(site, image)), (site, image))
        self.assertFalse(key(Action.DELETE).startswith(tasks.prefix('edg')))

    def test_kinds(self):
        intent = tasks.Intent('edge', 'a/b', 'images', 'f', 'writer', 'a')
        self.assertIs(tasks.Intent, tasks.kind_of(intent.key))
        for action in Action:
            self.assertIs(tasks.Task, tasks.kind_of(
                key(action, 'a/b', image_id='task/1')))
        for other in ('', 'site/edge', 'site/edge/image/other/1',
                      'site/edge/image/task/1/2', 'lease/1'):
            self.assertIsNone(tasks.kind_of(other))
