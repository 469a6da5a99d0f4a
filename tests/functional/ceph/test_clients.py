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

"""Sixty stores in one process: what it holds of their clusters, and when.

All have the same real cluster, each as a site of its own.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import uuid

from glance_dcn.runtime import limits
from tests.functional import base

_STORES = 60

_USE = '''
import concurrent.futures, json, os, sys, threading, time
from glance_dcn.ceph import client as clients
from glance_dcn.ceph import client_cache
from glance_dcn.ceph import connection
from glance_dcn.runtime import limits
from glance_dcn.runtime import process
from glance_dcn.sites import site
import rbd

conf, idle, most, threads, group, count, pause = json.loads(sys.argv[1])
if group:
    with open(group, 'w') as f:
        f.write(str(os.getpid()))

def held():
    return [len(os.listdir('/proc/self/task')),
            len(os.listdir('/proc/self/fd')) - 1,
            len(process.get(client_cache.Caches).current())]

def use(one):
    with one.open_pool() as ioctx:
        rbd.RBD().list(ioctx)
        with lock:
            peak[:] = map(max, peak, held())
        time.sleep(pause)

lock, peak = threading.Lock(), [0, 0, 0]
process.get(client_cache.Caches).settings.idle_timeout = idle
process.get(limits.ProcessLimits).configure(most)
process.get(limits.ProcessLimits).max_clients = most
begin = held()
sites = [site.Site(clients.ClusterConfig(
    's%d' % number, 'images', conf, 'glance', connect_timeout=120), 22)
    for number in range(count)]
made = held()
with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    list(pool.map(use, sites))
'''
_IDLE = '''
with sites[7].open_pool() as ioctx:
    deadline = time.monotonic() + 120
    while held()[2] > 1 and time.monotonic() < deadline:
        time.sleep(.05)
    left = held()
    # The one that is in use still serves.
    rbd.RBD().list(ioctx)
deadline = time.monotonic() + 120
# Threads of the scheduler end a little later than the clients.
while ((held()[2] or held()[0] > begin[0] + 12)
       and time.monotonic() < deadline):
    time.sleep(.05)
'''
_TELL = '''
print(json.dumps({'begin': begin, 'made': made, 'peak': peak,
                  'left': left, 'end': held()}))
os._exit(0)
'''


class TestManyStores(base.CephTestCase):

    def run_child(self, *parts, idle=60, most=32, threads=1, files=None,
                  group=None, count=60, pause=0):
        """Use all stores in a process of its own; return what it held.

        :param count: number of stores
        :param pause: seconds that each use lasts
        """
        arguments = json.dumps([str(self.cluster('central').conf), idle, most,
                                threads, group and str(group), count,
                                pause])
        command = [sys.executable, '-c', ''.join((_USE, *parts, _TELL)),
                   arguments]
        if files:
            command = ['prlimit', '--nofile=%d' % files, '--', *command]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False,
            cwd=pathlib.Path(__file__).parents[3])
        self.assertEqual(0, done.returncode, done.stderr[-4000:])
        return json.loads(done.stdout)

    def test_used_and_idle(self):
        # One that was in use a moment ago is not closed: each is for longer.
        found = self.run_child(_IDLE, idle=3, most=8, threads=2, count=24,
                               pause=.4)
        # A store that is not used costs nothing.
        self.assertEqual(found['begin'], found['made'])
        # Two are in use at a time, and two were a moment ago.
        self.assertLessEqual(found['peak'][2], 8 + 4)
        self.assertGreaterEqual(found['peak'][2], 8)
        self.assertEqual(1, found['left'][2])
        self.assertEqual(0, found['end'][2])
        # The scheduler and the threads of its pool, for a while.
        self.assertLessEqual(found['end'][0] - found['begin'][0], 12)
        self.assertLessEqual(found['end'][1] - found['begin'][1], 8)

    def test_few_files(self):
        # librados ends a process that gets none while it connects.
        found = self.run_child('left = None', files=120, threads=8)
        # Eight are in use at a time, and some were a moment ago.
        self.assertLessEqual(found['peak'][2], 8 + 4)

    def test_few_threads(self):
        with self.control_group(100) as group:
            found = self.run_child('left = None', group=group, threads=8)
        self.assertLess(found['peak'][0], 100)
        # Eight are in use at a time, and some were a moment ago.
        self.assertLessEqual(found['peak'][2], 8 + 4)

    @contextlib.contextmanager
    def control_group(self, threads):
        """Make a control group that allows so many threads."""
        mine = next(limits.ProcessLimits()._groups('pids'), None)
        if mine is None or not os.access(mine, os.W_OK):
            self.skipTest('no control group can be made here')
        group = mine / ('glance-dcn-%s' % uuid.uuid4())
        group.mkdir()
        try:
            if not (group / 'pids.max').exists():
                self.skipTest('the controller "pids" is not delegated')
            (group / 'pids.max').write_text(str(threads))
            yield group / 'cgroup.procs'
        finally:
            group.rmdir()
