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

"""What functional tests share: the lab's real clusters."""

import os
import pathlib
import uuid

from oslotest import base

from lab import ceph


def lab_state():
    """Return the state folder of the running lab, from GLANCE_DCN_LAB."""
    try:
        return pathlib.Path(os.environ['GLANCE_DCN_LAB'])
    except KeyError:
        raise RuntimeError(
            'Functional tests need a running lab: run tools/run-tests.sh, or '
            'bring one up with "python -m lab up" and set GLANCE_DCN_LAB to '
            'its state folder.')


class CephTestCase(base.BaseTestCase):
    """A test against the lab's Ceph clusters.

    Tests run side by side on the same clusters: each uses image names of its
    own (:meth:`image_name`) and removes what it made.
    """

    def cluster(self, site):
        """Return the :class:`lab.ceph.Cluster` of a site by its name."""
        state = lab_state()
        return ceph.Cluster(site, state / 'sites' / site / 'ceph',
                            state / 'etc' / 'ceph')

    @staticmethod
    def image_name():
        """Return an image ID that no other test uses."""
        return str(uuid.uuid4())
