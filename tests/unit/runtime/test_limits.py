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

"""What the system lets a process have, and what follows from it."""

import os
import pathlib
import resource
import subprocess
import sys
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.runtime import limits

_MIB = 1 << 20
_V2 = '30 23 0:26 / {root} rw shared:4 - cgroup2 cgroup2 rw\n'
_V1 = ('31 23 0:27 {inside} {root}/pids rw - cgroup cgroup rw,pids\n'
       '32 23 0:28 / {root}/memory rw - cgroup cgroup rw,memory\n')


class LimitsCase(base.BaseTestCase):
    """Has a folder that looks like procfs, and control groups."""

    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.proc = self.root / 'proc'
        self.groups = self.root / 'cgroup'
        self.write('proc/meminfo', 'MemTotal: 8388608 kB\n'
                                   'MemFree: 10 kB\n'
                                   'MemAvailable: 4194304 kB\n')
        for number in range(20):
            self.write('proc/self/fd/%d' % number, '')
        self.files = self.hard = 1024
        self.processes = resource.RLIM_INFINITY
        self.raised = []
        for name, function in (('getrlimit', self.getrlimit),
                               ('setrlimit', self.setrlimit)):
            patch = mock.patch.object(limits.resource, name, function)
            patch.start()
            self.addCleanup(patch.stop)
        self.limits = limits.ProcessLimits(str(self.proc))

    def getrlimit(self, kind):
        if kind == resource.RLIMIT_NOFILE:
            return self.files, self.hard
        return self.processes, self.processes

    def setrlimit(self, kind, values):
        self.assertEqual(resource.RLIMIT_NOFILE, kind)
        self.raised.append(values)
        self.files = values[0]

    def write(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))

    def use_version_2(self):
        self.write('proc/self/mountinfo', _V2.format(root=self.groups))
        self.write('proc/self/cgroup', '0::/pod/glance\n')

    def use_version_1(self, inside='/', path='/pod/glance'):
        self.write('proc/self/mountinfo', _V1.format(root=self.groups,
                                                     inside=inside))
        self.write('proc/self/cgroup',
                   '5:pids:%s\n4:memory:/pod/glance\n0::/\n' % path)


class TestThreads(LimitsCase):

    def test_none(self):
        self.use_version_2()
        self.write('cgroup/pod/glance/pids.max', 'max\n')
        self.write('cgroup/pod/glance/pids.current', '70\n')
        self.assertIsNone(self.limits.limit().threads)
        self.assertIsNone(self.limits.left().threads)

    def test_without_control_groups(self):
        self.assertIsNone(self.limits.limit().threads)

    def test_version_2(self):
        self.use_version_2()
        self.write('cgroup/pod/glance/pids.max', 300)
        self.write('cgroup/pod/glance/pids.current', 100)
        self.assertEqual(300, self.limits.limit().threads)
        self.assertEqual(200, self.limits.left().threads)

    def test_what_counts_may_be_a_group_above(self):
        self.use_version_2()
        self.write('cgroup/pod/glance/pids.max', 300)
        self.write('cgroup/pod/glance/pids.current', 100)
        self.write('cgroup/pod/pids.max', 500)
        self.write('cgroup/pod/pids.current', 450)
        self.assertEqual(300, self.limits.limit().threads)
        self.assertEqual(50, self.limits.left().threads)

    def test_version_1(self):
        self.use_version_1()
        self.write('cgroup/pids/pod/glance/pids.max', 300)
        self.write('cgroup/pids/pod/glance/pids.current', 100)
        self.assertEqual(200, self.limits.left().threads)

    def test_version_1_in_a_container(self):
        # The group itself is what is mounted.
        self.use_version_1('/docker/1234', '/docker/1234')
        self.write('cgroup/pids/pids.max', 300)
        self.write('cgroup/pids/pids.current', 100)
        self.assertEqual(200, self.limits.left().threads)

    def test_mount_of_another_namespace(self):
        self.use_version_1('/docker/1234', '/')
        self.write('cgroup/pids/pids.max', 300)
        self.write('cgroup/pids/pids.current', 100)
        self.assertEqual(200, self.limits.left().threads)

    def test_limit_of_the_user(self):
        self.processes = 400
        for process, count in (('1', 3), ('27', 4), ('30', 5)):
            for number in range(count):
                self.write('proc/%s/task/%d/comm' % (process, number), '')
        # Root's, where the tests are root.
        mine, owner = 12345, (self.proc / '1').stat().st_uid
        if owner:
            mine = owner
        else:
            for process in ('27', '30'):
                os.chown(self.proc / process, mine, -1)
        count = 12 if owner else 9
        for user, left in ((mine, 400 - count), (mine + 1, 400), (0, None)):
            patch = mock.patch.object(limits.os, 'getuid', lambda u=user: u)
            with patch:
                self.assertEqual(left, self.limits.left().threads)


class TestFilesAndMemory(LimitsCase):

    def test_files(self):
        self.assertEqual(1024, self.limits.limit().files)
        self.assertEqual(1004, self.limits.left().files)
        self.files = resource.RLIM_INFINITY
        self.assertIsNone(self.limits.left().files)

    def test_memory_of_the_machine(self):
        self.assertEqual(8192 * _MIB, self.limits.limit().memory)
        self.assertEqual(4096 * _MIB, self.limits.left().memory)

    def test_memory_version_2(self):
        self.use_version_2()
        self.write('cgroup/pod/glance/memory.max', 1000 * _MIB)
        self.write('cgroup/pod/glance/memory.current', 900 * _MIB)
        # The page cache is given back.
        self.write('cgroup/pod/glance/memory.stat',
                   'anon 5\ninactive_file %d\n' % (300 * _MIB))
        self.assertEqual(1000 * _MIB, self.limits.limit().memory)
        self.assertEqual(400 * _MIB, self.limits.left().memory)

    def test_memory_version_1(self):
        self.use_version_1()
        folder = 'cgroup/memory/pod/glance/memory.'
        self.write(folder + 'limit_in_bytes', 1000 * _MIB)
        self.write(folder + 'usage_in_bytes', 900 * _MIB)
        self.write(folder + 'stat', 'inactive_file 1\n'
                   'total_inactive_file %d\n' % (300 * _MIB))
        self.write('cgroup/memory/memory.limit_in_bytes',
                   9223372036854771712)
        self.assertEqual(1000 * _MIB, self.limits.limit().memory)
        self.assertEqual(400 * _MIB, self.limits.left().memory)


class TestRoom(LimitsCase):

    def threads(self, left):
        self.use_version_2()
        self.write('cgroup/pod/glance/pids.max', 1000)
        self.write('cgroup/pod/glance/pids.current', 1000 - left)

    def test_of_files(self):
        used = 20 + limits.RESERVE.files
        self.files = used + 3 * limits.CLIENT.files
        self.assertEqual(3, self.limits.room_for_clients())
        self.files -= 1
        self.assertEqual(2, self.limits.room_for_clients())
        self.files = used - 10
        self.assertEqual(0, self.limits.room_for_clients())

    def test_of_threads(self):
        self.threads(limits.RESERVE.threads + 3 * limits.CLIENT.threads)
        self.assertEqual(3, self.limits.room_for_clients())
        self.assertEqual(2, self.limits.room_for_clients(1))

    def test_targets(self):
        self.files = 20000
        each = limits.CLIENT.threads + limits.TARGET.threads
        self.threads(limits.RESERVE.threads + 9 * each)
        # Of the source, and of the default store, are two others.
        self.assertEqual(7, self.limits.targets_at_once(20))
        self.assertEqual(5, self.limits.targets_at_once(5))
        # What those that run take is taken already.
        self.assertEqual(10, self.limits.targets_at_once(20, 3))
        self.assertEqual(5, self.limits.targets_at_once(5, 3))
        self.threads(0)
        self.assertEqual(1, self.limits.targets_at_once(20))
        # Idle clients are closed for them.
        self.limits.reclaimable = lambda: 9
        self.assertEqual(
            (9 * limits.CLIENT.threads - limits.RESERVE.threads) // each - 2,
            self.limits.targets_at_once(20))

    def test_targets_and_clients(self):
        self.files = 200000
        self.limits.max_clients = 12
        self.assertEqual(10, self.limits.targets_at_once(100))
        self.limits.max_clients = 1
        self.assertEqual(1, self.limits.targets_at_once(100))


class TestConfigure(LimitsCase):

    def test_enough(self):
        self.hard = 200000
        need = self.limits.need(32).files
        self.assertGreater(need, 128)
        self.files = need - 1
        self.assertEqual([], self.limits.configure(32))
        # Raised as far as is needed, and no further.
        self.assertEqual([(need, 200000)], self.raised)
        self.assertEqual(32, self.limits.max_clients)
        self.limits.configure(32)
        self.assertEqual(1, len(self.raised))

    def test_too_few_files(self):
        self.files, self.hard = 200, 400
        [found] = self.limits.configure(32, processes=4)
        self.assertEqual([(400, 400)], self.raised)
        need = self.limits.need(32).files
        for word in ('RLIMIT_NOFILE allows 400 open files', 'raise it to %d '
                     % need, 'LimitNOFILE', 'dcn_max_clients'):
            self.assertIn(word, str(found))
        self.assertEqual(found.clients, self.limits.max_clients)
        self.assertEqual(
            (400 - limits.PROCESS_NEED.files)
            // (limits.CLIENT.files + limits.TARGET.files), found.clients)

    def test_may_not_be_raised(self):
        self.files = self.hard = 400
        with mock.patch.object(limits.resource, 'setrlimit',
                               side_effect=ValueError('not allowed')):
            self.assertEqual(1, len(self.limits.configure(32)))

    def test_threads_are_shared(self):
        self.hard = 200000
        self.use_version_2()
        self.write('cgroup/pod/glance/pids.max', 2048)
        need = self.limits.need(32).threads
        self.assertLess(need, 2048)
        self.assertEqual([], self.limits.configure(32, processes=1))
        [found] = self.limits.configure(32, processes=8)
        self.assertEqual((2048, 8 * need), (found.found, found.wanted))
        self.assertIn('8 processes share', str(found))
        self.assertIn('pids_limit', str(found))
        self.assertLess(self.limits.max_clients, 32)
        self.assertGreater(self.limits.max_clients, 8)

    def test_hardly_any(self):
        self.hard = 200000
        self.use_version_2()
        self.write('cgroup/pod/glance/pids.max', 30)
        [found] = self.limits.configure(32)
        self.assertEqual(4, found.clients)

    def test_memory(self):
        self.hard = 200000
        self.use_version_2()
        self.write('cgroup/pod/glance/memory.max', 300 * _MIB)
        [found] = self.limits.configure(32)
        self.assertEqual(300, found.found)
        self.assertIn('300 MiB', str(found))
        self.assertEqual(-(-self.limits.need(32).memory // _MIB),
                         found.wanted)


class TestTurn(base.BaseTestCase):

    def test_ends_with_the_process_that_has_it(self):
        holder = subprocess.Popen(
            [sys.executable, '-c', 'import time\n'
             'from glance_dcn.runtime import limits\n'
             'turn = limits.take_turn()\nprint(bool(turn), flush=True)\n'
             'time.sleep(600)'], stdout=subprocess.PIPE, text=True)
        self.addCleanup(holder.stdout.close)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.assertEqual('True\n', holder.stdout.readline())
        self.assertIsNone(limits.take_turn())
        holder.kill()
        holder.wait()
        for _i in range(2):
            with limits.take_turn():
                self.assertIsNone(limits.take_turn())


class TestReal(base.BaseTestCase):
    """On this machine, whatever its limits are."""

    def test_is_read(self):
        found = limits.ProcessLimits()
        self.assertGreater(found.limit().memory, found.left().memory)
        files = found.left().files
        with open('/dev/null'):
            self.assertEqual(None if files is None else files - 1,
                             found.left().files)
        self.assertGreaterEqual(limits.ProcessLimits().targets_at_once(16), 1)
