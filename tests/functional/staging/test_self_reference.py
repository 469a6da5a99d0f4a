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

"""Workers whose worker_self_reference_url is wrong, and the list of them."""

import contextlib
import os
import signal
import socket

from lab import process
from tests.functional.api import base
from tests.functional.staging import workers
from tests import releases

OPTION = 'worker_self_reference_url'


@releases.under_wsgi
class SelfReferenceTest(workers.WorkersTestCase):
    """Three workers behind a load balancer; the third is ill-treated."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.workers = workers.Workers()
        cls.workers.setUp()
        cls.addClassCleanup(cls.workers.cleanUp)

    def setUp(self):
        super().setUp()
        self.use_workers(self.workers)

    def wait_for(self, number, state, *words):
        """Wait until a worker has found out; return what the list shows."""
        def found():
            entry = self.workers.entry(number)
            text = '\n'.join(entry['faults']) if entry else ''
            return (entry and entry['reference'] == state
                    and all(word in text for word in words) and entry)
        try:
            return process.wait_for('worker %d to be %s' % (number, state),
                                    found, 90, interval=1)
        except process.LabError:
            self.fail('%s, and not %s, %s' % (self.workers.entry(number),
                                              state, words))

    def assertFound(self, url, *words, state='wrong'):
        """A worker with that URL says what is wrong, and serves."""
        self.workers.configure(2, DEFAULT={OPTION: url})
        entry = self.wait_for(2, state, OPTION, *words)
        # In the log, once.
        for fault in entry['faults']:
            self.assertEqual(1, self.workers.log(2).count(fault))
        self.assertEqual(('up', url or None), (entry['state'], entry['url']))
        if state == 'wrong':
            # Other tests may have workers that are not well.
            self.assertEqual(1, self.workers.listed()[1])
        api = self.workers.apis[2]
        data = base.random_data(1 << 16)
        self.assertSame(data, api.download(
            self.uploaded(api, data, self.workers.site)))

    def test_right(self):
        self.workers.configure(2)
        for number in range(3):
            entry = self.wait_for(number, 'right')
            self.assertEqual(
                ('up', [], self.workers.workers[number].url,
                 socket.gethostname(), None),
                (entry['state'], entry['faults'], entry['url'],
                 entry['host'], entry['taken_by']))
            self.assertIn('leads to this worker', self.workers.log(number))

    def test_missing(self):
        self.assertFound('', 'is not set')

    def test_not_absolute(self):
        self.assertFound('worker-2:9292', 'is not absolute')

    def test_load_balancer(self):
        self.assertFound(self.workers.public.url,
                         'other workers as well as this one')

    def test_another_worker(self):
        self.assertFound(
            self.workers.apis[0].url, 'also that of worker',
            self.workers.entry(0)['identity'],
            'answered by another than this worker')

    def test_nobody(self):
        with contextlib.closing(socket.socket()) as sock:
            sock.bind(('127.0.0.1', 0))
            self.assertFound('http://127.0.0.1:%d' % sock.getsockname()[1],
                             'nobody listens')

    def test_not_glance(self):
        self.assertFound(base.lab().keystone.url, 'could not be proved',
                         state='unproved')

    def test_several_processes(self):
        # Any process of the worker answers for it.
        own = base.OwnGlance({self.workers.site: (
            'dcn', self.workers.store('central'))}, default=self.workers.site,
            processes=3, database=self.workers.database_url)
        self.use_own(self.useFixture(own))
        process.wait_for('verdict', lambda: 'leads to this worker' in own.log,
                         60)
        staging = str(own.worker.staging)
        entry = self.workers.listed()[0][staging]
        self.assertEqual(('right', []), (entry['reference'],
                                         entry['faults']))
        # One of them speaks for all; another one goes on.
        before = entry['beat'], entry['instance_id']
        for pid in own.worker.service.worker_pids():
            os.kill(pid, signal.SIGKILL)

        def goes_on():
            now = self.workers.listed()[0][staging]
            return now['instance_id'] != before[1]
        process.wait_for('another process to speak', goes_on, 60, interval=1)
        self.assertEqual(entry['identity'], self.workers.listed()[0][
            staging]['identity'])
