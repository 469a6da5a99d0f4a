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

"""Facts of stock Glance that the driver is built on.

A test that fails here with a newer Glance says that what stands on the fact
can go, or must change.
"""

import types
from unittest import mock

from glance.api.v2 import discovery
from oslotest import base

from tests import releases


class StoresDetailTest(base.BaseTestCase):
    """``GET /v2/info/stores/detail`` knows a fixed set of types."""

    def detail(self, kind):
        conf = mock.Mock(enabled_backends={'one': kind})
        conf.glance_store.default_backend = 'one'
        conf.one = types.SimpleNamespace(store_description='', weight=0)
        store = mock.Mock(url_prefix='rbd://fsid/images/')
        with mock.patch.multiple(
                discovery, CONF=conf, api_policy=mock.DEFAULT,
                g_store=mock.Mock(get_store_from_store_identifier=mock.Mock(
                    return_value=store))):
            controller = discovery.InfoController(
                policy_enforcer=mock.Mock())
            return controller.get_stores_detail(mock.Mock())

    @releases.since(30)
    def test_type_rbd(self):
        store, = self.detail('rbd')['stores']
        self.assertEqual(('rbd', 'fsid'),
                         (store['type'], store['properties']['fsid']))

    def test_another_type_fails_the_whole_call(self):
        # Why a dcn store passes itself off as rbd (Store._present_as_rbd).
        self.assertRaises(TypeError, self.detail, 'dcn')
