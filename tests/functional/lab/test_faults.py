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

"""Faults of a real site, and that they are taken back."""

import pathlib

import fixtures
import rados

from lab import ceph
from lab import faults
from lab import wan
from tests.chaos import __main__ as chaos
from tests.functional import base


class FaultsTest(base.CephTestCase):
    """A cluster of its own, in one test: it takes long to be brought up."""

    def setUp(self):
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        link = None
        if chaos.can_cut():
            link = wan.Link(folder / 'link')
            self.addCleanup(link.stop)
            link.start()
        self.site = ceph.Cluster('site', folder / 'ceph', folder / 'etc',
                                 size=4 << 30, link=link)
        self.addCleanup(self.site.stop)
        self.site.start()

    def write(self):
        """Write something as a client; fails within seconds, or does it."""
        with self.site.connect('glance', timeout=2) as client:
            client.conf_set('rados_osd_op_timeout', '2')
            with client.open_ioctx('images') as ioctx:
                ioctx.set_osdmap_full_try()
                # For each placement group, as they are full one by one; what
                # does not grow is taken even then.
                for number in range(16):
                    ioctx.append('faults-test-%d' % number, b'x')

    def test_faults(self):
        # Of those that differ in the daemon alone, one each.
        for kind in ['kill', 'freeze-osd', 'fill'] + (
                ['cut'] * bool(self.site.link)):
            faults.cause(self.site, kind)
            self.assertRaises(rados.Error, self.write)
            faults.heal(self.site)
            self.write()
        pids = self.site.mon.pid, self.site.osd.pid
        faults.cause(self.site, 'restart')
        self.assertEqual(set(), set(pids)
                         & {self.site.mon.pid, self.site.osd.pid})
        self.write()
        self.check_rebuild()

    def check_rebuild(self):
        before, conf = self.site.fsid, self.site.conf.read_text()
        faults.cause(self.site, 'rebuild')
        self.assertNotEqual(before, self.site.fsid)
        self.assertIn(self.site.fsid, self.site.conf.read_text())
        address = [line for line in conf.splitlines() if 'mon_host' in line]
        self.assertIn(address[0], self.site.conf.read_text())
        with self.site.pool() as ioctx:
            self.assertEqual([], [item.key for item in ioctx.list_objects()
                                  if 'faults-test' in item.key])
        self.write()
