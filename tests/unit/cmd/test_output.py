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

from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.cmd import output
from glance_dcn.tasks import store as stores


class TestStatus(base.BaseTestCase):
    """Exit statuses of commands that errors end."""

    def test_what_is_needed_cannot_be_used(self):
        entry = stores.Unreadable('a/key', 'of version 3', False, 3)
        for exc in (stores.NotRecorded('dcn0', 'no', 'look'),
                    stores.OfOtherRelease('dcn0', entry, 'image'),
                    errors.ReadOnly('dcn0'), errors.Retired('dcn0'),
                    errors.Unreachable('dcn0', 'it is away', 'wait'),
                    errors.Exhausted('dcn0', 'no threads', 'wait')):
            self.assertEqual(output.Exit.UNABLE, output.status_of(exc), exc)

    def test_configuration(self):
        for kind in (errors.Misconfigured, errors.NotDeployed,
                     errors.Refused, errors.WrongCluster):
            exc = kind('dcn0', 'its key is wrong', 'see there')
            self.assertEqual(output.Exit.WRONG, output.status_of(exc), exc)
