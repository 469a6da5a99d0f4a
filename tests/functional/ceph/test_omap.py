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

import pathlib
import subprocess
import sys

import fixtures

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import connection
from glance_dcn.ceph import omap
from lab import ceph
from tests.functional import base

# In a process of its own: what goes wrong ends it.
_FORGETFUL = '''
import os, sys, time
from glance_dcn.ceph import client as clients, connection, omap
site = connection.Connection(clients.ClusterConfig(
    'central', 'images', sys.argv[1], 'glance'))
for number in range(300):
    with site.open_pool('images') as ioctx:
        for _ in range(4):
            omap.remove_later(ioctx, sys.argv[2], 'key', lambda: None)
    del ioctx
# Until all are answered; not ended in order, for what would be waited for.
time.sleep(1)
os._exit(0)
'''


# The OSD is stopped, asked, and answers when nobody waits any more.
_IMPATIENT = '''
import os, signal, sys, time
from glance_dcn.ceph import client as clients, connection, omap
site = connection.Connection(clients.ClusterConfig(
    'central', 'images', sys.argv[1], 'glance'))
with site.open_pool('images') as ioctx:
    print(omap.exists(ioctx, sys.argv[2], 5))
    omap.put(ioctx, sys.argv[2], {'key': 'text'})
    print(omap.exists(ioctx, sys.argv[2], 5))
    omap.remove_object(ioctx, sys.argv[2])
os.kill(int(sys.argv[3]), signal.SIGSTOP)
# Its threads stop one by one.
time.sleep(0.5)
try:
    with site.open_pool('images') as ioctx:
        for _ in range(20):
            try:
                omap.exists(ioctx, sys.argv[2], 0.01)
            except omap.Error as exc:
                print(exc.errno)
    del ioctx
finally:
    os.kill(int(sys.argv[3]), signal.SIGCONT)
time.sleep(2)
print('well', flush=True)
os._exit(0)
'''


class HungTest(base.CephTestCase):

    def test_answers_that_come_too_late(self):
        folder = self.useFixture(fixtures.TempDir()).path
        cluster = ceph.Cluster('hung', pathlib.Path(folder, 'ceph'),
                               pathlib.Path(folder, 'etc'))
        self.addCleanup(cluster.stop)
        cluster.start()
        done = subprocess.run(
            [sys.executable, '-c', _IMPATIENT, str(cluster.conf), 'object',
             str(cluster.osd.pid)],
            capture_output=True, text=True, timeout=60)
        self.assertEqual(
            (0, ['False', 'True', *['110'] * 20, 'well']),
            (done.returncode, done.stdout.split()), done.stderr[-500:])


class OmapTest(base.CephTestCase):

    def test_operations_outlive_who_began_them(self):
        done = subprocess.run(
            [sys.executable, '-c', _FORGETFUL,
             str(self.cluster('central').conf), self.image_name()],
            capture_output=True, text=True, timeout=60)
        self.assertEqual((0, ''), (done.returncode, done.stderr[-500:]))

    def test_records(self):
        name = self.image_name()
        site = connection.Connection(clients.ClusterConfig(
            'central', 'images', str(self.cluster('central').conf), 'glance'))
        with site.open_pool('images') as ioctx:
            self.assertIsNone(omap.get(ioctx, name, 'a'))
            omap.put(ioctx, name, {'a': '1', 'b': ''})
            self.assertEqual([('a', '1'), ('b', '')],
                             list(omap.walk(ioctx, name)))
            self.assertFalse(omap.remove(ioctx, name, 'a', '2'))
            self.assertTrue(omap.remove(ioctx, name, 'a', '1'))
            omap.remove_object(ioctx, name)
            self.assertEqual([], list(omap.walk(ioctx, name)))
