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

"""What a job costs besides time: CPU, memory, network, storage."""

import dataclasses
import json
import os
import pathlib
import resource
import socket
import struct
import time

_TICK = os.sysconf('SC_CLK_TCK')
_PAGE = os.sysconf('SC_PAGE_SIZE')


class Usage:
    """CPU time of this process, or of the commands it has run.

    :param who: ``resource.RUSAGE_SELF`` or ``resource.RUSAGE_CHILDREN``
    """

    def __init__(self, who):
        self._who = who

    def start(self):
        """Begin to count."""
        self._before = self._seconds()

    def stop(self):
        """Return (CPU seconds, None): memory is not measured."""
        return self._seconds() - self._before, None

    def _seconds(self):
        usage = resource.getrusage(self._who)
        return usage.ru_utime + usage.ru_stime


class Worker:
    """CPU time and peak memory of a Glance worker.

    Commands that it runs, as qemu-img, count for CPU time and not for memory.

    :param pid: process id of the process that serves requests
    """

    def __init__(self, pid):
        self._proc = pathlib.Path('/proc/%d' % pid)
        self._idle = self._status('VmRSS')

    def start(self):
        """Begin to count; forget the peak of memory."""
        (self._proc / 'clear_refs').write_text('5')
        self._before = self._seconds()

    def stop(self):
        """Return (CPU seconds, peak of bytes above idle)."""
        return (self._seconds() - self._before,
                max(0, self._status('VmHWM') - self._idle))

    def _seconds(self):
        # proc(5): utime, stime, cutime and cstime are fields 14 to 17; the
        # name, field 2, may hold blanks.
        stat = (self._proc / 'stat').read_text().rpartition(')')[2].split()
        return sum(int(ticks) for ticks in stat[11:15]) / _TICK

    def _status(self, key):
        for line in (self._proc / 'status').read_text().splitlines():
            if line.startswith(key + ':'):
                return int(line.split()[1]) << 10
        raise KeyError(key)


@dataclasses.dataclass(frozen=True)
class Holdings:
    """What processes hold at a moment.

    :ivar threads: number of threads
    :ivar files: number of open file descriptors
    :ivar memory: bytes of resident memory
    :ivar cpu: seconds of CPU time since they started, with that of programs
        which have ended
    """

    threads: int
    files: int
    memory: int
    cpu: float

    def peak(self, other):
        """Return the larger of each."""
        return Holdings(*map(max, dataclasses.astuple(self),
                             dataclasses.astuple(other)))


def holdings(pids):
    """Return the :class:`Holdings` of processes, all together.

    :raises FileNotFoundError: if one has ended
    """
    threads = files = memory = ticks = 0
    for pid in pids:
        proc = pathlib.Path('/proc/%d' % pid)
        # proc(5): utime to cstime are fields 14 to 17, num_threads is 20, rss
        # is 24; the name, field 2, may hold blanks.
        stat = (proc / 'stat').read_text().rpartition(')')[2].split()
        ticks += sum(map(int, stat[11:15]))
        threads += int(stat[17])
        memory += int(stat[21]) * _PAGE
        files += len(list((proc / 'fd').iterdir()))
    return Holdings(threads, files, memory, ticks / _TICK)


class Storage:
    """What clusters received, gave to read and allocated.

    :param targets: clusters that are written to
    :param clusters: all clusters that take part
    :param link: :class:`lab.wan.Link` in front of the one target, or None
    """

    def __init__(self, targets, clusters, link=None):
        self._targets = targets
        self._clusters = clusters
        self._link = link

    def start(self):
        """Begin to count, once the clusters have come to rest."""
        self._before = self._settled()

    def stop(self):
        """Return bytes (sent to the targets, read by clients, stored)."""
        return tuple(after - before for after, before
                     in zip(self._settled(), self._before))

    def _settled(self, timeout=15):
        """Wait until nothing more is stored or given back, and count."""
        deadline = time.monotonic() + timeout
        last = None
        while True:
            counts = self._count()
            if (last and last[2] == counts[2]) or time.monotonic() > deadline:
                return counts
            last = counts
            time.sleep(0.3)

    def _count(self):
        targets = [osd_counters(cluster) for cluster in self._targets]
        sent = (self._link.counters()[0] if self._link
                else sum(target['received'] for target in targets))
        return (sent,
                sum(osd_counters(cluster)['read']
                    for cluster in self._clusters),
                sum(target['allocated'] for target in targets))


def osd_counters(cluster):
    """Return what the OSD of a cluster counted since its start, in bytes.

    :returns: dict of ``received`` (by its messenger: data, headers and all),
              ``read`` (by clients, data alone: the messenger leaves out what
              a socket did not take at once), ``allocated`` (on its disk), and
              ``operations``, of clients, which is no number of bytes
    """
    dump = admin_command(cluster.directory / 'run' / 'osd.0.asok',
                         'perf dump')
    workers = [counters for name, counters in dump.items()
               if name.startswith('AsyncMessenger::Worker')]
    return {
        'received': sum(worker['msgr_recv_bytes'] for worker in workers),
        'read': dump['osd']['op_out_bytes'],
        'allocated': dump['bluestore']['bluestore_allocated'],
        'operations': dump['osd']['op'],
    }


def admin_command(path, command):
    """Ask a Ceph daemon over its admin socket.

    :param path: path of the socket
    :param command: such as ``perf dump``
    :returns: the answer, parsed
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        sock.sendall(json.dumps({'prefix': command}).encode() + b'\0')
        with sock.makefile('rb') as answer:
            length, = struct.unpack('>I', answer.read(4))
            return json.loads(answer.read(length))
