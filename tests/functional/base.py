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

from concurrent import futures
import os
import pathlib
import uuid

import fixtures
from oslotest import base

from lab import ceph


def delete_image(site, ioctx, image, image_id, snapshot):
    """Remove a published image from a site, as the driver does it."""
    removal = site.removal(ioctx, image, image_id, snapshot)
    removal.prepare()
    removal.finish()


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

    @classmethod
    def use_for_class(cls, fixture):
        """Set a fixture up until the class is through, and return it."""
        fixture.setUp()
        cls.addClassCleanup(fixture.cleanUp)
        return fixture

    @classmethod
    def make_folder(cls):
        """Make a folder that lasts until the class is through."""
        return pathlib.Path(cls.use_for_class(fixtures.TempDir()).path)

    @classmethod
    def start_clusters(cls, *names, etc=None, links=None):
        """Start clusters of the class's own, to be ill-treated.

        :param etc: folder for the conf files and keyrings of their clients
        :param links: dict of the :class:`lab.wan.Link` that clusters are
            behind, by name
        :returns: dict of :class:`lab.ceph.Cluster` by name
        """
        root = cls.make_folder()
        clusters = {name: ceph.Cluster(name, root / name, etc or root / 'etc',
                                       size=4 << 30,
                                       link=(links or {}).get(name))
                    for name in names}
        for cluster in clusters.values():
            cls.addClassCleanup(cluster.stop)
        with futures.ThreadPoolExecutor() as pool:
            list(pool.map(ceph.Cluster.start, clusters.values()))
        return clusters

    @staticmethod
    def image_name():
        """Return an image ID that no other test uses."""
        return str(uuid.uuid4())
