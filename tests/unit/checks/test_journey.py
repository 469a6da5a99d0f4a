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

"""What the proof of a deployment makes of Glance's answers."""

import types

from oslotest import base

from glance_dcn.checks import journey


class Adapter:
    """Gives prepared answers, the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def request(self, path, method, raise_exc=True, **kwargs):
        self.asked.append((method, path, kwargs))
        code, body = (self.answers.pop(0) if len(self.answers) > 1
                      else self.answers[0])
        return types.SimpleNamespace(
            status_code=code, json=lambda: body, text=str(body))


class TestApi(base.BaseTestCase):

    def api(self, *answers):
        self.adapter = Adapter(*answers)
        return journey.Api(self.adapter, poll=.01)

    def test_stores(self):
        self.assertEqual(['central', 'edge'], self.api((200, {'stores': [
            {'id': 'edge'}, {'id': 'old', 'read-only': 'true'},
            {'id': 'central', 'default': 'true'}]})).stores())

    def test_wait(self):
        image = {'status': 'active', 'stores': 'a,b'}
        self.api((200, {'status': 'queued'}),
                 (200, dict(image, os_glance_importing_to_stores='b')),
                 (200, dict(image, os_glance_import_task='t')),
                 (200, image)).wait('i', ['a', 'b'], 5)
        self.assertEqual(4, len(self.adapter.asked))

    def test_wait_for_what_fails(self):
        exc = self.assertRaises(journey.Refused, self.api((200, {
            'status': 'active', 'stores': 'a',
            'os_glance_failed_import': 'b'})).wait, 'i', ['a', 'b'], 5)
        self.assertIn('did not get to b', str(exc))

    def test_wait_in_vain(self):
        exc = self.assertRaises(journey.Refused, self.api((200, {
            'status': 'active', 'stores': 'a'})).wait, 'i', ['a', 'b'], .05)
        self.assertIn('its stores are a', str(exc))

    def test_delete(self):
        for answers in ([(204, '')], [(404, '')],
                        [(409, 'busy'), (503, 'away'), (204, '')]):
            self.api(*answers).delete('i', 5)
            self.assertEqual(len(answers), len(self.adapter.asked))

    def test_delete_in_vain(self):
        for answer, timeout in (((403, 'forbidden'), 60), ((409, 'in use'),
                                                           .05)):
            exc = self.assertRaises(journey.Refused, self.api(answer).delete,
                                    'i', timeout)
            self.assertIn(answer[1], str(exc))

    def test_hidden_locations(self):
        exc = self.assertRaises(journey.Refused, self.api((200, {})).locations,
                                'i')
        self.assertIn('show_multiple_locations', str(exc))

    def test_refusal(self):
        exc = self.assertRaises(journey.Refused, self.api(
            (403, 'You  are\nnot allowed')).create, id='i')
        self.assertIn('403 You are not allowed', str(exc))
