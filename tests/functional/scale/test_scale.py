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


"""What a process holds does not grow with the number of its stores.

Sixty stores against three, and stock beside them: pools of one real cluster,
see ``lab/shared.py``. ``bench scale`` measures the same with more.
"""

import os
import pathlib
import time

import fixtures

from bench import meters
from bench import scale
from lab import deployment
from lab import process
from tests.functional.api import base
from tests.functional.api import databases
from tests.functional import base as functional

_MANY, _FEW = 60, 3
_MIB = 1 << 20
# Seconds after which a client that is not used is closed; 60 by default.
_IDLE = 5
# Glance's own, by which stock is not measured.
_QUOTA = 10
# How much longer what takes time may take, as for lab.process.wait_for().
_PATIENCE = float(os.environ.get('GLANCE_DCN_LAB_PATIENCE') or 1)


class ScaleTest(functional.CephTestCase):
    """Sixty stores, three, and sixty of stock's; each in one process.

    That of sixty may open 540 files.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.make_folder()
        cls.deployment = deployment.Deployment(folder / 'lab')
        # Keystone is that of the lab, each Glance has a database of its own.
        cls.deployment.create(
            deployment.site_names(_MANY), shared=0,
            services={'lab': str(functional.lab_state()), 'database': ''})
        cls.addClassCleanup(cls.deployment.stop_clusters)
        cls.deployment.start_clusters()
        cls.cpu = {}
        # A client of each site would need more files.
        cls.many = cls.start('many', 'ours', _MANY, prefix=(
            'prlimit', '--nofile=%d' % (9 * _MANY)))
        cls.few = cls.start('few', 'ours', _FEW)

    @classmethod
    def start(cls, name, side, stores, **kwargs):
        """Start a Glance until the class is through."""
        subject = scale.Subject(
            cls.deployment, side, stores,
            {'DEFAULT': {'image_location_quota': _QUOTA}}
            if side == 'stock' else
            {'DEFAULT': {'image_location_quota': _QUOTA},
             'glance_dcn': {'dcn_client_idle_timeout': _IDLE}},
            database=cls.new_database(), name=name, **kwargs)
        cls.addClassCleanup(subject.worker.stop)
        subject.start()
        cls.cpu[name] = meters.holdings(subject.pids()).cpu
        return subject

    @classmethod
    def new_database(cls):
        """Make an empty database, and return its URL."""
        folder = pathlib.Path(cls.use_for_class(fixtures.TempDir()).path)
        return cls.use_for_class(databases.Database(base.lab(), folder)).url

    def assertHoldsLittleMore(self, threads, files, mebibytes):
        """The process of many stores holds no more than that of few.

        :param threads: how many more are allowed, and so for the others
        """
        def beyond():
            many, few = (meters.holdings(subject.pids())
                         for subject in (self.many, self.few))
            self.beyond = (many.threads - few.threads,
                           many.files - few.files,
                           (many.memory - few.memory) // _MIB)
            return all(more <= most for more, most in zip(
                self.beyond, (threads, files, mebibytes)))
        try:
            process.wait_for('as little to be held', beyond, 3 * _IDLE)
        except process.LabError:
            self.fail('threads, files, MiB: %s more than with %d stores'
                      % (self.beyond, _FEW))

    def test_1_start_and_idle(self):
        # Not by the clock, which other processes share; what a second of the
        # processor does differs with them, too.
        self.assertLess(self.cpu['many'], 2 * self.cpu['few'])
        try:
            process.wait_for('it to idle', self.idles, 60, interval=0)
        except process.LabError:
            self.fail('(operations, share of a processor) in 5 s: %s'
                      % (self.idle,))
        # Each of them leads its host, for it has no other process.
        self.assertHoldsLittleMore(40, 60, 60)

    def idles(self):
        """Return whether the process of many stores did nothing for 5 s."""
        began, asked = time.monotonic(), self.many.operations()
        before = meters.holdings(self.many.pids()).cpu
        time.sleep(5)
        spent = meters.holdings(self.many.pids()).cpu - before
        self.idle = (self.many.operations() - asked,
                     spent / (time.monotonic() - began))
        return self.idle[0] == 0 and self.idle[1] <= .01

    def test_2_copy_to_all_and_delete(self):
        data = base.random_data(2 * _MIB)
        # What the first copy loads stays.
        self.few.copy(self.few.upload(data))
        before = meters.holdings(self.many.pids())
        image_id = self.many.upload(data)
        with scale.Sampler(self.many.pids) as sampler:
            there = self.many.copy(image_id)
        self.assertEqual(set(self.many.sites[1:]), there,
                         self.many.message(image_id))
        self.assertLess(sampler.peak.threads, 500)
        self.assertLess(sampler.peak.memory - before.memory, 700 * _MIB)
        self.assertHoldsLittleMore(40, 60, 60)
        began = time.monotonic()
        answer = self.many.request('DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(204, answer.status_code, answer.text)
        self.assertLess(time.monotonic() - began, 3 * _PATIENCE)
        process.wait_for('nothing to be left', lambda: not self.many.left(
            image_id), 60, interval=1)

    def test_3_lists_cost_what_they_cost_stock(self):
        stock = self.start('stock', 'stock', _MANY)
        least = {}
        for subject in (stock, self.many):
            subject.record_images(100)
            # The first one fills caches.
            subject.list_seconds()
        # The least of each tells what it costs. Not how much more, which the
        # bench measures: the kernel counts in hundredths of a second, and what
        # shares the machine's caches differs from list to list.
        for attempt in range(20):
            for subject in (stock, self.many):
                before = meters.holdings(subject.pids()).cpu
                for _ in range(2):
                    subject.list_seconds()
                spent = meters.holdings(subject.pids()).cpu - before
                least[subject] = min(spent, least.get(subject, spent))
            if attempt >= 3 and least[self.many] <= 1.1 * least[stock]:
                break
        self.assertLessEqual(least[self.many], 1.3 * least[stock])
        # None of the sites is asked.
        asked = self.many.operations()
        self.many.list_seconds()
        self.assertEqual(asked, self.many.operations())
