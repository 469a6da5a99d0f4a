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


import errno
from unittest import mock

from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.ceph import users


class TestAddress(base.BaseTestCase):

    def test_of_both_protocols(self):
        self.assertEqual('[v2:10.0.0.1:3300,v1:10.0.0.1:6789]',
                         users._address({
                             'public_addr': '10.0.0.1:6789/0',
                             'public_addrs': {'addrvec': [
                                 {'type': 'v2', 'addr': '10.0.0.1:3300'},
                                 {'type': 'v1', 'addr': '10.0.0.1:6789'}]}}))

    def test_of_an_old_monitor(self):
        self.assertEqual('[2001:db8::1]:6789', users._address(
            {'public_addr': '[2001:db8::1]:6789/0'}))


class TestRefusals(base.BaseTestCase):

    def test_error_does_not_tell_what_was_given(self):
        client = mock.Mock()
        client.mon_command.return_value = (-errno.EACCES, b'secret',
                                           'access denied')
        exc = self.assertRaises(
            errors.Misconfigured, users._command, client, 'dcn0',
            {'prefix': 'auth get-or-create', 'entity': 'client.x',
             'caps': ['mon', 'hidden']})
        self.assertIn('refuse "auth get-or-create" (access denied)',
                      str(exc))
        self.assertNotIn('secret', str(exc))
        self.assertNotIn('hidden', str(exc))
