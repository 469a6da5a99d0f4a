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


"""Taking an image away from a client that was killed."""

import errno
import subprocess
import sys
import time

import rados
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import connection
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from tests.functional import base

# Has the image open for writing, and the lock of its name.
_WRITER = '''
import sys, time
import rbd
from glance_dcn.ceph import client as clients, connection, name_lock
site = connection.Connection(clients.ClusterConfig(
    'central', 'images', sys.argv[1], 'glance'))
with site.open_pool('images') as ioctx:
    rbd.RBD().create(ioctx, sys.argv[2], 1 << 20)
    with rbd.Image(ioctx, sys.argv[2]), name_lock.hold(
            site.client(), ioctx, sys.argv[2]):
        print(site.client().get_instance_id(), flush=True)
        time.sleep(60)
'''


class FencingTest(base.CephTestCase):

    def setUp(self):
        super().setUp()
        self.name = self.image_name()
        conf = str(self.cluster('central').conf)
        writer = subprocess.Popen(
            [sys.executable, '-c', _WRITER, conf, self.name],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(writer.stdout.close)
        self.addCleanup(writer.wait)
        self.instance = int(writer.stdout.readline())
        writer.kill()
        writer.wait()
        # As Glance's user: its rights are to suffice.
        self.site = connection.Connection(clients.ClusterConfig(
            'central', 'images', conf, 'glance'))
        pool = self.site.open_pool('images')
        self.ioctx = pool.__enter__()
        self.addCleanup(pool.__exit__, None, None, None)

    def break_lock(self, instances):
        name_lock.break_lock(self.site.client(), self.ioctx, self.name,
                             instances)

    def test_it_takes_no_time(self):
        started = time.monotonic()
        self.assertRaises(rbd.ImageBusy, rbd.RBD().remove, self.ioctx,
                          self.name)
        self.break_lock([self.instance])
        self.assertTrue(images.blocklist_watchers(
            self.site.client(), self.ioctx,
            self.name, [self.instance]))
        with name_lock.hold(self.site.client(), self.ioctx, self.name):
            rbd.RBD().remove(self.ioctx, self.name)
        self.assertLess(time.monotonic() - started, 25)

    def test_others_are_left_alone(self):
        self.break_lock([self.instance + 1])
        self.assertTrue(images.blocklist_watchers(
            self.site.client(), self.ioctx,
            self.name, [self.instance + 1]))
        self.assertRaises(rbd.ImageBusy, rbd.RBD().remove, self.ioctx,
                          self.name)
        found = omap.holder(self.ioctx, name_lock.OBJECT,
                            name_lock._lock(self.name))
        self.assertEqual(self.instance, found.instance)
        self.break_lock([self.instance])
        images.blocklist_watchers(self.site.client(), self.ioctx, self.name,
                                  [self.instance])
        rbd.RBD().remove(self.ioctx, self.name)
        # Once more does no harm.
        self.break_lock([self.instance])
        omap.break_lock(self.ioctx, name_lock.OBJECT,
                        name_lock._lock(self.name),
                        found)


class RetiredTest(base.CephTestCase):
    """What was in flight when a site went away is not written later."""

    def setUp(self):
        super().setUp()
        conf = str(self.cluster('central').conf)
        self.site = connection.Connection(clients.ClusterConfig(
            'central', 'images', conf, 'glance'))
        self.name = self.image_name()

    def retire(self):
        """Open the pool with a client that is given up then."""
        pool = self.site.open_pool('images')
        ioctx = pool.__enter__()
        self.addCleanup(pool.__exit__, None, None, None)
        self.site._states.get().retire(self.site.client())
        return ioctx

    def assertBlocklisted(self, ioctx):
        with self.site.open_pool('images') as new:
            new.write_full(self.name, b'new')
            error = self.assertRaises(rados.Error, ioctx.write_full,
                                      self.name, b'old')
            self.assertEqual(errno.ESHUTDOWN, error.errno)
            self.assertEqual(b'new', new.read(self.name))
            new.remove_object(self.name)

    def test_with_the_next_client(self):
        old = self.retire()
        self.site.blocklist_retired_clients()
        self.assertBlocklisted(old)

    def test_where_there_is_a_new_one_already(self):
        old = self.retire()
        self.site.client()
        self.site.blocklist_retired_clients()
        self.assertBlocklisted(old)

    def test_others_are_not(self):
        old = self.retire()
        with self.site.open_pool('images') as new:
            old.write_full(self.name, b'old')
            new.remove_object(self.name)
