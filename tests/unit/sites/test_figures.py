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


"""What is counted at a site, and why something failed."""

import errno
import os
import threading

from oslotest import base
import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import name_lock
from glance_dcn.engine import errors as engine_errors
from glance_dcn.sites import existing
from glance_dcn.sites import figures
from glance_dcn.sites import limits
from glance_dcn.sites import sources
from tests import runtimes

R = figures.Reason


class TestReasons(base.BaseTestCase):

    def test_each(self):
        found = existing.ExistingImage('image')
        for reason, exc in (
                (R.AWAY, errors.Unreachable('s', 'r', 'd')),
                (R.AWAY, engine_errors.Stalled('e', 'write', 60)),
                (R.AWAY, engine_errors.Lost('e', 'r')),
                (R.AWAY, OSError(errno.ETIMEDOUT, 'it takes long')),
                (R.BLOCKLISTED, engine_errors.RequestError(
                    'e', 'write', errno.ESHUTDOWN)),
                (R.BUSY, existing.BeingWritten(found)),
                (R.BUSY, name_lock.NameLockError('image', 'it is held')),
                (R.BUSY, rbd.ImageBusy('in use', errno=errno.EBUSY)),
                (R.CANCELLED, engine_errors.Cancelled('ended')),
                (R.CANCELLED, SystemExit(1)),
                (R.DENIED, errors.ReadOnly('s')),
                (R.DENIED, errors.Refused('s', 'r', 'd')),
                (R.DENIED, engine_errors.RequestError(
                    'e', 'write', errno.EPERM)),
                (R.EXHAUSTED, errors.Exhausted('s', 'r', 'd')),
                (R.FULL, engine_errors.RequestError(
                    'e', 'write', errno.EDQUOT)),
                (R.MISCONFIGURED, errors.NotDeployed('s', 'r', 'd')),
                (R.MISCONFIGURED, errors.WrongCluster('s', 'r', 'd')),
                (R.MISCONFIGURED, errors.Retired('s')),
                (R.MISMATCH, existing.Different(found)),
                (R.MISMATCH, engine_errors.DigestMismatch('e', 'a', 'b')),
                (R.MISSING, sources.Removed('e')),
                (R.MISSING, existing.Gone(found)),
                (R.MISSING, rbd.ImageNotFound('no image',
                                              errno=errno.ENOENT)),
                (R.OTHER, ValueError('what is it')),
                (R.OTHER, OSError('EPERM', 'it tells no number')),
                (R.OTHER, None)):
            self.assertEqual((reason, exc), (figures.reason_of(exc), exc))

    def test_by_the_cause(self):
        try:
            try:
                raise errors.Unreachable('s', 'r', 'd')
            except errors.Unreachable as exc:
                raise RuntimeError('as glance_store says it') from exc
        except RuntimeError as exc:
            self.assertEqual(R.AWAY, figures.reason_of(exc))

    def test_causes_that_never_end(self):
        first, second = ValueError('first'), ValueError('second')
        first.__cause__, second.__cause__ = second, first
        self.assertEqual(R.OTHER, figures.reason_of(first))


class TestMeter(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(runtimes.Runtime())
        self.meter = limits.get('dcn0').meter

    def test_no_count_is_lost(self):
        def work():
            for _ in range(5000):
                self.meter.moved(read=1, written=2)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual({'read': 40000, 'written': 80000},
                         self.meter.counts())

    def test_never_waits(self):
        own = self.meter._processes.get()
        with own.lock:
            # As if the garbage collector ended a transfer meanwhile.
            for _ in range(3000):
                self.meter.count('transfers')
        self.meter.count('transfers')
        self.assertEqual(0, len(own.added))
        self.assertEqual({'transfers': 3001}, self.meter.counts())

    def test_a_fork_begins_at_zero(self):
        self.meter.retry(figures.Operation.TASK)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            self.meter.error(None)
            os.write(writing, repr(self.meter.counts()).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(writing)
        with open(reading) as f:
            self.assertEqual("{'errors/other': 1}", f.read())
        self.assertEqual({'retries/task': 1}, self.meter.counts())

    def test_of_all_sites(self):
        scheduler = limits.process.get(limits.TransferScheduler)
        site = limits.get('dcn0')
        site.set(1, 0)
        waited = threading.Event()

        def wait():
            with limits.slots([site, limits.get('dcn1')],
                              lambda names: waited.set(), 0):
                pass
        thread = threading.Thread(target=wait)
        with limits.slots([site]):
            thread.start()
            self.assertTrue(waited.wait(60))
            # The other one has room.
            self.assertEqual([
                figures.Figures('dcn0', {'transfers': 1}, 1, 1),
                figures.Figures('dcn1', {})], scheduler.measure())
        thread.join()
        self.assertEqual([
            figures.Figures('dcn0', {'transfers': 2}),
            figures.Figures('dcn1', {'transfers': 1})], scheduler.measure())

    def test_a_sum(self):
        self.assertEqual(
            figures.Figures('a', {'read': 3, 'x': 1}, 3, 5),
            figures.Figures('a', {'read': 1}, 1, 2)
            + figures.Figures('a', {'read': 2, 'x': 1}, 2, 3))
