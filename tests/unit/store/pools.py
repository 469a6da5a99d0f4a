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

"""A pool of a cluster that answers."""

import rados

from glance_dcn.ceph import omap


class Pool:
    """An open pool in which there is each image that is asked for."""

    def operate_aio_write_op(self, op, name, oncomplete):
        """Say that an object is there, as one that is not changed."""
        completion = Completion()
        oncomplete(completion)
        return completion

    def read(self, name, length):
        return omap.encode_text('id')

    def execute(self, *unused):
        raise rados.ObjectNotFound('no such object')


class Completion:

    def get_return_value(self):
        return 0
