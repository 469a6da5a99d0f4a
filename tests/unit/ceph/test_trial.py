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

"""What a cluster tells of its monitors, read without one."""

import errno
import json
from unittest import mock

from oslotest import base
import rados

from glance_dcn.ceph import trial


class MonitorsTest(base.BaseTestCase):

    def client(self, code, *mons):
        text = json.dumps({'mons': mons}).encode()
        return mock.Mock(**{'mon_command.return_value': (code, text, 'why')})

    def test_name_and_addresses(self):
        client = self.client(0, {'name': 'a', 'public_addrs': {'addrvec': [
            {'type': 'v2', 'addr': '10.0.0.1:3300', 'nonce': 0},
            {'type': 'v1', 'addr': '10.0.0.1:6789', 'nonce': 0}]}}, {
                'name': 'b', 'public_addrs': {'addrvec': [
                    {'type': 'v2', 'addr': '[fd00::2]:3300', 'nonce': 0}]}})
        self.assertEqual([
            ('a', [('10.0.0.1', 3300), ('10.0.0.1', 6789)]),
            ('b', [('fd00::2', 3300)])], trial.monitors(client))

    def test_refused(self):
        error = self.assertRaises(rados.OSError, trial.monitors,
                                  self.client(-errno.EACCES))
        self.assertIn('mon dump: why', str(error))
